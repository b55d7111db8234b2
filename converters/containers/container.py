"""A container: one format of weight files, as one object.

The object says by which bytes a file is recognised, how the files of one model are called, whose software reads them
and what they can hold; it indexes a file and lays one out. :mod:`.registry` knows all of them, and nothing outside this
folder asks for one by its name. A subclass imports its reader and its writer when they are called, so that a command
pays for the container in hand alone.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ..table.mapping import Dialect, Group, ModelClass
from ..tensors.stored import FLOATS, FileLayout, Index, NewTensor

#: Bytes of a file's beginning and end by which :meth:`Container.recognises` decides.
HEAD_BYTES, TAIL_BYTES = 32, 8


@dataclass(frozen=True)
class NewFile:
    """What a container is to lay out.

    Attributes:
        filename: The single file's or the shard's name.
        tensors: What it shall hold.
        dialect: Whose names they have, and whose software will read them.
        kind: The model's class.
        groups: Name → the table's group that the tensor is of.
    """

    filename: str
    tensors: Sequence[NewTensor]
    dialect: Dialect
    kind: ModelClass
    groups: Mapping[str, Group]


class Container(ABC):
    """One format of weight files.

    A model's weights are one file or several shards beside a JSON index. What is named to a reader is an *entry*: the
    one file, a shard, or the ``.index`` of a TF checkpoint. What a writer is given is a *file name*, from which a
    format with several files derives the entry's name (:meth:`entry`).

    Attributes:
        name: What ``--container`` and the reports call it.
        title: What a sentence calls it.
        dialects: Whose software reads such files; where there are several, the tensors' names decide between them.
        also_read: Dialects whose names may be in them though that software's own files are others: what Keras saves
            of any model.
        default_of: Dialects that are written in this container unless another one is asked for.
        single: Name of the one file.
        shard: Pattern of a shard's name, with ``number`` and ``total``, or None where the format is never sharded.
        endings: Ends of the names of files that may be weights, whatever they are called before it.
        dtypes: Element types that a file can hold, of :data:`~..tensors.stored.FLOATS`.
        shares_storage: Whether two names may share one payload, so that a tied weight's second name costs no byte.
        own_metadata: Keys of an index's metadata that are about the file and say nothing about the model.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    dialects: ClassVar[tuple[Dialect, ...]]
    also_read: ClassVar[tuple[Dialect, ...]] = ()
    default_of: ClassVar[tuple[Dialect, ...]] = ()
    single: ClassVar[str]
    shard: ClassVar[str | None] = None
    endings: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]] = FLOATS
    shares_storage: ClassVar[bool] = False
    own_metadata: ClassVar[tuple[str, ...]] = ()

    @property
    def names(self) -> tuple[Dialect, ...]:
        """Every dialect whose names may be in such a file, the likeliest first."""
        return (*self.dialects, *self.also_read)

    @abstractmethod
    def recognises(self, head: bytes, tail: bytes) -> bool:
        """Say whether a file is of this format, by its first :data:`HEAD_BYTES` and last :data:`TAIL_BYTES` bytes."""

    @abstractmethod
    def index(self, entry: Path) -> Index:
        """Index a file without reading its payloads.

        Raises:
            FormatError: It is broken, hostile, or of a flavour that is not read.
        """

    @abstractmethod
    def lay_out(self, file: NewFile) -> FileLayout:
        """Lay a file out before a byte is written."""

    def entry(self, filename: str) -> str:
        """Return the name of the file that a reader of ``filename`` opens."""
        return filename

    @property
    def shard_index(self) -> str | None:
        """Name of the JSON file that maps tensors to shards."""
        return None if self.shard is None else f"{self.single}.index.json"

    def listed_as(self, name: str) -> str:
        """Return the name that a tensor has in its shard, of the name that the shard index has for it."""
        return name

    def candidates(self, directory: Path, sniff: Callable[[Path], Container | None]) -> Iterator[Path]:
        """Yield the entries and shard indexes of a directory that have this container's names.

        Args:
            directory: Where to look.
            sniff: Tells whose a file is by its bytes, for a container whose names alone say too little.
        """
        for name in (self.entry(self.single), self.shard_index):
            if name is not None and os.path.lexists(directory / name):
                yield directory / name

    def is_named(self, name: str) -> bool:
        """Say whether a file is meant to be of this format by its name, though its bytes are not recognised."""
        return name.endswith(f".{self.name}")

    def belongs(self, name: str, entry: str) -> bool:
        """Say whether the file ``name`` is a part of the set whose entry is ``entry``: it is not left behind."""
        return name == entry

    def parts(self, entry: Path) -> tuple[Path, ...]:
        """Return the files that hold an entry's tensors."""
        return (entry,)

    def writes(self, name: str) -> bool:
        """Say whether a conversion writes files of this name: such a one may be replaced."""
        return name in (self.single, self.shard_index) or self._shard_name.fullmatch(name) is not None

    @cached_property
    def _shard_name(self) -> re.Pattern[str]:
        number = re.escape("00000")
        pattern = "(?!)" if self.shard is None else re.escape(self.shard.format(number=0, total=0))
        return re.compile(pattern.replace(number, r"\d{5}"))

    def notes(self, dialect: Dialect, dtypes: set[str]) -> list[str]:
        """Say what the dialect's software does not make of files of this format that hold these types."""
        return []
