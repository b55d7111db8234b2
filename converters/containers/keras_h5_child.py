"""The side of the Keras HDF5 reader that touches the HDF5 library, meant for a process of its own.

The HDF5 library is C that trusts what it reads: a broken file can crash it, make it loop or make it allocate without
end (mutated files do all three). So :mod:`.keras_h5_process` runs this file as a script, one file because a script
finds no package round it, under limits that it sets on itself before it opens anything, and believes nothing it
answers. ``describe`` answers one JSON object about the whole file; ``serve`` reads requests for ranges of compressed
tensors from standard input. A file that we have just written ourselves is described in the caller's own process, by
the same function.

Every object is reached component by component through hard links, looked at before it is opened: so nothing outside
the file is ever followed.

Source: HDF5 File Format Specification 3.0; tf_keras 2.19 ``saving/legacy/hdf5_format.py`` for names and attributes;
transformers 4.57 ``modeling_tf_utils.py`` for sharded files, whose layer names are the tensors themselves.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

MEMORY_LIMIT = 1 << 30  # bytes of address space; h5py and numpy take 0.11 GB of it
DESCRIBE_SECONDS = 10  # of processor time; a base-size file takes 0.15, imports included
MAX_NAMES = 50_000  # tensors (and layers) a file; a 24-layer model has 400
MAX_NAME = 1024  # characters
MAX_DEPTH = 32  # components of one weight name
MAX_ATTRIBUTE = 1 << 26  # bytes of one attribute
MAX_BAND = 1 << 27  # bytes of one row of chunks: what reading a chunked tensor holds at a time
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}

TYPES = {
    "float64": "IEEE_F64LE",
    "float32": "IEEE_F32LE",
    "float16": "IEEE_F16LE",
    "int64": "STD_I64LE",
    "int32": "STD_I32LE",
    "int16": "STD_I16LE",
    "int8": "STD_I8LE",
    "uint8": "STD_U8LE",
}

KERAS_3 = (
    "this is a Keras 3 .weights.h5 file: it holds no weight names, only attribute paths and positions of the class "
    "that wrote it, so nothing in it says which tensor is which",
    "Load it with the class that wrote it and save that model as transformers 4 does (save_pretrained: tf_model.h5).",
)
WHOLE_MODEL = (
    "this is a whole Keras model (weights under model_weights/), not a weight file as transformers wrote it",
    "Load it with Keras and save its weights alone (save_pretrained, or model.save_weights with a name ending in .h5).",
)
UNPACK = "Rewrite the file plainly: h5repack -l CONTI -f NONE OLD.h5 NEW.h5"


class Refused(Exception):  # noqa: N818 - it is an answer, not a failure
    """The file asks for something we do not follow, or is not a Keras weight file."""

    def __init__(self, what: str, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step


def quoted(name: str) -> str:
    """Show a name out of an untrusted file: one line, no control characters, not endless."""
    shown = ascii(name)
    return shown if len(shown) <= 200 else f"{shown[:200]}…'"


def limit_process(cpu_seconds: int | None) -> None:
    """Bound this process's memory and processor time, and keep it from dumping core, where the platform can."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is the only limit there
        return
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY_LIMIT)]
    if cpu_seconds is not None:
        limits.append((resource.RLIMIT_CPU, cpu_seconds))
    for what, value in limits:
        try:
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
        except (ValueError, OSError):  # macOS refuses to bound the address space
            continue


def forbid_opening() -> None:
    """Let this process open no further file: the HDF5 library has no business with any but the one it has."""
    codecs.lookup("ascii")  # h5py decodes dtypes with it, and Python would load it from a file only then
    try:
        import resource

        spare = os.dup(0)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    except (ImportError, ValueError, OSError):
        return


