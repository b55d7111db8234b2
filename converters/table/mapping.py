"""THE table: every tensor of a RoFormer, its spelling in every dialect, its orientation, its symbolic shape.

Everything inside this project speaks canonical names, with kernels as (out, in); a file speaks one of four dialects.
There are no A→B converters: a reader turns a dialect into canonical names, a writer turns canonical names into a
dialect, and both read this one table. The three model implementations use the canonical names as attributes, so the
ecosystems' spellings exist here and nowhere else.

A row names a module; its kind says which tensors the module has (leaves), and which dialects store them the other way
round. Whether a kernel is transposed is declared here and never inferred from shapes: H×H fits either way round.

Sources: live state dicts of PaddleNLP 2.8.1 and transformers 4.57 and 5 (torch and TF), and bert4keras 0.11.5
``models.BERT.variable_mapping``; ``tests/test_mapping.py`` holds the rows against files those programs wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

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
}


@dataclass(frozen=True)
class Leaf:
    """One tensor of a module: its canonical name, how much of the row's shape it has, how dialects end its name.

    Attributes:
        axes: 2 for the whole ``(out, in)`` shape of the row, 1 for its first axis alone.
        transposed_in: Dialects whose files hold this leaf as (in, out).
    """

    name: str
    axes: int
    ending: Spelling
    transposed_in: tuple[Dialect, ...] = ()


# fmt: off
#                            axes           paddle     torch      tf             tf1               stored (in, out) by
LINEAR = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/kernel",     "/kernel"),         ("paddle", "tf", "tf1")),
    Leaf("bias",             1, Spelling(".bias",   ".bias",   "/bias",       "/bias")),
)
NORM = (
    Leaf("weight",           1, Spelling(".weight", ".weight", "/gamma",      "/gamma")),
    Leaf("bias",             1, Spelling(".bias",   ".bias",   "/beta",       "/beta")),
)
# transformers' TF embeddings class names its own weight "weight"; Keras's Embedding layer calls it "embeddings".
WORD = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/weight",     "")),
)
SEGMENT = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/embeddings", "")),
)
# Google BERT stores this one matrix (out, in), unlike every kernel beside it, and bert4keras follows (load_variable).
PAIR_LINEAR = (
    Leaf("weight",           2, Spelling(".weight", ".weight", "/kernel",     "/output_weights"), ("paddle", "tf")),
    Leaf("bias",             1, Spelling(".bias",   ".bias",   "/bias",       "/output_bias")),
)
VECTOR = (
    Leaf("",                 1, Spelling("",        "",        "",            "")),
)
# fmt: on


@dataclass(frozen=True)
class Row:
    """One module: canonical name, kind, symbolic shape (out first), and its name in each dialect inside its group.

    ``bert`` is BERT's own spelling: torch as it stands, TF and TF1 with ``/`` for ``.`` unless ``tf1`` overrules.
    """

    canonical: str
    kind: tuple[Leaf, ...]
    shape: tuple[str, ...]
    paddle: str
    bert: str
    tf1: str | None = None

    @property
    def spelling(self) -> Spelling:
        slashed = self.bert.replace(".", "/")
        return Spelling(self.paddle, self.bert, slashed, slashed if self.tf1 is None else self.tf1)


@dataclass(frozen=True)
class Group:
    """Rows that come and go together, under one prefix a dialect.

    Attributes:
        name: What to call the group in messages.
        optional: False where every RoFormer has it; otherwise the words that say when it is there.
        in_base: Whether the prefix's first component (``roformer.``) is left out in a bare base model's file, as
            transformers and PaddleNLP do for ``RoFormerModel``.
    """

    name: str
    prefix: Spelling
    rows: tuple[Row, ...]
    optional: str | None = None
    in_base: bool = False


# fmt: off
EMBEDDINGS = Group("embeddings", Spelling("roformer.", "roformer.", "roformer/", "bert/"), (
    #   canonical                       kind     shape       paddle                              bert
    Row("embeddings.word",              WORD,    ("V", "E"), "embeddings.word_embeddings",       "embeddings.word_embeddings"),
    Row("embeddings.segment",           SEGMENT, ("S", "E"), "embeddings.token_type_embeddings", "embeddings.token_type_embeddings"),
    Row("embeddings.norm",              NORM,    ("E",),     "embeddings.layer_norm",            "embeddings.LayerNorm"),
), in_base=True)
PROJECT = Group("embeddings_project", EMBEDDINGS.prefix, (
    # ALBERT's name, which bert4keras took over
    Row("embeddings.project",           LINEAR,  ("H", "E"), "embeddings_project",               "embeddings_project", tf1="encoder/embedding_hidden_mapping_in"),
), optional="embedding_size differs from hidden_size", in_base=True)
LAYER = Group("encoder layers", Spelling("roformer.encoder.layers.{i}.", "roformer.encoder.layer.{i}.", "roformer/encoder/layer_._{i}/", "bert/encoder/layer_{i}/"), (
    Row("layers.{i}.attention.query",   LINEAR,  ("H", "H"), "self_attn.q_proj",                 "attention.self.query"),
    Row("layers.{i}.attention.key",     LINEAR,  ("H", "H"), "self_attn.k_proj",                 "attention.self.key"),
    Row("layers.{i}.attention.value",   LINEAR,  ("H", "H"), "self_attn.v_proj",                 "attention.self.value"),
    Row("layers.{i}.attention.out",     LINEAR,  ("H", "H"), "self_attn.out_proj",               "attention.output.dense"),
    Row("layers.{i}.attention_norm",    NORM,    ("H",),     "norm1",                            "attention.output.LayerNorm"),
    Row("layers.{i}.feed_forward.up",   LINEAR,  ("F", "H"), "linear1",                          "intermediate.dense"),
    Row("layers.{i}.feed_forward.down", LINEAR,  ("H", "F"), "linear2",                          "output.dense"),
    Row("layers.{i}.feed_forward_norm", NORM,    ("H",),     "norm2",                            "output.LayerNorm"),
), in_base=True)
POOLER = Group("pooler", EMBEDDINGS.prefix, (
    Row("pooler",                       LINEAR,  ("H", "H"), "pooler.dense",                     "pooler.dense"),
), optional="the file has one", in_base=True)
MLM = Group("masked-LM head", Spelling("cls.predictions.", "cls.predictions.", "mlm___cls/predictions/", "cls/predictions/"), (
    Row("mlm.transform",                LINEAR,  ("E", "H"), "transform",                        "transform.dense"),
    Row("mlm.norm",                     NORM,    ("E",),     "layer_norm",                       "transform.LayerNorm"),
    Row("mlm.bias",                     VECTOR,  ("V",),     "decoder_bias",                     "bias", tf1="output_bias"),
), optional="the file has one")
# TF: transformers names a head's Keras layer <task>___cls (its BERT has nsp___cls); no RoFormer file that holds one was seen.
SOP = Group("sentence-order head", Spelling("cls.", "cls.", "nsp___cls/", "cls/"), (
    Row("sop",                          PAIR_LINEAR, ("2", "H"), "seq_relationship",             "seq_relationship"),
), optional="the file has one")
# fmt: on

GROUPS: tuple[Group, ...] = (EMBEDDINGS, PROJECT, LAYER, POOLER, MLM, SOP)


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


TIED: tuple[Duplicate, ...] = (
    Duplicate(
        "embeddings.word.weight",
        Spelling("cls.predictions.decoder_weight", "cls.predictions.decoder.weight", None, None),
        "alias",
        "the masked-LM decoder is the word embedding; PaddleNLP and torch .bin files name it a second time",
    ),
    Duplicate(
        "mlm.bias",
        Spelling(None, "cls.predictions.decoder.bias", None, None),
        "copy",
        "transformers ties it to cls.predictions.bias, and PaddleNLP 2.8.1 imports only this spelling",
    ),
)

#: Rotary tables that some files carry: a function of the configuration, so recomputed and checked, never copied. In a
#: file they fix the sequence length (transformers 4.57 and 5), and a float16 file rounds them.
DERIVED = Spelling(None, "roformer.encoder.embed_positions.weight", "roformer/encoder/embed_positions/embeddings", None)

#: What is in a training checkpoint beside the model, by exact pattern. Everything else unknown is an error.
IGNORED: Mapping[Dialect, tuple[re.Pattern[str], ...]] = {
    "paddle": (),
    "torch": (re.compile(r"(roformer\.)?embeddings\.position_ids"),),  # arange(0, positions), a buffer of old releases
    "tf": (),
    "tf1": (
        re.compile(r"global_step|_CHECKPOINTABLE_OBJECT_GRAPH|save_counter/\.ATTRIBUTES/VARIABLE_VALUE"),
        re.compile(r"(bert|cls)/.+/(adam_m|adam_v|lamb_m|lamb_v|Adam|Adam_1|AdamWeightDecayOptimizer(_1)?)"),
        re.compile(r"(beta1_power|beta2_power|loss_scale|good_steps)"),
    ),
}

#: Groups that a dialect's own loaders do not know. They are kept in the file under BERT's names, and reported.
UNREAD: Mapping[Dialect, tuple[Group, ...]] = {
    "paddle": (SOP,),  # PaddleNLP has no RoFormerForPretraining
    "torch": (POOLER, SOP),  # transformers' RoFormerModel has no pooler
    "tf": (POOLER, SOP),
    "tf1": (),
}

#: What an unknown tensor looks like, for the message: the first pattern found in its name decides.
LOOKS_LIKE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"qa_outputs"), "a question-answering head"),
    (re.compile(r"classifier\.(dense|out_proj)"), "a sequence-classification head of transformers"),
    (re.compile(r"classifier"), "a fine-tuned classification head (token, sequence or multiple choice)"),
    (re.compile(r"sequence_summary|summary\."), "a multiple-choice head"),
    (re.compile(r"position_embeddings"), "BERT's learned positions: not a RoFormer, whose positions are rotary"),
    (re.compile(r"crossattention|encoder_attn"), "a decoder's cross-attention"),
    (re.compile(r"(moment[12]|beta[12]_pow_acc|exp_avg|optimizer|lr_scheduler|master_weights)"), "optimizer state"),
    (re.compile(r"discriminator"), "an ELECTRA discriminator head"),
    (re.compile(r"^(model|module|state_dict|net)\."), "a training wrapper's own nesting around the state dict"),
)


@dataclass(frozen=True)
class Tensor:
    """One row and leaf written out for one layer: what a file must or may hold.

    Attributes:
        canonical: E.g. ``layers.0.attention.query.weight``.
        axes: Symbolic shape, out first: ``("H", "H")``.
        names: Spelling in each dialect, in a model with heads.
        base_names: Spelling in a bare base model's file.
        transposed_in: Dialects whose files hold it (in, out).
        group: Where it stands in the table.
    """

    canonical: str
    axes: tuple[str, ...]
    names: Spelling
    base_names: Spelling
    transposed_in: tuple[Dialect, ...]
    group: Group

    def name(self, dialect: Dialect, *, base: bool = False) -> str:
        """Spell the tensor in ``dialect``; ``base`` for a file of the bare base model."""
        name = (self.base_names if base else self.names).in_(dialect)
        assert name is not None, f"{self.canonical} has no spelling in {dialect}"
        return name

    def transposed(self, dialect: Dialect) -> bool:
        """Say whether ``dialect`` stores this kernel (in, out)."""
        return dialect in self.transposed_in

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Canonical shape for ``sizes`` (symbol → size)."""
        return tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in self.axes)


