"""Look into payloads before anything is converted: whether two tensors are equal, a rotary table the configuration's.

Source files are read a piece at a time, whatever the tensor's size.
"""

from __future__ import annotations

from ..tensors.stored import OpenFiles, StoredTensor

#: Bytes compared at a time where two copies of one tensor must be equal.
_CHUNK = 1 << 20
#: Rows of a rotary table that are recomputed at a time.
_TABLE_ROWS = 1 << 7


def first_difference(files: OpenFiles, one: StoredTensor, other: StoredTensor) -> int | None:
    """Byte at which two tensors of one size first differ, or None."""
    if one.data == other.data:
        return None
    left, right = bytearray(_CHUNK), bytearray(_CHUNK)
    for start in range(0, one.nbytes, _CHUNK):
        count = min(_CHUNK, one.nbytes - start)
        one.data.read_into(files, start, memoryview(left)[:count])
        other.data.read_into(files, start, memoryview(right)[:count])
        if left[:count] != right[:count]:
            return start + next(i for i in range(count) if left[i] != right[i])
    return None


def rotary_distance(files: OpenFiles, table: StoredTensor) -> float:
    """Largest difference between a stored table (positions, D) and the computed one, some rows at a time."""
    import numpy as np

    from ..table.rotary import embed_positions
    from ..tensors.dtypes import cast, numpy_dtype

    positions, head_size = table.shape
    worst = 0.0
    for first in range(0, positions, _TABLE_ROWS):
        rows = min(_TABLE_ROWS, positions - first)
        array = np.empty(rows * head_size, numpy_dtype(table.dtype))
        table.data.read_into(files, first * head_size * array.itemsize, array.view(np.uint8).data)
        values = cast(array, table.dtype, "float64", name=table.name).reshape(rows, head_size)
        difference = np.abs(values - embed_positions(rows, head_size, first=first))
        worst = max(worst, float(difference.max(initial=0.0))) if not np.isnan(difference).any() else float("nan")
        if worst != worst:
            break
    return worst
