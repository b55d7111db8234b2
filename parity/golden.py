"""A recorded run to compare with: samples of every tap and result, their bounds, and what it was recorded on.

A golden is a file that a person is handed, so it is read with care: its size, its members, each array's type and length
are checked before anything is allocated, and nothing in it is executed. Format: a .npz of ``about`` (JSON as bytes),
``float64`` and ``float32``, the samples one after the other in the order that ``about`` lists.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.errors import ConvertError, FormatError, quoted
from ..converters.target.whole_files import write_whole
from .explaining.causes import Cause
from .judging.measure import DTYPES
from .judging.verdicts import Verdict, least_scale, status_of, worst_of
from .participants.dumps import Dump, distance
from .questions.tasks import results
from .result import Result

Array = NDArray[Any]

_VERSION = 2
# numbers recorded of a result and of a tap in each case, of a gradient, and of all taps of the smallest case together
_RESULT_SAMPLES, _TAP_SAMPLES, _GRADIENT_SAMPLES, _SMALLEST_SAMPLES = 768, 16, 4, 13_000
_LARGEST = 16 << 20
_MOST_NAMED = 8  # tensors that were changed
_DIGITS = 16  # of a tensor's digest: it names what was changed and guards nothing
_MEMBERS: Mapping[str, np.dtype[Any]] = {
    "about.npy": np.dtype("uint8"),
    "float64.npy": np.dtype("<f8"),
    "float32.npy": np.dtype("<f4"),
    "float64_scale.npy": np.dtype("<f4"),
    "float32_scale.npy": np.dtype("<f4"),
}


@dataclass(frozen=True)
class Sample:
    """Where a run of recorded numbers comes from.

    Attributes:
        case: Name of the case; ``gradients`` for the loss's gradients.
        name: The tap or parameter.
        size: Elements of the whole array.
        count: Elements recorded, evenly spread.
    """

    case: str
    name: str
    size: int
    count: int

    def take(self, array: Array) -> Array:
        """Take the same elements of another run's array."""
        places = np.linspace(0, self.size - 1, self.count).astype(np.int64)
        taken: Array = array.reshape(-1)[places]
        return taken


@dataclass(frozen=True)
class Golden:
    """A recorded run.

    Attributes:
        path: Its file.
        about: Versions, hashes, processor, bounds.
        samples: Type → what is recorded of it, in order.
        numbers: Type → the numbers.
        scales: Type → what each of them is held against.
    """

    path: Path
    about: Mapping[str, Any]
    samples: Mapping[str, tuple[Sample, ...]]
    numbers: Mapping[str, Array]
    scales: Mapping[str, Array]


