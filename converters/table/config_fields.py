"""``config.json``, ``bert_config.json``, ``model_config.json``, field by field: the table's idea for hyper-parameters.

:func:`read` turns a dialect's file into a :class:`~.config.RoFormerConfig` and what else it held; :func:`write` turns
that into another dialect's file. What a dialect's own software computes regardless of the file is a fact in
:data:`FIELDS`; fields that no single key holds are derived (:mod:`.derived_fields`). What the target's software would
compute otherwise is told by :mod:`.differences`. What a file says of the function that no field can hold is held
against :mod:`.statements`: another model may have the same tensors.

Sources: ``RoFormerConfig`` of transformers 5.23, of JunnYu's roformer 0.4.3 and of PaddleNLP 2.8.1 (``RoFormerv2Config``
too), ``build_transformer_model`` of bert4keras 0.11.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import FormatError, MisfitError, Problem, quoted
from ..json_input import Json, read_json
from .activations import canonical_activation, spell_activation
from .config import RoFormerConfig
from .derived_fields import DERIVATIONS, DERIVED_FROM, Asked, spelled_pooler, write_derived
from .dialects import DIALECT_FILES
from .field_values import ACTIVATION_FIELDS, check_given, complaint
from .mapping import CAUSAL_LM, MASKED_LM, PRETRAINING, SYMBOLS, Dialect, ModelClass, Spelling, Traits
from .statements import ANOTHERS, other_function

#: The key under which a result records the fields that its dialect's own keys cannot say, for whoever converts it back.
RECORD = "roformer_convert"

#: What a configuration with problems does not fit, in messages.
CONFIGURATION = "RoFormer's configuration"


@dataclass(frozen=True)
class Field:
    """One hyper-parameter: its key in each dialect, what a missing key means there, what the software computes anyway.

    Attributes:
        name: Attribute of :class:`RoFormerConfig`.
        key: Spelling of the key; None where the field is derived.
        missing: Value that each dialect's software takes for an absent key; None where the tensors decide.
        fixed: Value that a dialect's software computes with whatever the file says; None where it reads the file.
    """

    name: str
    key: Spelling
    missing: tuple[Any, Any, Any, Any] = (None, None, None, None)
    fixed: tuple[Any, Any, Any, Any] = (None, None, None, None)


_DERIVED = Spelling(None, None, None, None)


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
    Field("pooler_activation",           _DERIVED,                                _all("tanh")),
    Field("pad_token_id",                _same("pad_token_id"),                   _all(0),                     (None, None, None, 0)),
    Field("norm_type",                   _DERIVED),
    Field("use_bias",                    _DERIVED),
    Field("attention",                   _DERIVED),
    Field("summary_type",                _DERIVED),
    Field("num_labels",                  _DERIVED),
    Field("labels",                      _DERIVED),
    Field("num_choices",                 _same("num_choices"),                    _all(2)),
    Field("problem_type",                _same("problem_type")),
    Field("classifier_dropout",          _DERIVED),
    Field("eos_token_id",                _same("eos_token_id")),
)
# fmt: on
#: What an absent key means in PaddleNLP's RoFormerV2 instead.
_MISSING_V2: Mapping[Dialect, Json] = {"paddle": {"hidden_act": "relu", "max_position_embeddings": 512}}

_CHANGES_THE_FUNCTION = ("hidden_act", "layer_norm_eps", "max_position_embeddings", "rotary_value")

#: Fields that may be null, or that nothing needs to say.
_MAY_LACK = ("problem_type", "classifier_dropout", "eos_token_id", "pooler_activation")
#: Which tensors there are decides these.
_TENSORS_SHOW = ("norm_type", "use_bias")
#: What a file says with null, where that means something.
_NULL = object()
#: What :mod:`.differences` tells of.
_TOLD_AS_DIFFERENCES = ("layer_norm_eps", "rotary_value")

#: Keys that say what the weights are, not what the model computes: written anew for each dialect.
_STATED = ("model_type", "dtype", "torch_dtype", "init_class", "init_args", "epsilon", RECORD)
#: Provenance of the software that wrote the source: meaningless to another's loader, so left out and reported.
PROVENANCE = ("transformers_version", "paddlenlp_version", "_from_model_config")
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
    "custom_pipelines": "they are code of the source's repository, which does not travel",
    "trust_remote_code": "no code travels, and whether to run any is for whoever loads the result to say",
    "_name_or_path": "it says where the source was loaded from, and that is another model's place now",
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
        assumed: Fields that some software computes by and that no file says.
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


#: What the classes of PaddleNLP 2.0–2.4 took beside the base model, by position.
_POSITIONAL = {
    "RoFormerForSequenceClassification": ("num_classes", "dropout"),
    "RoFormerForTokenClassification": ("num_classes", "dropout"),
    "RoFormerForMultipleChoice": ("num_choices", "dropout"),
    "RoFormerForQuestionAnswering": ("dropout",),
}


def read_settings(path: Path | None) -> Json:
    """Read a configuration file's keys, PaddleNLP's old nesting undone; none where there is no file.

    Raises:
        FormatError: It is not a JSON object, or nested as no software does.
    """
    return {} if path is None else _flatten_init_args(path, read_json(path, any_encoding=True))


def _flatten_init_args(path: Path, settings: Json) -> Json:
    """Undo the nesting of PaddleNLP 2.0–2.4's ``model_config.json``: a head's arguments hold the base model's."""
    for _ in range(8):
        inner = settings.get("init_args")
        if not isinstance(inner, (list, tuple)) or not inner:
            return settings
        if not isinstance(inner[0], dict):
            raise FormatError(path, f"init_args[0] is a {type(inner[0]).__name__}; wanted the base model's settings")
        outer = {key: value for key, value in settings.items() if key != "init_args"}
        by_position = dict(zip(_POSITIONAL.get(str(settings.get("init_class")), ()), inner[1:], strict=False))
        settings = {**by_position, **inner[0], **outer}  # the outermost init_class is the model's
        if "init_args" in inner[0]:
            settings["init_args"] = inner[0]["init_args"]
    raise FormatError(path, "init_args nested more than 8 deep")


