"""The pickle machine describes data, names what it refuses, runs nothing, and stays small whatever the file says."""

from __future__ import annotations

import builtins
import os
import pickle
import pickletools
import struct
import subprocess
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from file_contents import Runs, memory_below

from roformer_convert.converters.containers.pickles import machine as pickle_machine
from roformer_convert.converters.containers.pickles.machine import Allowed, Buildable, PickleMachine, Span
from roformer_convert.converters.containers.pickles.state_tree import TensorLeaf, flatten
from roformer_convert.converters.errors import FormatError
from roformer_convert.converters.tensors.stored import OpenFiles


class Bag(dict[str, object], Buildable):
    def set_state(self, machine: PickleMachine, state: object) -> None:
        self["state"] = state


class Leaf(TensorLeaf):
    pass


#: Puts one under the key t of the dict on the stack.
TENSOR = b"X\x01\0\0\0tcsome.module\nleaf\n)Rs"


ALLOWED: Allowed = {
    ("collections", "OrderedDict"): lambda machine, arguments: Bag(),
    ("some.module", "leaf"): lambda machine, arguments: Leaf(),
    ("some.module", "type"): None,
}


def follow(directory: Path, content: bytes, **options: Any) -> tuple[PickleMachine, object]:
    """Run the machine over a file of ``content``; texts and bytes come back as Python's."""
    path = directory / "some.pickle"
    path.write_bytes(content)
    with OpenFiles() as files:
        machine = PickleMachine(path, files, 0, len(content), ALLOWED, **options)
        return machine, plain(machine, machine.run())


