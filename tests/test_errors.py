"""What a misfit or a broken file answers: all problems at once, layers folded, status 2, and nothing written."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_names import spelled, stored_in
from peer_folders import PEERS
from random_checkpoints import (
    CONFIG,
    add_rotary_table,
    file_bytes,
    random_tensors,
    read_all,
    rotary_table,
    same_bits,
    save,
    write_random,
)
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import (
    ConvertError,
    ConvertOptions,
    FormatError,
    MisfitError,
    Problem,
    Watcher,
    convert,
    json_input,
    open_checkpoint,
)
from roformer_convert.converters.errors import fold_layers
from roformer_convert.converters.table.mapping import MLM, POOLER, Dialect

Arrays = dict[str, Any]


def drop(arrays: Arrays, *names: str) -> None:
    for name in tuple(names):
        del arrays[name]


def edit(directory: Path, change: Callable[[Arrays], None]) -> None:
    """Rewrite a safetensors file with some tensors changed."""
    path = directory / "model.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)


def refused(directory: Path, to: Dialect = "tf1", **options: Any) -> ConvertError:
    """Convert, which must fail and leave the parent as it was; return the error."""
    before = file_bytes(directory.parent)
    folders = sorted(path.name for path in directory.parent.iterdir())
    with pytest.raises(ConvertError) as caught:
        convert(directory, directory.parent / "out", to=to, options=ConvertOptions(**options))
    assert sorted(path.name for path in directory.parent.iterdir()) == folders
    assert file_bytes(directory.parent) == before
    return caught.value


def misfit(directory: Path, to: Dialect = "tf1", **options: Any) -> list[tuple[str, str]]:
    """Convert, which must fail with a misfit; return (kind, name) of its problems."""
    error = refused(directory, to, **options)
    assert isinstance(error, MisfitError), error
    return [(problem.kind, problem.name) for problem in error.problems]


@pytest.fixture(params=["paddle", "torch"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return "paddle" if request.param == "paddle" else "torch"


@pytest.fixture
def ckpt(tmp_path: Path, dialect: Dialect) -> Path:
    """A checkpoint in safetensors, which the tests can edit with the format's own library."""
    write_random(tmp_path / "ckpt", dialect, container="safetensors")
    return tmp_path / "ckpt"


# --- tensors against the table --------------------------------------------------------------------------------------


def test_a_missing_tensor_is_named(ckpt: Path, dialect: Dialect) -> None:
    for canonical in (
        "layers.1.feed_forward_norm.bias",
        "embeddings.project.weight",
        "mlm.norm.weight",
        "pooler.bias",
        "sop.weight",
        "embeddings.word.weight",
    ):
        name = stored_in(canonical, dialect).name
        kept = (ckpt / "model.safetensors").read_bytes()
        edit(ckpt, lambda arrays, name=name: drop(arrays, name))  # type: ignore[misc]
        assert ("missing", name) in misfit(ckpt)
        (ckpt / "model.safetensors").write_bytes(kept)


def test_missing_layers_are_folded_and_counted(ckpt: Path, dialect: Dialect) -> None:
    names = [stored_in(f"layers.{layer}.attention_norm.bias", dialect).name for layer in range(3)]
    edit(ckpt, lambda arrays: drop(arrays, *names))
    error = refused(ckpt)
    folded = names[0].replace("layers.0.", "layers.{0...2}.").replace("layer.0.", "layer.{0...2}.")
    assert re.search(rf"missing +{re.escape(folded)} +3 tensors", str(error))
    assert "(3 problems, nothing written)" in str(error)


def test_a_missing_layer_between_is_missing(ckpt: Path, dialect: Dialect) -> None:
    edit(ckpt, lambda arrays: drop(arrays, *(name for name in arrays if re.search(r"layers?\.1\.", name))))
    problems = misfit(ckpt)
    assert len(problems) == 16
    assert {kind for kind, _ in problems} == {"missing"}


def test_an_unknown_tensor_is_named_with_what_it_looks_like(ckpt: Path) -> None:
    extra = {"classifier.weight": np.ones((3, 24), np.float32), "my.own.thing": np.ones(5, np.float32)}
    edit(ckpt, lambda arrays: arrays.update(extra))
    error = refused(ckpt)
    assert isinstance(error, MisfitError)
    assert {(problem.kind, problem.name) for problem in error.problems} == {("unknown", name) for name in extra}
    assert "classifier.weight" in str(error)
    assert "looks like a fine-tuned head" in str(error)
    assert "shape (5,)" in str(error)


