"""What the launcher starts as each rank: ``run_rank.py SETTINGS.json [--resume]``.

The word RANK in the settings stands for the rank's number.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from unittest import mock

from roformer_convert.training.run.loop import train
from roformer_convert.training.settings.reading import settings_from_tree
from roformer_convert.training.step import trainer
from roformer_convert.training.step.exchange import GradientExchange

if __name__ == "__main__":
    # so small that even a small model's gradients are sent in several
    small = functools.partial(GradientExchange, bucket=1000)
    text = Path(sys.argv[1]).read_text().replace("RANK", os.environ["PADDLE_TRAINER_ID"])
    with mock.patch.object(trainer, "GradientExchange", small):
        train(settings_from_tree(json.loads(text)), resume="--resume" in sys.argv)
