"""An open checkpoint: its tensors under canonical names, read lazily, and its configuration.

:mod:`.opening` opens one, :mod:`.fitting` makes sure that it fits the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..table.config import RoFormerConfig
from ..table.config_fields import SourceConfig
from ..table.mapping import Dialect, Group, ModelClass, Table, Tensor
from ..tensors.checksums import require, running
from ..tensors.stored import Extent, OpenFiles, StoredTensor
from .identification import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Binding:
    """One canonical tensor and where its bytes lie.

    Attributes:
        tensor: Its row of the table.
        stored: Its place in the file.
        transposed: Whether the bytes are those of the transposed (in, out) matrix in C order: the dialect's convention
            and the file's own memory order taken together.
    """

    tensor: Tensor
    stored: StoredTensor
    transposed: bool


@dataclass
class Checkpoint:
    """A checkpoint whose tensors, table and configuration fit: iterate for canonical names, ``read`` for arrays.

    A context manager: closing it closes the files.

    Attributes:
        found: The files, and what lies beside them.
        base: Whether it is a bare base model (torch and Paddle then leave the outer prefix out).
        source_config: Configuration as read, with what the table has no field for.
        bindings: Canonical name → its tensor and where its bytes lie, in the table's order.
        duplicates: Second copies of a tensor in the files (tied weights), checked to be equal.
        derived: Tables that the files carry and that were recomputed and checked.
        ignored: Names in the files that are not weights (optimizer slots).
        files: Where they are open; closed with the checkpoint.
    """

    found: Found
    base: bool
    source_config: SourceConfig
    bindings: dict[str, Binding]
    duplicates: tuple[str, ...]
    derived: tuple[str, ...]
    ignored: tuple[str, ...]
    files: OpenFiles = field(repr=False)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.files.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.bindings)

    def __len__(self) -> int:
        return len(self.bindings)

    def __contains__(self, name: object) -> bool:
        return name in self.bindings

    @property
    def config(self) -> RoFormerConfig:
        return self.source_config.config

    @property
    def path(self) -> Path:
        """The file or directory that was opened."""
        return self.found.path

    @property
    def dialect(self) -> Dialect:
        """Whose names its files use."""
        return self.found.dialect

    @property
    def directory(self) -> Path:
        """The directory in which its files lie."""
        return self.found.directory

    @property
    def companions(self) -> tuple[Path, ...]:
        """Tokenizer files and licences beside the weights."""
        return self.found.companions

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that is read: weights, shard index, configuration, companions."""
        weights = self.found.weights
        files = () if weights is None else (*weights.files, weights.shard_index)
        data = (binding.stored.data for binding in self.bindings.values())
        shards = dict.fromkeys(extent.path for extent in data if isinstance(extent, Extent))
        read = (*files, *shards, self.found.config_file, *self.companions)
        return tuple(dict.fromkeys(path for path in read if path is not None))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The table's groups that the files hold."""
        present = {binding.tensor.group.name for binding in self.bindings.values()}
        return tuple(group for group in self.table.groups if group.name in present)

    @cached_property
    def table(self) -> Table:
        """The rows of its class, number of layers and traits."""
        return Table.of(self.config, self.kind)

    @property
    def kind(self) -> ModelClass:
        """Its class."""
        return self.found.kind

    @property
    def model_class(self) -> str:
        """The class of this project's models that holds all of it."""
        return self.kind.class_name

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, each counted once."""
        return sum(binding.stored.nbytes for binding in self.bindings.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Canonical shape (out, in) of a tensor."""
        return self._binding(name).tensor.shape(self.config.sizes)

    def dtype(self, name: str) -> str:
        """Element type of a tensor: float32, float16, bfloat16 or float64."""
        return self._binding(name).stored.dtype

    def dtypes(self) -> Counter[str]:
        """Element type → number of tensors."""
        return Counter(binding.stored.dtype for binding in self.bindings.values())

    def read(self, name: str, dtype: str | None = None) -> NDArray[Any]:
        """Read one tensor in canonical orientation.

        Args:
            name: Canonical name.
            dtype: Cast to this type; by default the stored one, where bfloat16 comes as uint16 bit patterns.

        Raises:
            KeyError: The checkpoint has no such tensor.
            FormatError: The file was cut short since it was opened, or has a checksum that is wrong.
        """
        import numpy as np

        from ..tensors.dtypes import cast, numpy_dtype

        binding = self._binding(name)
        stored = binding.stored
        array = np.empty(stored.size, numpy_dtype(stored.dtype))
        content = array.view(np.uint8).data
        stored.data.read_into(self.files, 0, content)
        checksum = running(stored)
        checksum.update(content)
        require(stored, checksum)
        shape = self.shape(name)
        array = array.reshape(shape[::-1]).T.copy() if binding.transposed else array.reshape(shape)
        return array if dtype is None else cast(array, stored.dtype, dtype, name=name)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.read(name)

    def _binding(self, name: str) -> Binding:
        if name not in self.bindings:
            raise KeyError(f"{self.path} has no tensor {name!r}")
        return self.bindings[name]