class WeightFile:
    """An open file and the ways into it that are safe to take."""

    def __init__(self, path: str) -> None:
        import numpy
        from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t

        self.numpy, self.h5a, self.h5d, self.h5g = numpy, h5a, h5d, h5g
        self.h5l, self.h5o, self.h5s, self.h5t = h5l, h5o, h5s, h5t
        self.types = [(getattr(h5t, known), word) for word, known in TYPES.items()]
        self.types.append((h5t.py_create(numpy.dtype(bool), logical=True), "bool"))
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        self.file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, fapl=access)
        self.root = h5g.open(self.file, b"/")

    def close(self) -> None:
        self.file.close()

    def address(self, thing: Any) -> int:
        return int(self.h5o.get_info(thing).addr)

    def follow(self, start: Any, name: str, what: str) -> Any:
        """Open what ``name`` leads to below ``start``, through hard links of this file only."""
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in name:
            raise Refused(f"{what} {quoted(name)} is not a plain path below its group")
        if len(parts) > MAX_DEPTH:
            raise Refused(f"{what} {quoted(name)} has {len(parts)} components, more than {MAX_DEPTH}")
        here, above = start, {self.address(start)}
        for part in parts:
            link = part.encode()
            if not isinstance(here, self.h5g.GroupID) or not here.links.exists(link):
                raise Refused(f"{what} {quoted(name)} names an object that the file does not hold")
            kind = here.links.get_info(link).type
            if kind != self.h5l.TYPE_HARD:
                words = {self.h5l.TYPE_SOFT: "a soft link", self.h5l.TYPE_EXTERNAL: "a link into another file"}
                raise Refused(f"{what} {quoted(name)} leads through {words.get(kind, 'a link of an unknown kind')}")
            here = self.h5o.open(here, link)
            address = self.address(here)
            if address in above:
                raise Refused(f"{what} {quoted(name)} leads through a group that holds itself")
            above.add(address)
        return here

    def has(self, group: Any, name: bytes) -> bool:
        return bool(group.links.exists(name))

    def strings(self, owner: Any, name: str, dimensions: int) -> list[str]:
        """Read an attribute of text, after looking at its type and size."""
        attribute = self.h5a.open(owner, name.encode())
        space, kind = attribute.get_space(), attribute.get_type()
        shape = space.get_simple_extent_dims() if space.get_simple_extent_type() != self.h5s.NULL else None
        if shape is None or len(shape) != dimensions:
            raise Refused(f"attribute {name} has shape {shape}, want {dimensions} dimension(s)")
        count = math.prod(shape)
        if count == 0:
            return []  # Keras stores an empty list as float64 of shape (0,)
        if not isinstance(kind, self.h5t.TypeStringID):
            raise Refused(f"attribute {name} does not hold text")
        width = 16 if kind.is_variable_str() else kind.get_size()
        if count > MAX_NAMES or count * width > MAX_ATTRIBUTE:
            raise Refused(f"attribute {name} holds {count:,} names of {width:,} bytes, more than any model has")
        array = self.numpy.empty(shape, dtype=attribute.dtype)
        attribute.read(array)
        found = []
        for value in array.reshape(-1).tolist():
            try:
                text = value if isinstance(value, str) else bytes(value or b"").decode("utf-8")
                text.encode("utf-8")
            except (UnicodeError, TypeError):
                raise Refused(f"attribute {name} holds a name that is not UTF-8") from None
            if len(text) > MAX_NAME:
                raise Refused(f"attribute {name} holds a name of {len(text):,} characters, more than {MAX_NAME}")
            found.append(text)
        return found

    def names(self, owner: Any, name: str) -> list[str] | None:
        """Read a list of names that Keras may have split into ``name0``, ``name1``, …; None if there is none."""
        if self.h5a.exists(owner, name.encode()):
            return self.strings(owner, name, 1)
        found: list[str] = []
        part = 0
        while self.h5a.exists(owner, f"{name}{part}".encode()):
            found += self.strings(owner, f"{name}{part}", 1)
            part += 1
            if len(found) > MAX_NAMES or part > MAX_NAMES:
                raise Refused(f"attributes {name}0… hold more than {MAX_NAMES:,} names")
        return found if part else None

    def weights(self) -> Iterator[tuple[str, str, Any]]:
        """Give (name without model prefix, path in the file, dataset) in the file's own order."""
        layers = self.names(self.root, "layer_names")
        if layers is None:
            for group, answer in (
                (b"_layer_checkpoint_dependencies", KERAS_3),
                (b"layers", KERAS_3),
                (b"vars", KERAS_3),
                (b"model_weights", WHOLE_MODEL),
            ):
                if self.has(self.root, group):
                    raise Refused(*answer)
            raise Refused(
                "not a Keras weight file: it has no layer_names", "Want tf_model.h5 as transformers 4 wrote it."
            )
        # Keras keeps a model's own weights (not of any layer) in a group that layer_names does not list.
        top = "top_level_model_weights"
        if top not in layers and self.has(self.root, top.encode()):
            layers.append(top)
        _refuse_repeats(layers, "layer_names")
        for layer in layers:
            group = self.follow(self.root, layer, "layer")
            if isinstance(group, self.h5d.DatasetID):
                yield layer, layer, group
                continue
            names = self.names(group, "weight_names") if isinstance(group, self.h5g.GroupID) else None
            if names is None:
                raise Refused(f"layer {quoted(layer)} has no weight_names")
            _refuse_repeats(names, f"weight_names of layer {quoted(layer)}")
            for weight in names:
                dataset = self.follow(group, weight, f"layer {quoted(layer)}: weight")
                prefix, slash, name = weight.partition("/")
                if not slash:
                    raise Refused(f"layer {quoted(layer)}: weight {quoted(prefix)} has no model prefix before its name")
                yield name, f"{layer}/{weight}", dataset

    def tensor(self, dataset: Any, path: str) -> dict[str, Any]:
        """Say what one dataset is: dtype, shape, and its offset, or that it must be read through the library."""
        if not isinstance(dataset, self.h5d.DatasetID):
            raise Refused(f"{quoted(path)} is not a dataset")
        # Before anything else is asked of it: a virtual dataset opens other files when asked for its shape.
        plan = dataset.get_create_plist()
        layout = plan.get_layout()
        if layout not in (self.h5d.CONTIGUOUS, self.h5d.CHUNKED, self.h5d.COMPACT):
            raise Refused(f"{quoted(path)} is a virtual dataset: its values lie in other datasets or files")
        if layout == self.h5d.CONTIGUOUS and plan.get_external_count():
            raise Refused(f"{quoted(path)} keeps its values in another file (external storage)")
        kind = dataset.get_type()
        dtype = next((word for known, word in self.types if kind == known), None)
        if dtype is None:
            raise Refused(f"{quoted(path)} has dtype {self._type_words(kind)}; want one of {', '.join(TYPES)}, bool")
        space = dataset.get_space()
        if space.get_simple_extent_type() == self.h5s.NULL:
            raise Refused(f"{quoted(path)} has no shape")
        shape = [int(length) for length in space.get_simple_extent_dims()]
        nbytes = math.prod(shape) * kind.get_size()
        answer = {"dtype": dtype, "shape": shape, "address": self.address(dataset)}
        if layout != self.h5d.CONTIGUOUS:
            _check_chunks(plan, dataset, shape, kind.get_size(), path, layout == self.h5d.CHUNKED)
            return answer
        stored = dataset.get_storage_size()
        offset = dataset.get_offset() if nbytes else 0
        if offset is None:
            raise Refused(f"{quoted(path)} was declared and never written")
        if stored != nbytes and nbytes:
            raise Refused(f"{quoted(path)} has shape {shape} in {stored:,} bytes, want {nbytes:,}")
        answer["offset"] = int(offset)
        return answer

    def _type_words(self, kind: Any) -> str:
        try:
            word = str(kind.dtype.newbyteorder("="))
            order = "big-endian" if kind.dtype.str.startswith(">") else "a layout of its own"
            return f"{word} ({order})" if word in TYPES else word
        except Exception:  # a type of its own making may have no name at all
            return f"of HDF5 class {kind.get_class()}"


