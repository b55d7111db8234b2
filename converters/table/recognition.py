"""From the names in a file to whose they are, how many layers there are, which norms and biases, and which class.

The table itself is in :mod:`.mapping`; here it is asked backwards, of names that may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from .mapping import (
    BASE,
    CAUSAL_LM,
    CLASSES,
    DIALECTS,
    ENCODER,
    LAYER,
    MASKED_LM,
    POOLER,
    POSITIONS,
    PRETRAINING,
    Dialect,
    ModelClass,
    Table,
    Tensor,
    Traits,
    outline,
    unprefixed,
)

#: What is in a training checkpoint beside the model, by exact pattern. Everything else unknown is an error.
IGNORED: Mapping[Dialect, tuple[re.Pattern[str], ...]] = {
    "paddle": (),
    "torch": (re.compile(r"(roformer\.)?embeddings\.position_ids"),),  # arange(0, positions), a buffer of old releases
    "tf": (re.compile(r"_CHECKPOINTABLE_OBJECT_GRAPH"),),
    "tf1": (
        re.compile(r"global_step|_CHECKPOINTABLE_OBJECT_GRAPH|save_counter/\.ATTRIBUTES/VARIABLE_VALUE"),
        re.compile(
            r"((bert|cls)/.+|output_weights|output_bias)"
            r"/(adam_m|adam_v|lamb_m|lamb_v|Adam|Adam_1|AdamWeightDecayOptimizer(_1)?)"
        ),
        re.compile(r"(beta1_power|beta2_power|(current_)?loss_scale|good_steps|bad_steps)"),
    ),
}

#: State that TensorFlow's and Keras' optimizers keep beside the variables, whatever these are called: what is under a
#: name of its own, and the slots, whose names are a variable's with one of these words behind it.
TRAINING_STATE = re.compile(
    r"(training(_\d+)?|optimizers?|(?i:adam|lamb|nadam|rmsprop)\w*|SGD|AdaBelief)/.+"
    r"|(.+/)?(\.OPTIMIZER_SLOT|_variables|keras_api)/.+|save_counter/.+",
    re.DOTALL,
)
SLOT = re.compile(
    r"(.+)/(adam_m|adam_v|lamb_m|lamb_v|m|v|vhat|Momentum|ExponentialMovingAverage|"
    r"(Adam|AdamW|RMSProp|LAMB|AdamWeightDecayOptimizer|LAMBOptimizer)(_\d+)?)",
    re.DOTALL,
)

JOINED = "query, key and value in one tensor"
FACTORED = (
    "part of a weight that torch computes from several: "
    "merge them with remove_weight_norm, prune.remove or remove_parametrizations"
)
#: What an unknown tensor looks like, for the message: the first pattern found in its name decides.
LOOKS_LIKE: tuple[tuple[str, str], ...] = (
    (r"(^|[._/])(W?qkv|qkv_proj|query_key_value|in_proj|in_proj_(weight|bias))([._/]|$)", JOINED),
    (r"\.(weight_(g|v|orig|mask)|parametrizations\..*)$", FACTORED),
    (r"qa_outputs", "a question-answering head"),
    (r"classifier\.(dense|out_proj)", "a sequence-classification head of transformers"),
    (r"classifier|output_weights|output_bias", "a fine-tuned head (token, sequence or multiple choice)"),
    (r"sequence_summary|summary\.", "a multiple-choice head"),
    (r"seq_relationship", "a sentence-order or next-sentence head"),
    (r"^cls[./]", "a masked-LM head"),
    (r"position_embeddings", "BERT's learned positions: not a RoFormer, whose positions are rotary"),
    (r"crossattention|encoder_attn", "a decoder's cross-attention"),
    (r"(moment[12]|beta[12]_pow_acc|exp_avg|optimizer|lr_scheduler|master_weights)", "optimizer state"),
    (r"discriminator", "an ELECTRA discriminator head"),
)

#: Layers whose names are looked for in a file; no RoFormer that was published has more than 24.
MOST_LAYERS = 500
_LAYER_NUMBER = {
    dialect: re.compile(
        r"(?:roformer(?:v2)?\.)?"
        + re.escape(unprefixed(dialect, str(LAYER.prefix.in_(dialect)).replace("{encoder}", encoder))).replace(
            r"\{i\}", "(0|[1-9][0-9]{0,3})"
        )
    )
    for dialect, encoder in zip(DIALECTS, ("roformer", "roformer", "roformer", "bert"), strict=True)
}


def looks_like(name: str) -> str:
    """Say in words what an unknown tensor's name reminds of, or an empty string."""
    return next((words for pattern, words in LOOKS_LIKE if re.search(pattern, name)), "")


