"""The zip that torch keeps a checkpoint in: members stored, payloads aligned, everything checked before it is believed.

Reading trusts nothing: the directory at the end and the header before each member must say the same, no member may be
packed, encrypted, doubled, or lie over another. Writing puts every byte where torch's own writer (miniz) puts it:
torch can be asked to compute a payload's place instead of looking it up, and then the layout is part of the format.

Sources: PKWARE APPNOTE.TXT 6.3; pytorch caffe2/serialize/inline_container.cc ``getPadding``, ``getRecordOffsetNoRead``;
torch/serialization.py ``_save``, ``_load`` (``_get_offset``).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ...errors import FETCH_AGAIN, FormatError, quoted
from ...tensors import signatures
from ...tensors.regions import first_overlap
from ...tensors.stored import FileLayout, Fragment, OpenFiles, Slot

_END, _END64, _LOCATOR64 = signatures.ZIP_WITHOUT_MEMBERS, b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _HEADER, _DESCRIPTOR = b"PK\x01\x02", signatures.ZIP, b"PK\x07\x08"
#: An entry takes some 70 bytes, so this is some 200,000 storages.
_LARGEST_DIRECTORY = 16 << 20
_MANY = 0xFFFF
_HUGE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """A stored member: where its bytes are, and the CRC32 the directory gives (0 where the writer computed none)."""

    offset: int
    nbytes: int
    crc: int


def read_members(path: Path, files: OpenFiles, size: int) -> dict[str, Member]:
    """Return the members of a zip by their whole names, in file order.

    Raises:
        FormatError: Anything a torch file is not: packed, encrypted, doubled or overlapping members, two accounts of
            one member that differ, a directory that does not lie before the end record.
    """
    return _Directory(path, files, size).members()


class _Directory:
    def __init__(self, path: Path, files: OpenFiles, size: int) -> None:
        self._path, self._files, self._size = path, files, size

    def _fail(self, what: str, offset: int, next_step: str | None = None) -> NoReturn:
        raise FormatError(self._path, what, offset=offset, next_step=next_step)

    def _read(self, offset: int, count: int) -> bytes:
        if offset < 0 or offset + count > self._size:
            self._fail(f"the zip is cut short: {count:,} bytes wanted", min(max(offset, 0), self._size), FETCH_AGAIN)
        content = bytearray(count)
        self._files.read_into(self._path, offset, memoryview(content))
        return bytes(content)

    def members(self) -> dict[str, Member]:
        start, nbytes, count = self._find()
        if nbytes > _LARGEST_DIRECTORY:
            self._fail(f"a zip directory of {nbytes:,} bytes, at most {_LARGEST_DIRECTORY:,} are read", start)
        directory = self._read(start, nbytes)
        members: dict[str, Member] = {}
        regions = [(start, start + nbytes, "the directory")]
        position = 0
        while position < nbytes:
            name, member, header, position = self._entry(directory, position, start)
            if name in members:
                self._fail(f"the zip holds {quoted(name)} twice", header)
            members[name] = member
            regions.append((header, member.offset + member.nbytes, name))
        if len(members) != count:
            self._fail(f"the zip directory holds {len(members):,} members, its end record says {count:,}", start)
        overlap = first_overlap(regions)
        if overlap is not None:
            self._fail("two members of the zip overlap", overlap.offset)
        return members

    def _find(self) -> tuple[int, int, int]:
        """Return the directory's offset, size and number of members, from the end record(s)."""
        tail_start = max(0, self._size - 22 - _MANY)
        tail = self._read(tail_start, self._size - tail_start)
        place = tail.rfind(_END)
        if place < 0 or len(tail) - place < 22:
            self._fail("no end-of-directory record: the zip is cut short or not a zip", self._size, FETCH_AGAIN)
        *short, comment = struct.unpack_from("<4H2IH", tail, place + 4)
        end = tail_start + place
        if end + 22 + comment != self._size:
            self._fail(f"{self._size - end - 22:,} bytes follow the zip's end record, which says {comment:,}", end)
        behind = end
        # torch writes the 64-bit records always, other tools only where a field overflows.
        if end >= 20 and self._read(end - 20, 4) == _LOCATOR64:
            behind = struct.unpack("<Q", self._read(end - 12, 8))[0]
            record = self._read(behind, 56)
            if record[:4] != _END64 or behind + 12 + struct.unpack_from("<Q", record, 4)[0] != end - 20:
                self._fail("the zip's 64-bit end record is not where its locator says", behind)
            wide = list(struct.unpack_from("<2I4Q", record, 16))
            for narrow, value, limit in zip(short, wide, [_MANY] * 4 + [_HUGE] * 2, strict=True):
                if narrow not in (value, limit):
                    self._fail(f"the zip's two end records say {narrow:,} and {value:,}", behind)
            short = wide
        disk, first_disk, here, count, nbytes, start = short
        if disk or first_disk or here != count:
            self._fail("a zip of several disks", end)
        if start + nbytes != behind:
            self._fail(
                f"the zip directory ends at byte {start + nbytes:,}, its end record begins at {behind:,}", behind
            )
        return start, nbytes, count

    def _entry(self, directory: bytes, position: int, start: int) -> tuple[str, Member, int, int]:
        """Return one entry's name, its member, where its header is, and where the next entry begins."""
        where = start + position
        if directory[position : position + 4] != _ENTRY or len(directory) - position < 46:
            self._fail("the zip directory is damaged: no entry where one should begin", where)
        entry = struct.unpack_from("<6H3I5H2I", directory, position + 4)
        flags, method, crc, packed, nbytes = entry[2], entry[3], entry[6], entry[7], entry[8]
        name_length, extra_length, comment_length, disk, header = entry[9], entry[10], entry[11], entry[12], entry[15]
        stop = position + 46 + name_length + extra_length + comment_length
        if stop > len(directory):
            self._fail("the zip directory is damaged: an entry reaches behind its end", where)
        raw_name = directory[position + 46 : position + 46 + name_length]
        name = self._name(raw_name, where)
        if flags & 0x2041 or method != 0:
            how = "encrypted" if flags & 0x2041 else f"compressed (method {method})"
            self._fail(f"the member {quoted(name)} is {how}; torch stores its members as they are", where)
        extra_start = position + 46 + name_length
        extra = directory[extra_start : extra_start + extra_length]
        nbytes, packed, header = self._widen(extra, [nbytes, packed, header], where)
        if nbytes != packed:
            self._fail(f"the member {quoted(name)} has {nbytes:,} bytes and is stored in {packed:,}", where)
        if disk:
            self._fail("a zip of several disks", where)
        return name, self._locate(name, raw_name, header, nbytes, crc, start), header, stop

    def _name(self, raw: bytes, where: int) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._fail("a member's name is not valid UTF-8", where)
        if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            self._fail(f"the member name {quoted(name)} is not a plain relative path", where)
        return name

    def _widen(self, extra: bytes, fields: list[int], where: int) -> list[int]:
        """Replace each field that overflowed by its 64-bit value, from the extra field 1."""
        position = 0
        wide = b""
        while position + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, position)
            if position + 4 + length > len(extra):
                self._fail("the zip is damaged: an extra field reaches behind its entry", where)
            if kind == 1:
                wide = extra[position + 4 : position + 4 + length]
            position += 4 + length
        widened = []
        for value in fields:
            if value == _HUGE:
                if len(wide) < 8:
                    self._fail("the zip is damaged: a 64-bit size or offset is missing", where)
                value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
            widened.append(value)
        return widened

    def _locate(self, name: str, raw_name: bytes, header: int, nbytes: int, crc: int, directory: int) -> Member:
        """Read the header before the member itself, which alone says where its bytes begin."""
        if header + 30 > directory:
            self._fail(
                f"the member {quoted(name)} is said to begin at byte {header:,}, inside the directory", directory
            )
        local = self._read(header, min(30 + len(raw_name), directory - header))
        _, flags, method, _, _, _, packed, size, name_length, extra_length = struct.unpack_from("<5H3I2H", local, 4)
        if local[:4] != _HEADER:
            self._fail(f"no header where the directory says that {quoted(name)} begins", header)
        if name_length != len(raw_name) or local[30:] != raw_name:
            self._fail(f"the directory calls a member {quoted(name)}, its own header does not", header)
        if flags & 0x2041 or method != 0:
            self._fail(f"the header of {quoted(name)} says that it is packed, the directory that it is not", header)
        offset = header + 30 + name_length + extra_length
        if _HUGE in (packed, size) and not flags & 8:
            if offset > directory:
                self._fail(f"the header of {quoted(name)} reaches into the directory", header)
            extra = self._read(offset - extra_length, extra_length)
            size, packed = self._widen(extra, [size, packed], header)
        # With a descriptor behind the member these stand empty or full; torch leaves the packed size empty always.
        if any(value not in (0, nbytes, _HUGE) for value in (packed, size)) or (not flags & 8 and size != nbytes):
            self._fail(f"the header of {quoted(name)} says {size:,} bytes, the directory {nbytes:,}", header)
        if offset + nbytes > directory:
            self._fail(f"the member {quoted(name)} of {nbytes:,} bytes reaches into the directory", header)
        return Member(offset, nbytes, crc)


