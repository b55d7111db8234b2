"""DeepSpeed's checkpoints: a folder for each step, in it the model's state, and what each rank keeps of the optimizer.

``latest`` in the folder above names the newest step. The model is whole in ``mp_rank_00_model_states.pt``, unless it
was divided: by ZeRO's stage 3 over the ranks, or by tensor parallelism.

Source: deepspeed/runtime/engine.py ``_get_ckpt_name``, ``_get_zero_ckpt_name``, ``save_checkpoint``, and
deepspeed/utils/zero_to_fp32.py.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import MisfitError, Problem, quoted

_MODEL = re.compile(r"mp_rank_(\d{2})_model_states\.pt")
_DIVIDED = re.compile(r"zero_pp_rank_\d+_mp_rank_\d{2}_model_states\.pt")
_MASTERS = re.compile(r"(bf16_)?zero_pp_rank_\d+_mp_rank_\d{2}_optim_states\.pt")
_STEP = re.compile(r"global_step\d+")
_LATEST = "latest"
_LONGEST_NAME = 255


def find_model_states(directory: Path) -> Path | None:
    """Return the file that holds the model, or None where this is no folder of DeepSpeed's.

    Args:
        directory: A step's folder, or the one above with all steps.

    Raises:
        MisfitError: Several steps of which none is named the newest, or a model that is divided over files.
    """
    if _has_model(directory):
        return _whole(directory, directory.parent)
    newest = _newest(directory)
    steps = [newest] if newest is not None else [each for each in sorted(directory.iterdir()) if _has_model(each)]
    if not steps:
        return None
    if len(steps) > 1:
        problems = [Problem("step", each.name) for each in steps]
        raise MisfitError(directory, "one step", problems, f"Name the step's folder, for example {steps[-1]}.")
    return _whole(steps[0], directory)


def home_of(model_states: Path) -> Path | None:
    """Return the folder in which a configuration lies that belongs to a step, the step's own left aside; else None."""
    above = model_states.parent.parent
    alone = _STEP.fullmatch(model_states.parent.name) and not (model_states.parent / "config.json").exists()
    is_step = alone or os.path.lexists(above / _LATEST)
    return above if is_step and _MODEL.fullmatch(model_states.name) else None


def say_masters(model_states: Path) -> tuple[str, ...]:
    """Say where weights of more digits are, where ZeRO keeps them apart from the model that computes."""
    files = sorted(each.name for each in model_states.parent.iterdir() if _MASTERS.fullmatch(each.name))
    if not files:
        return ()
    more = f" and {len(files) - 1} more" if files[1:] else ""
    return (
        f"the weights are those that computed; float32 masters and the optimizer's state are in {files[0]}{more}, "
        "from which DeepSpeed's zero_to_fp32.py writes a file of float32 weights",
    )


def _has_model(directory: Path) -> bool:
    if not directory.is_dir():
        return False
    return any(_MODEL.fullmatch(each.name) or _DIVIDED.fullmatch(each.name) for each in directory.iterdir())


def _newest(directory: Path) -> Path | None:
    """Return the step that ``latest`` names, if it is there."""
    if not (directory / _LATEST).is_file():  # opening a pipe would wait for ever
        return None
    try:
        with open(directory / _LATEST, encoding="utf-8") as file:
            name = file.read(_LONGEST_NAME + 1).strip()
    except (OSError, UnicodeDecodeError):
        return None
    plain = 0 < len(name) <= _LONGEST_NAME and name not in (".", "..") and not any(mark in name for mark in "/\\:\0")
    return directory / name if plain and _has_model(directory / name) else None


def _whole(step: Path, above: Path) -> Path:
    names = sorted(each.name for each in step.iterdir())
    divided = [name for name in names if _DIVIDED.fullmatch(name)]
    if divided:
        raise MisfitError(
            step,
            "one file",
            [
                Problem("divided", quoted(name)[1:-1], "a rank's part of the parameters (ZeRO stage 3)")
                for name in divided
            ],
            f"DeepSpeed's zero_to_fp32.py puts them together: python zero_to_fp32.py {above} {above}/pytorch_model.bin",
        )
    models = [name for name in names if _MODEL.fullmatch(name)]
    if len(models) > 1:
        raise MisfitError(
            step,
            "one file",
            [Problem("divided", name, "a rank's part of every kernel (tensor parallelism)") for name in models],
            "Load it where it was trained, on as many ranks, and save one file: engine.save_16bit_model(DIRECTORY).",
        )
    return step / models[0]
