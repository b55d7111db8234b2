"""Every published RoFormer, rebuilt small with its own configuration's keys, converts and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from family_folders import TOLERANCE, difference
from model_runner import Runners, runners
from peer_folders import inputs_of
from published_checkpoints import PUBLISHED
from test_family_conversion import read

from roformer_convert.converters import ConvertError, ConvertOptions, convert
from roformer_convert.converters.errors import InexpressibleError
from roformer_convert.converters.table.mapping import DIALECTS

__all__ = ["runners"]  # a fixture


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_converts_to_whatever_computes_the_same(tmp_path: Path, name: str) -> None:
    published = PUBLISHED[name]
    source = published.build(tmp_path, name)
    tensors, config, kind = read(source, set=published.set)
    assert kind == published.kind
    options = ConvertOptions(set=published.set, any_vocab=published.any_vocab)
    notes: list[str] = []
    for dialect in DIALECTS:
        target = tmp_path / dialect
        if dialect in published.refused:
            with pytest.raises(InexpressibleError):
                convert(source, target, to=dialect, options=options)
            continue
        notes += convert(source, target, to=dialect, options=options).notes
        got, said, _ = read(target)
        assert got.keys() == tensors.keys()
        assert said == config
    assert any(published.note in note for note in notes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_runs_and_computes_what_its_weights_writer_did(runners: Runners, tmp_path: Path, name: str) -> None:
    published = PUBLISHED[name]
    source = published.build(tmp_path, name)
    asked: dict[str, Any] = {"loading": {"set": published.set}, "class": published.kind}
    got = runners["torch"].forward(source, inputs_of(published.folder), **asked)["out0"]
    if published.set.get("attention") == "unilm":  # what wrote the weights is another software, which sees both ways
        assert difference(published.folder, got, everywhere=False) > 0.01
        return
    assert difference(published.folder, got, everywhere=False) <= TOLERANCE


def test_antiberta2s_vocabulary_wants_a_word_of_its_owner(tmp_path: Path) -> None:
    source = PUBLISHED["antiberta2"].build(tmp_path, "antiberta2")
    with pytest.raises(ConvertError, match="--any-vocab"):
        convert(source, tmp_path / "out", to="paddle")