@pytest.mark.parametrize("said", [2, 4, 9])
def test_another_number_of_layers_is_one_line(ckpt: Path, said: int) -> None:
    path = ckpt / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": said}))
    error = refused(ckpt)
    assert isinstance(error, MisfitError)
    assert error.problems == (
        Problem("configuration", "num_hidden_layers", f"{said} in config.json, the tensors show 3 layers"),
    )


def test_a_stray_tensor_of_one_more_layer_is_unknown(ckpt: Path, dialect: Dialect) -> None:
    name = stored_in("layers.0.attention_norm.bias", dialect).name.replace("r.0.", "r.3.").replace("s.0.", "s.3.")
    edit(ckpt, lambda arrays: arrays.update({name: np.ones(24, np.float32)}))
    assert misfit(ckpt) == [("unknown", name)]


def test_configuration_tensors_and_vocabulary_are_told_together(ckpt: Path, dialect: Dialect) -> None:
    path = ckpt / "config.json"
    wrong = {"num_attention_heads": 5, "intermediate_size": "34", "num_hidden_layers": 4}
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    (ckpt / "vocab.txt").write_text("x\n" * 9)
    name = stored_in("pooler.bias", dialect).name
    edit(ckpt, lambda arrays: drop(arrays, name))
    told = [
        ("configuration", "intermediate_size"),
        ("configuration", "num_attention_heads"),
        ("configuration", "num_hidden_layers"),
        ("missing", name),
    ]
    assert sorted(misfit(ckpt)) == sorted([*told, ("vocabulary", "vocab.txt")])
    assert sorted(misfit(ckpt, any_vocab=True)) == sorted(told)


def test_a_misshapen_tensor_is_told_with_symbol_and_field(ckpt: Path, dialect: Dialect) -> None:
    name, transposed = stored_in("layers.2.feed_forward.up.weight", dialect)
    edit(ckpt, lambda arrays: arrays.update({name: np.ones((33, 24), np.float32)}))
    error = refused(ckpt)
    want = "want (H, F) = (24, 34)" if transposed else "want (F, H) = (34, 24)"
    assert f"got (33, 24), {want}" in str(error)
    assert "F is intermediate_size in config.json" in str(error)


def test_a_transposed_tensor_is_misshapen(ckpt: Path, dialect: Dialect) -> None:
    """Nothing is transposed to make it fit."""
    for canonical in (
        "layers.0.feed_forward.down.weight",
        "embeddings.word.weight",
        "mlm.transform.weight",
        "sop.weight",
    ):
        name = stored_in(canonical, dialect).name
        kept = (ckpt / "model.safetensors").read_bytes()
        edit(ckpt, lambda arrays, name=name: arrays.update({name: np.ascontiguousarray(arrays[name].T)}))  # type: ignore[misc]
        assert ("shape", name) in misfit(ckpt)
        (ckpt / "model.safetensors").write_bytes(kept)


def test_a_tensor_of_integers_is_of_the_wrong_type(ckpt: Path, dialect: Dialect) -> None:
    name = stored_in("layers.0.attention.query.bias", dialect).name
    edit(ckpt, lambda arrays: arrays.update({name: np.arange(24, dtype=np.int64)}))
    error = refused(ckpt)
    assert "got int64, want float32 or float16 or bfloat16 or float64" in str(error)


def test_tied_tensors_that_differ_are_told_with_the_element(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")

    def untie(arrays: Arrays) -> None:
        decoder = arrays["roformer.embeddings.word_embeddings.weight"].copy()
        decoder[17, 9] = np.nextafter(decoder[17, 9], np.float32(9))
        arrays["cls.predictions.decoder.weight"] = decoder

    edit(tmp_path / "ckpt", untie)
    error = refused(tmp_path / "ckpt")
    assert "tied" in str(error)
    assert "cls.predictions.decoder.weight" in str(error)
    assert "first at element (17, 9)" in str(error)


def test_tied_tensors_that_are_equal_are_one(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch")
    words = "roformer.embeddings.word_embeddings.weight"
    edit(tmp_path / "ckpt", lambda arrays: arrays.update({"cls.predictions.decoder.weight": arrays[words].copy()}))
    report = convert(tmp_path / "ckpt", to="tf1")
    assert set(report.duplicates) == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert same_bits(read_all(report.target), tensors) == []


def test_a_bias_under_its_second_name_alone_is_the_bias(tmp_path: Path) -> None:
    """Releases of transformers have written cls.predictions.decoder.bias and no cls.predictions.bias."""
    tensors = write_random(tmp_path / "ckpt", "torch")
    edit(tmp_path / "ckpt", lambda arrays: drop(arrays, "cls.predictions.bias"))
    report = convert(tmp_path / "ckpt", to="tf1")
    assert same_bits(read_all(report.target), tensors) == []
    assert any("cls.predictions.decoder.bias is taken for cls.predictions.bias" in note for note in report.notes)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.ones((61, 13), np.float32), "(61, 13)"), (np.ones((61, 14), np.float16), "float16")],
)
def test_tied_tensors_of_other_shapes_or_types_differ(tmp_path: Path, value: Any, words: str) -> None:
    write_random(tmp_path / "ckpt", "paddle", container="safetensors")
    edit(tmp_path / "ckpt", lambda arrays: arrays.update({"cls.predictions.decoder_weight": value}))
    assert words in str(refused(tmp_path / "ckpt"))


