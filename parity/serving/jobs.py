"""What an official participant is asked to do: which directory it loads, and what its worker has to be told of it.

The directory has the files of the last of those that are compared that speaks the software's dialect: of a conversion
that is the result. Where none does, the last is converted. Imports no framework.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from ...converters import Checkpoint, ConvertOptions, convert, open_checkpoint
from ...converters.errors import ConvertError
from ...converters.table.mapping import BASE, CLASSES, Dialect, ModelClass, Traits, unread
from ...converters.table.rotary import embed_positions
from ...models.export.exporting import export
from ...models.text.tokenizer import Tokenizer
from ..participants.dumps import Dump
from ..participants.participants import ComparedModel
from ..questions.cases import Case
from ..questions.tasks import Task
from .asking import Official, Started
from .software import Export, Software, read_export

Json = dict[str, Any]

#: Containers that their software unpickles.
_PICKLES = ("pdparams", "bin")

#: What transformers and JunnYu's package call the rotary table, which their files hold as a parameter.
ROTARY = "roformer.encoder.embed_positions.weight"


def directory_for(software: Software, directories: Sequence[Path], dialects: Sequence[Dialect], scratch: Path) -> Path:
    """Return a directory in a software's dialect: the last that there is, or the last of all, converted.

    Raises:
        ConvertError: The software would compute something else, or the conversion failed.
    """
    assert software.dialect is not None
    for directory, dialect in zip(reversed(directories), reversed(dialects), strict=True):
        if dialect == software.dialect:
            return _shown(directory, dialect, scratch)
    target = scratch / f"for-{software.dialect}"
    if not target.exists():
        convert(directories[-1], target, to=software.dialect, options=_options(directories[-1], software.dialect))
    return target


def _shown(directory: Path, dialect: Dialect, scratch: Path) -> Path:
    """Return a directory with the files that were read here and no other, and with no pickle that a stranger wrote.

    A loader runs what a pickle says, and chooses among files by rules of its own. So weights in a pickle are written
    anew; the configuration and the vocabulary are the directory's own, or a misreading of ours would never show.
    """
    target = Path(mkdtemp(prefix=f"own-{dialect}-", dir=scratch)) / directory.resolve().name
    with open_checkpoint(directory) as checkpoint:
        weights, own = checkpoint.found.weights, [checkpoint.found.config_file, *checkpoint.companions]
    assert weights is not None
    if weights.container.name in _PICKLES:
        convert(directory, target, to=dialect, options=ConvertOptions(allow_different=True))
    else:
        target.mkdir()
        for path in (*weights.parts, weights.shard_index):
            if path is not None:
                (target / path.name).symlink_to(path.resolve())
    for path in own:
        if path is not None:
            shutil.copyfile(path, target / path.name)
    return target


def _options(directory: Path, dialect: Dialect) -> ConvertOptions:
    with open_checkpoint(directory) as checkpoint:  # HDF5 has no bfloat16
        bfloat16 = dialect == "tf" and "bfloat16" in checkpoint.dtypes()
    return ConvertOptions(dtype="float32" if bfloat16 else None)


def job_for(
    one: Started,
    directories: Sequence[Path],
    dialects: Sequence[Dialect],
    model: ComparedModel,
    tokenizer: Tokenizer | None,
    cases: Sequence[Case],
    cases_file: Path,
    scratch: Path,
    half_types: Sequence[str] = (),
) -> tuple[Official, Json]:
    """Choose what a worker loads; return what is known of it, and the job to send.

    Args:
        one: The worker.
        directories: What is compared.
        dialects: Each one's.
        model: What they hold.
        tokenizer: Ours; None where there is no vocabulary.
        cases: What is run.
        cases_file: Their arrays.
        scratch: Where a conversion or an export goes.
        half_types: What it computes in too, where it can.

    Raises:
        ConvertError: The software would compute something else, an export is of something else, or writing failed.
    """
    software, exported = one.wanted.software, one.wanted.export
    if exported is None and software.dialect is None:
        target = scratch / software.name
        export(directories[-1], target, to=software.name, trial=False)
        exported = read_export(target)[0]
    if exported is not None:
        official, job = _job_of_an_export(one, exported, model, cases)
    else:
        directory = directory_for(software, directories, dialects, scratch)
        official, job = _job_of_a_directory(one, directory, model, tokenizer, cases)
    return official, job | {
        "class": model.class_name,
        "out": str(one.folder),
        "cases_file": str(cases_file),
        "cases": [{"name": case.name, "hidden": case.taps and exported is None} for case in cases],
        "half_types": list(half_types),
    }


def _job_of_a_directory(
    one: Started, directory: Path, model: ComparedModel, tokenizer: Tokenizer | None, cases: Sequence[Case]
) -> tuple[Official, Json]:
    software = one.wanted.software
    kind = next(each for each in CLASSES.values() if each.class_name == model.class_name)
    with open_checkpoint(directory) as checkpoint:
        names = _names(checkpoint, software, kind)
        unknown = names.keys() & _unknown(checkpoint, software, kind)
        pooler = "pooler.weight" in checkpoint
        halves = {"float16", "bfloat16"} & set(checkpoint.dtypes())
        rotary = {BASE: ROTARY.removeprefix("roformer.")}.get(kind, ROTARY) if software.dialect == "torch" else ""
        official = Official(
            software=software,
            dump=Dump(one.label, software.name, directory, one.folder),
            versions=one.versions,
            names={name: canonical for canonical, name in names.items()},
            expected=frozenset(names.keys() - unknown),
            announced=frozenset(
                name for each in unknown for name in (names[each], checkpoint.bindings[each].stored.name)
            ),
            idle=_idle(checkpoint, software, kind, model.task),
            transposed=_transposed(checkpoint, software, names),
            rotary=rotary,
            rounded=min(halves) if halves and rotary else "",
            texts=_texts(cases, software, tokenizer),
        )
        job = {
            "directory": str(directory.resolve()),
            "called": _called(model, hidden=True, pooled=pooler and model.task.head is None),
            "v2": checkpoint.config.norm_type != "layer_norm",
            "pooler": pooler,
            "texts": [list(each) for each in official.texts],
            "words": tokenizer is not None and tokenizer.settings.words,
            "lower_case": tokenizer is None or tokenizer.settings.lower_case,
            "transposed": sorted(official.transposed),
            **(_table(checkpoint, official) if rotary else {}),
            **(_built(checkpoint) if software.dialect == "tf1" else {}),
        }
    return official, job


def _names(checkpoint: Checkpoint, software: Software, kind: ModelClass) -> dict[str, str]:
    """Say what a software calls each parameter that it has a name for: canonical name → its own."""
    assert software.dialect is not None
    bare = kind is BASE and software.dialect in ("torch", "paddle")
    names = {each: found.tensor.name(software.dialect, base=bare) for each, found in checkpoint.bindings.items()}
    return {canonical: name for canonical, name in names.items() if name is not None}


def _unknown(checkpoint: Checkpoint, software: Software, kind: ModelClass) -> set[str]:
    """Return the canonical names of what a software's class has no place for."""
    dialect = software.dialect
    assert dialect is not None
    groups = unread(dialect, kind, Traits.of(checkpoint.config))
    if software.name == "junnyu" and kind is BASE:
        groups = tuple(group for group in groups if group.name != "pooler")
    return {
        canonical
        for canonical, binding in checkpoint.bindings.items()
        if binding.tensor.group in groups or (canonical.startswith("sop.") and dialect == "tf1")
    }


