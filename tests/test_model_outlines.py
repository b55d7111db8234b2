"""The three model files are one text but for a list of differences, and the three files of operations one outline.

``roformer_*.py`` are compared line by line, bodies and comments too. What a framework does in its own way stands in
function bodies of ``ops_*.py`` and in names there that begin with an underscore; the rest of those files is compared as
syntax: names, order, signatures, docstrings, attributes. No framework is imported.
"""

from __future__ import annotations

import ast
import difflib
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
FRAMEWORKS = ("torch", "paddle", "tf")


class Difference(NamedTuple):
    """What the three model files may say in three ways, each once.

    Attributes:
        reason: Why it cannot be the same.
        torch: In ``roformer_torch.py``.
        paddle: In ``roformer_paddle.py``.
        tf: In ``roformer_tf.py``.
    """

    reason: str
    torch: str
    paddle: str
    tf: str


DIFFERENCES = (
    Difference("a docstring names its framework", torch="in PyTorch:", paddle="in Paddle:", tf="in TensorFlow:"),
    Difference("each takes its own operations", torch="from .ops_torch", paddle="from .ops_paddle", tf="from .ops_tf"),
)


def read(file: str, framework: str) -> str:
    """A file's source: ``roformer`` or ``ops`` of a framework."""
    return (MODELS / f"{file}_{framework}.py").read_text(encoding="utf-8")


def without_differences(source: str, framework: str) -> list[str]:
    """Take a model file's lines with the reason of each allowed difference in its place."""
    for difference in DIFFERENCES:
        own = getattr(difference, framework)
        assert source.count(own) == 1, f"roformer_{framework}.py has {source.count(own)} times {own!r}, want 1"
        source = source.replace(own, f"<{difference.reason}>")
    return source.splitlines()


def differing_lines(sources: dict[str, str]) -> list[str]:
    """Name every line in which Paddle's or TensorFlow's model file differs from PyTorch's."""
    lines = {framework: without_differences(source, framework) for framework, source in sources.items()}
    wrong = []
    for framework in ("paddle", "tf"):
        one, other = lines["torch"], lines[framework]
        for kind, start, end, begin, stop in difflib.SequenceMatcher(None, one, other, False).get_opcodes():
            if kind != "equal":
                wrong += [f"roformer_torch.py:{i + 1}: {one[i].strip()}" for i in range(start, end)]
                wrong += [f"roformer_{framework}.py:{i + 1}: {other[i].strip()}" for i in range(begin, stop)]
    return wrong


def test_the_model_files_are_one_text() -> None:
    wrong = differing_lines({framework: read("roformer", framework) for framework in FRAMEWORKS})
    assert not wrong, "lines that are not in all three:\n" + "\n".join(wrong)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("((query, key, value), layout.turns)", "((query, key, key), layout.turns)", "value = rotate_together("),
        ("self.up(hidden, self.activation)", "self.up(hidden)", "return self.down("),
        ("self.dropout if self.training else 0.0", "self.dropout", "out = self.out("),
        ("self.feed_forward_norm.add(", "self.attention_norm.add(", "self.feed_forward_norm.add("),
        ('        tap(taps, f"{name}.out", out, layout)\n', "", 'tap(taps, f"{name}.out"'),
        ("        return self.down(", "        hidden = 2 * hidden\n        return self.down(", "hidden = 2 * hidden"),
        ("self.key = Linear(", "self.keys = Linear(", "self.key = "),
        ("packed: bool = False,", "packed: bool = True,", "packed: bool = False,"),
        ("(RoFormerForMaskedLM):", "(RoFormerModel):", "class RoFormerForPretraining("),
        ('"""Attend within each row of hidden (P, H)."""', '"""Attend."""', '"""Attend within'),
        ("# a head returns what it computes", "# it is so", "# a head returns"),
    ],
)
def test_a_change_of_one_model_alone_is_named(framework: str, before: str, after: str, named: str) -> None:
    sources = {framework: read("roformer", framework) for framework in FRAMEWORKS}
    assert before in sources[framework]
    sources[framework] = sources[framework].replace(before, after, 1)
    wrong = differing_lines(sources)
    assert any(named in line for line in wrong), wrong


def test_a_difference_is_allowed_in_its_place_alone() -> None:
    source = read("roformer", "tf")
    with pytest.raises(AssertionError, match=r"roformer_tf\.py has 2 times 'from \.ops_tf', want 1"):
        without_differences(source + "from .ops_tf import attend\n", "tf")
    with pytest.raises(AssertionError, match=r"has 0 times 'from \.ops_tf'"):
        without_differences(source.replace("from .ops_tf import", "from .ops_torch import"), "tf")


def test_changed_order_of_classes_is_named() -> None:
    sources = {framework: read("roformer", framework) for framework in FRAMEWORKS}
    source = sources["paddle"]
    norm, embedding, rotary = (source.index(f"class {name}(") for name in ("Norm", "Embedding", "RotaryTable"))
    sources["paddle"] = source[:norm] + source[embedding:rotary] + source[norm:embedding] + source[rotary:]
    assert any("roformer_paddle.py" in line and "class " in line for line in differing_lines(sources))


