"""The object graph of a TF2 checkpoint: what the variables were called in the program that saved them.

``model.save_weights`` without ``.h5`` and ``tf.train.Checkpoint`` name a tensor by the way to its variable
(``layer_with_weights-3/q_dense/kernel/.ATTRIBUTES/VARIABLE_VALUE``), in which layers are numbers. The graph, one string
among the tensors, has each variable's own name beside it (``Transformer-0-MultiHeadSelfAttention/dense/kernel``): the
one that a plain Saver would have written.

Source: tensorflow/core/protobuf/trackable_object_graph.proto; WriteStringTensor in
tensorflow/core/util/tensor_bundle/tensor_bundle.cc of https://github.com/tensorflow/tensorflow.
"""

from __future__ import annotations

import re
from collections import Counter

from ...errors import FETCH_AGAIN, FormatError
from ...tensors.checksums import crc32c
from ...tensors.stored import Extent, OpenFiles
from .leveldb_table import TableCursor, masked
from .messages import BYTES, fields

#: The tensor that is the graph.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
#: How the names of the graph's tensors end.
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
#: What keeps its name, for it says more than the variable's: the state of an optimizer.
_OPTIMIZER = re.compile(r"optimizer[^/]*/|(.*/)?(\.OPTIMIZER_SLOT|_variables)/", re.DOTALL)
#: A limit of ours; that of a model of 24 layers with its optimizer's state takes 1 MB.
_MAX_BYTES = 1 << 23

_GRAPH = {1: BYTES}  # nodes
_NODE = {2: BYTES}  # attributes
_ATTRIBUTE = {2: BYTES, 3: BYTES}  # full_name, checkpoint_key


def variable_names(extent: Extent, checksum: int) -> dict[str, str]:
    """Read tensor's name → variable's name, of those variables whose name is no other's too.

    Args:
        extent: Where the graph lies, a tensor of one string.
        checksum: That of its content.

    Raises:
        FormatError: The graph is damaged or too large.
    """
    path, offset = extent.path, extent.offset
    if extent.nbytes > _MAX_BYTES:
        what = f"the object graph has {extent.nbytes:,} bytes, at most {_MAX_BYTES:,} are read"
        raise FormatError(path, what, offset=offset)
    content = bytearray(extent.nbytes)
    with OpenFiles() as files:
        extent.read_into(files, 0, memoryview(content))
    cursor = TableCursor(path, bytes(content), offset)
    length = cursor.varint()
    # of a length the checksum takes four bytes, and then its own as it was written
    said = cursor.take(4)
    message = cursor.take(length)
    sums = crc32c()
    lengths = sums(length.to_bytes(8, "little")[:4])
    if cursor or said != masked(lengths).to_bytes(4, "little") or sums(message, sums(said, lengths)) != checksum:
        raise FormatError(path, "the object graph's checksum differs", offset=offset, next_step=FETCH_AGAIN)
    names: dict[str, str] = {}
    start = offset + len(content) - length
    for node in fields(path, message, start, _GRAPH, 1):
        for attribute in fields(path, node.body, node.offset, _NODE, 2):
            texts = {each.number: each.body for each in fields(path, attribute.body, attribute.offset, _ATTRIBUTE)}
            key, name = (texts.get(number, b"").decode(errors="replace") for number in (3, 2))
            if name and key.endswith(VALUE) and not _OPTIMIZER.match(key):
                names[key] = name
    times = Counter(names.values())
    return {key: name for key, name in names.items() if times[name] == 1}
