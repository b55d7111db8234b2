"""THE table: every tensor of a RoFormer, its spelling in every dialect, its orientation, its symbolic shape.

Everything inside this project speaks canonical names, with kernels as (out, in); a file speaks one of four dialects.
There are no A→B converters: a reader turns a dialect into canonical names, a writer turns canonical names into a
dialect, and both read this one table. The three model implementations use the canonical names as attributes, so the
ecosystems' spellings exist here and nowhere else.

A row names a module; its kind says which tensors the module has (leaves), and which dialects store them the other way
round. Whether a kernel is transposed is declared here and never inferred from shapes: H×H fits either way round.

Rows stand in groups, and a model class (:data:`CLASSES`) is the encoder and its groups: what is the pooler in one class
is the dense layer of the classifier in another, under another name. Names do not identify a class: PaddleNLP calls four
heads alike. Which norms and biases an encoder has are its :class:`Traits`.

Sources: live state dicts of PaddleNLP 2.8.1, JunnYu's roformer 0.4.3, transformers 4.57 and 5 (torch and TF), and
bert4keras 0.11.5 ``models.BERT.variable_mapping``; Google BERT's ``run_classifier.py`` and ``run_squad.py`` for the
heads of TF1. ``tests/test_mapping.py`` holds the rows against files those programs wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Literal, NamedTuple

from .config import RoFormerConfig

Dialect = Literal["paddle", "torch", "tf", "tf1"]
DIALECTS: tuple[Dialect, ...] = ("paddle", "torch", "tf", "tf1")


class Spelling(NamedTuple):
    """One thing's name (or part of a name) in each dialect; None where a dialect has no such thing."""

    paddle: str | None
    torch: str | None
    tf: str | None
    tf1: str | None

    def in_(self, dialect: Dialect) -> str | None:
        return self[DIALECTS.index(dialect)]


#: The single capitals of shapes, and the configuration field each comes from.
SYMBOLS = {
    "V": "vocab_size",
    "E": "embedding_size",
    "S": "type_vocab_size",
    "H": "hidden_size",
    "F": "intermediate_size",
    "C": "num_labels",
}


class Traits(NamedTuple):
    """What decides which tensors an encoder has, beside its number of layers.

    Attributes:
        norms: Whether norms have a weight and a bias; RoFormerV2's have neither.
        biases: Whether the encoder's kernels have biases; RoFormerV2's have none.
    """

    norms: bool = True
    biases: bool = True

    @classmethod
    def of(cls, config: RoFormerConfig) -> Traits:
        return cls(config.norm_type == "layer_norm", config.use_bias)


@dataclass(frozen=True)
class Leaf:
    """One tensor of a module: its canonical name, how much of the row's shape it has, how dialects end its name.

    Attributes:
        axes: 2 for the whole ``(out, in)`` shape of the row, 1 for its first axis alone.
        transposed_in: Dialects whose files hold this leaf as (in, out).
        needs: The trait without which there is no such tensor.
    """

    name: str
    axes: int
    ending: Spelling
    transposed_in: tuple[Dialect, ...] = ()
    needs: Literal["norms", "biases"] | None = None


# fmt: off
#                            axes           paddle     torch      tf             tf1               stored (in, out) by
LINEAR = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/kernel",     "/kernel"),         ("paddle", "tf", "tf1")),
    Leaf("bias",             1, Spelling(".bias",   ".bias",   "/bias",       "/bias")),
)
ENCODER_LINEAR = (
    LINEAR[0],
    Leaf("bias",             1, LINEAR[1].ending, needs="biases"),
)
NORM = (
    Leaf("weight",           1, Spelling(".weight", ".weight", "/gamma",      "/gamma"),          needs="norms"),
    Leaf("bias",             1, Spelling(".bias",   ".bias",   "/beta",       "/beta"),           needs="norms"),
)
# transformers' TF embeddings class names its own weight "weight"; Keras's Embedding layer calls it "embeddings".
WORD = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/weight",     "")),
)
SEGMENT = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/embeddings", "")),
)
# Google BERT stores a head's one matrix (out, in), unlike every kernel beside it, and bert4keras follows (load_variable).
HEAD_LINEAR = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/kernel",     "output_weights"),  ("paddle", "tf")),
    Leaf("bias",             1, Spelling(".bias",   ".bias",   "/bias",       "output_bias")),
)
VECTOR = (
    Leaf("",                 1, Spelling("",        "",        "",            "")),
)
# fmt: on