def refuse_in_ci(yes: bool) -> None:
    """Refuse to record where a machine decides: a gate that records its own golden passes always.

    Raises:
        ConvertError: ``CI`` is set and nobody said yes.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false") and not yes:
        raise ConvertError(
            "--update-golden is refused where the environment variable CI is set",
            "Record it on your own machine and commit it; if this is meant, add --yes.",
        )


def record(path: Path, result: Result) -> int:
    """Record a run that passed; return the file's bytes.

    Raises:
        ConvertError: The participants differ, a verdict proves nothing, or the file cannot be written.
    """
    if not result.passed:
        why = "the participants differ" if result.exit_status == 1 else "a verdict proves nothing"
        raise ConvertError(f"{path}: not recorded, because {why}", "Mend that first.")
    first = result.dumps[0]
    samples = {dtype: _sampled(first, result, dtype) for dtype in DTYPES}
    about = {
        "format": _VERSION,
        "made_with": _own_version(),
        "environment": result.environment,
        "model_class": result.model.class_name,
        "traits": result.model.traits,
        "weights_sha256": result.weights,
        "tensors_sha256": {name: digest[:_DIGITS] for name, digest in result.digests.items()},
        "inputs_sha256": result.inputs,
        "bounds": result.bounds.as_dict(),
        "bounds_cover": "what another processor changes: the order of sums, and with it the last digits",
    }
    members = {}
    for dtype, listed in samples.items():
        about[dtype] = [[one.case, one.name, one.size, one.count] for one, _, _ in listed]
        members[dtype] = np.concatenate([numbers for _, numbers, _ in listed]).astype(_MEMBERS[f"{dtype}.npy"])
        members[f"{dtype}_scale"] = np.concatenate([scale for _, _, scale in listed]).astype("<f4")
    text = np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, about=text, **members)
    write_whole(path, buffer.getvalue())
    return len(buffer.getvalue())


def _sampled(dump: Dump, result: Result, dtype: str) -> list[tuple[Sample, Array, Array]]:
    """Choose what is recorded: each with its numbers and what they are held against."""
    found = []
    with dump.opened("gradients") as gradients:
        largest = [float(np.abs(gradients[name]).max(initial=0.0)) for name in gradients]
    floor = least_scale(dump, largest, result.model.task)
    smallest = min(result.cases, key=lambda case: case.input_ids.size).name
    for case, name, array in _arrays(dump, result, dtype):
        count = _RESULT_SAMPLES if name in results(result.order) else _TAP_SAMPLES
        if case == smallest:  # a drift in one channel shows where all are recorded
            count = max(count, _SMALLEST_SAMPLES // len(result.order))
        if case == "gradients":
            count = _GRADIENT_SAMPLES
        if case == "gradients":
            scale = np.array(max(float(np.abs(array).max(initial=0.0)), floor))
        else:
            scale = result.measured.scales[name].reshape(array.shape[2:] if array.ndim > 2 else array.shape[1:])
        sample = Sample(case, name, array.size, min(count, array.size))
        found.append((sample, sample.take(array), sample.take(np.broadcast_to(scale, array.shape))))
    return found


def _arrays(dump: Dump, result: Result, dtype: str) -> Iterator[tuple[str, str, Array]]:
    for case in result.cases:
        names = dump.names(f"{dtype}.{case.name}")
        for name in names if dtype == "float64" else results(names):
            yield case.name, name, dump.read(f"{dtype}.{case.name}", name)
    if dtype == "float64":
        for name in dump.names("gradients"):
            yield "gradients", name, dump.read("gradients", name)


def compare_golden(golden: Golden, result: Result) -> list[Verdict]:
    """Hold every participant against a recorded run.

    Raises:
        ConvertError: It was recorded for other inputs or another model: nothing can be compared.
    """
    for key, want, what in (
        ("inputs_sha256", result.inputs, "other inputs (sentences, vocabulary or sizes)"),
        ("model_class", result.model.class_name, "another model class"),
    ):
        if golden.about.get(key) != want:
            raise ConvertError(
                f"{golden.path}: recorded with {what}: {key} is {golden.about.get(key)!r}, here {want!r}",
                "Name the inputs it was recorded with, or record it anew with --update-golden.",
            )
    notes = [f"recorded on {_short(golden.about, 'processor')}; the bound covers what another processor changes"]
    if golden.about.get("weights_sha256") != result.weights:
        notes.append("the weights are not those it was recorded with")
    found = _traits(golden, result)
    for dump in result.dumps:
        found += [_verdict(golden, dump, dtype, result, "; ".join(notes)) for dtype in DTYPES]
    return found


def explain_drift(golden: Golden, result: Result) -> list[Cause]:
    """Say what is otherwise than in the recorded run where the results drift from it; empty where they do not."""
    if not any(verdict.check.startswith("golden") and not verdict.passed for verdict in result.verdicts):
        return []
    causes = []
    told = golden.about.get("traits")
    recorded = told if isinstance(told, dict) else {}
    for name, value in result.model.traits.items():
        if name in recorded and recorded[name] != value:
            causes.append(Cause("golden", "configuration", "recorded with another configuration", name, True))
    if golden.about.get("weights_sha256") != result.weights:
        told = golden.about.get("tensors_sha256")
        recorded = told if isinstance(told, dict) else {}
        changed = [name for name, digest in result.digests.items() if recorded.get(name) != digest[:_DIGITS]]
        if not recorded:  # an older golden
            changed = ["the checkpoint"]
        elif len(changed) > _MOST_NAMED:
            changed = [f"{len(changed):,} of {len(result.digests):,} tensors"]
        causes += [Cause("golden", "weights", "recorded with other weights", name, True) for name in changed]
    return causes


def _traits(golden: Golden, result: Result) -> list[Verdict]:
    """Hold what the configuration says of the function against what it said; an older golden does not say it."""
    if "traits" not in golden.about:
        return []
    told = golden.about["traits"]
    recorded = told if isinstance(told, dict) else {}
    wrong = [
        f"{name} is {value!r}, recorded {recorded.get(name)!r}"
        for name, value in result.model.traits.items()
        if recorded.get(name) != value
    ]
    about = tuple(dump.label for dump in result.dumps)
    return [Verdict("golden traits", about, float(len(wrong)), 0.0, status_of(not wrong), "; ".join(wrong)[:500])]


def _verdict(golden: Golden, dump: Dump, dtype: str, result: Result, note: str) -> Verdict:
    """Hold one participant against recorded numbers."""
    check, about = f"golden {dtype}", (dump.label,)
    start = 0
    drifted: dict[str, str] = {}
    found: list[Verdict] = []
    for sample in golden.samples[dtype]:
        want, scale = (taken[dtype][start : start + sample.count] for taken in (golden.numbers, golden.scales))
        start += sample.count
        gradient = sample.case == "gradients"
        file = "gradients" if gradient else f"{dtype}.{sample.case}"
        bound = result.bounds.gradients if gradient else result.bounds.of(dtype, sample.name)
        if sample.name not in dump.names(file):
            if gradient and not dump.names(file):
                continue  # nobody asked for them this time
            return Verdict(check, about, float("inf"), bound.value, "differs", f"{sample.name} is absent", note)
        array = dump.read(file, sample.name)
        if array.size != sample.size:
            where = f"{sample.case}: {sample.name} has {array.size:,} elements, {sample.size:,} were recorded"
            return Verdict(check, about, float("inf"), bound.value, "differs", where, note)
        if not sample.count:
            continue
        apart = distance(want[None], sample.take(array)[None], scale)
        status = bound.status_of(apart.relative)
        if status != "good":
            drifted.setdefault(sample.name, sample.case)
        where = f"{sample.case}: {sample.name}: {apart.values[1]:.9g}, recorded {apart.values[0]:.9g}"
        told = "; ".join(text for text in (bound.told, note) if text)
        found.append(Verdict(check, about, apart.relative, bound.value, status, where * (apart.largest > 0.0), told))
    if not found:
        return Verdict(check, about, 0.0, 0.0, "inconclusive", note=f"nothing of {dtype} was recorded")
    worst = worst_of(found)
    first = next((name for name in [*result.order, *drifted] if name in drifted), None)
    if first is not None:
        worst = replace(worst, where=f"first drift in {first} of {drifted[first]}; {worst.where}")
    return worst


# Reading -------------------------------------------------------------------------------------------------------------


def read_golden(path: Path) -> Golden:
    """Read a golden.

    Raises:
        ConvertError: There is none, or it is not one.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise FormatError(path, f"{size:,} bytes; a golden has under {_LARGEST:,}", next_step=_ANEW)
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _read_member(path, archive, name, kind) for name, kind in _MEMBERS.items()}
    except FileNotFoundError:
        raise ConvertError(f"{path}: no such file", "Record it with --update-golden.") from None
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror or error}", "Name a golden that can be read.") from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise FormatError(path, f"not a golden: {_shown(error)}", next_step=_ANEW) from None
    except Exception as error:  # zlib.error, struct.error and whatever else a damaged archive raises
        if isinstance(error, ConvertError):
            raise
        raise FormatError(path, f"not a golden: {type(error).__name__}: {_shown(error)}", next_step=_ANEW) from None
    about = _read_about(path, bytes(arrays["about.npy"]))
    numbers, scales = ({dtype: arrays[f"{dtype}{what}.npy"] for dtype in DTYPES} for what in ("", "_scale"))
    samples = {dtype: _read_samples(path, about, dtype, numbers[dtype], scales[dtype]) for dtype in DTYPES}
    return Golden(path, about, samples, numbers, scales)


