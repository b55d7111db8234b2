"""Tokens a second of the three models at base size, each beside its peer in the peer's own environment.

    make peers            # once: .peers/ with transformers 4 and PaddleNLP
    make bench-inference

One process a contestant, all on the same processors with the same variables; within a row they take turns, run by
run, so that a machine's moods hit all of them: quote the ratio. Of a side with several modes the best takes turns,
with those nearly as good, found by a probe of one or two runs each. The weights are random, made on the spot: 12
layers, hidden 768, vocabulary 50,000, float32. A batch is 8 × 128 or 2 × 512 tokens without padding and with every
logit wanted, or 32 real sentences of mixed length with the logits wanted at one token in seven, where every
contestant runs its head on those tokens alone. Tokens are real ones: padding counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contestants import ROOT, Worker, Workers, environment, in_turn, ours, peer
from sentences import MASK, token_ids

from roformer_convert.converters import RoFormerConfig, save_checkpoint
from roformer_convert.converters.table.mapping import MASKED_LM, MLM, PROJECT, Table
from roformer_convert.models.processes.processor import processor

_PRODUCT = (1024, 768, 3072)  # one feed-forward product at 1,024 tokens
_SAMPLE_ROWS = 64
_MOST_DIFFERENCE = 1e-3
#: Where a side has several modes, each is probed: one run, and a second unless the first is this far behind the best.
_FAR_BEHIND = 1.3
#: Modes whose probe comes this near to the best one's take turns too: a probe cannot tell them apart.
_NEAR = 1.1
#: Turns at most, taken while a case's runs so far took less than so many seconds in all.
_MOST_TURNS = 9
_CASE_SECONDS = 8.0


CONTESTANTS = {
    "torch": ours("torch", "time_torch.py"),
    "tf": ours("tf", "time_tf.py"),
    "paddle": ours("paddle", "time_paddle.py"),
    "transformers5": peer("transformers 5", "torch", "time_transformers5.py"),
    "transformers4": peer("transformers 4", "tf", "time_transformers4.py", "transformers4"),
    "paddlenlp": peer("PaddleNLP", "paddle", "time_paddlenlp.py", "paddlenlp"),
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
)


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
    generator = np.random.default_rng(0)
    tensors = {
        tensor.canonical: generator.standard_normal(tensor.shape(config.sizes), dtype=np.float32) * 0.02
        + ("norm.weight" in tensor.canonical)
        for tensor in Table.of(config, MASKED_LM).tensors
        if tensor.group is not PROJECT and (tensor.group is MLM or tensor.group.optional is None)
    }
    sources = {}
    for dialect in sorted(set(dialects)):
        sources[dialect] = directory / dialect
        save_checkpoint(sources[dialect], tensors, config, dialect=dialect)  # type: ignore[arg-type]
    return sources, config


def make_batches(directory: Path, config: RoFormerConfig) -> tuple[dict[str, Path], dict[str, int], str]:
    """Write each case's batch; return the files, the real tokens of each, and where the sentences come from."""
    generator = np.random.default_rng(0)
    files, tokens = {}, {}
    for rows, columns in ((8, 128), (2, 512)):
        name = f"{rows} × {columns}"
        ids = generator.integers(0, config.vocab_size, (rows, columns))
        files[name], tokens[name] = directory / f"{rows}x{columns}.npz", ids.size
        np.savez(files[name], input_ids=ids, token_type_ids=np.zeros_like(ids))
    sentences, origin = token_ids(32, ROOT / ".peers" / "text")
    columns = max(map(len, sentences))
    ids = np.zeros((len(sentences), columns), np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = np.array(sentence) % config.vocab_size
        mask[row, : len(sentence)] = 1
    real = np.flatnonzero(mask)
    positions = np.sort(generator.choice(real, real.size // 7, replace=False))
    ids.reshape(-1)[positions] = MASK
    files[MIXED], tokens[MIXED] = directory / "sentences.npz", real.size
    types = np.zeros_like(ids)
    np.savez(files[MIXED], input_ids=ids, token_type_ids=types, attention_mask=mask, positions=positions)
    lengths = sorted(map(len, sentences))
    about = (
        f"{len(sentences)} sentences of {lengths[0]} to {lengths[-1]} tokens (median {lengths[len(lengths) // 2]}; "
        f"{real.size / ids.size:.0%} of the padded batch is real), logits at {positions.size} tokens; {origin}"
    )
    return files, tokens, about


def operations(config: RoFormerConfig, case: str, batch: Mapping[str, np.ndarray]) -> float:
    """Floating-point operations that the real tokens need: matrix products alone, 2 a multiply-add."""
    size, layers = config.hidden_size, config.num_hidden_layers
    mask = batch.get("attention_mask")
    lengths = np.full(len(batch["input_ids"]), batch["input_ids"].shape[1]) if mask is None else mask.sum(axis=1)
    tokens = int(lengths.sum())
    scored = len(batch["positions"]) if "positions" in batch else tokens
    linear = layers * (4 * size * size + 2 * size * config.intermediate_size)
    attention = layers * 2 * size * float((lengths.astype(float) ** 2).sum())
    head = scored * (size * config.embedding_size + config.embedding_size * config.vocab_size)
    return 2.0 * (tokens * linear + attention + head)


class Bench:
    """The rows, measured one after another."""

    def __init__(self, args: argparse.Namespace, base: Path) -> None:
        self.args = args
        self.base = base
        self.began = time.perf_counter()
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
        with Workers(self._start) as workers:
            for row in self.rows:
                absent = self._absent(row)
                if absent:
                    self.notes.append(f"{row.name}: not measured, {absent}")
                    continue
                began = time.perf_counter()
                try:
                    lines += self._measure(row, workers.keep(list(dict.fromkeys((row.ours[0], row.peer[0])))))
                except RuntimeError as error:  # a contestant that cannot: the others' figures are not lost
                    self.notes.append(f"{row.name}: {error}")
                    workers.keep([])
                self._tell(f"{row.name}: {time.perf_counter() - began:.0f} s")
        return lines

    def _start(self, name: str) -> Worker:
        one = CONTESTANTS[name]
        self._tell(f"{one.script.name} starts")
        worker = Worker(one, self.sources[one.dialect], self.args.threads, self.variables)
        self.versions[name] = worker.versions
        return worker

    def _tell(self, what: str) -> None:
        print(f"{time.perf_counter() - self.began:4.0f} s  {what}", file=sys.stderr, flush=True)

    def _absent(self, row: Row) -> str:
        for name, _ in (row.ours, row.peer):
            if not CONTESTANTS[name].python.exists():
                return f"{CONTESTANTS[name].python} is absent (make peers)"
        if "bfloat16" in row.name and not processor().flags & {"avx512_bf16", "amx_bf16"}:
            return "this processor has no bfloat16 products"
        return ""

    def _measure(self, row: Row, workers: Mapping[str, Worker]) -> list[dict[str, Any]]:
        chosen = [case for case in row.expected if not self.args.cases or case in self.cases]
        found = [self._case(row, case, workers) for case in chosen]
        return [line for line in found if line is not None]

    @property
    def cases(self) -> set[str]:
        """Cases chosen by ``--cases``, which types no ×."""
        known = {case.replace(" ", "").replace("×", "x"): case for case in (*UNPADDED, MIXED)}
        return {known[one] for one in self.args.cases}

    def _case(self, row: Row, case: str, workers: Mapping[str, Worker]) -> dict[str, Any] | None:
        samples: list[np.ndarray] = []
        probes: dict[tuple[str, str], float] = {}
        counted = [self._best(row, case, side, workers, samples, probes) for side in (row.ours, row.peer)]
        if not all(counted):
            return None
        also = [(row.also[0], mode) for mode in row.also[1]]
        for name, mode in also:
            samples += self._prepare(row, case, name, mode, workers[name])
        sides = [*counted[0], *also, *counted[1]]
        times = in_turn(
            [(workers[name], mode) for name, mode in sides],
            least=self.args.runs,
            most=max(self.args.runs, _MOST_TURNS),
            seconds=_CASE_SECONDS,
            processor_time=self.args.processor_time,
            between=lambda: self._multiply(workers),
        )
        difference = max(float(abs(sample - samples[-1]).max()) for sample in samples)
        found = dict(zip(sides, times, strict=True))
        ours, peer = (min(side, key=lambda one: statistics.median(found[one])) for side in counted)
        line = self._line(row, case, ours, peer, found, probes, difference)
        self._tell(f"{row.name}, {case}: {line['ratio']:.2f} ({line['ours']} against {line['peer']})")
        return line

    def _best(
        self,
        row: Row,
        case: str,
        side: tuple[str, tuple[str, ...]],
        workers: Mapping[str, Worker],
        samples: list[np.ndarray],
        probes: dict[tuple[str, str], float],
    ) -> list[tuple[str, str]]:
        """Prepare each mode of a side and choose those that are fastest on a probe; none where none works."""
        name, modes = side
        worker = workers[name]
        able = []
        for mode in modes:
            found = self._prepare(row, case, name, mode, worker)
            samples += found
            able += [mode] * len(found)
        if len(able) > 1:
            for mode in able:
                best = min((probes[name, other] for other in able if (name, other) in probes), default=float("inf"))
                for _ in range(2):
                    time.sleep(0.25)
                    seconds = worker.ask(job=mode, processor_time=self.args.processor_time)["seconds"]
                    probes[name, mode] = min(seconds, probes.get((name, mode), seconds))
                    if seconds > _FAR_BEHIND * best:
                        break
        best = min((probes[name, mode] for mode in able if (name, mode) in probes), default=float("inf"))
        return [(name, mode) for mode in able if probes.get((name, mode), 0.0) <= _NEAR * best]

    def _prepare(self, row: Row, case: str, name: str, mode: str, worker: Worker) -> list[np.ndarray]:
        """Prepare a job; return its first logits, or nothing where it cannot be done."""
        sample = self.base / "sample.npy"
        request = {"prepare": mode, "batch": str(self.batches[case]), "job": mode, "sample": str(sample)}
        answer = worker.ask(**request, rows=_SAMPLE_ROWS)
        if "error" in answer:
            self.notes.append(f"{row.name}, {case}: {name} {mode} cannot: {answer['error']}")
            return []
        self._tell(f"{row.name}, {case}: {name} {mode} prepared in {answer['seconds']:.1f} s")
        return [np.load(sample)]

    def _multiply(self, workers: Mapping[str, Worker]) -> None:
        for name, worker in workers.items():
            answer = worker.ask(product=_PRODUCT, processor_time=self.args.processor_time)
            self.products.setdefault(name, []).append(answer["gflops"])

    def _line(
        self,
        row: Row,
        case: str,
        ours: tuple[str, str],
        peer: tuple[str, str],
        times: Mapping[tuple[str, str], list[float]],
        probes: Mapping[tuple[str, str], float],
        difference: float,
    ) -> dict[str, Any]:
        medians = {side: statistics.median(found) for side, found in times.items()}
        with np.load(self.batches[case]) as batch:
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
            "others": {
                **{" ".join(side): round(self.tokens[case] / found) for side, found in probes.items()},
                **{" ".join(side): round(self.tokens[case] / found) for side, found in medians.items()},
            },
            "seconds": {f"{side[0]} {side[1]}": [round(one, 3) for one in found] for side, found in times.items()},
        }

    def table(self, lines: Sequence[Mapping[str, Any]]) -> str:
        """Write the whole report."""
        args = self.args
        rates = {name: statistics.median(found) for name, found in self.products.items()}
        machine = max((max(found) for found in self.products.values()), default=0.0)
        told = [
            f"{args.layers} layers, hidden {args.hidden}, vocabulary {args.vocab:,}, float32; {processor().name}, "
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
            if line["difference"] > _MOST_DIFFERENCE and "bfloat16" not in line["row"]:
                told.append(f"{line['row']}, {line['case']}: LOGITS DIFFER by {line['difference']:.1g}")
        told += self.notes
        return "\n".join(told)


def main() -> None:
    """Measure and print one table; the figures as JSON go to stderr."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", metavar="ROW", help=f"rows that begin so: {', '.join(names)}")
    parser.add_argument("--cases", nargs="*", choices=["8x128", "2x512", "32sentences"], help="cases [all]")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each contestant, in turn [3]")
    parser.add_argument("--threads", type=int, default=2)
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
