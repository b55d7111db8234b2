"""The bytes of an HDF5 file that nothing is believed about: bounded reads, claims on places, and the superblock.

The HDF5 library trusts what it reads, and broken files crash it. So the structures are read here, by
:class:`Hdf5File`: every address and length is checked against the file before a byte is read, no structure may begin
where another one did (which ends every loop that a file can make), and all the work that a file may ask for is paid
out of one budget. What is wrong is a :class:`FormatError`.

Source: HDF5 File Format Specification 3.0, II.A (superblock).
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FETCH_AGAIN, FormatError
from .hdf5_checksums import lookup3
from .signatures import HDF5 as SIGNATURE
from .stored import OpenFiles

if TYPE_CHECKING:
    from .hdf5_chunks import Bands

#: An address that leads nowhere: what it would point at was never made.
UNDEFINED = (1 << 64) - 1
#: The next step for a structure that contradicts itself or the file.
DAMAGED = "The file is damaged, or made to break its readers; get it again from where it came from."

#: Bytes of structures that are looked at before a file is refused; a base-size file spends 0.4 MB. What takes longer
#: than reading its bytes counts as more: small reads as 64, pages of the disk as 256, a checksum as four times what it
#: covers. Whatever a file says, it is refused within some seconds, and with 0.3 GB of memory at most.
MAX_METADATA = 1 << 26
_SMALL_READ, _PAGE_COST, _CHECKSUM_TIMES = 64, 256, 4
#: Structures lie close to each other, so bytes are read a page at a time. So many pages are kept: 4 MB.
_PAGE_BITS = 13
_PAGE = 1 << _PAGE_BITS
_PAGES = 512

#: Where a file may begin that does not begin at once; larger ones are not looked for.
_USER_BLOCKS = [512 << power for power in range(12)]

_SUPERBLOCK_V0 = struct.Struct("<8sBBBxBBBxHHI")
_SUPERBLOCK_V2 = struct.Struct("<8sBBBBQQQQ")
_ADDRESSES_V0 = struct.Struct("<QQQQ")
_ROOT_ENTRY = struct.Struct("<QQII16x")
_CHECKSUM = struct.Struct("<I")

#: Flags of a superblock of version 3: some program has the file open for writing, or died with it.
_OPEN_FOR_WRITING = 1 | 4


def quoted(name: str) -> str:
    """Show a name out of an untrusted file: one line, no control characters, not endless."""
    shown = ascii(name)
    return shown if len(shown) <= 200 else f"{shown[:200]}…'"


class Hdf5File:
    """One file's bytes. Addresses and sizes are in bytes; addresses count from the file's begin.

    Attributes:
        path: For messages.
        size: Of the file on disk.
        end: Address behind the last byte that the file's superblock counts as its own.
        claimed: Address → end of every structure that was read.
        superblock_extension: Address of the header with what the superblock has no room for; maybe undefined.
        bands: What the file's datasets in chunks hold in memory together, if there are any.
    """

    def __init__(self, path: Path, files: OpenFiles, size: int) -> None:
        self.path = path
        self.size = self.end = size
        self.claimed: dict[int, int] = {}
        self.superblock_extension = UNDEFINED
        self.bands: Bands | None = None
        self._files = files
        self._pages: dict[int, bytes] = {}
        self._budget = MAX_METADATA

    def broken(self, what: str, address: int | None = None, next_step: str | None = DAMAGED) -> FormatError:
        """Make the error for something wrong at ``address``."""
        return FormatError(self.path, what, offset=address, next_step=next_step)

    def charge(self, nbytes: int) -> None:
        """Pay for work on so many bytes.

        Raises:
            FormatError: The file has asked for more than any weight file needs.
        """
        self._budget -= nbytes
        if self._budget < 0:
            raise self.broken(f"its structures take more than {MAX_METADATA >> 20} MB to look at")

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
            FormatError: As :meth:`read`, or another structure was found at ``address`` before.
        """
        if address in self.claimed:
            raise self.broken(f"{what} lies where another structure does", address)
        found = self.read(address, nbytes, what)
        self.claimed[address] = address + nbytes
        return found

    def verify(self, content: bytes, what: str, address: int) -> None:
        """Check the checksum in the last four bytes of ``content``.

        Raises:
            FormatError: It is of other bytes.
        """
        self.charge(_CHECKSUM_TIMES * len(content))
        (wanted,) = _CHECKSUM.unpack_from(content, len(content) - 4)
        if lookup3(content[:-4]) != wanted:
            raise self.broken(f"{what} does not have the checksum that is kept with it", address)

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


