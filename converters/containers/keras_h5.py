"""Keras HDF5 weights (``tf_model.h5`` as transformers 4 wrote it): index one, lay one out.

A weight lies at ``<layer>/<weight name>``; the root's ``layer_names`` and each layer's ``weight_names`` list them. A
weight name starts with the model's own prefix (``tf_ro_former_for_masked_lm_1/``), which readers ignore, and ends in
``:0``. Payloads are contiguous and uncompressed, so the index gives extents and the engine copies them without the
HDF5 library. Keras stores weights that two layers share under each of them: we write hard links instead.

Indexing runs the HDF5 library in a process of its own (:mod:`.keras_h5_process`), whose answer is checked here against
the file. Writing calls h5py here: it reads nothing but what it has just made.

Source: tf_keras 2.19 ``saving/legacy/hdf5_format.py``; transformers 4.57 ``modeling_tf_utils.py``.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import FETCH_AGAIN, ConvertError, FormatError
from . import keras_h5_child, keras_h5_process
from .keras_h5_layout import SIGNATURE, KerasLayout, lay_out
from .stored import ITEMSIZE, Data, Extent, Index, OpenFiles, StoredTensor

__all__ = ["KerasLayout", "index", "lay_out"]

#: Unpacked tensors may take this many times the file's size, and this many bytes more, all together. gzip gains 10 % on
#: weights and can be made to gain a thousandfold.
UNPACKED_TIMES, UNPACKED_BYTES = 64, 1 << 26


def index(path: Path, *, trusted: bool = False) -> Index:
    """Index the weights of ``path`` without reading a payload.

    ``trusted`` says that we wrote the file ourselves just now: the HDF5 library may read it in this process.

    Raises:
        FormatError: Not an HDF5 file, not Keras weights, a feature that is refused, or a file that breaks the library.
    """
    size = _check_signature(path)
    answer = keras_h5_child.describe(str(path), confined=False) if trusted else keras_h5_process.describe(path)
    return index_of_answer(path, size, answer)


def _check_signature(path: Path) -> int:
    """Check that a regular file begins as HDF5 does, and return its size in bytes."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(path, "not a regular file")
    start = bytearray(min(len(SIGNATURE), status.st_size))
    with OpenFiles() as files:
        files.read_into(path, 0, memoryview(start))
    if bytes(start) == SIGNATURE:
        return status.st_size
    if len(start) == len(SIGNATURE) and not any(start):
        raise FormatError(path, "begins with zeros: its writing was cut short", next_step="Convert it again.")
    what = f"not an HDF5 file: begins with {bytes(start)!r}, want {SIGNATURE!r}"
    raise FormatError(path, what, offset=0, next_step=FETCH_AGAIN if SIGNATURE.startswith(start) else None)


def index_of_answer(path: Path, size: int, answer: object) -> Index:
    """Check a description against the file of ``size`` bytes and turn it into an index: nothing in it is believed."""
    if not isinstance(answer, dict):
        raise FormatError(path, "the process that reads HDF5 answered nonsense")
    if isinstance(answer.get("setup"), str):
        raise ConvertError(answer["setup"], "Install it: python -m pip install h5py")
    if isinstance(answer.get("error"), str):
        next_step = answer.get("next_step")
        raise FormatError(path, answer["error"], next_step=next_step if isinstance(next_step, str) else None)
    entries, metadata = answer.get("tensors"), answer.get("metadata")
    if not isinstance(entries, list) or not isinstance(metadata, dict):
        raise FormatError(path, "the process that reads HDF5 answered nonsense")
    server = keras_h5_process.Server(path)
    same: dict[int, StoredTensor] = {}  # a dataset's first name, by its address in the file
    unpacked = 0
    tensors = []
    for entry in entries:
        tensor, address = _checked(path, size, entry, server)
        first = same.setdefault(address, tensor)
        if first is tensor:
            unpacked += 0 if isinstance(tensor.data, Extent) else tensor.nbytes
        elif (first.dtype, first.shape) != (tensor.dtype, tensor.shape):
            raise FormatError(path, f"{tensor.name!r} and {first.name!r} are one dataset of two kinds")
        tensors.append(StoredTensor(tensor.name, tensor.dtype, tensor.shape, first.data))
    _refuse_overlaps(path, [tensor for tensor in same.values() if isinstance(tensor.data, Extent) and tensor.nbytes])
    if unpacked > UNPACKED_TIMES * size + UNPACKED_BYTES:
        raise FormatError(
            path,
            f"{size:,} bytes claim to unpack to {unpacked:,}, more than {UNPACKED_TIMES} times as many",
            next_step=keras_h5_child.UNPACK,
        )
    texts = {key: text for key, text in metadata.items() if isinstance(key, str) and isinstance(text, str)}
    return Index(tuple(tensors), texts)


def _checked(path: Path, size: int, entry: object, server: keras_h5_process.Server) -> tuple[StoredTensor, int]:
    """Check one described tensor and return it with its address."""
    fields: Mapping[str, object] = entry if isinstance(entry, dict) else {}
    name, dtype, shape = fields.get("name"), fields.get("dtype"), fields.get("shape")
    where, address, offset = fields.get("path"), fields.get("address"), fields.get("offset")
    if not isinstance(name, str) or not isinstance(where, str) or type(address) is not int:
        raise FormatError(path, "the process that reads HDF5 described a tensor without a name or an address")
    if not name or len(name) > keras_h5_child.MAX_NAME or any(ord(letter) < 32 for letter in name):
        raise FormatError(path, f"{keras_h5_child.quoted(where)} is not a name for a weight")
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise FormatError(path, f"{name!r} has dtype {keras_h5_child.quoted(str(dtype))}")
    # HDF5 has 32 dimensions at most, each of 64 bits.
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise FormatError(path, f"{name!r} has a shape that is none: {keras_h5_child.quoted(str(shape))}")
    nbytes = math.prod(shape) * ITEMSIZE[dtype]
    data: Data
    if "offset" not in fields:
        data = keras_h5_process.Unpacked(path, where, nbytes, server)
    elif type(offset) is not int or offset < 0 or offset + nbytes > size:
        raise FormatError(path, f"{name!r} claims {nbytes:,} bytes at {offset!r}, and the file has {size:,}")
    else:
        data = Extent(path, offset, nbytes)
    return StoredTensor(name, dtype, tuple(shape), data), address


def _refuse_overlaps(path: Path, tensors: Sequence[StoredTensor]) -> None:
    """Two datasets may not share a byte; hard links to one dataset were folded before."""
    end, last = 0, ""
    for offset, stop, name in sorted((t.data.offset, t.data.offset + t.nbytes, t.name) for t in tensors):  # type: ignore[attr-defined]
        if offset < end:
            raise FormatError(path, f"{name!r} and {last!r} overlap", offset=offset)
        end, last = stop, name