def _unprefixed(dialect: Dialect, name: str) -> str:
    """Drop ``roformer.``, as transformers and PaddleNLP do in a base model's state dict. TF and TF1 files keep it."""
    return name.removeprefix("roformer.") if dialect in ("paddle", "torch") else name


def _tensors_of(group: Group, layer: int | None) -> Iterator[Tensor]:
    def number(text: str) -> str:
        return text if layer is None else text.replace("{i}", str(layer))

    for row in group.rows:
        for leaf in row.kind:
            parts = zip(group.prefix, row.spelling, leaf.ending, strict=True)
            names = Spelling(*(number("".join(part or "" for part in three)) for three in parts))
            base = Spelling(*(_unprefixed(dialect, name or "") for dialect, name in zip(DIALECTS, names, strict=True)))
            yield Tensor(
                canonical=number(row.canonical) + (f".{leaf.name}" if leaf.name else ""),
                axes=row.shape[: leaf.axes],
                names=names,
                base_names=base if group.in_base else names,
                transposed_in=leaf.transposed_in,
                group=group,
            )


@dataclass(frozen=True)
class Table:
    """The rows written out for a number of layers.

    Attributes:
        tensors: All tensors in the table's order, layers in theirs.
    """

    layers: int

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        out: list[Tensor] = []
        for group in GROUPS:
            if group is LAYER:
                for layer in range(self.layers):
                    out.extend(_tensors_of(group, layer))
            else:
                out.extend(_tensors_of(group, None))
        return tuple(out)

    @cached_property
    def by_canonical(self) -> dict[str, Tensor]:
        return {tensor.canonical: tensor for tensor in self.tensors}

    def by_name(self, dialect: Dialect, *, base: bool) -> dict[str, Tensor]:
        """Return every tensor under its spelling in ``dialect``."""
        return {tensor.name(dialect, base=base): tensor for tensor in self.tensors}


