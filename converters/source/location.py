"""Where a checkpoint lies: a path as it is, a hub's name fetched into its cache, a cache folder followed to a snapshot.

``hub:owner/name[@revision]`` needs huggingface_hub (extra ``hub``), which keeps what it fetched; everything that opens
a checkpoint takes such a name. Only what is needed is fetched: weights in one format, configuration, tokenizer.

Source of the cache's layout: huggingface_hub 2.4, "Understand caching": ``models--owner--name/{blobs,refs,snapshots}``.
"""

from __future__ import annotations

import atexit
import errno
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..containers.registry import containers_of
from ..errors import ConvertError, quoted, reading, stand_for
from ..table.dialects import COMPANIONS, DIALECT_FILES
from ..table.mapping import DIALECTS, Dialect

PREFIX = "hub:"
_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_REVISION = re.compile(r"[\w./-]{1,200}")
#: A model's address in a browser, as a path has it: two slashes are one.
_ADDRESS = re.compile(r"https?:/[\w.:-]+/([\w.-]{1,96}/[\w.-]{1,96})(?:/tree/([\w.-]{1,200}))?")
#: Errors of the disk, where those of a connection have other numbers or none.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EACCES, errno.EPERM)
#: What a snapshot's link says: the blob beside ``snapshots/`` that holds the file.
_LINK_TEXT, _LONGEST_LINK = re.compile(rb"\.\./\.\./blobs/([0-9a-f]{8,64})\s*"), 100
#: Directory of links of our own → the snapshot that it stands for.
_MADE: dict[Path, Path] = {}
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
#: Files that huggingface_hub leaves at the top of its cache.
_OF_THE_CACHE = ("version.txt", "CACHEDIR.TAG")
#: What is in a model's folder of the cache.
_INSIDE = ("blobs", "refs", "snapshots")
#: Whose files are taken where a repository or a directory has several: transformers' first, which a hub is full of.
PREFERRED: tuple[Dialect, ...] = ("torch", "paddle", "tf", "tf1")


def is_hub_name(source: str | Path) -> bool:
    """Say whether a source is a name on a hub."""
    return str(source).startswith(PREFIX)


def shown_name(source: str | Path) -> str | None:
    """Return the last part of a hub's name, for files that are called after it; None for what is not a hub's.

    ``hub:owner/name@main`` → ``name``; a folder of its cache, in which nothing else may be written, likewise.
    """
    if is_hub_name(source):
        return str(source).removeprefix(PREFIX).partition("@")[0].rpartition("/")[2]
    path = Path(os.path.abspath(source))
    cached = (path, path.parent, path.parent.parent if path.parent.name == "snapshots" else path)
    return next((match[2] for each in cached if (match := _CACHED.fullmatch(each.name))), None)


def locate(source: str | Path) -> Path:
    """Return the path at which a source lies, fetched where a hub has it.

    Args:
        source: A path, ``hub:owner/name[@revision]``, or a folder of a hub's cache.

    Raises:
        ConvertError: The name is malformed, the hub has no such model, or it cannot be reached and nothing is in its
            cache.
    """
    if is_hub_name(source):
        return _fetch(str(source).removeprefix(PREFIX))
    path = Path(source)
    if path.name in _INSIDE and is_cached_model(path.parent):
        path = path.parent
    return _with_links(_snapshot_of(path)) if path.is_dir() else path


def is_cached_model(directory: Path) -> bool:
    """Say whether a folder is that of a model in a hub's cache."""
    return _CACHED.fullmatch(directory.name) is not None and (directory / "snapshots").is_dir()


def root_of(directory: Path) -> Path:
    """Return the folder that a checkpoint's files lie in, links followed: a snapshot's lie beside it in the cache."""
    real = _MADE.get(directory, directory).resolve()
    model = real.parent.parent
    return model if real.parent.name == "snapshots" and _CACHED.fullmatch(model.name) else real


