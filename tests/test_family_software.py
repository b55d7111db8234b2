"""Each software of the family loads what we write for it and computes what the source's writer computed.

Every folder in every dialect that can express it is run by that dialect's own programs: PaddleNLP; transformers 4.57
and 5, and JunnYu's package; transformers' TF classes; bert4keras. What is refused is written with ``allow_different``
and run too: if it computed the same after all, the refusal would be wrong.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_folders import (
    DIFFERENT,
    EXPRESSIBLE,
    TOLERANCE,
    difference,
    is_v2,
    logits_of,
    options,
    refused,
    written,
)
from numpy_roformer import Array
from official_bench import Workers
from peer_folders import PEERS, environment, in_process, inputs_of

from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.errors import InexpressibleError
from roformer_convert.converters.table.mapping import Dialect, unread
from roformer_convert.parity.participants.participants import look_at
from roformer_convert.parity.questions.cases import Case
from roformer_convert.parity.serving.asking import Started, answered
from roformer_convert.parity.serving.jobs import job_for

Pair = tuple[str, Dialect]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every folder in every dialect that has names for it."""
    root = tmp_path_factory.mktemp("family")
    for folder, dialect in (*EXPRESSIBLE, *DIFFERENT):
        chosen = options(folder, dialect, allow_different=bool(refused(folder, dialect)))
        convert(PEERS / folder, written(root, folder, dialect), to=dialect, options=chosen)
    return root


def pairs(dialect: Dialect, given: tuple[Pair, ...] = EXPRESSIBLE) -> list[str]:
    return [folder for folder, to in given if to == dialect]


#: What torch's programs are asked: transformers does not know RoFormerV2, and JunnYu's package masks nothing causally.
_CAUSAL = ("hf4-CausalLM_default_st", "hf5-CausalLM_default_st", "b4k-LM_default")
JUNNYU = [folder for folder in pairs("torch") if folder not in _CAUSAL]
TRANSFORMERS = [folder for folder in pairs("torch") if not is_v2(folder)]
#: In bert4keras: those with a class of its own or with a head of Google's.
KERAS = pairs("tf1")


@dataclass
class Peer:
    """What a software computed for each folder, and what it said.

    Attributes:
        scores: The class's, in float32; not there where it could not load or run.
        pooled: The pooler's.
        said: What its worker answered.
    """

    scores: dict[str, Array] = field(default_factory=dict)
    pooled: dict[str, Array] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)


def ask(worker: Started, dialect: Dialect, asked: list[tuple[str, Path, dict[str, Array]]], root: Path) -> Peer:
    """Let a worker of the gate load directories and run one batch on each: (name, directory, inputs)."""
    found = Peer()
    for name, directory, inputs in asked:
        np.savez(root / "inputs.npz", **{f"0.{key}": array for key, array in inputs.items()})  # type: ignore[arg-type]
        model, _ = look_at([directory])
        case = Case("it", inputs["input_ids"], inputs["token_type_ids"], inputs["attention_mask"])
        known, job = job_for(worker, [directory], [dialect], model, None, [case], root / "inputs.npz", root)
        worker.process.ask({"run": {**job, "types": ["float32"]}})
        official = answered(worker, known)
        found.said[name] = official.facts
        if "failed" not in official.facts:
            arrays = dict(np.load(worker.folder / "float32.it.npz"))
            found.scores[name] = arrays[job["called"]["scores"]]
            if job["called"]["pooled"] in arrays:
                found.pooled[name] = arrays[job["called"]["pooled"]]
    return found


def plain(converted: Path, dialect: Dialect, folders: list[str]) -> list[tuple[str, Path, dict[str, Array]]]:
    return [(folder, written(converted, folder, dialect), inputs_of(folder)) for folder in folders]


def with_unilm(inputs: dict[str, Array]) -> dict[str, Array]:
    """Put the mask into a batch that no configuration says to transformers; its caller may."""
    sums = inputs["token_type_ids"].cumsum(-1)
    seen = (sums[:, None, :] <= sums[:, :, None]) & (inputs["attention_mask"][:, None, :] != 0)
    mask = np.where(seen, np.float32(0.0), np.finfo(np.float32).min)[:, None]
    return {**inputs, "attention_mask": mask}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with Workers(tmp_path_factory.mktemp("workers")) as workers:
        yield workers