@dataclass(frozen=True)
class Record:
    """A member to be written: small content at hand, or the name and size of a payload that is to come."""

    name: str
    nbytes: int
    content: bytes | None = None
    tensor: str | None = None


def lay_out_zip(filename: str, records: Sequence[Record], alignment: int) -> FileLayout:
    """Lay out a zip of stored members, the payload of each at a multiple of ``alignment`` bytes."""
    parts = _ZipParts(filename, records, alignment)
    return FileLayout({filename: parts.size}, parts.slots, parts.fragments, "crc32")


class _ZipParts:
    """A zip whose members all have their places; CRCs are put in once the payloads have been written."""

    def __init__(self, filename: str, records: Sequence[Record], alignment: int) -> None:
        self._filename = filename
        self._records = records
        self._headers: list[int] = []
        self._extras: list[bytes] = []
        position = 0
        for record in records:
            self._headers.append(position)
            self._extras.append(_header_extra(position, record, alignment))
            position += 30 + len(record.name.encode()) + len(self._extras[-1]) + record.nbytes
            position += len(_descriptor(record, self._headers[-1], 0))
        self._directory = position
        self.size = position + len(self._end_of_file([0] * len(records)))

    @property
    def slots(self) -> dict[str, Slot]:
        """Where each stored tensor's payload goes."""
        return {
            record.tensor: Slot(self._filename, self._payload(number), record.nbytes)
            for number, record in enumerate(self._records)
            if record.tensor is not None
        }

    def fragments(self, checksums: Mapping[str, int]) -> Sequence[Fragment]:
        """Return headers, descriptors and directory, the file's beginning last: until then it is not a zip."""
        crcs = [
            zlib.crc32(record.content) if record.content is not None else checksums[record.tensor or ""]
            for record in self._records
        ]
        fragments: list[Fragment] = []
        run, begun = bytearray(), 0
        for number, record in enumerate(self._records):
            run += self._header(number)
            if record.content is None:
                fragments.append(Fragment(self._filename, begun, bytes(run)))
                run, begun = bytearray(), self._payload(number) + record.nbytes
            else:
                run += record.content
            run += _descriptor(record, self._headers[number], crcs[number])
        fragments.append(Fragment(self._filename, begun, bytes(run + self._end_of_file(crcs))))
        return fragments[::-1]

    def _payload(self, number: int) -> int:
        return self._headers[number] + 30 + len(self._records[number].name.encode()) + len(self._extras[number])

    def _header(self, number: int) -> bytes:
        name, extra = self._records[number].name.encode(), self._extras[number]
        return (
            _HEADER
            + struct.pack("<5H3I2H", 0, _flags(self._records[number]), 0, 0, 0, 0, 0, 0, len(name), len(extra))
            + name
            + extra
        )

    def _end_of_file(self, crcs: Sequence[int]) -> bytes:
        entries = bytearray()
        for record, header, crc in zip(self._records, self._headers, crcs, strict=True):
            extra = _wide(record.nbytes, record.nbytes, header)
            name, size = record.name.encode(), min(record.nbytes, _HUGE)
            entries += _ENTRY + struct.pack("<6H3I", 0, 0, _flags(record), 0, 0, 0, crc, size, size)
            entries += struct.pack("<5H2I", len(name), len(extra), 0, 0, 0, 0, min(header, _HUGE)) + name + extra
        count, nbytes, end = len(self._records), len(entries), self._directory + len(entries)
        # Version 3.0 made by version 4.5, a record of 44 bytes, one disk: what miniz writes.
        wide = _END64 + struct.pack("<Q2H2I4Q", 44, 0x031E, 45, 0, 0, count, count, nbytes, self._directory)
        locator = _LOCATOR64 + struct.pack("<IQI", 0, end, 1)
        short = min(count, _MANY), min(count, _MANY), min(nbytes, _HUGE), min(self._directory, _HUGE)
        return bytes(entries + wide + locator + _END + struct.pack("<4H2IH", 0, 0, *short, 0))


