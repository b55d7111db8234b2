"""The wheel beside the checkout: a package missing from setup.cfg works when editable and is absent once installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Directory of the checkout → package in the wheel; a directory whose __init__.py exists must be there.
PACKAGES = {"cli": "roformer_convert"} | {
    name: f"roformer_convert/{name}" for name in ("converters", "models", "parity", "training")
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy: building writes into the directory it builds from."""
    if not all(map(importlib.util.find_spec, ("setuptools", "wheel"))):
        pytest.skip("setuptools and wheel are not installed here, and fetching them is no test's business")
    copy = tmp_path_factory.mktemp("checkout")
    unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "node_modules")
    shutil.copytree(ROOT, copy, dirs_exist_ok=True, ignore=unwanted)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(out), str(copy)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def in_checkout(suffix: str) -> set[str]:
    """Every file of the checkout's packages under its name in the wheel."""
    found = set()
    for directory, package in PACKAGES.items():
        for path in (ROOT / directory).rglob(f"*{suffix}"):
            if "__pycache__" not in path.parts:
                found.add(f"{package}/{path.relative_to(ROOT / directory).as_posix()}")
    return found


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    packaged = {
        name for name in in_checkout(".py") if f"{Path(name).parent.as_posix()}/__init__.py" in in_checkout(".py")
    }
    assert {name for name in wheel.namelist() if name.endswith(".py")} == packaged
    assert packaged == in_checkout(".py"), "a directory without __init__.py"


def test_the_wheel_puts_one_name_into_site_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"roformer_convert"}
    assert not [name for name in wheel.namelist() if "test" in name or "fixture" in name]


def test_the_wheel_is_typed_and_licensed(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "roformer_convert/py.typed" in names
    if (ROOT / "LICENSE").exists():
        assert [name for name in names if name.endswith("LICENSE")]


def test_package_data_of_the_checkout_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Default sentences and configurations: what an installed package reads at run time."""
    begun = {package for directory, package in PACKAGES.items() if (ROOT / directory / "__init__.py").exists()}
    data = in_checkout(".txt") | in_checkout(".json") | in_checkout(".typed")
    assert {name for name in data if "/".join(name.split("/")[:2]) in begun} <= set(wheel.namelist())


def test_the_command_and_the_extras_are_declared(wheel: zipfile.ZipFile) -> None:
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "roformer-convert = roformer_convert.__main__:main" in wheel.read(entry).decode()
    (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra: ")}
    assert {"paddle", "torch", "tensorflow", "parity", "dev"} <= extras
    core = [line for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert not [line for line in core if any(name in line for name in ("torch", "paddle", "tensorflow"))]


def test_the_wheel_runs_without_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import roformer_convert, roformer_convert.converters.conversion as conversion\n"
        "print(roformer_convert.__version__, conversion.__file__)\n"
        "from roformer_convert.__main__ import COMMANDS, cli\n"
        "import click\n"
        "for name in COMMANDS: assert cli.get_command(click.Context(cli), name), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "site")],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
