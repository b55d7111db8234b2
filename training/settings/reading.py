"""Read :class:`~.tables.Settings` from a TOML file and flags, and refuse what cannot be run, all problems at once.

A shipped configuration is found by its name where there is no such file; the commands say when that is so.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ...converters.errors import ConvertError, FormatError, quoted, reading
from .tables import TABLES, Settings, Stage, read_range

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Configurations that come with the package.
SHIPPED = Path(__file__).resolve().parents[1] / "configs"

#: Limits of a configuration file. Those that are shipped have 2 kB, two dots in a key and brackets two deep; Python's
#: parser takes memory and time that grow with the square of the dots, and a frame of its stack for each bracket.
_LARGEST, _MOST_DOTS, _DEEPEST, _LONGEST_NUMBER = 1 << 18, 16, 16, 100
#: Problems that are listed.
_MOST_PROBLEMS = 50
#: Text and comments, in which nothing counts. What is not closed reaches as far as it can, so that no file is looked at
#: twice.
_TEXT = re.compile(
    r"""
    "{3} (?: [^"\\] | \\. | "(?!"") )* (?: "{3,5} )?
    | '{3} .*? (?: '{3,5} | \Z )
    | " (?: [^"\\\n] | \\. )* "?
    | ' [^'\n]* '?
    | \# [^\n]*
    """,
    re.DOTALL | re.VERBOSE,
)
_DOTS = re.compile(rf"(?:\.[^.,=\[\]{{}}\n]*){{{_MOST_DOTS + 1}}}")
_NUMBER = re.compile(rf"\b[0-9]\w{{{_LONGEST_NUMBER}}}")
_BRACKET = re.compile(r"[\[{]|[\]}]")


class SettingsError(ConvertError):
    """A configuration that cannot be run.

    Args:
        where: The file, or what stands for it.
        problems: A sentence each, never empty.
    """

    def __init__(self, where: Path | str, problems: Sequence[str]) -> None:
        count = len(problems)
        lines = [f"{where} is not a configuration that can be run ({count} problem{'s' * (count != 1)})"]
        more = [f"… and {count - _MOST_PROBLEMS:,} more"] * (count > _MOST_PROBLEMS)
        super().__init__("\n  ".join([*lines, *problems[:_MOST_PROBLEMS], *more]))
        self.problems = tuple(problems)


def shipped_configurations() -> list[Path]:
    """Return the shipped configurations by name."""
    return sorted(SHIPPED.glob("*.toml"))


def find_shipped(path: Path) -> Path:
    """Return the shipped configuration that is called so: by ``tiny``, ``tiny.toml`` or ``configs/tiny.toml``.

    No other path will do: a mistyped directory must not become another file than the one that was meant.

    Raises:
        ConvertError: There is none.
    """
    for each in shipped_configurations():
        if path in (Path(each.stem), Path(each.name), Path("configs", each.name)):
            return each
    names = ", ".join(f"configs/{each.name}" for each in shipped_configurations())
    raise ConvertError(f"{path}: no such configuration", f"Name a TOML file, or one of those shipped: {names}.")


def find_configuration(path: Path) -> Path:
    """Return the file itself or, where there is none, the shipped configuration that is called so.

    Raises:
        ConvertError: There is neither.
    """
    return path if path.is_file() else find_shipped(path)


def read_settings(path: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read a configuration file; ``flags`` (key → value) overrule it.

    A flag of a stage's key holds a list: one value for every stage, or one a stage.

    Raises:
        SettingsError: Unknown keys, wrong types, impossible values.
        ConvertError: The file cannot be read.
    """
    path = find_configuration(path)
    return settings_from_tree(_read_toml(path), path, flags)


