"""What we write is read by the software it is for, and computes there what the source's writer computed.

transformers 5 runs here; paddle.load, TensorFlow's checkpoint reader and h5py in a process of their own (TensorFlow and
Paddle cannot share one), one process for all of its checks. ``test_peers.py`` asks the older programs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_names import spelled
from numpy_roformer import Array, Forward, widen
from peer_folders import (
    BFLOAT16,
    BOTH,
    FOLDERS,
    ONE_MODEL,
    PEERS,
    POSITIONS,
    ROUNDED_TABLE,
    TOLERANCE,
    TRAINED,
    Converted,
    convert_all,
    in_process,
    inputs_of,
    worst,
)
from random_checkpoints import CONFIG, SHAPES, Tensors, random_tensors, rotary_table, same_bits, save

from roformer_convert.converters import ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.table.mapping import DIALECTS, MLM, POOLER, Dialect


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert_all(tmp_path_factory.mktemp("converted"), tuple(FOLDERS), back=True)


# --- transformers 5, here -------------------------------------------------------------------------------------------


def torch_logits(directory: Path, folder: str) -> tuple[Any, Array, dict[str, set[str]]]:
    """Load a directory with transformers; return the model, its logits and what its loader reports."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    model, report = transformers.RoFormerForMaskedLM.from_pretrained(
        directory, output_loading_info=True, dtype=torch.float32
    )
    logits = run_torch(model.eval(), inputs_of(folder))
    return model, logits, {kind: set(names) for kind, names in report.items() if names}


def run_torch(model: Any, inputs: dict[str, Array]) -> Array:
    import torch

    with torch.no_grad():
        logits: Array = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()
    return logits


@pytest.mark.parametrize("folder", FOLDERS)
def test_transformers_computes_what_the_writer_computed(converted: Converted, folder: str) -> None:
    """And nothing is missing, nor unexpected but what is announced: it has neither a pooler nor a pair head."""
    _, logits, report = torch_logits(converted.path(folder, "torch"), folder)
    assert worst(folder, logits) <= TOLERANCE
    assert report == ({"unexpected_keys": FOLDERS[folder]} if FOLDERS[folder] else {})


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect != "tf"])
def test_one_model_saved_by_five_programs_becomes_one_file(converted: Converted, dialect: Dialect) -> None:
    """An h5 file, a pickle, safetensors and shards: the weights files that they convert to are equal byte for byte."""
    (first, *others) = ({p.name: p.read_bytes() for p in weights(converted.path(f, dialect))} for f in ONE_MODEL)
    assert first
    for other in others:
        assert other == first


def weights(directory: Path) -> list[Path]:
    """The files of a directory that hold tensors."""
    return sorted(path for path in directory.iterdir() if path.suffix != ".json")


