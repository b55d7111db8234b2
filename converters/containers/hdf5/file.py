"""The bytes of an HDF5 file that nothing is believed about: bounded reads, claims on places, and the superblock.

The HDF5 library trusts what it reads, and broken files crash it. So the structures that Keras writes are read here, by
:class:`Hdf5File`: every address and length is checked against the file before a byte is read, no structure may begin
where another one did (which ends every loop that a file can make), and all the work that a file may ask for is paid
out of one budget. What is wrong is a :class:`FormatError`; what Keras does not write is an :class:`UnfamiliarError`.

Source: HDF5 File Format Specification 3.0, II.A (superblock).
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from ...errors import FETCH_AGAIN, FormatError, reading
from ...tensors.signatures import HDF5 as SIGNATURE
from ...tensors.stored import OpenFiles

#: An address that leads nowhere: what it would point at was never made.
UNDEFINED = (1 << 64) - 1
#: The next step for a structure that contradicts itself or the file.
DAMAGED = "The file is damaged, or made to break its readers; get it again from where it came from."

#: Bytes of structures that are looked at before a file is refused; a base-size file spends 0.4 MB. What takes longer
#: than reading its bytes counts as more: small reads as 64, pages of the disk as 256. Whatever a file says, it is
#: refused within some seconds, and with 0.3 GB of memory at most.
MAX_METADATA = 1 << 26
_SMALL_READ, _PAGE_COST = 64, 256
#: Structures lie close to each other, so bytes are read a page at a time. So many pages are kept: 4 MB.
_PAGE_BITS = 13
_PAGE = 1 << _PAGE_BITS
_PAGES = 512

#: Where a file may begin that does not begin at once; larger ones are not looked for.
_USER_BLOCKS = [512 << power for power in range(12)]

_VERSIONS = struct.Struct("<8sBBBxBBBxHHI")
_ADDRESSES = struct.Struct("<QQQQ")
_ROOT_ENTRY = struct.Struct("<QQII16x")


class UnfamiliarError(FormatError):
    """The file is in a form of HDF5 that Keras does not write. It may well be whole: h5py can tell."""


class Hdf5File:
    """One file's bytes. Addresses and sizes are in bytes; addresses count from the file's begin.

    Attributes:
        path: For messages.
        size: Bytes of the file on disk.
        end: Address behind the last byte that the file's superblock counts as its own.
        claimed: Address → end of every structure that was read.
    """

    def __init__(self, path: Path, files: OpenFiles, size: int) -> None:
        self.path = path
        self.size = self.end = size
        self.claimed: dict[int, int] = {}
        self._files = files
        self._pages: dict[int, bytes] = {}
        self._budget = MAX_METADATA

    def broken(self, what: str, address: int | None = None, next_step: str | None = DAMAGED) -> FormatError:
        """Make the error for something wrong at ``address``."""
        return FormatError(self.path, what, offset=address, next_step=next_step)

    def unfamiliar(self, what: str, address: int | None = None) -> UnfamiliarError:
        """Make the error for a form at ``address`` that is not read here."""
        return UnfamiliarError(self.path, what, offset=address)

    def charge(self, nbytes: int) -> None:
        """Pay for work on so many bytes.

        Raises:
            FormatError: The file has asked for more than any weight file needs.
        """
        self._budget -= nbytes
        if self._budget < 0:
            raise self.broken(f"looking at its structures takes more than {MAX_METADATA >> 20} MB")

    def read(self, address: int, nbytes: int, what: str) -> bytes:
        """Read a structure, or a part of it; ``what`` names it in an error.

        Raises:
            FormatError: It does not lie inside the file, or the budget is spent.
        """
        if address + nbytes > self.end:
            where = "nowhere" if address == UNDEFINED else f"{nbytes:,} bytes at {address:,}"
            raise self.broken(f"{what} lies outside the file: {where}, and the file has {self.end:,} bytes")
        self.charge(nbytes if nbytes > _SMALL_READ else _SMALL_READ)
        page = self._page(address >> _PAGE_BITS)
        start = address & (_PAGE - 1)
        found = page[start : start + nbytes]
        if len(found) == nbytes:
            return found
        return self._read_across(address, nbytes)

    def claim(self, address: int, nbytes: int, what: str) -> bytes:
        """Read a whole structure that nothing else has any business with.

        Raises:
            FormatError: As for :meth:`read`, or another structure was found at ``address`` before.
        """
        if address in self.claimed:
            raise self.broken(f"{what} overlaps another structure", address)
        found = self.read(address, nbytes, what)
        self.claimed[address] = address + nbytes
        return found

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is None:
            self.charge(_PAGE_COST)
            if len(self._pages) == _PAGES:
                self._pages.clear()
            page = self._pages[number] = self._read(number << _PAGE_BITS, _PAGE)
        return page

    def _read(self, address: int, nbytes: int) -> bytes:
        out = bytearray(min(nbytes, max(0, self.size - address)))
        self._files.read_into(self.path, address, memoryview(out))
        return bytes(out)

    def _read_across(self, address: int, nbytes: int) -> bytes:
        """Read what does not lie in one page; large pieces (a long attribute) go round the pages."""
        if nbytes > 4 * _PAGE:
            return self._read(address, nbytes)
        first, last = address >> _PAGE_BITS, (address + nbytes - 1) >> _PAGE_BITS
        start = address & (_PAGE - 1)
        return b"".join(self._page(number) for number in range(first, last + 1))[start : start + nbytes]


class StructureCursor:
    """Reads the fields of one structure's bytes in order; running out of bytes is the file's error.

    Args:
        file: Where the bytes are from.
        body: The bytes.
        address: Address of the first of them.
        what: Names the structure in an error.
    """

    __slots__ = ("address", "at", "body", "file", "what")

    def __init__(self, file: Hdf5File, body: bytes, address: int, what: str) -> None:
        self.file, self.body, self.address, self.what = file, body, address, what
        self.at = 0

    def take(self, nbytes: int) -> bytes:
        """Return the next bytes."""
        found = self.body[self.at : self.at + nbytes]
        if len(found) != nbytes:
            raise self.broken("ends too early")
        self.at += nbytes
        return found

    def number(self, width: int) -> int:
        """Return the next unsigned number of ``width`` bytes."""
        return int.from_bytes(self.take(width), "little")

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        """Return the next numbers, laid out as ``layout`` says."""
        return layout.unpack(self.take(layout.size))

    def broken(self, what: str) -> FormatError:
        """Make the error for something wrong here: the structure's name, then ``what``."""
        return self.file.broken(f"{self.what} {what}", self.address)

    def unfamiliar(self, what: str) -> UnfamiliarError:
        """Make the error for a form that is not read here: the structure's name, then ``what``."""
        return self.file.unfamiliar(f"{self.what} {what}", self.address)


