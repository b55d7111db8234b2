"""What a conversion did, for the person and as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .source.foreign_files import ADAPTERS, kind_of
from .table.mapping import Dialect
from .target.plan import Plan


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did (or, in a dry run, would do).

    Attributes:
        source: What was read.
        target: The directory written.
        source_dialect: Whose names it uses.
        source_container: Name of its weight files' format.
        plan: Every tensor, its source and whether it was transposed.
        duplicates: Second copies in the source, checked to be equal and not counted.
        verified: Whether the result was read back and compared.
        written: False in a dry run.
        seconds: Wall time.
        left_behind: Files of the source directory that did not travel.
    """

    source: Path
    target: Path
    source_dialect: Dialect
    source_container: str
    plan: Plan
    duplicates: tuple[str, ...]
    verified: bool
    written: bool
    seconds: float
    left_behind: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that the reader of the result should know."""
        notes = list(self.plan.notes)
        if self.plan.beside is not None:
            notes += self.plan.beside.notes
        if self.left_behind:
            notes.append(f"not copied: {', '.join(self.left_behind)}")
        if "modules.json" in self.left_behind:  # Source: sentence_transformers, SentenceTransformer.save
            notes.append(
                "what modules.json names behind the model (pooling, a dense layer) stays behind: sentence-transformers "
                "makes other vectors with it than the model alone"
            )
        apart = [name for name in self.left_behind if kind_of(name) is ADAPTERS]
        if apart:
            notes.append(f"the weights are converted as they are, without the adapters in {', '.join(apart)}")
        return tuple(notes)

    def as_dict(self) -> dict[str, Any]:
        """Render the report as data for ``--json``."""
        stored = [step for step in self.plan.steps if step.new.alias_of is None and not step.computed]
        return {
            "source": {"path": str(self.source), "dialect": self.source_dialect, "container": self.source_container},
            "target": {
                "path": str(self.target),
                "dialect": self.plan.target,
                "container": self.plan.container.name,
                "files": [file.filename for file in self.plan.files],
            },
            "model_class": self.plan.kind.class_name,
            "differences": [asdict(each) for each in self.plan.differences],
            "tensors": len({step.binding.tensor.canonical for step in stored}),
            # a tensor that some dialect wants under two names is one tensor
            "transposed": len({step.binding.tensor.canonical for step in stored if step.transpose}),
            "cast": len({step.binding.tensor.canonical for step in stored if step.casts}),
            "computed": [step.new.name for step in self.plan.steps if step.computed],
            "bytes": self.plan.nbytes,
            "tied_in_source": list(self.duplicates),
            "companions": list(self.plan.travelling),
            "rewritten": list(self.plan.settings),
            "left_out": list(self.plan.left_out),
            "optimizer": None
            if self.plan.beside is None
            else {
                "file": self.plan.beside.filename,
                "what": self.plan.beside.summary,
                "bytes": self.plan.beside.nbytes,
            },
            "notes": list(self.notes),
            "written": self.written,
            "verified": self.verified,
            "seconds": round(self.seconds, 3),
            "plan": [
                {
                    "canonical": step.binding.tensor.canonical,
                    "source": None if step.computed else step.binding.stored.name,
                    "target": step.new.name,
                    "file": file.filename,
                    "shape": list(step.new.shape),
                    "dtype": step.new.dtype,
                    "transposed": step.transpose,
                    "alias_of": step.new.alias_of,
                    "bytes": 0 if step.new.alias_of is not None else step.new.nbytes,
                }
                for file in self.plan.files
                for step in file.steps
            ],
        }
