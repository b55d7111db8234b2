"""Keras HDF5 weight files: what transformers wrote is indexed, what we write is what h5py and transformers read."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from file_contents import read_stored, write_layout
from peer_folders import PEERS, ROOT

from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.errors import ConvertError, FormatError
from roformer_convert.converters.tensors.stored import Extent, NewTensor

FOLDER = PEERS / "hf4-MaskedLM_default_tf"
MODEL = "tf_ro_former_for_masked_lm"
HEAD, WORDS, SEGMENTS = "mlm___cls/predictions/bias", "roformer/words/weight", "roformer/segments/embeddings"


def peer_python() -> str | None:
    """Find the interpreter of an environment with transformers 4, TensorFlow and tf_keras."""
    local = ROOT / ".peers/transformers4/bin/python"
    return os.environ.get("ROFORMER_PEER_TRANSFORMERS4") or (str(local) if local.exists() else None)


def values_of(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype.startswith("float"):
        return np.asarray(rng.standard_normal(shape), dtype=dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def write(
    path: Path,
    weights: Mapping[str, np.ndarray[Any, Any]],
    shared: Mapping[str, Sequence[str]] | None = None,
    aliases: Mapping[str, str] | None = None,
    finish: bool = True,
) -> None:
    """Write a file as the engine does: create, payloads into their slots, then the rest."""
    tensors = [NewTensor(name, str(array.dtype), array.shape) for name, array in weights.items()]
    tensors += [
        NewTensor(name, str(weights[of].dtype), weights[of].shape, alias_of=of) for name, of in (aliases or {}).items()
    ]
    payloads = {name: array.tobytes() for name, array in weights.items()}
    write_layout(keras_h5.lay_out(path.name, tensors, MODEL, shared), path.parent, payloads, finish=finish)


def small_weights() -> dict[str, np.ndarray[Any, Any]]:
    return {
        WORDS: values_of((11, 7), "float32", 1),
        SEGMENTS: values_of((2, 7), "float32", 2),
        "roformer/encoder/layer_._0/dense/kernel": values_of((7, 5), "float16", 3),
        HEAD: values_of((11,), "float64", 4),
    }


def test_index_of_transformers_file_is_what_h5py_reads() -> None:
    path = FOLDER / "tf_model.h5"
    index = keras_h5.index(path)
    with h5py.File(path) as file:
        expected = [
            (weight.partition("/")[2].removesuffix(":0"), file[layer][weight][()])
            for layer in file.attrs["layer_names"]
            for weight in file[layer].attrs["weight_names"]
        ]
    assert len(expected) == 46
    assert [tensor.name for tensor in index.tensors] == [name for name, _ in expected]
    for tensor, (_, array) in zip(index.tensors, expected, strict=True):
        assert isinstance(tensor.data, Extent)
        assert (tensor.dtype, tensor.shape) == (str(array.dtype), array.shape)
        assert read_stored(tensor) == array.tobytes()
    assert index.metadata == {"backend": "tensorflow", "keras_version": "2.19.0"}


def test_attributes_are_of_the_types_transformers_wrote(tmp_path: Path) -> None:
    write(tmp_path / "ours.h5", small_weights(), {"mlm___cls": [WORDS]})
    facts = []
    for path in (FOLDER / "tf_model.h5", tmp_path / "ours.h5"):
        with h5py.File(path) as file:
            found = {}
            for group in ("/", "roformer", "mlm___cls", "top_level_model_weights"):
                for name in file[group].attrs:
                    attribute = file[group].attrs.get_id(name)
                    kind = attribute.get_type()
                    text = (kind.is_variable_str(), kind.get_cset()) if kind.get_class() == h5py.h5t.STRING else None
                    found[group, name] = (str(attribute.dtype), len(attribute.shape), text)
            facts.append((found, list(file), file.attrs["backend"], file.attrs["keras_version"].partition(".")[0]))
    assert facts[0] == facts[1]


def test_what_is_written_is_what_h5py_reads(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    dtypes = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    shapes: list[tuple[int, ...]] = [(3, 5), (4,), (2, 3, 7), (6, 1), (), (0, 9), (13,), (1, 8), (5, 2)]
    weights = {
        f"layer{n % 3}/part/{dtype}": values_of(shape, dtype, n)
        for n, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True))
    }
    write(path, weights)
    with h5py.File(path) as file:
        assert file.attrs["layer_names"].tolist() == ["layer0", "layer1", "layer2"]
        for name, array in weights.items():
            stored = file[f"{name.partition('/')[0]}/{MODEL}/{name}:0"]
            assert (stored.dtype, stored.shape, stored.chunks) == (array.dtype, array.shape, None)
            assert stored[()].tobytes() == array.tobytes()
    index = {tensor.name: tensor for tensor in keras_h5.index(path).tensors}
    assert set(index) == set(weights)
    for name, array in weights.items():
        assert (index[name].dtype, index[name].shape) == (str(array.dtype), array.shape)
        assert read_stored(index[name]) == array.tobytes()


def test_shared_and_tied_weights_take_no_bytes(tmp_path: Path) -> None:
    weights = small_weights() | {WORDS: values_of((501, 31), "float32", 1)}
    write(tmp_path / "plain.h5", weights)
    write(tmp_path / "shared.h5", weights, {"mlm___cls": [WORDS, SEGMENTS]}, {"mlm___cls/decoder": WORDS})
    assert (tmp_path / "shared.h5").stat().st_size < (tmp_path / "plain.h5").stat().st_size + weights[WORDS].nbytes
    tensors = keras_h5.index(tmp_path / "shared.h5").tensors
    assert [tensor.name for tensor in tensors] == [*list(weights)[:3], HEAD, "mlm___cls/decoder", WORDS, SEGMENTS]
    assert tensors[0].data == tensors[4].data == tensors[5].data
    assert tensors[1].data == tensors[6].data != tensors[0].data
    with h5py.File(tmp_path / "shared.h5") as file:
        listed = file[f"mlm___cls/{MODEL}/{WORDS}:0"]
        assert listed.id.get_offset() == file[f"roformer/{MODEL}/{WORDS}:0"].id.get_offset()


def test_an_unfinished_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "cut.h5", small_weights(), finish=False)
    with pytest.raises(FormatError, match="cut short"):
        keras_h5.index(tmp_path / "cut.h5")
    with pytest.raises(OSError, match="signature"):
        h5py.File(tmp_path / "cut.h5")


def test_bfloat16_is_an_error_that_names_dtype() -> None:
    with pytest.raises(ConvertError, match="--dtype float32"):
        keras_h5.lay_out("tf_model.h5", [NewTensor(WORDS, "bfloat16", (2, 3))], MODEL)


@pytest.mark.parametrize("name", ["kernel", "a//b", "../a/b", "a/./b", "/a", "a/\0", "top_level_model_weights/a"])
def test_a_name_that_is_no_path_is_refused(name: str) -> None:
    with pytest.raises(ConvertError, match="cannot be the name"):
        keras_h5.lay_out("tf_model.h5", [NewTensor(name, "float32", (2, 3))], MODEL)


def test_the_same_weights_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "tf_model.h5", small_weights(), {"mlm___cls": [WORDS]})
        time.sleep(1.1)  # HDF5 would note the second in which a dataset was made
    assert (tmp_path / "a/tf_model.h5").read_bytes() == (tmp_path / "b/tf_model.h5").read_bytes()


def test_attributes_above_64_kb_are_split_as_keras_does(tmp_path: Path) -> None:
    path = tmp_path / "tf_model.h5"
    weights = {f"roformer/{'long' * 60}/{n}": values_of((n % 3 + 1,), "float32", n) for n in range(600)}
    weights |= {f"{'layer' * 40}{n}/bias": values_of((n % 5 + 1,), "float32", n) for n in range(400)}
    write(path, weights)
    with h5py.File(path) as file:
        for group, name, count in ((file, "layer_names", 401), (file["roformer"], "weight_names", 600)):
            parts = [
                group.attrs[f"{name}{n}"] for n in range(len([key for key in group.attrs if key.startswith(name)]))
            ]
            assert len(parts) > 1
            assert name not in group.attrs
            assert all(part.nbytes <= 64512 for part in parts)
            assert sum(map(len, parts)) == count
    index = keras_h5.index(path)
    assert [(tensor.name, read_stored(tensor)) for tensor in index.tensors] == [
        (n, a.tobytes()) for n, a in weights.items()
    ]


def test_the_size_is_known_before_a_byte_is_written(tmp_path: Path) -> None:
    rng = random.Random(5)
    for round_ in range(12):
        names = {
            "/".join(rng.choice("abcdef") * rng.randrange(1, 60) for _ in range(rng.randrange(2, 9))) + f"/{n}"
            for n in range(rng.randrange(1, 120))
        }
        tensors = [NewTensor(name, "float32", (rng.randrange(1, 400),)) for name in sorted(names)]
        layout = keras_h5.lay_out(f"{round_}.h5", tensors, MODEL, {"head": sorted(names)[: rng.randrange(3)]})
        layout.create(tmp_path)
        size = (tmp_path / f"{round_}.h5").stat().st_size
        assert layout.sizes == {f"{round_}.h5": size}
        written = [len(fragment.content) for fragment in layout.fragments({})] + [each.nbytes for each in tensors]
        assert 0 <= size - sum(written) < 64 * (len(tensors) + 1)  # what aligning payloads takes


def test_shards_as_transformers_writes_them_are_indexed(tmp_path: Path) -> None:
    arrays = {"roformer/words/weight:0": values_of((5, 3), "float32", 1), "bias:0": values_of((4,), "float32", 2)}
    with h5py.File(tmp_path / "tf_model-00001-of-00002.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.attrs["layer_names"] = [name.encode() for name in arrays]
    index = keras_h5.index(tmp_path / "tf_model-00001-of-00002.h5")
    assert [tensor.name for tensor in index.tensors] == ["roformer/words/weight", "bias"]
    assert [read_stored(tensor) for tensor in index.tensors] == [array.tobytes() for array in arrays.values()]


def test_weights_of_no_layer_are_indexed(tmp_path: Path) -> None:
    write(tmp_path / "tf_model.h5", small_weights())
    with h5py.File(tmp_path / "tf_model.h5", "r+") as file:
        file["top_level_model_weights"].attrs["weight_names"] = [b"m/own/bias:0"]
        file["top_level_model_weights/m/own/bias:0"] = values_of((9,), "float32", 7)
    assert keras_h5.index(tmp_path / "tf_model.h5").tensors[-1].name == "own/bias"


KERAS_MODEL = """
import keras, numpy as np
model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(11, 6, name="Embedding-Token"),
    keras.layers.Dense(5, name="MLM-Dense"), keras.layers.Dense(3)])
