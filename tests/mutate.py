"""Change one place of a module at a time and see whether a test fails: ``make mutants``.

    python tests/mutate.py converters/target/plan.py tests/test_conversion.py … [--sample 50] [--seed 0]

A comparison is turned round, ``and`` becomes ``or``, a number is one more, a name is another one, a statement is left
out; docstrings, annotations and messages stay. Each mutant is tried in a process forked after the slow imports. (Known
tools start an interpreter for each, or find a package by its directory, which ``package_dir`` calls otherwise.) The
exit status is 1 where a mutant survived that ``docs/mutants.md`` does not list.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LISTED = ROOT / "docs" / "mutants.md"
#: Seconds of one trial, past which the mutant counts as found: it loops.
LIMIT = 600

_OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}


def places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Walk what is computed: (parent, field, position in a list or None, node)."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for position, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # a docstring
            if isinstance(child, ast.Subscript) and isinstance(child.value, ast.Name) and child.value.id == "Literal":
                continue  # a type, outside of an annotation
            yield node, field, position, child
            yield from places(child)


def changed(node: ast.AST) -> ast.AST | None:
    """Another node for this one, or None where there is none."""
    if type(node) in _OTHER:
        return _OTHER[type(node)]()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            return ast.Constant(not node.value)
        if isinstance(node.value, int):
            return ast.Constant(node.value + 1)
        if isinstance(node.value, str) and " " not in node.value:  # what has a space in it is said to a person
            return ast.Constant(node.value + "~")
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Continue | ast.Break):
        return ast.Pass()
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        return ast.Return(ast.Constant(None))
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        turned = copy.copy(node)
        turned.test = ast.UnaryOp(ast.Not(), node.test)
        return turned
    return None


def mutants(path: Path) -> list[tuple[str, CodeType]]:
    """Compile every mutant of a module; each is called by its line, what stands there and what does instead."""
    source = path.read_text(encoding="utf-8")
    tree, lines, found = ast.parse(source), source.splitlines(), []
    for parent, field, position, node in list(places(tree)):
        new = changed(node)
        if new is None:
            continue
        whole = isinstance(node, ast.operator | ast.cmpop | ast.boolop)
        shown = parent if whole else node
        line: int = shown.lineno  # type: ignore[attr-defined]
        before = ast.unparse(shown).splitlines()[0]
        _put(parent, field, position, ast.copy_location(new, node))
        after = ast.unparse(shown if whole else new).splitlines()[0]
        found.append(
            (
                f"{line}: {lines[line - 1].strip()}  ::  {before} → {after}",
                compile(ast.fix_missing_locations(tree), str(path), "exec"),
            )
        )
        _put(parent, field, position, node)
    return found


def _put(parent: ast.AST, field: str, position: int | None, node: ast.AST) -> None:
    if position is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[position] = node


def survives(path: Path, mutant: CodeType, tests: list[str], temporary: str) -> bool:
    """Run the tests with a mutant in the module's place, in the order given; say whether all of them pass."""
    child = os.fork()
    if child == 0:
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            loader: Any = importlib.machinery.SourceFileLoader
            get_code = loader.get_code
            loader.get_code = lambda self, name: mutant if Path(self.path) == path else get_code(self, name)
            import pytest

            quick = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
            # a file at a time: a mutant that the first one finds need not wait until the others are collected
            status = int(any(pytest.main([*quick, "--basetemp", temporary, test]) for test in tests))
        except BaseException:
            status = 1
        os._exit(status)
    ends = time.monotonic() + LIMIT
    while time.monotonic() < ends:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def main() -> int:
    """Try a module's mutants, or a sample of them, and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, default=0, help="how many to try; 0 tries all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    path = (ROOT / given.module).resolve()
    temporary = tempfile.mkdtemp(prefix="mutants-")
    import h5py
    import hypothesis
    import numpy as np
    import pytest
    import safetensors.numpy

    del h5py, hypothesis, np, pytest, safetensors
    sys.dont_write_bytecode = True
    tried = mutants(path)
    every = len(tried)
    if given.sample and given.sample < every:
        tried = random.Random(given.seed).sample(tried, given.sample)
    assert survives(path, compile(path.read_text(encoding="utf-8"), str(path), "exec"), given.tests, temporary), (
        "the tests fail as it is"
    )
    listed = LISTED.read_text(encoding="utf-8") if LISTED.exists() else ""
    survivors = []
    for number, (what, mutant) in enumerate(tried, 1):
        if survives(path, mutant, given.tests, temporary):
            known = re.sub(r"^\d+: ", "", what) in listed
            survivors.append(known)
            print(f"{given.module}:{what}{'  (listed)' if known else ''}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{number}/{len(tried)}", end="", file=sys.stderr)
    shutil.rmtree(temporary)
    print(f"{given.module}: {len(tried) - len(survivors)} of {len(tried)} mutants found (there are {every})")
    return int(not all(survivors))


if __name__ == "__main__":
    sys.exit(main())
