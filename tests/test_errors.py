"""How errors are said: layers folded, on stderr with status 2, and nothing in them drives a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_checkpoints import read_all, same_bits, write_random
from refusals import Arrays, edit, refused
from safetensors.numpy import save_file

from roformer_convert.converters import ConvertError, ConvertOptions, Problem, Watcher, convert, json_input
from roformer_convert.converters.errors import fold_layers


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
    assert "(4 problems)\n" in command("diff", tmp_path / "ckpt", tmp_path / "ckpt").stderr  # which never writes


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
