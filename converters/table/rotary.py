"""The rotary table: a function of the configuration, computed in float64.

Files that carry it (``embed_positions``) are checked against this and the models compute theirs from it.
Source: RoFormer (Su et al. 2021), section 3.4.2: angle of pair i at position m is m · 10000^(−2i/D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def rotary_angles(positions: int, head_size: int, *, first: int = 0) -> NDArray[np.float64]:
    """Angle of every pair at each of ``positions`` positions from ``first``, (positions, D / 2), in radians."""
    import numpy as np

    frequency = 10000.0 ** (-2.0 * np.arange(head_size // 2, dtype=np.float64) / head_size)
    return np.arange(first, first + positions, dtype=np.float64)[:, None] * frequency[None, :]


def embed_positions(positions: int, head_size: int, *, first: int = 0) -> NDArray[np.float64]:
    """Lay the table out as transformers saves it: [sin | cos] by halves, (positions, D)."""
    import numpy as np

    angles = rotary_angles(positions, head_size, first=first)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
