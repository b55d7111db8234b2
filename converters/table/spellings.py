"""What other programs call the table's rows: columns that are read and never written.

Each program's names become a dialect's before anything else looks at them, so that these columns are known here alone.
A name may have anything before it that ends where a part of a name ends: ``model.encoderLayer.0.…``.

bert4keras names Keras layers (``Transformer-0-FeedForward``), and within two kinds of layer Keras numbers the dense
ones, through the whole model: ``dense``, ``dense_1``, …, in the order in which they were built. So it is their order
within a layer that says which is which.

Sources: bert4keras 0.11.5 ``models.BERT`` and ``layers.py``; bert4torch 0.6.2 ``models/base/modeling_base.py`` and
0.2.x ``models.py`` (``layerNorm1``, ``layerNorm2``); transformers 4 ``modeling_utils.py`` for gamma and beta.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from ..errors import printable
from .mapping import HEAD_LINEAR, NORM, PRETRAINING, SEGMENT, VECTOR, WORD, Tensor, outline

_ATTENTION, _FEED_FORWARD = "Transformer-{i}-MultiHeadSelfAttention", "Transformer-{i}-FeedForward"
_BLOCK = "encoderLayer.{i}"
# fmt: off
#: Canonical name of a row → bert4keras' layer, and which of the dense ones in it; bert4torch's modules, newest first.
_COLUMNS: Mapping[str, tuple[str, int | None, tuple[str, ...]]] = {
    "embeddings.word":              ("Embedding-Token",        None, ("embeddings.word_embeddings",)),
    "embeddings.segment":           ("Embedding-Segment",      None, ("embeddings.segment_embeddings",)),
    "embeddings.norm":              ("Embedding-Norm",         None, ("embeddings.layerNorm",)),
    "embeddings.project":           ("Embedding-Mapping",      None, ("embeddings.embedding_hidden_mapping_in",)),
    "layers.{i}.attention.query":   (_ATTENTION,               0,    (f"{_BLOCK}.multiHeadAttention.q",)),
    "layers.{i}.attention.key":     (_ATTENTION,               1,    (f"{_BLOCK}.multiHeadAttention.k",)),
    "layers.{i}.attention.value":   (_ATTENTION,               2,    (f"{_BLOCK}.multiHeadAttention.v",)),
    "layers.{i}.attention.out":     (_ATTENTION,               3,    (f"{_BLOCK}.multiHeadAttention.o",)),
    "layers.{i}.attention_norm":    (f"{_ATTENTION}-Norm",     None, (f"{_BLOCK}.attnLayerNorm", f"{_BLOCK}.layerNorm1")),
    "layers.{i}.feed_forward.up":   (_FEED_FORWARD,            0,    (f"{_BLOCK}.feedForward.intermediateDense",)),
    "layers.{i}.feed_forward.down": (_FEED_FORWARD,            1,    (f"{_BLOCK}.feedForward.outputDense",)),
    "layers.{i}.feed_forward_norm": (f"{_FEED_FORWARD}-Norm",  None, (f"{_BLOCK}.ffnLayerNorm", f"{_BLOCK}.layerNorm2")),
    "pooler":                       ("Pooler-Dense",           None, ("pooler",)),
    "mlm.transform":                ("MLM-Dense",              None, ("mlmDense",)),
    "mlm.norm":                     ("MLM-Norm",               None, ("mlmLayerNorm",)),
    "mlm.bias":                     ("MLM-Bias",               None, ("mlmBias",)),
    "sop":                          ("NSP-Proba",              None, ("nsp",)),
}
# fmt: on
#: A tied tensor's second name in bert4torch, and in torch.
_SECOND = {"mlmDecoder.weight": "cls.predictions.decoder.weight", "mlmDecoder.bias": "cls.predictions.decoder.bias"}
#: BERT's learned positions, which no row has; a BERT is no RoFormer, but one may start from it.
_KERAS_POSITIONS, _POSITIONS = "Embedding-Position/embeddings", "bert/embeddings/position_embeddings"
#: Modules of bert4torch that no other program has: they say that those beside them are bert4torch's, too.
_ENCODER_OF_BERT4TORCH = "encoderLayer."

#: What a TF1 encoder has in its scope, and TF's classes call otherwise.
_OF_A_SCOPE = ("/embeddings/word_embeddings", "/encoder/layer_0/attention/self/query/kernel")

_NUMBER = r"(?:0|[1-9][0-9]{0,3})"
#: A limit of ours: longer names are nobody's, and searching them takes time.
_LONGEST = 500


@dataclass(frozen=True)
class Respelled:
    """A tensor's name in a dialect.

    Attributes:
        name: As the dialect spells it, behind whatever stood before it.
        turned: Whether the matrix lies the other way round than the dialect has it.
    """

    name: str
    turned: bool = False


def respell(names: Iterable[str]) -> tuple[dict[str, Respelled], tuple[str, ...]]:
    """Give names of other programs in a dialect's spelling.

    Args:
        names: All of a file.

    Returns:
        Name → its new one, where it has one; and in a sentence each what was seen.
    """
    names = [name for name in names if len(name) <= _LONGEST]
    found: dict[str, Respelled] = {}
    notes: list[str] = []
    for spelled, note in (
        (_bert4keras(names), "bert4keras' layer names, read as its variables' (tf1)"),
        (_bert4torch(names), "bert4torch's names, read as torch's"),
        (_old_norms(names), "norms' gamma and beta, read as weight and bias"),
        _scoped(names),
    ):
        if spelled:
            found |= spelled
            notes.append(note)
    return found, tuple(notes)


def _scoped(names: Collection[str]) -> tuple[dict[str, Respelled], str]:
    """Respell a TF1 encoder in a scope of somebody's own: ``roformer/``, or ``bert_1/`` where one was built twice."""
    words, query = _OF_A_SCOPE
    there = set(names)
    scopes = [name.removesuffix(words) for name in names if name.endswith(words)]
    scopes = [scope for scope in scopes if f"{scope}{query}" in there]
    if len(scopes) != 1 or scopes[0].rpartition("/")[2] == "bert":
        return {}, ""
    (scope,) = scopes
    above, slash, _ = scope.rpartition("/")
    own = {name: Respelled(f"{above}{slash}bert{name[len(scope) :]}") for name in names if name.startswith(f"{scope}/")}
    return own, f"the scope {printable(scope)}/, read as {above}{slash}bert/ (tf1)"


