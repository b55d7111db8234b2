"""Lay out a Keras HDF5 weight file: which groups, attributes and datasets it has, and where each payload goes.

The structures themselves are built by :mod:`.writing`, all of them before a byte moves.

Sources: tf_keras 2.19 ``saving/legacy/hdf5_format.py`` for the groups, their order and their attributes; the files that
transformers 4.57 wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ...errors import ConvertError
from ...tensors.stored import FileLayout, Fragment, NewTensor, Slot
from .datatypes import ANY_TEXT, DATATYPES, text
from .messages import MAX_RANK
from .writing import (
    REFERENCE_BYTES,
    SUPERBLOCK_BYTES,
    Group,
    NewDataset,
    TextHeap,
    attribute,
    describe,
    evenly,
)

#: Keras splits an attribute above this size into name0, name1, …: an HDF5 object header message holds 64 KB.
ATTRIBUTE_LIMIT = 64512
#: What Keras 2 writes and what its readers look at only to recognise Keras 1.
KERAS_VERSION = "2.21.0"
#: A model's own weights, not of any layer; transformers' models have none, and Keras writes the group all the same.
TOP_LEVEL = "top_level_model_weights"
#: Where ``model.save`` keeps what ``save_weights`` writes into the root, and the optimizer's state beside it.
WHOLE_MODEL, OPTIMIZER = "model_weights", "optimizer_weights"

#: Payloads start at a multiple of this many bytes, a cache line: a reader that maps the file finds every element
#: aligned, and so does vector code. HDF5 itself wants nothing.
_ALIGNMENT = 64


def lay_out(
    filename: str,
    tensors: Sequence[NewTensor],
    model_name: str,
    shared: Mapping[str, Sequence[str]] | None = None,
) -> FileLayout:
    """Lay out one weight file, payloads in the order of ``tensors``; a tensor's layer is the first part of its name.

    ``tensors`` are named as :func:`.keras_h5.index` names them, without the model's prefix and ``:0``; ``model_name``
    is that prefix (``tf_ro_former_for_masked_lm``). ``shared`` maps a layer to the names of tensors of other layers
    that it lists too, as hard links.

    The superblock comes last, and until then the file begins with zeros, which no reader takes. Contiguous datasets
    have no checksums.

    Raises:
        ConvertError: A dtype that HDF5 cannot hold, or a name that is not a path in it or is too long.
        ValueError: A name occurs twice, an alias differs from its tensor, a shared tensor is not there, or a tensor has
            more axes than HDF5 allows.
    """
    _check_dtypes(filename, tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        raise ValueError("two tensors of one name")
    for tensor in tensors:
        _check_tensor(filename, tensor, by_name)
    layers = _layers(filename, by_name, shared or {})
    slots, end = _place(filename, tensors)
    stored = {name: NewDataset(by_name[name].dtype, by_name[name].shape, slot.offset) for name, slot in slots.items()}
    datasets = {tensor.name: stored[tensor.alias_of or tensor.name] for tensor in tensors}
    start = _aligned(end)
    heap = TextHeap(start)
    root = _tree(filename, layers, datasets, model_name, heap)
    structures, superblock = describe(root, start + len(heap.content))
    behind = Fragment(filename, start, heap.content + structures)
    fragments = [behind, Fragment(filename, 0, superblock)]
    return FileLayout({filename: start + len(behind.content)}, slots, lambda checksums: fragments)


def _check_dtypes(filename: str, tensors: Sequence[NewTensor]) -> None:
    unsupported = sorted({tensor.dtype for tensor in tensors} - DATATYPES.keys())
    if unsupported:
        count = sum(tensor.dtype in unsupported for tensor in tensors)
        raise ConvertError(
            f"{filename}: HDF5 has no {' or '.join(unsupported)}, which {count} of {len(tensors)} tensors have",
            "Add --dtype float32 (holds every bfloat16 exactly) or --dtype float16 (rounds).",
        )


def _check_tensor(filename: str, tensor: NewTensor, by_name: Mapping[str, NewTensor]) -> None:
    _check_name(filename, tensor.name)
    if len(tensor.shape) > MAX_RANK:
        raise ValueError(f"{tensor.name} has {len(tensor.shape)} axes, HDF5 has {MAX_RANK} at most")
    target = by_name[tensor.alias_of] if tensor.alias_of is not None else tensor
    if (target.dtype, target.shape) != (tensor.dtype, tensor.shape) or (target is not tensor and target.alias_of):
        raise ValueError(f"{tensor.name} is not an alias of {target.name}")


def _check_name(filename: str, name: str) -> None:
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or parts[0] == TOP_LEVEL or "/" not in name:
        raise ConvertError(f"{filename}: {name!r} cannot be the name of a Keras weight; want layer/…/weight")


def _layers(filename: str, names: Collection[str], shared: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Give each layer's weights in order, its own and then those it shares with others."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.partition("/")[0], []).append(name)
    for layer, others in shared.items():
        _check_name(filename, f"{layer}/")
        listed = layers.setdefault(layer, [])
        for name in others:
            if name not in names:
                raise ValueError(f"layer {layer} shares {name}, which is not there")
            if name not in listed:
                listed.append(name)
    return layers


def _place(filename: str, tensors: Sequence[NewTensor]) -> tuple[dict[str, Slot], int]:
    """Give each stored tensor its place behind the superblock, and say where the last one ends."""
    slots: dict[str, Slot] = {}
    end = SUPERBLOCK_BYTES
    for tensor in tensors:
        if tensor.alias_of is not None:
            continue
        offset = _aligned(end) if tensor.nbytes else 0  # a tensor without bytes is nowhere
        slots[tensor.name] = Slot(filename, offset, tensor.nbytes)
        end = max(end, offset + tensor.nbytes)
    return slots, end


def _aligned(offset: int) -> int:
    return offset + -offset % _ALIGNMENT


def _tree(
    filename: str,
    layers: Mapping[str, Sequence[str]],
    datasets: Mapping[str, NewDataset],
    model_name: str,
    heap: TextHeap,
) -> Group:
    """Build the file's groups, all their links and attributes."""
    root = Group(attributes=_name_list(heap, "layer_names", list(layers)))
    for key, value in (("backend", "tensorflow"), ("keras_version", KERAS_VERSION)):
        root.attributes.append(attribute(key, ANY_TEXT, (), heap.add(value.encode())))
    for layer, names in {**layers, TOP_LEVEL: ()}.items():
        paths = [f"{model_name}/{name}:0" for name in names]
        group = root.links[layer] = Group(attributes=_name_list(heap, "weight_names", paths))
        for name, path in zip(names, paths, strict=True):
            if not _link(group, path.split("/"), datasets[name]):
                raise ConvertError(f"{filename}: {name!r} cannot be the name of a Keras weight beside its other names")
    return root


