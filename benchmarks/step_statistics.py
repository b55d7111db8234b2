"""What a training step holds of a prepared corpus: how much its tokens vary, and its pairs of sentences.

    python benchmarks/step_statistics.py CORPUS [--length 128] [--batch-size 32 | --batch-tokens 2500] [--steps 1000]

The text of the shipped fixture is made by ``python fixtures/corpus_text.py text`` and prepared as
fixtures/make_tiny.py does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from roformer_convert.training.run.feed import Feed
from roformer_convert.training.settings.reading import settings_from_tree
from roformer_convert.training.start.sources import open_sources


def main() -> None:
    """Print a row of the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--batch-tokens", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    stage = {"length": args.length, "steps": args.steps, "max_lr": 1e-3}
    batch = {"batch_size": args.batch_size, "batch_tokens": args.batch_tokens}
    data = {"corpora": [str(args.corpus)], "held_out_fraction": 0.02}  # that of configs/tiny.toml
    settings = settings_from_tree({"data": data, "stages": [{**stage, **batch}]})
    found = Feed(settings, open_sources(settings.data.corpora)).stage(0).describe(args.steps)
    tokens = np.array(found.step_tokens) / np.mean(found.step_tokens)
    print(
        f"{sum(found.samples):,} samples, {found.steps_per_epoch:,} steps an epoch; tokens of {args.steps:,} steps: "
        f"standard deviation {tokens.std():.1%}, within 15 % {np.mean(abs(tokens - 1) < 0.15):.1%}; "
        f"fewest pairs of sentences {min(found.step_pairs)}"
    )


if __name__ == "__main__":
    main()
