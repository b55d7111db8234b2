"""What is imported when: no framework ever by a conversion, and nothing heavy for --help."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from random_checkpoints import write_random

from roformer_convert.converters.table.mapping import DIALECTS

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = {"torch", "paddle", "tensorflow", "keras", "tf_keras", "transformers", "paddlenlp", "jax", "safetensors"}


def modules_after(program: str, *arguments: str) -> set[str]:
    """Run a program in a fresh interpreter; return the top-level modules it has loaded at the end."""
    report = "import json, sys; sys.stderr.write('\\n' + json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}", *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_importing_the_converters_imports_almost_nothing() -> None:
    loaded = modules_after("import roformer_convert.converters, roformer_convert.converters.conversion")
    assert not loaded & (FRAMEWORKS | {"numpy", "h5py", "crc32c", "click"})


def test_conversions_in_every_direction_import_no_framework(tmp_path: Path) -> None:
    for dialect in DIALECTS:
        write_random(tmp_path / dialect, dialect)
    write_random(tmp_path / "bin", "torch", container="bin")
    program = """
import sys
from pathlib import Path
from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.compare import compare
from roformer_convert.converters.inspection import inspect
root = Path(sys.argv[1])
for source in ("paddle", "torch", "tf", "tf1", "bin"):
    inspect(root / source)
    for target in ("paddle", "torch", "tf", "tf1"):
        convert(root / source, root / f"{source}-{target}-out", to=target)
with open_checkpoint(root / "tf") as one, open_checkpoint(root / "tf-paddle-out") as two:
    assert compare(one, two).equal
"""
    loaded = modules_after(program, str(tmp_path))
    assert {"numpy", "crc32c"} <= loaded
    assert not loaded & (FRAMEWORKS | {"h5py"})


def command(*words: str) -> set[str]:
    program = (
        "import sys, roformer_convert.__main__ as command\n"
        f"sys.argv = ['roformer-convert', *{list(words)!r}]\n"
        "try:\n    command.main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    return modules_after(program)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["paddle2torch", "--help"],
        ["convert", "--help"],
        ["inspect", "-h"],
        ["diff", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_neither_numpy_nor_h5py(words: list[str]) -> None:
    loaded = command(*words)
    assert "click" in loaded
    assert not loaded & (FRAMEWORKS | {"numpy", "h5py", "crc32c"})


@pytest.mark.parametrize("target", ["torch", "tf"])
def test_crc32c_is_imported_for_tf1_alone(tmp_path: Path, target: str) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    loaded = command("convert", str(tmp_path / "ckpt"), "--to", target, "--quiet")
    assert not loaded & (FRAMEWORKS | {"h5py", "crc32c"})


def trees(package: str) -> list[tuple[Path, ast.Module]]:
    found = [(path, ast.parse(path.read_text())) for path in sorted((ROOT / package).rglob("*.py"))]
    assert found
    return found


@pytest.mark.parametrize("package", ["converters", "cli"])
def test_no_module_of_the_package_imports_a_framework(package: str) -> None:
    for path, tree in trees(package):
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & FRAMEWORKS, path


def test_the_converters_run_nothing_that_a_file_says() -> None:
    """No pickle.load, torch.load, paddle.load or allow_pickle, nor eval, exec or a pickle module at all."""
    for path, tree in trees("converters"):
        for node in ast.walk(tree):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {
                    "pickle",
                    "shelve",
                    "marshal",
                    "dill",
                }, where
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in ("pickle", "shelve", "marshal", "dill"), where
            elif isinstance(node, ast.Attribute) and node.attr in ("load", "loads", "Unpickler"):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                assert owner == "json", where
            elif isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", where
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), where


def test_the_converters_know_nothing_of_the_packages_above_them() -> None:
    for path, tree in trees("converters"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert not module.startswith("roformer_convert"), path
                depth = len(path.relative_to(ROOT / "converters").parts)
                assert node.level <= depth, f"{path} reaches outside converters/"


#: Interrupts the process while a module is looked for, and raises instead what an extension makes of that.
INTERRUPTION = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                if converted:
                    raise ImportError("failed to import") from None
                raise
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
"""
CONVERTING = "from roformer_convert.__main__ import main; sys.argv[1:] = ['convert', 'nowhere', '--to', 'tf1']; main()"
PRETRAINING = "from roformer_convert.pretrain import main; sys.argv[1:] = ['doctor', '--config', 'tiny']; main()"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("call", "module", "converted"),
    [
        (CONVERTING, "click", False),
        (CONVERTING, "roformer_convert.command_group", False),
        (CONVERTING, "roformer_convert.converters.source", False),
        (CONVERTING, "roformer_convert.cmd_convert", False),
        (CONVERTING, "roformer_convert.cmd_convert", True),
        (PRETRAINING, "click", False),
        (PRETRAINING, "roformer_convert.cmd_pretrain_doctor", False),
        (PRETRAINING, "numpy", True),
    ],
)
def test_an_interruption_during_imports_is_one_line(call: str, module: str, converted: bool, tmp_path: Path) -> None:
    program = f"wanted, converted = {module!r}, {converted}\n{INTERRUPTION}\n{call}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr.endswith(("stopped; nothing was written\n", "stopped\n"))
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (130, "")


def test_the_front_door_imports_nothing_before_it_is_asked() -> None:
    asked = (
        "import sys, roformer_convert; assert not [name for name in sys.modules if name[:17] == 'roformer_convert.']"
    )
    modules_after(f"{asked}; roformer_convert.__version__ + '', roformer_convert.convert.__call__")