def _link(group: Group, path: Sequence[str], dataset: NewDataset) -> bool:
    """Link ``dataset``, making the groups on the way; False where a name is a dataset's and a group's at once."""
    for part in path[:-1]:
        member = group.links.get(part)
        if member is None:
            member = group.links[part] = Group()
        if isinstance(member, NewDataset):
            return False
        group = member
    return group.links.setdefault(path[-1], dataset) is dataset


def _name_list(heap: TextHeap, key: str, names: Sequence[str]) -> list[bytes]:
    """Build the attribute that holds a list of names, as Keras does, in as many parts as the limit asks for.

    An empty list is an empty array of float64, which is what NumPy makes of it.
    """
    encoded = [name.encode() for name in names]
    if not encoded:
        return [attribute(key, DATATYPES["float64"], (0,), b"")]
    width = max(map(len, encoded))
    if width > ATTRIBUTE_LIMIT:
        longest = max(names, key=lambda name: len(name.encode()))
        raise ConvertError(f"a Keras weight file cannot hold a name of {width:,} characters: {longest[:60]}…")
    if max(width, REFERENCE_BYTES) * len(encoded) <= ATTRIBUTE_LIMIT:
        return [attribute(key, ANY_TEXT, (len(encoded),), b"".join(map(heap.add, encoded)))]
    # Keras hands whole lists and parts of lists to h5py as two types, and h5py makes two types of text of them. Where
    # many short names fit the limit, but not as references, there is one part, and readers want no number.
    parts = evenly(encoded, ATTRIBUTE_LIMIT // width)
    keys = [f"{key}{number}" for number in range(len(parts))] if len(parts) > 1 else [key]
    return [
        attribute(part_key, text(width), (len(part),), b"".join(name.ljust(width, b"\0") for name in part))
        for part_key, part in zip(keys, parts, strict=True)
    ]