class Cursor:
    """Reads the fields of one structure's bytes in order; running out of bytes is the file's error.

    Args:
        file: Where the bytes are from.
        body: The bytes.
        address: Of the first of them.
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


def open_file(path: Path, files: OpenFiles) -> tuple[Hdf5File, int]:
    """Check the signature and the superblock of ``path``; return its bytes and the address of the root group's header.

    Raises:
        FormatError: Not a regular file, not HDF5, cut short, or of a kind that is not read here.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(path, "not a regular file")
    file = Hdf5File(path, files, status.st_size)
    _check_signature(file)
    start = file.read(0, min(128, file.size), "the superblock")
    version = start[len(SIGNATURE)] if len(start) > len(SIGNATURE) else 0
    if version > 3:
        raise file.broken(f"the superblock has version {version}, want 0 to 3", 0)
    wanted = 48 if version > 1 else 96 + 4 * version
    if len(start) < wanted:
        raise FormatError(path, f"the file ends inside its superblock of {wanted} bytes", next_step=FETCH_AGAIN)
    root = _superblock_v2(file, start) if version > 1 else _superblock_v0(file, start)
    return file, root


def _check_signature(file: Hdf5File) -> None:
    start = file.read(0, min(len(SIGNATURE), file.size), "the signature")
    if start == SIGNATURE:
        return
    block = next((at for at in _USER_BLOCKS if at + 8 <= file.size and file.read(at, 8, "") == SIGNATURE), 0)
    if block:
        what = f"the HDF5 file begins at byte {block}, behind what another program put there (a user block)"
        raise file.broken(what, next_step="Take that off: h5unjam -i OLD.h5 -o NEW.h5")
    if len(start) == len(SIGNATURE) and not any(start):
        raise file.broken("begins with zeros: its writing was cut short", next_step="Convert it again.")
    what = f"not an HDF5 file: begins with {start!r}, want {SIGNATURE!r}"
    raise file.broken(what, 0, FETCH_AGAIN if SIGNATURE.startswith(start) else None)


def _superblock_v0(file: Hdf5File, start: bytes) -> int:
    """Read a superblock of version 0 or 1, as every file has that was made to be read by old readers."""
    version, *versions, offsets, lengths, _, _, _ = _SUPERBLOCK_V0.unpack_from(start)[1:]
    if any(versions):
        raise file.broken("the superblock counts on structures of an unknown version", 0)
    at = _SUPERBLOCK_V0.size + 4 * version
    base, _, end, driver = _ADDRESSES_V0.unpack_from(start, at)
    _check_extent(file, offsets, lengths, base, end)
    if driver != UNDEFINED:
        raise file.broken("it is one of several files that are one (a driver information block)", 0, None)
    file.claimed[0] = at + _ADDRESSES_V0.size + _ROOT_ENTRY.size
    _, root, cached, _ = _ROOT_ENTRY.unpack_from(start, at + _ADDRESSES_V0.size)
    if cached > 1:
        raise file.broken("the superblock's root is not a group", 0)
    return int(root)


def _superblock_v2(file: Hdf5File, start: bytes) -> int:
    """Read a superblock of version 2 or 3, as newer formats have it."""
    _, _, offsets, lengths, flags, base, extension, end, root = _SUPERBLOCK_V2.unpack_from(start)
    file.verify(start[: _SUPERBLOCK_V2.size + 4], "the superblock", 0)
    if flags & _OPEN_FOR_WRITING:
        what = "it is marked as open for writing: the program that wrote it did not close it"
        raise file.broken(what, 0, "If no program writes it any more: h5clear -s FILE.h5")
    _check_extent(file, offsets, lengths, base, end)
    file.claimed[0] = _SUPERBLOCK_V2.size + 4
    file.superblock_extension = extension
    return int(root)


def _check_extent(file: Hdf5File, offsets: int, lengths: int, base: int, end: int) -> None:
    """Check how wide numbers are and how long the file thinks it is; ``end`` bounds every address from now on."""
    if (offsets, lengths) != (8, 8):
        raise file.broken(f"its addresses have {offsets} bytes and its lengths {lengths}, want 8 and 8", 0, None)
    if base != 0:
        raise file.broken(f"its addresses count from byte {base:,}, want 0", 0, None)
    if end > file.size:
        what = f"the superblock counts {end:,} bytes, and the file has {file.size:,}"
        raise file.broken(what, next_step=FETCH_AGAIN)
    file.end = end
