"""Names on a hub: a server on this machine that speaks its calls, its cache, and what is said without either."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from keras_shards import write_keras_shards
from random_checkpoints import read_all, same_bits, write_random

from roformer_convert.converters.table.mapping import Dialect

pytest.importorskip("huggingface_hub")

SHA = "abcdef0123456789abcdef0123456789abcdef01"
OLD = "1234567890abcdef1234567890abcdef12345678"
COMMAND = [sys.executable, "-m", "roformer_convert"]


@dataclass
class Hub:
    """A hub with one repository, which counts what it is asked for.

    Attributes:
        directory: The repository's files, at every revision.
        asked: Method and path of each request.
        status: What it answers with, where that is not 200.
        failing: Name of a file that it fails to send.
    """

    directory: Path
    asked: list[str] = field(default_factory=list)
    status: int = 200
    failing: str = ""
    port: int = 0


class _Handler(BaseHTTPRequestHandler):
    """Answers ``/api/models/…`` with the list of files, and ``/owner/name/resolve/REVISION/FILE`` with a file."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        revision = {"main": SHA, "v1": OLD, SHA: SHA, OLD: OLD}
        headers: dict[str, str] = {}
        if self.hub.status != 200 or (self.hub.failing and path.endswith(self.hub.failing)):
            status, content = (self.hub.status if self.hub.status != 200 else 503), b"{}"
        elif parts[:2] == ["api", "models"] and parts[2:4] == ["junnyu", "roformer_x"]:
            asked = parts[5] if len(parts) > 5 else "main"
            status = 200 if asked in revision else 404
            files = [
                {"rfilename": str(p.relative_to(self.hub.directory))} for p in sorted(self.hub.directory.rglob("*"))
            ]
            found = {"id": "junnyu/roformer_x", "sha": revision.get(asked), "siblings": files}
            content = json.dumps(found if status == 200 else {}).encode()
            if status == 404:
                headers["X-Error-Code"] = "RevisionNotFound"
        elif parts[:3] == ["junnyu", "roformer_x", "resolve"] and (self.hub.directory / parts[-1]).is_file():
            content = (self.hub.directory / parts[-1]).read_bytes()
            status = 200
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["X-Repo-Commit"] = revision[parts[3]]
        else:
            status, content = 404, b"{}"
            headers["X-Error-Code"] = "RepoNotFound"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub whose repository has one model in two formats, a tokenizer, and what no conversion needs."""
    write_random(tmp_path / "repository", "torch")
    repository = Hub(tmp_path / "repository")
    (repository.directory / "pytorch_model.bin").write_bytes(b"not asked for")
    (repository.directory / "README.md").write_text("not asked for")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, repository))
    repository.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()


def run(hub: Hub, tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "here").mkdir(exist_ok=True)
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.run(
        [*COMMAND, *words],
        cwd=tmp_path / "here",
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_name_is_fetched_converted_and_then_taken_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "torch2paddle", "hub:junnyu/roformer_x")
    assert done.returncode == 0, done.stderr
    assert (
        same_bits(read_all(tmp_path / "here" / "roformer_x-paddle"), read_all(hub.directory / "model.safetensors"))
        == []
    )
    fetched = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET") and "/resolve/" in line}
    assert fetched == {"model.safetensors", "config.json"}
    assert f"revision {SHA[:8]}" in done.stdout
    hub.asked.clear()
    again = run(hub, tmp_path, "inspect", "hub:junnyu/roformer_x", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert hub.asked == []


def test_a_revision_is_asked_for_and_said(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "torch2tf", "hub:junnyu/roformer_x@v1", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert f"revision {OLD[:8]}" in done.stdout
    assert any(OLD in line for line in hub.asked)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("hub:junnyu/roformer_y", 200, "the hub answers 404"),
        ("hub:junnyu/roformer_x@v9", 200, "the hub answers 404"),
        ("hub:junnyu/roformer_x", 401, "hf auth login"),
        ("hub:junnyu/roformer_x", 403, "hf auth login"),
        ("hub:junnyu/roformer_x", 503, "try again later"),
        ("hub:junnyu/roformer_x", 429, "try again later"),
        ("hub:junnyu", 200, "not a name on a hub"),
        ("hub:../x", 200, "not a name on a hub"),
        ("hub:a/../b", 200, "not a name on a hub"),
        ("hub:junnyu/roformer_x@", 200, "not a name on a hub"),
    ],
)
def test_what_the_hub_does_not_have_is_one_message(
    hub: Hub, tmp_path: Path, name: str, status: int, words: str
) -> None:
    hub.status = status
    done = run(hub, tmp_path, "torch2paddle", name)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("dialect", ["torch", "tf"])
def test_a_sharded_model_is_fetched_with_its_index_and_all_shards(hub: Hub, tmp_path: Path, dialect: Dialect) -> None:
    for file in hub.directory.iterdir():
        file.unlink()
    hub.directory.rmdir()
    if dialect == "tf":
        tensors = write_keras_shards(hub.directory)
    else:
        tensors = write_random(hub.directory, "torch", max_shard_size=4000)
    shards = {file.name for file in hub.directory.glob("*model*")}
    assert len(shards) >= 3
    (hub.directory / "model.onnx").write_bytes(b"not asked for")
    done = run(hub, tmp_path, f"{dialect}2paddle", "hub:junnyu/roformer_x")
    assert done.returncode == 0, done.stderr
    fetched = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET") and "/resolve/" in line}
    assert fetched == {*shards, "config.json"}
    assert same_bits(read_all(tmp_path / "here" / "roformer_x-paddle"), tensors) == []


def test_a_file_that_fails_on_the_way_is_one_message(hub: Hub, tmp_path: Path) -> None:
    hub.failing = "config.json"
    done = run(hub, tmp_path, "torch2paddle", "hub:junnyu/roformer_x")
    assert done.returncode == 2
    assert "the hub is not reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "here").iterdir()) == []
    hub.failing = ""
    assert run(hub, tmp_path, "torch2paddle", "hub:junnyu/roformer_x").returncode == 0


def test_a_cache_that_cannot_be_written_to_is_one_message(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run(hub, tmp_path, "torch2paddle", "hub:junnyu/roformer_x", HF_HOME=str(tmp_path / "file" / "hf"))
    assert done.returncode == 2
    assert "cannot be kept in the hub's cache" in done.stderr
    assert "HF_HOME" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["diff", "export"])
def test_other_commands_take_a_name_too(hub: Hub, tmp_path: Path, command: str) -> None:
    write_random(tmp_path / "mine", "paddle")
    more = {"diff": [str(tmp_path / "mine")], "export": ["--to", "onnx", "--no-trial"]}[command]
    if command == "export":
        pytest.importorskip("torch")
        pytest.importorskip("onnx")
    done = run(hub, tmp_path, command, "hub:junnyu/roformer_x", *more)
    assert done.returncode == 0, done.stderr
    if command == "export":
        assert (tmp_path / "here" / "roformer_x-onnx" / "model.onnx").is_file()


def test_a_repository_without_weights_says_what_it_holds(hub: Hub, tmp_path: Path) -> None:
    (hub.directory / "model.safetensors").unlink()
    (hub.directory / "pytorch_model.bin").unlink()
    done = run(hub, tmp_path, "torch2paddle", "hub:junnyu/roformer_x")
    assert done.returncode == 2
    assert "no RoFormer weights at the top of the repository; it holds README.md, config.json" in done.stderr


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_no_hub_and_nothing_in_the_cache_is_one_message(hub: Hub, tmp_path: Path, environment: dict[str, str]) -> None:
    done = run(hub, tmp_path, "torch2paddle", "hub:junnyu/roformer_x", **environment)
    assert done.returncode == 2
    assert "the hub is not reached and its cache does not hold the model" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_package_the_extra_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "none" / "huggingface_hub").mkdir(parents=True)
    (tmp_path / "none" / "huggingface_hub" / "__init__.py").write_text("raise ImportError")
    done = run(hub, tmp_path, "inspect", "hub:junnyu/roformer_x", PYTHONPATH=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "pip install '.[hub]'" in done.stderr


def test_a_bare_name_is_answered_with_the_hubs(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "torch2paddle", "junnyu/roformer_x")
    assert done.returncode == 2
    assert "write hub:junnyu/roformer_x" in done.stderr


def test_an_address_is_answered_with_the_hubs_name(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "torch2paddle", "https://hub.example/junnyu/roformer_x/tree/v1")
    assert done.returncode == 2
    assert "write hub:junnyu/roformer_x@v1" in done.stderr


# --- the cache ------------------------------------------------------------------------------------------------------


def cached(root: Path, name: str, *, main: str | None = SHA, snapshots: tuple[str, ...] = (SHA,)) -> Path:
    """Lay a model out as the hub's cache does: links into blobs."""
    root.mkdir(exist_ok=True)
    write_random(root / "blobs-of", "torch")
    folder = root / f"models--{name.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    for snapshot in snapshots:
        (folder / "snapshots" / snapshot).mkdir(parents=True)
        for number, file in enumerate(sorted((root / "blobs-of").iterdir())):
            blob = folder / "blobs" / f"{number:040d}"
            blob.write_bytes(file.read_bytes())
            (folder / "snapshots" / snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    if main is not None:
        (folder / "refs" / "main").write_text(main)
    return folder


@pytest.mark.parametrize("level", ["top", "model", "snapshots", "blobs", "refs", "snapshot"])
def test_a_cache_folder_converts_from_each_level(hub: Hub, tmp_path: Path, level: str) -> None:
    folder = cached(tmp_path / "cache", "junnyu/roformer_x", snapshots=(OLD, SHA))
    blobs = tmp_path / "cache" / "blobs-of"
    tensors = read_all(blobs)
    for file in blobs.iterdir():
        file.unlink()
    blobs.rmdir()
    (tmp_path / "cache" / "version.txt").write_text("1")
    named = {"top": folder.parent, "model": folder, "snapshot": folder / "snapshots" / SHA}.get(level, folder / level)
    done = run(hub, tmp_path, "torch2paddle", str(named), "-o", "out")
    assert done.returncode == 0, done.stderr
    assert same_bits(read_all(tmp_path / "here" / "out"), tensors) == []


@pytest.mark.parametrize("main", [None, "gone", "../../elsewhere"])
def test_a_cache_folder_of_several_snapshots_and_no_main_asks(hub: Hub, tmp_path: Path, main: str | None) -> None:
    folder = cached(tmp_path / "cache", "junnyu/roformer_x", main=main, snapshots=(OLD, SHA))
    done = run(hub, tmp_path, "inspect", str(folder))
    assert done.returncode == 2
    assert "Name the snapshot's folder" in done.stderr
    assert OLD in done.stderr


@pytest.mark.parametrize("level", ["model", "blobs", "snapshot"])
def test_what_a_cache_folder_becomes_does_not_lie_in_the_cache(hub: Hub, tmp_path: Path, level: str) -> None:
    folder = cached(tmp_path / "cache", "junnyu/roformer_x")
    before = sorted(path for path in folder.rglob("*"))
    named = {"model": folder, "blobs": folder / "blobs", "snapshot": folder / "snapshots" / SHA}[level]
    done = run(hub, tmp_path, "torch2paddle", str(named))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "roformer_x-paddle" / "model_state.pdparams").is_file()
    assert sorted(path for path in folder.rglob("*")) == before


