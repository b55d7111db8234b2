"""``config.json``, ``bert_config.json``, ``model_config.json``, field by field: the table's idea for hyper-parameters.

:func:`read` turns a dialect's file into a :class:`~.config.RoFormerConfig` and what else it held; :func:`write` turns
that into another dialect's file. What a dialect's own software computes regardless of the file is a fact in
:data:`FIELDS`, and a value that it would not honour is reported by :func:`write`, never dropped in silence. What a file
says of the function that no field can hold is held against :data:`FUNCTION`: another model may have the same tensors.

Sources: ``RoFormerConfig`` of transformers 5.23 and of PaddleNLP 2.8.1, ``build_transformer_model`` of bert4keras 0.11.5.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ConvertError, FormatError, MisfitError, Problem, quoted
from .config import RoFormerConfig
from .dialects import DIALECT_FILES
from .mapping import SYMBOLS, Dialect, Spelling

Json = dict[str, Any]

#: What a configuration with problems does not fit, in messages.
CONFIGURATION = "RoFormer's configuration"

_LARGEST_FILE = 8 << 20  # bytes; real ones are under 2 kB, a token classification head with many labels 1 MB
_MOST_LAYERS = 4096
_LARGEST_SIZE = 1 << 31


@dataclass(frozen=True)
class Field:
    """One hyper-parameter: its key in each dialect, what a missing key means there, what the software computes anyway.

    Attributes:
        name: Attribute of :class:`RoFormerConfig`.
        key: Spelling of the key.
        missing: Value that each dialect's software takes for an absent key; None where the tensors decide.
        fixed: Value that a dialect's software computes with whatever the file says; None where it reads the file.
    """

    name: str
    key: Spelling
    missing: tuple[Any, Any, Any, Any] = (None, None, None, None)
    fixed: tuple[Any, Any, Any, Any] = (None, None, None, None)


def _same(name: str) -> Spelling:
    return Spelling(name, name, name, name)


def _all(value: Any) -> tuple[Any, Any, Any, Any]:
    return (value, value, value, value)


# fmt: off
FIELDS: tuple[Field, ...] = (
    #                                    key in paddle, torch, tf, tf1            a missing key means          computed whatever the file says
    Field("vocab_size",                  _same("vocab_size")),
    Field("embedding_size",              _same("embedding_size")),
    Field("hidden_size",                 _same("hidden_size")),
    Field("num_hidden_layers",           _same("num_hidden_layers")),
    Field("num_attention_heads",         _same("num_attention_heads"),            (12, 12, 12, None)),
    Field("intermediate_size",           _same("intermediate_size")),
    Field("hidden_act",                  _same("hidden_act"),                     ("gelu", "gelu", "gelu", None)),
    Field("hidden_dropout_prob",         _same("hidden_dropout_prob"),            (0.1, 0.1, 0.1, 0.0)),
    Field("attention_probs_dropout_prob", _same("attention_probs_dropout_prob"),  (0.1, 0.1, 0.1, 0.0)),
    Field("max_position_embeddings",     _same("max_position_embeddings"),        (1536, 1536, 1536, 512)),
    Field("type_vocab_size",             _same("type_vocab_size")),
    Field("initializer_range",           _same("initializer_range"),              _all(0.02),                  (None, None, None, 0.02)),
    # bert4keras 0.11.5 passes 1e-12 to the norms of BERT's layers and its default 1e-7 to RoFormer's: docs/decisions.md
    Field("layer_norm_eps",              _same("layer_norm_eps"),                 _all(1e-12),                 (None, None, None, 1e-12)),
    Field("rotary_value",                _same("rotary_value"),                   _all(False),                 (None, None, None, False)),
    # transformers has no pooler here; pooler_activation is the spelling of JunnYu's package, which has
    Field("pooler_activation",           Spelling("pool_act", "pooler_activation", "pooler_activation", "pooler_activation"), _all("tanh")),
    Field("pad_token_id",                _same("pad_token_id"),                   _all(0),                     (None, None, None, 0)),
    # of the four, transformers' torch class alone reads this; bert4keras is told in code (application="lm")

)

#: Canonical activation → what each dialect calls it; None where its software has no such function.
ACTIVATIONS: Mapping[str, Spelling] = {
    "gelu":       Spelling("gelu",    "gelu",       "gelu",       "gelu"),
    "gelu_tanh":  Spelling(None,      "gelu_new",   "gelu_new",   "gelu_tanh"),
    "quick_gelu": Spelling(None,      "quick_gelu", "quick_gelu", None),
    "relu":       Spelling("relu",    "relu",       "relu",       "relu"),
    "silu":       Spelling("silu",    "silu",       "silu",       "swish"),
    "mish":       Spelling("mish",    "mish",       "mish",       None),
    "tanh":       Spelling("tanh",    "tanh",       "tanh",       "tanh"),
    "sigmoid":    Spelling("sigmoid", "sigmoid",    "sigmoid",    "sigmoid"),
}
#: Further names of the same functions, and who has them.
SYNONYMS: Mapping[str, tuple[str, tuple[Dialect, ...]]] = {
    "gelu_python":       ("gelu",      ("torch",)),
    "gelu_erf":          ("gelu",      ("tf1",)),
    "gelu_new":          ("gelu_tanh", ("torch", "tf")),
    "gelu_pytorch_tanh": ("gelu_tanh", ("torch",)),
    "gelu_python_tanh":  ("gelu_tanh", ("torch",)),
    "gelu_fast":         ("gelu_tanh", ("torch", "tf")),
    "gelu_accurate":     ("gelu_tanh", ("torch",)),
    "swish":             ("silu",      ("torch", "tf", "paddle", "tf1")),
}
#: Activations that some dialect's software computes and the models here do not: carried as they are.
FURTHER_ACTIVATIONS = (
    "linear",                                                                    # roformer-sim's pooler, in all four
    "gelu_10", "laplace", "leaky_relu", "prelu", "relu2", "relu6", "relu_squared",  # transformers
    "celu", "elu", "hardsigmoid", "hardswish", "hardtanh", "log_sigmoid", "selu", "softplus", "softsign", "tanhshrink",  # Paddle
    "exponential", "hard_sigmoid",                                               # Keras
)
# fmt: on


@dataclass(frozen=True)
class Statement:
    """A key with which a configuration says something of the function that is the same in every RoFormer.

    Attributes:
        key: Its name, in whichever dialect.
        agrees: Whether a value, in a file of these settings, says what RoFormer computes.
        want: Such a value, for messages.
        here: What RoFormer computes.
    """

    key: str
    agrees: Callable[[Any, Json], bool]
    want: str
    here: str


def _only(*values: Any) -> Callable[[Any, Json], bool]:
    return lambda value, _: value in values


def _head_size(value: Any, settings: Json) -> bool:
    hidden, heads = settings.get("hidden_size"), settings.get("num_attention_heads", 12)
    return type(value) is int and type(heads) is int and value * heads == hidden


def _plain_rotation(value: Any, _: Json) -> bool:
    """Say whether transformers' description of a rotation says the paper's own, unscaled."""
    plain = {"rope_type": ("default",), "type": ("default",), "rope_theta": (10000,), "factor": (1,)}
    plain["partial_rotary_factor"] = (1,)
    return isinstance(value, dict) and all(each in plain.get(key, ()) for key, each in value.items())


#: transformers' and PaddleNLP's way to name a class; what comes before is the model.
_CLASS = re.compile(r"(?:TF|Flax)?(\w+?)(?:Model|PreTrainedModel|PretrainedModel|LMHeadModel|For[A-Z]\w*)")


def _roformers_class(value: Any, settings: Json) -> bool:
    """Say whether no other model's class is named; where ``model_type`` is there, it decides, whatever the classes."""
    names = value if isinstance(value, list) else [value]
    models = [_CLASS.fullmatch(name) for name in names if isinstance(name, str)]
    others = [model for model in models if model is not None and model[1].lower() != "roformer"]
    return settings.get("model_type") is not None or not others


