"""The real command, killed at random moments: the target is the old state or the new one, never something between."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from random_checkpoints import CONFIG, file_bytes, random_tensors, same_bits, save

from roformer_convert.converters import ConvertError, ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.table.mapping import MLM, POOLER, Dialect

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")

#: Large enough that writing takes about as long as starting: 15 MB.
LARGE = replace(
    CONFIG,
    vocab_size=6000,
    embedding_size=256,
    hidden_size=288,
    intermediate_size=1000,
    num_attention_heads=6,
)
#: What a result says of its making differs with the options of the call that made it.
RECORD = "conversion.json"
#: Kills for each direction and state before; the moments are drawn from a seed. A campaign (``make kills``) has more,
#: and other moments each time.
CAMPAIGN = int(os.environ.get("KILLS", "0"))
ROUNDS = CAMPAIGN or 6
#: Rounds at most, where a busy machine lets every run end before its kill comes.
MOST_ROUNDS = ROUNDS + 54


@dataclass
class Case:
    """One direction: its source, and every byte of an old and of a new result."""

    source: Path
    target: Path
    to: Dialect
    old: dict[str, str]
    new: dict[str, str]
    seconds: float
    writing: float

    def command(self, *options: str) -> list[str]:
        name = ["-m", "roformer_convert", "convert", str(self.source), "--to", self.to, "-o", str(self.target)]
        return [sys.executable, *name, *options]

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        # a shell's background job ignores SIGINT, and so would every child of a test run that is one
        return subprocess.Popen(
            self.command(*options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def partials(self) -> list[Path]:
        return sorted(self.target.parent.glob(f".{self.target.name}.partial-*"))

    def state(self) -> str:
        """Say what stands under the target's name: nothing, the old result, the new one, or something else."""
        if not self.target.exists():
            return "absent"
        json.loads((self.target / RECORD).read_bytes())
        found = file_bytes(self.target, but=RECORD)
        return "new" if found == self.new else "old" if found == self.old else f"broken: {sorted(found)}"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    tensors = random_tensors(LARGE, (POOLER, MLM))
    made = {}
    for source, to in (("paddle", "torch"), ("torch", "tf1"), ("tf", "paddle")):
        folder = tmp_path_factory.mktemp(f"{source}2{to}")
        save(folder / "ckpt", source, tensors, LARGE)  # type: ignore[arg-type]
        target = folder / "out"
        convert(folder / "ckpt", target, to=to, options=ConvertOptions(dtype="float16"))  # type: ignore[arg-type]
        shutil.copytree(target, folder.with_name(f"{folder.name}-old"))
        old = file_bytes(target, but=RECORD)
        case = Case(folder / "ckpt", target, to, old, {}, 0.0, 0.0)  # type: ignore[arg-type]
        began = time.perf_counter()
        process = case.start("--force")
        while process.poll() is None and not case.partials():
            time.sleep(0.001)
        writing = time.perf_counter() - began
        assert process.wait() == 0, process.communicate()
        case.seconds, case.writing = time.perf_counter() - began, writing
        case.new = file_bytes(target, but=RECORD)
        assert case.new != old
        made[f"{source}2{to}"] = case
    return made


def restore(case: Case, *, old: bool) -> None:
    """Make the state before a run: no target, or the old result."""
    shutil.rmtree(case.target, ignore_errors=True)
    if old:
        folder = case.target.parent
        shutil.copytree(folder.with_name(f"{folder.name}-old"), case.target)


def check_leftovers(case: Case) -> None:
    """Whatever a kill left beside the target says by its name that it is partial, and no loader takes it for done."""
    known = {"ckpt", "out", *(path.name for path in case.partials())}
    assert {path.name for path in case.source.parent.iterdir()} <= known
    for partial in (path / "new" for path in case.partials()):
        found = file_bytes(partial, but=RECORD)
        if found in (case.old, case.new):  # whole: killed between writing and renaming, or while removing the old one
            continue
        if found.items() <= case.old.items():  # the old result, being removed
            continue
        config = next(path for path in case.source.iterdir() if path.name.endswith("config.json"))
        try:
            with open_checkpoint(partial, config=config) as opened, open_checkpoint(case.source) as source:
                # its weights were whole, and what came after them was not
                pairs = [{name: side.read(name) for name in side} for side in (opened, source)]
        except ConvertError:
            continue
        assert same_bits(*pairs) == [], f"{partial} opens and holds other weights"


@pytest.mark.parametrize("direction", ["paddle2torch", "torch2tf1", "tf2paddle"])
@pytest.mark.parametrize("over", ["nothing", "an-old-result"])
def test_killed_at_any_moment_leaves_the_old_state_or_the_new_one(
    cases: dict[str, Case], direction: str, over: str
) -> None:
    case = cases[direction]
    draw = random.Random(None if CAMPAIGN else f"{direction} {over}")
    before = file_bytes(case.source)
    seen: set[str] = set()
    left = 0
    for number in range(MOST_ROUNDS):
        if number >= ROUNDS and left:
            break
        restore(case, old=over != "nothing")
        process = case.start(*(["--force"] if over != "nothing" else []))
        if number % 4 == 0:  # any moment from the start on
            time.sleep(draw.uniform(0, case.seconds * 1.05))
        else:  # a moment after writing began, the sooner the more often it came too late
            while process.poll() is None and not case.partials():
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, (case.seconds - case.writing) * 1.1 / max(1, number - ROUNDS)))
        process.kill()
        process.communicate()
        state = case.state()
        assert state in ({"absent", "new"} if over == "nothing" else {"old", "new"})
        if process.returncode == 0:
            assert state == "new"
        seen.add(state)
        left += bool(case.partials())
        check_leftovers(case)
        # the next run succeeds and removes what the killed one left
        convert(case.source, case.target, to=case.to, options=ConvertOptions(force=True, verify=False))
        assert case.state() == "new"
        assert case.partials() == []
    assert file_bytes(case.source) == before
    assert left, f"no kill fell into the writing: {seen}"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_leaves_nothing(cases: dict[str, Case], number: signal.Signals, times: int) -> None:
    """Nor where it is asked again while it cleans up."""
    case = cases["paddle2torch"]
    draw = random.Random(10 * int(number) + times)
    stopped = 0
    for attempt in range(MOST_ROUNDS):
        if attempt >= 4 * times and stopped:
            break
        restore(case, old=False)
        process = case.start("--fsync")
        while process.poll() is None and not case.partials():
            time.sleep(0.0005)
        # the sooner the more often it came too late
        time.sleep(draw.uniform(0, (case.seconds - case.writing) * 0.5 / (attempt + 1)))
        for _ in range(times):
            process.send_signal(number)
            time.sleep(draw.uniform(0, 0.004))
        _, errors = process.communicate(timeout=60)
        assert case.partials() == []
        assert b"Traceback" not in errors
        if case.state() == "new":  # over: the signal fell into the interpreter's last moments, or after them
            assert process.returncode in (0, -number)
            continue
        assert case.state() == "absent"
        # CPython ends by the signal itself where it fell into a dataclass being made (text that exec runs)
        assert process.returncode in {signal.SIGTERM: (143,), signal.SIGINT: (130, -number)}[number], errors
        stopped += 1
    assert stopped, "every run was over before the signal came"