@dataclass(frozen=True)
class Row:
    """One module: canonical name, kind, symbolic shape (out first), and its name in each dialect inside its group.

    ``bert`` is BERT's own spelling: torch as it stands, TF and TF1 with ``/`` for ``.`` unless ``tf1`` overrules.
    Dialects that have no such module are listed in ``absent_in``.
    """

    canonical: str
    kind: tuple[Leaf, ...]
    shape: tuple[str, ...]
    paddle: str
    bert: str
    tf1: str | None = None
    absent_in: tuple[Dialect, ...] = ()

    @property
    def spelling(self) -> Spelling:
        slashed = self.bert.replace(".", "/")
        names = Spelling(self.paddle, self.bert, slashed, slashed if self.tf1 is None else self.tf1)
        return Spelling(*(None if d in self.absent_in else n for d, n in zip(DIALECTS, names, strict=True)))


@dataclass(frozen=True)
class Duplicate:
    """A second spelling under which some files hold a tensor again: read to be compared bit by bit, never converted.

    Attributes:
        of: Canonical name of the tensor.
        spelling: The duplicate's name in each dialect that has one.
        written: How a writer treats it: ``"alias"`` where the container can name one payload twice at no cost,
            ``"copy"`` where it is worth its bytes.
        reason: Who reads it.
    """

    of: str
    spelling: Spelling
    written: Literal["alias", "copy"]
    reason: str


@dataclass(frozen=True, eq=False)  # a group is itself; what is written out of it is looked up by it
class Group:
    """Rows that come and go together, under one prefix a dialect.

    Attributes:
        name: What to call the group in messages.
        prefix: What its rows' names begin with; ``{encoder}`` stands for what the encoder is called.
        optional: None where every model of the class has it; otherwise the words that say when it is there.
        ties: Second names of tensors that come with the group.
    """

    name: str
    prefix: Spelling
    rows: tuple[Row, ...]
    optional: str | None = None
    ties: tuple[Duplicate, ...] = ()


_ENCODER = Spelling("{encoder}.", "{encoder}.", "{encoder}/", "{encoder}/")
_THERE = "the file has one"

# fmt: off
EMBEDDINGS = Group("embeddings", _ENCODER, (
    #   canonical                       kind     shape       paddle                              bert
    Row("embeddings.word",              WORD,    ("V", "E"), "embeddings.word_embeddings",       "embeddings.word_embeddings"),
    Row("embeddings.segment",           SEGMENT, ("S", "E"), "embeddings.token_type_embeddings", "embeddings.token_type_embeddings"),
    Row("embeddings.norm",              NORM,    ("E",),     "embeddings.layer_norm",            "embeddings.LayerNorm"),
))
PROJECT = Group("embeddings_project", _ENCODER, (
    # ALBERT's name, which bert4keras took over
    Row("embeddings.project",           LINEAR,  ("H", "E"), "embeddings_project",               "embeddings_project", tf1="encoder/embedding_hidden_mapping_in"),
), optional="embedding_size differs from hidden_size")
LAYER = Group("encoder layers", Spelling("{encoder}.encoder.layers.{i}.", "{encoder}.encoder.layer.{i}.", "{encoder}/encoder/layer_._{i}/", "{encoder}/encoder/layer_{i}/"), (
    Row("layers.{i}.attention.query",   ENCODER_LINEAR, ("H", "H"), "self_attn.q_proj",          "attention.self.query"),
    Row("layers.{i}.attention.key",     ENCODER_LINEAR, ("H", "H"), "self_attn.k_proj",          "attention.self.key"),
    Row("layers.{i}.attention.value",   ENCODER_LINEAR, ("H", "H"), "self_attn.v_proj",          "attention.self.value"),
    Row("layers.{i}.attention.out",     ENCODER_LINEAR, ("H", "H"), "self_attn.out_proj",        "attention.output.dense"),
    Row("layers.{i}.attention_norm",    NORM,    ("H",),     "norm1",                            "attention.output.LayerNorm"),
    Row("layers.{i}.feed_forward.up",   ENCODER_LINEAR, ("F", "H"), "linear1",                   "intermediate.dense"),
    Row("layers.{i}.feed_forward.down", ENCODER_LINEAR, ("H", "F"), "linear2",                   "output.dense"),
    Row("layers.{i}.feed_forward_norm", NORM,    ("H",),     "norm2",                            "output.LayerNorm"),
))
#: What every class is made of.
ENCODER: tuple[Group, ...] = (EMBEDDINGS, PROJECT, LAYER)