def _refuse_repeats(names: list[str], what: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise Refused(f"{what} lists {quoted(name)} {times:,} times")


def _check_chunks(plan: Any, dataset: Any, shape: list[int], itemsize: int, path: str, chunked: bool) -> None:
    """Refuse filters other than the plain ones, chunks that were never written, and rows too large to hold."""
    used = [plan.get_filter(position)[0] for position in range(plan.get_nfilters())]
    if len(set(used)) != len(used) or any(known not in FILTERS for known in used):
        words = ", ".join(FILTERS.get(known, f"filter {known}") for known in used)
        raise Refused(f"{quoted(path)} is compressed with {words}; want each of gzip, shuffle, fletcher32 once", UNPACK)
    chunk: list[int] = list(plan.get_chunk()) if chunked else shape
    band = math.prod([*chunk[:1], *shape[1:]])  # elements: what one row of chunks holds
    whole_chunk = math.prod(chunk)
    if max(band, whole_chunk) * itemsize > MAX_BAND:
        raise Refused(f"{quoted(path)} is stored in chunks {chunk} of {shape}, too large to read in parts", UNPACK)
    if chunked and 0 not in shape:
        wanted = math.prod([-(-length // part) for length, part in zip(shape, chunk, strict=True)])
        if dataset.get_num_chunks() != wanted:
            raise Refused(f"{quoted(path)} has {dataset.get_num_chunks():,} chunks written, want {wanted:,}")


def describe(path: str, confined: bool) -> dict[str, Any]:
    """Describe a file's weights, or say why not: the answer is JSON, and nothing the file holds raises.

    ``confined`` says that this process has no other work and may give up opening files.
    """
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        return {"setup": f"h5py, which reads HDF5 files, cannot be imported: {error}"}
    try:
        weights = WeightFile(path)
        try:
            if confined:
                forbid_opening()
            tensors: list[dict[str, Any]] = []
            for name, where, dataset in weights.weights():
                if len(tensors) == MAX_NAMES:
                    raise Refused(f"it holds more than {MAX_NAMES:,} tensors, more than any model has")
                tensors.append({"name": name.removesuffix(":0"), "path": where, **weights.tensor(dataset, where)})
            metadata = {}
            for key in ("backend", "keras_version"):
                if weights.h5a.exists(weights.root, key.encode()):
                    metadata[key] = "".join(weights.strings(weights.root, key, 0))
        finally:
            weights.close()
    except Refused as refused:
        return {"error": refused.what, "next_step": refused.next_step}
    except MemoryError:
        return {"error": f"the HDF5 library asked for more than {MEMORY_LIMIT >> 20:,} MB to read the file's structure"}
    except Exception as error:  # h5py raises nearly every class there is on a broken file
        what = f"the HDF5 library cannot read it: {ascii(str(error))[1:-1][:300]}"
        return {"error": what, "next_step": "Fetch it again: it is damaged or was cut short."}
    return {"tensors": tensors, "metadata": metadata}


def serve(path: str, requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer each line ``[path, start, count]`` with ``+`` and that many bytes, or ``-`` and a line of why not."""
    weights = WeightFile(path)
    forbid_opening()
    held: tuple[str, int] | None = None  # the band in memory: its tensor and its first row
    band = memoryview(b"")
    for line in requests:
        try:
            where, start, count = json.loads(line)
            dataset = weights.follow(weights.root, where, "weight")
            known = weights.tensor(dataset, where)  # the checks again: the file may not be the one described
            shape, itemsize = known["shape"], dataset.get_type().get_size()
            chunked = dataset.get_create_plist().get_layout() == weights.h5d.CHUNKED
            rows = dataset.get_create_plist().get_chunk()[0] if chunked else (shape[0] if shape else 1)
            row_bytes = math.prod(shape[1:]) * itemsize
            reply = bytearray()
            while len(reply) < count:
                position = start + len(reply)
                first = position // row_bytes // rows * rows
                if held != (where, first):
                    band, held = _read_band(weights, dataset, first, rows), (where, first)
                piece = band[position - first * row_bytes :][: count - len(reply)]
                if not piece:
                    raise Refused(f"{quoted(where)} ends early")
                reply += piece
        except Exception as error:
            what = error.what if isinstance(error, Refused) else f"the HDF5 library cannot read it: {error}"
            replies.write(b"-" + ascii(what)[1:-1][:600].encode() + b"\n")
        else:
            replies.write(b"+" + reply)
        replies.flush()


def _read_band(weights: WeightFile, dataset: Any, first: int, rows: int) -> memoryview:
    import h5py

    high = h5py.Dataset(dataset)
    values = weights.numpy.asarray(high[first : first + rows] if high.shape else high[()])
    return memoryview(values.reshape(-1).view("u1"))


def main() -> None:
    task, path, search_path = sys.argv[1:4]
    limit_process(DESCRIBE_SECONDS if task == "describe" else None)
    sys.path[:] = json.loads(search_path)
    if task == "describe":
        sys.stdout.write(json.dumps(describe(path, confined=True)))
        sys.stdout.flush()
    else:
        serve(path, sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # the library's own clean-up of a broken file is one more chance to crash


if __name__ == "__main__":
    main()
