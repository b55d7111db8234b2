"""Change one place of a module at a time and see whether a test fails: ``make mutants``.

    python tests/mutate.py converters/target/plan.py tests/test_conversion.py … [--sample 50] [--seed 0]

A comparison is turned round, ``and`` becomes ``or``, a number is one more, a name is another one, a statement is left
out; docstrings, annotations and messages stay. Each mutant is tried in a process forked after the slow imports, by the
tests that reach its lines; what runs at import is tried by all. (Known tools start an interpreter for each, or find a
package by its directory, which ``package_dir`` calls otherwise.) The exit status is 1 where a mutant survived that
``docs/mutants.md`` does not list.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib.machinery
import os
import pickle
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import pytest

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


@dataclass(frozen=True)
class Mutant:
    """A module with one place changed.

    Attributes:
        what: The place's line, what stands there and what does instead.
        code: The module, compiled.
        lines: Lines of the statement, of which a test must reach one to tell the difference.
    """

    what: str
    code: CodeType
    lines: range


def mutants(path: Path) -> list[Mutant]:
    """Compile every mutant of a module."""
    source = path.read_text(encoding="utf-8")
    tree, lines, found = ast.parse(source), source.splitlines(), []
    extents = [_extent(node) for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.ExceptHandler)]
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
            Mutant(
                f"{line}: {lines[line - 1].strip()}  ::  {before} → {after}",
                compile(ast.fix_missing_locations(tree), str(path), "exec"),
                min((extent for extent in extents if line in extent), key=len),
            )
        )
        _put(parent, field, position, node)
    return found


def _extent(node: Any) -> range:
    """Return a statement's lines, of one that has others in it those before them."""
    body = getattr(node, "body", None)
    return range(node.lineno, max(body[0].lineno, node.lineno + 1) if body else node.end_lineno + 1)


def _put(parent: ast.AST, field: str, position: int | None, node: ast.AST) -> None:
    if position is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[position] = node


class Reach:
    """A pytest plugin that notes which tests reach which lines of a module: a file's fixtures for all its tests."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=[self.path])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        # what one test has computed for the others would be reached by it alone
        modules = [module for name, module in sys.modules.items() if name.startswith("roformer_convert")]
        for value in [value for module in modules for value in vars(module).values()]:
            getattr(value, "cache_clear", bool)()
        self.coverage.switch_context(item.path.name)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.coverage.switch_context(item.nodeid)
        result = yield
        self.coverage.switch_context(item.path.name)
        return result

    def pytest_collectstart(self) -> None:
        self.coverage.switch_context("")

    def lines(self) -> dict[int, list[str]]:
        """Line → tests, files of tests, and an empty string for what an import reaches."""
        return self.coverage.get_data().contexts_by_lineno(self.path)


class Chosen:
    """A pytest plugin that leaves the tests which reach none of some lines out."""

    def __init__(self, reached: set[str]) -> None:
        self.reached = reached

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.reached or item.path.name in self.reached]


def apart(work: Callable[[], int]) -> bool | None:
    """Do something in a silent process of its own; say whether its status is 0, or None where it takes too long."""
    child = os.fork()
    if child == 0:
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            status = work()
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
    return None


def run(tests: list[str], temporary: Path, plugin: object) -> int:
    """Run files of tests, one after the other, until a test fails; return 0 where none does."""
    quick = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--basetemp", str(temporary / "tests")]
    for test in tests:  # a mutant that the first one finds need not wait until the others are collected
        status = pytest.main([*quick, test], plugins=[plugin])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return 1
    return 0


def reach(path: Path, tests: list[str], temporary: Path) -> Mapping[int, list[str]]:
    """Run the tests on the module as it is, and say which of them reach each line.

    Raises:
        SystemExit: One of them fails.
    """
    told = temporary / "reach"

    def work() -> int:
        noted = Reach(path)
        noted.coverage.start()
        status = run(tests, temporary, noted)
        noted.coverage.stop()
        told.write_bytes(pickle.dumps(noted.lines()))
        return status

    if not apart(work):
        raise SystemExit(f"{path}: the tests fail as it is")
    return pickle.loads(told.read_bytes())  # type: ignore[no-any-return]


def survives(path: Path, mutant: Mutant, tests: list[str], reached: set[str], temporary: Path) -> bool:
    """Run the tests that reach a mutant with it in the module's place; say whether all of them pass."""
    if "" not in reached:
        tests = [test for test in tests if any(name.split("::")[0].endswith(Path(test).name) for name in reached)]

    def work() -> int:
        loader: Any = importlib.machinery.SourceFileLoader
        get_code = loader.get_code
        loader.get_code = lambda self, name: mutant.code if Path(self.path) == path else get_code(self, name)
        return run(tests, temporary, object() if "" in reached else Chosen(reached))

    return apart(work) is True


def main() -> int:
    """Try a module's mutants, or a sample of them, and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, default=0, help="how many to try; 0 tries all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    path = (ROOT / given.module).resolve()
    import h5py
    import hypothesis
    import safetensors.numpy

    del h5py, hypothesis, safetensors
    tried = mutants(path)
    every = len(tried)
    if given.sample and given.sample < every:
        tried = random.Random(given.seed).sample(tried, given.sample)
    listed = LISTED.read_text(encoding="utf-8") if LISTED.exists() else ""
    temporary = Path(tempfile.mkdtemp(prefix="mutants-"))
    # what is compiled once, of tests and modules, serves every trial
    sys.pycache_prefix, sys.dont_write_bytecode = str(temporary / "compiled"), False
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.freeze()  # a trial collects its own garbage alone
    try:
        lines, survivors = reach(path, given.tests, temporary), []
        for number, mutant in enumerate(tried, 1):
            reached = {name for line in mutant.lines for name in lines.get(line, ())}
            if survives(path, mutant, given.tests, reached, temporary):
                known = re.sub(r"^\d+: ", "", mutant.what) in listed
                survivors.append(known)
                why = "  (listed)" if known else "" if reached else "  (no test reaches it)"
                print(f"{given.module}:{mutant.what}{why}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{number}/{len(tried)}", end="", file=sys.stderr)
    finally:
        shutil.rmtree(temporary)
    print(f"{given.module}: {len(tried) - len(survivors)} of {len(tried)} mutants found (there are {every})")
    return int(not all(survivors))


if __name__ == "__main__":
    sys.exit(main())