POOLER = Group("pooler", _ENCODER, (
    Row("pooler",                       LINEAR,  ("H", "H"), "pooler.dense",                     "pooler.dense"),
), optional=_THERE)
MLM = Group("masked-LM head", Spelling("cls.predictions.", "cls.predictions.", "mlm___cls/predictions/", "cls/predictions/"), (
    Row("mlm.transform",                LINEAR,  ("E", "H"), "transform",                        "transform.dense"),
    Row("mlm.norm",                     NORM,    ("E",),     "layer_norm",                       "transform.LayerNorm"),
    Row("mlm.bias",                     VECTOR,  ("V",),     "decoder_bias",                     "bias", tf1="output_bias"),
), ties=(
    Duplicate("embeddings.word.weight", Spelling("cls.predictions.decoder_weight", "cls.predictions.decoder.weight", None, None), "alias",
              "the masked-LM decoder is the word embedding; PaddleNLP and torch .bin files name it a second time"),
    Duplicate("mlm.bias",               Spelling(None, "cls.predictions.decoder.bias", None, None), "copy",
              "transformers ties it to cls.predictions.bias, and PaddleNLP 2.8.1 imports only this spelling"),
))
# RoFormerV2 scores words by the embedding alone: its head has no tensor of its own, but for a bias in
# PaddleNLP with use_bias
TIED_MLM = Group("masked-LM head", Spelling("cls.", "cls.", "mlm___cls/", "cls/"), (
    Row("mlm.bias",                     (Leaf("", 1, VECTOR[0].ending, needs="biases"),), ("V",), "decoder_bias", "predictions.bias", tf1="predictions/output_bias"),
), optional=_THERE, ties=(
    Duplicate("embeddings.word.weight", Spelling("cls.decoder_weight", "cls.predictions.decoder.weight", None, None), "alias",
              "the decoder is the word embedding; PaddleNLP and torch .bin files name it a second time"),
))
# TF: transformers names a head's Keras layer <task>___cls (its BERT has nsp___cls); no RoFormer file that holds one was seen.
SOP = Group("sentence-order head", Spelling("cls.", "cls.", "nsp___cls/", "cls/"), (
    Row("sop",                          HEAD_LINEAR, ("2", "H"), "seq_relationship",             "seq_relationship", tf1="seq_relationship/"),
), optional=_THERE)
_HEAD = Spelling("", "", "", "")
SEQUENCE_POOLER = Group("classifier's dense layer", Spelling("{encoder}.", "classifier.", "classifier/", "{encoder}/"), (
    Row("pooler",                       LINEAR,  ("H", "H"), "pooler.dense",                     "dense", tf1="pooler/dense"),
))
SEQUENCE_LABELS = Group("sequence classifier", _HEAD, (
    Row("classifier",                   HEAD_LINEAR, ("C", "H"), "classifier",                   "classifier.out_proj", tf1=""),
))
TOKEN_LABELS = Group("token classifier", _HEAD, (
    Row("classifier",                   HEAD_LINEAR, ("C", "H"), "classifier",                   "classifier", absent_in=("tf1",)),
))
ANSWER = Group("question-answering head", _HEAD, (
    Row("classifier",                   HEAD_LINEAR, ("2", "H"), "classifier",                   "qa_outputs", tf1="cls/squad/"),
))
SUMMARY = Group("summary projection", Spelling("{encoder}.", "sequence_summary.", "sequence_summary/", ""), (
    Row("pooler",                       LINEAR,  ("H", "H"), "pooler.dense",                     "summary", absent_in=("tf1",)),
), optional=_THERE)
CHOICE = Group("multiple-choice head", _HEAD, (
    Row("classifier",                   HEAD_LINEAR, ("1", "H"), "classifier",                   "classifier", absent_in=("tf1",)),
))
# fmt: on


@dataclass(frozen=True, eq=False)
class ModelClass:
    """A class of models: the encoder and what stands on it.

    Attributes:
        name: As ``--class`` takes it.
        suffix: What follows the family's name in every software's class: ``RoFormer`` + ``ForMaskedLM``.
        heads: Groups beside the encoder's.
        heads_v2: The same in RoFormerV2.
        does: What it is for, in words.
    """

    name: str
    suffix: str
    heads: tuple[Group, ...] = field(repr=False)
    heads_v2: tuple[Group, ...] = field(repr=False)
    does: str

    @property
    def class_name(self) -> str:
        """The class of this project's models."""
        return f"RoFormer{self.suffix}"

    def groups(self, traits: Traits) -> tuple[Group, ...]:
        """Return the groups beside the encoder's."""
        return self.heads if traits.norms else self.heads_v2

    @property
    def scores_words(self) -> bool:
        """Whether it has a masked-LM head."""
        return MLM in self.heads

    @property
    def stated(self) -> bool:
        """Whether its head's names are some other class's too, so that a file must say what it is."""
        return any(row.canonical == "classifier" for group in self.heads for row in group.rows)


