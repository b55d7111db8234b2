"""Tokens a second of the three models at base size, each beside its peer in the peer's own environment.

    make peers            # once: .peers/ with transformers 4 and PaddleNLP
    make bench-inference

One process a contestant, all on the same processors with the same variables; within a row they take turns, run by run,
so that a machine's moods hit all of them: quote the ratio. The weights are random, made on the spot: 12 layers, hidden
768, vocabulary 50,000, float32. A batch is 8 × 128 or 2 × 512 tokens without padding and with every logit wanted, or 32
real sentences of mixed length with the logits wanted at one token in seven, where every contestant runs its head on
those tokens alone. Tokens are real ones: padding counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy
from sentences import MASK, token_ids

from roformer_convert.converters import RoFormerConfig, save_checkpoint
from roformer_convert.converters.mapping import MLM, PROJECT, Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: Wait before a run: OpenMP's threads spin for 0.2 s after their work, in the way of the next process's.
_REST_SECONDS = 0.25
_PRODUCT = (1024, 768, 3072)  # one feed-forward product at 1,024 tokens
_SAMPLE_ROWS = 64
_MOST_DIFFERENCE = 1e-3
#: A mode this many times as slow as its process's best in the first turn is not run again.
_FAR_BEHIND = 1.2


@dataclass(frozen=True)
class Contestant:
    """Attributes:
    label: In the table.
    dialect: What it reads.
    script: What runs in its process.
    python: Its interpreter.
    """

    label: str
    dialect: str
    script: Path
    python: Path


def _peer(label: str, dialect: str, script: str, environment: str) -> Contestant:
    return Contestant(label, dialect, HERE / "peers" / script, ROOT / ".peers" / environment / "bin" / "python")


CONTESTANTS = {
    "torch": Contestant("ours", "torch", HERE / "ours" / "time_torch.py", Path(sys.executable)),
    "tf": Contestant("ours", "tf", HERE / "ours" / "time_tf.py", Path(sys.executable)),
    "paddle": Contestant("ours", "paddle", HERE / "ours" / "time_paddle.py", Path(sys.executable)),
    "transformers5": Contestant(
        "transformers 5", "torch", HERE / "peers" / "time_transformers5.py", Path(sys.executable)
    ),
    "transformers4": _peer("transformers 4", "tf", "time_transformers4.py", "transformers4"),
    "paddlenlp": _peer("PaddleNLP", "paddle", "time_paddlenlp.py", "paddlenlp"),
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: For ``--only``.
        ours: Who, and the modes of which the best counts.
        peer: The same on the other side.
        expected: Ratio for each case, None where nothing was expected.
        also: Further modes of ours that are measured beside and do not count.
    """

    name: str
    ours: tuple[str, tuple[str, ...]]
    peer: tuple[str, tuple[str, ...]]
    expected: Mapping[str, float | None]
    also: tuple[str, tuple[str, ...]] = ("", ())


UNPADDED = ("8 × 128", "2 × 512")
MIXED = "32 sentences"
GPU = "32 × 512"
ROWS = (
    Row("torch", ("torch", ("eager",)), ("transformers5", ("eager",)), {"8 × 128": 1.0, "2 × 512": 1.05, MIXED: 1.5}),
    Row(
        "torch-bfloat16", ("torch", ("bfloat16",)), ("torch", ("eager",)), {"8 × 128": 1.5, "2 × 512": 1.5, MIXED: None}
    ),
    Row(
        "tf",
        ("tf", ("xla",)),
        ("transformers4", ("xla", "graph", "eager")),
        {"8 × 128": 1.0, "2 × 512": 1.0, MIXED: 1.0},
        also=("tf", ("graph",)),
    ),
    Row(
        "paddle-dynamic",
        ("paddle", ("dynamic",)),
        ("paddlenlp", ("dynamic",)),
        {"8 × 128": 1.1, "2 × 512": 1.1, MIXED: 1.1},
    ),
    Row(
        "paddle-static",
        ("paddle", ("static", "inference", "inference-onednn")),
        ("paddlenlp", ("static", "inference", "inference-onednn")),
        {"8 × 128": 1.1, "2 × 512": 1.1, MIXED: 1.1},
    ),
    Row("torch-gpu", ("torch", ("cuda-bfloat16",)), ("transformers5", ("cuda-bfloat16",)), {GPU: 2.0}),
)