@pytest.fixture(scope="module")
def transformers5(converted: Path, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    pytest.importorskip("transformers")
    unilm = [folder for folder in pairs("torch", DIFFERENT) if "UniLM" in folder]
    asked = plain(converted, "torch", TRANSFORMERS)
    asked += [(name, path, with_unilm(inputs)) for name, path, inputs in plain(converted, "torch", unilm)]
    others = [folder for folder in pairs("torch", DIFFERENT) if not is_v2(folder)]
    asked += [(f"different.{name}", path, inputs) for name, path, inputs in plain(converted, "torch", others)]
    return ask(workers["transformers"], "torch", asked, tmp_path_factory.mktemp("transformers5"))


@pytest.fixture(scope="module")
def transformers4(converted: Path, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    worker = workers[f"transformers={environment('transformers4')}"]
    return ask(worker, "torch", plain(converted, "torch", TRANSFORMERS), tmp_path_factory.mktemp("transformers4"))


@pytest.fixture(scope="module")
def junnyu(converted: Path, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    different = [folder for folder in pairs("torch", DIFFERENT) if is_v2(folder)]
    asked = plain(converted, "torch", [*JUNNYU, *different])
    return ask(workers[f"junnyu={environment('junnyu')}"], "torch", asked, tmp_path_factory.mktemp("junnyu"))


@pytest.fixture(scope="module")
def tf(converted: Path, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    asked = plain(converted, "tf", [*pairs("tf"), *pairs("tf", DIFFERENT)])
    worker = workers[f"transformers-tf={environment('transformers4')}"]
    return ask(worker, "tf", asked, tmp_path_factory.mktemp("tf"))


@pytest.fixture(scope="module")
def paddlenlp(converted: Path, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    asked = plain(converted, "paddle", [*pairs("paddle"), *pairs("paddle", DIFFERENT)])
    worker = workers[f"paddlenlp={environment('paddlenlp')}"]
    return ask(worker, "paddle", asked, tmp_path_factory.mktemp("paddlenlp"))


@pytest.fixture(scope="module")
def bert4keras(converted: Path, workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    worker = workers[f"bert4keras={environment('bert4keras')}"]
    asked = plain(converted, "tf1", KERAS)
    return ask(worker, "tf1", asked, tmp_path_factory.mktemp("bert4keras"))


def check(peer: Peer, folder: str, *, everywhere: bool = True) -> None:
    assert folder in peer.scores, peer.said[folder]
    assert difference(folder, peer.scores[folder], everywhere=everywhere) <= TOLERANCE


#: bert4keras' files were computed by it: at padding its epsilon of 1e-7 shows.
def real_tokens(folder: str) -> bool:
    return not folder.startswith("b4k")


def kept(directory: Path, dialect: Dialect) -> set[str]:
    """Names of the parts that the dialect's own class does not know: kept, and announced when they were written."""
    with open_checkpoint(directory) as checkpoint:
        groups = unread(dialect, checkpoint.kind, checkpoint.table.traits)
        return {each.stored.name for each in checkpoint.bindings.values() if each.tensor.group in groups}


def scares(said: dict[str, Any]) -> list[str]:
    """What a loader warned of that makes its reader think that weights are missing or to be trained."""
    warned = [text for text in said["warned"] if re.search("newly initialized|MISSING|MISMATCH|TRAIN", text)]
    # layers without weights are told by their name, which for dropout has a number that counts a program's layers
    named = [name for text in warned for name in re.findall(r"'([^']*)'", text) or [text]]
    return [name for name in (*said["missing"], *named) if "/" in name or "." in name]


@pytest.mark.parametrize("folder", TRANSFORMERS)
def test_transformers_5_computes_what_the_writer_computed(transformers5: Peer, folder: str) -> None:
    check(transformers5, folder, everywhere=real_tokens(folder))


@pytest.mark.parametrize("folder", TRANSFORMERS)
def test_transformers_4_computes_what_the_writer_computed(transformers4: Peer, folder: str) -> None:
    check(transformers4, folder, everywhere=real_tokens(folder))


@pytest.mark.parametrize("folder", TRANSFORMERS)
@pytest.mark.parametrize("software", ["transformers5", "transformers4"])
def test_transformers_reports_nothing_but_the_parts_that_were_announced(
    converted: Path, software: str, folder: str, request: pytest.FixtureRequest
) -> None:
    said = request.getfixturevalue(software).said[folder]
    assert (said["missing"], said["mismatched"], scares(said)) == ([], [], [])
    assert set(said["unexpected"]) == kept(written(converted, folder, "torch"), "torch")


@pytest.mark.parametrize("folder", JUNNYU)
def test_junnyus_package_misses_nothing(junnyu: Peer, folder: str) -> None:
    # of a bare encoder it was asked for a pooler
    assert [name for name in scares(junnyu.said[folder]) if not name.startswith("pooler.")] == []


@pytest.mark.parametrize("folder", pairs("tf"))
def test_transformers_for_tf_reports_nothing_but_the_parts_that_were_announced(
    converted: Path, tf: Peer, folder: str
) -> None:
    assert (tf.said[folder]["mismatched"], scares(tf.said[folder])) == ([], [])
    names = {name.removesuffix(":0") for name in tf.said[folder]["unexpected"]}
    announced = kept(written(converted, folder, "tf"), "tf")
    assert names == {name.partition("/")[0] if name.startswith("nsp___cls") else name for name in announced}


@pytest.mark.parametrize("folder", [folder for folder in pairs("torch", DIFFERENT) if "UniLM" in folder])
def test_transformers_computes_unilm_from_the_mask_that_its_caller_passes(transformers5: Peer, folder: str) -> None:
    check(transformers5, folder, everywhere=False)


@pytest.mark.parametrize("folder", JUNNYU)
def test_junnyus_package_computes_what_the_writer_computed(junnyu: Peer, folder: str) -> None:
    check(junnyu, folder, everywhere=real_tokens(folder))


@pytest.mark.parametrize("folder", pairs("tf"))
def test_transformers_for_tf_computes_what_the_writer_computed(tf: Peer, folder: str) -> None:
    check(tf, folder, everywhere=real_tokens(folder))


@pytest.mark.parametrize("folder", pairs("paddle"))
def test_paddlenlp_computes_what_the_writer_computed(converted: Path, paddlenlp: Peer, folder: str) -> None:
    check(paddlenlp, folder, everywhere=real_tokens(folder))
    report = paddlenlp.said[folder]
    assert report["wrote"] == []  # it read our file as its own
    # its encoder has a pooler, whatever is built on it, and what it starts at 0 was announced
    told = (written(converted, folder, "paddle") / "conversion.json").read_text(encoding="utf-8")
    missing = [name for name in report["missing"] if "pooler.dense." not in name and name not in told]
    assert missing == report["mismatched"] == []


@pytest.mark.parametrize("folder", KERAS)
def test_bert4keras_computes_what_the_writer_computed(bert4keras: Peer, folder: str) -> None:
    check(bert4keras, folder, everywhere=False)


@pytest.mark.parametrize("software", ["junnyu", "paddlenlp", "bert4keras"])
def test_a_linear_pooler_is_linear_wherever_it_is_read(software: str, request: pytest.FixtureRequest) -> None:
    peer: Peer = request.getfixturevalue(software)
    folder = "junn-Model_poollin_bin"
    got, want = peer.pooled[folder], np.load(PEERS / folder / "pooled.npy")
    assert np.abs(got - want).max() <= TOLERANCE
    assert np.abs(np.tanh(got) - want).max() > 0.1


@pytest.mark.parametrize(("folder", "dialect"), [pair for pair in DIFFERENT if pair[1] != "tf1"])
def test_what_is_refused_computes_something_else(folder: str, dialect: Dialect, request: pytest.FixtureRequest) -> None:
    """A refusal of what would have been right is as wrong as a conversion of what is not."""
    fixture = {"tf": "tf", "paddle": "paddlenlp", "torch": "junnyu" if is_v2(folder) else "transformers5"}[dialect]
    peer: Peer = request.getfixturevalue(fixture)
    name = f"different.{folder}" if fixture == "transformers5" else folder
    if name not in peer.scores:
        assert "failed" in peer.said[name]
        return
    if folder.startswith("pd") and refused(folder, dialect) == ("classifier.bias",):
        # never set by JunnYu's package: it has what was in memory, which may be zeros
        (bias,) = peer.said[name]["missing"]
        assert bias in ("classifier.bias", "qa_outputs.bias")
        return
    got, want = peer.scores[name], logits_of(folder)
    assert got.shape == want.shape
    # what was in memory may be no number
    assert not difference(folder, got, everywhere=False) <= 1e-3 * np.abs(want).max()


#: Loads each directory, runs the line of code that the refusal named, and saves the logits of a batch.
_TOLD = """
import json, sys
import numpy as np
import transformers

for job in json.loads(sys.argv[1]):
    if job["dialect"] == "tf":
        from tensorflow import convert_to_tensor
        model = transformers.TFRoFormerForSequenceClassification.from_pretrained(job["directory"])
    else:
        from torch import from_numpy as convert_to_tensor
        model = transformers.RoFormerForSequenceClassification.from_pretrained(job["directory"]).eval()
    exec(job["told"])
    logits = model(**{name: convert_to_tensor(array) for name, array in np.load(job["inputs"]).items()}).logits
    np.save(job["out"], logits.numpy() if job["dialect"] == "tf" else logits.detach().numpy())
"""


@pytest.mark.parametrize(("where", "dialect"), [("", "torch"), ("transformers4", "torch"), ("transformers4", "tf")])
def test_the_line_that_a_refusal_names_ends_the_difference(
    converted: Path, tmp_path: Path, where: str, dialect: Dialect
) -> None:
    pytest.importorskip("transformers")
    python = environment(where) if where else sys.executable
    folders = [folder for folder in pairs(dialect, DIFFERENT) if refused(folder, dialect) == ("pooler_activation",)]
    jobs = []
    for folder in folders:
        with pytest.raises(InexpressibleError) as caught:
            convert(PEERS / folder, tmp_path / "there", to=dialect)
        directory = written(converted, folder, dialect)
        (different,) = json.loads((directory / "conversion.json").read_text(encoding="utf-8"))["differences"]
        assert different["remedy"] in (caught.value.next_step or "")
        paths = {"directory": directory, "inputs": PEERS / folder / "inputs.npz", "out": tmp_path / f"{folder}.npy"}
        told = {"dialect": dialect, "told": different["remedy"], "cwd": tmp_path}
        jobs.append({key: str(value) for key, value in {**paths, **told}.items()})
    in_process(_TOLD, jobs, python=python, TF_USE_LEGACY_KERAS="1")
    assert len(folders) == 2
    for folder in folders:
        assert difference(folder, np.load(tmp_path / f"{folder}.npy")) <= TOLERANCE