def _transposed(checkpoint: Checkpoint, software: Software, names: Mapping[str, str]) -> frozenset[str]:
    """Return the software's names of the parameters that it holds (in, out)."""
    # a head's kernel is used as Google's files have it; bert4keras has no layer for it
    layouts: dict[str, Dialect] = {"classifier.weight": "tf1"} if software.dialect == "tf1" else {}
    return frozenset(
        name
        for canonical, name in names.items()
        if checkpoint.bindings[canonical].tensor.transposed(layouts.get(canonical, software.layout))
    )


def _idle(checkpoint: Checkpoint, software: Software, kind: ModelClass, task: Task) -> frozenset[str]:
    """Name PaddleNLP's pooler, which its encoder has whatever is built on it, where nothing compared reads it."""
    if software.dialect != "paddle" or "pooler.weight" in checkpoint or task.head in ("labels", "options"):
        return frozenset()
    start = "" if kind is BASE else "roformer."
    return frozenset({f"{start}pooler.dense.weight", f"{start}pooler.dense.bias"})


def _called(model: ComparedModel, *, hidden: bool, pooled: bool) -> Json:
    """Say which of our taps a software's hidden states, scores and pooled vector are, where it gives them."""
    taps = ["embeddings", *(f"layers.{i}.feed_forward_norm" for i in range(model.config.num_hidden_layers))]
    scores = "logits" if model.task.mlm else "classifier" if model.task.head else taps[-1]
    return {"hidden": taps if hidden else [], "scores": scores, "pooled": "pooler" if pooled else ""}