def test_a_cache_whose_links_a_copy_made_to_texts_converts_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    folder = cached(tmp_path / "cache", "junnyu/roformer_x")
    tensors = read_all(folder / "snapshots" / SHA)
    for link in (folder / "snapshots" / SHA).iterdir():
        text = os.readlink(link)
        link.unlink()
        link.write_text(text)
    (tmp_path / "temporary").mkdir()
    done = run(hub, tmp_path, "torch2paddle", str(folder), TMPDIR=str(tmp_path / "temporary"))
    assert done.returncode == 0, done.stderr
    assert same_bits(read_all(tmp_path / "here" / "roformer_x-paddle"), tensors) == []
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_what_is_wrong_with_a_copied_cache_is_said_of_the_copy(hub: Hub, tmp_path: Path, damage: str) -> None:
    folder = cached(tmp_path / "cache", "junnyu/roformer_x")
    for link in (folder / "snapshots" / SHA).iterdir():
        text = os.readlink(link)
        if link.name == "model.safetensors" and damage == "missing":
            link.resolve().unlink()
        elif link.name == "model.safetensors":
            os.truncate(link.resolve(), 1000)
        link.unlink()
        link.write_text(text)
    done = run(hub, tmp_path, "torch2paddle", str(folder))
    assert done.returncode == 2
    assert str(folder / "snapshots" / SHA / "model.safetensors") in done.stderr
    assert "roformer-snapshot" not in done.stderr
    assert ("a link to a blob of the hub's cache, which is not there" in done.stderr) is (damage == "missing")


@pytest.mark.parametrize("text", ["../../blobs/../refs/main", "../../../blobs/0000", "/etc/passwd", "../../blobs/zz"])
def test_a_text_that_names_no_blob_is_not_followed(hub: Hub, tmp_path: Path, text: str) -> None:
    folder = cached(tmp_path / "cache", "junnyu/roformer_x")
    config = folder / "snapshots" / SHA / "config.json"
    config.unlink()
    config.write_text(text)
    done = run(hub, tmp_path, "torch2paddle", str(folder))
    assert done.returncode == 2
    assert "config.json: not JSON" in done.stderr


def test_an_unfinished_download_is_said_to_be_one(hub: Hub, tmp_path: Path) -> None:
    folder = cached(tmp_path / "cache", "junnyu/roformer_x")
    weights = folder / "snapshots" / SHA / "model.safetensors"
    (weights.parent / os.readlink(weights)).unlink()
    done = run(hub, tmp_path, "torch2paddle", str(folder))
    assert done.returncode == 2
    assert "model.safetensors: a link to ../../blobs/" in done.stderr
    assert "was not finished: fetch it again" in done.stderr