def count_layers(dialect: Dialect, names: Iterable[str]) -> int:
    """One more than the highest layer number that ``names`` mention in ``dialect`` (at most 10,000)."""
    found = (match for match in map(_LAYER_NUMBER[dialect].match, names) if match is not None)
    return 1 + max((int(match.group(1)) for match in found), default=-1)


def _layers_looked_for(dialect: Dialect, names: Collection[str]) -> int:
    """Return how many layers' names are worth making: a file may hold any number, in names or in one of them."""
    return min(count_layers(dialect, names), len(names), MOST_LAYERS)


#: The encoders that have most, the usual one and RoFormerV2: all others' names are among theirs.
_FULLEST = (Traits(), Traits(norms=False))
#: A class with the heads of all of them, each once.
_EVERY_HEAD = replace(
    BASE,
    heads=tuple(dict.fromkeys(group for kind in CLASSES.values() for group in kind.heads)),
    heads_v2=tuple(dict.fromkeys(group for kind in CLASSES.values() for group in kind.heads_v2)),
)


@cache
def _known_names(dialect: Dialect, layers: int, base: bool) -> frozenset[str]:
    """Return every name that is some class's in ``dialect``, with norms and biases or without."""
    tables = (Table(layers, _EVERY_HEAD, traits) for traits in _FULLEST)
    return frozenset(name for table in tables for name in table.by_name(dialect, base=base))


def known_names(dialect: Dialect, names: Collection[str]) -> frozenset[str]:
    """Return every name that may stand in a file of ``dialect``, with the outer prefix and without it.

    They are the rows' and the second names of what is tied.

    Args:
        dialect: Whose names.
        names: Of a file: they show the number of layers.
    """
    layers = _layers_looked_for(dialect, names)
    rows = _known_names(dialect, layers, False) | _known_names(dialect, layers, True)
    seconds = {name for traits in _FULLEST for name in _ties(dialect, traits)}
    tables = {POSITIONS.name(dialect, base=base) for base in (False, True)}
    return rows | seconds | {name for name in tables if name is not None}


def encoder_names(dialect: Dialect, names: Collection[str]) -> frozenset[str]:
    """Return every name of an encoder and its pooler in ``dialect``, with as many layers as ``names`` show."""
    layers = _layers_looked_for(dialect, names)
    tables = (Table(layers, BASE, traits) for traits in _FULLEST)
    rows = (row for table in tables for row in table.tensors if row.group in (*ENCODER, POOLER))
    spelled = (row.name(dialect, base=base) for row in rows for base in (False, True))
    return frozenset(name for name in spelled if name is not None)


#: The encoder's own name, in a dialect that has one.
_OUTER = re.compile(r"^(?:roformer(?:v2)?|bert)[./]")


@cache
def _parts_of_encoder(dialect: Dialect) -> frozenset[str]:
    """Return what the parts of an encoder are called: ``embeddings``, ``encoder``."""
    rows = (tensor.name(dialect) for _, tensor in outline(BASE) if tensor.group in ENCODER)
    return frozenset(_first_part(name) for name in rows if name is not None)


def _first_part(name: str) -> str:
    return re.split(r"[./]", _OUTER.sub("", name))[0]


def is_inside_encoder(dialect: Dialect, name: str) -> bool:
    """Say whether a name is that of a part of the encoder, of a RoFormer's or of one that has more parts."""
    return _first_part(name) in _parts_of_encoder(dialect)


def has_head(dialect: Dialect, names: Collection[str], *, base: bool) -> bool:
    """Say whether a tensor of some class's head is there, which a pooler is not."""
    heads = [_head_names(dialect, traits, base) for traits in _FULLEST]
    rows = (row for each in heads for head in each.values() for row in head.items())
    return any(name in names and not tensor.canonical.startswith("pooler.") for name, tensor in rows)


def head_names(dialect: Dialect, kind: ModelClass) -> frozenset[str]:
    """Return the names of a class's head, beside an encoder of any name, and the second names of what is tied in it."""
    rows = {name for traits in _FULLEST for name in _head_names(dialect, traits, False)[kind.name]}
    seconds = {name for traits in _FULLEST for name in _ties(dialect, traits)} if kind.scores_words else set()
    return frozenset(rows | seconds)


def count_known_names(dialect: Dialect, names: Collection[str]) -> int:
    """Count the names that are a row's in ``dialect``."""
    layers = _layers_looked_for(dialect, names)
    return max(len(_known_names(dialect, layers, base).intersection(names)) for base in (False, True))


def detect_dialect(dialects: Sequence[Dialect], names: Collection[str]) -> Dialect:
    """Choose the dialect in which most of the names are known, the first of ``dialects`` on a tie."""
    if len(dialects) == 1:
        return dialects[0]
    return max(dialects, key=lambda dialect: count_known_names(dialect, names))


