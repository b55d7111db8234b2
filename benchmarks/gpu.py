"""The PyTorch model on the GPU at hand: whether it is right, then how fast it is, beside transformers where installed.

    python benchmarks/gpu.py                       # some minutes; --no-compile leaves torch.compile out
    python benchmarks/gpu.py --device cpu --tiny   # every line of it on a CPU, for a test: the figures mean nothing

In a checkout that is not installed, with nothing but torch and numpy, and transformers for the comparison:

    make typing && PYTHONPATH=build/typing python3 benchmarks/gpu.py

Weights are random, made on the spot, at base size: 12 layers, hidden 768, vocabulary 50,000. What is timed takes turns,
run by run, after warm runs, and each run is waited for. Exit status 1 where something is wrong, and then nothing is
timed; 2 without a GPU.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import torch
from bench_inference import make_sources
from gpu_checks import CHECKS
from gpu_contestants import Job, Models, Place, find_transformers, training_step, who_trains

from roformer_convert.converters import ConvertError
from roformer_convert.models.kernels.attention_torch import Device, pretending
from roformer_convert.models.kernels.trials_torch import gist
from roformer_convert.models.ops_torch import compute_on, ran_out
from roformer_convert.models.processes.devices import DeviceName
from roformer_convert.models.proving.graphs_torch import Record, Results, Run, record_on

Expected = tuple[tuple[str, str, float], ...]
#: Who is to be how many times as fast as whom on an H200: ours, theirs, times.
_SMALL: Expected = (("ours, graph", "transformers, eager", 6.0),)
_LARGE: Expected = (("ours, eager", "transformers, eager", 2.0), ("ours, compiled", "transformers, compiled", 1.3))
_SENTENCES: Expected = (("ours, packed", "ours, padded", 1.0),)
_TRAINING: Expected = (("ours", "transformers, head at those tokens", 2.0),)
_WARM = 3  # runs: a graph is made in the second
_RUNS = (5, 50)  # at least and at most
_SECONDS = 4.0  # that the runs of a case take, about
_WHOLE = ((1, 32), (8, 128), (2, 512), (32, 512))
_TINY = ((1, 16), (2, 32), (2, 48), (3, 40))


def main() -> int:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="gpu", help="gpu, gpu:1 …, or with --tiny cpu [gpu]")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers, to see that it runs")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    args = parser.parse_args()
    began = time.perf_counter()
    try:
        name = DeviceName.of(args.device)
        if name.kind == "cpu" and not args.tiny:
            raise ConvertError("a CPU is timed by bench_inference.py", "Here it goes with --tiny alone.")
        compute_on(name)
    except ConvertError as error:
        print(f"gpu.py: {error.what}. {error.next_step}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        if name.kind == "cpu":  # an H200 is pretended, so that all of it is run
            stack.enter_context(pretending(Device("cuda", "a pretended H200", (9, 0), 132)))
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gpu-")))
        place = make_place(args, name, base)
        print(about(place, name), flush=True)
        if not check(place):
            return 1
        with torch.inference_mode():
            met = [line for case in inference(place) for line in report(*case)]
        met += report(*training(place))
    print("", *met, sep="\n")
    print(f"{time.perf_counter() - began:.0f} s in all")
    return 0


def make_place(args: argparse.Namespace, name: DeviceName, base: Path) -> Place:
    """Write the checkpoint and gather what everything needs."""
    size = {"vocab": 300, "hidden": 128, "layers": 2} if args.tiny else {"vocab": 50_000, "hidden": 768, "layers": 12}
    sources, _ = make_sources(base, ["torch"], SimpleNamespace(**size))  # type: ignore[arg-type]
    tiny, cpu = args.tiny, name.kind == "cpu"
    return Place(
        device=torch.device("cpu" if cpu else f"cuda:{name.number}"),
        source=sources["torch"],
        recorder=record_again if cpu else record_on,
        backend=None if args.no_compile else "eager" if tiny else "inductor",
        shapes=_TINY if tiny else _WHOLE,
        sentences=6 if tiny else 256,
    )


def record_again(device: torch.device) -> Record:
    """Stand for what makes graphs where there is no GPU: the run is run again."""

    def record(run: Run) -> tuple[Callable[[], None], Results]:
        results = run()

        def replay() -> None:
            for place, value in zip(results, run(), strict=True):
                if place is not None and value is not None:
                    place.copy_(value)

        return replay, results

    return record


def about(place: Place, name: DeviceName) -> str:
    """Name the card, its driver and the versions."""
    transformers = find_transformers()
    versions = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"]
    versions.append(f"transformers {transformers.__version__}" if transformers else "transformers not installed")
    if place.device.type == "cpu":
        return f"CPU, a dry run: {', '.join(versions)}"
    found = torch.cuda.get_device_properties(place.device)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={name.number}"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    card = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, capability {found.major}.{found.minor}"
    return f"{card}, driver {driver}, {', '.join(versions)}"


def check(place: Place) -> bool:
    """Print what every check finds; say whether nothing is wrong."""
    good = True
    for one in CHECKS:
        for finding in one(place):
            good &= finding.verdict != "WRONG"
            print(f"{finding.verdict:9} {finding.what}: {finding.said}", flush=True)
        collect(place)
    if not good:
        print("Something is wrong: nothing is timed.")
    return good


#: The seconds of each run of each contestant; and what is noted of some.
Found = tuple[dict[str, list[float]], dict[str, str]]
#: Its name, its real tokens, what is expected, what was found.
Case = tuple[str, int, Expected, Found]


def inference(place: Place) -> Iterator[Case]:
    """Time every case."""
    models = Models(place)
    for rows, columns in place.shapes:
        compiled = (rows, columns) == place.shapes[-1]  # a compilation takes up to a minute
        found = in_turn(place, models.whole(rows, columns, compiled))
        yield f"{rows} × {columns}", rows * columns, _LARGE if compiled else _SMALL, found
    jobs, tokens = models.sentences()
    yield f"{place.sentences} sentences", tokens, _SENTENCES, in_turn(place, jobs)


def training(place: Place) -> Case:
    """Time a training step of each contestant, one after another, with the memory that it takes."""
    rows, columns = place.shapes[-1]
    times: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for who in who_trains():
        collect(place)
        found, noted = in_turn(place, {who: training_step(place, who)})
        times |= found
        notes |= noted
        if place.device.type == "cuda" and who in times:
            notes[who] = f"{torch.cuda.max_memory_allocated(place.device) / 1e9:.1f} GB"
    return f"training, {rows} × {columns}", rows * columns, _TRAINING, (times, notes)


def in_turn(place: Place, jobs: Mapping[str, Job]) -> Found:
    """Run each job in turn, after warm runs; note what has no room or cannot run, and time the others."""
    times: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for who, job in jobs.items():
        try:
            for _ in range(_WARM):
                job()
            place.synchronize()
            times[who] = []
        except Exception as error:
            notes[who] = "out of memory" if ran_out(error) else gist(error)
            collect(place)
    least, most = _RUNS
    spent = 0.0
    for turn in range(most):
        if turn >= least and spent > _SECONDS:
            break
        for who, found in times.items():
            began = time.perf_counter()
            jobs[who]()
            place.synchronize()
            found.append(time.perf_counter() - began)
            spent += found[-1]
    return times, notes


def collect(place: Place) -> None:
    """Give back what is no longer used, and count memory from here."""
    gc.collect()
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place.device)


def report(case: str, tokens: int, expected: Expected, found: Found) -> Iterator[str]:
    """Print a case's table; yield a line for each of its expectations."""
    times, notes = found
    medians = {who: statistics.median(runs) for who, runs in times.items()}
    print(f"\n| {case} | ms | real tokens/s | |\n|---|---|---|---|")
    for who, seconds in sorted(medians.items(), key=lambda item: item[1]):
        print(f"| {who} | {seconds * 1e3:.2f} | {tokens / seconds:,.0f} | {notes.get(who, '')} |")
    for who in notes.keys() - medians.keys():
        print(f"| {who} | | | {notes[who]} |")
    sys.stdout.flush()
    for ours, theirs, wanted in expected:
        if ours not in medians or theirs not in medians:
            yield f"{case}: {ours} against {theirs}: not measured"
            continue
        ratio = medians[theirs] / medians[ours]
        verdict = "met" if ratio >= wanted else "not met"
        yield f"{case}: {ours} is {ratio:.2f} times as fast as {theirs}; expected {wanted:g}: {verdict}"


if __name__ == "__main__":
    sys.exit(main())