def _read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file without trusting it.

    Raises:
        FormatError: It is not TOML, or it is larger or nested deeper than any configuration.
    """
    with reading(path), open(path, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise FormatError(path, f"a configuration of more than {_LARGEST:,} bytes; wanted a TOML file of a run")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise FormatError(path, "not TOML: not UTF-8 text", offset=error.start) from None
    bare = _TEXT.sub('""', text)
    depth = 0
    for bracket in _BRACKET.findall(bare):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            raise FormatError(path, f"brackets are nested deeper than {_DEEPEST} levels; a configuration has two")
    if _DOTS.search(bare):
        raise FormatError(path, f"a key of more than {_MOST_DOTS} dots; wanted table.key")
    if _NUMBER.search(bare):
        raise FormatError(path, f"a number of more than {_LONGEST_NUMBER} digits")
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(path, f"not TOML: {quoted(str(error), 200)[1:-1]}") from None
    return tree


def settings_from_tree(
    tree: Mapping[str, Any], where: Path | str = "settings", flags: Mapping[str, Any] | None = None
) -> Settings:
    """Make settings of plain tables and values, as TOML and JSON hold them.

    Raises:
        SettingsError: Unknown keys, wrong types, impossible values.
    """
    problems: list[str] = []
    tree = _with_flags(tree, flags or {}, problems)
    for name in tree:
        if name not in TABLES and name != "stages":
            problems.append(_unknown(name, [*TABLES, "stages"], ""))
    tables = {name: _record(kind, tree.get(name, {}), name, problems) for name, kind in TABLES.items()}
    stages = tree.get("stages", [])
    if not isinstance(stages, list) or not stages:
        problems.append("stages: want at least one [[stages]] with length, batch_size and steps")
        stages = []
    records = [_record(Stage, stage, f"stages[{number}]", problems) for number, stage in enumerate(stages)]
    if problems:
        raise SettingsError(where, problems)
    settings = Settings(stages=tuple(records), **tables)
    problems = impossible(settings)
    if problems:
        raise SettingsError(where, problems)
    return settings


def impossible(settings: Settings) -> list[str]:
    """Say what in the settings cannot be together, in a sentence each; each value by itself was checked before."""
    out: list[str] = []
    data, model, scaling = settings.data, settings.model, settings.scaling
    if not data.mlm and not data.sop:
        out.append("data.mlm and data.sop are both off: want at least one objective")
    if settings.run.exchange == "half" and settings.run.precision == "fp32":
        out.append("run.exchange = 'half': want a precision with a half type, or 'float32'")
    head, rest = divmod(model.hidden_size, model.num_attention_heads)
    if rest or head % 2:
        out.append(
            f"model.num_attention_heads = {model.num_attention_heads}: want a divisor of hidden_size = "
            f"{model.hidden_size} that leaves an even head size, because rotation works on pairs"
        )
    if scaling.min_loss_scaling > scaling.init_loss_scaling:
        out.append(
            f"scaling.min_loss_scaling = {scaling.min_loss_scaling:g}: want at most init_loss_scaling = "
            f"{scaling.init_loss_scaling:g}"
        )
    for text in data.skip_steps:
        try:
            read_range(text)
        except ValueError:
            out.append(f"data.skip_steps: {quoted(text)}: want a step, such as 513, or a range, such as 510-520")
    for number, stage in enumerate(settings.stages):
        out.extend(f"stages[{number}].{problem}" for problem in _impossible_stage(stage, number, settings))
    return out


def _impossible_stage(stage: Stage, number: int, settings: Settings) -> list[str]:
    out: list[str] = []
    limit = settings.model.max_position_embeddings
    if stage.length > limit:
        out.append(f"length = {stage.length}: want at most max_position_embeddings = {limit}")
    if bool(stage.batch_size) == bool(stage.batch_tokens):
        given = f"{stage.batch_size} and batch_tokens = {stage.batch_tokens}" if stage.batch_size else "0"
        out.append(f"batch_size = {given}: want one of batch_size and batch_tokens, and 0 for the other")
    if 0 < stage.batch_tokens < stage.length:
        out.append(f"batch_tokens = {stage.batch_tokens}: want at least length = {stage.length}")
    if 0 < stage.micro_tokens < stage.length:
        out.append(f"micro_tokens = {stage.micro_tokens}: want 0, or at least length = {stage.length}")
    if stage.max_lr is None:
        if number == 0:
            out.append("max_lr: missing, and there is no stage before it whose schedule could go on")
        own = [
            key for key in ("min_lr", "warmup_steps", "decay", "decay_steps") if getattr(stage, key) != _DEFAULTS[key]
        ]
        if own:
            out.append(f"{', '.join(own)}: need max_lr, which begins a schedule")
        return out
    if stage.min_lr > stage.max_lr:
        out.append(f"min_lr = {stage.min_lr}: want at most max_lr = {stage.max_lr}")
    if stage.decay_steps and stage.decay_steps <= stage.warmup_steps:
        out.append(f"decay_steps = {stage.decay_steps}: want 0, or more than warmup_steps = {stage.warmup_steps}")
    return out


_DEFAULTS = {each.name: each.default for each in fields(Stage)}


def _with_flags(tree: Mapping[str, Any], flags: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    out = {name: dict(value) if isinstance(value, dict) else value for name, value in tree.items()}
    homes = {each.name: name for name, kind in TABLES.items() for each in fields(kind)}
    for key, value in flags.items():
        if key in homes:
            table = out.setdefault(homes[key], {})
            if isinstance(table, dict):
                table[key] = value
            continue
        stages = out.get("stages") or [{}]
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            continue  # reported where the tree is read
        if len(value) not in (1, len(stages)):
            problems.append(f"--{key.replace('_', '-')}: {len(value)} values for {len(stages)} stages")
            continue
        values = value * len(stages) if len(value) == 1 else value
        out["stages"] = [{**stage, key: each} for stage, each in zip(stages, values, strict=True)]
    return out


def _record(kind: type, table: Any, where: str, problems: list[str]) -> Any:
    """Make one record of a table; None where something is wrong with it."""
    if not isinstance(table, dict):
        problems.append(f"{where}: want a table")
        return None
    hints = get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}
    before = len(problems)
    values = {}
    for key, value in table.items():
        if key not in known:
            problems.append(_unknown(key, known, f"{where}."))
            continue
        within = known[key].metadata["within"]
        try:
            values[key] = _typed(value, hints[key])
        except ValueError as error:
            problems.append(f"{where}.{key} = {quoted(value)}: want {error}")
            continue
        if isinstance(values[key], (int, float)) and values[key] not in within:
            problems.append(f"{where}.{key} = {quoted(value)}: want {within}")
    for key, each in known.items():
        if key not in table and each.default is MISSING:
            problems.append(f"{where}.{key}: missing ({each.metadata['help']})")
    return kind(**values) if len(problems) == before else None


def _typed(value: Any, hint: Any) -> Any:
    """Return ``value`` as what ``hint`` asks for.

    Raises:
        ValueError: It is something else; the message says what was wanted.
    """
    choices = get_args(hint)
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) >= 1 << 63:  # TOML's own limit, which Python's parser does not keep
                raise ValueError("a whole number of 64 bits")
            return value
        raise ValueError("a whole number")
    if hint is float or float in choices:
        if value is None and type(None) in choices:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf"):
            return float(value)
        raise ValueError("a number")
    if choices and str in choices:  # tuple[str, ...]
        if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise ValueError("a list of strings")
    if choices:  # Literal
        if value in choices:
            return value
        raise ValueError(" or ".join(choices))
    if isinstance(value, str):
        return value
    raise ValueError("a string")


def _unknown(name: str, known: Mapping[str, Any] | Sequence[str], prefix: str) -> str:
    near = difflib.get_close_matches(name[:100], list(known), 1)
    shown = name if name.isidentifier() and len(name) <= 80 else quoted(name)
    return f"{prefix}{shown}: unknown" + (f"; did you mean {near[0]}?" if near else "")