def open_file(path: Path, files: OpenFiles) -> tuple[Hdf5File, int]:
    """Check the signature and the superblock of ``path``; return its bytes and the address of the root group's header.

    Raises:
        UnfamiliarError: It is HDF5 of a form that Keras does not write.
        FormatError: Not a regular file, not HDF5, or cut short.
    """
    with reading(path):
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(path, "not a regular file")
    return open_content(path, files, status.st_size)


def open_content(path: Path, files: OpenFiles, size: int) -> tuple[Hdf5File, int]:
    """Do as :func:`open_file` with the ``size`` bytes that ``files`` gives for ``path``."""
    file = Hdf5File(path, files, size)
    _check_signature(file)
    wanted = _VERSIONS.size + _ADDRESSES.size + _ROOT_ENTRY.size
    start = file.read(0, min(wanted, size), "the superblock")
    if len(start) < wanted:
        raise FormatError(path, f"the file ends inside its superblock of {wanted} bytes", next_step=FETCH_AGAIN)
    return file, _read_superblock(file, start)


def _check_signature(file: Hdf5File) -> None:
    start = file.read(0, min(len(SIGNATURE), file.size), "the signature")
    if start == SIGNATURE:
        return
    block = next((at for at in _USER_BLOCKS if at + 8 <= file.size and file.read(at, 8, "") == SIGNATURE), 0)
    if block:
        raise file.unfamiliar(f"the HDF5 file begins at byte {block}, behind data that another program put before it")
    if len(start) == len(SIGNATURE) and not any(start):
        raise file.broken("begins with zeros: its writing was cut short", next_step="Convert it again.")
    what = f"not an HDF5 file: begins with {start!r}, want {SIGNATURE!r}"
    raise file.broken(what, 0, FETCH_AGAIN if SIGNATURE.startswith(start) else None)


def _read_superblock(file: Hdf5File, start: bytes) -> int:
    """Read a superblock of version 0, as every file has that was made to be read by old readers."""
    _, version, *versions, offsets, lengths, _, _, _ = _VERSIONS.unpack_from(start)
    if version or any(versions):
        raise file.unfamiliar(f"its superblock has version {version}", 0)
    base, _, end, driver = _ADDRESSES.unpack_from(start, _VERSIONS.size)
    if (offsets, lengths, base, driver) != (8, 8, 0, UNDEFINED):
        raise file.unfamiliar("its addresses are not offsets of 8 bytes each in this one file", 0)
    if end > file.size:
        what = f"the superblock counts {end:,} bytes, and the file has {file.size:,}"
        raise file.broken(what, next_step=FETCH_AGAIN)
    file.end = end
    file.claimed[0] = len(start)
    _, root, cached, _ = _ROOT_ENTRY.unpack_from(start, _VERSIONS.size + _ADDRESSES.size)
    if cached > 1:
        raise file.broken("the superblock's root is not a group", 0)
    return int(root)
