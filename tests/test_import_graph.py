"""What imports what, in the whole package: no circle of files, and between rooms only the arrows of one table.

A room is a folder of modules. Every import statement counts, wherever it stands: those for type checkers alone and
those that a function makes when it is called, too. A module whose name is put together at run time is not seen; those
are each framework's model and its process.
"""

from __future__ import annotations

import ast
import functools
import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "roformer_convert"

#: Folder → the folders that its files import from. ``cli`` is the package itself; the others lie in it.
FOLDERS = {
    "cli": {"training", "parity", "models", "converters"},
    "training": {"models", "converters"},
    "parity": {"models", "converters"},
    "models": {"converters"},
    "converters": set(),
}
#: Room → the rooms of the same folder that its files import from.
ROOMS = {
    # converters/: in front whole operations; below them a checkpoint written, a checkpoint read, the formats of files,
    # and at the bottom the table of names beside the bytes of tensors, which know nothing of one another
    "converters": {
        "converters/optimizer",
        "converters/target",
        "converters/source",
        "converters/table",
        "converters/tensors",
    },
    "converters/optimizer": {
        "converters/target",
        "converters/source",
        "converters/containers",
        "converters/containers/pickles",
        "converters/table",
        "converters/tensors",
    },
    "converters/target": {"converters/source", "converters/containers", "converters/table", "converters/tensors"},
    "converters/source": {"converters/containers", "converters/table", "converters/tensors"},
    "converters/containers": {
        "converters/containers/hdf5",
        "converters/containers/pickles",
        "converters/containers/bundle",
        "converters/table",
        "converters/tensors",
    },
    "converters/containers/hdf5": {"converters/tensors"},
    "converters/containers/pickles": {"converters/tensors"},
    "converters/containers/bundle": {"converters/tensors"},
    "converters/table": set(),
    "converters/tensors": set(),
    # training/: text → corpus → start → step → run, with the samples of a step beside the corpus
    "training": set(),
    "training/doctor": {"training/step", "training/reporting", "training/settings"},
    "training/run": {
        "training/step",
        "training/start",
        "training/samples",
        "training/reporting",
        "training/settings",
    },
    "training/step": {"training/start", "training/samples", "training/settings"},
    "training/start": {"training/corpus", "training/settings"},
    "training/corpus": {"training/text"},
    "training/text": set(),
    "training/samples": set(),
    "training/reporting": set(),
    "training/settings": set(),
    # models/: the models stand on kernels; above them what tries those, what answers, and what exports
    "models/answers": {"models/proving", "models", "models/processes", "models/text"},
    "models/export": {"models", "models/processes"},
    "models/proving": {"models", "models/kernels", "models/processes"},
    "models": {"models/kernels", "models/processes"},
    "models/kernels": {"models/processes"},
    "models/text": {"models/processes"},
    "models/processes": set(),
    # parity/: questions → participants → judging → explaining, and beside it the software that serves
    "parity": {
        "parity/questions",
        "parity/participants",
        "parity/judging",
        "parity/explaining",
        "parity/conditions",
        "parity/serving",
    },
    "parity/serving": {
        "parity/explaining",
        "parity/judging",
        "parity/participants",
        "parity/questions",
    },
    "parity/conditions": {"parity/explaining", "parity/judging", "parity/participants", "parity/questions"},
    "parity/explaining": {"parity/judging", "parity/participants", "parity/questions"},
    "parity/judging": {"parity/participants", "parity/questions"},
    "parity/participants": {"parity/questions"},
    "parity/questions": set(),
    "parity/official": set(),  # run by other software's environments, and imported by nothing
    "cli": set(),
}
#: Files in front of the rooms of a folder that every room stands on: these import only one another.
GROUND = {
    "converters/errors.py",
    "converters/amounts.py",
    "converters/encodings.py",
    "converters/json_input.py",
    "converters/rendering.py",
    "converters/stand_ins.py",
    "converters/version.py",
    "models/config.py",
    "models/layout.py",
    "models/packing.py",
    "models/packing_choice.py",
}


class Import(NamedTuple):
    """One file that imports another, by their paths in the checkout."""

    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_files(root: Path) -> dict[str, str]:
    """Every module of the package by its dotted name: its path below the root."""
    found = {}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*.py"):
            parts = list(path.relative_to(root).with_suffix("").parts)
            parts[:1] = [PACKAGE] if folder == "cli" else [PACKAGE, folder]
            found[".".join(parts).removesuffix(".__init__")] = path.relative_to(root).as_posix()
    return found