def plain(machine: PickleMachine, value: object) -> object:
    if isinstance(value, Span):
        return machine.content(value, 1 << 20) if value.kind == "bytes" else machine.text(value)
    if isinstance(value, dict):
        return type(value)({key: plain(machine, item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(plain(machine, item) for item in value)
    return value


def flattened(path: Path, content: bytes | None = None) -> tuple[list[str], dict[str, str]]:
    """Follow a file, of ``content`` where there is some, and flatten what it holds: names of tensors, metadata."""
    if content is not None:
        path.write_bytes(content)
    with OpenFiles() as files:
        machine = PickleMachine(path, files, 0, path.stat().st_size, ALLOWED)
        flat = flatten(path, machine, machine.run())
    return [name for name, _ in flat.tensors], flat.metadata


def refusal(directory: Path, content: bytes, **options: Any) -> FormatError:
    with pytest.raises(FormatError) as caught:
        follow(directory, content, **options)
    return caught.value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_data_of_every_binary_protocol_is_described(tmp_path: Path, protocol: int) -> None:
    shared = ["zwölf", 3.5]
    value = {
        "计数": [0, 1, 255, 256, 65535, 65536, -1, -(2**31), 2**31 - 1],
        "nothing": (),
        "one": (None,),
        "two": (True, False),
        "three": (1, 2, 3),
        "many": tuple(range(5)),
        "nested": {"a": {"b": [{}, [], "x" * 300]}},
        "again": shared,
        "same": shared,
        "single": {"k": 1},
        "single list": [7],
        "long": [2**31, -(2**63), 2**200],
    }
    if protocol >= 3:  # earlier ones write bytes as text, through _codecs.encode
        value["bytes"] = [b"", b"\0\xff", b"y" * 300]
    machine, described = follow(tmp_path, pickle.dumps(value, protocol))
    assert described == value
    assert machine.position == len(pickle.dumps(value, protocol))


def test_a_dict_of_over_a_thousand_items_comes_in_batches(tmp_path: Path) -> None:
    value = {f"name {number}": number for number in range(2001)}
    assert follow(tmp_path, pickle.dumps(value, 4))[1] == value


def test_keys_that_are_numbers_become_text(tmp_path: Path) -> None:
    value = {0: "a", -7: "b", 2.5: "c", None: "d", True: "e"}
    described = follow(tmp_path, pickle.dumps(value, 4))[1]
    assert described == {"0": "a", "-7": "b", "2.5": "c", "None": "d", "True": "e"}


def test_bytearray_and_sets_of_protocol_5_are_described(tmp_path: Path) -> None:
    value = [bytearray(b"abc"), {5}, frozenset([6])]
    assert follow(tmp_path, pickle.dumps(value, 5))[1] == [b"abc", [5], (6,)]


def test_payloads_stay_in_the_file_at_their_offset(tmp_path: Path) -> None:
    big, small = os.urandom(3 << 20), b"tiny"
    content = pickle.dumps({"big": big, "text": "é" * 2000, "small": small}, 4)
    path = tmp_path / "some.pickle"
    path.write_bytes(content)
    with OpenFiles() as files, memory_below(1 << 18):
        state = PickleMachine(path, files, 0, len(content), {}).run()
    assert isinstance(state, dict)
    spans = {name: span for name, span in state.items() if isinstance(span, Span)}
    assert {name: (span.kind, span.length) for name, span in spans.items()} == {
        "big": ("bytes", 3 << 20),
        "text": ("text", 4000),
        "small": ("bytes", 4),
    }
    for name, want in {"big": big, "text": ("é" * 2000).encode(), "small": small}.items():
        assert content[spans[name].offset :][: spans[name].length] == want
    # Why offsets can be trusted: CPython writes 64 KiB and more outside of any frame.
    frames = [(place or 0, size) for code, size, place in pickletools.genops(content) if code.name == "FRAME"]
    assert all(not place < spans["big"].offset < place + 9 + (size or 0) for place, size in frames)


def test_an_allowed_global_is_answered_by_its_handler_and_builds(tmp_path: Path) -> None:
    made: OrderedDict[str, int] = OrderedDict(a=1, b=2)
    made.extra = "later"  # type: ignore[attr-defined]
    for protocol in (2, 4):
        described = follow(tmp_path, pickle.dumps(made, protocol))[1]
        assert described == {"a": 1, "b": 2, "state": {"extra": "later"}}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["system", "eval", "exec", "Popen", "getattr", "__import__", "open"])
def test_a_pickle_that_would_run_code_runs_nothing_and_names_it(tmp_path: Path, protocol: int, name: str) -> None:
    mark = tmp_path / "mark"
    call, argument = {
        "system": (os.system, f"touch {mark}"),
        "eval": (eval, f"open({str(mark)!r}, 'w')"),
        "exec": (exec, f"open({str(mark)!r}, 'w')"),
        "Popen": (subprocess.Popen, f"touch {mark}"),
        "getattr": (getattr, f"{mark}"),
        "__import__": (builtins.__import__, "this"),
        "open": (open, f"{mark}"),
    }[name]
    content = pickle.dumps({"weight": Runs(call, argument)}, protocol)
    if protocol:
        assert name in flattened(tmp_path / "beside", content)[1]["weight"]
        assert not mark.exists()
    error = refusal(tmp_path, content, strict=True)
    assert not mark.exists()
    if protocol == 0:  # refused at its first text, before it comes to name anything
        assert "protocol 0" in str(error)
        return
    assert name in str(error)
    assert "would run code" in str(error)
    assert "not run" in str(error)
    assert error.offset is not None
    assert content[error.offset : error.offset + 1] in (b"c", b"\x93")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cos\nsystem\n.", "os.system"),
        (b"\x80\x02cos\nsystem\n)\x81.", "os.system"),
        (b"\x80\x02(ios\nsystem\n.", "os.system"),
        (b"\x80\x02(o.", "object of no class"),
        (b"\x80\x04csome.module\nleaf\n)]\x92.", "a list for keywords"),
        (b"\x80\x02\x82\x01.", "copyreg"),
        (b"\x80\x02c\x1b[31mos\nsystem\n.", r"\x1b[31mos"),
        (b"\x80\x02c" + b"x" * 600 + b"\nsystem\n.", "512 bytes"),
        (b"\x80\x02c\xff\nsystem\n.", "UTF-8"),
        (b"\x80\x02X\x01\0\0\0a)R.", "calls text"),
        (b"\x80\x02csome.module\nleaf\n]R.", "a list for arguments"),
        (b"\x80\x02]}b.", "the state of a list"),
        (b"\x80\x02}(K\x01u.", "no value"),
        (b"\x80\x02}(K\x01NX\x01\0\0\0001Nu.", "twice"),
        (b"\x80\x02]K\x01K\x02s.", "sets an item of a list"),
        (b"\x80\x02}K\x01a.", "appends to a dict"),
        (b"\x80\x02h\x07.", "memo slot 7"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "memo slot 4,294,967,295"),
        (b"\x80\x020.", "empty stack"),
        (b"\x80\x02N(0h.", "memo slot 46|cut short"),
        (b"\x80\x02Nt.", "mark that it did not set"),
        (b"\x80\x02N(a.", "empty stack"),
        (b"\x80\x02N(\x85.", "takes an object off an empty stack"),  # what lies under a mark is out of reach
        (b"\x80\x02q\x01.", "empty stack"),
        (b"\x80\x02.", "0 objects"),
        (b"\x80\x02NN.", "2 objects"),
        (b"\x80\x02N(.", "1 marks"),
        (b"\x80\x06N.", "protocol 6"),
        (b"\x80\x02\xf0.", "0xf0 is not a pickle opcode"),
        (b"\x80\x02I1\n.", "protocol 0"),
        (b"\x80\x02NQ.", "persistent id"),
        (b"\x80\x02\x8b" + struct.pack("<i", 300) + b"a" * 300, "cut short: an integer of 300 bytes|cut short: 1 byte"),
        (b"\x80\x02\x8b" + struct.pack("<i", 300) + b"a" * 299, "cut short: an integer of 300 bytes, 299 left"),
        (b"\x80\x02\x8b" + struct.pack("<i", -5) + b".", "integer of -5 bytes"),
        # Lengths beyond the file, of each opcode that has one.
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.", "a frame of 1,099,511,627,776 bytes"),
        (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "a frame of"),
        (b"\x80\x04B" + b"\xff" * 4 + b".", "bytes of 4,294,967,295"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "bytes of 18,446,744,073,709,551,615"),
        (b"\x80\x05\x96" + b"\xff" * 8 + b".", "bytes of 18,446,744,073,709,551,615"),
        (b"\x80\x04X" + b"\xff" * 4 + b".", "text of 4,294,967,295"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "text of 18,446,744,073,709,551,615"),
        (b"\x80\x02T" + b"\xff" * 4 + b".", "string of -1"),
        (b"\x80\x02T" + b"\xff\xff\xff\x7f" + b".", "string of 2,147,483,647"),
        (b"\x80\x04C\xffab", "bytes of 255"),
        (b"\x80\x02\x8a\xffab", "255 bytes wanted"),
        (b"", "cut short"),
    ],
)
def test_what_is_not_plain_data_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    error = refusal(tmp_path, content, strict=True)
    assert any(part in str(error) for part in message.split("|")), str(error)
    assert "\x1b" not in str(error)