def hint_for(source: Path) -> str | None:
    """Say what a path that is not there may have meant, or nothing."""
    text = source.as_posix()
    address = _ADDRESS.fullmatch(text)
    if address is not None:
        revision = f"@{address[2]}" if address[2] else ""
        return f"An address is not fetched; if it is a model on the hub, write {PREFIX}{address[1]}{revision}."
    if _NAME.fullmatch(text) and not source.parent.exists():
        return f"If it is a model on the hub, write {PREFIX}{text}; otherwise name a checkpoint directory."
    return None


# The hub -------------------------------------------------------------------------------------------------------------


def _fetch(text: str) -> Path:
    name, at, revision = text.partition("@")
    if not _NAME.fullmatch(name) or (at and not _REVISION.fullmatch(revision)) or ".." in text:
        raise ConvertError(
            f"{PREFIX}{quoted(text)[1:-1]}: not a name on a hub",
            f"Write {PREFIX}owner/name or {PREFIX}owner/name@revision.",
        )
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ConvertError(
            f"{PREFIX}{name} needs huggingface_hub, which is not installed",
            "Install it with: pip install '.[hub]' (in a checkout of roformer-convert), or download the files.",
        ) from None
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted = revision or None
    try:
        try:
            info = hub.HfApi().model_info(name, revision=wanted)
        except (HfHubHTTPError, HFValidationError):
            raise
        except Exception as error:  # of whichever library the package speaks HTTP with, or that it is told not to
            return _cached(name, wanted, error)
        files = _choose([each.rfilename for each in info.siblings or ()], name)
        folder = None
        for file in files:
            folder = Path(hub.hf_hub_download(name, file, revision=info.sha or wanted)).parent
        assert folder is not None, "there is a weight file"
        return folder
    except HFValidationError as error:
        raise ConvertError(f"{PREFIX}{name}: {_first_line(error)}", f"Write {PREFIX}owner/name.") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        where = f"{PREFIX}{name}" + (f"@{wanted}" if wanted else "")
        step = "Look at the spelling of owner, name and revision."
        if status in (401, 403):
            step = "If it is private or wants its terms accepted: log in with `hf auth login`, or set HF_TOKEN."
        elif status == 429 or (status or 0) >= 500:
            step = "That is the hub's own trouble: try again later. What was fetched is kept."
        raise ConvertError(f"{where}: the hub answers {status}: {_first_line(error)}", step) from None
    except ConvertError:
        raise
    except Exception as error:
        raise _unreachable(name, error) from None


def _cached(name: str, revision: str | None, error: Exception) -> Path:
    """Return what an earlier run fetched, where the hub is not asked or does not answer."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    if not (folder / "snapshots").is_dir():
        raise _unreachable(name, error)
    return _snapshot_of(folder, revision or "main")


def _unreachable(name: str, error: Exception) -> ConvertError:
    if getattr(error, "errno", None) in _DISK:
        what = f"{PREFIX}{name}: cannot be kept in the hub's cache: {_first_line(error)}"
        return ConvertError(what, "Make room there, or set HF_HOME to a folder that can be written to.")
    return ConvertError(
        f"{PREFIX}{name}: the hub is not reached and its cache does not hold the model ({_first_line(error)})",
        "Connect and try again, without HF_HUB_OFFLINE; or copy the model's folder here and name that.",
    )


def _first_line(error: Exception) -> str:
    return quoted((str(error).strip().splitlines() or [type(error).__name__])[0], 160)[1:-1]


def _choose(files: Sequence[str], name: str) -> list[str]:
    """Choose what a conversion needs of a repository's files: the weights in one format, and what travels with them.

    Raises:
        ConvertError: There are no weights at its top.
    """
    top = [file for file in files if "/" not in file]
    for dialect in PREFERRED:
        for container in containers_of(dialect):
            weights = [file for file in top if _is_of(file, container.single)]
            if weights:
                configs = {config for each in DIALECTS for config in DIALECT_FILES[each].configs}
                return [*weights, *(file for file in top if file in configs or file in COMPANIONS)]
    held = ", ".join(quoted(file)[1:-1] for file in sorted(files)[:8]) or "nothing"
    raise ConvertError(
        f"{PREFIX}{name}: no RoFormer weights at the top of the repository; it holds {held}",
        "If they lie in a folder of it, or under other names, download them and name the file.",
    )


def _is_of(file: str, single: str) -> bool:
    """Say whether a file is a model's one weight file, a shard or the shards' index, or one of a TF checkpoint's."""
    stem, _, ending = single.rpartition(".")
    return file == single or file.startswith(f"{single}.") or fnmatchcase(file, f"{stem}-*-of-*.{ending}")