def _old_norms(names: Iterable[str]) -> dict[str, Respelled]:
    """Respell what torch files called a norm's weight and bias before 2019."""
    leaves = {"gamma": "weight", "beta": "bias"}
    matches = ((name, _old_norm().fullmatch(name)) for name in names if name.endswith((".gamma", ".beta")))
    return {name: Respelled(match[1] + leaves[match[2]]) for name, match in matches if match is not None}


@cache
def _old_norm() -> re.Pattern[str]:
    ends = {name.rsplit(".", 2)[1] for row in _rows(NORM) for name in (row.names.torch, row.names.paddle) if name}
    return re.compile(rf"((?:.*\.)?(?:{'|'.join(sorted(ends))})\.)(gamma|beta)")


def _rows(kind: object) -> list[Tensor]:
    return [tensor for row, tensor in outline(PRETRAINING) if row.kind is kind]


def _bert4torch(names: Collection[str]) -> dict[str, Respelled]:
    """Respell bert4torch's modules, wherever its encoder is."""
    if not any(_ENCODER_OF_BERT4TORCH in name for name in names):
        return {}
    pattern, targets = _bert4torch_names()
    matches = [(name, match) for name in names if (match := pattern.fullmatch(name)) is not None]
    encoders = {match["before"] for _, match in matches if match["module"].startswith(_ENCODER_OF_BERT4TORCH)}
    found: dict[str, Respelled] = {}
    for name, match in matches:
        if match["before"] in encoders:
            outlined = re.sub(rf"(?<=^encoderLayer\.){_NUMBER}", "{i}", match["module"])
            number = match["module"].split(".")[1] if outlined != match["module"] else ""
            found[name] = Respelled(match["before"] + targets[outlined].replace("{i}", number))
    return found