_ROTATED = "positions rotate queries and keys"
_PAPERS = "the rotation is the paper's"
_NORMED = "norms follow the residual sums, subtract the mean, and have a weight and a bias"
_BIASED = "every kernel has its bias"
_OWN = "every layer has tensors of its own"
_HEADS = "heads share the hidden size evenly"
_PLAIN = "every token attends to every other, by the product of query and key alone"

# fmt: off
#: What a configuration may say of the function, whose it is, and what RoFormer computes: all else is another model's.
FUNCTION: tuple[Statement, ...] = (
    Statement("model_type",                     _only("roformer"),                     '"roformer"',      "the table is RoFormer's"),
    Statement("architectures",                  _roformers_class,                      "RoFormer's",      "the table is RoFormer's"),
    Statement("init_class",                     _roformers_class,                      "RoFormer's",      "the table is RoFormer's"),   # PaddleNLP before 2.4
    Statement("position_embedding_type",        _only("rotary", "rope"),               '"rotary"',        _ROTATED),  # BERT and its kin in transformers
    Statement("use_rotary_position",            _only(True),                           "true",            _ROTATED),  # JunnYu's first releases
    Statement("use_relative_position",          _only(False),                          "false",           _ROTATED),  # NEZHA
    Statement("max_relative_position",          _only(),                               "none",            _ROTATED),  # NEZHA in transformers and PaddleNLP
    Statement("relative_attention",             _only(False),                          "false",           _ROTATED),  # DeBERTa
    Statement("max_relative_positions",         _only(-1, 0),                          "none",            _ROTATED),  # DeBERTa
    Statement("relative_attention_num_buckets", _only(),                               "none",            _ROTATED),  # MPNet
    Statement("hierarchical_position",          _only(False),                          "none",            _ROTATED),  # bert4keras
    Statement("rope_theta",                     _only(10000),                          "10000",           _PAPERS),   # this and the next: transformers
    Statement("rope_scaling",                   _plain_rotation,                       "none",            _PAPERS),
    Statement("rope_parameters",                _plain_rotation,                       "none",            _PAPERS),
    Statement("rotary_emb_base",                _only(10000),                          "10000",           _PAPERS),   # GPT-NeoX
    Statement("rotary_emb_fraction",            _only(1),                              "1",               _PAPERS),   # NomicBERT
    Statement("rotary_pct",                     _only(1),                              "1",               _PAPERS),   # GPT-NeoX
    Statement("partial_rotary_factor",          _only(1),                              "1",               _PAPERS),
    Statement("rotary_dim",                     _head_size,                            "the head size",   _PAPERS),   # GPT-J
    Statement("rotary_emb_interleaved",         _only(True),                           "true",            "the rotation turns neighbours, not halves"),  # NomicBERT
    Statement("norm_type",                      _only("layer_norm"),                   '"layer_norm"',    _NORMED),   # JunnYu; RoFormerV2 has rms_norm
    Statement("normalize_before",               _only(False),                          "false",           _NORMED),   # PaddleNLP
    Statement("pre_norm",                       _only(False),                          "false",           _NORMED),
    Statement("norm_first",                     _only(False),                          "false",           _NORMED),   # PyTorch
    Statement("prenorm",                        _only(False),                          "false",           _NORMED),   # NomicBERT
    Statement("use_bias",                       _only(True),                           "true",            _BIASED),   # JunnYu; RoFormerV2 has none
    Statement("attention_bias",                 _only(True),                           "true",            _BIASED),   # ModernBERT
    Statement("mlp_bias",                       _only(True),                           "true",            _BIASED),   # ModernBERT
    Statement("norm_bias",                      _only(True),                           "true",            _BIASED),   # ModernBERT
    Statement("qkv_bias",                       _only(True),                           "true",            _BIASED),
    Statement("num_hidden_groups",  lambda value, settings: value == settings.get("num_hidden_layers"), "num_hidden_layers", _OWN),  # ALBERT
    Statement("inner_group_num",                _only(1),                              "1",               _OWN),      # ALBERT
    Statement("shared_segment_embeddings",      _only(False),                          "false",           "segments have embeddings of their own"),  # bert4keras
    Statement("attention_head_size",            _head_size,                            "the head size",   _HEADS),    # bert4keras
    Statement("attention_key_size",             _head_size,                            "the head size",   _HEADS),    # bert4keras
    Statement("head_dim",                       _head_size,                            "the head size",   _HEADS),
    Statement("num_key_value_heads", lambda value, settings: value == settings.get("num_attention_heads", 12), "num_attention_heads", _HEADS),
    Statement("residual_attention_scores",      _only(False),                          "false",           _PLAIN),    # RealFormer in bert4keras
    Statement("attention_type",                 _only("original_full"),                '"original_full"', _PLAIN),    # BigBird
    Statement("attention_window",               _only(),                               "none",            _PLAIN),    # Longformer
    Statement("add_cross_attention",            _only(False),                          "false",           "attention is to the layer's own input"),
    Statement("is_encoder_decoder",             _only(False),                          "false",           "there is an encoder alone"),
)
# fmt: on
#: The next step for another model's weights.
ANOTHERS = (
    "The configuration says that the weights compute something other than RoFormer does; another model's are not "
    "converted. If it is not theirs, name their own with --config FILE."
)

