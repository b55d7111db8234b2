"""Files that are broken, damaged, missing or another's: each is told with its place and a next step."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_names import spelled
from random_checkpoints import CONFIG, random_tensors, read_all, same_bits, save, write_random
from refusals import misfit, refused
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertError, ConvertOptions, FormatError, MisfitError, convert, open_checkpoint
from roformer_convert.converters.table.mapping import MLM, POOLER, Dialect

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
    with pytest.raises(ConvertError, match="not a regular file\n  Put the file itself there"):
        convert(tmp_path / "ckpt", to="torch" if kind != "torch" else "paddle")
    with pytest.raises(ConvertError, match="not a regular file"):
        convert(tmp_path / "ckpt" / name, to="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_a_configuration_that_is_not_there_comes_with_what_to_do(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    with pytest.raises(ConvertError, match=r"none\.json: No such file or directory\n  Look for how it is spelled\."):
        convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(config=tmp_path / "none.json"))


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
    assert "not weights but a text, which begins 'hello, world'" in str(refused(tmp_path / "notes.txt", "torch"))
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    assert "not a known kind of weight file" in str(refused(tmp_path / "noise", "torch"))


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