def test_keys_that_are_neither_text_nor_numbers_are_called_by_their_kind(tmp_path: Path) -> None:
    content = b"\x80\x02}(]K\x01C\x01aK\x02cos\nsystem\nK\x03u."
    assert follow(tmp_path, content)[1] == {"<a list 0>": 1, "<bytes 1>": 2, "<os.system 2>": 3}


class Holder:
    """Somebody's own class, as attributes or slots."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held: object) -> None:
        self.held = held


class Keywords:
    def __new__(cls, **held: object) -> Keywords:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return (), {"held": LEAF}


class Pair(NamedTuple):
    first: object
    second: object


class Items(dict[str, object]):
    """A dict of somebody's own."""


class Rows(list[object]):
    """A list of somebody's own."""


class Made:
    """Stands for a tensor: pickled as the call that the table answers."""

    def __reduce__(self) -> tuple[object, ...]:
        return leaf, ()


def leaf() -> None: ...


LEAF = Made()
OBJECTS: dict[str, tuple[object, str]] = {
    "attribute": (Holder(held=LEAF, step=3), "k.held"),
    "attribute of an attribute": (Holder(more=Holder(held=LEAF)), "k.more.held"),
    "dict in an attribute": (Holder(more={"held": LEAF}), "k.more.held"),
    "slot": (Slotted(LEAF), "k.held"),
    "keyword": (Keywords(), "k.held"),
    "field": (Pair(1, LEAF), "k.1"),
    "item": (Items(held=LEAF), "k.held"),
    "row": (Rows([2, LEAF]), "k.1"),
    "defaultdict": (defaultdict[str, Any](Made, held=LEAF), "k.held"),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", OBJECTS)
def test_what_an_object_that_is_not_made_holds_is_found(tmp_path: Path, kind: str, protocol: int) -> None:
    if (kind, protocol) == ("keyword", 2):
        pytest.skip("protocol 2 hides the keywords in a functools.partial")
    held, name = OBJECTS[kind]
    content = pickle.dumps({"k": held, "b": LEAF}, protocol)
    path = tmp_path / "some.pickle"
    path.write_bytes(content)
    allowed = {**ALLOWED, (__name__, "leaf"): ALLOWED["some.module", "leaf"]}
    with OpenFiles() as files:
        machine = PickleMachine(path, files, 0, len(content), allowed)
        flat = flatten(path, machine, machine.run())
    assert [found for found, _ in flat.tensors] == [name, "b"]
    assert flat.metadata.keys().isdisjoint({"k", "k.more"})  # something of it is taken
    assert flat.nested == {"", name.rpartition(".")[0] + "."}


def test_objects_that_refer_to_one_another_are_entered_once(tmp_path: Path) -> None:
    one, other = Holder(), Holder(rows=list(range(50)))
    one.__dict__.update(other=other, me=one, many=[other] * 50)
    other.__dict__.update(back=one, mine={"back": one, "rows": other.rows})  # type: ignore[attr-defined]
    names, metadata = flattened(tmp_path / "ring", pickle.dumps({"k": one, "l": other, "n": 1}, 4))
    assert (names, set(metadata)) == ([], {"k", "l", "n"})


def test_one_dict_given_to_many_objects_costs_no_more_than_itself(tmp_path: Path) -> None:
    """A state is kept and not copied: with copies these 130 kB would take gigabytes."""
    content = b"\x80\x02}q\x00(" + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(10_000)) + b"u0"
    content += b"](" + b"ca\nb\n)\x81h\x00b" * 5_000 + b"e0}X\x01\0\0\0kh\x00s."
    with memory_below(8 << 20):
        flattened(tmp_path / "shared", content)


