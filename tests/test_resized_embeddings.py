"""Embeddings that were resized: what was not resized with them is told, with the call that does it or the option."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_checkpoints import CONFIG, random_tensors, save
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertOptions, MisfitError, convert
from roformer_convert.converters.source.renaming import Parts

V = CONFIG.vocab_size
LARGER = replace(CONFIG, vocab_size=V + 3)
WORDS, BIAS = "roformer.embeddings.word_embeddings.weight", "cls.predictions.bias"
COPY, COPIED_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"


def resized(directory: Path, vocab_size: int, **shorter: int) -> None:
    """Write a model of V + 3 words, of which the configuration says ``vocab_size``, and some tensors are shorter."""
    save(directory, "torch", random_tensors(LARGER), LARGER)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": vocab_size}))
    tensors = load_file(directory / "model.safetensors")
    tensors[COPY] = tensors[WORDS].copy()
    names = {"bias": BIAS, "copy": COPY}
    for name, length in shorter.items():
        tensors[names[name]] = np.ascontiguousarray(tensors[names[name]][:length])
    if "bias" in shorter:
        tensors.pop(COPIED_BIAS, None)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def step(directory: Path) -> str:
    with pytest.raises(MisfitError) as caught:
        convert(directory, to="paddle")
    assert caught.value.next_step is not None
    return caught.value.next_step


def test_a_configuration_that_was_left_behind_is_answered_with_the_option(tmp_path: Path) -> None:
    resized(tmp_path / "ckpt", V)
    assert (
        step(tmp_path / "ckpt") == "Every tensor has 64 words: if the embedding was resized, add --set vocab_size=64."
    )
    assert convert(tmp_path / "ckpt", to="paddle", options=ConvertOptions(set={"vocab_size": 64})).written


@pytest.mark.parametrize("said", [V, V + 3])
@pytest.mark.parametrize("shorter", [{"bias": V}, {"copy": V}, {"bias": V, "copy": V}])
def test_a_head_that_was_not_resized_is_answered_with_the_call(
    tmp_path: Path, said: int, shorter: dict[str, int]
) -> None:
    resized(tmp_path / "ckpt", said, **shorter)
    told = step(tmp_path / "ckpt")
    assert told.startswith(
        "The word embeddings have 64 rows and the head has 61: one was resized and the other was not."
    )
    assert "model.resize_token_embeddings(64)" in told
    options = ConvertOptions(parts=Parts(encoder_only=True), set={"vocab_size": 64})
    assert convert(tmp_path / "ckpt", to="paddle", options=options).written


@pytest.mark.parametrize("shape", [(), (1, V)])
def test_a_bias_of_another_number_of_axes_is_no_resized_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save(tmp_path / "ckpt", "torch", random_tensors(CONFIG), CONFIG)
    path = tmp_path / "ckpt" / "model.safetensors"
    tensors = {name: each for name, each in load_file(path).items() if name != COPIED_BIAS}
    save_file({**tensors, BIAS: np.ones(shape, np.float32)}, path, {"format": "pt"})
    assert "vocab_size" not in step(tmp_path / "ckpt")


def test_another_size_that_is_wrong_too_is_two_models(tmp_path: Path) -> None:
    resized(tmp_path / "ckpt", V)
    path = tmp_path / "ckpt" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 99}))
    assert "are of two models" in step(tmp_path / "ckpt")


def test_a_copy_of_another_type_is_not_a_resized_one(tmp_path: Path) -> None:
    resized(tmp_path / "ckpt", LARGER.vocab_size)
    path = tmp_path / "ckpt" / "model.safetensors"
    tensors = load_file(path)
    tensors[COPY] = tensors[COPY].astype(np.float64)
    save_file(tensors, path, {"format": "pt"})
    assert "resized" not in step(tmp_path / "ckpt")
    assert "These two are one tensor" in step(tmp_path / "ckpt")


def test_a_copy_that_differs_in_a_value_is_not_a_resized_one(tmp_path: Path) -> None:
    resized(tmp_path / "ckpt", V + 3)
    tensors = load_file(tmp_path / "ckpt" / "model.safetensors")
    tensors[COPY][0, 0] += 1
    save_file(tensors, tmp_path / "ckpt" / "model.safetensors", {"format": "pt"})
    assert "resize" not in step(tmp_path / "ckpt")