def _optional(group: Group) -> Group:
    return Group(group.name, group.prefix, group.rows, _THERE, group.ties)


# fmt: off
_SEQUENCE_POOLER_V2 = _optional(SEQUENCE_POOLER)  # PaddleNLP's RoFormerV2 classifies the first token as it is
#: Class by name, in the order in which they are told.
CLASSES: Mapping[str, ModelClass] = {each.name: each for each in (
    ModelClass("base",                    "Model",                     (POOLER, SOP),          (POOLER, SOP),          "hidden states and, with a pooler, a vector of each text"),
    ModelClass("masked-lm",               "ForMaskedLM",               (POOLER, MLM),          (POOLER, TIED_MLM),     "words at [MASK]"),
    ModelClass("pretraining",             "ForPretraining",            (POOLER, MLM, SOP),     (POOLER, TIED_MLM, SOP), "words at [MASK] and the order of two sentences"),
    ModelClass("causal-lm",               "ForCausalLM",               (POOLER, MLM),          (POOLER, TIED_MLM),     "the next words"),
    ModelClass("sequence-classification", "ForSequenceClassification", (SEQUENCE_POOLER, SEQUENCE_LABELS), (_SEQUENCE_POOLER_V2, SEQUENCE_LABELS), "a label for each text"),
    ModelClass("token-classification",    "ForTokenClassification",    (POOLER, TOKEN_LABELS), (POOLER, TOKEN_LABELS), "a label for each token"),
    ModelClass("question-answering",      "ForQuestionAnswering",      (POOLER, ANSWER),       (POOLER, ANSWER),       "where an answer starts and ends"),
    ModelClass("multiple-choice",         "ForMultipleChoice",         (SUMMARY, CHOICE),      (SUMMARY, CHOICE),      "which of several texts"),
)}
# fmt: on
BASE, MASKED_LM, PRETRAINING, CAUSAL_LM = (CLASSES[n] for n in ("base", "masked-lm", "pretraining", "causal-lm"))


def unread(dialect: Dialect, kind: ModelClass, traits: Traits) -> tuple[Group, ...]:
    """Return the groups that a dialect's own class does not know; files keep them under BERT's names, and reports say so."""
    if dialect == "tf1":
        return ()
    if dialect == "paddle":  # PaddleNLP has no RoFormerForPretraining, and no pooler in RoFormerV2
        return (SOP,) if traits.norms else (SOP, POOLER)
    junnyu_pools = dialect == "torch" and not traits.norms and kind is CAUSAL_LM
    return (SOP,) if junnyu_pools else (SOP, POOLER)  # transformers' RoFormerModel has no pooler


@dataclass(frozen=True)
class Tensor:
    """One row and leaf written out for one layer: what a file must or may hold.

    Attributes:
        canonical: E.g. ``layers.0.attention.query.weight``.
        axes: Symbolic shape, out first: ``("H", "H")``.
        names: Spelling in each dialect, in a model with heads; None where it has none.
        transposed_in: Dialects whose files hold it (in, out).
        group: Where it stands in the table.
        needs: The trait that it is there by.
        optional: Whether a file of its class may lack it though it has the rest of its group.
    """

    canonical: str
    axes: tuple[str, ...]
    names: Spelling
    transposed_in: tuple[Dialect, ...]
    group: Group
    needs: Literal["norms", "biases"] | None = None
    optional: bool = False

    def name(self, dialect: Dialect, *, base: bool = False) -> str | None:
        """Spell the tensor in ``dialect``, or None where it has no such thing; ``base`` for a bare base model's file."""
        name = self.names.in_(dialect)
        return unprefixed(dialect, name) if base and name is not None else name

    def in_layer(self, layer: int) -> Tensor:
        """Return the tensor of one layer, where ``{i}`` stands for it."""
        number = str(layer)
        return Tensor(
            self.canonical.replace("{i}", number),
            self.axes,
            Spelling(*(name and name.replace("{i}", number) for name in self.names)),
            self.transposed_in,
            self.group,
            self.needs,
            self.optional,
        )

    def transposed(self, dialect: Dialect) -> bool:
        """Say whether ``dialect`` stores this kernel (in, out)."""
        return dialect in self.transposed_in

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Canonical shape for ``sizes`` (symbol → size)."""
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes)


#: What the encoder is called; PaddleNLP has a name of its own for RoFormerV2.
_ENCODER_NAME = Spelling("roformer", "roformer", "roformer", "bert")
_ENCODER_NAME_V2 = Spelling("roformerv2", "roformer", "roformer", "bert")


def unprefixed(dialect: Dialect, name: str) -> str:
    """Drop ``roformer.``, as transformers and PaddleNLP do in a base model's state dict. TF and TF1 files keep it."""
    return name.removeprefix("roformer.").removeprefix("roformerv2.") if dialect in ("paddle", "torch") else name