_ACTIVATION_FIELDS = ("hidden_act", "pooler_activation")
_KNOWN_ACTIVATIONS = {
    *ACTIVATIONS,
    *SYNONYMS,
    *FURTHER_ACTIVATIONS,
    *(s for each in ACTIVATIONS.values() for s in each),
}
_INTEGER = {name for name in RoFormerConfig.__annotations__ if RoFormerConfig.__annotations__[name].startswith("int")}
_PROBABILITY = {"hidden_dropout_prob", "attention_probs_dropout_prob"}
_BOOLEAN = {"rotary_value"}
_CHANGES_THE_FUNCTION = (
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "rotary_value",
    "pooler_activation",
)

#: Keys that say what the weights are, not what the model computes: written anew for each dialect.
_STATED = ("model_type", "dtype", "torch_dtype", "init_class", "init_args")
#: Provenance of the software that wrote the source: meaningless to another's loader, so left out and reported.
_PROVENANCE = ("transformers_version", "paddlenlp_version", "_from_model_config")
#: Keys without a field that change what a dialect's loader hands back: (key, value) → what it would do there.
_MISREAD: Mapping[Dialect, Mapping[tuple[str, Any], str]] = {
    # every config.json of transformers says so, where it means nothing outside a decoder
    "paddle": {
        ("use_cache", True): "PaddleNLP's model would return its cache beside the logits, as a tuple",
        ("output_hidden_states", True): "PaddleNLP's model would return them beside the logits, as a tuple",
        ("output_attentions", True): "PaddleNLP's model would return them beside the logits, as a tuple",
        ("return_dict", True): "PaddleNLP's model would return a dictionary instead of the logits",
    },
    # PaddleNLP's default, and what was set to trace the source's model; neither is a fact about the weights
    "torch": {
        ("return_dict", False): "transformers' model would return a tuple, which has no .logits",
        ("torchscript", True): "transformers before 5 would return a tuple, which has no .logits",
    },
    "tf": {
        ("return_dict", False): "transformers' TF model would return a tuple, which has no .logits",
        ("torchscript", True): "transformers' TF model would return a tuple, which has no .logits",
    },
}
#: Keys that send a loader to something that does not travel → why they are left out.
_LEADS_ASTRAY: Mapping[str, str] = {
    "auto_map": "it names code of the source's repository, which does not travel",
    "quantization_config": "the weights are written as numbers, and a loader would look for quantized ones",
}


