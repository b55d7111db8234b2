"""Every file that a command meets, as mutants: each is read or refused in one short error, in little time."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from random_checkpoints import CONFIG, random_tensors, save
from tiny_training import make_corpus

from fuzz.campaign import Campaign, mutation
from roformer_convert.converters.inspection import inspect
from roformer_convert.models.text.tokenizer_files import read_settings as read_tokenizer
from roformer_convert.training.corpus.shard_file import Shard
from roformer_convert.training.settings.reading import SHIPPED
from roformer_convert.training.settings.reading import read_settings as read_configuration

CORPUS = Path(__file__).with_name("corpus")
COUNT = 60
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


@pytest.mark.parametrize("kind", TARGETS)
def test_a_mutant_is_read_or_refused(tmp_path: Path, kind: str, campaign: Campaign) -> None:
    make, read = TARGETS[kind]
    path = make(tmp_path / "it")
    read(path)
    corpus = [each.read_bytes() for each in sorted(CORPUS.glob(f"*{path.suffix}"))]
    mutate = partial(mutant, text=kind in TEXTS)
    contents = [path.read_bytes()] * 4 + corpus
    ends = campaign.run(path, contents, mutate, read, count=COUNT)
    while campaign.goes_on():
        ends += campaign.run(path, contents, mutate, read, count=COUNT)
    assert ends["refused"] > ends.total() // 10, ends