@pytest.mark.parametrize("via", ["paddle", "tf", "tf1"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_detour_through_another_dialect_ends_at_the_same_file(
    converted: Converted, folder: str, via: Dialect
) -> None:
    """Byte for byte what transformers was shown to compute the writer's logits from, with the same configuration."""
    direct, detour = converted.path(folder, "torch"), converted.back(folder, via)
    if folder == BFLOAT16:  # files without a table forget that the writer's was rounded
        _, logits, _ = torch_logits(detour, folder)
        assert worst(folder, logits) <= ROUNDED_TABLE
        with open_checkpoint(direct) as one, open_checkpoint(detour) as other:  # the way over tf is in float32
            for name in one:
                assert np.array_equal(one.read(name, "float32"), other.read(name, "float32"))
        return
    assert (detour / "model.safetensors").read_bytes() == (direct / "model.safetensors").read_bytes()
    with open_checkpoint(direct) as one, open_checkpoint(detour) as other:
        assert one.config == other.config


@pytest.mark.parametrize("kind", ["-st-sharded", "-bin", "-bin-sharded"])
@pytest.mark.parametrize("folder", BOTH)
def test_transformers_loads_every_container_whole_and_sharded(converted: Converted, folder: str, kind: str) -> None:
    _, logits, report = torch_logits(converted.path(folder, "torch", kind), folder)
    assert worst(folder, logits) <= TOLERANCE
    assert report == ({"unexpected_keys": FOLDERS[folder]} if FOLDERS[folder] else {})


def test_without_the_table_the_bfloat16_folder_differs_by_its_rounding(tmp_path: Path) -> None:
    """Its writer used the table rounded to bfloat16. So does who loads it, but not who computes it anew."""
    convert(PEERS / BFLOAT16, tmp_path / "out", to="torch", options=ConvertOptions(positions=False))
    _, logits, report = torch_logits(tmp_path / "out", BFLOAT16)
    assert report == {"missing_keys": {POSITIONS}}
    assert TOLERANCE < worst(BFLOAT16, logits) <= ROUNDED_TABLE


def test_without_the_table_a_model_reads_longer_texts_than_its_source_was_made_for(tmp_path: Path) -> None:
    """Then nothing in the file fixes the length, and max_position_embeddings can be raised on loading."""
    transformers = pytest.importorskip("transformers")
    source = PEERS / "hf4-MaskedLM_default_bin"
    convert(source, tmp_path / "out", to="torch", options=ConvertOptions(positions=False))
    model = transformers.RoFormerForMaskedLM.from_pretrained(tmp_path / "out", max_position_embeddings=96).eval()
    long = {"input_ids": np.arange(90)[None, :] % 69 + 1}
    logits = run_torch(model, long)
    with open_checkpoint(PEERS / "hf4-MaskedLM_default_bin") as checkpoint:
        forward = Forward({name: checkpoint.read(name) for name in checkpoint}, checkpoint.config)
    zeros, ones = np.zeros((1, 90), np.int64), np.ones((1, 90), np.int64)
    assert np.abs(forward.logits(forward.hidden(long["input_ids"], zeros, ones)) - logits).max() <= TOLERANCE


@pytest.mark.parametrize("source", [dialect for dialect in DIALECTS if dialect != "torch"])
@pytest.mark.parametrize("shape", ["base", "base-pooler"])
def test_a_base_model_loads_as_one(tmp_path: Path, shape: str, source: Dialect) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config, groups = SHAPES[shape]
    tensors = random_tensors(config, groups)
    save(tmp_path / "ckpt", source, tensors, config)
    convert(tmp_path / "ckpt", to="torch")
    model, report = transformers.RoFormerModel.from_pretrained(tmp_path / "ckpt-torch", output_loading_info=True)
    pooler = {"pooler.dense.weight", "pooler.dense.bias"} if POOLER in groups else set()
    assert set(report["missing_keys"]) == set()
    assert set(report["unexpected_keys"]) == pooler
    ids = np.random.default_rng(2).integers(0, config.vocab_size, (2, 11))
    segments, mask = ids % config.type_vocab_size, (ids != 3).astype(np.int64)
    with torch.no_grad():
        given = {"input_ids": ids, "token_type_ids": segments, "attention_mask": mask}
        hidden = model(**{name: torch.from_numpy(array) for name, array in given.items()})[0].numpy()
    assert np.abs(hidden - Forward(tensors, config).hidden(**given)).max() <= TOLERANCE


@pytest.mark.parametrize(
    "said", [{"tie_word_embeddings": False}, {"return_dict": False}, {"quantization_config": {"quant_method": "gptq"}}]
)
def test_no_key_of_the_source_makes_transformers_answer_otherwise(tmp_path: Path, said: dict[str, Any]) -> None:
    """Each of these, carried, gave a random head, a tuple without logits, or a loader that fails."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tensors = random_tensors(CONFIG, (MLM,))
    save(tmp_path / "ckpt", "paddle", tensors, CONFIG)
    path = tmp_path / "ckpt" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    report = convert(tmp_path / "ckpt", to="torch")
    assert len([note for note in report.notes if note.startswith(next(iter(said)))]) == 1
    model, loading = transformers.RoFormerForMaskedLM.from_pretrained(
        tmp_path / "ckpt-torch", output_loading_info=True, dtype=torch.float32
    )
    assert set(loading["missing_keys"]) == set()
    given = {"input_ids": np.random.default_rng(4).integers(0, 61, (2, 9))}
    zeros, ones = np.zeros((2, 9), np.int64), np.ones((2, 9), np.int64)
    forward = Forward(tensors, CONFIG)
    want = forward.logits(forward.hidden(given["input_ids"], zeros, ones))
    assert np.abs(run_torch(model.eval(), given) - want).max() <= TOLERANCE


def test_half_precision_weights_compute_what_they_hold(tmp_path: Path) -> None:
    """--dtype rounds the weights and nothing else: transformers and numpy agree on the rounded ones."""
    pytest.importorskip("transformers")
    tensors = random_tensors(CONFIG, (MLM,))
    save(tmp_path / "ckpt", "paddle", tensors, CONFIG)
    import torch
    import transformers

    given = {"input_ids": np.random.default_rng(4).integers(0, 61, (2, 9))}
    zeros, ones = np.zeros((2, 9), np.int64), np.ones((2, 9), np.int64)
    for dtype in ("float16", "bfloat16"):
        convert(tmp_path / "ckpt", tmp_path / dtype, to="torch", options=ConvertOptions(dtype=dtype))
        model = transformers.RoFormerForMaskedLM.from_pretrained(tmp_path / dtype, dtype=torch.float32)
        with open_checkpoint(tmp_path / dtype) as opened:
            rounded = {name: opened.read(name) for name in opened}
        for name, array in rounded.items():
            limit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype] * np.abs(tensors[name]) + 1e-7
            assert (np.abs(widen(array) - tensors[name]) <= limit).all()
        forward = Forward(rounded, CONFIG)
        want = forward.logits(forward.hidden(given["input_ids"], zeros, ones))
        table = model.roformer.encoder.embed_positions.weight
        assert (
            np.abs(table.detach().numpy() - rotary_table()).max() > 1e-4
        )  # rounded too, as transformers would save it
        table.data = torch.from_numpy(rotary_table().astype(np.float32))
        assert np.abs(run_torch(model, given) - want).max() <= TOLERANCE


def test_the_model_cards_own_snippet_prints_paddlenlps_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    convert(TRAINED, tmp_path / "out", to="torch")
    # from here on as the card of junnyu/roformer_chinese_base has it
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path / "out")
    pt_model = transformers.RoFormerForMaskedLM.from_pretrained(tmp_path / "out")
    expected = json.loads((TRAINED / "expected.json").read_text())["sentences"]
    capsys.readouterr()
    for sentence in expected:
        text = sentence["text"]
        pt_inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            pt_outputs = pt_model(**pt_inputs).logits[0]
        pt_outputs_sentence = "pytorch: "
        for i, id in enumerate(tokenizer.encode(text)):
            if id == tokenizer.mask_token_id:
                tokens = tokenizer.convert_ids_to_tokens(pt_outputs[i].topk(k=5)[1])
                pt_outputs_sentence += "[" + "||".join(tokens) + "]"
            else:
                pt_outputs_sentence += "".join(tokenizer.convert_ids_to_tokens([id], skip_special_tokens=True))
        print(pt_outputs_sentence)
        for mask in sentence["masks"]:
            # PaddleNLP's float32 logits are written with five decimals
            got = pt_outputs[mask["position"]].topk(k=5)[0].numpy()
            assert np.abs(got - mask["logits"]).max() <= 2e-5
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected) == 5
    for line, sentence in zip(printed, expected, strict=True):
        assert line.count("[") == len(sentence["masks"])
        for mask in sentence["masks"]:
            assert "[" + "||".join(mask["top5"]) + "]" in line
        words = iter(sentence["masks"])
        parts = sentence["text"].split("[MASK]")
        whole = "".join(
            part + ("[" + "||".join(next(words)["top5"]) + "]" if number < len(parts) - 1 else "")
            for number, part in enumerate(parts)
        )
        assert line == f"pytorch: {whole}"


# --- Paddle, TensorFlow and h5py, each in a process of its own --------------------------------------------------------

PADDLE = """
import json, sys
import numpy, paddle
for job in json.loads(sys.argv[1]):
    arrays, types = {}, {}
    for path in job["files"]:
        for name, tensor in paddle.load(path).items():
            if name == "StructuredToParameterName@@":
                continue
            assert name not in arrays, name
            types[name] = str(tensor.dtype)
            arrays[name] = (tensor.astype("float32") if "bfloat16" in types[name] else tensor).numpy()
    numpy.savez(job["out"], **arrays)
    json.dump(types, open(job["out"] + ".json", "w"))
"""

TENSORFLOW = """
import json, sys
import numpy, tensorflow
for job in json.loads(sys.argv[1]):
    reader = tensorflow.train.load_checkpoint(job["prefix"])
    arrays, types = {}, {}
    kinds = reader.get_variable_to_dtype_map()
    for name, shape in reader.get_variable_to_shape_map().items():
        value = reader.get_tensor(name)  # checks the checksum
        assert list(value.shape) == list(shape)
        types[name] = kinds[name].name
        arrays[name] = value.astype("float32") if types[name] == "bfloat16" else value
    numpy.savez(job["out"], **arrays)
    json.dump(types, open(job["out"] + ".json", "w"))
"""

H5PY = """
import json, sys
import h5py, numpy
for job in json.loads(sys.argv[1]):
    arrays, types = {}, {}
    with h5py.File(job["file"], "r") as file:
        facts = {key: file.attrs[key] for key in ("backend", "keras_version")}
        for layer in file.attrs["layer_names"]:
            for name in file[layer].attrs["weight_names"]:
                name = name.decode() if isinstance(name, bytes) else name
                value = file[layer][name][...]
                short = name.split("/", 1)[1].removesuffix(":0")
                if short in arrays:
                    assert numpy.array_equal(arrays[short], value, equal_nan=True)
                arrays[short], types[short] = value, value.dtype.name
    numpy.savez(job["out"], **arrays)
    json.dump(types, open(job["out"] + ".json", "w"))
"""


@dataclass
class Spoken:
    """What one loader read, for each random checkpoint, and what it should have."""

    got: dict[str, tuple[Tensors, dict[str, str]]]
    want: dict[str, tuple[Tensors, str]]

    def check(self, name: str) -> None:
        arrays, types = self.got[name]
        tensors, dtype = self.want[name]
        assert {kind.removeprefix("paddle.") for kind in types.values()} == {dtype}
        if dtype == "bfloat16":
            tensors = {key: widen(array).astype(np.float32) for key, array in tensors.items()}
        assert same_bits(arrays, tensors) == []


#: Name → (parts, type, shard size).
RANDOM: dict[str, tuple[str, str, int | None]] = {
    "everything": ("everything", "float32", None),
    "no-projection": ("no-projection", "float32", None),
    "base": ("base-pooler", "float32", None),
    "float16": ("everything", "float16", None),
    "bfloat16": ("everything", "bfloat16", None),
    "sharded": ("everything", "float32", 4000),
}


def spoken(program: str, dialect: Dialect, names: Iterable[str], tmp: Path) -> Spoken:
    """Write random checkpoints of a dialect, by conversion, and read each with its framework."""
    jobs = []
    want = {}
    for name in names:
        shape, dtype, size = RANDOM[name]
        config, groups = SHAPES[shape]
        tensors = random_tensors(config, groups, dtype=dtype, seed=len(name))
        source: Dialect = "torch" if dialect != "torch" else "paddle"
        save(tmp / f"{name}-source", source, tensors, config, dtype=dtype)
        convert(
            tmp / f"{name}-source", tmp / name, to=dialect, options=ConvertOptions(max_shard_size=size, positions=False)
        )
        files = sorted(str(path) for path in (tmp / name).iterdir() if path.suffix == ".pdparams")
        job = {"cwd": str(tmp), "files": files, "prefix": str(tmp / name / "bert_model.ckpt")}
        jobs.append({**job, "file": str(tmp / name / "tf_model.h5"), "out": str(tmp / f"{name}-read")})
        want[name] = (spelled(tensors, dialect, base=shape.startswith("base")), dtype)
    in_process(program, jobs)
    got = {}
    for name in names:
        with np.load(tmp / f"{name}-read.npz") as arrays:
            got[name] = (dict(arrays), json.loads((tmp / f"{name}-read.json").read_text()))
    return Spoken(got, want)


@pytest.fixture(scope="module")
def by_paddle(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    if not any((Path(folder) / "paddle").is_dir() for folder in sys.path):
        pytest.skip("paddle is not installed")
    return spoken(PADDLE, "paddle", RANDOM, tmp_path_factory.mktemp("paddle"))


@pytest.fixture(scope="module")
def by_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    if not any((Path(folder) / "tensorflow").is_dir() for folder in sys.path):
        pytest.skip("tensorflow is not installed")
    names = [name for name in RANDOM if name != "sharded"]
    return spoken(TENSORFLOW, "tf1", names, tmp_path_factory.mktemp("tensorflow"))


@pytest.fixture(scope="module")
def by_h5py(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    names = [name for name in RANDOM if name not in ("sharded", "bfloat16")]
    return spoken(H5PY, "tf", names, tmp_path_factory.mktemp("h5py"))


@pytest.mark.parametrize("name", RANDOM)
def test_paddle_loads_what_was_converted(by_paddle: Spoken, name: str) -> None:
    by_paddle.check(name)


@pytest.mark.parametrize("name", [name for name in RANDOM if name != "sharded"])
def test_tensorflows_checkpoint_reader_reads_what_was_converted(by_tensorflow: Spoken, name: str) -> None:
    by_tensorflow.check(name)


@pytest.mark.parametrize("name", [name for name in RANDOM if name not in ("sharded", "bfloat16")])
def test_h5py_reads_what_was_converted(by_h5py: Spoken, name: str) -> None:
    by_h5py.check(name)