@pytest.mark.parametrize("fault", ["value", "shape", "nan"])
@pytest.mark.parametrize("kind", ["torch", "tf"])
def test_a_rotary_table_of_another_configuration_is_told(tmp_path: Path, kind: Dialect, fault: str) -> None:
    write_random(tmp_path / "ckpt", kind)
    table = rotary_table(53) if fault == "shape" else rotary_table()
    if fault != "shape":
        table[20, 4] += 1e-5 if fault == "value" else np.nan
    add_rotary_table(tmp_path / "ckpt", kind, table=table)
    error = refused(tmp_path / "ckpt")
    assert "embed_positions" in str(error)
    if fault == "shape":
        assert "got (53, 6), want (max_position_embeddings, head size) = (47, 6)" in str(error)
        assert "correct max_position_embeddings or the number of heads" in str(error)
    else:
        assert "differs from the rotary table" in str(error)


def test_a_configuration_that_contradicts_the_tensors_is_told(ckpt: Path) -> None:
    path = ckpt / "config.json"
    settings = json.loads(path.read_text())
    for key, value, words in (
        ("vocab_size", 60, "V is vocab_size in config.json"),
        ("type_vocab_size", 2, "S is type_vocab_size in config.json"),
        ("intermediate_size", 35, "F is intermediate_size in config.json"),
        ("hidden_size", 32, "H is hidden_size in config.json"),
        ("embedding_size", 16, "E is embedding_size in config.json"),
        ("num_hidden_layers", 4, "4 in config.json, the tensors show 3 layers"),
    ):
        path.write_text(json.dumps({**settings, key: value}))
        assert words in str(refused(ckpt)), key


def test_a_projection_where_the_configuration_has_none_is_told(ckpt: Path, dialect: Dialect) -> None:
    path = ckpt / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "embedding_size": 24}))
    assert ("unwanted", stored_in("embeddings.project.weight", dialect).name) in misfit(ckpt)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("roformer.embeddings.position_embeddings.weight", "This looks like BERT"),
    ],
)
def test_what_is_no_head_is_not_called_one(ckpt: Path, name: str, words: str) -> None:
    edit(ckpt, lambda arrays: arrays.update({name: np.ones((47, 24), np.float32)}))
    assert words in str(refused(ckpt))


def test_every_problem_is_told_at_once(ckpt: Path, dialect: Dialect) -> None:
    def spoil(arrays: Arrays) -> None:
        for layer in range(3):
            del arrays[stored_in(f"layers.{layer}.feed_forward_norm.bias", dialect).name]
        arrays["classifier.bias"] = np.ones(3, np.float32)
        arrays[stored_in("mlm.transform.bias", dialect).name] = np.ones(15, np.float32)
        arrays[stored_in("pooler.bias", dialect).name] = np.ones(24, np.int32)
        tie = "cls.predictions.decoder_weight" if dialect == "paddle" else "cls.predictions.decoder.weight"
        arrays[tie] = np.ones((61, 14), np.float32)

    edit(ckpt, spoil)
    problems = misfit(ckpt)
    assert sorted({kind for kind, _ in problems}) == ["dtype", "missing", "shape", "tied", "unknown"]
    assert len(problems) == 7


def test_a_file_of_another_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    save_file(
        {f"bert.encoder.layer.{i}.x.{j}": np.ones(3, np.float32) for i in range(4) for j in range(4)},
        tmp_path / "ckpt" / "model.safetensors",
    )
    write_random(tmp_path / "v1", "torch")
    shutil.copy(tmp_path / "v1" / "config.json", tmp_path / "ckpt" / "config.json")
    error = refused(tmp_path / "ckpt")
    assert "names  16 tensors   BERT's" in str(error)