_ANEW = "Record it anew with --update-golden."


def _shown(error: Exception) -> str:
    return shorten(str(error), 200, placeholder=" …")  # numpy repeats a whole header


def _read_member(path: Path, archive: zipfile.ZipFile, name: str, kind: np.dtype[Any]) -> Array:
    """Read one array of one axis; its size is that of its member, which is bounded."""
    entries = [entry for entry in archive.infolist() if entry.filename == name]
    if len(entries) != 1:
        raise FormatError(path, f"holds {name} {len(entries)} times; wanted once", next_step=_ANEW)
    if entries[0].file_size > _LARGEST:
        raise FormatError(
            path, f"{name} says {entries[0].file_size:,} bytes; wanted under {_LARGEST:,}", next_step=_ANEW
        )
    with archive.open(entries[0]) as stream:
        data = stream.read(_LARGEST + 1)
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if reader is None:
        raise FormatError(path, f"{name} is of .npy version {version}; wanted 1.0 or 2.0", next_step=_ANEW)
    shape, _, dtype = reader(file)  # type: ignore[no-untyped-call]
    left = len(data) - file.tell()
    if dtype != kind or len(shape) != 1 or shape[0] * kind.itemsize != left:
        raise FormatError(
            path,
            f"{name} holds {str(dtype)[:80]} of shape {quoted(shape)} in {left:,} bytes; wanted one axis of {kind}",
            next_step=_ANEW,
        )
    return np.frombuffer(data, kind, offset=file.tell())


