"""Preparing with Ray Data makes the same bytes; skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from chinese_text import as_text, documents, write_vocabulary

from roformer_convert.converters.errors import ConvertError
from roformer_convert.training.corpus.prepare import prepare

has_ray = importlib.util.find_spec("ray") is not None


@pytest.fixture
def _own_sigterm() -> Iterator[None]:
    """Take back the handler that Ray installs when it starts, before another test inherits it."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("_own_sigterm")
@pytest.mark.skipif(not has_ray, reason="ray is not installed (extra ray)")
def test_ray_makes_the_same_bytes_and_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    text, vocabulary = tmp_path / "text.txt", write_vocabulary(tmp_path / "vocab.txt")
    text.write_text(as_text(documents(60)), encoding="utf-8")
    prepare([text], tmp_path / "alone", vocabulary, processes=1, shard_bytes=4000)
    report = prepare([text], tmp_path / "ray", vocabulary, processes=2, shard_bytes=4000, engine="ray")
    assert report.made > 2
    for path in (tmp_path / "alone").iterdir():
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes(), path.name
    text.write_bytes(text.read_bytes() + b"\xff")
    with pytest.raises(ConvertError, match=r"text\.txt at byte .* not UTF-8"):
        prepare([text], tmp_path / "bad", vocabulary, processes=2, shard_bytes=4000, engine="ray")


def test_without_ray_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, vocabulary = tmp_path / "text.txt", write_vocabulary(tmp_path / "vocab.txt")
    text.write_text("我。\n", encoding="utf-8")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    with pytest.raises(ConvertError, match=r"needs ray.*(?s:.*)'\.\[ray\]'"):
        prepare([text], tmp_path / "c", vocabulary, engine="ray")
