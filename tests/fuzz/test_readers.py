"""Readers of formats by themselves, as mutants: what is read lies inside the file, and much is read.

Their files are small, and made so that a mutant is followed and not merely found out by a checksum.
"""

from __future__ import annotations

import json
import pickle
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bundle_tables import restarts, row, table
from file_contents import read_stored
from parity_faults import Bench
from random_checkpoints import CONFIG, random_tensors, save

from fuzz.campaign import Campaign, Mutate, some_bytes, some_pieces
from roformer_convert.converters.containers.bundle import tensor_bundle
from roformer_convert.converters.containers.bundle.leveldb_table import build_table, read_table
from roformer_convert.converters.containers.pickles import pdparams, torch_bin
from roformer_convert.converters.containers.pickles.machine import PickleMachine
from roformer_convert.converters.containers.pickles.state_tree import flatten
from roformer_convert.converters.tensors.stored import Extent, OpenFiles, StoredTensor
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.parity.golden import read_golden, record


@dataclass(frozen=True)
class Target:
    """A file to mutate.

    Attributes:
        make: Makes it below a directory.
        mutate: Makes a mutant of its content.
        read: Reads it.
        count: Mutants in a test run.
        memory: Bytes that reading one may take.
        checked: Whether a checksum finds nearly every mutant out.
    """

    make: Callable[[Path], Path]
    mutate: Mutate
    read: Callable[[Path], object]
    count: int
    memory: int | None
    checked: bool = False


def require_inside(tensors: Iterable[StoredTensor], size: int) -> None:
    """Every tensor lies in a file of so many bytes, and the small ones are read."""
    for tensor in tensors:
        if isinstance(tensor.data, Extent):
            assert 0 <= tensor.data.offset <= tensor.data.offset + tensor.nbytes <= size
        if tensor.nbytes < 1 << 20:
            assert len(read_stored(tensor)) == tensor.nbytes


# --- pickles ----------------------------------------------------------------------------------------------------------


def paddle_state(directory: Path, protocol: int) -> Path:
    state = {
        "w": np.arange(6.0),
        "u": np.arange(4, dtype=np.uint16),
        "big": np.arange(4, dtype=">f4"),
        "t": np.asfortranarray(np.eye(3, 2)),
        "o": np.array(["a", None], dtype=object),
        "n": {"k": 1},
    }
    return written(directory / "state.pdparams", pickle.dumps(state, protocol))


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def plain_pickle(directory: Path, protocol: int) -> Path:
    value = {"a": [1, 2.5, b"bytes", "text", -70000, 2**70], "b": OrderedDict(x=(1, 2), y=None)}
    return written(directory / "plain.pickle", pickle.dumps(value, protocol))


def follow(path: Path) -> None:
    with OpenFiles() as files:
        machine = PickleMachine(path, files, 0, path.stat().st_size, {})
        flatten(path, machine, machine.run())


def torch_state(directory: Path, *, zipped: bool) -> Path:
    """A file without CRCs."""
    torch = pytest.importorskip("torch")
    directory.mkdir()
    base = torch.randn(5, 4)
    state = {"w": base, "t": base.t(), "c": base[1:3], "n": {"k": torch.ones(2, dtype=torch.bfloat16)}, "e": 1}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, directory / "m.bin", _use_new_zipfile_serialization=zipped)
    finally:
        torch.serialization.set_crc32_options(before)
    return directory / "m.bin"


def of_the_pickle(content: bytes, dice: random.Random) -> bytes:
    """Change a few bytes, most often of the pickle in a torch file."""
    begin = content.index(b"\x80\x02")
    end = content.find(b"PK\x07\x08", begin)
    if dice.random() < 0.4:
        return some_bytes(content, dice)
    return some_bytes(content, dice, begin, end if end > 0 else None)


# --- TensorFlow's tables ----------------------------------------------------------------------------------------------


def bundle(directory: Path) -> Path:
    save(directory, "tf1", random_tensors(), CONFIG)
    return directory / "bert_model.ckpt.index"


