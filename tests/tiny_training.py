"""A corpus and settings so small that a step takes some milliseconds; what imports this is skipped without Paddle."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import chinese_text
import pytest

# not importorskip: Paddle is to be imported by start_paddle
if importlib.util.find_spec("paddle") is None:
    pytest.skip("could not import 'paddle'", allow_module_level=True)

from roformer_convert.training.corpus.prepare import prepare
from roformer_convert.training.settings.reading import settings_from_tree
from roformer_convert.training.settings.tables import TABLES, Settings

SMALL: dict[str, Any] = {
    "device": "cpu",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "held_out_fraction": 0.1,
    "log_steps": 5,
    "save_steps": 4,
    "eval_steps": 0,
    "eval_batches": 2,
    "tensorboard": False,
}
STAGE: dict[str, Any] = {"length": 32, "batch_size": 8, "steps": 12, "max_lr": 1e-2, "warmup_steps": 3}


def make_corpus(directory: Path, documents: int = 60) -> Path:
    """Prepare made-up text."""
    directory.mkdir(parents=True, exist_ok=True)
    text, vocabulary = directory / "text.txt", chinese_text.write_vocabulary(directory / "vocab.txt")
    text.write_text(chinese_text.as_text(chinese_text.documents(documents)), encoding="utf-8")
    prepare([text], directory / "corpus", vocabulary, segmenter="none", processes=1)
    return directory / "corpus"


def make_classic(directory: Path) -> Path:
    """Prepare the beginning of the Thousand Character Classic, in which no character comes twice: easy to learn."""
    text = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。寒来暑往，秋收冬藏。闰余成岁，律吕调阳。"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "text.txt").write_text(text, encoding="utf-8")
    rows = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(text))]
    (directory / "vocab.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    prepare([directory / "text.txt"], directory / "corpus", directory / "vocab.txt", segmenter="none", processes=1)
    return directory / "corpus"


def tree(corpus: Path, output: Path, stages: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """Settings of a small run as a tree; ``changes`` are keys of any table or, where there is one, of the stage."""
    values = {**SMALL, "corpora": [str(corpus)], "output": str(output), **changes}
    out: dict[str, Any] = {
        table: {key: values.pop(key) for key in list(values) if key in {one.name for one in fields(kind)}}
        for table, kind in TABLES.items()
    }
    out["stages"] = [{**STAGE, **stage} for stage in stages] if stages else [{**STAGE, **values}]
    return out


def settings(corpus: Path, output: Path, stages: list[dict[str, Any]] | None = None, **changes: Any) -> Settings:
    """Settings of a small run."""
    return settings_from_tree(tree(corpus, output, stages, **changes))


def write_toml(path: Path, tree: dict[str, Any]) -> Path:
    """Write settings as a configuration file."""
    lines = []
    for table, values in tree.items():
        for each in values if isinstance(values, list) else [values]:
            lines.append(f"[[{table}]]" if isinstance(values, list) else f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in each.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