@pytest.mark.parametrize("content", [b"cos\nsystem\n)R", b"(ios\nsystem\n", b"(cos\nsystem\no", b"ca\nb\n)\x81}b"])
def test_an_object_that_holds_nothing_is_no_state_dict(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FormatError, match=r"holds what (os\.system|a\.b) makes, which was not run, want a state dict"):
        flattened(tmp_path / "alone", b"\x80\x02" + content + b".")


def test_persistent_ids_go_to_their_handler(tmp_path: Path) -> None:
    content = b"\x80\x02" + b"X\x03\0\0\0key" + b"Q."
    assert follow(tmp_path, content, persistent=lambda machine, identity: (machine.text(identity), 1))[1] == ("key", 1)


def test_strings_of_python_2_are_decoded_as_told(tmp_path: Path) -> None:
    content = b"\x80\x02U\x02\xc3\xa9."
    assert follow(tmp_path, content)[1] == "é"
    assert follow(tmp_path, content, string_encoding="latin-1")[1] == "Ã©"


@pytest.mark.parametrize(
    ("opening", "closing"),
    [(b"]", b"a"), (b"(", b"t"), (b"}K\x01", b"s"), (b"(]", b"t"), (b"(", b"l"), (b"", b"\x85")],
)
def test_a_hundred_thousand_levels_are_followed_without_recursion(
    tmp_path: Path, opening: bytes, closing: bytes
) -> None:
    content = b"\x80\x02" + opening * 100_000 + b"N" + closing * 100_000 + b"."
    path = tmp_path / "deep"
    path.write_bytes(content)
    with OpenFiles() as files:
        machine = PickleMachine(path, files, 0, len(content), ALLOWED)
        deep = machine.run()
        assert flatten(path, machine, {"deep": deep}).tensors == []
        bottom: object = Leaf()
        for _ in range(32):
            bottom = [bottom]
        with pytest.raises(FormatError, match="nested deeper than 32 levels"):
            flatten(path, machine, {"deep": deep, "tensor": bottom})


@pytest.mark.parametrize("use", [b"\x85R.", b"}]", b"csome.module\ntype\n", b"b.", b"Ns.", b"\x93.", b"Q.", b"e."])
def test_deep_values_in_odd_places_are_errors_and_no_crash(tmp_path: Path, use: bytes) -> None:
    deep = b"(" * 50_000 + b"t" * 50_000
    for content in (deep + use, b"}" + deep + use, b"csome.module\ntype\n" + deep + use, b"N" + deep + use):
        if (use, content[:1]) in ((b"Ns.", b"}"), (b"\x85R.", b"c")):  # any key will do; the call is not made
            follow(tmp_path, b"\x80\x02" + content)
        else:
            assert refusal(tmp_path, b"\x80\x02" + content).offset is not None