model.compile("adam", "mse")
model.fit(np.ones((2, 4)), np.ones((2, 4, 3)), verbose=0)
model.save("whole.h5")
np.savez("values.npz", *[np.asarray(value) for value in model.get_weights()])
"""


def test_a_whole_model_of_keras_is_indexed_by_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="SKIPPED: no Keras")
    subprocess.run([sys.executable, "-c", KERAS_MODEL], cwd=tmp_path, capture_output=True, check=True)
    index = keras_h5.index(tmp_path / "whole.h5")
    with np.load(tmp_path / "values.npz") as values:
        assert [read_stored(tensor) for tensor in index.tensors] == [array.tobytes() for array in values.values()]
    assert [tensor.shape for tensor in index.tensors] == [(11, 6), (6, 5), (5,), (5, 3), (3,)]
    assert "Embedding-Token" in index.tensors[0].name
    assert index.metadata["optimizer_weights"] == "the optimizer's state"


@pytest.mark.parametrize("packed", [None, "gzip"])
def test_a_whole_model_holds_what_its_weights_alone_do(tmp_path: Path, packed: str | None) -> None:
    path = ROOT / "fixtures/cases/03-bert4keras-save-weights/best_model.weights"

    def put(name: str, found: h5py.Group | h5py.Dataset) -> None:
        made = (
            inner.create_dataset(name, data=found[()], compression=packed if found.size > 1 else None)
            if isinstance(found, h5py.Dataset)
            else inner.require_group(name)
        )
        for key, value in found.attrs.items():
            made.attrs[key] = value

    with h5py.File(path) as weights, h5py.File(tmp_path / "whole.h5", "w") as whole:
        inner = whole.create_group("model_weights")
        weights.visititems(put)
        for key, value in weights.attrs.items():
            inner.attrs[key] = value
        whole.create_group("optimizer_weights").attrs["weight_names"] = [b"Adam/iterations:0"]
        whole.attrs["model_config"] = "{" + " " * 60_000 + "}"
    expected, found = keras_h5.index(path), keras_h5.index(tmp_path / "whole.h5")
    assert [(tensor.name, read_stored(tensor)) for tensor in found.tensors] == [
        (tensor.name, read_stored(tensor)) for tensor in expected.tensors
    ]
    assert len(found.tensors) == 47
    assert found.metadata["optimizer_weights"] == "the optimizer's state"


def test_indexing_imports_neither_h5py_nor_numpy(tmp_path: Path) -> None:
    write(tmp_path / "tf_model.h5", small_weights())
    (tmp_path / "numpy.py").write_text("raise SystemExit('a module beside the checkpoint was imported')")
    program = (
        "import sys, pathlib; from roformer_convert.converters.containers.hdf5 import keras_h5;"
        "print(len(keras_h5.index(pathlib.Path('tf_model.h5')).tensors), {'h5py', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "set()"]


@pytest.mark.skipif(peer_python() is None, reason="SKIPPED: no environment with transformers 4 and TensorFlow")
def test_transformers_loads_what_we_write_and_computes_the_same(tmp_path: Path) -> None:
    tensors = [t for t in keras_h5.index(FOLDER / "tf_model.h5").tensors if "embed_positions" not in t.name]
    weights = {t.name: np.frombuffer(read_stored(t), dtype=t.dtype).reshape(t.shape) for t in tensors}
    shared = [name for name in weights if name.startswith("roformer/embeddings/")]
    assert len(tensors) == len(weights) + len(shared)
    write(tmp_path / "tf_model.h5", weights, {"mlm___cls": shared})
    shutil.copy(FOLDER / "config.json", tmp_path)
    program = """
import json, sys, numpy
from transformers import TFRoFormerForMaskedLM
model, info = TFRoFormerForMaskedLM.from_pretrained(sys.argv[1], output_loading_info=True)
logits = model(**{name: array for name, array in numpy.load(sys.argv[2] + "/inputs.npz").items()}).logits.numpy()
off = float(abs(logits - numpy.load(sys.argv[2] + "/logits.npy")).max())
print("\\n" + json.dumps({**{key: sorted(names) for key, names in info.items()}, "off": off}))
"""
    done = subprocess.run(
        [str(peer_python()), "-c", program, str(tmp_path), str(FOLDER)],
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert not answer["off"] > 1e-5  # float32 logits, two builds of TensorFlow
    assert answer["off"] == answer["off"]
    assert answer["missing_keys"] == ["roformer/encoder/embed_positions/weight:0"]
    assert answer["unexpected_keys"] == answer["mismatched_keys"] == []