def _read_about(path: Path, text: bytes) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"what it says about itself is not JSON: {error}", next_step=_ANEW) from None
    if not isinstance(about, dict) or about.get("format") != _VERSION:
        got = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise FormatError(path, f"format {quoted(got)}; wanted {_VERSION}", next_step=_ANEW)
    return about


def _read_samples(
    path: Path, about: Mapping[str, Any], dtype: str, numbers: Array, scales: Array
) -> tuple[Sample, ...]:
    listed = about.get(dtype)
    samples: list[Sample] = []
    for entry in listed if isinstance(listed, list) else [None]:
        good = (
            isinstance(entry, list)
            and len(entry) == 4
            and all(isinstance(text, str) for text in entry[:2])
            and all(type(number) is int for number in entry[2:])
            and 0 <= entry[3] <= entry[2] <= 1 << 40
        )
        if not good:
            raise FormatError(path, f"its list of {dtype} samples is damaged at {str(entry)[:80]}", next_step=_ANEW)
        assert isinstance(entry, list)
        samples.append(Sample(*entry))
    count = sum(sample.count for sample in samples)
    if count != len(numbers):
        raise FormatError(path, f"{len(numbers):,} numbers of {dtype}; its list says {count:,}", next_step=_ANEW)
    if len(scales) != count:
        raise FormatError(path, f"{len(scales):,} scales of {count:,} {dtype} numbers", next_step=_ANEW)
    if not np.isfinite(numbers).all() or not (np.isfinite(scales) & (scales >= 0.0)).all():
        raise FormatError(path, f"a recorded {dtype} or its scale is not a finite number", next_step=_ANEW)
    return tuple(samples)


def _short(about: Mapping[str, Any], key: str) -> str:
    environment = about.get("environment")
    return str(environment.get(key, "unknown"))[:80] if isinstance(environment, dict) else "unknown"


def _own_version() -> str:
    from ..converters.version import __version__

    return __version__
