"""The three frameworks: the name a person gives, what Python imports, the extra that brings it, the model's module.

Asked by whatever starts a framework's process (:mod:`..answers.framework_processes`) and by what needs a package that
only an extra installs (:mod:`..text.tokenizer`). Imports none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...converters.errors import ConvertError


@dataclass(frozen=True)
class Framework:
    """One of the frameworks that the models exist in.

    Attributes:
        name: On the command line and in messages.
        package: What is imported.
        extra: ``pip install '.[extra]'`` in a checkout brings it.
        model: The module of ``models`` that holds the model.
        operations: The module of ``models`` that holds the operations it is written with.
        label: What JunnYu's model cards put before its line.
        gpu_build: What installs the build that computes on GPUs.
    """

    name: str
    package: str
    extra: str
    model: str
    operations: str
    label: str
    gpu_build: str

    def import_model(self) -> Any:
        """Import the framework, and return the module of its model."""
        return importlib.import_module(f"..{self.model}", __package__)

    def import_operations(self) -> Any:
        """Import the framework, and return the module of the operations that its model is written with."""
        return importlib.import_module(f"..{self.operations}", __package__)

    def told_at_start(self) -> list[str]:
        """Say what was done to start it, where it was imported."""
        start = sys.modules.get(f"{__package__}.start_{self.name}")
        return list(getattr(start, "NOTES", ()))


# fmt: off
FRAMEWORKS: Mapping[str, Framework] = {
    framework.name: framework for framework in (
        Framework("paddle", "paddle",     "paddle",     "roformer_paddle", "ops_paddle", "paddle",
                  "pip install paddlepaddle-gpu (in place of paddlepaddle)"),
        Framework("torch",  "torch",      "torch",      "roformer_torch",  "ops_torch",  "pytorch",
                  "pip install torch --index-url https://download.pytorch.org/whl/cu126 (or another CUDA there)"),
        Framework("tf",     "tensorflow", "tensorflow", "roformer_tf",     "ops_tf",     "tf",
                  "pip install 'tensorflow[and-cuda]'"),
    )
}
# fmt: on
#: Asked for in this order where a person names no framework: the one that starts quickest first.
PREFERRED = ("torch", "paddle", "tf")
_NOTHING: Mapping[str, str] = {}


class MissingPackageError(ConvertError):
    """Packages that the job needs are not installed.

    Args:
        what: What needs the packages, for the message.
        missing: Package → the extra that brings it.
        otherwise: What else a person may do.
    """

    def __init__(self, what: str, missing: Mapping[str, str], otherwise: str = "") -> None:
        *most, last = missing
        packages = f"{', '.join(most)} and {last}" if most else last
        frameworks = {framework.extra for framework in FRAMEWORKS.values()}
        brought = {"tokenizers"} if frameworks.intersection(missing.values()) else set()  # by each of them
        extras = ",".join(extra for extra in dict.fromkeys(missing.values()) if extra not in brought)
        super().__init__(
            f"{what} needs {packages}, which {'is' if len(missing) == 1 else 'are'} not installed",
            f"Install it with: pip install '.[{extras}]' (in a checkout of roformer-convert)"
            + (f", or {otherwise}" if otherwise else ""),
        )
        self.missing = dict(missing)


def is_installed(package: str) -> bool:
    """Tell whether ``package`` can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a broken parent, or a module without a spec
        return False


def require_packages(what: str, packages: Mapping[str, str], otherwise: str = "") -> None:
    """Refuse to begin what needs packages of which some are not installed, all of them named in one message.

    Args:
        what: What needs them.
        packages: Package → the extra that brings it.
        otherwise: What else a person may do.

    Raises:
        MissingPackageError: Some are not installed.
    """
    missing = {package: extra for package, extra in packages.items() if not is_installed(package)}
    if missing:
        raise MissingPackageError(what, missing, otherwise)


def choose_frameworks(name: str | None, command: str, more: Mapping[str, str] = _NOTHING) -> tuple[str, ...]:
    """Turn ``"all"``, a framework's name or None (the first that is installed) into frameworks that are installed.

    Args:
        name: What the person asks for.
        command: What needs them.
        more: Further packages that it needs → the extra that brings each.

    Raises:
        MissingPackageError: One is not installed; it is named with its extra.
    """
    if name is None:
        found = next((one for one in PREFERRED if is_installed(FRAMEWORKS[one].package)), PREFERRED[0])
        names: tuple[str, ...] = (found,)
    else:
        names = tuple(FRAMEWORKS) if name == "all" else (name,)
    require_frameworks(names, command if name is None else f"{command} --framework {name}", more)
    return names


def require_frameworks(names: Sequence[str], what: str, more: Mapping[str, str] = _NOTHING) -> None:
    """Refuse to begin ``what`` with frameworks, or with ``more`` packages, of which one is not installed.

    Raises:
        MissingPackageError: As it says.
    """
    require_packages(what, {**{FRAMEWORKS[name].package: FRAMEWORKS[name].extra for name in names}, **more})