def test_the_wrong_direction_is_told(ckpt: Path, dialect: Dialect) -> None:
    """paddle2torch on a torch directory: the names decide what it is."""
    other: Dialect = "torch" if dialect == "paddle" else "paddle"
    error = refused(ckpt, "tf", dialect=other)
    assert dialect in str(error)


@pytest.mark.parametrize("to", ["torch", "paddle", "tf"])
def test_a_head_that_no_file_names_is_asked_for(tmp_path: Path, to: Dialect) -> None:
    """Its tensors may be a token classifier's, and somebody's own as well."""
    shutil.copytree(PEERS / "hf4-TokenClassification_default_st", tmp_path / "ckpt")
    path = tmp_path / "ckpt" / "config.json"
    settings = json.loads(path.read_text())
    del settings["architectures"]
    path.write_text(json.dumps(settings))
    error = refused(tmp_path / "ckpt", to)
    assert isinstance(error, MisfitError)
    assert [(problem.kind, problem.name) for problem in error.problems] == [("class", "the model's class")]
    assert "token-classification (a label for each token)" in str(error)
    assert "--class token-classification" in str(error)
    options = ConvertOptions(model_class="token-classification")
    report = convert(tmp_path / "ckpt", tmp_path / "said", to=to, options=options)
    assert report.plan.kind.name == "token-classification"


# --- files ----------------------------------------------------------------------------------------------------------

#: (dialect, container) → the file that holds the payload.
WEIGHTS = {
    ("paddle", "pdparams"): "model_state.pdparams",
    ("torch", "safetensors"): "model.safetensors",
    ("torch", "bin"): "pytorch_model.bin",
    ("tf", "h5"): "tf_model.h5",
    ("tf1", "ckpt"): "bert_model.ckpt.data-00000-of-00001",
}
EACH = pytest.mark.parametrize(("kind", "container"), WEIGHTS, ids=["-".join(pair) for pair in WEIGHTS])


@EACH
def test_a_file_that_was_cut_short_is_to_be_fetched_again(tmp_path: Path, kind: Dialect, container: str) -> None:
    write_random(tmp_path / "ckpt", kind, container=container)
    for name in {WEIGHTS[kind, container], WEIGHTS[kind, container].replace("data-00000-of-00001", "index")}:
        path = tmp_path / "ckpt" / name
        whole = path.read_bytes()
        for size in (len(whole) - 1, len(whole) // 2, 40, 0):
            path.write_bytes(whole[:size])
            error = str(refused(tmp_path / "ckpt", "torch" if kind != "torch" else "paddle"))
            assert f"{name}" in error
            assert error.splitlines()[-1].startswith("  Fetch it again: "), error
        path.write_bytes(whole)


STAND_INS = {
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 512000000\n",
    "a web page": b"\n<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n",
}


@pytest.mark.parametrize("words", STAND_INS)
@EACH
def test_what_a_download_left_in_a_weight_files_place_is_named(
    tmp_path: Path, kind: Dialect, container: str, words: str
) -> None:
    write_random(tmp_path / "ckpt", kind, container=container)
    for name in {WEIGHTS[kind, container], WEIGHTS[kind, container].replace("data-00000-of-00001", "index")}:
        path = tmp_path / "ckpt" / name
        whole = path.read_bytes()
        path.write_bytes(STAND_INS[words])
        error = str(refused(tmp_path / "ckpt", "torch" if kind != "torch" else "paddle"))
        assert f"{name}: not the weights but" in error
        assert words in error
        path.write_bytes(whole)


def test_a_pointer_of_git_lfs_under_any_name_is_named(tmp_path: Path) -> None:
    for name in ("weights.dat", "my_model.pt"):
        (tmp_path / name).write_bytes(STAND_INS["git lfs pull"])
        with pytest.raises(FormatError, match=f"{name}: not the weights but Git LFS's pointer"):
            convert(tmp_path / name, to="torch")
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "my_model.pt").rename(tmp_path / "ckpt" / "my_model.pt")
    assert "my_model.pt: not the weights but Git LFS's pointer" in str(refused(tmp_path / "ckpt", "paddle"))


@EACH
def test_noise_under_a_weight_files_name_is_told(tmp_path: Path, kind: Dialect, container: str) -> None:
    write_random(tmp_path / "ckpt", kind, container=container)
    name = WEIGHTS[kind, container].replace("data-00000-of-00001", "index")
    (tmp_path / "ckpt" / name).write_bytes(np.random.default_rng(5).bytes(5000))
    refused(tmp_path / "ckpt", "torch" if kind != "torch" else "paddle")