def under_checksums(content: bytes, dice: random.Random, path: Path) -> bytes:
    """Change the table anywhere; its one block under a right checksum; the value of an entry."""
    kind = dice.randrange(5)
    if kind == 0:
        return some_pieces(content, dice)
    rows = [(each.key, each.value) for each in read_table(path)]
    if kind < 3:
        return table([some_pieces(b"".join(row(0, key, value) for key, value in rows) + restarts(0), dice)])
    at = dice.randrange(len(rows))
    rows[at] = rows[at][0], some_pieces(rows[at][1], dice)
    return build_table(rows)


def read_bundle(path: Path) -> None:
    data = path.with_name("bert_model.ckpt.data-00000-of-00001").stat().st_size
    for tensor in tensor_bundle.index(path).tensors:
        assert isinstance(tensor.data, Extent)
        assert 0 <= tensor.data.offset <= tensor.data.offset + tensor.nbytes <= data
        assert len(tensor.shape) <= 32


# --- a tokenizer's files, a golden ------------------------------------------------------------------------------------


def tokenizer(directory: Path, name: str) -> Path:
    directory.mkdir()
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "[MASK]", *"今天很好，我去公园玩。"]
    settings = {
        "do_lower_case": True,
        "strip_accents": None,
        "mask_token": {"content": "[MASK]", "lstrip": False},
        "added_tokens_decoder": {"5": {"content": "[MASK]", "special": True}, "0": {"content": "[PAD]"}},
        "additional_special_tokens": ["hello"],
    }
    (directory / "vocab.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory / name


def of_json(content: bytes, dice: random.Random) -> bytes:
    """Put JSON's own signs, and any bytes, in the place of a few."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed))
        signs = [*b'{}[]",:0123456789ntf\\\n', *range(256)]
        changed[at : at + dice.randint(0, 3)] = dice.choices(signs, k=dice.randint(0, 3))
    return bytes(changed)


def encode(path: Path) -> None:
    Tokenizer.from_pretrained(path.parent).encode("今天[MASK]很好，我[MASK]去公园玩。")


def golden(directory: Path) -> Path:
    directory.mkdir()
    record(directory / "golden.npz", Bench(directory / "bench").judge({}))
    return directory / "golden.npz"


TARGETS = {
    **{
        f"pdparams of protocol {protocol}": Target(
            partial(paddle_state, protocol=protocol),
            some_bytes,
            lambda path: require_inside(pdparams.index(path).tensors, path.stat().st_size),
            1000,
            4 << 20,
        )
        for protocol in (2, 4)
    },
    **{
        f"pickle of protocol {protocol}": Target(
            partial(plain_pickle, protocol=protocol), some_bytes, follow, 1200, 1 << 20
        )
        for protocol in (3, 4)
    },
    **{
        f"torch's {'zip' if zipped else 'older file'}": Target(
            partial(torch_state, zipped=zipped),
            of_the_pickle,
            lambda path: require_inside(torch_bin.index(path).tensors, path.stat().st_size),
            800,
            8 << 20,
        )
        for zipped in (True, False)
    },
    **{
        name: Target(partial(tokenizer, name=name), of_json, encode, 300, 8 << 20)
        for name in ("vocab.txt", "tokenizer_config.json")
    },
    "golden": Target(golden, some_bytes, read_golden, 300, None, checked=True),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_mutant_is_read_or_refused(tmp_path: Path, kind: str, campaign: Campaign) -> None:
    target = TARGETS[kind]
    path = target.make(tmp_path / "it")
    target.read(path)
    content = path.read_bytes()
    ends = campaign.run(path, [content], target.mutate, target.read, count=target.count, memory=target.memory)
    while campaign.goes_on():
        ends += campaign.run(path, [content], target.mutate, target.read, count=100, memory=target.memory)
    assert ends["refused"] > ends.total() // 50, ends
    assert ends["read"] > ends.total() // 100 or target.checked, ends


def test_a_mutant_of_a_table_under_right_checksums(tmp_path: Path, campaign: Campaign) -> None:
    path = bundle(tmp_path / "it")
    whole = bundle(tmp_path / "whole")
    mutate = partial(under_checksums, path=whole)
    ends = campaign.run(path, [whole.read_bytes()], mutate, read_bundle, count=1500)
    assert ends["read"] > 40, ends
    assert ends["refused"] > 400, ends
    while campaign.goes_on():
        campaign.run(path, [whole.read_bytes()], mutate, read_bundle, count=100)