@cache
def _bert4torch_names() -> tuple[re.Pattern[str], dict[str, str]]:
    """Return a pattern of all of bert4torch's names, and each name with ``{i}`` for the layer → torch's."""
    targets = dict(_SECOND)
    for row, tensor in outline(PRETRAINING):
        ending = tensor.canonical.removeprefix(row.canonical)
        for module in _COLUMNS[row.canonical][2]:
            targets[module + ending] = tensor.names.torch or ""
    texts = "|".join(re.escape(name).replace(r"\{i\}", _NUMBER) for name in targets)
    return re.compile(rf"(?P<before>(?:.*\.)?)(?P<module>{texts})"), targets


def _bert4keras(names: Iterable[str]) -> dict[str, Respelled]:
    """Respell bert4keras' layers."""
    names = [name for name in names if "-" in name]  # each of these has one
    if not names:
        return {}
    pattern, targets = _bert4keras_names()
    matches = [(name, match) for name in names if (match := pattern.fullmatch(name)) is not None]
    dense: dict[tuple[str, str], set[int]] = {}
    for _, match in matches:
        if match["dense"] is not None:
            dense.setdefault((match["before"], match["layer"]), set()).add(_number(match["dense"]))
    found: dict[str, Respelled] = {}
    for name, match in matches:
        before, layer, leaf = match["before"], match["layer"], match["leaf"]
        outlined = re.sub(rf"(?<=Transformer-){_NUMBER}", "{i}", layer)
        place: int | None = None
        if match["dense"] is not None:
            inside = sorted(dense[before, layer])
            if len(inside) != sum(at == outlined for at, _, _ in _COLUMNS.values()):
                continue  # another kind of layer, or a part of one: nothing says which is which
            place = inside.index(_number(match["dense"]))
        target = targets.get((outlined, place, leaf))
        if target is not None:
            number = layer.split("-")[1] if outlined != layer else ""
            start = before if before[-1:] in ("", "/") else f"{before}/"
            found[name] = Respelled(start + target.name.replace("{i}", number), target.turned)
    return found


def _number(dense: str) -> int:
    return int(dense.removeprefix("dense").removeprefix("_") or 0)


@cache
def _bert4keras_names() -> tuple[re.Pattern[str], dict[tuple[str, int | None, str], Respelled]]:
    """Return a pattern of bert4keras' names; and layer, which dense one of it, weight → the variable of tf1."""
    layers = dict.fromkeys(layer for layer, _, _ in _COLUMNS.values())
    targets: dict[tuple[str, int | None, str], Respelled] = {}
    for row, tensor in outline(PRETRAINING):
        layer, place, _ = _COLUMNS[row.canonical]
        leaf = tensor.canonical.removeprefix(row.canonical).removeprefix(".")
        spelled = Respelled(tensor.names.tf1 or "", row.kind is HEAD_LINEAR and len(tensor.axes) == 2)
        for name in _keras_leaves(row.kind, leaf):
            targets[layer, place, name] = spelled
    layer, _, leaf = _KERAS_POSITIONS.partition("/")
    targets[layer, None, leaf] = Respelled(_POSITIONS)
    spelled_layers = "|".join(re.escape(each).replace(r"\{i\}", _NUMBER) for each in (*layers, layer))
    # Keras adds a number to a layer's name scope where a graph has it already
    dense = r"(?:(?P<dense>dense(?:_[0-9]{1,6})?)/)?"
    pattern = rf"(?P<before>(?:.*/)?[^/]*?)(?P<layer>{spelled_layers})(?:_[0-9]+)?/{dense}(?P<leaf>\w+)"
    return re.compile(pattern), targets


def _keras_leaves(kind: object, leaf: str) -> tuple[str, ...]:
    """Return what Keras calls one tensor of a layer; a bias alone had two names in the course of time."""
    if kind is VECTOR:
        return ("beta", "bias")
    if kind is NORM:
        return ({"weight": "gamma", "bias": "beta"}[leaf],)
    if kind in (WORD, SEGMENT):
        return ("embeddings",)
    return ({"weight": "kernel", "bias": "bias"}[leaf],)