class Worker:
    """A contestant's process; a context manager."""

    def __init__(self, contestant: Contestant, source: Path, threads: int, environment: Mapping[str, str]) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._name = contestant.script.name
        self._child = subprocess.Popen(
            [str(contestant.python), str(contestant.script), str(source), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=dict(environment),
            text=True,
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._words.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._words.seek(0)
            words = self._words.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{self._name} ended with {self._child.returncode}:\n{words}")
        found: dict[str, Any] = json.loads(line)
        return found


def make_sources(
    directory: Path, dialects: Sequence[str], args: argparse.Namespace
) -> tuple[dict[str, Path], RoFormerConfig]:
    """Write the same random model in each dialect that is read."""
    config = RoFormerConfig(
        vocab_size=args.vocab,
        embedding_size=args.hidden,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        intermediate_size=4 * args.hidden,
        layer_norm_eps=1e-5,  # PaddleNLP knows no other
    )
    generator = numpy.random.default_rng(0)
    tensors = {
        tensor.canonical: generator.standard_normal(tensor.shape(config.sizes), dtype=numpy.float32) * 0.02
        + ("norm.weight" in tensor.canonical)
        for tensor in Table(config.num_hidden_layers).tensors
        if tensor.group is not PROJECT and (tensor.group is MLM or tensor.group.optional is None)
    }
    sources = {}
    for dialect in sorted(set(dialects)):
        sources[dialect] = directory / dialect
        save_checkpoint(sources[dialect], tensors, config, dialect=dialect)  # type: ignore[arg-type]
    return sources, config


def make_batches(directory: Path, config: RoFormerConfig) -> tuple[dict[str, Path], dict[str, int], str]:
    """Write each case's batch; return the files, the real tokens of each, and where the sentences come from."""
    generator = numpy.random.default_rng(0)
    files, tokens = {}, {}
    for rows, columns in ((8, 128), (2, 512), (32, 512)):
        name = f"{rows} × {columns}"
        ids = generator.integers(0, config.vocab_size, (rows, columns))
        files[name], tokens[name] = directory / f"{rows}x{columns}.npz", ids.size
        numpy.savez(files[name], input_ids=ids, token_type_ids=numpy.zeros_like(ids))
    sentences, origin = token_ids(32, ROOT / ".peers" / "text")
    columns = max(map(len, sentences))
    ids = numpy.zeros((len(sentences), columns), numpy.int64)
    mask = numpy.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = numpy.array(sentence) % config.vocab_size
        mask[row, : len(sentence)] = 1
    real = numpy.flatnonzero(mask)
    positions = numpy.sort(generator.choice(real, real.size // 7, replace=False))
    ids.reshape(-1)[positions] = MASK
    files[MIXED], tokens[MIXED] = directory / "sentences.npz", real.size
    types = numpy.zeros_like(ids)
    numpy.savez(files[MIXED], input_ids=ids, token_type_ids=types, attention_mask=mask, positions=positions)
    lengths = sorted(map(len, sentences))
    about = (
        f"{len(sentences)} sentences of {lengths[0]} to {lengths[-1]} tokens (median {lengths[len(lengths) // 2]}; "
        f"{real.size / ids.size:.0%} of the padded batch is real), logits at {positions.size} tokens; {origin}"
    )
    return files, tokens, about


def operations(config: RoFormerConfig, case: str, batch: Mapping[str, numpy.ndarray]) -> float:
    """Floating-point operations that the real tokens need: matrix products alone, 2 a multiply-add."""
    size, layers = config.hidden_size, config.num_hidden_layers
    mask = batch.get("attention_mask")
    lengths = numpy.full(len(batch["input_ids"]), batch["input_ids"].shape[1]) if mask is None else mask.sum(axis=1)
    tokens = int(lengths.sum())
    scored = len(batch["positions"]) if "positions" in batch else tokens
    linear = layers * (4 * size * size + 2 * size * config.intermediate_size)
    attention = layers * 2 * size * float((lengths.astype(float) ** 2).sum())
    head = scored * (size * config.embedding_size + config.embedding_size * config.vocab_size)
    return 2.0 * (tokens * linear + attention + head)


def environment(threads: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of every contestant's process, and those among them that are set here."""
    numbers = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_getaffinity") else []
    if numbers:
        os.sched_setaffinity(0, numbers)  # XLA counts the processors that it may use
    chosen = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # what start_paddle.py asks of glibc for ours, here asked for everyone
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }
    if "AuthenticAMD" in processor()[1]:
        chosen["MKL_DEBUG_CPU_TYPE"] = "5"
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("OPENBLAS_", "KMP_", "MKL_", "OMP_"))
    }
    return {**kept, **chosen}, chosen


def processor() -> tuple[str, str, set[str]]:
    """Return the processor's model, its maker and its flags, as Linux names them."""
    fields = {"model name": platform.processor(), "vendor_id": "", "flags": ""}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in fields:
                fields[name.strip()] = value.strip()
    except OSError:
        pass
    return fields["model name"], fields["vendor_id"], set(fields["flags"].split())


class Bench:
    """The rows, measured one after another."""

    def __init__(self, args: argparse.Namespace, base: Path) -> None:
        self.args = args
        self.base = base
        self.variables, self.chosen = environment(args.threads)
        self.rows = [row for row in ROWS if not args.only or any(row.name.startswith(one) for one in args.only)]
        used = {name for row in self.rows for name in (row.ours[0], row.peer[0])}
        self.sources, self.config = make_sources(base, [CONTESTANTS[name].dialect for name in used], args)
        self.batches, self.tokens, self.about = make_batches(base, self.config)
        self.versions: dict[str, dict[str, str]] = {}
        self.products: dict[str, list[float]] = {}
        self.notes: list[str] = []

    def run(self) -> list[dict[str, Any]]:
        """Measure every row."""
        lines = []
        for row in self.rows:
            absent = self._absent(row)
            if absent:
                self.notes.append(f"{row.name}: not measured, {absent}")
                continue
            try:
                found = self._measure(row)
            except RuntimeError as error:  # a contestant that cannot: the others' figures are not lost
                self.notes.append(f"{row.name}: {error}")
                continue
            lines += found
            for line in found:
                print(line, file=sys.stderr, flush=True)
        return lines

    def _absent(self, row: Row) -> str:
        if "gpu" in row.name:
            return "" if self.args.gpu else "no GPU was asked for (--gpu, with a CUDA build of torch)"
        for name, _ in (row.ours, row.peer):
            if not CONTESTANTS[name].python.exists():
                return f"{CONTESTANTS[name].python} is absent (make peers)"
        if "bfloat16" in row.name and not processor()[2] & {"avx512_bf16", "amx_bf16"}:
            return "this processor has no bfloat16 products"
        return ""

    def _measure(self, row: Row) -> list[dict[str, Any]]:
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name in dict.fromkeys((row.ours[0], row.peer[0])):
                one = CONTESTANTS[name]
                worker = Worker(one, self.sources[one.dialect], self.args.threads, self.variables)
                workers[name] = stack.enter_context(worker)
                self.versions[name] = worker.versions
            chosen = [case for case in row.expected if not self.args.cases or case in self.cases]
            found = [self._case(row, case, workers) for case in chosen]
        return [line for line in found if line is not None]

    @property
    def cases(self) -> set[str]:
        """Cases chosen by ``--cases``, which types no ×."""
        known = {case.replace(" ", "").replace("×", "x"): case for case in (*UNPADDED, MIXED, GPU)}
        return {known[one] for one in self.args.cases}

    def _case(self, row: Row, case: str, workers: Mapping[str, Worker]) -> dict[str, Any] | None:
        sides = [(name, mode) for name, modes in (row.ours, row.also, row.peer) for mode in modes]
        times: dict[tuple[str, str], list[float]] = {}
        samples = []
        for name, mode in sides:
            sample = self.base / "sample.npy"
            request = {"prepare": mode, "batch": str(self.batches[case]), "job": mode, "sample": str(sample)}
            answer = workers[name].ask(**request, rows=_SAMPLE_ROWS)
            if "error" in answer:
                self.notes.append(f"{row.name}, {case}: {name} {mode} cannot: {answer['error']}")
                continue
            samples.append(numpy.load(sample))
            times[name, mode] = []
        if not all(any((name, mode) in times for mode in modes) for name, modes in (row.ours, row.peer)):
            return None
        for turn in range(self.args.runs):
            for name, worker in workers.items():
                answer = worker.ask(product=_PRODUCT, processor_time=self.args.processor_time)
                self.products.setdefault(name, []).append(answer["gflops"])
            for name, mode in times:
                if turn and times[name, mode][0] > _FAR_BEHIND * min(
                    found[0] for (other, _), found in times.items() if other == name
                ):
                    continue
                time.sleep(_REST_SECONDS)
                times[name, mode].append(
                    workers[name].ask(job=mode, processor_time=self.args.processor_time)["seconds"]
                )
        return self._line(row, case, times, max(float(abs(sample - samples[-1]).max()) for sample in samples))

    def _line(
        self, row: Row, case: str, times: Mapping[tuple[str, str], list[float]], difference: float
    ) -> dict[str, Any]:
        medians = {side: statistics.median(found) for side, found in times.items()}
        ours = min(
            (side for side in medians if side[0] == row.ours[0] and side[1] in row.ours[1]), key=medians.__getitem__
        )
        peer = min(
            (side for side in medians if side[0] == row.peer[0] and side[1] in row.peer[1]), key=medians.__getitem__
        )
        with numpy.load(self.batches[case]) as batch:
            work = operations(self.config, case, dict(batch))
        return {
            "row": row.name,
            "case": case,
            "ours": ours[1],
            "ours_tokens": self.tokens[case] / medians[ours],
            "ours_gflops": work / medians[ours] / 1e9,
            "peer": f"{CONTESTANTS[peer[0]].label} {peer[1]}",
            "peer_tokens": self.tokens[case] / medians[peer],
            "peer_gflops": work / medians[peer] / 1e9,
            "ratio": medians[peer] / medians[ours],
            "expected": row.expected[case],
            "difference": difference,
            "others": {f"{side[0]} {side[1]}": round(self.tokens[case] / medians[side]) for side in medians},
            "seconds": {f"{side[0]} {side[1]}": [round(one, 3) for one in found] for side, found in times.items()},
        }

    def table(self, lines: Sequence[Mapping[str, Any]]) -> str:
        """Write the whole report."""
        args = self.args
        rates = {name: statistics.median(found) for name, found in self.products.items()}
        machine = max((max(found) for found in self.products.values()), default=0.0)
        told = [
            f"{args.layers} layers, hidden {args.hidden}, vocabulary {args.vocab:,}, float32; {processor()[0]}, "
            f"{args.threads} threads{', processor time' * args.processor_time}; "
            f"medians of {args.runs} runs in turn; Python {platform.python_version()}",
            *(f"{name}: {', '.join(f'{k} {v}' for k, v in one.items())}" for name, one in self.versions.items()),
            "variables, the same on both sides: " + " ".join(f"{key}={value}" for key, value in self.chosen.items()),
            self.about,
            f"bare product {' × '.join(map(str, _PRODUCT))}, GFLOP/s: "
            + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
            + f"; best seen {machine:.0f}",
            "",
            "| row | case | ours | tokens/s | % of best product | peer | tokens/s | ours / peer | expected | |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for line in lines:
            expected = line["expected"]
            verdict = "" if expected is None else "met" if line["ratio"] >= expected else "not met"
            told.append(
                f"| {line['row']} | {line['case']} | {line['ours']} | {line['ours_tokens']:,.0f} "
                f"| {line['ours_gflops'] / machine:.0%} | {line['peer']} | {line['peer_tokens']:,.0f} "
                f"| {line['ratio']:.2f} | {'' if expected is None else f'{expected:.2f}'} | {verdict} |"
            )
        told.append("")
        for line in lines:
            if len(line["others"]) > 2:
                every = ", ".join(f"{name} {rate:,}" for name, rate in line["others"].items())
                told.append(f"{line['row']}, {line['case']}, every mode's tokens/s: {every}")
            if line["difference"] > _MOST_DIFFERENCE and "bfloat16" not in line["row"] and "gpu" not in line["row"]:
                told.append(f"{line['row']}, {line['case']}: LOGITS DIFFER by {line['difference']:.1g}")
        told += self.notes
        return "\n".join(told)


def main() -> None:
    """Measure and print one table; the figures as JSON go to stderr."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", metavar="ROW", help=f"rows that begin so: {', '.join(names)}")
    parser.add_argument("--cases", nargs="*", choices=["8x128", "2x512", "32sentences", "32x512"], help="cases [all]")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each contestant, in turn [3]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="measure the row on a GPU too")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on a machine that others use: count one thread's processor seconds, not wall seconds",
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50_000)
    parser.add_argument("--directory", type=Path, help="where to work; by default a temporary directory")
    args = parser.parse_args()
    if args.processor_time:
        args.threads = 1  # threads that wait for each other count as busy
    base = Path(tempfile.mkdtemp(prefix="bench-inference-", dir=args.directory))
    began = time.perf_counter()
    try:
        bench = Bench(args, base)
        lines = bench.run()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(bench.table(lines))
    print(f"{time.perf_counter() - began:.0f} s in all")
    print(json.dumps(lines, ensure_ascii=False), file=sys.stderr)


if __name__ == "__main__":
    main()