def _table(checkpoint: Checkpoint, official: Official) -> Json:
    """Write the rotary table as it must be, for a software that holds it as a parameter, and say for which types."""
    path = official.dump.files / "rotary.npy"
    np.save(path, embed_positions(checkpoint.config.max_position_embeddings, checkpoint.config.head_size))
    exact = ["float64", *(["float32"] if official.rounded else [])]
    return {"tables": {official.rotary: str(path)}, "exact": exact}


def _texts(cases: Sequence[Case], software: Software, tokenizer: Tokenizer | None) -> tuple[tuple[str, ...], ...]:
    """Collect the sentences; without those that a tokenizer cannot read as they are meant."""
    if tokenizer is None:
        return ()
    special = [token.content for token in tokenizer.settings.added]
    every = dict.fromkeys(parts for case in cases for parts in case.parts)
    if software.finds_special_tokens:
        return tuple(every)
    return tuple(parts for parts in every if not any(token in part for part in parts for token in special))


def _built(checkpoint: Checkpoint) -> Json:
    """Say how bert4keras is told to build a model, and what of a fine-tuned head its hidden states go through."""
    config, kind = checkpoint.config, checkpoint.kind
    build: Json = {"model": "roformer" if config.norm_type == "layer_norm" else "roformer_v2"}
    if config.attention != "bidirectional":
        build["application"] = {"causal": "lm", "unilm": "unilm"}[config.attention]
    if kind.scores_words:
        build["with_mlm"] = "linear"
    pooler, head = "pooler.weight" in checkpoint, kind.name
    pooled = pooler and head != "sequence-classification"
    if pooled:
        build["with_pool"] = config.pooler_activation
    narrow = config.embedding_size != config.hidden_size
    through: Json = {}
    if head in ("sequence-classification", "question-answering"):
        dense = ["bert/pooler/dense/kernel", "bert/pooler/dense/bias"] if head == "sequence-classification" else []
        kernel, bias = (
            checkpoint.bindings[name].tensor.name("tf1") if name in checkpoint else ""
            for name in ("classifier.weight", "classifier.bias")
        )
        through = {"kernel": kernel, "bias": bias, "first": head == "sequence-classification"}
        through |= {"pooler": dense if pooler else [], "activation": config.pooler_activation}
        through |= {"variables": [kernel, *(dense if pooler else [])], "optional": [bias] if bias else []}
    return {
        "build": build,
        "pooled": pooled,
        "layers": config.num_hidden_layers,
        "first_layer": "Embedding-Mapping" if narrow else "Embedding-Norm",
        "head": through,
    }


def _job_of_an_export(
    one: Started, exported: Export, model: ComparedModel, cases: Sequence[Case]
) -> tuple[Official, Json]:
    class_name = model.class_name.replace("ForPretraining", "ForMaskedLM")
    if exported.class_name != class_name:
        raise ConvertError(
            f"{exported.directory} is an export of {exported.class_name}; {class_name} is compared",
            "Export the checkpoint that is compared: roformer-convert export.",
        )
    longest = max(case.input_ids.shape[-1] for case in cases)
    if longest > exported.longest:
        raise ConvertError(
            f"{exported.directory} takes at most {exported.longest:,} tokens; a batch has {longest:,}",
            "Export the checkpoint again, as long as its configuration allows.",
        )
    names = {"logits": "scores", "hidden": "scores", "pooled": "pooled"}
    job: Json = {
        "file": str(exported.file),
        "outputs": {name: names.get(name, name) for name in exported.outputs},
        "called": _called(model, hidden=False, pooled="pooled" in exported.outputs),
    }
    software = one.wanted.software
    return Official(software, Dump(one.label, software.name, exported.directory, one.folder), one.versions), job