def _flags(record: Record) -> int:
    """UTF-8 names; a descriptor behind the content, which an empty member does not have."""
    return 0x0808 if record.nbytes else 0x0800


def _wide(nbytes: int, packed: int, header: int) -> bytes:
    """Extra field 1: the 64-bit sizes and offset, each only where 32 bits do not hold it."""
    wide = struct.pack("<2Q", nbytes, packed) if nbytes >= _HUGE else b""
    wide += struct.pack("<Q", header) if header >= _HUGE else b""
    return struct.pack("<2H", 1, len(wide)) + wide if wide else b""


def _header_extra(header: int, record: Record, alignment: int) -> bytes:
    """Return the extra fields of a member's own header: 64-bit sizes where needed, and padding.

    miniz leaves the packed size empty; the padding puts the content at a multiple of ``alignment``.
    """
    wide = _wide(record.nbytes, 0, header)
    padding = -(header + 30 + len(record.name.encode()) + len(wide) + 4) % alignment
    return wide + b"FB" + struct.pack("<H", padding) + b"Z" * padding


def _descriptor(record: Record, header: int, crc: int) -> bytes:
    if not record.nbytes:
        return b""
    sizes = "<I2Q" if record.nbytes >= _HUGE or header >= _HUGE else "<3I"
    return _DESCRIPTOR + struct.pack(sizes, crc, record.nbytes, record.nbytes)
