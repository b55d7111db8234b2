"""Every class and trait of the family: what converts comes back bit for bit, what cannot be is refused by its name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from family_folders import (
    DIFFERENT,
    EXPRESSIBLE,
    FAMILY,
    NAMELESS,
    SET,
    options,
    refused,
    source_of,
)
from peer_folders import PEERS
from random_checkpoints import Tensors, same_bits

from roformer_convert.converters import ConvertError, ConvertOptions, RoFormerConfig, convert, open_checkpoint
from roformer_convert.converters.errors import InexpressibleError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.table.config_fields import RECORD
from roformer_convert.converters.table.mapping import Dialect


def read(path: Path, **said: object) -> tuple[Tensors, RoFormerConfig, str]:
    with open_checkpoint(path, **said) as checkpoint:  # type: ignore[arg-type]
        return {name: checkpoint.read(name) for name in checkpoint}, checkpoint.config, checkpoint.model_class


def pairs(given: tuple[tuple[str, Dialect], ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("folder", "dialect"), given, ids=[f"{one}.{to}" for one, to in given])


def test_every_folder_and_dialect_is_decided_once() -> None:
    assert len(FAMILY) == 58
    assert len(EXPRESSIBLE) + len(DIFFERENT) + len(NAMELESS) == 4 * len(FAMILY)
    assert all(refused(folder, source_of(folder)) == () for folder in FAMILY)


@pairs(EXPRESSIBLE)
def test_what_can_be_expressed_converts_there_and_back_bit_for_bit(
    tmp_path: Path, folder: str, dialect: Dialect
) -> None:
    source = PEERS / folder
    report = convert(source, tmp_path / "there", to=dialect, options=options(folder, dialect))
    assert report.plan.differences == ()
    # its own keys say all of it, but for the mask of a TF1 checkpoint, which is code there: a record for ourselves
    # would hide from every other check that they say something else
    said = json.loads((tmp_path / "there" / report.plan.config_name).read_text())
    assert said.get(RECORD, {}).keys() <= ({"attention"} if dialect == "tf1" else set())
    convert(tmp_path / "there", tmp_path / "back", to=source_of(folder))
    if "bfloat16" in folder and dialect == "tf":  # float32 holds every bfloat16: the way back rounds nothing
        convert(tmp_path / "there", tmp_path / "again", to="torch", options=ConvertOptions(dtype="bfloat16"))
        assert same_bits(read(tmp_path / "again")[0], read(source)[0]) == []
        return
    tensors, config, kind = read(source, set=SET.get(folder))
    for where in ("there", "back"):
        got, again, named = read(tmp_path / where)
        assert same_bits(got, tensors) == []
        assert again == config
        assert named == kind


@pairs(DIFFERENT)
def test_another_function_is_refused_by_its_field_and_written_where_that_is_allowed(
    tmp_path: Path, folder: str, dialect: Dialect
) -> None:
    source = PEERS / folder
    with pytest.raises(InexpressibleError) as caught:
        convert(source, tmp_path / "there", to=dialect, options=options(folder, dialect))
    told = re.findall(r"^  ([\w.]+): .+ here; .+ \(.+\)$", str(caught.value), re.MULTILINE)
    assert tuple(told) == refused(folder, dialect)
    assert "--allow-different" in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    report = convert(source, tmp_path / "there", to=dialect, options=options(folder, dialect, allow_different=True))
    assert [one.field for one in report.plan.differences] == told
    tensors, config, kind = read(source, set=SET.get(folder))
    got, said, named = read(tmp_path / "there")
    assert same_bits(got, tensors) == []
    assert (said, named) == (config, kind)  # our own models read every trait from any dialect's file


@pairs(NAMELESS)
def test_a_head_without_a_name_there_is_refused(tmp_path: Path, folder: str, dialect: Dialect) -> None:
    for allowed in (False, True):
        with pytest.raises(InexpressibleError, match="has no name for") as caught:
            convert(
                PEERS / folder,
                tmp_path / "there",
                to=dialect,
                options=options(folder, dialect, allow_different=allowed),
            )
        assert "classifier.weight" in str(caught.value)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [folder for folder in FAMILY if source_of(folder) == "tf1"])
def test_a_tf1_source_is_told_which_mask_was_assumed(tmp_path: Path, folder: str) -> None:
    report = convert(PEERS / folder, tmp_path / "there", to="torch")
    (note,) = (note for note in report.notes if "attention" in note)
    assert "--set attention=" in note


@pytest.mark.parametrize(
    ("folder", "kind", "fits"),
    [
        ("pd-SequenceClassification_relu_pd", "sequence-classification", ["token-classification"]),
        ("pd-TokenClassification_default_pd", "token-classification", ["sequence-classification"]),
        (
            "pd-QuestionAnswering_default_st",
            "question-answering",
            ["sequence-classification", "token-classification"],
        ),
        ("pd-MultipleChoice_default_pd", "multiple-choice", ["sequence-classification", "token-classification"]),
        ("hf4-TokenClassification_default_st", "token-classification", []),
    ],
)
def test_a_head_that_no_file_names_is_asked_for(tmp_path: Path, folder: str, kind: str, fits: list[str]) -> None:
    """PaddleNLP calls four heads alike, so each is listed that would fit, and the owner's word decides."""
    shutil.copytree(PEERS / folder, tmp_path / "ckpt")
    path = tmp_path / "ckpt" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "architectures"}))
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "ckpt", tmp_path / "out", to="torch")
    for name in (kind, *fits, "--class"):
        assert name in str(caught.value)
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=ConvertOptions(model_class=kind))
    convert(PEERS / folder, tmp_path / "named", to="torch")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "named" / file).read_bytes()


@pytest.mark.parametrize("kind", ["sequence-classification", "token-classification"])
def test_a_class_that_is_not_the_configurations_is_told(kind: str) -> None:
    """PaddleNLP's names fit both, so that nothing but the configuration speaks against the owner's word."""
    report = inspect(PEERS / "pd-TokenClassification_default_pd", model_class=kind)
    told = [note for note in report.notes if "--class" in note]
    named = "the configuration names RoFormerForTokenClassification"
    assert told == ([] if kind == "token-classification" else [f"class {kind}, as --class says; {named}"])
