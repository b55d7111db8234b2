"""Files made to cost time, memory or a terminal: each is one short error, whatever command meets it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from bounded_runs import Ended, run_bounded
from random_checkpoints import CONFIG, random_tensors, save

from roformer_convert.converters.errors import FormatError, quoted, shown
from roformer_convert.converters.source import weight_files, weight_set

CASES = Path(__file__).resolve().parents[1] / "fixtures" / "cases"
#: The most that a command writes, about files of any number of tensors: a hundred lines of them.
LONGEST = 40_000
ESCAPE = "\x1b]0;owned\x07\x9b31m\u202e"


def command(*words: str | Path) -> Ended:
    """Run the command; hold it to little time, little memory and text that drives no terminal."""
    done = run_bounded("-m", "roformer_convert", *map(str, words))
    assert "Traceback" not in done.error
    said = done.output + done.error
    assert len(said) < LONGEST
    assert said.replace("\n", "").isprintable()
    assert done.seconds < 3
    assert done.megabytes < 128
    return done


def with_tensors(directory: Path, names: list[str]) -> Path:
    """Save a checkpoint with further tensors of no bytes in its safetensors file."""
    save(directory, "torch", random_tensors(), CONFIG, container="safetensors")
    path = directory / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header |= {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return directory


NAMES = {
    "layer 9999": ["roformer.encoder.layer.9999.attention.self.query.weight"],
    "5,000 digits": [f"roformer.encoder.layer.{'9' * 5000}.attention.self.query.weight"],
    "1 MB": ["roformer." + "x" * (1 << 20)],
    "1 MB of dots": ["roformer" + ".a" * (1 << 19)],
    "1 MB of layers": ["roformer.encoder" + ".layer.1" * (1 << 17)],
    "1 MB of digits and dots": ["1." * (1 << 19)],
    "escape sequences": [f"roformer.{ESCAPE}\n\rsecond line"],
    "many layers": [f"roformer.encoder.layer.{number}.attention.self.query.weight" for number in range(100, 5_000)],
    "many long names": [f"{'x' * 1000}.{number}" for number in range(2000)],
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_costs_and_shows_little(tmp_path: Path, kind: str) -> None:
    source = with_tensors(tmp_path / "ckpt", NAMES[kind])
    assert command("inspect", source).status in (0, 2)
    assert command("convert", source, "--to", "paddle").status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_a_files_own_name_drives_no_terminal(tmp_path: Path) -> None:
    source = tmp_path / f"ckpt{ESCAPE}"
    save(source, "torch", random_tensors(), CONFIG)
    whole = [["inspect"], ["convert", "--to", "paddle"], ["convert", "--to", "paddle", "--force", "--dry-run"]]
    for words in whole:
        assert command(words[0], source, *words[1:]).status == 0
    assert command("diff", source, source).status == 0
    (source / "config.json").write_text("{")
    for words in (*whole, ["fill-mask", "--text", "[MASK]"]):
        assert command(words[0], source, *words[1:]).status == 2
    assert command("inspect", tmp_path / f"nowhere{ESCAPE}").status == 2


def test_tensors_that_share_their_bytes_have_a_limit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    shared = torch.zeros(1 << 18)
    torch.save({f"a.{number}": shared for number in range(200)}, tmp_path / "pytorch_model.bin")
    found = weight_files.find(tmp_path, None)
    with pytest.raises(FormatError, match=r"share 1,[0-9,]+ bytes and are 209,715,200 together, of which at most"):
        weight_set.index(found)
    monkeypatch.setattr(weight_set, "EXPANDED_BYTES", 200 << 20)
    assert len(weight_set.index(found).tensors) == 200


def test_the_shipped_bomb_is_refused() -> None:
    done = command("convert", CASES / "hostile-expanded_bomb", "--to", "paddle", "--dry-run")
    assert done.status == 2
    assert "scattered or repeated elements" in done.error
    assert len(done.error.splitlines()) < 40


def test_a_key_given_twice_in_a_long_configuration_is_seen_at_once(tmp_path: Path) -> None:
    save(tmp_path / "ckpt", "torch", random_tensors(), CONFIG)
    keys = ", ".join(f'"k{number}": 0' for number in range(200_000))
    (tmp_path / "ckpt" / "config.json").write_text(f'{{{keys}, "k1": 0}}')
    done = command("inspect", tmp_path / "ckpt")
    assert (done.status, "the key 'k1' is given twice" in done.error) == (2, True)


JSON = {
    "digits": "9" * 5000,
    "digits of a fraction": "0." + "9" * 100_000,
    "an exponent": "1e" + "9" * 100_000,
    "brackets": "[" * 100_000,
    "a long text": json.dumps("x" * (1 << 20)),
    "escape sequences": json.dumps(ESCAPE),
}


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_act"])
@pytest.mark.parametrize("kind", JSON)
def test_a_value_of_the_configuration_costs_and_shows_little(tmp_path: Path, kind: str, field: str) -> None:
    save(tmp_path / "ckpt", "torch", random_tensors(), CONFIG)
    path = tmp_path / "ckpt" / "config.json"
    settings = {**json.loads(path.read_text()), field: "HERE"}
    path.write_text(json.dumps(settings).replace('"HERE"', JSON[kind]))
    command("inspect", tmp_path / "ckpt")


def test_a_deep_configuration_is_said_to_be_deep(tmp_path: Path) -> None:
    save(tmp_path / "ckpt", "torch", random_tensors(), CONFIG)
    (tmp_path / "ckpt" / "config.json").write_text('{"a": ' * 100_000)
    assert "config.json: not JSON: nested too deeply" in command("inspect", tmp_path / "ckpt").error


def test_shown_and_quoted_are_short() -> None:
    assert shown("a" * 200) == "a" * 200
    assert shown("a" * 300 + "\x1b" + "b" * 300) == f"{'a' * 133}…{'b' * 50} (601 characters)"
    assert len(quoted(np.zeros(1000).tolist())) < 100