# Its cache -----------------------------------------------------------------------------------------------------------


def _snapshot_of(directory: Path, revision: str = "main") -> Path:
    """Follow a folder of the cache to the snapshot of a revision; any other directory is itself.

    Raises:
        ConvertError: Several models, or no snapshot of the revision among several.
    """
    if not (directory / "snapshots").is_dir():
        models = sorted(path for path in _listed(directory) if _CACHED.fullmatch(path.name))
        others = [path for path in _listed(directory) if path.is_file() and path.name not in _OF_THE_CACHE]
        if not models or others:
            return directory
        if len(models) > 1:
            names = ", ".join(path.name for path in models[:8])
            raise ConvertError(f"{directory}: a hub's cache with {len(models)} models: {names}", "Name one of them.")
        return _snapshot_of(models[0])
    snapshots = {path.name: path for path in sorted(_listed(directory / "snapshots")) if path.is_dir()}
    try:
        commit = (directory / "refs" / revision).read_text(encoding="ascii")[:64].strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    if commit in snapshots:
        return snapshots[commit]
    if len(snapshots) == 1 and revision == "main":
        return next(iter(snapshots.values()))
    names = ", ".join(quoted(name, 60)[1:-1] for name in list(snapshots)[:8]) or "none"
    raise ConvertError(
        f"{directory}: a folder of a hub's cache that has no snapshot for {revision}; it has {names}",
        "Name the snapshot's folder.",
    )


def _with_links(snapshot: Path) -> Path:
    """Return a snapshot whose links a copy made to texts, as git and zip do, with links again; any other as it is.

    The links are made in a directory of their own, which is gone when the process ends.

    Raises:
        ConvertError: A link's text names a blob that was not copied.
    """
    if snapshot.parent.name != "snapshots":
        return snapshot
    texts = {path.name: blob for path in _listed(snapshot) if (blob := _text_link(path)) is not None}
    if not texts:
        return snapshot
    import tempfile

    made = Path(tempfile.mkdtemp(prefix="roformer-snapshot-")) / snapshot.name
    atexit.register(shutil.rmtree, made.parent, ignore_errors=True)
    made.mkdir()
    _MADE[made] = snapshot
    stand_for(made, snapshot)
    for path in _listed(snapshot):
        (made / path.name).symlink_to(texts.get(path.name, path).resolve())
    return made


def _text_link(path: Path) -> Path | None:
    """Return the blob that a file of a snapshot names, where it is a link's text instead of a link."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _LONGEST_LINK:
        return None
    with reading(path):
        match = _LINK_TEXT.fullmatch(path.read_bytes())
    if match is None:
        return None
    blob = path.parent.parent.parent / "blobs" / match[1].decode()
    if not blob.is_file():
        raise ConvertError(
            f"{path}: the text of a link to a blob of the hub's cache, which is not there",
            f"Copy the whole folder {blob.parent.parent.name} with blobs/ in it, or fetch the model again.",
        )
    return blob


def _listed(directory: Path) -> Iterable[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise ConvertError(f"{directory}: cannot be read: {error.strerror or os.strerror(error.errno or 0)}") from None