@dataclass(frozen=True)
class SourceConfig:
    """A configuration file as it was read.

    Attributes:
        config: The configuration in canonical terms.
        spellings: Values whose spelling is kept where the target understands it (activation names).
        extra: Keys the table has no field for, carried as they are.
        notes: What was assumed and why, for the report.
        assumed: Fields that no file says, with the default of the dialect's software.
    """

    config: RoFormerConfig
    spellings: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """What a configuration file says, beside what is wrong with it.

    Attributes:
        source: The configuration as read, a wrong value replaced by what the tensors show; None where nothing can stand in for it.
        problems: What is wrong.
        next_step: What to do about them.
    """

    source: SourceConfig | None
    problems: tuple[Problem, ...] = ()
    next_step: str | None = None

    def with_remark(self, text: str) -> Reading:
        """Add what should be known of the reading: the next step where something is wrong, a note where nothing is."""
        if self.problems or self.source is None:
            return replace(self, next_step=text)
        return replace(self, source=replace(self.source, notes=(*self.source.notes, text)))


def read_json(path: Path) -> Json:
    """Read one JSON object from an untrusted file.

    Raises:
        FormatError: Not readable, not a JSON object, not UTF-8, a key given twice, something that is not a number, larger than
            8 MiB, or nested too deeply.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise FormatError(path, f"a JSON file of {size:,} bytes; wanted at most {_LARGEST_FILE:,}")
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None
    try:
        value = json.loads(
            content.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
    except UnicodeDecodeError as error:
        raise FormatError(path, "not UTF-8 text", offset=error.start) from None
    except UnicodeEncodeError:
        raise FormatError(path, "not JSON: an escape that is half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"not JSON: {error or 'nested too deeply'}") from None
    if not isinstance(value, dict):
        raise FormatError(path, f"holds a JSON {type(value).__name__}; wanted an object of settings")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> Json:
    """Refuse a key given twice: of two values each reader believes another."""
    value: Json = {}
    for name, each in pairs:
        if name in value:
            raise ValueError(f"the key {name[:80]!r} is given twice")
        value[name] = each
    return value


def _flatten_init_args(path: Path, settings: Json) -> Json:
    """Undo the nesting of PaddleNLP 2.0–2.4's ``model_config.json``: a head's arguments hold the base model's."""
    for _ in range(8):
        inner = settings.get("init_args")
        if not isinstance(inner, (list, tuple)) or not inner:
            return settings
        if not isinstance(inner[0], dict):
            raise FormatError(path, f"init_args[0] is a {type(inner[0]).__name__}; wanted the base model's settings")
        outer = {key: value for key, value in settings.items() if key not in ("init_args", "init_class")}
        settings = {**outer, **inner[0]}
    raise FormatError(path, "init_args nested more than 8 deep")


