"""Every reader of files, fed with mutants: each is read or refused in one short error, in little time.

A test run tries some mutants of each file; ``make fuzz`` goes on for an hour, with another seed each time. A mutant
that fails is kept in ``build/fuzz``; once it is understood, its file goes into ``corpus/``, from which mutants are made
too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from broken_hdf5 import mutation
from file_contents import memory_below
from random_checkpoints import CONFIG, random_tensors, save
from tiny_training import make_corpus

from roformer_convert.converters import ConvertError
from roformer_convert.converters.inspection import inspect
from roformer_convert.models.tokenizer_files import read_settings as read_tokenizer
from roformer_convert.training.corpus.shard_file import Shard
from roformer_convert.training.settings.reading import SHIPPED
from roformer_convert.training.settings.reading import read_settings as read_configuration

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).with_name("corpus")
#: Seconds for all files together; without it, so many mutants of each are tried, the same ones each time.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
COUNT = 60
#: Seconds of processor time, bytes that Python allocates, and letters of an error, that a mutant of some kB may take.
LONGEST, MOST_MEMORY, LONGEST_ERROR = 2.0, 64 << 20, 8000
#: Structured pieces: what breaks parsers of text.
PIECES = [
    b"[" * 3000,
    b"{" * 3000,
    b'{"a":' * 1000,
    b".a" * 3000,
    b"9" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b'"',
    b'"""',
    b"\\ud800",
    b"\\",
    b"\x00",
    b"\x1b[31m",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\r",
    b"\xe2\x80\xae",
    b"x" * 100_000,
    b"true",
    b"[]",
    b"{}",
]


@dataclass(frozen=True)
class Target:
    """A file to mutate.

    Attributes:
        file: The file, in a directory of which the rest stays as it is.
        read: Reads it, or what lies around it.
    """

    file: Path
    read: Callable[[Path], object]


def checkpoint(directory: Path, dialect: str, **options: object) -> Path:
    save(directory, dialect, random_tensors(), CONFIG, **options)  # type: ignore[arg-type]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"词{number}" for number in range(CONFIG.vocab_size - 5))]
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return directory


def sharded(directory: Path) -> Path:
    checkpoint(directory, "torch")
    content = (directory / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    names = [name for name in json.loads(content[8 : 8 + length]) if name != "__metadata__"]
    shard = "model-00001-of-00001.safetensors"
    (directory / "model.safetensors").rename(directory / shard)
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}))
    return path


def legacy(directory: Path) -> Path:
    torch = pytest.importorskip("torch")
    path = checkpoint(directory, "torch", container="bin") / "pytorch_model.bin"
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    return path


def tokenizer_file(directory: Path) -> Path:
    path = checkpoint(directory, "torch") / "tokenizer_config.json"
    path.write_text(json.dumps({"do_lower_case": True, "added_tokens_decoder": {"4": {"content": "[MASK]"}}}))
    return path


def configuration(directory: Path) -> Path:
    directory.mkdir()
    return Path(shutil.copy(SHIPPED / "tiny.toml", directory / "it.toml"))


def corpus_shard(directory: Path) -> Path:
    directory.mkdir()
    return min(make_corpus(directory).glob("shard-*"))


def read_shard(path: Path) -> object:
    shard = Shard(path)
    shard.check_boundaries()
    shard.check_contents()
    return shard


def around(path: Path) -> object:
    return inspect(path.parent)


#: What is mutated → how to make it below a directory, and what reads it.
TARGETS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "safetensors": (lambda at: checkpoint(at, "torch") / "model.safetensors", around),
    "torch zip": (lambda at: checkpoint(at, "torch", container="bin") / "pytorch_model.bin", around),
    "torch legacy": (legacy, around),
    "pdparams": (lambda at: checkpoint(at, "paddle", container="pdparams") / "model_state.pdparams", around),
    "hdf5": (lambda at: checkpoint(at, "tf") / "tf_model.h5", around),
    "tensor bundle": (lambda at: checkpoint(at, "tf1") / "bert_model.ckpt.index", around),
    "config.json": (lambda at: checkpoint(at, "torch") / "config.json", around),
    "index.json": (sharded, around),
    "vocab.txt": (lambda at: checkpoint(at, "torch") / "vocab.txt", lambda path: read_tokenizer(path.parent)),
    "tokenizer_config.json": (tokenizer_file, lambda path: read_tokenizer(path.parent)),
    "corpus shard": (corpus_shard, read_shard),
    "toml": (configuration, read_configuration),
}
TEXTS = ("config.json", "index.json", "vocab.txt", "tokenizer_config.json", "toml")


def mutant(content: bytes, dice: random.Random, *, text: bool) -> bytes:
    """Change bytes as a broken disk or an attacker would, cut the end off, or put a piece in."""
    kind = dice.randrange(8)
    if kind == 0:
        return content[: dice.randrange(len(content))]
    if (kind < 6 if text else kind == 1) or len(content) < 80:
        at = dice.randrange(len(content))
        values = [place + 1 for place, byte in enumerate(content) if byte in b"=:"]
        if values and dice.randrange(2):
            at = dice.choice(values)
        piece = dice.choice(PIECES)
        return content[:at] + piece + content[at + dice.choice([0, 1, len(piece)]) :]
    # what describes a file lies at its ends, and nearly all the rest is payload
    near = dice.choice([slice(0, 4096), slice(-4096, None), slice(0, None)])
    start = 0 if near.start == 0 else max(0, len(content) - 4096)
    part = content[start : start + 4096] if near.stop or near.start else content
    return content[:start] + mutation(part, dice) + content[start + len(part) :]


def try_one(path: Path, read: Callable[[Path], object]) -> str:
    """Read a mutant; return how it ended.

    Raises:
        AssertionError: It took too long, or too many words.
    """
    begun, said = time.process_time(), ""
    try:
        read(path)
    except ConvertError as error:
        said = str(error)
    assert time.process_time() - begun < LONGEST
    assert len(said) < LONGEST_ERROR
    assert said.replace("\n", "").isprintable()
    return "refused" if said else "read"


@pytest.mark.parametrize("kind", TARGETS)
def test_a_mutant_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    make, read = TARGETS[kind]
    path = make(tmp_path / "it")
    read(path)
    corpus = [each.read_bytes() for each in sorted(CORPUS.glob(f"*{path.suffix}"))]
    seed = random.randrange(1 << 32) if SECONDS else 20261127
    dice = random.Random(f"{kind} {seed}")
    contents = [path.read_bytes()] * 4 + corpus
    ends: dict[str, int] = {}
    until, number = time.monotonic() + SECONDS / len(TARGETS), 0
    while number < COUNT or time.monotonic() < until:
        number += 1
        made = mutant(dice.choice(contents), dice, text=kind in TEXTS)
        path.write_bytes(made)
        try:
            with memory_below(MOST_MEMORY):
                said = try_one(path, read)
        except BaseException:
            kept = ROOT / "build" / "fuzz" / f"{kind.replace(' ', '-')}-{seed}-{number}{path.suffix}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(made)
            raise
        ends[said] = ends.get(said, 0) + 1
    assert ends.get("refused", 0) > number // 10, ends
