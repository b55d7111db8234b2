"""How every reader is fed with mutants: so many of them in a test run, for a time in ``make fuzz``.

A test run tries the same mutants each time. ``FUZZ_SECONDS`` shares that many seconds out among the tests, with another
seed. A mutant that fails is kept in ``build/fuzz``; once it is understood, its file goes into ``corpus/``, from which
mutants are made too.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from file_contents import memory_below

from roformer_convert.converters import ConvertError

#: Seconds for all tests together, 0 for a certain number of mutants.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
KEPT = Path(__file__).resolve().parents[2] / "build" / "fuzz"
#: Seconds of processor time, bytes that Python allocates, and letters of an error, that a mutant of some kB may take.
LONGEST, MOST_MEMORY, LONGEST_ERROR = 2.0, 64 << 20, 8000

Mutate = Callable[[bytes, random.Random], bytes]


class Campaign:
    """Mutants of one kind of file, read one by one.

    Args:
        name: Of the kind.
        share: The part of :data:`SECONDS` that it gets.
    """

    def __init__(self, name: str, share: float) -> None:
        self.name = name
        self._until = time.monotonic() + SECONDS * share
        self._seed = random.randrange(1 << 32) if SECONDS else 20261127
        self._dice = random.Random(f"{name} {self._seed}")
        self._number = 0

    def goes_on(self) -> bool:
        """Say whether there is time for more."""
        return time.monotonic() < self._until

    def run(
        self,
        path: Path,
        contents: Sequence[bytes],
        mutate: Mutate,
        read: Callable[[Path], object],
        *,
        count: int,
        memory: int | None = MOST_MEMORY,
    ) -> Counter[str]:
        """Read ``count`` mutants; return how often they were ``"read"`` and ``"refused"``.

        Args:
            path: Where they lie.
            contents: Files that they are made of.
            mutate: Makes one.
            read: Reads the file, or raises the one error.
            count: How many of them.
            memory: Bytes that Python may allocate for one; None does not watch it, for watching is slow.

        Raises:
            AssertionError: One took too long, too much or too many words. It is kept, as for any other exception.
        """
        ends: Counter[str] = Counter()
        for _ in range(count):
            self._number += 1
            made = mutate(self._dice.choice(contents), self._dice)
            path.write_bytes(made)
            try:
                if memory is None:
                    ended = _read(path, read)
                else:
                    with memory_below(memory):
                        ended = _read(path, read)
            except BaseException:
                self.keep(path, made)
                raise
            ends[ended] += 1
        return ends

    def keep(self, path: Path, content: bytes) -> None:
        """Keep a file that failed."""
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{self.name.replace(' ', '-')}-{self._seed}-{self._number}{path.suffix}").write_bytes(content)


def _read(path: Path, read: Callable[[Path], object]) -> str:
    begun, said = time.process_time(), ""
    try:
        read(path)
    except ConvertError as error:
        said = str(error)
    assert time.process_time() - begun < LONGEST
    assert len(said) < LONGEST_ERROR
    assert said.replace("\n", "").isprintable()
    return "refused" if said else "read"


def mutation(content: bytes, rng: random.Random) -> bytes:
    """Change single bytes and bits, put extreme numbers and offsets of the file itself in, move pieces about."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(8, len(content))
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            width = rng.choice([2, 4, 8])
            number = rng.choice([0, (1 << 64) - 1, rng.randrange(len(content)), 1 << rng.randrange(64)])
            changed[at : at + width] = struct.pack("<Q", number)[:width]
        else:
            size, source = rng.choice([1, 8, 24, 64]), rng.randrange(len(content) - 64)
            changed[at : at + size] = changed[source : source + size]
    return bytes(changed[: len(content)])


def some_bytes(content: bytes, dice: random.Random, begin: int = 0, end: int | None = None) -> bytes:
    """Change a few bytes between two places to any others."""
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 5))):
        changed[dice.randrange(begin, len(content) if end is None else end)] = dice.randrange(256)
    return bytes(changed)


def some_pieces(content: bytes, dice: random.Random) -> bytes:
    """Flip bits, put bytes in and take some out."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        if content:
            at = dice.randrange(len(content))
            end = at + dice.choice((0, 1, 1, 1, 2, 5))
            new = (b"", bytes([content[at] ^ 1 << dice.randrange(8)]), dice.randbytes(dice.randrange(1, 4)))
            content = content[:at] + dice.choice(new) + content[end:]
    return content