def canonical_activation(name: str, dialect: Dialect) -> str:
    """Translate an activation's name in ``dialect``; an unknown one is returned as it is."""
    for canonical, spelling in ACTIVATIONS.items():
        if spelling.in_(dialect) == name:
            return canonical
    meaning, dialects = SYNONYMS.get(name, (name, ()))
    return meaning if dialect in dialects else name


def read(
    path: Path | None,
    dialect: Dialect,
    measured: Mapping[str, int],
    *,
    where: Path,
) -> SourceConfig:
    """Read a dialect's configuration file, or work one out from the tensors' shapes where they decide it.

    Args:
        path: The file, or None where there is none.
        dialect: Whose defaults a missing key takes.
        measured: Field name → size that the tensors show: every size, and ``num_attention_heads`` and
            ``max_position_embeddings`` where the file carries its rotary table.
        where: The checkpoint, for messages.

    Raises:
        FormatError: The file is not a JSON object.
        MisfitError: A value of the wrong type or out of range; a head count that nothing decides.
    """
    reading = examine(path, dialect, measured, where=where)
    if reading.problems or reading.source is None:
        raise MisfitError(path or where, CONFIGURATION, reading.problems, reading.next_step)
    return reading.source


def examine(
    path: Path | None,
    dialect: Dialect,
    measured: Mapping[str, int],
    *,
    where: Path,
    given: Mapping[str, Any] | None = None,
    excused: Collection[str] = (),
) -> Reading:
    """Read like :func:`read`, but give wrong values beside the rest: the tensors' problems are to be reported with them.

    Args:
        path: The file, or None where there is none.
        dialect: The same as for :func:`read`.
        measured: The same as for :func:`read`.
        where: The checkpoint, for messages.
        given: Field name → value that holds whatever the file says.
        excused: Keys of :data:`FUNCTION` that may say anything: of a model whose weights only begin a RoFormer's.

    Raises:
        FormatError: The file is not a JSON object.
        ConvertError: A field that is given is none, or has a value that cannot be.
    """
    given = {} if given is None else given
    _check_given(given)
    settings = {} if path is None else _flatten_init_args(path, read_json(path))
    problems: list[Problem] = []
    notes: list[str] = []
    values: Json = {}
    spellings: dict[str, str] = {}
    assumed: set[str] = set()
    position = Spelling._fields.index(dialect)
    named = where.name if path is None else path.name
    for item in FIELDS:
        key = item.key[position] or item.name
        value = given.get(item.name, settings.get(key))
        if value is None and item.name == "pooler_activation":
            value = next((settings[other] for other in set(item.key) if other in settings), None)
        if item.name in given:
            notes.append(f"{item.name} = {value}, as it was set")
        elif value is None and not (item.name == "pad_token_id" and key in settings):
            value = measured.get(item.name)
            if value is not None:
                if path is None or item.name in SYMBOLS.values() or item.name == "num_hidden_layers":
                    notes.append(f"{item.name} = {value}, from the tensors' shapes")
            elif path is None and item.name == "num_attention_heads":
                problems.append(
                    Problem("configuration", item.name, "not decided by the tensors' shapes, and no file says it")
                )
                values[item.name] = 1
                continue
            else:
                value = item.missing[position]
                if value is None and item.name == "hidden_act":
                    value = "gelu"
                if value is None:
                    problems.append(Problem("configuration", item.name, f"missing from {named}"))
                    continue
                assumed.add(item.name)
                if path is None and item.name in _CHANGES_THE_FUNCTION and item.name != "pooler_activation":
                    notes.append(f"{item.name} = {value}, {dialect}'s default: no configuration file says otherwise")
        wrong = _complaint(item.name, value)
        if wrong:
            problems.append(Problem("configuration", item.name, f"got {quoted(value)} in {named}, want {wrong}"))
            value = measured.get(item.name, item.missing[position])
            if value is None:
                continue
        if item.name in _ACTIVATION_FIELDS:
            spellings[item.name] = str(value)
            value = canonical_activation(str(value), dialect)
        values[item.name] = value
    wrong_fields = {problem.name for problem in problems}
    if not wrong_fields & {"hidden_size", "num_attention_heads"}:
        contradictions = _contradictions(values)
        problems.extend(contradictions)
        if contradictions:
            values["num_attention_heads"] = measured.get("num_attention_heads", 1)
    step = None
    function = _other_function(settings, named, excused)
    if problems or function:
        step = (
            ANOTHERS
            if not problems
            else "Name the configuration with --config FILE (config.json, model_config.json or bert_config.json)."
            if path is None
            else f"Correct {path}, or name another with --config FILE."
        )
        problems.extend(function)
    if any(item.name not in values and item.missing[position] is None for item in FIELDS):
        return Reading(None, tuple(problems), step)
    known = {item.key[position] for item in FIELDS} | {"pool_act", "pooler_activation"}
    extra = {key: value for key, value in settings.items() if key not in known and key not in _STATED}
    source = SourceConfig(RoFormerConfig(**values), spellings, extra, tuple(notes), frozenset(assumed))
    return Reading(source, tuple(problems), step)


