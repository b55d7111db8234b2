"""Train, be killed, resume, again and again, until the run is done: ``kill_training.py SETTINGS.json KILLS SEED``.

Paddle is imported once and every attempt is a fork of this process, which never computes anything itself. Half of the
kills come at any time, half while a checkpoint is being written; some attempts are left to write a whole one first.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from roformer_convert.training.run.loop import train
from roformer_convert.training.settings.reading import settings_from_tree


def main() -> None:
    settings = settings_from_tree(json.loads(Path(sys.argv[1]).read_text()))
    run, kills, dice = Path(settings.run.output), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    killed = saving = 0
    resumed_from = set()
    while True:
        resumed_from.add(newest(run))
        child = os.fork()
        if child == 0:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            train(settings, resume=True)
            os._exit(0)
        if killed < kills and wait(child, run, dice, while_saving=killed % 2 == 0, further=killed % 4 > 1):
            saving += any(run.glob(".step-*"))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            continue
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        break
    print(json.dumps({"killed": killed, "while_saving": saving, "resumed_from": sorted(resumed_from)}))


def newest(run: Path) -> str:
    """Name the newest checkpoint, or nothing."""
    return max((path.name for path in run.glob("step-*")), default="")


def wait(child: int, run: Path, dice: random.Random, *, while_saving: bool, further: bool) -> bool:
    """Wait for the moment to kill, and before it for a further checkpoint; False where the child has ended before."""
    begun, until = newest(run), 0.0
    while True:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        if not further or newest(run) > begun:
            until = until or time.monotonic() + dice.uniform(0, 0.2)
            if while_saving and any(run.glob(".step-*.partial-*")):
                time.sleep(dice.uniform(0, 0.02))
                return True
            if not while_saving and time.monotonic() > until:
                return True
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
