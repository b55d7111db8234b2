"""Tokens a second of a training step beside the peers', characters a second of data preparation, the loader's share.

    make peers           # once: .peers/ with PaddleNLP
    make bench-training

A step is forward, backward, clipping and AdamW of a model of 6 layers, hidden 384, at 8 × 128 tokens of which 15 % are
to be predicted, with dropout. One process a contestant, with the same variables; they take turns, step by step.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bench_inference import make_sources
from contestants import ROOT, Worker, Workers, environment, in_turn, ours, peer

from roformer_convert.models.processes.processor import processor
from roformer_convert.training.corpus.prepare import prepare
from roformer_convert.training.corpus.reading import Corpus
from roformer_convert.training.samples.batches import SamplingOptions, SpecialIds, StageData
from roformer_convert.training.text.build_vocabulary import build

_ROWS, _COLUMNS = 8, 128
_PREDICTED = 0.15
_FIRST_ORDINARY, _MASK = 5, 4
_STEPS_LOADED = 256

CONTESTANTS = {
    "ours": ours("paddle", "train_paddle.py"),
    "paddlenlp": peer("PaddleNLP", "paddle", "train_paddlenlp.py", "paddlenlp"),
    "transformers5": peer("transformers 5", "torch", "train_transformers5.py"),
}
#: Process, job, what it is, and how many times as fast ours was expected to be.
SIDES = (
    ("ours", "step", "ours: both losses, head at the tokens to predict", None),
    ("paddlenlp", "usual", "PaddleNLP, head at every token", 1.5),
    ("paddlenlp", "masked", "PaddleNLP, head at the tokens to predict", None),
    ("transformers5", "usual", "transformers 5, head at every token", None),
    ("transformers5", "masked", "transformers 5, head at the tokens to predict", None),
)


def make_batch(path: Path, vocabulary: int) -> None:
    """Write a batch: random tokens without padding, some of them to be predicted."""
    generator = np.random.default_rng(0)
    ids = generator.integers(_FIRST_ORDINARY, vocabulary, (_ROWS, _COLUMNS))
    positions = np.sort(generator.choice(ids.size, int(ids.size * _PREDICTED), replace=False))
    labels = ids.reshape(-1)[positions]
    ids.reshape(-1)[positions] = _MASK
    types = np.repeat(np.arange(2), _COLUMNS // 2)[None].repeat(_ROWS, axis=0)
    np.savez(path, input_ids=ids, token_type_ids=types, positions=positions, labels=labels)


def measure_steps(args: argparse.Namespace, base: Path) -> tuple[dict[tuple[str, str], float], list[str]]:
    """Return each side's median seconds of a step, and the report's lines."""
    variables, chosen = environment(args.threads)
    sides = [side for side in SIDES if CONTESTANTS[side[0]].python.exists()]
    names = list(dict.fromkeys(side[0] for side in sides))
    sources, config = make_sources(base, [CONTESTANTS[name].dialect for name in names], args)
    make_batch(base / "batch.npz", config.vocab_size)
    versions: dict[str, Mapping[str, str]] = {}

    def start(name: str) -> Worker:
        one = CONTESTANTS[name]
        worker = Worker(one, sources[one.dialect], args.threads, variables)
        versions[name] = worker.versions
        tell(f"{one.script.name} started")
        return worker

    losses = {}
    with Workers(start) as processes:
        workers = processes.keep(names)
        for name, mode, _, _ in sides:
            sample = base / "loss.npy"
            answer = workers[name].ask(
                prepare=mode, batch=str(base / "batch.npz"), job=mode, sample=str(sample), rows=1
            )
            if "error" in answer:
                raise RuntimeError(f"{name} {mode}: {answer['error']}")
            losses[name, mode] = float(np.load(sample)[0, 0])
        turns = in_turn(
            [(workers[name], mode) for name, mode, _, _ in sides],
            least=args.runs,
            most=args.runs,
            seconds=0.0,
            processor_time=args.processor_time,
        )
    medians = {side[:2]: statistics.median(found) for side, found in zip(sides, turns, strict=True)}
    lines = [
        f"{args.layers} layers, hidden {args.hidden}, {config.num_attention_heads} heads, vocabulary {args.vocab:,}, "
        f"float32, dropout {config.hidden_dropout_prob:g} and {config.attention_probs_dropout_prob:g}, "
        f"{_ROWS} × {_COLUMNS}; {processor().name}, {args.threads} threads{', processor time' * args.processor_time}; "
        f"medians of {args.runs} steps in turn; Python {platform.python_version()}",
        *(f"{name}: {', '.join(f'{k} {v}' for k, v in one.items())}" for name, one in versions.items()),
        "variables, the same on both sides: " + " ".join(f"{key}={value}" for key, value in chosen.items()),
        "",
        "| step | tokens/s | ours / it | expected | | first loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, mode, what, expected in sides:
        ratio = medians[name, mode] / medians["ours", "step"]
        wanted = "" if expected is None else f"{expected:g}"
        verdict = "" if expected is None else "met" if ratio >= expected else "not met"
        rate = _ROWS * _COLUMNS / medians[name, mode]
        lines.append(f"| {what} | {rate:,.0f} | {ratio:.2f} | {wanted} | {verdict} | {losses[name, mode]:.2f} |")
    lines += [f"{name}: not measured, {one.python} is absent" for name, one in CONTESTANTS.items() if name not in names]
    return medians, lines


def measure_data(args: argparse.Namespace, base: Path, step_seconds: float) -> list[str]:
    """Prepare text with one process and with two, then make batches of it; return the report's lines."""
    text, origin = fetch_text(base / "text", args.characters)
    vocabulary = base / "vocab.txt"
    rows = build([text], args.vocab).tokens
    vocabulary.write_text("\n".join(rows) + "\n", encoding="utf-8")
    lines = [
        "",
        f"data preparation: {origin}",
        "",
        "| processes | segmenter | characters/s | MB a process |",
        "|---|---|---|---|",
    ]
    for processes in (1, 2):
        corpus = base / f"corpus-{processes}"
        # several shards, or there is nothing for a second process to do
        report = prepare([text], corpus, vocabulary, processes=processes, shard_bytes=max(1, text.stat().st_size // 8))
        tell(f"prepared with {processes} processes")
        rate, peak = report.characters / report.seconds, report.peak_bytes / 1e6
        lines.append(f"| {processes} | rjieba | {rate:,.0f} | {peak:.0f} |")
    data = StageData(
        [(Corpus.open(base / "corpus-1"), 1.0)],
        length=_COLUMNS,
        seed=0,
        options=SamplingOptions(),
        special=SpecialIds.of_vocabulary(rows),
        batch_size=_ROWS,
    )
    data.batches(0)  # what is worked out once a run
    clock = time.process_time if args.processor_time else time.perf_counter
    began = clock()
    for step in range(1, _STEPS_LOADED + 1):
        data.batches(step)
    seconds = (clock() - began) / _STEPS_LOADED
    share = seconds / step_seconds
    verdict = "met" if share < 0.03 else "not met"
    lines += [
        "",
        f"loader: {1000 * seconds:.2f} ms a batch of {_ROWS} × {_COLUMNS}, {share:.2%} of our step, were it not "
        f"in a thread of its own; under 3 % expected, {verdict}",
    ]
    return lines


def fetch_text(directory: Path, characters: int) -> tuple[Path, str]:
    """Write a text of so many characters, real where it can be fetched; return it and where it comes from."""
    sys.path.insert(0, str(ROOT / "fixtures"))
    from corpus_text import fetch

    path = directory / "text.txt"
    try:
        news = fetch(directory).joinpath("news.txt").read_text(encoding="utf-8")
        origin = "news of fixtures/corpus_text.py"
        (directory / "news.txt").unlink()
        (directory / "reviews.txt").unlink()
    except RuntimeError:
        generator = random.Random(0)
        sentences = (
            "".join(chr(0x4E00 + int(generator.expovariate(0.002)) % 5000) for _ in range(30)) for _ in range(20_000)
        )
        news = "\n".join(f"{one}。" + "\n" * (number % 8 == 7) for number, one in enumerate(sentences))
        origin = "made-up characters, as real text could not be fetched"
    path.write_text(news[:characters], encoding="utf-8")
    return path, f"{min(characters, len(news)):,} characters, {origin}"


_BEGAN = time.perf_counter()


def tell(what: str) -> None:
    """Say how far it is."""
    print(f"{time.perf_counter() - _BEGAN:4.0f} s  {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=9, help="timed steps of each contestant, in turn [9]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--vocab", type=int, default=12_000)
    parser.add_argument("--characters", type=int, default=1_500_000, help="of text to prepare [1,500,000]")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on a machine that others use: count one thread's processor seconds, not wall seconds",
    )
    args = parser.parse_args()
    if args.processor_time:
        args.threads = 1  # threads that wait for each other count as busy
    with tempfile.TemporaryDirectory(prefix="bench-training-") as directory:
        medians, lines = measure_steps(args, Path(directory))
        print("\n".join(lines), flush=True)
        print("\n".join(measure_data(args, Path(directory), medians["ours", "step"])))
    seconds: dict[str, Any] = {" ".join(side): round(found, 4) for side, found in medians.items()}
    print(f"{time.perf_counter() - _BEGAN:.0f} s in all")
    print(json.dumps(seconds), file=sys.stderr)


if __name__ == "__main__":
    main()