def _other_function(settings: Json, named: str, excused: Collection[str]) -> list[Problem]:
    """Name what the settings say of the function and RoFormer does not compute."""
    problems = []
    for statement in FUNCTION:
        value = settings.get(statement.key)
        if value is not None and statement.key not in excused and not statement.agrees(value, settings):
            got = json.dumps(value, ensure_ascii=False)
            shown = got if len(got) <= 60 else f"{got[:57]}..."
            detail = f"got {shown} in {named}, want {statement.want}: {statement.here}"
            problems.append(Problem("function", statement.key, detail))
    return problems


def assumptions(source: SourceConfig, dialect: Dialect, *, pooler: bool) -> list[str]:
    """Say what changes the function and no file states, each time that it is assumed.

    Args:
        source: The configuration as it was read.
        dialect: The source's.
        pooler: Whether the tensors have one.
    """
    notes = []
    software = DIALECT_FILES[dialect].software
    if pooler and "pooler_activation" in source.assumed:
        usual = source.config.pooler_activation
        whose = (
            f"{software} computes it unless its code says otherwise" if dialect == "tf1" else f"{software}'s default"
        )
        notes.append(
            f"pooler_activation = {usual} is assumed: no file says it ({whose}); roformer-sim's pooler is linear: "
            "--set pooler_activation=linear"
        )
    if dialect == "tf1":
        notes.append(
            "attention in both directions is assumed: no file of a TF1 checkpoint says its mask; what was trained with a "
            'causal or a UniLM mask (application="lm", "unilm" in bert4keras) cannot be expressed yet'
        )
    return notes