def stated_class(settings: Mapping[str, Any]) -> Any:
    """Return what a configuration says its model's class is called, or None."""
    said = settings.get("architectures") or settings.get("init_class")
    return said[0] if isinstance(said, list) and said else said


def read(
    path: Path | None,
    dialect: Dialect,
    measured: Mapping[str, Any],
    *,
    where: Path,
    kind: ModelClass = MASKED_LM,
    pooler: bool = False,
) -> SourceConfig:
    """Read a dialect's configuration file, or work one out from the tensors' shapes where they decide it.

    Args:
        path: The file, or None where there is none.
        dialect: Whose defaults a missing key takes.
        measured: Field name → what the tensors show: every size, which norms and biases there are, and
            ``num_attention_heads`` and ``max_position_embeddings`` where the file carries its rotary table.
        where: The checkpoint, for messages.
        kind: The model's class.
        pooler: Whether there is a pooler.

    Raises:
        FormatError: The file is not a JSON object.
        MisfitError: A value of the wrong type or out of range; a head count that nothing decides.
    """
    reading = examine(read_settings(path), path, dialect, measured, where=where, kind=kind, pooler=pooler)
    if reading.problems or reading.source is None:
        raise MisfitError(path or where, CONFIGURATION, reading.problems, reading.next_step)
    return reading.source


