"""Exports: each runtime's logits against numpy's, any batch and length, and what is refused or left behind."""

from __future__ import annotations

import configparser
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import random_checkpoints as random_models
from click.testing import CliRunner
from family_models import MODELS
from model_runner import family_results
from numpy_roformer import Array, Forward
from random_checkpoints import Tensors

from roformer_convert.cmd_export import export_command
from roformer_convert.converters import ConvertError, ConvertOptions, MisfitError, convert
from roformer_convert.converters.table.mapping import CLASSES, MASKED_LM, Dialect
from roformer_convert.converters.target.output import EXPORT_MANIFEST
from roformer_convert.models.config import ModelError
from roformer_convert.models.export import exporting as module
from roformer_convert.models.export.exporting import FORMATS, Export, export
from roformer_convert.models.export.signature import INPUTS, input_axes
from roformer_convert.models.export.trial import Trial, compare, trial_batches
from roformer_convert.models.processes import frameworks
from roformer_convert.models.processes.frameworks import MissingPackageError, is_installed
from roformer_convert.models.processes.process import DeathError, Process

CONFIG = random_models.CONFIG
#: The exports are made for longer sequences than the checkpoint's own limit.
LIMIT = CONFIG.max_position_embeddings + 9
#: Of the largest logit: float32 through 3 layers, each product summing at most 61 terms.
TOLERANCE = 1e-5
#: Each from a dialect that its framework does not write.
SOURCES: dict[str, Dialect] = {"onnx": "paddle", "savedmodel": "torch", "paddle-inference": "tf1"}
PACKAGES = {"onnx": (*FORMATS["onnx"].packages, "onnxruntime")}

formats = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not all(map(is_installed, PACKAGES.get(name, one.packages))), reason=f"{name} needs packages"
        ),
    )
    for name, one in FORMATS.items()
]


# What it computes ----------------------------------------------------------------------------------------------------

#: Run in a fresh process each: opens an export's file and returns what runs a batch.
RUNTIMES = {
    "onnx": """
import onnxruntime
def open_export(directory, file, axes, outputs):
    session = onnxruntime.InferenceSession(str(directory / file), providers=["CPUExecutionProvider"])
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        (name, "tensor(int64)", axes) for name in names
    ]
    assert [(one.name, one.type) for one in session.get_outputs()] == [(name, "tensor(float)") for name in outputs]
    return lambda batch: session.run(outputs, dict(zip(names, batch)))
""",
    "savedmodel": """
import tensorflow as tf
def open_export(directory, file, axes, outputs):
    model = tf.saved_model.load(str(directory / file))
    def run(batch):
        found = model.signatures["serving_default"](**dict(zip(names, map(tf.constant, batch))))
        assert set(found) == set(outputs)
        return [found[name].numpy() for name in outputs]
    return run
""",
    "paddle-inference": """
import paddle
def open_export(directory, file, axes, outputs):
    config = paddle.inference.Config(str(directory / file), str(directory / "inference.pdiparams"))
    config.disable_gpu()
    predictor = paddle.inference.create_predictor(config)
    assert predictor.get_input_names() == names, predictor.get_input_names()
    assert predictor.get_output_names() == outputs, predictor.get_output_names()
    def run(batch):
        for name, array in zip(names, batch):
            predictor.get_input_handle(name).copy_from_cpu(array)
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in outputs]
    return run
""",
}
SCRIPT = """
import json, sys
from pathlib import Path
import numpy
names = ["input_ids", "token_type_ids", "attention_mask"]
%s
for directory in map(Path, sys.argv[1:]):
    told = json.loads((directory / "export.json").read_text())
    axes = told["inputs"]["input_ids"]["shape"]
    run = open_export(directory, told["open"]["file"], axes, list(told["outputs"]))
    batches, results = numpy.load(directory / "batches.npz"), {}
    for number in range(len(batches.files)):
        try:
            for name, array in zip(told["outputs"], run(batches[f"batch{number}"])):
                results[f"{name}{number}"] = array
        except Exception as error:
            results[f"error{number}"] = numpy.array(str(error))
    imported = sorted({"torch", "paddle", "tensorflow", "roformer_convert"} & set(sys.modules))
    numpy.savez(directory / "results.npz", imported=numpy.array(imported), **results)
import os; os._exit(0)
"""


