"""Say what a folder without weights does hold, and what to do: the answer to a path that was nearly right."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import ConvertError, FormatError, MisfitError, printable, quoted
from ..json_input import read_json
from . import foreign_files

#: How far below a folder weights are looked for, and in how many folders at most.
_DEPTH, _MOST_FOLDERS = 4, 200
#: Files that are opened to see whether they are pointers.
_MOST_LOOKED_INTO = 1000
#: Folders or files that a message lists.
_MOST_LISTED = 8
#: In the file that TensorFlow calls ``checkpoint``.
_STATE = re.compile(r'^model_checkpoint_path:\s*"([^"]+)"', re.MULTILINE)
#: A step that its program called the last one, whatever numbers the others have: Lightning's last.ckpt.
_CALLED_LAST = re.compile(r"(?<![a-z])(last|latest|final)(?![a-z])", re.I)
_LONGEST_NOTE = 1 << 16


def explain(directory: Path, looked_for: Sequence[str], has_weights: Callable[[Path], bool]) -> ConvertError:
    """Make the error for a folder in which no weights were found.

    Args:
        directory: The folder.
        looked_for: Names of weight files.
        has_weights: Whether a folder has some.
    """
    entries = sorted(directory.iterdir())
    names = [entry.name for entry in entries]
    pointers = [entry.name for entry in entries[:_MOST_LOOKED_INTO] if foreign_files.is_lfs_pointer(entry)]
    if pointers:
        what = f"{directory}: {_listed(pointers)} is Git LFS's pointer, not the file itself; there are no weights here"
        return ConvertError(what, "Fetch the files with `git lfs pull` in the repository, or download them themselves.")
    told = _tell(directory, names)
    if told is not None:
        return told
    below = _below(directory, has_weights)
    if below:
        return _one_level_down(directory, below)
    if directory.parent.name == "snapshots" and (directory.parent.parent / "blobs").is_dir():
        what = f"{directory}: a snapshot of a hub's cache, in which there are no weights: only a part was fetched"
        return ConvertError(what, "Name the model as hub:owner/name, with the hub in reach: that fetches the rest.")
    for level in _levels(directory):
        for folder in level:
            told = _tell(folder, [entry.name for entry in _entries(folder)])
            if told is not None:
                return told
    kind = _kind_of(names)
    if kind is not None:
        return _foreign(directory, kind, names)
    looked = f"no RoFormer weights here; looked for {', '.join(looked_for)}"
    held = (
        f"it holds {_listed([name + '/' * (directory / name).is_dir() for name in names])}" if names else "it is empty"
    )
    return ConvertError(
        f"{directory}: {looked}; {held}", "Name the directory that holds them, or the weight file itself."
    )


def _tell(directory: Path, names: Sequence[str]) -> ConvertError | None:
    """Make the error for a folder whose files' names say what it is, as an optimizer's or a tokenizer's do not."""
    kind, kinds = _kind_of(names), foreign_files.KINDS
    if kind is None or kinds.index(kind) >= kinds.index(foreign_files.OPTIMIZER):
        return None
    return _foreign(directory, kind, names)


def _kind_of(names: Sequence[str]) -> foreign_files.Kind | None:
    """Return the kind that says most about a folder."""
    kinds = [foreign_files.kind_of(name) for name in names]
    return next((kind for kind in foreign_files.KINDS if kind in kinds), None)


def newest(directory: Path, names: Sequence[str]) -> tuple[str, str]:
    """Return which of several steps of a run is meant, and why, as a clause: ", which latest names"; or no clause.

    Args:
        directory: Where they lie.
        names: Their files' prefixes, or their folders; there is one at least.
    """
    for note, said in (
        ("checkpoint", _stated),
        ("latest", str.strip),
        ("latest_checkpointed_iteration.txt", lambda text: f"iter_{int(text):07d}"),
        ("trainer_state.json", lambda text: str(json.loads(text).get("best_model_checkpoint") or "")),
    ):
        try:
            name = re.split(r"[\\/]", said(_read_note(directory / note)))[-1]
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        for each in names:
            if name and each.split("/")[0] == name:
                return each, f", which {note} names"
    if not any(re.search(r"\d", name) for name in names):
        return names[0], ""
    called = [name for name in names if _CALLED_LAST.search(name)]
    if len(called) == 1:
        return called[0], ", the last one"
    last = max(names, key=lambda name: ([int(digits) for digits in re.findall(r"\d{1,18}", name)], name))
    return last, ", the last one"


