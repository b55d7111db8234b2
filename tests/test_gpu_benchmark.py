"""``benchmarks/gpu.py``: every line of it on a CPU, what it says without a GPU, and that its checks can fail."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from roformer_convert.models.kernels.attention_torch import Device, pretending
from roformer_convert.models.proving.graphs_torch import Record, Run

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
H200 = Device("cuda", "H200", (9, 0), 132)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a person does."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The script's own modules, with a GPU pretended."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("gpu", "gpu_checks", "gpu_contestants")
    with pretending(H200):
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def place(modules: SimpleNamespace, **changes: Any) -> Any:
    made = modules.gpu_contestants.Place(
        device=torch.device("cpu"),
        source=Path("nowhere"),
        recorder=modules.gpu.record_again,
        backend=None,
        shapes=((1, 16), (2, 24)),
        sentences=3,
    )
    return made._replace(**changes)


def verdicts(check: Callable[[Any], Iterator[Any]], where: Any) -> list[str]:
    return [finding.verdict for finding in check(where)]


def test_every_line_of_it_runs_on_a_cpu() -> None:
    pytest.importorskip("transformers")
    done = run("--device", "cpu", "--tiny")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"CPU, a dry run: torch {torch.__version__}")
    found = [line[:9].strip() for line in lines if line[:9].strip() in ("right", "WRONG", "left out")]
    assert (found.count("right"), found.count("WRONG")) == (23, 0)
    assert [line for line in lines if line.startswith("transformers, plain call")] == []
    for case in ("1 × 16", "2 × 32", "2 × 48", "3 × 40", "6 sentences", "training, 3 × 40"):
        assert f"| {case} | ms | real tokens/s | |" in lines
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    for who, times in {
        "ours, eager": 4,
        "ours, graph": 4,
        "ours, compiled": 1,
        "transformers, eager": 4,
        "transformers, compiled": 1,
        "ours, padded": 1,
        "ours, packed": 1,
        "ours": 1,
        "transformers, head at those tokens": 2,
        "transformers, plain call": 2,
    }.items():
        assert rows.count(who) == times, who
    assert len([line for line in lines if line.endswith(("met", "not met"))]) == 7


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), r"gpu.py: there is no gpu:0: torch .* The build for GPUs: pip install torch --index-url"),
        (("--device", "cpu"), r"gpu.py: a CPU is timed by bench_inference.py\. Here it goes with --tiny alone"),
        (("--device", "tpu"), r"gpu.py: 'tpu' is no device"),
    ],
)
def test_without_a_gpu_it_ends_with_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.match(said, line)


def test_where_something_is_wrong_nothing_is_timed(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(where: Any) -> Iterator[Any]:
        yield modules.gpu_checks.Finding("WRONG", "all", "of it")

    monkeypatch.setattr(modules.gpu, "CHECKS", (wrong,))
    monkeypatch.setattr(modules.gpu, "inference", None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny"])
    assert modules.gpu.main() == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "WRONG     all: of it",
        "Something is wrong: nothing is timed.",
    ]


@pytest.mark.parametrize("share", [1e-11, 0.05])
def test_numbers_that_are_off_are_wrong(
    share: float, modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = modules.gpu_checks
    honest = checks.logits

    def lying(made: Any, given: Any, packed: bool = False) -> Any:
        found = honest(made, given, packed)
        found[-1, -1] += packed * share * abs(found).max()
        return found

    monkeypatch.setattr(checks, "logits", lying)
    assert verdicts(checks.compiled_is_the_model, place(modules)) == []
    assert verdicts(checks.float64_is_the_cpus, place(modules)) == ["right", "WRONG"] * 3
    other = "WRONG" if share > 0.01 else "right"
    assert verdicts(checks.types_err_as_on_the_cpu, place(modules))[:4] == ["right", other] * 2


@pytest.mark.parametrize(
    ("broken", "verdict"), [(None, "right"), (0.05, "WRONG"), (RuntimeError("no C compiler"), "left out")]
)
def test_a_compiled_model_is_held_too(broken: Any, verdict: str, modules: SimpleNamespace) -> None:
    def backend(graph: Any, example: Any) -> Any:
        if isinstance(broken, Exception):
            raise broken
        return graph.forward if broken is None else lambda *given: [one * (1 + broken) for one in graph(*given)]

    torch._dynamo.reset()
    assert verdicts(modules.gpu_checks.compiled_is_the_model, place(modules, backend=backend)) == [verdict]


def test_graphs_that_lie_are_told(modules: SimpleNamespace) -> None:
    def recorder(device: torch.device) -> Record:
        def record(run: Run) -> Any:
            return lambda: None, run()

        return record

    found = list(modules.gpu_checks.graphs_are_the_model(place(modules, recorder=recorder)))
    assert {(one.verdict, one.said) for one in found} == {
        ("left out", "result 0 is not what the model gives, bit for bit")
    }


def test_other_weights_are_not_transformers(
    modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    size = SimpleNamespace(vocab=300, hidden=128, layers=1)
    sources, _ = importlib.import_module("bench_inference").make_sources(tmp_path, ["torch"], size)
    where = place(modules, source=sources["torch"])
    check = modules.gpu_checks.transformers_gives_the_same
    assert verdicts(check, where) == ["right"]

    def load(*arguments: Any, **more: Any) -> Any:
        made = transformers.RoFormerForMaskedLM.from_pretrained(*arguments, **more)
        with torch.no_grad():
            made.roformer.encoder.layer[0].output.dense.bias[3] += 0.01
        return made

    fake = SimpleNamespace(RoFormerForMaskedLM=SimpleNamespace(from_pretrained=load))
    monkeypatch.setattr(modules.gpu_checks, "find_transformers", lambda: fake)
    assert verdicts(check, where) == ["WRONG"]
    monkeypatch.setattr(modules.gpu_checks, "find_transformers", lambda: None)
    assert verdicts(check, where) == ["left out"]


def test_what_cannot_run_is_said_and_the_rest_is_timed(
    modules: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def no_compiler() -> None:
        raise RuntimeError("Failed to find C compiler\nmore")

    found = modules.gpu.in_turn(place(modules), {"large": too_large, "compiled": no_compiler, "small": lambda: None})
    assert list(found[0]) == ["small"]
    assert found[1] == {"large": "out of memory", "compiled": "RuntimeError: Failed to find C compiler"}
    assert len(found[0]["small"]) == modules.gpu._RUNS[1]
    lines = list(modules.gpu.report("case", 9, (("small", "large", 1.0), ("small", "small", 1.0)), found))
    assert lines == [
        "case: small against large: not measured",
        "case: small is 1.00 times as fast as small; expected 1: met",
    ]
    assert "| large | | | out of memory |" in capsys.readouterr().out
