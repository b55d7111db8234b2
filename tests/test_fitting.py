"""What was found and whether it fits are values: whoever asks raises, prints or mends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_checkpoints import CONFIG, read_all, same_bits, write_random
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertError, FormatError, MisfitError, convert, open_checkpoint
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.source.fitting import fit
from roformer_convert.converters.source.identification import identify


def drop(directory: Path, name: str) -> None:
    arrays = load_file(directory / "model.safetensors")
    del arrays[name]
    save_file(arrays, directory / "model.safetensors", {"format": "pt"})


def test_problems_and_what_is_known_all_the_same_come_together(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch")
    drop(tmp_path / "ckpt", "roformer.encoder.layer.1.output.dense.bias")
    found = fit(identify(tmp_path / "ckpt"), any_vocab=False)
    assert [(p.kind, p.name) for p in found.problems] == [("missing", "roformer.encoder.layer.1.output.dense.bias")]
    assert found.checkpoint is not None
    with found.checkpoint as checkpoint:
        del tensors["layers.1.feed_forward.down.bias"]
        assert same_bits({name: checkpoint.read(name) for name in checkpoint}, tensors) == []
    with pytest.raises(MisfitError) as caught:
        found.require()
    with pytest.raises(MisfitError) as opened:
        open_checkpoint(tmp_path / "ckpt")
    assert str(caught.value) == str(opened.value)
    assert caught.value.problems == found.problems == inspect(tmp_path / "ckpt").problems
    assert vars(caught.value).keys() == {
        "where",
        "against",
        "problems",
        "what",
        "next_step",
    }  # and nothing that was made


def test_a_configuration_that_nothing_can_stand_in_for_leaves_no_checkpoint(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    drop(tmp_path / "ckpt", "embeddings.word_embeddings.weight")
    (tmp_path / "ckpt" / "config.json").write_text("{}")
    found = fit(identify(tmp_path / "ckpt"), any_vocab=True)
    assert found.checkpoint is None
    assert ("configuration", "vocab_size") in [(problem.kind, problem.name) for problem in found.problems]
    assert inspect(tmp_path / "ckpt").parameters is None


def test_a_field_that_nothing_shows_is_undetermined(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    path = tmp_path / "ckpt" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": "tiny", "hidden_size": "large"}))
    found = fit(identify(tmp_path / "ckpt"), any_vocab=True)
    assert found.undetermined == {"layer_norm_eps"}  # the hidden size is the tensors'
    assert found.checkpoint is not None
    assert found.checkpoint.config.hidden_size == CONFIG.hidden_size


def test_identifying_judges_nothing(tmp_path: Path) -> None:
    """Tensors and configuration of two models are found as they lie; what is broken or not there is an error."""
    write_random(tmp_path / "ckpt", "torch")
    write_random(tmp_path / "other", "torch", "base")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "ckpt" / "model.safetensors")
    (tmp_path / "ckpt" / "vocab.txt").write_text("x\n")
    found = identify(tmp_path / "ckpt")
    assert (found.dialect, found.shape.base) == ("torch", True)
    assert found.shape.sizes["vocab_size"] == CONFIG.vocab_size
    assert [path.name for path in found.companions] == ["vocab.txt"]
    assert found.config.problems == ()
    (tmp_path / "ckpt" / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(FormatError):
        identify(tmp_path / "ckpt")
    with pytest.raises(ConvertError, match="no weights at its top; they are in ckpt/"):
        identify(tmp_path)


def test_the_vocabulary_is_looked_at_where_it_travels(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_text("x\n" * 60)
    want = [("vocabulary", "vocab.txt")]
    found = identify(tmp_path / "ckpt")
    assert [(problem.kind, problem.name) for problem in fit(found, any_vocab=False).problems] == want
    assert fit(found, any_vocab=True).problems == ()
    assert [(problem.kind, problem.name) for problem in inspect(tmp_path / "ckpt").problems] == want
    with pytest.raises(MisfitError, match="does not fit its own vocabulary") as caught:
        convert(tmp_path / "ckpt", to="paddle")
    assert [(problem.kind, problem.name) for problem in caught.value.problems] == want
    assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []  # whoever opens it may have a padded one
