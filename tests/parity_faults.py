"""Runs of the gate's own dump in this process, with a mistake planted in one of three participants.

All three run in PyTorch, under the labels of the three frameworks: what is tested is the comparison, which knows files
and labels alone. The mistakes are planted in the model's own code, not in the numpy reference that has to find them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from family_models import MODELS
from random_checkpoints import SHAPES, Tensors, random_tensors, save

from roformer_convert.models.config import with_limit
from roformer_convert.parity.gate import Clock, compare
from roformer_convert.parity.options import GateOptions
from roformer_convert.parity.participants.dump import Dumper
from roformer_convert.parity.participants.dumps import Dump
from roformer_convert.parity.participants.participants import ComparedModel, look_at
from roformer_convert.parity.questions.case_file import write_cases
from roformer_convert.parity.questions.cases import Case, make_cases
from roformer_convert.parity.questions.targets import make_training
from roformer_convert.parity.questions.variants import NO_VARIANTS, make_variants
from roformer_convert.parity.result import Result

Plant = Callable[[ModuleType, Any], None]
LABELS = ("paddle", "torch", "tf")


class FaultyDumper(Dumper):
    """Plants a fault in every model that it loads."""

    def __init__(self, plant: Plant | None) -> None:
        super().__init__("torch")
        import torch

        torch.set_num_threads(1)  # a tiny model's threads wait longer than they compute
        self.plant = plant

    def load(self, module: ModuleType, dtype: str) -> Any:
        model = super().load(module, dtype)
        if self.plant is not None:
            self.plant(module, model)
        return model


class Bench:
    """One random checkpoint, its good dump, and comparisons of it with dumps that have a fault.

    Args:
        folder: Where it all lies.
        name: A shape of :mod:`random_checkpoints`, or a model of :mod:`family_models`.
        gradients: Whether a loss is taken.
        half_types: Which are computed in too.
        max_length: Tokens of the longest batch, past the model's limit too.
        invariances: Whether a batch is also laid out in every way that must change nothing.
        change: Changes the checkpoint's tensors before they are written.
        fields: Fields of the configuration that are otherwise than in the shape.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "everything",
        *,
        gradients: bool = False,
        invariances: bool = False,
        max_length: int | None = None,
        half_types: tuple[str, ...] = (),
        change: Callable[[Tensors], None] = lambda tensors: None,
        **fields: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.directory = folder / "ckpt"
        if name in MODELS:
            model = replace(MODELS[name], config=replace(MODELS[name].config, **fields))
            self.config, self.tensors = model.config, model.tensors()
            change(self.tensors)
            model.write(self.directory, tensors=self.tensors)
        else:
            config, groups = SHAPES[name]
            self.config = replace(config, **{"layer_norm_eps": 1e-6, **fields})  # another epsilon is seen beside it
            self.tensors = random_tensors(self.config, groups)
            change(self.tensors)
            save(self.directory, "torch", self.tensors, self.config)
        self.config = with_limit(self.config, max_length)
        self.max_length, self.half_types, self.device = max_length, half_types, "cpu"
        self.model: ComparedModel = replace(look_at([self.directory])[0], config=self.config)
        self.cases: list[Case] = make_cases(self.config, self.model.task, None)
        self.training = make_training(self.config, self.model.task) if gradients else None
        self.variants = make_variants(self.config, self.model.task) if invariances else NO_VARIANTS
        self.listed = write_cases(folder / "cases.npz", [*self.cases, *self.variants.cases], self.training)
        self.number = 0
        self.good = self.dump(None)

    def dump(self, plant: Plant | None, directory: Path | None = None) -> Dump:
        self.number += 1
        out = self.folder / f"run{self.number}"
        out.mkdir()
        dumper = FaultyDumper(plant)
        facts = dumper.answer(
            {
                "dump": {
                    "directory": str(directory or self.directory),
                    "class_name": self.model.class_name,
                    "out": str(out),
                    "cases_file": str(self.folder / "cases.npz"),
                    "cases": self.listed,
                    "dialect": None,
                    "extend_to": self.max_length,
                    "half_types": self.half_types,
                    "rows": [case.name for case in self.variants.cases],
                    "device": self.device,
                }
            }
        )
        dumper.answer({"parameters": {"names": list(facts["digests"]), "out": str(out / "parameters.npz")}})
        return Dump("", "torch", directory or self.directory, out, facts)

    def compare(self, plant: Plant | None, odd: str = "tf", labels: tuple[str, ...] = LABELS) -> Result:
        """Compare three participants, of which ``odd`` has the fault."""
        faulty = self.dump(plant)
        return self.judge({odd: faulty}, labels)

    def judge(self, faulty: dict[str, Dump], labels: tuple[str, ...] = LABELS) -> Result:
        dumps = [replace(faulty.get(label, self.good), label=label) for label in labels]
        return compare(
            [self.directory],
            self.directory,
            self.model,
            [],
            dumps,
            self.cases,
            None,
            GateOptions(half_types=self.half_types),
            Clock(),
            self.variants,
        )


def altered(bench: Bench, file: str, name: str, change: Callable[[Any], None]) -> Dump:
    """Copy the good dump with one of its arrays changed."""
    bench.number += 1
    out = bench.folder / f"run{bench.number}"
    shutil.copytree(bench.good.files, out)
    with np.load(out / f"{file}.npz") as held:
        arrays = dict(held)
    change(arrays[name])
    np.savez(out / f"{file}.npz", allow_pickle=False, **arrays)
    return replace(bench.good, files=out)
