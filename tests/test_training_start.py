"""Starting from other weights: RoFormers of every dialect, BERTs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training
from bert_checkpoints import make_bert

from roformer_convert.converters import open_checkpoint, save_checkpoint
from roformer_convert.converters.conversion import convert
from roformer_convert.converters.errors import ConvertError, MisfitError
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.models.ops_paddle import as_numpy
from roformer_convert.models.roformer_paddle import RoFormerForPretraining
from roformer_convert.training.run.loop import train
from roformer_convert.training.start.sources import load_weights, open_sources, starting_model


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    train(tiny_training.settings(corpus, run, steps=2, save_steps=2))
    return run / "step-000002"


def started(corpus: Path, tmp_path: Path, init: Path, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    settings = tiny_training.settings(corpus, tmp_path, init=str(init), seed=9, **changes)
    model, notes = starting_model(settings, open_sources(settings.data.corpora))
    return {name: as_numpy(parameter) for name, parameter in model.named_parameters()}, notes


def own_weights(directory: Path) -> dict[str, Any]:
    model = RoFormerForPretraining.from_pretrained(directory)
    return {name: as_numpy(value) for name, value in model.named_parameters()}


def different(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not np.array_equal(one[name], other[name])}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_roformer_of_any_dialect_is_taken_over_whole(
    corpus: Path, trained: Path, tmp_path: Path, dialect: Dialect
) -> None:
    convert(trained, tmp_path / "init", to=dialect)
    found, notes = started(corpus, tmp_path, tmp_path / "init")
    assert different(found, own_weights(trained)) == set()
    assert notes == []


def test_heads_that_it_lacks_are_fresh_and_named(corpus: Path, trained: Path, tmp_path: Path) -> None:
    with open_checkpoint(trained) as checkpoint:
        base = {name: checkpoint.read(name) for name in checkpoint if not name.startswith(("mlm", "sop", "pooler"))}
        save_checkpoint(tmp_path / "base", base, checkpoint.config, dialect="torch")
    found, notes = started(corpus, tmp_path, tmp_path / "base")
    assert different(found, own_weights(trained)) == {
        "pooler.weight", "mlm.transform.weight", "sop.weight", "mlm.transform.bias", "mlm.norm.weight", "mlm.norm.bias",
        "mlm.bias", "pooler.bias", "sop.bias",
    }  # fmt: skip
    assert notes[0].startswith(
        "not in it, so initialised at random: pooler.weight, pooler.bias, mlm.bias, mlm.transform.weight"
    )
    assert "it has no vocab.txt" in notes[1]


@pytest.mark.parametrize(
    ("dialect", "old_norms"), [("torch", False), ("torch", True), ("paddle", False), ("tf1", False)]
)
def test_a_bert_is_taken_over_but_for_its_positions_and_its_next_sentence_head(
    corpus: Path, trained: Path, tmp_path: Path, dialect: Dialect, old_norms: bool
) -> None:
    bert = make_bert(trained, tmp_path / "bert", dialect, old_norms=old_norms)
    found, notes = started(corpus, tmp_path, bert)
    assert different(found, own_weights(trained)) <= {"sop.weight", "sop.bias"}
    assert "sop.weight" in different(found, own_weights(trained))
    said = next(note for note in notes if note.startswith("a BERT: left out "))
    assert "position_embeddings" in said
    assert "seq_relationship" in said
    assert any("at random: sop.weight, sop.bias" in note for note in notes)


def test_another_architecture_and_another_vocabulary_are_refused_with_every_difference(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(MisfitError) as caught:
        started(corpus, tmp_path, trained, num_hidden_layers=3, intermediate_size=32, hidden_act="relu")
    for line in (
        "model  num_hidden_layers   got 2, want 3",
        "model  intermediate_size   got 24, want 32",
        "model  hidden_act          got 'gelu', want 'relu'",
    ):
        assert line in str(caught.value)
    fewer = tiny_training.make_classic(tmp_path / "classic")
    with pytest.raises(MisfitError, match=r"vocabulary +embeddings\.word\.weight +got \d+ rows, the corpora's vocabul"):
        started(fewer, tmp_path, trained)


def test_the_same_number_of_other_rows_is_refused(corpus: Path, trained: Path, tmp_path: Path) -> None:
    convert(trained, tmp_path / "init", to="torch")
    rows = (tmp_path / "init" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    rows[-1], rows[-2] = rows[-2], rows[-1]
    (tmp_path / "init" / "vocab.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(MisfitError, match=r"vocab\.txt +its rows differ from those of the corpora's vocabulary"):
        started(corpus, tmp_path, tmp_path / "init")


def test_init_that_is_not_there_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="no such file or directory"):
        started(corpus, tmp_path, tmp_path / "nothing")


def test_a_checkpoint_to_resume_from_must_be_whole(corpus: Path, trained: Path, tmp_path: Path) -> None:
    config = RoFormerForPretraining.from_pretrained(trained).config
    with open_checkpoint(trained) as checkpoint:
        part = {name: checkpoint.read(name) for name in checkpoint if not name.startswith("sop")}
        save_checkpoint(tmp_path / "part", part, checkpoint.config, dialect="paddle")
    with pytest.raises(ConvertError, match=r"lacks sop\.weight: not the checkpoint of a run"):
        dict(load_weights(tmp_path / "part", config))


def test_training_files_are_left_behind_by_a_conversion(trained: Path, tmp_path: Path) -> None:
    convert(trained, tmp_path / "torch", to="torch")
    assert not [path.name for path in (tmp_path / "torch").iterdir() if path.name.startswith("training")]
    assert json.loads((trained / "training.json").read_text())["step"] == 2
