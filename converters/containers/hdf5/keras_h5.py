"""Keras HDF5 weights (``tf_model.h5`` as transformers 4 wrote it): index one, lay one out.

A weight lies at ``<layer>/<weight name>``; the root's ``layer_names`` and each layer's ``weight_names`` list them. A
weight name ends in ``:0``. What it starts with is one and the same in files of transformers, the model's own prefix
(``tf_ro_former_for_masked_lm_1/``), which readers ignore; in those of models that are made of layers, as bert4keras',
it is the layer (``Embedding-Token/``). ``model.save`` writes the same a group deeper, beside the model's program and
the optimizer's state, which are not looked at. Keras writes payloads contiguous and uncompressed, so that the index
gives extents and the engine copies them.
Keras stores weights that two layers share under each of them: we write hard links instead.

A file as Keras writes it is read by our own reader of HDF5 (:mod:`.file` and its neighbours). Of any other form of
HDF5 (chunks, compression, the newer formats, big-endian numbers) h5py makes a plain copy first (:mod:`.copying`).
Every object is reached component by component through hard links, looked at before it is opened: so nothing outside the
file is ever followed.

Source: tf_keras 2.19 ``saving/legacy/hdf5_format.py`` for names and attributes; transformers 4.57
``modeling_tf_utils.py``, also for sharded files, whose layer names are the tensors themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ...errors import FormatError, quoted
from ...tensors.regions import first_overlap
from ...tensors.stored import Index, OpenFiles, StoredTensor
from .attributes import MAX_NAMES, Attributes, GlobalHeap
from .datasets import Dataset, is_dataset, read_dataset
from .file import Hdf5File, UnfamiliarError, open_content, open_file
from .groups import Link, is_group, read_links
from .headers import Header, read_header
from .keras_h5_layout import OPTIMIZER, TOP_LEVEL, WHOLE_MODEL, lay_out

__all__ = ["index", "lay_out"]

MAX_DEPTH = 32  # components of one weight name
KERAS_3 = (
    "this is a Keras 3 .weights.h5 file: it holds no weight names, only attribute paths and positions of the class "
    "that wrote it, so nothing in it says which tensor is which",
    "Load it with the class that wrote it and save that model as transformers 4 does (save_pretrained: tf_model.h5).",
)
NO_KERAS = (
    "not a Keras weight file: it has no layer_names",
    "Want tf_model.h5 as transformers 4 wrote it.",
)
#: Names in the root of a file that is something else → what it is.
OTHER_FILES = {
    "_layer_checkpoint_dependencies": KERAS_3,
    "layers": KERAS_3,
    "vars": KERAS_3,
}


def index(path: Path) -> Index:
    """Index the weights of ``path``; of a file as Keras writes it without reading a payload.

    Raises:
        FormatError: Not an HDF5 file, not Keras weights, a feature that is refused, or a file that is broken.
    """
    with OpenFiles() as files:
        try:
            return _index(*open_file(path, files))
        except UnfamiliarError as error:
            from .copying import CopiedExtent, plain_copy  # imported here: few files are in another form

            copy = plain_copy(error, files.descriptor(path))
    found = _index(*open_content(path, copy, copy.size))
    tensors = [replace(tensor, data=CopiedExtent(tensor.data, copy)) for tensor in found.tensors]
    return Index(tuple(tensors), found.metadata)


def _index(file: Hdf5File, root: int) -> Index:
    weights = WeightFile(file, root)
    # By its header's address, a dataset under its first path: others are hard links to it.
    found: dict[int, tuple[str, Dataset]] = {}
    tensors: list[StoredTensor] = []
    firsts: set[str] = set()
    for first, name, where, header in weights.weights():
        if len(tensors) == MAX_NAMES:
            raise FormatError(file.path, f"it holds more than {MAX_NAMES:,} tensors, more than any model has")
        if header.address not in found:
            found[header.address] = where, read_dataset(header, where)
        tensors.append(StoredTensor(f"{first}{name}", *found[header.address][1]))
        firsts.add(first)
    if len(firsts - {""}) == 1:  # the model, not its layers
        prefix = max(firsts)
        tensors = [replace(tensor, name=tensor.name.removeprefix(prefix)) for tensor in tensors]
    metadata = weights.metadata()
    _refuse_overlaps(file, found.values())
    return Index(tuple(tensors), metadata)


class WeightFile:
    """The objects of one file, each read once, and the ways to them that are safe to take."""

    def __init__(self, file: Hdf5File, root: int) -> None:
        self._file = file
        self._heap = GlobalHeap(file)
        self._headers: dict[int, Header] = {}
        self._links: dict[int, dict[bytes, Link]] = {}
        self._attributes: dict[int, Attributes] = {}
        self._root = self._header(root)
        if not is_group(self._root):
            raise file.broken("the superblock's root is not a group", root)
        #: The group that lists the layers: the root, or in a whole model the one of its weights.
        self._top = self._root
        self._layers = self._names(self._described(self._root), "layer_names")
        if self._layers is None and self._has(self._root, WHOLE_MODEL):
            self._top = self._follow(self._root, WHOLE_MODEL, "group")
            if is_group(self._top):
                self._layers = self._names(self._described(self._top), "layer_names")

    def weights(self) -> Iterator[tuple[str, str, str, Header]]:
        """Give (model or layer with ``/``, name without it and ``:0``, path, object) in the file's own order.

        Raises:
            FormatError: The file is not a Keras weight file, or a name is not a path to an object in it.
        """
        layers = None if self._layers is None else list(self._layers)
        if layers is None:
            words = (answer for name, answer in OTHER_FILES.items() if self._has(self._root, name))
            what, next_step = next(words, NO_KERAS)
            raise self._file.broken(what, next_step=next_step)
        if TOP_LEVEL not in layers and self._has(self._top, TOP_LEVEL):
            layers.append(TOP_LEVEL)
        self._refuse_repeats(layers, "layer_names")
        for layer in layers:
            here = self._follow(self._top, layer, "layer")
            if is_dataset(here):
                yield "", self._checked(layer, layer), layer, here
                continue
            names = self._names(self._described(here), "weight_names") if is_group(here) else None
            if names is None:
                raise self._refused(f"layer {quoted(layer)} has no weight_names")
            self._refuse_repeats(names, f"weight_names of layer {quoted(layer)}")
            for weight in names:
                header = self._follow(here, weight, f"layer {quoted(layer)}: weight")
                prefix, slash, name = weight.partition("/")
                if not slash:
                    raise self._refused(
                        f"layer {quoted(layer)}: weight {quoted(prefix)} has no model prefix before its name"
                    )
                first = "" if layer == TOP_LEVEL else f"{prefix}/"  # the model's own weights have its name before them
                yield first, self._checked(name, f"{layer}/{weight}"), f"{layer}/{weight}", header

    def metadata(self) -> dict[str, str]:
        """Return what Keras wrote about itself, and what lies beside the weights of a whole model."""
        attributes = self._described(self._root)
        keys = [key for key in ("backend", "keras_version") if key in attributes]
        said = {OPTIMIZER: "the optimizer's state"} if self._has(self._root, OPTIMIZER) else {}
        return {key: "".join(attributes.texts(key, 0)) for key in keys} | said

    # Each of these is read once, by its header's address: no structure may be claimed twice.

    def _header(self, address: int) -> Header:
        header = self._headers.get(address)
        if header is None:
            header = self._headers[address] = read_header(self._file, address)
        return header

    def _linked(self, header: Header) -> dict[bytes, Link]:
        links = self._links.get(header.address)
        if links is None:
            links = self._links[header.address] = read_links(header)
        return links

    def _described(self, header: Header) -> Attributes:
        attributes = self._attributes.get(header.address)
        if attributes is None:
            attributes = self._attributes[header.address] = Attributes(header, self._heap)
        return attributes

    def _has(self, group: Header, name: str) -> bool:
        return name.encode() in self._linked(group)

    def _follow(self, start: Header, name: str, what: str) -> Header:
        """Return what ``name`` leads to below ``start``, through hard links of this file only."""
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in name:
            raise self._refused(f"{what} {quoted(name)} is not a plain path below its group")
        if len(parts) > MAX_DEPTH:
            raise self._refused(f"{what} {quoted(name)} has {len(parts)} components, more than {MAX_DEPTH}")
        here, above = start, {start.address}
        for part in parts:
            link = self._linked(here).get(part.encode()) if is_group(here) else None
            if link is None:
                raise self._refused(f"{what} {quoted(name)} names an object that the file does not hold")
            if link.soft:
                raise self._refused(f"{what} {quoted(name)} leads through a soft link")
            here = self._header(link.address)
            if here.address in above:
                raise self._refused(f"{what} {quoted(name)} leads through a group that holds itself")
            above.add(here.address)
        return here

    def _names(self, attributes: Attributes, name: str) -> list[str] | None:
        """Read a list of names that Keras may have split into ``name0``, ``name1``, …; None if there is none."""
        if name in attributes:
            return attributes.texts(name, 1)
        found: list[str] = []
        part = 0
        while f"{name}{part}" in attributes:
            found += attributes.texts(f"{name}{part}", 1)
            part += 1
            if len(found) > MAX_NAMES:
                raise self._refused(f"attributes {name}0… hold more than {MAX_NAMES:,} names")
        return found if part else None

    def _checked(self, name: str, where: str) -> str:
        """Return a tensor's name without Keras's ending."""
        name = name.removesuffix(":0")
        if not name or min(name) < " ":
            raise self._refused(f"{quoted(where)} is not a name for a weight")
        return name

    def _refuse_repeats(self, names: list[str], what: str) -> None:
        for name, times in Counter(names).items():
            if times > 1:
                raise self._refused(f"{what} lists {quoted(name)} {times:,} times")

    def _refused(self, what: str) -> FormatError:
        return FormatError(self._file.path, what)


def _refuse_overlaps(file: Hdf5File, found: Iterable[tuple[str, Dataset]]) -> None:
    """Refuse datasets that share a byte with each other or with the file's structures, and structures that do.

    Hard links to one dataset were folded before. ``found`` has each dataset once, with its path.
    """
    regions = [(begin, end, "") for begin, end in file.claimed.items()]
    regions += [(data.offset, data.offset + data.nbytes, name) for name, (_, _, data) in found if data.nbytes]
    overlap = first_overlap(regions)
    if overlap is not None:
        names = (quoted(each) if each else "a structure of the file" for each in (overlap.later, overlap.earlier))
        raise file.broken(f"{' and '.join(names)} overlap", overlap.offset)