@cache
def _tensors_of(group: Group, traits: Traits) -> tuple[tuple[Row, Tensor], ...]:
    """Write a group out, each tensor with its row; those of all layers are one, with ``{i}`` for the layer."""
    encoder = _ENCODER_NAME if traits.norms else _ENCODER_NAME_V2
    tensors = []
    for row in group.rows:
        for leaf in row.kind:
            if leaf.needs is not None and not getattr(traits, leaf.needs):
                continue
            canonical = row.canonical + (f".{leaf.name}" if leaf.name else "")
            parts = zip(encoder, group.prefix, row.spelling, leaf.ending, strict=True)
            tensor = Tensor(
                canonical=canonical,
                axes=row.shape[: leaf.axes],
                names=Spelling(*(_joined(*each) for each in parts)),
                transposed_in=leaf.transposed_in,
                group=group,
                needs=leaf.needs,
                # PaddleNLP's RoFormerV2 has heads without a bias, JunnYu's with one
                optional=not traits.norms and canonical == "classifier.bias",
            )
            tensors.append((row, tensor))
    return tuple(tensors)


def _joined(encoder: str | None, *parts: str | None) -> str | None:
    if encoder is None or None in parts:
        return None
    return "".join(part or "" for part in parts).replace("{encoder}", encoder)


@lru_cache(maxsize=16)  # a file that is looked at makes dozens of tables with as many layers as it shows
def _layers_of(group: Group, layers: int, traits: Traits) -> tuple[Tensor, ...]:
    """Write a group out for each of a number of layers."""
    once = _tensors_of(group, traits)
    return tuple(tensor.in_layer(layer) for layer in range(layers) for _, tensor in once)


#: The rotary table, which transformers keeps among the weights: a function of the configuration, so checked where a file
#: has it and computed where one is written, never copied. (P, D) is ``max_position_embeddings`` and the head size.
POSITIONS = Tensor(
    canonical="embed_positions",
    axes=("P", "D"),
    names=Spelling(
        None, "roformer.encoder.embed_positions.weight", "roformer/encoder/embed_positions/embeddings", None
    ),
    transposed_in=(),
    group=Group("rotary table", _ENCODER, ()),
)

_WITH_ALL = Traits()


def outline(kind: ModelClass, traits: Traits = _WITH_ALL) -> Iterator[tuple[Row, Tensor]]:
    """Yield every tensor of a class with its row, those of all layers once: ``{i}`` is the layer in their names."""
    for group in (*ENCODER, *kind.groups(traits)):
        yield from _tensors_of(group, traits)


@dataclass(frozen=True)
class Table:
    """The rows of a class written out for a number of layers.

    Attributes:
        layers: L.
        kind: The class.
        traits: Which norms and biases there are.
    """

    layers: int
    kind: ModelClass
    traits: Traits = _WITH_ALL

    @classmethod
    def of(cls, config: RoFormerConfig, kind: ModelClass) -> Table:
        """Return the table of a model of this configuration."""
        return cls(config.num_hidden_layers, kind, Traits.of(config))

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors in the table's order, layers in theirs."""
        out: list[Tensor] = []
        for group in self.groups:
            if group is LAYER:
                out.extend(_layers_of(group, self.layers, self.traits))
            else:
                out.extend(tensor for _, tensor in _tensors_of(group, self.traits))
        return tuple(out)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The encoder's groups and the class's."""
        return (*ENCODER, *self.kind.groups(self.traits))

    @cached_property
    def by_canonical(self) -> dict[str, Tensor]:
        return {tensor.canonical: tensor for tensor in self.tensors}

    def by_name(self, dialect: Dialect, *, base: bool) -> dict[str, Tensor]:
        """Return every tensor that ``dialect`` has under its spelling there."""
        named = ((tensor.name(dialect, base=base), tensor) for tensor in self.tensors)
        return {name: tensor for name, tensor in named if name is not None}

    @property
    def ties(self) -> tuple[Duplicate, ...]:
        """Second names under which a file of this class may hold a tensor again."""
        return tuple(tie for group in self.kind.groups(self.traits) for tie in group.ties)
