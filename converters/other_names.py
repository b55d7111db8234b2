"""What people type for names that are called otherwise here: ``pytorch`` for ``torch``, ``fp16`` for ``float16``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .table.mapping import CLASSES, DIALECTS

# fmt: off
_NAMES: Mapping[str, tuple[str, ...]] = {
    # dialects and frameworks
    "paddle":     ("paddlenlp", "paddlepaddle", "pd"),
    "torch":      ("pytorch", "pt", "transformers", "huggingface", "hf"),
    "tf":         ("tensorflow", "tf2", "tensorflow2", "tensorflow-cpu"),
    "tf1":        ("bert4keras", "tensorflow1"),
    # types
    "float64":    ("fp64", "f64", "double"),
    "float32":    ("fp32", "f32", "float", "single"),
    "float16":    ("fp16", "f16", "half"),
    "bfloat16":   ("bf16", "bfloat"),
    # exports and containers
    "savedmodel": ("saved_model", "saved-model"),
    "h5":         ("hdf5",),
    # classes
    **{each.name: tuple(f"{family}{each.suffix}".lower() for family in ("RoFormer", "TFRoFormer", "RoFormerV2"))
       for each in CLASSES.values()},
}
# fmt: on
#: What ``export`` makes; people look for it among the dialects.
EXPORTS = ("onnx", "savedmodel", "paddle-inference")
_USUAL = {other: name for name, others in _NAMES.items() for other in others}


def usual_name(typed: str, names: Iterable[str]) -> str:
    """Return which of ``names`` is meant by what was typed; itself where none is known to be."""
    names = list(names)
    if typed in names:
        return typed
    lower = typed.lower()
    usual = lower if lower in names else _USUAL.get(lower, typed)
    return usual if usual in names else typed


def did_you_mean(typed: str, names: Iterable[str]) -> str:
    """Ask for the nearest of ``names`` in a sentence that begins with a space; nothing where none is near.

    An export's name, alone or as a direction's end, is no dialect's: there the command that makes it is named.
    """
    import difflib

    export = usual_name(typed.rpartition("2")[2], EXPORTS)
    if export in EXPORTS:
        return f" That is an export: roformer-convert export DIR --to {export}"
    near = difflib.get_close_matches(typed.lower(), list(names), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def usual_direction(typed: str) -> str:
    """Return the direction that is meant: ``paddle2torch`` for ``pd2pytorch`` and for ``paddle-to-torch``."""
    lower = typed.lower()
    for between in ("-to-", "_to_", "2"):
        for place in range(len(lower)):  # tf2 and tf12torch have a 2 in a name
            if lower.startswith(between, place):
                both = [usual_name(name, DIALECTS) for name in (lower[:place], lower[place + len(between) :])]
                if all(name in DIALECTS for name in both):
                    return "2".join(both)
    return typed