def laughs(levels: int, bottom: bytes = b"") -> bytes:
    """A dict of two dicts that are one, of two that are one, ...: 2 ** levels paths in a few bytes a level."""
    content = b"}" + bottom + b"r" + struct.pack("<I", 0)
    for level in range(levels):
        slot = struct.pack("<I", level)
        content += b"0}(X\x01\0\0\0aj" + slot + b"X\x01\0\0\0bj" + slot + b"ur" + struct.pack("<I", level + 1)
    return b"\x80\x02" + content + b"."


def test_a_billion_laughs_end_soon(tmp_path: Path) -> None:
    with memory_below(1 << 20), pytest.raises(FormatError, match="again and again"):
        flattened(tmp_path / "laughs", laughs(30, TENSOR))


def test_laughs_without_a_tensor_are_walked_once(tmp_path: Path) -> None:
    with memory_below(1 << 20):
        names, metadata = flattened(tmp_path / "laughs", laughs(30))
    assert names == []
    assert len(metadata) == 31
    assert set(metadata.values()) == {"a dict", "{}"}


def test_a_long_list_named_often_ends_soon(tmp_path: Path) -> None:
    many = b"".join(b"M" + struct.pack("<H", key) + b"h\0" for key in range(3000)) + b"u."
    flattened(tmp_path / "plain", b"\x80\x02](" + b"N" * 50_000 + b"eq\x000}(" + many)
    leaf = b"csome.module\nleaf\n)R"
    with pytest.raises(FormatError, match="again and again"):
        flattened(tmp_path / "long", b"\x80\x02](" + leaf + b"N" * 50_000 + b"eq\x000}(" + many)


def test_a_dict_that_holds_itself_is_no_reason_to_refuse_the_tensors_beside_it(tmp_path: Path) -> None:
    ring = b"}q\x00X\x01\0\0\0ah\x00s"
    assert flattened(tmp_path / "ring", b"\x80\x02" + ring + b".") == ([], {"a": "a dict"})
    beside = b"\x80\x02}(X\x01\0\0\0wcsome.module\nleaf\n)RX\x01\0\0\0r" + ring + b"u."
    assert flattened(tmp_path / "beside", beside) == (["w"], {"r.a": "a dict"})


def test_a_dict_of_tensors_that_holds_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nested deeper than 32"):
        flattened(tmp_path / "ring", b"\x80\x02}" + TENSOR + b"q\x00X\x01\0\0\0ah\x00s.")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"\x8b" + struct.pack("<i", 300) + b"a" * 300, "an integer of 300 bytes"),
        (b"\x97", "a buffer that was kept outside the file (protocol 5)"),
        (b"\x97\x98", "a buffer that was kept outside the file (protocol 5)"),
        (b"csome.module\ntype\n)R", "what some.module.type makes, which was not run"),
        (b"csome.module\nleaf\n", "some.module.leaf"),
        (b"X\x02\0\0\0\xff\xfe", r"\xff\xfe"),
        (b"X\x03\0\0\0\xed\xa0\x80", r"\xed\xa0\x80"),  # a lone surrogate, as Python pickles it
    ],
)
def test_what_is_not_read_lies_beside_the_tensors_and_is_named(tmp_path: Path, value: bytes, said: str) -> None:
    content = b"\x80\x05}(X\x01\0\0\0k" + value + b"X\x01\0\0\0wcsome.module\nleaf\n)Ru."
    assert flattened(tmp_path / "tree", content) == (["w"], {"k": said})


def test_keys_that_are_no_names_are_called_by_their_place(tmp_path: Path) -> None:
    content = b"\x80\x02}(X" + struct.pack("<I", 5000) + b"a" * 5000 + b"K\x01X\x02\0\0\0\xff\xfeK\x02u."
    assert flattened(tmp_path / "tree", content) == ([], {"<text 0>": "1", r"\xff\xfe": "2"})


def test_long_names_are_cut_unless_a_tensor_has_one(tmp_path: Path) -> None:
    inside = b"X" + struct.pack("<I", 600) + b"a" * 600
    assert flattened(tmp_path / "tree", b"\x80\x02}" + inside + b"K\x01s.") == ([], {"a" * 513: "1"})
    with pytest.raises(FormatError, match="longer than 512 characters"):
        flattened(tmp_path / "tree", b"\x80\x02}" + inside + b"csome.module\nleaf\n)Rs.")