_LAYER_NUMBER = {
    dialect: re.compile(
        r"(?:roformer\.)?"
        + re.escape(_unprefixed(dialect, LAYER.prefix.in_(dialect) or "")).replace(r"\{i\}", "(0|[1-9][0-9]{0,3})")
    )
    for dialect in DIALECTS
}


def count_layers(dialect: Dialect, names: Iterator[str] | list[str]) -> int:
    """One more than the highest layer number that ``names`` mention in ``dialect`` (at most 10,000)."""
    found = (match for match in map(_LAYER_NUMBER[dialect].match, names) if match is not None)
    return 1 + max((int(match.group(1)) for match in found), default=-1)


def count_known_names(dialect: Dialect, names: Collection[str]) -> int:
    """Count the names that are a row's in ``dialect``."""
    table = Table(count_layers(dialect, list(names)))
    return max(len(set(names) & table.by_name(dialect, base=base).keys()) for base in (False, True))


def detect_dialect(dialects: Sequence[Dialect], names: Collection[str]) -> Dialect:
    """Choose the dialect in which most of the names are known, the first of ``dialects`` on a tie."""
    if len(dialects) == 1:
        return dialects[0]
    return max(dialects, key=lambda dialect: count_known_names(dialect, names))


def looks_like(name: str) -> str:
    """Say in words what an unknown tensor's name reminds of, or an empty string."""
    return next((words for pattern, words in LOOKS_LIKE if pattern.search(name)), "")
