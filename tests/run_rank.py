"""What the launcher starts as each rank: ``run_rank.py SETTINGS.json [--resume]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from roformer_convert.training.loop import train
from roformer_convert.training.settings_reading import settings_from_tree

if __name__ == "__main__":
    train(settings_from_tree(json.loads(Path(sys.argv[1]).read_text())), resume="--resume" in sys.argv)