def parse_settings(texts: Iterable[str]) -> Json:
    """``["pooler_activation=linear", "rotary_value=true"]`` → field name → value, as its field's type.

    Raises:
        ConvertError: Not FIELD=VALUE, no such field, or a field given twice.
    """
    given: Json = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConvertError(f"--set {quoted(text)}: want FIELD=VALUE", "For example --set pooler_activation=linear")
        if name in given:
            raise ConvertError(f"--set gives {name} twice")
        given[name] = value
        if name not in _ACTIVATION_FIELDS and len(value) < 40:
            with contextlib.suppress(
                ValueError
            ):  # text all the same: what the field wants is reported where it is checked
                given[name] = json.loads(value, parse_constant=_refuse_constant, parse_float=_finite)
    return given


def _check_given(given: Mapping[str, Any]) -> None:
    """Refuse what no field can be set to.

    Raises:
        ConvertError: There is no such field, or its value is wrong.
    """
    fields = [item.name for item in FIELDS]
    for name, value in given.items():
        if name not in fields:
            raise ConvertError(f"--set {quoted(name)}: no field of this name", f"Fields: {', '.join(fields)}.")
        wrong = _complaint(name, value)
        if wrong:
            raise ConvertError(f"--set {name}: got {quoted(value)}, want {wrong}")


def _complaint(name: str, value: Any) -> str:
    """Say what ``value`` should have been, or nothing where it is fine."""
    if name == "pad_token_id" and value is None:
        return ""
    if name in _INTEGER:
        least = 0 if name in ("pad_token_id", "num_hidden_layers") else 1
        most = _MOST_LAYERS if name == "num_hidden_layers" else _LARGEST_SIZE
        if type(value) is not int or not least <= value <= most:
            return f"an integer from {least} to {most:,}"
    elif name in _BOOLEAN:
        if type(value) is not bool:
            return "true or false"
    elif name in _ACTIVATION_FIELDS:
        if type(value) is not str or value not in _KNOWN_ACTIVATIONS:
            return f"an activation's name: {', '.join(ACTIVATIONS)}, linear or one of the dialects' own"
    elif type(value) not in (int, float) or not 0 <= value < 1e30:
        return "a number of at least 0"
    elif name in _PROBABILITY and value > 1:
        return "a probability"
    return ""