def examine(
    settings: Json,
    path: Path | None,
    dialect: Dialect,
    measured: Mapping[str, Any],
    *,
    where: Path,
    kind: ModelClass,
    pooler: bool,
    given: Mapping[str, Any] | None = None,
) -> Reading:
    """Read like :func:`read`, but give wrong values beside the rest: the tensors' problems are to be reported with them.

    Args:
        settings: What :func:`read_settings` read.
        path: The file, or None where there is none.
        dialect: The same as for :func:`read`.
        measured: The same as for :func:`read`.
        where: The checkpoint, for messages.
        kind: The model's class.
        pooler: Whether there is a pooler.
        given: Field name → value that holds whatever the file says.

    Raises:
        ConvertError: A field that is given is none, or has a value that cannot be.
    """
    given = {} if given is None else given
    check_given(given)
    reader = _Reader(settings, path, dialect, measured, where, kind, pooler, given)
    return reader.read()


@dataclass
class _Reader:
    """Goes through the fields once, and collects values, notes and problems."""

    settings: Json
    path: Path | None
    dialect: Dialect
    measured: Mapping[str, Any]
    where: Path
    kind: ModelClass
    pooler: bool
    given: Mapping[str, Any]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: Json = field(default_factory=dict)
    spellings: dict[str, str] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)
    said_of_heads: str = ""

    def read(self) -> Reading:
        for item in FIELDS:
            self.field(item)
        wrong_fields = {problem.name for problem in self.problems}
        if not wrong_fields & {"hidden_size", "num_attention_heads"}:
            contradictions = _contradictions(self.values, self.said_of_heads)
            self.problems.extend(contradictions)
            if contradictions:
                self.values["num_attention_heads"] = self.measured.get("num_attention_heads", 1)
        function = [
            *(problem for problem in self.problems if problem.kind == "function"),
            *other_function(self.settings, self.named),
        ]
        self.problems = [problem for problem in self.problems if problem.kind != "function"]
        labels, many = self.values.get("labels", ()), self.values.get("num_labels")
        if self.kind.stated and labels and len(labels) != many and "num_labels" not in wrong_fields:
            detail = f"{len(labels)} names ({quoted(', '.join(labels))}) of {many} labels"
            self.problems.append(Problem("configuration", "labels", detail))
        step = None
        if self.problems or function:
            step = (
                ANOTHERS
                if not self.problems
                else "Name the configuration with --config FILE (config.json, model_config.json or bert_config.json)."
                if self.path is None
                else f"Correct {self.path}, or name another with --config FILE."
            )
            self.problems.extend(function)
        lacking = [item for item in FIELDS if item.name not in self.values and self.default(item) is None]
        if any(item.name not in _MAY_LACK for item in lacking):
            return Reading(None, tuple(self.problems), step)
        known = {item.key[self.position] for item in FIELDS} | DERIVED_FROM
        known |= {"dropout"} if self.dialect == "paddle" else set()
        extra = {key: value for key, value in self.settings.items() if key not in known and key not in _STATED}
        if isinstance(self.settings.get("eos_token_id"), list):
            extra["eos_token_id"] = self.settings["eos_token_id"]
        source = SourceConfig(
            RoFormerConfig(**self.values), self.spellings, extra, tuple(self.notes), frozenset(self.assumed)
        )
        return Reading(source, tuple(self.problems), step)

    @property
    def named(self) -> str:
        return self.where.name if self.path is None else self.path.name

    @property
    def position(self) -> int:
        return Spelling._fields.index(self.dialect)

    def default(self, item: Field) -> Any:
        """Return what the dialect's software takes for an absent key."""
        if self.values.get("norm_type") == "rms_norm" and item.name in _MISSING_V2.get(self.dialect, {}):
            return _MISSING_V2[self.dialect][item.name]
        return item.missing[self.position]

    def field(self, item: Field) -> None:
        """Read one field: as it was given, as the file says it, as the tensors show it, or by default."""
        name, recorded = item.name, self.settings.get(RECORD)
        if name in self.given:
            value = tuple(self.given[name]) if name == "labels" else self.given[name]
            value = _NULL if value is None else value
            self.notes.append(f"{name} = {self.given[name]}, as it was set")
            if name in _TENSORS_SHOW and self.measured.get(name, value) != value:
                value = self.measured[name]
                detail = f"got {self.given[name]} from --set, and the tensors show {value}"
                self.problems.append(Problem("function", name, detail))
        elif isinstance(recorded, dict) and name in recorded:
            value = tuple(recorded[name]) if isinstance(recorded[name], list) else recorded[name]
        elif name in DERIVATIONS:
            value = self.derived(name)
        else:
            value = self.plain(item)
        if value is None:
            return
        if value is _NULL:
            self.values[name] = None
            return
        wrong = complaint(name, value)
        if wrong:
            self.problems.append(Problem("configuration", name, f"got {quoted(value)} in {self.named}, want {wrong}"))
            value = self.measured.get(name, self.default(item))
            if value is None:
                return
        if name in ACTIVATION_FIELDS:
            self.spellings[name] = str(value)
            value = canonical_activation(str(value), self.dialect)
        self.values[name] = value

    def derived(self, name: str) -> Any:
        asked = Asked(self.settings, self.named, self.dialect, self.kind, self.measured, self.pooler, self.where)
        found = DERIVATIONS[name](asked)
        if found is None:
            return None
        if found.note:
            self.notes.append(found.note)
        if found.assumed:
            self.assumed.add(name)
        if found.problem:
            kind = "function" if name in _TENSORS_SHOW else "configuration"
            self.problems.append(Problem(kind, name, found.problem))
        return found.value

    def plain(self, item: Field) -> Any:
        name, key = item.name, item.key[self.position] or item.name
        value = self.settings.get(key)
        if name == "eos_token_id" and isinstance(value, list):
            return None  # carried as it is
        if value is not None:
            return value
        if name == "pad_token_id" and key in self.settings:
            return _NULL
        value = self.measured.get(name)
        if value is not None:
            if self.path is None or name in SYMBOLS.values() or name == "num_hidden_layers":
                self.notes.append(f"{name} = {value}, from the tensors' shapes")
            return value
        if self.path is None and name == "num_attention_heads":
            self.problems.append(
                Problem("configuration", name, "not decided by the tensors' shapes, and no file says it")
            )
            return 1
        value = self.default(item)
        if name == "num_attention_heads":
            self.said_of_heads = f" ({self.dialect}'s default, for {self.named} does not say it)"
        if name == "num_choices" and self.kind.name == "multiple-choice" and self.dialect != "paddle":
            self.assumed.add(name)
        if value is None and name == "hidden_act":
            value = "gelu"
        if value is None:
            if name not in _MAY_LACK:
                self.problems.append(Problem("configuration", name, f"missing from {self.named}"))
            return None
        if self.path is None and name in _CHANGES_THE_FUNCTION:
            self.notes.append(f"{name} = {value}, {self.dialect}'s default: no configuration file says otherwise")
        return value