def test_keys_made_to_collide_cost_no_time(tmp_path: Path) -> None:
    # Integers that differ by 2**61 - 1 have one hash in CPython: as dict keys these would take minutes.
    numbers = [number * ((1 << 61) - 1) for number in range(1, 40_000)]
    content = b"\x80\x02}("
    for number in numbers:
        content += b"\x8a\x0b" + number.to_bytes(11, "little", signed=True) + b"N"
    described = follow(tmp_path, content + b"u.")[1]
    assert isinstance(described, dict)
    assert len(described) == len(numbers)


def test_more_opcodes_than_any_state_dict_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 1000)
    assert follow(tmp_path, b"\x80\x02" + b"N0" * 498 + b"N.")[0].opcodes == 999
    assert "more than 1,000 pickle opcodes" in str(refusal(tmp_path, b"\x80\x02" + b"N0" * 600 + b"N."))


def test_more_names_than_any_state_dict_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_TEXT", 1000)
    content = pickle.dumps({f"name {number:03}": None for number in range(150)}, 4)
    assert "1,000 bytes of names" in str(refusal(tmp_path, content))


def test_nested_names_are_joined_and_leaves_become_metadata(tmp_path: Path) -> None:
    leaf = b"csome.module\nleaf\n)R"
    content = pickle.dumps({"epoch": 3, "none": None, "rate": 0.5, "note": "y" * 300, "losses": [0.25, 1, "z"]}, 2)[:-1]
    content += b"(X\x01\0\0\0m}(X\x01\0\0\0a" + leaf + b"K\x05](" + leaf + b"K\x01eu"
    content += b"X\x01\0\0\0b" + leaf + b"u."
    names, metadata = flattened(tmp_path / "nested", content)
    assert names == ["m.a", "m.5.0", "b"]
    assert metadata.pop("note") == "y" * 199 + "…"
    assert metadata == {"epoch": "3", "none": "None", "rate": "0.5", "losses": "[0.25, 1, z]", "m.5.1": "1"}


def test_a_type_or_an_empty_dict_among_the_values_is_metadata(tmp_path: Path) -> None:
    content = (
        b"\x80\x02}(X\x01\0\0\0kcsome.module\ntype\nX\x01\0\0\0d}X\x01\0\0\0l]X\x01\0\0\0m](csome.module\ntype\neu."
    )
    assert flattened(tmp_path / "tree", content) == (
        [],
        {"k": "some.module.type", "d": "{}", "l": "[]", "m.0": "some.module.type"},
    )
    assert flattened(tmp_path / "tree", b"\x80\x02}.") == ([], {})


def test_two_tensors_that_join_to_one_name_are_refused(tmp_path: Path) -> None:
    leaf = b"csome.module\nleaf\n)R"
    content = b"\x80\x02}(X\x03\0\0\0a.b" + leaf + b"X\x01\0\0\0a}X\x01\0\0\0b" + leaf + b"su."
    with pytest.raises(FormatError, match=r"two tensors are called 'a\.b'"):
        flattened(tmp_path / "joined", content)


def test_metadata_stays_small(tmp_path: Path) -> None:
    _, metadata = flattened(tmp_path / "many", pickle.dumps({f"{number}": number for number in range(5000)}, 4))
    assert len(metadata) == 1001
    assert metadata["…"] == "and 4,000 more"


SMALL: dict[str, Any] = {"a": [1, 2.5, b"bytes", "text", -70000, 2**70], "b": OrderedDict(x=(1, 2), y=None)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_truncation_is_refused(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({**SMALL, "a": [*SMALL["a"][:2], "text"]} if protocol == 2 else SMALL, protocol)
    follow(tmp_path, content)
    for length in range(len(content)):
        refusal(tmp_path, content[:length])


@pytest.mark.parametrize(
    ("piece", "opcodes"),
    [
        *((piece, 2) for piece in (b"}", b"]", b"(", b"C\0", b"\x8c\0", b"J\0\0\0\x7f", b"}q\0", b"(]")),
        (b"ca\nb\n)\x81", 3),
        (b"ca\nb\n)R", 3),
        (b"ca\nb\n)\x81}b", 5),
    ],
)
def test_a_file_of_nothing_but_opcodes_takes_bounded_memory(tmp_path: Path, piece: bytes, opcodes: int) -> None:
    content = b"\x80\x04" + piece * 20_000
    path = tmp_path / "flood"
    path.write_bytes(content)
    # At the limit of a million opcodes this is 150 MB, whatever the file's size.
    with memory_below(150 * 20_000 * opcodes), OpenFiles() as files, pytest.raises(FormatError):
        PickleMachine(path, files, 0, len(content), {}).run()
