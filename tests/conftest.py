"""What several test files share: the factory beside this file, and who may run what.

pytest runs with ``--import-mode=importlib``, which puts no directory on the search path: this does, for
``random_checkpoints``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

# The tests' own numpy work is tiny: a thread a core of OpenBLAS in each worker only gets in the way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# TensorFlow and transformers talk on stderr, and a test must never reach out.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture
def not_root() -> None:
    """Skip where permissions do not bind."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.skip("root may write anywhere")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of made-up text, to which no test writes."""
    import tiny_training

    return tiny_training.make_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer texts with torch in this process, and not in one of its own, which spends seconds on the import."""
    from answering import Here

    from roformer_convert.models.answers import framework_processes

    monkeypatch.setattr(framework_processes, "Process", Here)


@pytest.fixture(autouse=True)
def _signals_are_left_alone() -> Iterator[None]:
    """Hold each test to leave signals as they were: every process that a later test starts would inherit them."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    assert after == before