def test_a_wrong_checksum_of_a_tf_checkpoint_is_told_with_the_tensor(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1")
    path = tmp_path / "ckpt" / WEIGHTS["tf1", "ckpt"]
    whole = bytearray(path.read_bytes())
    want = tensors["layers.1.feed_forward.up.weight"].T.tobytes()
    at = whole.index(want)
    whole[at + 100] ^= 1
    path.write_bytes(whole)
    error = refused(tmp_path / "ckpt", "torch")
    assert isinstance(error, FormatError)
    assert "bert/encoder/layer_1/intermediate/dense/kernel" in str(error)
    assert "CRC" in str(error).upper()


def test_optimizer_slots_of_a_tf_checkpoint_are_left_out_and_counted(tmp_path: Path) -> None:
    from test_mapping import write_tf1

    tensors = random_tensors(CONFIG, (MLM,))
    arrays = spelled(tensors, "tf1")
    slots = {}
    for name in list(arrays):
        for slot in ("adam_m", "adam_v"):
            slots[f"{name}/{slot}"] = np.zeros_like(arrays[name])
    slots["global_step"] = np.array(1000, np.int64)
    (tmp_path / "ckpt").mkdir()
    write_tf1(tmp_path / "ckpt", {**arrays, **slots})
    save(tmp_path / "plain", "tf1", tensors, CONFIG)
    shutil.copy(tmp_path / "plain" / "bert_config.json", tmp_path / "ckpt")
    report = convert(tmp_path / "ckpt", to="torch")
    assert same_bits(read_all(report.target), tensors) == []
    assert any(
        "left out because they are not weights" in note and f"{len(slots) - 1} more" in note for note in report.notes
    )


def test_a_slot_of_no_known_optimizer_is_unknown(tmp_path: Path) -> None:
    from test_mapping import write_tf1

    tensors = random_tensors(CONFIG, (MLM,))
    arrays = spelled(tensors, "tf1")
    arrays["bert/embeddings/word_embeddings/ema"] = np.ones(3, np.float32)
    (tmp_path / "ckpt").mkdir()
    write_tf1(tmp_path / "ckpt", arrays)
    save(tmp_path / "plain", "tf1", tensors, CONFIG)
    shutil.copy(tmp_path / "plain" / "bert_config.json", tmp_path / "ckpt")
    assert misfit(tmp_path / "ckpt", "torch") == [("unknown", "bert/embeddings/word_embeddings/ema")]


class Bomb:
    """Would make a file when a pickle that holds it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["paddle", "torch"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    write_random(
        tmp_path / "ckpt", "paddle" if kind == "paddle" else "torch", container="bin" if kind == "torch" else None
    )
    ran = tmp_path / "ran"
    payload = {"roformer.embeddings.word_embeddings.weight": Bomb(ran)}
    if kind == "paddle":
        (tmp_path / "ckpt" / "model_state.pdparams").write_bytes(pickle.dumps(payload, protocol=4))
    else:
        with zipfile.ZipFile(tmp_path / "ckpt" / "pytorch_model.bin", "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
            file.writestr("archive/version", "3\n")
    error = refused(tmp_path / "ckpt", "tf1")
    assert "mkdir" in str(error)
    assert not ran.exists()


@pytest.mark.parametrize(("kind", "container"), [("paddle", "pdparams"), ("torch", "safetensors"), ("torch", "bin")])
def test_an_index_that_names_a_missing_shard_is_told(tmp_path: Path, kind: Dialect, container: str) -> None:
    write_random(tmp_path / "ckpt", kind, container=container, max_shard_size=3000)
    shards = sorted(path for path in (tmp_path / "ckpt").iterdir() if "-of-" in path.name)
    for shard in shards[1:3]:
        shard.unlink()
    assert misfit(tmp_path / "ckpt") == [("missing", shard.name) for shard in shards[1:3]]


@pytest.mark.parametrize(("kind", "container"), [("paddle", "pdparams"), ("torch", "safetensors"), ("torch", "bin")])
def test_every_damaged_shard_is_told_at_once(tmp_path: Path, kind: Dialect, container: str) -> None:
    write_random(tmp_path / "ckpt", kind, container=container, max_shard_size=3000)
    shards = sorted(path for path in (tmp_path / "ckpt").iterdir() if "-of-" in path.name)
    broken = [shards[1], shards[4]]
    for shard in broken:
        shard.write_bytes(shard.read_bytes()[:-9])
    assert misfit(tmp_path / "ckpt") == [("damaged", shard.name) for shard in broken]
    assert str(refused(tmp_path / "ckpt")).endswith("Fetch it again: a download or a copy of it was cut short.")
    broken[1].write_bytes(STAND_INS["git lfs pull"])
    assert str(refused(tmp_path / "ckpt")).endswith("Fetch these files again.")


@pytest.mark.parametrize(
    "outside", ["../elsewhere.safetensors", "/etc/passwd", "a\\b", "", ".", "..", "sub/x", "c:x", "a\0b"]
)
def test_an_index_that_leads_outside_its_directory_is_told(tmp_path: Path, outside: str) -> None:
    write_random(tmp_path / "ckpt", "torch", max_shard_size=3000)
    write_random(tmp_path / "other", "torch")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "elsewhere.safetensors")
    path = tmp_path / "ckpt" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["cls.predictions.bias"] = outside
    path.write_text(json.dumps(index))
    assert misfit(tmp_path / "ckpt") == [("outside", outside)]


@pytest.mark.parametrize("fault", ["moved", "unlisted", "absent", "twice"])
def test_shards_and_index_that_disagree_are_told(tmp_path: Path, fault: str) -> None:
    write_random(tmp_path / "ckpt", "torch", max_shard_size=3000)
    path = tmp_path / "ckpt" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    name = "cls.predictions.bias"
    home = index["weight_map"][name]
    other = next(file for file in files if file != home)
    if fault == "moved":
        index["weight_map"][name] = other
    elif fault == "unlisted":
        del index["weight_map"][name]
    elif fault == "absent":
        index["weight_map"]["cls.predictions.extra"] = home
    else:
        arrays = load_file(tmp_path / "ckpt" / other)
        arrays[name] = load_file(tmp_path / "ckpt" / home)[name]
        save_file(arrays, tmp_path / "ckpt" / other)
    path.write_text(json.dumps(index))
    word = {"moved": "misplaced", "unlisted": "unlisted", "absent": "missing", "twice": "twice"}[fault]
    want = "cls.predictions.extra" if fault == "absent" else name
    assert (word, want) in misfit(tmp_path / "ckpt")


@pytest.mark.parametrize(
    "text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "{", '{"weight_map": {"a": 3}}']
)
def test_an_index_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    write_random(tmp_path / "ckpt", "torch", max_shard_size=3000)
    (tmp_path / "ckpt" / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in str(refused(tmp_path / "ckpt"))


def test_a_directory_of_two_models_is_told_and_one_can_be_named(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle")
    others = write_random(tmp_path / "other", "torch", seed=1)
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "ckpt")
    error = refused(tmp_path / "ckpt", "tf1")
    assert isinstance(error, MisfitError)
    assert {problem.name for problem in error.problems} == {"model_state.pdparams", "model.safetensors"}
    assert "or its dialect with --from paddle or torch." in str(error)
    convert(tmp_path / "ckpt", tmp_path / "four", to="torch", options=ConvertOptions(dialect="paddle"))
    assert same_bits(read_all(tmp_path / "four"), tensors) == []
    convert(tmp_path / "ckpt", tmp_path / "three", to="paddle", options=ConvertOptions(dialect="torch"))
    convert(tmp_path / "ckpt" / "model_state.pdparams", tmp_path / "one", to="tf1")
    assert same_bits(read_all(tmp_path / "one"), tensors) == []
    convert(tmp_path / "ckpt" / "model.safetensors", tmp_path / "two", to="tf1")
    assert same_bits(read_all(tmp_path / "two"), others) == []


def test_a_dialect_is_not_offered_where_it_does_not_decide(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    write_random(tmp_path / "other", "torch", container="bin", seed=1)
    shutil.copy(tmp_path / "other" / "pytorch_model.bin", tmp_path / "ckpt")
    assert misfit(tmp_path / "ckpt") == [("weights", "model.safetensors"), ("weights", "pytorch_model.bin")]
    assert "--from" not in str(refused(tmp_path / "ckpt"))
    write_random(tmp_path / "paddle", "paddle", container="safetensors")
    shutil.copy(tmp_path / "paddle" / "model.safetensors", tmp_path / "ckpt")
    assert "or its dialect with --from paddle or torch." in str(refused(tmp_path / "ckpt"))


def test_a_dialect_that_was_named_wrongly_is_to_be_left_out(tmp_path: Path) -> None:
    for name in ("bin", "safetensors"):
        write_random(tmp_path / name, "torch", container=name)
        said = str(refused(tmp_path / name, "tf", dialect="paddle"))
        assert "Without --from the dialect is detected: `roformer-convert convert SOURCE --to …`." in said


def test_two_tf1_checkpoints_in_one_directory_are_two_models(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1")
    write_random(tmp_path / "later", "tf1", seed=1)
    for path in (tmp_path / "later").glob("bert_model.ckpt.*"):
        shutil.copy(path, tmp_path / "ckpt" / path.name.replace("bert_model", "model-9"))
    assert ("weights", "model-9.ckpt.index") in misfit(tmp_path / "ckpt", "torch")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("paddle", "model_state.pdparams"),
        ("paddle", "config.json"),
        ("paddle", "vocab.txt"),
        ("torch", "model.safetensors"),
        ("tf", "tf_model.h5"),
        ("tf1", "bert_model.ckpt.index"),
        ("tf1", "bert_model.ckpt.data-00000-of-00001"),
        ("tf1", "bert_config.json"),
    ],
)
def test_a_pipe_instead_of_a_file_is_refused_and_not_waited_for(tmp_path: Path, kind: Dialect, name: str) -> None:
    write_random(tmp_path / "ckpt", kind)
    (tmp_path / "ckpt" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "ckpt" / name)
    with pytest.raises(ConvertError, match="not a regular file"):
        convert(tmp_path / "ckpt", to="torch" if kind != "torch" else "paddle")
    with pytest.raises(ConvertError, match="not a regular file"):
        convert(tmp_path / "ckpt" / name, to="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize("name", ["model_state.pdparams", "config.json", "vocab.txt"])
def test_a_directory_instead_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / name).unlink(missing_ok=True)
    (tmp_path / "ckpt" / name).mkdir()
    assert name in str(refused(tmp_path / "ckpt", "torch"))


@pytest.mark.parametrize("name", ["model_state.pdparams", "config.json", "vocab.txt"])
def test_a_link_that_leads_nowhere_is_not_taken_for_an_absent_file(tmp_path: Path, name: str) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / name).unlink(missing_ok=True)
    (tmp_path / "ckpt" / name).symlink_to("gone")
    error = str(refused(tmp_path / "ckpt", "torch"))
    assert f"{name}: a link to gone, which is not there" in error


def test_nothing_to_convert_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no RoFormer weights here; looked for model.safetensors" in str(refused(tmp_path / "empty", "torch"))
    assert "no such file or directory" in str(refused(tmp_path / "absent", "torch"))
    (tmp_path / "notes.txt").write_text("hello, world")
    assert "not a known kind of weight file" in str(refused(tmp_path / "notes.txt", "torch"))


def test_a_file_without_tensors_is_told(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    header = b'{"__metadata__":{"format":"pt"}}'
    (tmp_path / "ckpt" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "none is there at all" in str(refused(tmp_path / "ckpt"))


def test_a_model_without_layers_is_no_roformer_or_an_empty_one(tmp_path: Path) -> None:
    """No crash either way: the configuration says zero layers, and the tensors have none."""
    from dataclasses import replace

    config = replace(CONFIG, num_hidden_layers=0)
    tensors = random_tensors(config, (POOLER,))
    save(tmp_path / "ckpt", "torch", tensors, config)
    convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(tmp_path / "ckpt-paddle"), tensors) == []


def test_opening_names_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    with open_checkpoint(tmp_path / "ckpt") as opened:
        assert "mlm.bias" not in opened
        with pytest.raises(KeyError, match=r"mlm\.bias"):
            opened.read("mlm.bias")


# --- how it is said -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", ["9" * 5000, "٩" * 3])
def test_digits_that_are_no_layer_number_are_left_as_they_are(digits: str) -> None:
    problems = [Problem("unknown", f"encoder.layer.{number}.weight", "") for number in (digits, "3", "4")]
    assert fold_layers(problems) == [(problems[0], 1), (Problem("unknown", "encoder.layer.{3...4}.weight", ""), 2)]


def test_a_key_given_twice_is_found_without_comparing_every_pair() -> None:
    compared = 0

    class Key(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    keys = [Key(f"k{number}") for number in range(1000)]
    with pytest.raises(ValueError, match="'k999' is given twice"):
        json_input._once([(key, 0) for key in [*keys, Key("k999")]])
    assert compared < 5 * len(keys)


def test_layers_fold_only_where_all_else_is_equal() -> None:
    problems = [Problem("missing", f"layers.{i}.a.bias") for i in (0, 1, 2, 5, 7, 8)]
    problems += [Problem("missing", "layers.3.b"), Problem("shape", "layers.4.a.bias", "x"), Problem("missing", "top")]
    problems += [Problem("missing", "bert/encoder/layer_0/x"), Problem("missing", "bert/encoder/layer_1/x")]
    problems += [
        Problem("missing", "roformer/encoder/layer_._0/x"),
        Problem("missing", "roformer/encoder/layer_._11/x"),
    ]
    assert [(problem.name, count) for problem, count in fold_layers(problems)] == [
        ("layers.{0...2,5,7...8}.a.bias", 6),
        ("layers.3.b", 1),
        ("layers.4.a.bias", 1),
        ("top", 1),
        ("bert/encoder/layer_{0...1}/x", 2),
        ("roformer/encoder/layer_._{0,11}/x", 2),
    ]


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "roformer_convert", *map(str, words)], capture_output=True, text=True, timeout=120
    )


def test_the_command_says_it_on_stderr_and_exits_with_2(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")

    def spoil(arrays: Arrays) -> None:
        for layer in range(3):
            del arrays[f"roformer.encoder.layer.{layer}.output.LayerNorm.bias"]
        arrays["roformer.embeddings.word_embeddings.weight"] = np.ones((60, 14), np.float32)

    edit(tmp_path / "ckpt", spoil)
    done = command("torch2paddle", tmp_path / "ckpt")
    assert done.returncode == 2
    assert done.stdout == ""
    first, *problems = done.stderr.splitlines()
    assert first == (
        f"torch2paddle: {tmp_path}/ckpt/model.safetensors does not fit RoFormerForPretraining in torch's spelling "
        "(4 problems, nothing written)"
    )
    assert re.fullmatch(r"  shape +roformer\.embeddings\.word_embeddings\.weight +got \(60, 14\), .*", problems[0])
    assert re.fullmatch(
        r"  missing +roformer\.encoder\.layer\.\{0\.\.\.2\}\.output\.LayerNorm\.bias +3 tensors", problems[1]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "absent", "--to", "torch"],
        ["paddle2torch", "absent"],
        ["inspect", "absent"],
        ["diff", "absent", "absent"],
        ["convert", ".", "--to", "klingon"],
        ["paddle2torch", ".", "--max-shard-size", "many"],
        ["paddle2torch"],
        ["nonsense"],
        ["--nonsense"],
        ["convert", "--nonsense"],
        ["convert", "absent"],
    ],
    ids=" ".join,
)
def test_every_command_fails_with_2_and_without_a_traceback(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_source_whose_files_are_links_into_the_output_is_kept(tmp_path: Path) -> None:
    """``--force`` would otherwise replace the directory that the weights are in."""
    tensors = write_random(tmp_path / "real", "paddle")
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "real").iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    with pytest.raises(ConvertError, match="the output holds"):
        convert(tmp_path / "links", tmp_path / "real", to="torch", options=ConvertOptions(force=True))
    assert same_bits(read_all(tmp_path / "links"), tensors) == []


def test_a_source_that_changes_while_it_is_read_is_said_and_nothing_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    weights = tmp_path / "ckpt" / "model_state.pdparams"

    class Toucher(Watcher):
        def advance(self, nbytes: int) -> None:
            os.utime(weights, ns=(0, 12345))

    with pytest.raises(ConvertError, match=r"model_state\.pdparams: changed while it was read"):
        convert(tmp_path / "ckpt", to="torch", watcher=Toucher())
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"vocab_size": 61, "vocab_size": 62}', "the key 'vocab_size' is given twice"),
        ('{"foo": 1e999}', "too large a number"),
        ('{"foo": NaN}', "not a JSON number"),
        (r'{"foo": "\ud800"}', "half of a surrogate pair"),
        ('{"initializer_range": 1' + "0" * 400 + "}", "a number of at least 0"),
    ],
)
def test_a_configuration_that_readers_would_read_differently_is_refused(tmp_path: Path, text: str, words: str) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / "config.json").write_text(text)
    assert words in str(refused(tmp_path / "ckpt", "torch"))


def test_names_out_of_a_file_cannot_drive_a_terminal(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "ckpt").mkdir()
    save_file({"evil\x1b[31m\nname": np.zeros(3, np.float32)}, tmp_path / "ckpt" / "model.safetensors")
    (tmp_path / "ckpt" / "config.json").write_text("{}")
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(config=write_config(tmp_path)))
    message = str(caught.value)
    assert "\x1b" not in message
    assert r"evil\x1b[31m\nname" in message


def write_config(directory: Path) -> Path:
    path = directory / "some.json"
    sizes = {"vocab_size": 7, "hidden_size": 8, "intermediate_size": 4, "embedding_size": 8, "type_vocab_size": 2}
    path.write_text(json.dumps({**sizes, "num_hidden_layers": 1, "num_attention_heads": 2}))
    return path
