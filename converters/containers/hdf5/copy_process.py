"""The process in which h5py copies the weights of an HDF5 file, from its standard input to its standard output.

The copy is what Keras would have written: the oldest format, names in attributes of text, every dataset little-endian
and one run of bytes. Only what a Keras weight file needs is copied, and only through hard links. What is not to be
copied goes to standard error as JSON: what is wrong, and the next step.

This process trusts the file as the HDF5 library does. What protects the person from that is outside: it may open no
other file, and memory, time and output have limits.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import h5py
import numpy as np
from h5py import h5d, h5o, h5t, h5z

from ...errors import quoted
from .copying import REFUSED, seconds_allowed
from .datatypes import DATATYPES
from .file import DAMAGED
from .keras_h5_layout import ATTRIBUTE_LIMIT, OPTIMIZER, TOP_LEVEL, WHOLE_MODEL

#: Bytes of address space. h5py and numpy take 0.2 GB of it, and a chunk of a dataset must fit in the rest twice.
MEMORY = 1 << 30
#: Unpacked tensors may take this many times the file's size, and this many bytes more, all together. gzip gains 10 % on
#: weights and can be made to gain a thousandfold.
UNPACKED_TIMES, UNPACKED_BYTES = 64, 1 << 26
#: Bytes of a dataset that are read at a time, if its chunks allow that.
_PIECE = 1 << 23
#: Names in the root of a file that is not a weight file, by which our reader may know what it is instead.
_MOST_NAMES = 1000

_REWRITE = "Rewrite the file plainly: h5repack -l CONTI -f NONE OLD.h5 NEW.h5"


class RefusedError(Exception):
    """The file asks for something that is not copied."""

    def __init__(self, what: str, next_step: str | None = None) -> None:
        super().__init__(what)
        self.next_step = next_step


def main() -> None:
    """Copy, or say why not and end with status :data:`REFUSED`."""
    size = os.fstat(0).st_size
    most = UNPACKED_TIMES * size + UNPACKED_BYTES
    target = os.fdopen(os.dup(1), "r+b")
    os.dup2(2, 1)  # whatever is printed
    _limit(seconds_allowed(size), most)
    try:
        with h5py.File(os.fdopen(0, "rb"), "r") as old, h5py.File(target, "w", libver="earliest") as new:
            _Copy(old, new, most).run()
        target.flush()
    except RefusedError as error:
        _refuse(str(error), error.next_step)
    except MemoryError:
        _refuse(f"reading it with h5py takes more than {MEMORY >> 20:,} MB of memory", _REWRITE)
    except Exception as error:  # h5py raises nearly every class there is on a broken file
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _refuse("there is no room for a plain copy of it", "Make room, or name another directory in TMPDIR.")
        _refuse(f"the HDF5 library cannot read it: {str(error)[:300]}", DAMAGED)


def _refuse(what: str, next_step: str | None) -> NoReturn:
    sys.stderr.write(json.dumps([what, next_step]))
    sys.stderr.flush()
    sys.exit(REFUSED)


def _limit(seconds: int, output: int) -> None:
    """Bound this process and keep it from opening files and dumping core, where the platform can.

    Args:
        seconds: Processor time that it may take.
        output: Size of the copy in bytes.
    """
    try:
        import resource
    except ImportError:  # Windows: the other process's clock is the only limit there
        return
    codecs.lookup("ascii")  # h5py decodes with it, and Python would load it from a file only then
    free = os.dup(0)
    os.close(free)
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_NOFILE, free),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses to bound the address space
            resource.setrlimit(what, (value, value))


class _Copy:
    """The way from one open file to the other.

    Args:
        old: The file to copy.
        new: The copy, empty.
        most: Bytes that all datasets may have together.
    """

    def __init__(self, old: h5py.Group, new: h5py.File, most: int) -> None:
        self._old, self._new, self._most = old, new, most
        #: Address of a dataset in the old file → its path in the new one.
        self._copied: dict[int, str] = {}

    def run(self) -> None:
        """Copy names and weights, or as much of them as lets our reader say what is wrong."""
        for key in ("backend", "keras_version"):
            value = self._old.attrs.get(key)
            if isinstance(value, str | bytes):
                self._new.attrs[key] = value
        layers = self._copy_names(self._old, self._new, "layer_names")
        if layers is None and isinstance(self._old.get(WHOLE_MODEL, getlink=True), h5py.HardLink):
            inner = self._old[WHOLE_MODEL]
            layers = self._copy_names(inner, self._new, "layer_names") if isinstance(inner, h5py.Group) else None
            if layers is not None:
                if OPTIMIZER in self._old:
                    self._new.create_group(OPTIMIZER)
                self._old = inner
        if layers is None:
            for name in itertools.islice(self._old.id, _MOST_NAMES):
                self._new.create_group(name)
            return
        for layer in [*layers, TOP_LEVEL]:
            found = self._copy(layer)
            if isinstance(found, h5py.Group):
                for weight in self._copy_names(found, self._new[layer], "weight_names") or ():
                    self._copy(f"{layer}/{weight}")

    def _copy_names(self, old: h5py.Group, new: h5py.Group, key: str) -> list[str] | None:
        """Copy an attribute that lists names, which may be split into ``key0``, ``key1``, … and is so afterwards."""
        if key in old.attrs:
            names = self._names(old, key)
        elif f"{key}0" in old.attrs:
            names, part = [], 0
            while f"{key}{part}" in old.attrs:
                names += self._names(old, f"{key}{part}")
                part += 1
        else:
            return None
        encoded = [name.encode() for name in names]
        width = max(map(len, encoded), default=0)
        if width > ATTRIBUTE_LIMIT:
            raise RefusedError(f"attribute {key} holds a name of {width:,} bytes")
        if not names:
            new.attrs[key] = []
        most = ATTRIBUTE_LIMIT // (width or 1)
        for part, first in enumerate(range(0, len(encoded), most)):
            new.attrs.create(f"{key}{part}", encoded[first : first + most], dtype=f"S{width or 1}")
        return names

    def _names(self, owner: h5py.Group, key: str) -> list[str]:
        attribute = owner.attrs.get_id(key)
        if attribute.shape is None or len(attribute.shape) != 1:
            raise RefusedError(f"attribute {key} has shape {attribute.shape}, want 1 dimension(s)")
        if attribute.shape[0] == 0:
            return []
        if not isinstance(attribute.get_type(), h5t.TypeStringID):
            raise RefusedError(f"attribute {key} does not hold text")
        try:
            names = [value.decode() if isinstance(value, bytes) else value for value in owner.attrs[key].tolist()]
            "".join(names).encode()  # h5py leaves bytes that are not UTF-8 as surrogates
        except UnicodeError:
            raise RefusedError(f"attribute {key} holds a name that is not UTF-8") from None
        return names

    def _copy(self, path: str) -> Any:
        """Copy what ``path`` leads to, of a group its name alone, and return it; None where it leads nowhere."""
        here: Any = self._old
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            return None
        for part in parts:
            link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                words = "a link into another file" if isinstance(link, h5py.ExternalLink) else "a soft link"
                raise RefusedError(f"{quoted(path)} leads through {words}")
            here = here[part]
        if isinstance(here, h5py.Group):
            self._new.require_group(path)
        elif isinstance(here, h5py.Dataset) and path not in self._new:
            self._copy_dataset(here, path)
        return here

    def _copy_dataset(self, old: h5py.Dataset, path: str) -> None:
        address = h5o.get_info(old.id).addr
        if address in self._copied:
            self._new[path] = self._new[self._copied[address]]
            return
        self._copied[address] = path
        dtype = _known_dtype(old, quoted(path))
        self._check_storage(old, quoted(path))
        new = self._new.create_dataset(path, old.shape, dtype)
        for part in _parts(old) if old.size else ():
            new[part] = old[part]

    def _check_storage(self, old: h5py.Dataset, name: str) -> None:
        """Refuse values that lie elsewhere, were never written, or unpack to far too much."""
        plan = old.id.get_create_plist()
        # before its shape is asked for, for which a virtual dataset opens other files
        if plan.get_layout() == h5d.VIRTUAL:
            raise RefusedError(f"{name} is a virtual dataset: its values lie in other datasets or files")
        if plan.get_layout() == h5d.CONTIGUOUS and plan.get_external_count():
            raise RefusedError(f"{name} keeps its values in another file (external storage)")
        if old.shape is None:
            raise RefusedError(f"{name} has no shape")
        filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
        missing = [number for number in filters if not h5z.filter_avail(number)]
        if missing:
            what = f"{name} is compressed with filter {missing[0]}, which h5py does not have"
            raise RefusedError(what, "Rewrite the file with the program that packed it, without that filter.")
        if old.size and old.chunks:
            wanted = math.prod(-(-length // part) for length, part in zip(old.shape, old.chunks, strict=True))
            if old.id.get_num_chunks() != wanted:
                raise RefusedError(f"{name} has {old.id.get_num_chunks():,} chunks written, want {wanted:,}")
        elif old.size and not old.id.get_storage_size():
            raise RefusedError(f"{name} was declared and never written")
        self._most -= old.nbytes
        if self._most < 0:
            what = f"its tensors unpack to more than {UNPACKED_TIMES} times the file's size"
            raise RefusedError(what, _REWRITE)


def _known_dtype(old: h5py.Dataset, name: str) -> Any:
    """Return numpy's word for the type of a dataset's elements, which may be big-endian there.

    Raises:
        RefusedError: It is not one of ours, to the bit.
    """
    kind = old.id.get_type()
    for word in DATATYPES:
        little, big = np.dtype(word).newbyteorder("<"), np.dtype(word).newbyteorder(">")
        if kind in (h5t.py_create(little, logical=True), h5t.py_create(big, logical=True)):
            return little
    words = "text" if isinstance(kind, h5t.TypeStringID) else str(kind.dtype)[:100]
    raise RefusedError(f"{name} has dtype {words}; want one of {', '.join(DATATYPES)}")


def _parts(dataset: h5py.Dataset) -> Iterator[Any]:
    """Give selections that cover a dataset, some rows each and whole chunks; single chunks where rows are too long."""
    if not dataset.shape:
        yield ()
        return
    height = dataset.chunks[0] if dataset.chunks else 1
    nbytes = height * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    if dataset.chunks and nbytes > 8 * _PIECE:
        yield from dataset.iter_chunks()
        return
    height *= max(1, _PIECE // nbytes)
    for first in range(0, dataset.shape[0], height):
        yield slice(first, first + height)
