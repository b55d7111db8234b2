"""Lay out a Keras HDF5 weight file: h5py makes the skeleton, the engine fills the payloads, the signature comes last.

Sources: tf_keras 2.19 ``saving/legacy/hdf5_format.py`` for the groups, their order and their attributes; the files that
transformers 4.57 wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from .keras_h5_child import TYPES
from .stored import Fragment, NewTensor, Slot

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Keras splits an attribute above this size into name0, name1, …: an HDF5 object header message holds 64 KB.
ATTRIBUTE_LIMIT = 64512
#: What Keras 2 writes and what its readers look at only to recognise Keras 1.
KERAS_VERSION = "2.21.0"
#: A model's own weights, not of any layer; transformers' models have none, and Keras writes the group all the same.
TOP_LEVEL = "top_level_model_weights"


@dataclass(frozen=True)
class KerasLayout:
    """One file. ``layers`` has each layer's weights in order, its own and then those it shares with others."""

    filename: str
    tensors: Mapping[str, NewTensor]
    layers: Mapping[str, Sequence[str]]
    model_name: str
    checksum: str | None = None

    def create(self, directory: Path) -> dict[str, Slot]:
        """Make the file at its final size, without its signature: until that is written, no reader takes it."""
        import h5py

        path = directory / self.filename
        with h5py.File(path, "x", libver="earliest") as file:
            _write_names(file, "layer_names", list(self.layers))
            file.attrs["backend"] = b"tensorflow"
            file.attrs["keras_version"] = KERAS_VERSION.encode()
            for layer in [*sorted(self.layers), TOP_LEVEL]:
                names = self.layers.get(layer, ())
                _write_names(file.create_group(layer), "weight_names", [self._weight_name(name) for name in names])
            made: dict[str, Any] = {}
            for tensor in self.tensors.values():
                if tensor.alias_of is None:
                    made[tensor.name] = self._make_dataset(file, tensor)
            for layer, names in self.layers.items():
                for name in names:
                    if name not in made or _layer_of(name) != layer:
                        file[f"{layer}/{self._weight_name(name)}"] = h5py.Dataset(made[self._stored(name)])
            slots = {
                name: Slot(self.filename, dataset.get_offset() or 0, self.tensors[name].nbytes)
                for name, dataset in made.items()
            }
        with open(path, "r+b") as raw:
            raw.write(bytes(len(SIGNATURE)))
        return slots

    def sizes(self) -> dict[str, int]:
        """Bound the file's size from above: the HDF5 library decides about the bytes between the payloads."""
        stored = [tensor for tensor in self.tensors.values() if tensor.alias_of is None]
        paths = [f"{layer}/{self._weight_name(name)}" for layer, names in self.layers.items() for name in names]
        groups = {path[:end] for path in paths for end, letter in enumerate(path) if letter == "/"} | set(self.layers)
        # A group: object header, B-tree node, name heap (which doubles as it grows), symbol node. A dataset: its object
        # header and alignment, and its share of further symbol nodes. A name: in the heap and in an attribute.
        overhead = 8192 + 2560 * len(groups) + 768 * len(paths) + 8 * sum(map(len, paths)) + 8 * sum(map(len, groups))
        return {self.filename: sum(tensor.nbytes for tensor in stored) + overhead}

    def fragments(self, checksums: Mapping[str, int]) -> Sequence[Fragment]:
        return [Fragment(self.filename, 0, SIGNATURE)]

    def _weight_name(self, name: str) -> str:
        return f"{self.model_name}/{name}:0"

    def _stored(self, name: str) -> str:
        return self.tensors[name].alias_of or name

    def _make_dataset(self, file: Any, tensor: NewTensor) -> Any:
        """Make one dataset whose bytes have their place in the file now and are written by someone else."""
        import numpy
        from h5py import h5d, h5p, h5s, h5t

        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_layout(h5d.CONTIGUOUS)
        plan.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5d.FILL_TIME_NEVER)
        plan.set_obj_track_times(False)  # the same weights give the same file
        links = h5p.create(h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        kind = getattr(h5t, TYPES[tensor.dtype]) if tensor.dtype in TYPES else h5t.py_create(numpy.dtype(bool), True)
        where = f"{_layer_of(tensor.name)}/{self._weight_name(tensor.name)}".encode()
        return h5d.create(file.id, where, kind, h5s.create_simple(tensor.shape), plan, links)


def lay_out(
    filename: str,
    tensors: Sequence[NewTensor],
    model_name: str,
    shared: Mapping[str, Sequence[str]] | None = None,
) -> KerasLayout:
    """Lay out one weight file; a tensor's layer is the first component of its name.

    ``tensors`` are named as :func:`.keras_h5.index` names them, without the model's prefix and ``:0``; ``model_name``
    is that prefix (``tf_ro_former_for_masked_lm``). ``shared`` maps a layer to the names of tensors of other layers
    that it lists too, as hard links.

    Raises:
        ConvertError: A dtype that HDF5 cannot hold, or a name that is no path in it.
    """
    held = [*TYPES, "bool"]
    unheld = sorted({tensor.dtype for tensor in tensors} - set(held))
    if unheld:
        raise ConvertError(
            f"{filename}: HDF5 has no {' or '.join(unheld)}, which {sum(t.dtype in unheld for t in tensors)} of "
            f"{len(tensors)} tensors have",
            "Add --dtype float32 (holds every bfloat16 exactly) or --dtype float16 (rounds).",
        )
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        raise ValueError("two tensors of one name")
    layers: dict[str, list[str]] = {}
    for tensor in tensors:
        _check_name(filename, tensor.name)
        layers.setdefault(_layer_of(tensor.name), []).append(tensor.name)
        target = by_name[tensor.alias_of] if tensor.alias_of is not None else tensor
        if (target.dtype, target.shape) != (tensor.dtype, tensor.shape) or (target is not tensor and target.alias_of):
            raise ValueError(f"{tensor.name} is no alias of {target.name}")
    for layer, names in (shared or {}).items():
        _check_name(filename, f"{layer}/")
        listed = layers.setdefault(layer, [])
        for name in names:
            if name not in by_name:
                raise ValueError(f"layer {layer} shares {name}, which is not there")
            if name not in listed:
                listed.append(name)
    return KerasLayout(filename, by_name, layers, model_name)


def _layer_of(name: str) -> str:
    return name.partition("/")[0]


def _check_name(filename: str, name: str) -> None:
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or parts[0] == TOP_LEVEL or "/" not in name:
        raise ConvertError(f"{filename}: {name!r} cannot be the name of a Keras weight; want layer/…/weight")


def _write_names(owner: Any, attribute: str, names: Sequence[str]) -> None:
    """Write a list of names as Keras does, in as many parts as the limit asks for."""
    import numpy

    encoded = [name.encode() for name in names]
    width = max(map(len, encoded), default=1)
    if width > ATTRIBUTE_LIMIT:
        raise ConvertError(f"a Keras weight file cannot hold a name of {width:,} characters: {names[0][:60]}…")
    if width * len(encoded) <= ATTRIBUTE_LIMIT:
        owner.attrs[attribute] = encoded
        return
    parts = -(-len(encoded) // (ATTRIBUTE_LIMIT // width))
    for number, part in enumerate(numpy.array_split(numpy.asarray(encoded), parts)):
        owner.attrs[f"{attribute}{number}"] = part