def _contradictions(values: Json) -> list[Problem]:
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if hidden % heads:
        return [Problem("configuration", "num_attention_heads", f"{heads} does not divide hidden_size = {hidden}")]
    if hidden // heads % 2:
        detail = f"{heads} heads make a head size of {hidden // heads}; rotation needs an even one"
        return [Problem("configuration", "num_attention_heads", detail)]
    return []


def write(source: SourceConfig, target: Dialect, *, architecture: str, dtype: str) -> tuple[Json, list[str]]:
    """Spell a configuration in ``target``'s file; return it and what the target's software will not honour.

    Args:
        source: The configuration as it was read.
        target: The dialect.
        architecture: Class name that loads the result.
        dtype: The weights' type.
    """
    position = Spelling._fields.index(target)
    notes: list[str] = []
    out: Json = {}
    if target != "tf1":
        out["architectures"] = [architecture]
        out["model_type"] = "roformer"
        # transformers before 4.56 reads torch_dtype and later ones dtype. PaddleNLP reads dtype and computes in it at
        # once, which fails for half types on a CPU (no kernel for its rotary table): without the key it loads as float32
        if target != "paddle" or dtype == "float32":
            out["dtype"] = dtype
        if target == "torch":
            out["torch_dtype"] = dtype
    for item in FIELDS:
        value = getattr(source.config, item.name)
        key = item.key[position]
        assert key is not None
        if item.name in _ACTIVATION_FIELDS:
            value, note = _spell_activation(item.name, value, source.spellings.get(item.name), target)
            notes.extend(note)
        fixed = item.fixed[position]
        if fixed is not None and value != fixed:
            notes.append(f"{key} = {value} is written, but {DIALECT_FILES[target].software} will compute with {fixed}")
        out[key] = value
    if target == "paddle" and source.config.layer_norm_eps > 1e-3:
        notes.append(f"layer_norm_eps = {source.config.layer_norm_eps}: PaddlePaddle refuses more than 1e-3")
    for key, value in source.extra.items():
        if key in _PROVENANCE:
            if value is not None and value is not True:
                notes.append(f"{key} = {quoted(value)} is left out: it names the software that wrote the source")
        elif isinstance(value, bool) and (key, value) in _MISREAD.get(target, {}):
            notes.append(f"{key} = {value} is left out: {_MISREAD[target][key, value]}")
        elif key in _LEADS_ASTRAY:
            if value is not None:
                notes.append(f"{key} = {quoted(value)} is left out: {_LEADS_ASTRAY[key]}")
        elif key == "architectures":
            if value and value != [architecture]:
                notes.append(f"{key} = {quoted(value)} is not carried: the class for what is written is {architecture}")
        elif key == "tie_word_embeddings":
            # the masked-LM head has no kernel of its own in any dialect: a second copy was required to be equal
            out[key] = True
            if value is not True:
                notes.append(
                    f"{key} = {quoted(value)} is written as True: the head's kernel is the word embeddings here, and "
                    "transformers would make a random one"
                )
        elif key not in out:
            out[key] = value
    return out, notes


def _spell_activation(name: str, canonical: str, spelled: str | None, target: Dialect) -> tuple[str, list[str]]:
    if spelled is not None and canonical_activation(spelled, target) == canonical and canonical in ACTIVATIONS:
        known_there = spelled in (ACTIVATIONS[canonical].in_(target),) or target in SYNONYMS.get(spelled, ("", ()))[1]
        if known_there:
            return spelled, []
    if canonical in FURTHER_ACTIVATIONS:
        return canonical, [f"{name} = {canonical!r} is carried as it is: the models here do not compute it"]
    if canonical not in ACTIVATIONS:
        return canonical, [f"{name} = {canonical!r} is carried as it is: the table does not know this function"]
    there = ACTIVATIONS[canonical].in_(target)
    if there is None:
        return canonical, [
            f"{name} = {canonical!r} is written, but there is no such function in {DIALECT_FILES[target].software}"
        ]
    return there, []