def _contradictions(values: Json, said: str) -> list[Problem]:
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if hidden % heads:
        detail = f"{heads}{said} does not divide hidden_size = {hidden}"
        return [Problem("configuration", "num_attention_heads", detail)]
    if hidden // heads % 2:
        detail = f"{heads} heads make a head size of {hidden // heads}; rotation needs an even one"
        return [Problem("configuration", "num_attention_heads", detail)]
    return []


def class_name(kind: ModelClass, config: RoFormerConfig, target: Dialect) -> str:
    """Name the class of ``target``'s software that loads what is written."""
    v2 = not Traits.of(config).norms
    if kind is PRETRAINING or (v2 and target == "paddle" and kind is CAUSAL_LM):
        kind = MASKED_LM  # nobody else has a class for pretraining, nor PaddleNLP one for a causal RoFormerV2
    return f"{'RoFormerv2' if v2 and target == 'paddle' else 'RoFormer'}{kind.suffix}"


def write(
    source: SourceConfig, target: Dialect, *, kind: ModelClass, dtype: str, pooler: bool = True
) -> tuple[Json, list[str]]:
    """Spell a configuration in ``target``'s file; return it and what of the source's is left out or changed.

    Args:
        source: The configuration as it was read.
        target: The dialect.
        kind: The class of what is written.
        dtype: The weights' type.
        pooler: Whether there is a pooler.
    """
    position = Spelling._fields.index(target)
    config = source.config
    notes: list[str] = []
    out: Json = {}
    v2 = not Traits.of(config).norms
    architecture = class_name(kind, config, target)
    if target != "tf1":
        out["architectures"] = [architecture]
        out["model_type"] = "roformerv2" if v2 and target == "paddle" else "roformer"
        # transformers before 4.56 reads torch_dtype and later ones dtype. PaddleNLP reads dtype and computes in it at
        # once, which fails for half types on a CPU (no kernel for its rotary table): without the key it loads as float32
        if target != "paddle" or dtype == "float32":
            out["dtype"] = dtype
        if target == "torch":
            out["torch_dtype"] = dtype
    elif kind.stated or kind is CAUSAL_LM or v2:
        out["architectures"] = [architecture]  # bert4keras reads no such key; whoever converts it back does
    pooler_spelled = spelled_pooler(config, source.spellings.get("pooler_activation"), target)
    for item in FIELDS:
        value, key = getattr(config, item.name), item.key[position]
        if key is None or (value is None and item.name != "pad_token_id"):
            continue
        if item.name == "num_choices" and value == 2 and kind.name != "multiple-choice":
            continue
        if item.name == "hidden_act":
            value = spell_activation(value, source.spellings.get(item.name), target) or value
        fixed = item.fixed[position]
        if fixed is not None and value != fixed and item.name not in _TOLD_AS_DIFFERENCES:
            notes.append(f"{key} = {value} is written, but {DIALECT_FILES[target].software} will compute with {fixed}")
        out[key] = value
    if target == "paddle" and "num_choices" in source.assumed:  # no other software reads it
        notes.append(
            f"num_choices = {config.num_choices} is assumed, which PaddleNLP reads: no file says it; otherwise "
            "--set num_choices=…"
        )
    out |= write_derived(config, target, kind, pooler=pooler, pooler_spelled=pooler_spelled)
    for key, value in source.extra.items():
        if key in PROVENANCE:
            if value is not None and value is not True:
                notes.append(f"{key} = {quoted(value)} is left out: it names the software that wrote the source")
        elif isinstance(value, bool) and (key, value) in _MISREAD.get(target, {}):
            notes.append(f"{key} = {value} is left out: {_MISREAD[target][key, value]}")
        elif key in _LEADS_ASTRAY:
            if value not in (None, ""):
                shown = key if key == "_name_or_path" else f"{key} = {quoted(value)}"  # a path is somebody's own
                notes.append(f"{shown} is left out: {_LEADS_ASTRAY[key]}")
        elif key == "architectures":
            if value and _suffix(value[0] if isinstance(value, list) else value) != _suffix(architecture):
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
    record = _unsaid(out, source, target, kind, pooler=pooler)
    if record:
        out[RECORD] = record
    return out, notes


def _unsaid(out: Json, source: SourceConfig, target: Dialect, kind: ModelClass, *, pooler: bool) -> Json:
    """Return the fields that ``target``'s own keys do not say: read back, they would be assumed or mean something else."""
    back = examine(out, None, target, {}, where=Path(), kind=kind, pooler=pooler).source
    assert back is not None, "what is written can be read"
    return {
        item.name: getattr(source.config, item.name)
        for item in FIELDS
        if getattr(back.config, item.name) != getattr(source.config, item.name)
        or item.name in back.assumed - source.assumed
    }


def _suffix(name: Any) -> str:
    """Return what a class's name says beside the family and the framework."""
    return str(name).removeprefix("TF").removeprefix("RoFormerv2").removeprefix("RoFormer")
