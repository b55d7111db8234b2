"""Conversion at base size beside ``cp`` of the same bytes and, where their environments are present, the peers.

    make peers           # once: .peers/ with transformers 4, PaddleNLP and bert4keras
    make bench-convert

Every figure is a whole process: wall seconds from start to exit, or the peak of anonymous memory of its process tree,
sampled every 2 ms. Whoever samples takes a tenth of a core, so memory is taken in a round of its own, before the rounds
that are timed. Ours, ``cp`` and the peer take turns in one run, so that a machine's moods hit all of them; quote ratios
of the medians. Processor seconds, of user and system, say more where others use the machine. With ``--beside`` another
version of the command takes turns, too. The weights are random, made on the spot: 12 layers, hidden 768, vocabulary
50,000.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roformer_convert.converters import RoFormerConfig, save_checkpoint
from roformer_convert.converters.table.mapping import MASKED_LM, MLM, PROJECT, SOP, Table

COMMAND = Path(sys.executable).with_name("roformer-convert")
ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
DIRECTIONS = (("paddle", "torch"), ("torch", "paddle"), ("torch", "tf"), ("tf", "torch"), ("tf1", "torch"))
#: Direction → environment, script, and who it is.
PEER = {
    ("torch", "paddle"): ("paddlenlp", "torch_to_paddle.py", "PaddleNLP 2.8.1"),
    ("torch", "tf"): ("transformers4", "torch_to_tf.py", "transformers 4.57"),
    ("tf", "torch"): ("transformers4", "tf_to_torch.py", "transformers 4.57"),
    ("tf1", "torch"): ("transformers4", "tf1_to_torch.py", "transformers 4.57"),
}


@dataclass(frozen=True)
class Run:
    """One finished process: wall and processor seconds, peak anonymous memory in MB (None where nobody watched it)."""

    seconds: float
    processor: float
    anonymous: float | None


def anonymous_memory(pid: int) -> int:
    """Anonymous resident bytes of a process and its children."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        total += sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(anonymous_memory(int(child)) for child in (task / "children").read_text().split())
    except (OSError, ValueError):
        pass
    return total


def run(command: list[str], env: dict[str, str] | None = None, *, watched: bool = False) -> Run:
    """Run a command to its end; a failure ends the benchmark with its last words."""
    began, used = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdout=words, stderr=words, env=env)
        peak = 0
        while watched and process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.002)
        status = process.wait()
        seconds = time.perf_counter() - began
        if status:
            words.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {status}:\n{words.read().decode()[-2000:]}")
    memory = peak / 1e6 if watched and Path("/proc/self/status").exists() else None
    return Run(seconds, processor_seconds() - used, memory)


def processor_seconds() -> float:
    """Seconds of user and system that the processes which we waited for have taken."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_sources(directory: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Write the same random model in each dialect that is converted from."""
    config = RoFormerConfig(
        vocab_size=args.vocab,
        embedding_size=args.hidden,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        intermediate_size=4 * args.hidden,
    )
    random = np.random.default_rng(0)
    # no pooler and no sentence-order head: transformers' TF1 converter crashes where it meets one
    tensors = {
        tensor.canonical: random.standard_normal(tensor.shape(config.sizes), dtype=np.float32) * 0.02
        for tensor in Table.of(config, MASKED_LM).tensors
        if tensor.group not in (PROJECT, SOP) and (tensor.group is MLM or tensor.group.optional is None)
    }
    sources = {}
    for dialect in ("paddle", "torch", "tf", "tf1"):
        sources[dialect] = directory / f"source-{dialect}"
        save_checkpoint(sources[dialect], tensors, config, dialect=dialect)  # type: ignore[arg-type]
    return sources