def _read_note(path: Path) -> str:
    """Read the beginning of a small text.

    Raises:
        OSError: It cannot be read, or is no file: opening a pipe would wait for ever.
        ValueError: It is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    with open(path, "rb") as file:
        return file.read(_LONGEST_NOTE).decode()


def _stated(text: str) -> str:
    match = _STATE.search(text)
    return "" if match is None else match[1]


def _foreign(directory: Path, kind: foreign_files.Kind, names: Sequence[str]) -> ConvertError:
    these = [name for name in names if foreign_files.kind_of(name) is kind]
    what = f"{directory}: no weights here, but {kind.what}: {_listed(these)}"
    step = merging(directory) if kind is foreign_files.ADAPTERS else kind.step
    if kind is foreign_files.SAVED_MODEL and (directory / "variables" / "variables.index").is_file():
        step += (
            "\n  If that is lost: its variables are a TF2 checkpoint, which is read where they kept their names: "
            f"{directory}/variables/variables with --config FILE."
        )
    return ConvertError(what, step)


def merging(directory: Path) -> str:
    """Write the call that merges adapters into their base model, which their configuration names."""
    base = "BASE"
    try:
        said = read_json(directory / "adapter_config.json").get("base_model_name_or_path")
        base = said if isinstance(said, str) and said else base
    except FormatError:
        pass
    return (
        "Merge them into their base model with the package peft, and name the result:\n"
        f"    base = AutoModelForMaskedLM.from_pretrained({quoted(base)})\n"
        f"    PeftModel.from_pretrained(base, {quoted(str(directory), 400)}).merge_and_unload()"
        '.save_pretrained("merged")'
    )


def _one_level_down(directory: Path, below: Sequence[str]) -> ConvertError:
    if len(below) == 1:
        what = f"{directory}: no weights at its top; they are in {printable(below[0])}/"
        return ConvertError(what, f"Name that: {directory / printable(below[0])}")
    name, why = newest(directory, below)
    what = f"{directory}: no weights at its top; there are some in {len(below)} folders: {_listed(below)}"
    return ConvertError(what, f"Name one, for example {directory / printable(name)}{why}.")


def _levels(directory: Path) -> Iterator[list[Path]]:
    """Give the folders below one, level by level."""
    level, seen = [directory], 0
    for _ in range(_DEPTH):
        level = [Path(entry.path) for folder in level for entry in _folders(folder)][: _MOST_FOLDERS - seen]
        seen += len(level)
        yield level


def _below(directory: Path, has_weights: Callable[[Path], bool]) -> list[str]:
    """Return the folders below that have weights, those at one depth: in the nearest ones nothing is looked for."""
    for level in _levels(directory):
        found = [folder.relative_to(directory).as_posix() for folder in level if _quietly(has_weights, folder)]
        if found:
            return found
    return []


def _folders(directory: Path) -> list[os.DirEntry[str]]:
    entries = _entries(directory)
    if any(entry.name == "saved_model.pb" for entry in entries):  # its variables are a part of a program
        return []
    return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]


def _entries(directory: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """Return what is in a folder by name, nothing where it cannot be read."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda each: each.name)
    except OSError:
        return []


def _quietly(has_weights: Callable[[Path], bool], folder: Path) -> bool:
    try:
        return has_weights(folder)
    except MisfitError:  # weights in several pieces: who names the folder is told
        return True
    except (ConvertError, OSError):
        return False


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(quoted(name, 60)[1:-1] for name in names[:_MOST_LISTED])
    return shown + (f" and {len(names) - _MOST_LISTED:,} more" if len(names) > _MOST_LISTED else "")