@functools.cache
def statements(source: str) -> list[tuple[int, int, str]]:
    """The names that a module's text imports: line, leading dots, dotted name with the imported one at its end."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, 0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            before = f"{node.module}." if node.module else ""
            found += [(node.lineno, node.level, before + alias.name) for alias in node.names]
    return found


def imports(root: Path) -> set[Import]:
    """Every import of one module of the package by another, once for each line."""
    modules = module_files(root)
    found = set()
    for name, importer in modules.items():
        package = name.split(".") if importer.endswith("__init__.py") else name.split(".")[:-1]
        for line, dots, wanted in statements((root / importer).read_text(encoding="utf-8")):
            parts = [*package[: len(package) + 1 - dots], *wanted.split(".")] if dots else wanted.split(".")
            while parts and ".".join(parts) not in modules:
                parts.pop()  # a name within a module
            if parts and modules[".".join(parts)] != importer:
                found.add(Import(importer, line, modules[".".join(parts)]))
    return found


def room(path: str) -> str:
    """The folder that a file lies in."""
    return path.rpartition("/")[0]


def arrows(found: Iterable[Import]) -> dict[tuple[str, str], list[Import]]:
    """The imports between folders and, within a folder, between rooms: (from, to) → where.

    What is imported from the ground is left out; what the ground imports from elsewhere goes from the file itself.
    """
    between = defaultdict(list)
    for each in found:
        here, there = each.importer.split("/")[0], each.imported.split("/")[0]
        if here == there:
            here = each.importer if each.importer in GROUND else room(each.importer)
            there = here if each.imported in GROUND else room(each.imported)
        if here != there:
            between[here, there].append(each)
    return dict(between)


def allowed() -> set[tuple[str, str]]:
    """Every arrow of the two tables."""
    return {(here, there) for table in (FOLDERS, ROOMS) for here, others in table.items() for there in others}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A path that comes back to where it began, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        path: list[str] = error.args[1]
        return path[::-1]  # graphlib tells it from the imported to the importer
    return []


def files_graph(found: Iterable[Import]) -> dict[str, set[str]]:
    """File → the files that it imports."""
    graph = defaultdict(set)
    for each in found:
        graph[each.importer].add(each.imported)
    return dict(graph)


def upward(root: Path) -> list[str]:
    """Every import that no arrow of the tables allows."""
    between = arrows(imports(root))
    return sorted(str(each) for arrow in between.keys() - allowed() for each in between[arrow])


def test_files_import_one_another_in_no_circle() -> None:
    path = circle(files_graph(imports(ROOT)))
    assert not path, " → ".join(path)


def test_imports_between_rooms_are_those_of_the_table() -> None:
    assert not upward(ROOT)


def test_the_table_has_no_arrow_that_nothing_goes() -> None:
    assert not allowed() - set(arrows(imports(ROOT)))


@pytest.mark.parametrize("table", [FOLDERS, ROOMS], ids=["folders", "rooms"])
def test_the_arrows_of_the_table_go_one_way(table: dict[str, set[str]]) -> None:
    assert not circle(table)


def test_every_room_is_in_the_table() -> None:
    assert {room(path) for path in module_files(ROOT).values()} == set(ROOMS)
    assert set(module_files(ROOT).values()) >= GROUND


UPWARD = {
    "plain": "from ..{room}.{module} import {name}\n",
    "for type checkers": "if TYPE_CHECKING:\n    from ..{room} import {module}\n",
    "late": "def late():\n    import roformer_convert.converters.{room}.{module} as other\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The package's folders copied to where a test may change them."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert not upward(tmp_path)
    return tmp_path


@pytest.mark.parametrize("statement", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_named_whatever_its_form(checkout: Path, statement: str) -> None:
    planted = checkout / "converters" / "table" / "mapping.py"
    line = len(planted.read_text().splitlines()) + statement.count("\n")
    with planted.open("a") as file:
        file.write(statement.format(room="source", module="checkpoint", name="Checkpoint"))
    assert upward(checkout) == [f"converters/table/mapping.py:{line} imports converters/source/checkpoint.py"]
    assert circle(files_graph(imports(checkout)))  # a checkpoint is read by the table


def test_the_ground_imports_nothing_but_itself(checkout: Path) -> None:
    with (checkout / "converters" / "errors.py").open("a") as file:
        file.write("from .table.mapping import DIALECTS\n")
    line = len((checkout / "converters" / "errors.py").read_text().splitlines())
    assert upward(checkout) == [f"converters/errors.py:{line} imports converters/table/mapping.py"]


def test_a_circle_within_a_room_is_told_as_it_goes(checkout: Path) -> None:
    for name, other in (("one", "two"), ("two", "three"), ("three", "one")):
        (checkout / "models" / f"{name}.py").write_text(f"from . import {other}\n")
    path = circle(files_graph(imports(checkout)))
    assert path[0] == path[-1]
    graph = files_graph(imports(checkout))
    assert all(there in graph[here] for here, there in itertools.pairwise(path))
    assert set(path) == {"models/one.py", "models/two.py", "models/three.py"}
