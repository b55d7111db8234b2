"""The process of one framework for the gate: loads a model, runs every case, writes what it computed as files.

Started by :mod:`..gate` through :mod:`...models.processes.process`; the only place there that imports a framework. What
it writes:

    float64.<case>.npz, float32.<case>.npz    activations under the names of :func:`~...models.config.tap_names`
    float16.<case>.npz, bfloat16.<case>.npz   the same, where they are asked for, of cases that are run in half types
    float64.again.npz                         the first case once more: a model at rest computes the same twice
    before cast.<case>.npz                    results of a source that is compared as its cast leaves it, in float64
    gradients.npz, updated.npz                under canonical names and (out, in), as every file of ours
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import math
import platform
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ...converters.table.mapping import CLASSES, Table, Tensor
from ...models.processes.devices import DeviceName
from ...models.processes.frameworks import FRAMEWORKS
from ...models.processes.memory import needing_memory
from ...models.processes.process import Json, serve
from ..questions.case_file import read_cases
from ..questions.cases import Case
from ..questions.targets import Training
from ..questions.tasks import RESULTS, TASKS
from .computing import require_full_float32
from .rounding import round_to
from .run import differentiate, parameters, run

Array = NDArray[Any]
_LARGE = 1 << 22  # parameters
_OTHER_TYPE = "It cannot be served in this type; bfloat16 holds what float32 does: --half-types bfloat16."


def main(framework: str) -> None:
    """Serve one framework."""
    serve(Dumper(framework).answer)


class Dumper:
    """Answers ``{"dump": ...}``, and ``{"parameters": [...]}`` for the values of parameters that differ."""

    def __init__(self, framework: str) -> None:
        self.framework = FRAMEWORKS[framework]
        self._arguments: Json = {}

    def answer(self, request: Json) -> Json:
        """Answer one request.

        Raises:
            OutOfMemoryError: The device has no room for the model and a case.
        """
        if "dump" not in request:
            return self.write_parameters(**request["parameters"])

        def ran_out(error: BaseException) -> bool:
            found: bool = self.framework.import_operations().ran_out(error)
            return found

        device = DeviceName.of(request["dump"].get("device", "cpu"))
        with needing_memory(device, ran_out, "the model and the gate's cases do not fit"):
            return self.dump(**request["dump"])

    def start(self) -> tuple[ModuleType, ModuleType]:
        """Import the framework: the module of its model, and the one that runs it."""
        model = self.framework.import_model()
        return model, importlib.import_module(f".run_{self.framework.name}", __package__)

    def dump(
        self,
        directory: str,
        class_name: str,
        out: str,
        cases_file: str,
        cases: list[Json],
        dialect: str | None,
        extend_to: int | None = None,
        before_cast: str | None = None,
        half_types: Sequence[str] = (),
        rows: Sequence[str] = (),
        device: str = "cpu",
    ) -> Json:
        """Run everything; say what was run, how long each part took and how much memory it needed.

        In half types the cases whose taps are recorded are run, and ``rows``, those in which a row must give the same.
        """
        clock = _Clock()
        module, runner = self.start()
        operations = self.framework.import_operations()
        operations.compute_on(DeviceName.of(device))
        require_full_float32(operations, device)
        clock.lap("import")
        listed, training = read_cases(Path(cases_file), cases)
        self._arguments = {"directory": directory, "dialect": dialect, "extend_to": extend_to}
        self._class_name = class_name
        digests: dict[str, str] = {}
        loss = None
        for dtype in ("float64", "float32"):
            model = self.load(module, dtype)
            clock.lap("load")
            if dtype == "float64":
                digests = {name: _digest(array) for name, array in self.canonical(runner, model)}
                clock.lap("hash")
            for case in listed:
                self.run(runner, model, case, Path(out) / f"{dtype}.{case.name}.npz")
            if dtype == "float64":
                self.run(runner, model, listed[0], Path(out) / "float64.again.npz")
            clock.lap(dtype)
            if dtype == "float64" and training is not None:
                loss = self.differentiate(runner, model, training, Path(out))
                clock.lap("gradients and step")
            large = sum(math.prod(value.shape) for value in parameters(model).values()) > _LARGE
            del model
            if large:
                gc.collect()  # before the next one is loaded; it takes a quarter of a second
        widened = []
        for dtype in half_types:
            model = self.load_half(module, runner, dtype)
            widened += [] if module.computes(dtype) else [dtype]
            for case in listed:
                if case.taps or case.name in rows:
                    self.run(runner, model, case, Path(out) / f"{dtype}.{case.name}.npz")
            del model
            clock.lap(dtype)
        if before_cast is not None:
            self.run_before_cast(module, runner, before_cast, listed, Path(out))
            clock.lap("before the cast")
        package = sys.modules[self.framework.package]
        return {
            "version": str(package.__version__),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "seconds": clock.seconds,
            "peak_bytes": peak_bytes(),
            "digests": digests,
            "loss": loss,
            "notes": self.framework.told_at_start(),
            "widened": widened,
            "device": device,
        }

    def load(self, module: ModuleType, dtype: str) -> Any:
        """Load the model."""
        return getattr(module, self._class_name).from_pretrained(dtype=dtype, **self._arguments)

    def load_half(self, module: ModuleType, runner: ModuleType, dtype: str) -> Any:
        """Load the model as it is served in a half type: widened after rounding, where the device lacks it.

        Raises:
            ConvertError: A value is too large for the type.
        """
        if module.computes(dtype):
            try:
                return self.load(module, dtype)
            except ConvertError as error:  # its next step is an option of the converter's
                raise ConvertError(error.what, _OTHER_TYPE) from None
        model = self.load(module, "float32")
        for name, value in parameters(model).items():
            exact = runner.operations.as_numpy(value)
            rounded = round_to(exact.astype(np.float64), dtype)
            if (np.isinf(rounded) & np.isfinite(exact)).any():
                largest = float(np.abs(exact[np.isfinite(exact)]).max())
                raise ConvertError(f"{name}: {largest:.6g} is too large for {dtype}", _OTHER_TYPE)
            module.assign(value, rounded.astype(np.float32))
        return model

    def run_before_cast(
        self, module: ModuleType, runner: ModuleType, directory: str, cases: list[Case], out: Path
    ) -> None:
        """Write the results of what the directory is a rounded copy of."""
        model = getattr(module, self._class_name).from_pretrained(
            dtype="float64", **{**self._arguments, "directory": directory}
        )
        for case in cases:
            self.run(runner, model, replace(case, taps=False), out / f"before cast.{case.name}.npz")

    def run(self, runner: ModuleType, model: Any, case: Any, path: Path) -> None:
        """Run one case and write its taps."""
        found = {name: _numbers(value) for name, value in run(runner, model, case).items()}
        last = next(reversed([name for name in found if name.startswith("layers.") or name == "embeddings"]))
        kept = {name: value for name, value in found.items() if case.taps or name in RESULTS or name == last}
        np.savez(path, allow_pickle=False, **kept)

    def canonical(self, runner: ModuleType, model: Any) -> Any:
        """Yield every parameter under its canonical name, kernels as (out, in)."""
        table = _table(model)
        for name, value in parameters(model).items():
            array = runner.operations.as_numpy(value)
            yield name, array.T if table[name].transposed(runner.operations.DIALECT) else array

    def differentiate(self, runner: ModuleType, model: Any, training: Training, out: Path) -> float:
        """Write the gradients and the parameters after one step; return the loss."""
        table = _table(model)
        loss, found = differentiate(runner, model, training, TASKS[self._class_name])
        with ArrayFile(out / "gradients.npz") as gradients, ArrayFile(out / "updated.npz") as updated:
            for name, gradient, value in found:
                transposed = table[name].transposed(runner.operations.DIALECT)
                gradients.write(name, gradient.T if transposed else gradient)
                updated.write(name, value.T if transposed else value)
        return loss

    def write_parameters(self, names: list[str], out: str) -> Json:
        """Write some parameters as they were loaded."""
        module, runner = self.start()
        wanted = set(names)
        found = dict(self.canonical(runner, self.load(module, "float64")))
        np.savez(out, allow_pickle=False, **{name: array for name, array in found.items() if name in wanted})
        return {}


class ArrayFile:
    """A .npz that is written an array at a time."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def write(self, name: str, array: Array) -> None:
        """Write one array."""
        with self._zip.open(f"{name}.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)  # type: ignore[no-untyped-call]


class _Clock:
    """Seconds a part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._then = time.monotonic()

    def lap(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._then, 3)
        self._then = now


def _numbers(array: Array) -> Array:
    """Give bfloat16, whose bit patterns come as uint16, a type that numpy has."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, "<f8").tobytes()).hexdigest()


def peak_bytes() -> int | None:
    """Most memory this process held, where the system says."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _table(model: Any) -> dict[str, Tensor]:
    """Return the rows of a model's class by canonical name."""
    kind = next(kind for kind in CLASSES.values() if kind.class_name == type(model).__name__)
    return Table.of(model.config, kind).by_canonical


if __name__ == "__main__":
    main(*sys.argv[1:])