#: Dotted name → what it looks like, in order of appearance.
Outline = dict[str, str]


def outline(source: str) -> Outline:
    """List the public names of a file of operations with their signatures, docstrings and attributes."""
    tree = ast.parse(source)
    found: Outline = {"docstring": ast.get_docstring(tree) or ""}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            found[f"class {node.name}"] = f"({bases}) {ast.get_docstring(node)}"
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and _public(item.name):
                    found[f"{node.name}.{item.name}"] = _signature(item)
            for name in _attributes(node):
                found[f"{node.name}: self.{name}"] = "assigned"
        elif isinstance(node, ast.FunctionDef) and _public(node.name):
            found[f"def {node.name}"] = _signature(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                name = ast.unparse(target)
                if len(name) > 1 and name.isupper() and _public(name):
                    keys = node.value.keys if isinstance(node.value, ast.Dict) else []
                    found[name] = " ".join(ast.unparse(key) for key in keys if key is not None)
    return found


def _public(name: str) -> bool:
    return name == "__init__" or not name.startswith("_")


def _signature(function: ast.FunctionDef) -> str:
    returns = "" if function.returns is None else ast.unparse(function.returns)
    return f"({ast.unparse(function.args)}) -> {returns}\n{ast.get_docstring(function)}"


def _attributes(node: ast.ClassDef) -> list[str]:
    """Names that ``__init__`` assigns to self, buffers too, in order of first assignment."""
    names: list[str] = []
    for item in node.body:
        if not (isinstance(item, ast.FunctionDef) and item.name == "__init__"):
            continue
        for part in ast.walk(item):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                names.append(part.attr)
            elif isinstance(part, ast.Call) and ast.unparse(part.func) == "self.register_buffer":
                names.append(ast.literal_eval(part.args[0]))
    return list(dict.fromkeys(names))


def drift(one: Outline, other: Outline) -> list[str]:
    """Name everything in which two outlines differ, in the first's order; empty where they are mirrors."""
    wrong = [f"{name}: only in one" for name in [*one, *other] if (name in one) != (name in other)]
    shared = [name for name in one if name in other]
    wrong += [f"{name}: {_first_difference(one[name], other[name])}" for name in shared if one[name] != other[name]]
    orders = zip_longest(shared, [name for name in other if name in one])
    wrong += [f"{name}: in place of {instead}" for name, instead in orders if name != instead]
    return wrong


def _first_difference(one: str, other: str) -> str:
    lines = zip_longest(one.split("\n"), other.split("\n"), fillvalue="")
    return next(f"{a.strip()!r} against {b.strip()!r}" for a, b in lines if a != b)


def operations(framework: str) -> str:
    """The source of a file of operations, the name of its framework in the first line made the same for all."""
    return read("ops", framework).replace(getattr(DIFFERENCES[0], framework), "in a framework:", 1)


@pytest.mark.parametrize("framework", ["paddle", "tf"])
def test_operations_have_one_outline(framework: str) -> None:
    wrong = drift(outline(operations("torch")), outline(operations(framework)))
    assert not wrong, f"ops_{framework}.py against ops_torch.py:\n" + "\n".join(wrong)


def test_outline_sees_classes_functions_and_tables() -> None:
    found = outline(operations("torch"))
    assert {
        "def attend",
        "class FixedTable",
        "FixedTable.__init__",
        "FixedTable: self.table",
        "ACTIVATIONS",
        "DIALECT",
    } <= found.keys()
    assert "dropout: float" in found["def attend"]


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ("def rotate(x: Tensor, turns", "def rotate(x: Tensor, angles", "def rotate: "),
        ("dropout: float) -> Tensor:", "dropout: float = 0.0) -> Tensor:", "def attend: "),
        ('"""Look up the rows', '"""Find the rows', "def embed: "),
        ("def split_heads(", "def split(", "def split"),
        ('    "mish": F.mish,\n', "", "ACTIVATIONS: "),
        ('"table", self._cast', '"tables", self._cast', "FixedTable: self.table"),
        ("class FixedTable(Module)", "class FixedTable(object)", "class FixedTable: "),
        ('"""The operations of the model', '"""Operations of the model', "docstring: "),
    ],
)
def test_drift_of_operations_is_named(before: str, after: str, name: str) -> None:
    source = operations("torch")
    assert before in source
    wrong = drift(outline(source), outline(source.replace(before, after, 1)))
    assert any(line.startswith(name) for line in wrong), wrong


def test_changed_order_of_operations_is_named() -> None:
    source = operations("torch")
    heads, rotate, attend = (source.index(f"def {name}(") for name in ("split_heads", "rotate", "attend"))
    swapped = source[:heads] + source[rotate:attend] + source[heads:rotate] + source[attend:]
    wrong = drift(outline(source), outline(swapped))
    assert any("def split_heads: in place of def rotate" in line for line in wrong), wrong