def another_dialects(dialect: Dialect, names: Collection[str]) -> Dialect | None:
    """Return the dialect whose most of the names plainly are, or None where they are ``dialect``'s or nobody's."""
    own = count_known_names(dialect, names)
    if 2 * own >= len(names):
        return None
    counts = {other: count_known_names(other, names) for other in DIALECTS}
    best = max(DIALECTS, key=lambda other: counts[other])
    return best if counts[best] > 2 * own else None


def measure_traits(dialect: Dialect, names: Collection[str], *, base: bool) -> Traits:
    """Say which norms and biases an encoder has: none where not one of them is there though its kernels are.

    A file that lacks a few of them is damaged; one that lacks all was written by a model that has none.
    """
    layers, there = _layers_looked_for(dialect, names), set(names)
    rows = {
        tensor.canonical: tensor
        for traits in _FULLEST
        for tensor in Table(layers, BASE, traits).tensors
        if tensor.name(dialect, base=base) in there
    }
    needs = {tensor.needs for tensor in rows.values()}
    has_layers = any(name.startswith("layers.") for name in rows)
    transform = Table(0, MASKED_LM).by_canonical["mlm.transform.weight"]  # RoFormerV2 has none
    return Traits("norms" in needs or transform.name(dialect) in there, "biases" in needs) if has_layers else Traits()


@dataclass(frozen=True)
class Choice:
    """Which class a file's tensors are of, and what that was taken from.

    Attributes:
        kind: The class; where ``problem`` is set the likeliest.
        settled: Whether the configuration or the person named it.
        note: What was assumed, or an empty string.
        problem: Why nothing decides it, or an empty string.
        step: The next step then.
    """

    kind: ModelClass
    settled: bool
    note: str = ""
    problem: str = ""
    step: str = ""


_BY_SUFFIX = {kind.suffix.lower(): kind for kind in CLASSES.values()}
_STATED = re.compile(r"(?:TF)?RoFormer(?:v2)?(\w+)", re.IGNORECASE)
_WORDS = (BASE, MASKED_LM, PRETRAINING, CAUSAL_LM)


def stated_class(name: object) -> ModelClass | None:
    """Return the class that a configuration names (``TFRoFormerForMaskedLM``), or None for no RoFormer's."""
    match = _STATED.fullmatch(name) if isinstance(name, str) else None
    return None if match is None else _BY_SUFFIX.get(match[1].lower())


def fitting_classes(
    dialect: Dialect, shapes: Mapping[str, tuple[int, ...]], traits: Traits, *, base: bool
) -> list[ModelClass]:
    """Return the classes whose heads' names and shapes are those of a file, in the table's order."""
    heads = _head_names(dialect, traits, base)
    shapes = {**_second_names(dialect, shapes, traits), **shapes}
    there = {name for names in heads.values() for name in names if name in shapes}
    found = []
    for kind in CLASSES.values():
        rows = heads[kind.name]
        wanted = {name for name, tensor in rows.items() if _required(tensor)}
        fitted = (_fits(shapes[name], tensor) for name, tensor in rows.items() if name in shapes)
        if wanted <= there <= rows.keys() and all(fitted) and _is_spelled(dialect, kind, traits):
            found.append(kind)
    return found


def _second_names(
    dialect: Dialect, shapes: Mapping[str, tuple[int, ...]], traits: Traits
) -> dict[str, tuple[int, ...]]:
    """Return the names of tensors that a file may hold under a second name alone, and their shapes."""
    table = Table(0, MASKED_LM, traits)
    names = ((tie, table.by_canonical[tie.of].name(dialect)) for tie in table.ties if tie.written == "copy")
    seconds = ((name, tie.spelling.in_(dialect)) for tie, name in names)
    return {name: shapes[second] for name, second in seconds if name and second and second in shapes}


def _is_spelled(dialect: Dialect, kind: ModelClass, traits: Traits) -> bool:
    """Say whether the dialect has a name for all of a class."""
    return all(tensor.name(dialect) is not None for tensor in Table(0, kind, traits).tensors)


def _required(tensor: Tensor) -> bool:
    return tensor.group.optional is None and not tensor.optional


def _fits(shape: tuple[int, ...], tensor: Tensor) -> bool:
    """Say whether a shape has the rows that its row of the table fixes, whichever way round it is stored."""
    fixed = [int(axis) for axis in tensor.axes if axis.isdigit()]
    return len(shape) == len(tensor.axes) and all(size in shape for size in fixed)


