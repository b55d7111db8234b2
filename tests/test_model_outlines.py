"""The three model files are mirrors: same classes, order, signatures, docstrings, attributes, or the drift is named.

What a framework does in its own way stands in function bodies and in names that begin with an underscore; the rest is
compared here, as syntax, with no framework imported.
"""

from __future__ import annotations

import ast
import re
from itertools import zip_longest
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
FRAMEWORKS = {"torch": "PyTorch", "paddle": "Paddle", "tf": "TensorFlow"}
#: A framework's own spelling of one thing.
SPELLINGS = {
    "nn.Module": "Module",
    "nn.Layer": "Module",
    "torch.dtype": "DType",
    "tf.DType": "DType",
}

#: Dotted name → what it looks like, in order of appearance.
Outline = dict[str, str]


def outline(source: str) -> Outline:
    """List the public names of a model file with their signatures, docstrings and attributes."""
    tree = ast.parse(source)
    found: Outline = {"docstring": ast.get_docstring(tree) or ""}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [_spelled(base) for base in node.bases]
            found[f"class {node.name}"] = f"({', '.join(bases)}) {ast.get_docstring(node)}"
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and _public(item.name):
                    found[f"{node.name}.{item.name}"] = _signature(item)
                elif isinstance(item, ast.AnnAssign):
                    found[f"{node.name}.{ast.unparse(item.target)}"] = ast.unparse(item.annotation)
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


def _spelled(node: ast.AST | None) -> str:
    text = "" if node is None else ast.unparse(node)
    return SPELLINGS.get(text, text)


def _signature(function: ast.FunctionDef) -> str:
    function_arguments = ast.parse(ast.unparse(function.args).join(("def f(", "): ...")))
    for node in ast.walk(function_arguments):
        if isinstance(node, ast.arg) and node.annotation is not None:
            node.annotation = ast.Name(_spelled(node.annotation))
    arguments = ast.unparse(function_arguments).split("\n")[0]
    decorators = " ".join(f"@{ast.unparse(decorator)}" for decorator in function.decorator_list)
    return f"{decorators} {arguments} -> {_spelled(function.returns)}\n{ast.get_docstring(function)}"


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


def read(framework: str) -> str:
    """A model file's source, its own framework's name in the first docstring line made the same for all."""
    source = (MODELS / f"roformer_{framework}.py").read_text(encoding="utf-8")
    return re.sub(rf"(RoFormer in ){FRAMEWORKS[framework]}", r"\1a framework", source, count=1)


@pytest.mark.parametrize("framework", ["paddle", "tf"])
def test_model_files_are_mirrors(framework: str) -> None:
    wrong = drift(outline(read("torch")), outline(read(framework)))
    assert not wrong, f"roformer_{framework}.py against roformer_torch.py:\n" + "\n".join(wrong)


def test_outline_sees_the_classes_and_functions() -> None:
    found = outline(read("torch"))
    for name in (
        "class RoFormerModel",
        "RoFormerModel.forward",
        "RoFormerAttention: self.query",
        "RotaryTable: self.turns",
        "Layout.lengths",
        "def attend",
        "ACTIVATIONS",
    ):
        assert name in found
    assert "packed: bool=False" in found["RoFormerForMaskedLM.forward"]


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ("self.query = ", "self.queries = ", "RoFormerAttention: self.quer"),
        ("class RoFormerFeedForward(", "class RoFormerFeedforward(", "class RoFormerFeed"),
        ("packed: bool = False,", "packed: bool = True,", "RoFormerModel.forward: "),
        ("mask_pad_token: bool = False,\n        packed", "packed", "RoFormerModel.forward: "),
        ('"""Attend within each row of hidden (P, H)."""', '"""Attend."""', "RoFormerAttention.forward: "),
        ("def rotate(x: Tensor, turns", "def rotate(x: Tensor, angles", "def rotate: "),
        ("    lengths: tuple[int, ...] | None = None\n", "", "Layout.lengths: "),
        ('    "mish": F.mish,\n', "", "ACTIVATIONS: "),
        ("(RoFormerForMaskedLM):", "(RoFormerModel):", "class RoFormerForPretraining: "),
        ('"""RoFormer in a framework', '"""Roformer in a framework', "docstring: "),
    ],
)
def test_drift_is_named(before: str, after: str, name: str) -> None:
    source = read("torch")
    assert before in source
    wrong = drift(outline(source), outline(source.replace(before, after, 1)))
    assert any(line.startswith(name) for line in wrong), wrong


def test_changed_order_is_named() -> None:
    source = read("torch")
    norm, embedding, rotary = (source.index(f"class {name}(") for name in ("Norm", "Embedding", "RotaryTable"))
    swapped = source[:norm] + source[embedding:rotary] + source[norm:embedding] + source[rotary:]
    wrong = drift(outline(source), outline(swapped))
    assert any("class Norm: in place of class Embedding" in line for line in wrong), wrong