def run_exports(exports: Mapping[Path, list[np.ndarray]], to: str) -> list[Any]:
    """Run exports on batches, each stacked, in a process that knows nothing but the runtime; return what each gave."""
    for directory, batches in exports.items():
        named: dict[str, Any] = {f"batch{number}": batch for number, batch in enumerate(batches)}
        np.savez(directory / "batches.npz", **named)
    script = SCRIPT % RUNTIMES[to]
    finished = subprocess.run([sys.executable, "-c", script, *map(str, exports)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    found = []
    for directory in exports:
        found.append(dict(np.load(directory / "results.npz")))
        (directory / "batches.npz").unlink()
        (directory / "results.npz").unlink()
    return found


def make_batch(rows: int, columns: int, seed: int) -> np.ndarray:
    """input_ids, token_type_ids and attention_mask, stacked: padding at the end, and in the middle of the first row."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, columns + 1, rows)
    lengths[0] = columns
    mask = (np.arange(columns) < lengths[:, None]).astype(np.int64)
    mask[0, columns // 3 : columns // 2] = 0
    ids = rng.integers(0, CONFIG.vocab_size, (rows, columns))
    return np.stack([ids, rng.integers(0, CONFIG.type_vocab_size, (rows, columns)), mask])


@pytest.fixture(scope="module", params=formats)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, Tensors]:
    """One export of each kind, with the tensors it was made of: made once, used by every test of it."""
    directory = tmp_path_factory.mktemp(request.param) / "ckpt"
    tensors = random_models.write_random(directory, SOURCES[request.param])
    rows = "\n".join(f"w{number}" for number in range(CONFIG.vocab_size))
    (directory / "vocab.txt").write_text(rows + "\n", encoding="utf-8")
    return export(directory, to=request.param, extend_to=LIMIT), tensors


def test_logits_are_those_of_the_checkpoint(exported: tuple[Export, Tensors]) -> None:
    """Batches that no tracer saw, one token to the raised limit."""
    done, tensors = exported
    sizes = [(4, 29), (1, 1), (3, LIMIT), (7, 2), (1, LIMIT + 1)]
    batches = [make_batch(rows, columns, seed) for seed, (rows, columns) in enumerate(sizes)]
    (results,) = run_exports({done.target: batches}, done.format.name)
    framework = {"onnx": [], "savedmodel": ["tensorflow"], "paddle-inference": ["paddle"]}[done.format.name]
    assert results["imported"].tolist() == framework
    model = Forward(tensors, replace(CONFIG, max_position_embeddings=LIMIT))
    for number, (ids, types, mask) in enumerate(batches[:-1]):
        want, got = model.logits(model.hidden(ids, types, mask)), results[f"logits{number}"]
        assert got.dtype == np.float32
        assert got.shape == (*ids.shape, CONFIG.vocab_size)
        real = mask != 0
        assert abs(got - want)[real].max() <= TOLERANCE * abs(want).max()
    # a token past the limit has no angle: an error, not an invented one
    assert f"error{len(batches) - 1}" in results


#: Models whose exports trace every mask, norm, head and summary, with the names of their outputs.
SERVED = {
    "base, UniLM, linear pooler": ["hidden", "pooled"],
    "causal LM V2": ["logits"],
    "labels, causal": ["logits"],
    "token labels": ["logits"],
    "answers V2, UniLM": ["logits"],
    "choices, mean, activation": ["logits"],
}


@pytest.mark.parametrize("to", formats)
def test_every_class_is_served(to: str, tmp_path: Path) -> None:
    exports, wants = {}, []
    for number, name in enumerate(SERVED):
        model = MODELS[name]
        tensors = model.write(tmp_path / str(number))
        done = export(tmp_path / str(number), to=to)
        assert done.kind is model.kind
        choices = "choices" in input_axes(model.kind)
        batches = [make_batch(rows, columns, number) for rows, columns in ((6, 13), (12, 4))]
        if choices:
            batches = [batch.reshape(3, 3, -1, batch.shape[-1]) for batch in batches]
        exports[done.target] = batches
        wants.append([family_results(model, tensors, *batch) for batch in batches])
        manifest = json.loads((done.target / EXPORT_MANIFEST).read_text(encoding="utf-8"))
        assert manifest["class"] == model.kind.name
        assert list(manifest["outputs"]) == SERVED[name]
        assert len(manifest["labels"]) == {"labels, causal": 6, "token labels": 6, "answers V2, UniLM": 2}.get(name, 0)
    for (directory, batches), results, want in zip(exports.items(), run_exports(exports, to), wants, strict=True):
        outputs = json.loads((directory / EXPORT_MANIFEST).read_text(encoding="utf-8"))["outputs"]
        for number, (batch, arrays) in enumerate(zip(batches, want, strict=True)):
            for (name, told), array in zip(outputs.items(), arrays, strict=True):
                got = results[f"{name}{number}"]
                sizes = {"batch": batch.shape[1], "choices": batch.shape[2], "length": batch.shape[-1]}
                assert got.shape == tuple(sizes.get(axis, axis) for axis in told["shape"]) == array.shape
                chosen = batch[2] != 0 if array.shape[:2] == batch.shape[1:] else ...
                assert abs(got - array)[chosen].max() <= TOLERANCE * abs(array).max(), directory


def test_export_says_what_it_holds(exported: tuple[Export, Tensors]) -> None:
    done, _ = exported
    manifest = json.loads((done.target / EXPORT_MANIFEST).read_text(encoding="utf-8"))
    assert manifest["entries"] == sorted(path.name for path in done.target.iterdir())
    assert manifest["format"] == done.format.name
    assert manifest["max_length"] == LIMIT
    assert list(manifest["inputs"]) == list(INPUTS)
    assert manifest["outputs"]["logits"]["shape"][-1] == CONFIG.vocab_size
    assert (done.target / "vocab.txt").read_bytes() == (done.source / "vocab.txt").read_bytes()
    assert done.nbytes + (done.target / EXPORT_MANIFEST).stat().st_size == sum(
        path.stat().st_size for path in done.target.rglob("*") if path.is_file()
    )


def test_export_was_tried_against_its_model(exported: tuple[Export, Tensors]) -> None:
    done, _ = exported
    assert done.runtime is not None
    assert done.difference is not None
    assert done.largest is not None
    assert 0 < done.difference <= TOLERANCE * done.largest


def test_export_names_no_path_of_this_machine(exported: tuple[Export, Tensors]) -> None:
    done, _ = exported
    paths = [path for path in done.target.rglob("*") if path.is_file()]
    assert done.target / EXPORT_MANIFEST in paths
    for path in paths:
        content = path.read_bytes()
        assert str(Path(module.__file__).parent).encode() not in content, path
        assert str(done.source.parent).encode() not in content, path


# The trial -----------------------------------------------------------------------------------------------------------


def run_numpy(model: Forward) -> Callable[..., Array]:
    return lambda *batch: model.logits(model.hidden(*batch)).astype("float32")


def trial(model: Callable[..., Array], exported: Callable[..., Array]) -> Trial:
    return compare(lambda *batch: (model(*batch),), lambda *batch: (exported(*batch),), CONFIG, MASKED_LM, "it")


@pytest.fixture(scope="module")
def judge() -> Forward:
    return Forward(random_models.random_tensors(CONFIG), CONFIG)


def test_trial_passes_rounding(judge: Forward) -> None:
    model = run_numpy(judge)
    found = trial(model, lambda *batch: model(*batch) * np.float32(1 + 1e-6))
    assert 0 < found.difference < 2e-6 * found.largest


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model: lambda ids, types, mask: model(ids, types * 0, mask),
        lambda model: lambda ids, types, mask: model(ids, types, mask * 0 + 1),
        lambda model: lambda ids, types, mask: model(ids, ids % CONFIG.type_vocab_size, mask),
        lambda model: lambda *batch: model(*batch) + np.float32(1e-2),
        lambda model: lambda *batch: model(*batch) * np.float32("nan"),
        lambda model: lambda *batch: np.where(np.arange(CONFIG.vocab_size) == 3, np.float32("inf"), model(*batch)),
        lambda model: lambda *batch: model(*batch)[:, :1],
    ],
    ids=["types ignored", "mask ignored", "types of ids", "shifted", "NaN", "infinity", "shape"],
)
def test_trial_catches_a_wrong_graph(
    judge: Forward, wrong: Callable[[Callable[..., Array]], Callable[..., Array]]
) -> None:
    model = run_numpy(judge)
    with pytest.raises(ModelError, match=r"the export run in it differs|it gives an output"):
        trial(model, wrong(model))


def test_trial_catches_a_model_of_nan(judge: Forward) -> None:
    def model(*batch: Array) -> Array:
        return np.full((*batch[0].shape, CONFIG.vocab_size), np.nan, "float32")

    with pytest.raises(ModelError, match="--no-trial"):
        trial(model, model)


def test_trial_batches_stay_inside_the_limit() -> None:
    config = replace(CONFIG, max_position_embeddings=5, type_vocab_size=2, vocab_size=3)
    for ids, types, mask in (
        batch for name in ("masked-lm", "multiple-choice") for batch in trial_batches(config, CLASSES[name])
    ):
        assert ids.shape == types.shape == mask.shape
        assert ids.shape[-1] <= 5
        assert ids.max() < 3
        assert types.max() < 2
        assert mask[..., 0].all()


# What is refused and what is left ------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    random_models.write_random(tmp_path / "ckpt", "torch", "masked-lm")
    return tmp_path / "ckpt"


@pytest.fixture
def no_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the framework's process: it writes one file and one directory."""

    def make(*request: Any) -> dict[str, Any]:
        _, _, load, into, *_ = request
        (into / "graph").write_text(str(load["extend_to"]), encoding="utf-8")
        (into / "weights").mkdir()
        (into / "weights" / "0").write_bytes(b"x" * 1000)
        return {"file": "graph", "version": "nothing 1", "trial": None, "notes": ["a note"]}

    monkeypatch.setattr(module, "_make", make)
    monkeypatch.setattr(frameworks, "is_installed", lambda package: True)


def entries(directory: Path) -> list[str]:
    """Every name in a directory, hidden ones too: what a failure left behind shows."""
    return sorted(path.name for path in directory.iterdir())


def test_existing_output_is_refused_and_kept_without_force(checkpoint: Path, no_framework: None) -> None:
    export(checkpoint, to="onnx", extend_to=60)
    with pytest.raises(ConvertError, match=r"ckpt-onnx already exists(?s:.)*--force"):
        export(checkpoint, to="onnx", extend_to=70)
    assert (checkpoint.parent / "ckpt-onnx" / "graph").read_text() == "60"


def test_force_replaces_an_export_with_its_directories(checkpoint: Path, no_framework: None) -> None:
    first = export(checkpoint, to="savedmodel", extend_to=60)
    assert export(checkpoint, first.target, to="onnx", extend_to=70, force=True).target == first.target
    assert (first.target / "graph").read_text() == "70"
    assert json.loads((first.target / EXPORT_MANIFEST).read_text())["format"] == "onnx"
    assert entries(checkpoint.parent) == ["ckpt", "ckpt-savedmodel"]


@pytest.mark.parametrize(
    "what", ["a file", "a stranger", "a checkpoint", "no list", "no JSON", "deep JSON", "huge list"]
)
def test_force_replaces_nothing_but_an_export(checkpoint: Path, no_framework: None, what: str) -> None:
    target = export(checkpoint, to="onnx").target
    manifest = target / EXPORT_MANIFEST
    if what == "a file":
        target = checkpoint.parent / "file"
        target.write_text("mine")
    elif what == "a stranger":
        (target / "notes.txt").write_text("mine")
    elif what == "a checkpoint":
        target = checkpoint.parent / "other"
        random_models.write_random(target, "torch")
    elif what == "no list":
        manifest.write_text('{"roformer_export": 1}')
    elif what == "no JSON":
        manifest.write_bytes(b"\xff")
    elif what == "deep JSON":
        manifest.write_text("[" * 100_000)
    else:
        manifest.write_text(" " * (2 << 20))
    before = random_models.file_bytes(checkpoint.parent)
    with pytest.raises(ConvertError, match=r"is not replaced: .*(?s:.)*--force replaces an export and nothing else"):
        export(checkpoint, target, to="onnx", force=True)
    assert random_models.file_bytes(checkpoint.parent) == before


def test_a_conversion_does_not_replace_an_export(checkpoint: Path, no_framework: None) -> None:
    (checkpoint / "vocab.txt").write_text("\n".join("w" * (n + 1) for n in range(CONFIG.vocab_size)) + "\n")
    target = export(checkpoint, to="onnx").target
    (target / "weights" / "0").unlink()
    (target / "weights").rmdir()
    with pytest.raises(ConvertError, match=r"is not replaced(?s:.)*replaces a checkpoint directory and nothing else"):
        convert(checkpoint, target, to="paddle", options=ConvertOptions(force=True))


def test_a_tokenizer_file_that_is_a_link_out_of_the_directory_is_copied_when_it_is_said(
    checkpoint: Path, tmp_path: Path, no_framework: None
) -> None:
    words = "\n".join("w" * (n + 1) for n in range(CONFIG.vocab_size)) + "\n"
    (tmp_path / "elsewhere.txt").write_text(words)
    (checkpoint / "vocab.txt").unlink(missing_ok=True)
    (checkpoint / "vocab.txt").symlink_to(tmp_path / "elsewhere.txt")
    left = export(checkpoint, tmp_path / "one", to="onnx")
    assert not (left.target / "vocab.txt").exists()
    assert any("--follow-links copies it" in note for note in left.notes)
    done = CliRunner().invoke(
        export_command, [str(checkpoint), "-o", str(tmp_path / "two"), "--to", "onnx", "--follow-links"]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "two" / "vocab.txt").read_text() == words
    assert "link" not in done.output


def test_output_in_the_source_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConvertError, match="inside the source"):
        export(checkpoint, checkpoint / "served", to="savedmodel")


def test_what_no_file_says_is_refused_before_a_framework_starts_or_noted(tmp_path: Path, no_framework: None) -> None:
    MODELS["token labels"].write(tmp_path / "ckpt", "paddle")
    settings = json.loads((tmp_path / "ckpt" / "config.json").read_text())
    del settings["architectures"]
    (tmp_path / "ckpt" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(MisfitError, match=r"token-classification(?s:.)*--class"):
        export(tmp_path / "ckpt", to="savedmodel")
    assert entries(tmp_path) == ["ckpt"]
    done = export(tmp_path / "ckpt", to="savedmodel", model_class="token-classification")
    assert done.kind is CLASSES["token-classification"]
    random_models.write_random(tmp_path / "tf1", "tf1", "masked-lm")
    settings = json.loads((tmp_path / "tf1" / "bert_config.json").read_text())
    settings.pop("roformer_convert", None)
    (tmp_path / "tf1" / "bert_config.json").write_text(json.dumps(settings))
    assert any("--set attention=causal" in note for note in export(tmp_path / "tf1", to="onnx").notes)
    assert export(tmp_path / "tf1", tmp_path / "gpt", to="onnx", set={"attention": "causal"}).kind.name == "causal-lm"


def test_pretrained_it_is_exported_for_words(tmp_path: Path, no_framework: None) -> None:
    random_models.write_random(tmp_path / "ckpt", "torch")
    assert export(tmp_path / "ckpt", to="onnx").kind.name == "masked-lm"


def test_too_little_room_is_said_before_a_framework_starts(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Process", None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(ConvertError, match=r"needs [\d,]+ bytes and the disk has 1,000 free"):
        export(checkpoint, to="paddle-inference")


@pytest.mark.parametrize(
    ("to", "absent", "message"),
    [
        ("onnx", {"onnx", "onnxscript"}, r"export --to onnx needs onnx and onnxscript, which are(?s:.)*\[onnx\]'"),
        ("savedmodel", {"tensorflow"}, r"needs tensorflow, which is(?s:.)*\.\[tensorflow\]'"),
        ("paddle-inference", {"paddle"}, r"needs paddle(?s:.)*\.\[paddle\]'"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, to: str, absent: set[str], message: str
) -> None:
    monkeypatch.setattr(frameworks, "is_installed", lambda package: package not in absent)
    with pytest.raises(MissingPackageError, match=message):
        export(checkpoint, to=to)


def test_an_unknown_format_is_named_with_the_known(checkpoint: Path) -> None:
    with pytest.raises(ConvertError, match=r"'tflite'(?s:.)*onnx, savedmodel, paddle-inference"):
        export(checkpoint, to="tflite")


@pytest.mark.parametrize("how", ["killed", "refused"])
def test_a_framework_that_fails_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    class Failing(Process):
        def ask(self, request: Mapping[str, Any]) -> None:
            (Path(request["into"]) / "half").write_text("written")
            self._child.kill()
            self._child.wait()
            super().ask(request)

        def answer(self) -> dict[str, Any]:
            if how == "refused":
                raise ConvertError("torch: it differs")
            return super().answer()

    monkeypatch.setattr(module, "Process", Failing)
    monkeypatch.setattr(frameworks, "is_installed", lambda package: True)
    with pytest.raises(DeathError, match="SIGKILL"):
        export(checkpoint, to="onnx")
    assert entries(checkpoint.parent) == ["ckpt"]


# The command ---------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(export_command, [str(argument) for argument in arguments], catch_exceptions=False)
    return done.exit_code, done.stdout


def test_command_says_what_it_made(checkpoint: Path, no_framework: None) -> None:
    status, out = run(checkpoint, "--to", "onnx", "--max-length", 99)
    assert status == 0
    target = checkpoint.parent / "ckpt-onnx"
    assert f"{checkpoint} → {target} (onnx, masked-lm)" in out
    assert "sequences of up to 99 tokens" in out
    assert "note: a note" in out
    status, out = run(checkpoint, "--to", "onnx", "--force", "--json")
    assert json.loads(out)["target"] == str(target)
    assert json.loads(out)["max_length"] == CONFIG.max_position_embeddings
    assert run(checkpoint, "--to", "onnx", "--force", "--quiet") == (0, "")


def test_a_half_type_is_exported_in_float32_and_said(tmp_path: Path, no_framework: None) -> None:
    random_models.write_random(tmp_path / "ckpt", "torch", dtype="bfloat16")
    done = export(tmp_path / "ckpt", to="onnx")
    assert "float32 throughout; the checkpoint holds bfloat16" in done.notes


def test_command_wants_a_known_format(checkpoint: Path) -> None:
    with pytest.raises(click.BadParameter, match="'onnx', 'savedmodel', 'paddle-inference'"):
        export_command.main([str(checkpoint), "--to", "tflite"], standalone_mode=False)


def test_every_format_has_a_module_and_an_extra() -> None:
    for one in FORMATS.values():
        assert importlib.util.find_spec(f"roformer_convert.models.export.{one.module}") is not None
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parent.parent / "setup.cfg", encoding="utf-8")
    assert {extra for one in FORMATS.values() for extra in one.packages.values()} <= set(
        setup["options.extras_require"]
    )