def weight_bytes(directory: Path) -> list[Path]:
    """The large files of a checkpoint directory."""
    return [path for path in directory.iterdir() if path.stat().st_size > 1 << 20]


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="runs of ours and of cp, in turn [5]")
    parser.add_argument("--peer-runs", type=int, default=2, help="runs of a peer [2]")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50_000)
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--beside", type=Path, metavar="COMMAND", help="roformer-convert of another version")
    parser.add_argument("--directory", type=Path, help="where to work; by default a temporary directory")
    parser.add_argument("options", nargs="*", help="options for our command, after --: e.g. -- --no-verify")
    args = parser.parse_args()
    # as a person's install runs: with its bytecode kept, and no library pinned to one processor
    unset = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    base = Path(tempfile.mkdtemp(prefix="bench-convert-", dir=args.directory))
    rows = []
    try:
        sources = make_sources(base, args)
        for source, target in DIRECTIONS:
            for row in measure(base, sources[source], source, target, args, environment):
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print_table(rows, args)


def measure(
    base: Path, source: Path, dialect: str, target: str, args: argparse.Namespace, environment: dict[str, str]
) -> list[dict[str, object]]:
    """Run one direction: cp, ours and the others in turn, after a round that is watched and not timed."""
    files = [str(path) for path in weight_bytes(source)]
    out, copy = base / "out", base / "copy"
    ours: dict[Path, list[Run]] = {command: [] for command in (COMMAND, args.beside) if command is not None}
    copies: list[Run] = []
    peers: list[Run] = []
    peer = None if args.no_peers else PEER.get((dialect, target))
    python = ROOT / ".peers" / peer[0] / "bin" / "python" if peer else None
    for turn in range(args.runs + 1):
        copy.mkdir()
        copies.append(run(["cp", *files, str(copy)]))
        shutil.rmtree(copy)
        words = ["convert", str(source), "--from", dialect, "--to", target, "-o", str(out), "--quiet", *args.options]
        for command, runs in ours.items():
            runs.append(run([str(command), *words], environment, watched=turn == 0))
            shutil.rmtree(out)
        if peer and python is not None and python.exists() and turn <= args.peer_runs:
            script = [str(python), str(PEERS / peer[1]), str(source), str(out)]
            quiet = {**environment, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
            peers.append(run(script, quiet, watched=turn == 0))
            shutil.rmtree(out)

    def seconds(runs: list[Run]) -> float:
        return statistics.median(one.seconds for one in runs[1:])

    def memory(runs: list[Run]) -> float:
        return runs[0].anonymous or 0

    rows: list[dict[str, object]] = [
        {
            "direction": f"{dialect} → {target}" + (", the other version" if command != COMMAND else ""),
            "cp": seconds(copies),
            "ours": seconds(runs),
            "ratio": seconds(runs) / seconds(copies),
            "processor": statistics.median(one.processor for one in runs[1:]),
            "memory": memory(runs),
        }
        for command, runs in ours.items()
    ]
    if len(peers) > 1:
        assert peer is not None
        rows[0] |= {"peer": peer[2], "peer_seconds": seconds(peers), "peer_memory": memory(peers)}
    elif peer is None and not args.no_peers:
        rows[0]["peer"] = "no tool"
    return rows


def print_table(rows: list[dict[str, object]], args: argparse.Namespace) -> None:
    """Print what was measured, with what it was measured on."""
    print(
        f"{args.layers} layers, hidden {args.hidden}, vocabulary {args.vocab:,}; {platform.machine()}, "
        f"{os.cpu_count()} processors, Python {platform.python_version()}, numpy {np.__version__}; "
        f"medians of {args.runs} runs (peers {args.peer_runs}), options: {' '.join(args.options) or 'none'}"
    )
    columns = ["direction", "cp, s", "ours, s", "ours / cp", "ours, processor s", "ours, anonymous MB"]
    columns += ["peer", "peer, s", "peer / ours", "peer, MB"]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for row in rows:
        cells = [str(row["direction"]), f"{row['cp']:.2f}", f"{row['ours']:.2f}", f"{row['ratio']:.1f}"]
        cells += [f"{row['processor']:.2f}", f"{row['memory']:.0f}"]
        if "peer_seconds" in row:
            times = float(str(row["peer_seconds"])) / float(str(row["ours"]))
            cells += [str(row["peer"]), f"{row['peer_seconds']:.1f}", f"{times:.0f}", f"{row['peer_memory']:.0f}"]
        else:
            cells += [str(row.get("peer", "not installed")), "", "", ""]
        print("| " + " | ".join(cells) + " |")
    print(json.dumps(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
