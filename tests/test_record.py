"""conversion.json: what it says of a conversion, and that it is in nobody's way."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import CONFIG, file_bytes, write_random

from roformer_convert.converters import ConvertOptions, convert
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.source.renaming import Parts
from roformer_convert.converters.table.differences import Difference
from roformer_convert.converters.version import __version__

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "conversion-json.md"


def record(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "conversion.json").read_text())
    return found


def write_source(directory: Path) -> None:
    write_random(directory, "torch", container="bin")
    (directory / "vocab.txt").write_text("".join(f"字{number}\n" for number in range(CONFIG.vocab_size)))
    (directory / "README.md").write_text("x")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transformers_version": "4.57.6"}))


def test_it_says_what_was_read_asked_for_done_and_left_out(tmp_path: Path) -> None:
    write_source(tmp_path / "ckpt")
    options = ConvertOptions(
        dtype="float16",
        max_shard_size="20KB",
        config=tmp_path / "ckpt" / "config.json",
        set={"hidden_dropout_prob": 0.25},
        parts=Parts(drop=("cls.seq_relationship.*",)),
    )
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="paddle", options=options)
    said = record(tmp_path / "out")
    assert said["schema"] == 1
    assert said["made_by"] == {"roformer-convert": __version__}
    source = said["source"]
    assert (source["name"], source["dialect"], source["container"]) == ("ckpt", "torch", "bin")
    assert source["written_by"] == {"transformers_version": "4.57.6"}
    assert {file["name"]: file["bytes"] for file in source["files"]} == {
        name: (tmp_path / "ckpt" / name).stat().st_size for name in ("pytorch_model.bin", "config.json", "vocab.txt")
    }
    for file in source["files"]:
        digest = hashlib.sha256((tmp_path / "ckpt" / file["name"]).read_bytes()).hexdigest()
        assert file.get("sha256") == (None if file["name"] == "pytorch_model.bin" else digest)
    files = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    del files["conversion.json"]
    assert {file["name"]: file["bytes"] for file in said["result"].pop("files")} == files
    assert said["result"] == {"dialect": "paddle", "container": "pdparams", "model_class": "RoFormerForMaskedLM"}
    assert said["options"] == {
        "dtype": "float16",
        "max_shard_size": "20KB",
        "config": "config.json",
        "set": {"hidden_dropout_prob": 0.25},
        "parts": {"drop": ["cls.seq_relationship.*"]},
    }
    data = report.as_dict()
    for key in ("tensors", "transposed", "cast", "computed", "tied_in_source", "differences", "notes", "verified"):
        assert said[key] == data[key], key
    assert said["cast"] == said["tensors"] > 0
    assert said["left_out"] == {
        "tensors": ["cls.seq_relationship.weight", "cls.seq_relationship.bias"],
        "entries": [],
        "files": ["README.md"],
    }
    assert said["verified"]


def test_it_says_what_was_assumed_and_what_was_allowed_to_differ(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1", "masked-lm-pooler")
    path = tmp_path / "ckpt" / "bert_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "roformer_convert"}))
    options = ConvertOptions(set={"layer_norm_eps": 0.01}, allow_different=True, verify=False)
    convert(tmp_path / "ckpt", tmp_path / "out", to="paddle", options=options)
    said = record(tmp_path / "out")
    assert "attention" in said["assumed"]
    (difference,) = said["differences"]
    assert set(difference) == {field.name for field in fields(Difference)}
    assert said["options"] == {"set": {"layer_norm_eps": 0.01}, "allow_different": True}
    assert said["verified"] is False


def test_it_holds_no_path_and_no_time(tmp_path: Path) -> None:
    write_source(tmp_path / "ckpt")
    (tmp_path / "ckpt" / "bert_config.json").write_text("{}")
    for name in ("one", "two"):
        convert(tmp_path / "ckpt", tmp_path / name, to="tf")
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")
    assert str(tmp_path) not in (tmp_path / "one" / "conversion.json").read_text()


def test_a_later_conversion_has_its_own_alone(tmp_path: Path) -> None:
    write_source(tmp_path / "ckpt")
    convert(tmp_path / "ckpt", tmp_path / "there", to="paddle")
    report = convert(tmp_path / "there", tmp_path / "back", to="torch")
    assert report.left_behind == ()
    said = record(tmp_path / "back")
    assert said["source"]["name"] == "there"
    assert "conversion.json" not in json.dumps(said)
    assert inspect(tmp_path / "there").companions == ("vocab.txt",)


def test_a_result_can_be_replaced(tmp_path: Path) -> None:
    write_source(tmp_path / "ckpt")
    convert(tmp_path / "ckpt", tmp_path / "out", to="paddle")
    convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=ConvertOptions(force=True))
    assert record(tmp_path / "out")["result"]["dialect"] == "torch"


def test_a_file_name_that_is_no_text_is_recorded(tmp_path: Path) -> None:
    write_source(tmp_path / "ckpt")
    try:
        (tmp_path / "ckpt" / "notes\udcff.txt").write_text("x")
    except OSError:
        pytest.skip("this file system wants names that are text")
    convert(tmp_path / "ckpt", tmp_path / "out", to="paddle")
    assert record(tmp_path / "out")["left_out"]["files"] == ["README.md", "notes\udcff.txt"]


def test_every_key_is_documented(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    convert(tmp_path / "ckpt", tmp_path / "out", to="torch")
    said = record(tmp_path / "out")
    wanted = set(said) - {"source", "result"} | {f"source.{key}" for key in said["source"]} | {"result"}
    cells = [line.split("|")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)} == wanted