@cache
def _head_names(dialect: Dialect, traits: Traits, base: bool) -> dict[str, dict[str, Tensor]]:
    """Class → name → tensor, of everything beside the encoder."""
    return {
        kind.name: {
            name: tensor
            for name, tensor in Table(0, kind, traits).by_name(dialect, base=base).items()
            if tensor.group not in ENCODER
        }
        for kind in CLASSES.values()
    }


def choose_class(
    dialect: Dialect,
    shapes: Mapping[str, tuple[int, ...]],
    traits: Traits,
    *,
    base: bool,
    stated: object,
    given: str | None,
) -> Choice:
    """Decide which class a file's tensors are of.

    Args:
        dialect: Whose names they have.
        shapes: Name → shape of every tensor.
        traits: Of the encoder.
        base: Whether the names lack the outer prefix.
        stated: What the configuration names, or None.
        given: Name of the class that a person chose, or None.
    """
    if given is not None:
        named = stated_class(stated)
        other = named is not None and named is not CLASSES[given]
        note = f"class {given}, as --class says; the configuration names {stated}" if other else ""
        return Choice(CLASSES[given], settled=True, note=note)
    fits = fitting_classes(dialect, shapes, traits, base=base)
    words = [kind for kind in fits if kind in _WORDS]
    kind = stated_class(stated)
    if kind is not None:
        if kind in fits:
            return Choice(kind, settled=True)
        if kind not in _WORDS:
            step = ""
            if fits:
                fitting = _best_of_words(words, MASKED_LM) if words else fits[0]
                step = f"The configuration names {stated}, and the tensors are {fitting.class_name}'s: say --class "
                step += f"{fitting.name}" + (", or --encoder-only to leave others out." if fitting is BASE else ".")
            return Choice(kind, settled=True, step=step)
        # heads for words have names of their own: what is there is one, or is none
        shown = _best_of_words(words, kind) if words else _likeliest(dialect, shapes, traits, base, (kind, *_WORDS))
        quiet = shown is kind or (shown is PRETRAINING and kind in (MASKED_LM, CAUSAL_LM))
        note = "" if quiet else f"the configuration names {stated}, and the tensors are those of {shown.class_name}"
        return Choice(shown, settled=True, note=note)
    if words:  # then no other class fits
        both = BASE in words and MASKED_LM in words  # in RoFormerV2 alone
        if both and not base and not any(tie in shapes for tie in _ties(dialect, traits)):
            note = (
                "class masked-lm is assumed: RoFormerV2's head has no tensor of its own, and no file names a class; "
                "otherwise --class base or --class causal-lm"
            )
            return Choice(MASKED_LM, settled=False, note=note)
        return Choice(_best_of_words(words, BASE if base else MASKED_LM), settled=False)
    if not fits:
        return Choice(_likeliest(dialect, shapes, traits, base, tuple(CLASSES.values())), settled=False)
    if len(fits) == 1 and _is_distinct(dialect, shapes, traits, base, fits[0]):
        return Choice(fits[0], settled=True, note=f"class {fits[0].name}, from the tensors' names: no file names one")
    names = ", ".join(f"{kind.name} ({kind.does})" for kind in fits)
    several = "these classes have" if len(fits) > 1 else "this class has, and a head of somebody's own may have,"
    return Choice(
        fits[0],
        settled=False,
        problem=f"no file names it, and {several} such tensors: {names}",
        step=f"Say which it is, for example with --class {fits[0].name}.",
    )


def _likeliest(
    dialect: Dialect, shapes: Mapping[str, tuple[int, ...]], traits: Traits, base: bool, kinds: Sequence[ModelClass]
) -> ModelClass:
    """Return the class that knows most of the names in a file that fits none, the first of several."""
    heads = _head_names(dialect, traits, base)
    return max(kinds, key=lambda kind: sum(name in shapes for name in heads[kind.name]))


def _best_of_words(fits: Sequence[ModelClass], wanted: ModelClass) -> ModelClass:
    return next(kind for kind in (wanted, MASKED_LM, PRETRAINING, BASE) if kind in fits)


def _ties(dialect: Dialect, traits: Traits) -> list[str]:
    return [name for tie in Table(0, MASKED_LM, traits).ties if (name := tie.spelling.in_(dialect)) is not None]


def _is_distinct(
    dialect: Dialect, shapes: Mapping[str, tuple[int, ...]], traits: Traits, base: bool, kind: ModelClass
) -> bool:
    """Say whether a head has a name that no other class's head has; Google's ``output_weights`` is anybody's."""
    heads = _head_names(dialect, traits, base)
    others = {name for other, names in heads.items() if other != kind.name for name in names}
    return any(name in shapes and name not in others and not name.startswith("output_") for name in heads[kind.name])
