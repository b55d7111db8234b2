"""Read a dialect's configuration file into canonical terms, and say what is wrong with it.

:func:`read` goes through the rows of :mod:`.config_fields` and raises what is wrong; :func:`examine` returns it, to be
reported with what is wrong with the tensors. What a file says of the function that no field can hold is held against
:mod:`.statements`: another model may have the same tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import FormatError, MisfitError, Problem, quoted
from ..json_input import Json, read_json
from .activations import canonical_activation
from .config import RoFormerConfig
from .config_fields import FIELDS, MISSING_V2, RECORD, Field, SourceConfig
from .derived_fields import DERIVATIONS, DERIVED_FROM, Asked
from .field_values import ACTIVATION_FIELDS, check_given, complaint
from .mapping import MASKED_LM, SYMBOLS, Dialect, ModelClass, Spelling
from .statements import ANOTHERS, other_function

#: What a configuration with problems does not fit, in messages.
CONFIGURATION = "RoFormer's configuration"

_CHANGES_THE_FUNCTION = ("hidden_act", "layer_norm_eps", "max_position_embeddings", "rotary_value")

#: Fields that may be null, or that nothing needs to say.
_MAY_LACK = ("problem_type", "classifier_dropout", "eos_token_id", "pooler_activation")
#: Which tensors there are decides these.
_TENSORS_SHOW = ("norm_type", "use_bias")
#: What a file says with null, where that means something.
_NULL = object()
#: Keys that say what the weights are, not what the model computes: written anew for each dialect.
_STATED = ("model_type", "dtype", "torch_dtype", "init_class", "init_args", "epsilon", RECORD)


@dataclass(frozen=True)
class Reading:
    """What a configuration file says, beside what is wrong with it.

    Attributes:
        source: The configuration as read, a wrong value replaced by what the tensors show; None where they do not show
            it.
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
    """Read like :func:`read`, but return what is wrong: the tensors' problems are to be reported with it.

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
        ConvertError: There is no field of a given name, or it has a value that cannot be.
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
        step = self.next_step if self.problems else ANOTHERS if function else None
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
            RoFormerConfig(**self.values),
            self.spellings,
            extra,
            tuple(self.notes),
            frozenset(self.assumed),
            frozenset(self.given),
        )
        return Reading(source, tuple(self.problems), step)

    @property
    def next_step(self) -> str:
        if self.path is None:
            return "Name the configuration with --config FILE (config.json, model_config.json or bert_config.json)."
        return f"Correct {self.path}, or name another with --config FILE."

    @property
    def named(self) -> str:
        return self.where.name if self.path is None else self.path.name

    @property
    def position(self) -> int:
        return Spelling._fields.index(self.dialect)

    def default(self, item: Field) -> Any:
        """Return what the dialect's software takes for an absent key."""
        if self.values.get("norm_type") == "rms_norm" and item.name in MISSING_V2.get(self.dialect, {}):
            return MISSING_V2[self.dialect][item.name]
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
