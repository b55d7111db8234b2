"""What an official participant is asked to do: which directory it loads, and what its worker has to be told of it.

The directory has the files of the last of those that are compared that speaks the software's dialect: of a conversion
that is the result. Where none does, the last is converted. Imports no framework.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from ...converters import Checkpoint, ConvertOptions, convert, open_checkpoint
from ...converters.errors import ConvertError
from ...converters.table.mapping import BASE, CLASSES, Dialect, Traits, unread
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
    dialect = software.dialect
    assert dialect is not None
    texts = _texts(cases, software, tokenizer)
    with open_checkpoint(directory) as checkpoint:
        kind = next(each for each in CLASSES.values() if each.class_name == model.class_name)
        unknown = unread(dialect, kind, Traits.of(checkpoint.config))
        if software.name == "junnyu" and kind is BASE:
            unknown = tuple(group for group in unknown if group.name != "pooler")
        names, expected, announced, transposed = {}, set(), set(), set()
        for canonical, binding in checkpoint.bindings.items():
            bare = kind is BASE and dialect in ("torch", "paddle")
            name = binding.tensor.name(dialect, base=bare)
            if name is None:
                continue
            names[name] = canonical
            # a head's kernel is used as Google's files have it; bert4keras has no layer for it
            layout: Dialect = "tf1" if dialect == "tf1" and canonical == "classifier.weight" else software.layout
            if binding.tensor.transposed(layout):
                transposed.add(name)
            if binding.tensor.group in unknown or (canonical.startswith("sop.") and dialect == "tf1"):
                announced |= {name, binding.stored.name}
            else:
                expected.add(canonical)
        rotary = {BASE: ROTARY.removeprefix("roformer.")}.get(kind, ROTARY) if dialect == "torch" else ""
        idle: frozenset[str] = frozenset()
        if dialect == "paddle" and "pooler.weight" not in checkpoint and model.task.head not in ("labels", "options"):
            # PaddleNLP's encoder has a pooler, whatever is built on it
            start = "" if kind is BASE else "roformer."
            idle = frozenset({f"{start}pooler.dense.weight", f"{start}pooler.dense.bias"})
        halves = {"float16", "bfloat16"} & set(checkpoint.dtypes())
        rounded = min(halves) if halves and rotary else ""
        length, width = checkpoint.config.max_position_embeddings, checkpoint.config.head_size
        called = {
            "hidden": [
                "embeddings",
                *(f"layers.{i}.feed_forward_norm" for i in range(checkpoint.config.num_hidden_layers)),
            ],
            "scores": _scored(model.task, checkpoint.config.num_hidden_layers),
            "pooled": "pooler" if "pooler.weight" in checkpoint and model.task.head is None else "",
        }
        job: Json = {"directory": str(directory.resolve()), "called": called, "texts": [list(each) for each in texts]}
        job |= {"v2": checkpoint.config.norm_type != "layer_norm", "pooler": "pooler.weight" in checkpoint}
        job |= {"words": tokenizer is not None and tokenizer.settings.words}
        job |= {"lower_case": tokenizer is None or tokenizer.settings.lower_case}
        if dialect == "tf1":
            job |= _built(checkpoint)
    official = Official(
        software=software,
        dump=Dump(one.label, software.name, directory, one.folder),
        versions=one.versions,
        names=names,
        expected=frozenset(expected),
        announced=frozenset(announced),
        idle=idle,
        transposed=frozenset(transposed),
        rotary=rotary,
        rounded=rounded,
        texts=texts,
    )
    job["transposed"] = sorted(transposed)
    if rotary:
        np.save(one.folder / "rotary.npy", embed_positions(length, width))
        job["tables"] = {rotary: str(one.folder / "rotary.npy")}
        job["exact"] = ["float64", *(["float32"] if rounded else [])]
    return official, job


def _scored(task: Task, layers: int) -> str:
    if task.mlm:
        return "logits"
    return "classifier" if task.head else f"layers.{layers - 1}.feed_forward_norm" if layers else "embeddings"


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
        "called": {
            "hidden": [],
            "scores": _scored(model.task, model.config.num_hidden_layers),
            "pooled": "pooler" if "pooled" in exported.outputs else "",
        },
    }
    nothing: frozenset[str] = frozenset()
    dump = Dump(one.label, one.wanted.software.name, exported.directory, one.folder)
    return Official(one.wanted.software, dump, one.versions, {}, nothing, nothing, nothing, nothing, "", "", ()), job
