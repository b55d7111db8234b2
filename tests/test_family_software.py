"""Each software of the family loads what we write for it and computes what the source's writer computed.

Every folder in every dialect that can express it is run by that dialect's own programs: PaddleNLP; transformers 4.57
and 5, and JunnYu's package; transformers' TF classes; bert4keras. What is refused is written with ``allow_different``
and run too: if it computed the same after all, the refusal would be wrong.
"""

from __future__ import annotations

import json
import re
import sys
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
from peer_folders import PEERS, environment, in_process
from test_peers import Peer, job

from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.table.mapping import Dialect, unread

#: The loader and the forward pass of torch's two packages: the model's class is the one that the configuration names.
TORCH = """
import importlib, json, logging, sys
import numpy, torch, transformers
warned = []
class Listening(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())
transformers.logging.set_verbosity_warning()
transformers.logging.disable_default_handler()
transformers.logging.add_handler(Listening())
reports = {}
for job in json.loads(sys.argv[1]):
    package = importlib.import_module(job["package"])
    given = {name: torch.from_numpy(array) for name, array in dict(numpy.load(job["inputs"])).items()}
    name = json.load(open(job["dir"] + "/config.json"))["architectures"][0]
    pooler = {"add_pooling_layer": True} if (job["package"], name) == ("roformer", "RoFormerModel") else {}
    warned.clear()
    try:
        options = {"output_loading_info": True, "torch_dtype": torch.float32, **pooler}
        model, report = getattr(package, name).from_pretrained(job["dir"], **options)
        if job["mask"] == "unilm":  # what no configuration says to transformers, its caller may
            sums = given["token_type_ids"].cumsum(-1)
            seen = (sums[:, None, :] <= sums[:, :, None]) & (given["attention_mask"][:, None, :] != 0)
            given["attention_mask"] = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]
        with torch.no_grad():
            out = model.eval()(**given)
    except Exception as error:
        reports[job["name"]] = {"failed": repr(error)}
        continue
    if "start_logits" in out:
        logits = torch.stack([out.start_logits, out.end_logits], -1)
    else:
        logits = out["logits"] if "logits" in out else out.last_hidden_state
    numpy.save(job["out"], logits.numpy())
    if pooler:
        numpy.save(job["out"] + ".pooled", out.pooler_output.numpy())
    reports[job["name"]] = {kind: sorted(map(str, names)) for kind, names in report.items()}
    reports[job["name"]]["warned"] = warned[:]
print("\\n" + json.dumps(reports))
"""

TF = """
import json, logging, sys
import numpy, tensorflow, transformers
warned = []
class Listening(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())
transformers.logging.set_verbosity_warning()
transformers.logging.disable_default_handler()
transformers.logging.add_handler(Listening())
reports = {}
for job in json.loads(sys.argv[1]):
    given = {name: tensorflow.constant(array) for name, array in dict(numpy.load(job["inputs"])).items()}
    name = json.load(open(job["dir"] + "/config.json"))["architectures"][0]
    warned.clear()
    try:
        model, report = getattr(transformers, "TF" + name).from_pretrained(job["dir"], output_loading_info=True)
        out = model(given)
    except Exception as error:
        reports[job["name"]] = {"failed": repr(error)}
        continue
    if "start_logits" in out:
        logits = tensorflow.stack([out.start_logits, out.end_logits], -1)
    else:
        logits = out["logits"] if "logits" in out else out.last_hidden_state
    numpy.save(job["out"], logits.numpy())
    reports[job["name"]] = {kind: sorted(map(str, names)) for kind, names in report.items()}
    reports[job["name"]]["warned"] = warned[:]
print("\\n" + json.dumps(reports))
"""

# The order of imports and the copy: see test_peers.py.
PADDLE = """
import scipy, aiohttp, pyarrow, pandas, sklearn
import json, os, shutil, sys
import numpy, paddle
from paddlenlp import transformers
reports = {}
for job in json.loads(sys.argv[1]):
    shutil.copytree(job["dir"], job["copy"])
    given = {name: paddle.to_tensor(array) for name, array in dict(numpy.load(job["inputs"])).items()}
    name = json.load(open(job["dir"] + "/config.json"))["architectures"][0]
    try:
        model = getattr(transformers, name).from_pretrained(job["copy"], dtype="float32")
        model.eval()
        out = model(**given)
    except Exception as error:
        reports[job["name"]] = {"failed": repr(error)}
        continue
    if name.endswith("ForQuestionAnswering"):
        out = paddle.stack(list(out), -1)
    if name == "RoFormerModel":
        out, pooled = out
        numpy.save(job["out"] + ".pooled", pooled.numpy())
    numpy.save(job["out"], out.numpy())
    reports[job["name"]] = {"wrote": sorted(set(os.listdir(job["copy"])) - set(os.listdir(job["dir"])))}
print("\\n" + json.dumps(reports))
"""

# bert4keras builds no head of a fine-tuned model: there its hidden states go through the head's own variables, as
# Google's run_classifier.py and run_squad.py have it.
BERT4KERAS = """
import json, sys
import numpy, tensorflow
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model
for job in json.loads(sys.argv[1]):
    inputs = dict(numpy.load(job["inputs"]))
    files = (job["dir"] + "/bert_config.json", job["dir"] + "/bert_model.ckpt")
    model = build_transformer_model(*files, **job["build"])
    hidden = model.get_layer("Transformer-%d-FeedForward-Norm" % (job["layers"] - 1)).output
    pooled = [model.get_layer("Pooler-Dense").output] if job["pooled"] else []
    outputs = model.output if isinstance(model.output, list) else [model.output]
    last = outputs[-1] if "with_mlm" in job["build"] else hidden
    model = keras.models.Model(model.inputs, [*pooled, last])
    out = model([inputs["input_ids"], inputs["token_type_ids"]], training=False)
    out = [one.numpy() for one in (out if isinstance(out, list) else [out])]
    if job["pooled"]:
        numpy.save(job["out"] + ".pooled", out[0])
    out = out[-1]
    read = tensorflow.train.load_checkpoint(files[1])
    names = read.get_variable_to_shape_map()
    if job["head"] == "sequence-classification":
        out = out[:, 0]
        if "bert/pooler/dense/kernel" in names:
            out = out @ read.get_tensor("bert/pooler/dense/kernel") + read.get_tensor("bert/pooler/dense/bias")
            out = keras.activations.get(job["activation"])(tensorflow.constant(out)).numpy()
        out = out @ read.get_tensor("output_weights").T
        out = out + read.get_tensor("output_bias") if "output_bias" in names else out
    if job["head"] == "question-answering":
        out = out @ read.get_tensor("cls/squad/output_weights").T
        out = out + read.get_tensor("cls/squad/output_bias") if "cls/squad/output_bias" in names else out
    numpy.save(job["out"], out)
"""

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


def ask(program: str, python: Path, jobs: list[dict[str, Any]], **env: str) -> Peer:
    """Run a program over its jobs; what it could not load is in what it said."""
    out = in_process(program, jobs, python=python, **env)
    logits = {one["name"]: np.load(one["out"] + ".npy") for one in jobs if Path(one["out"] + ".npy").exists()}
    said = json.loads(out.strip().splitlines()[-1]) if "reports" in program else {}
    return Peer(logits, {one["name"]: one["folder"] for one in jobs}, said, Path(jobs[0]["cwd"]))


def jobs_of(converted: Path, dialect: Dialect, folders: list[str], tmp: Path, **more: Any) -> list[dict[str, Any]]:
    return [job(folder, folder, written(converted, folder, dialect), tmp, **more) for folder in folders]


def masked(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask the UniLM models a second time, with the mask that a caller of transformers has to pass."""
    return [{**one, "mask": "unilm" if "UniLM" in one["folder"] else ""} for one in jobs]


@pytest.fixture(scope="module")
def transformers5(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    pytest.importorskip("transformers")
    tmp = tmp_path_factory.mktemp("transformers5")
    unilm = [folder for folder in pairs("torch", DIFFERENT) if "UniLM" in folder]
    jobs = masked(jobs_of(converted, "torch", [*TRANSFORMERS, *unilm], tmp, package="transformers"))
    others = [folder for folder in pairs("torch", DIFFERENT) if not is_v2(folder)]
    for one in jobs_of(converted, "torch", others, tmp, package="transformers", mask=""):
        jobs.append({**one, "name": f"different.{one['name']}", "out": f"{one['out']}-different"})
    return ask(TORCH, Path(sys.executable), jobs)


@pytest.fixture(scope="module")
def transformers4(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("transformers4"), tmp_path_factory.mktemp("transformers4")
    return ask(TORCH, python, jobs_of(converted, "torch", TRANSFORMERS, tmp, package="transformers", mask=""))


@pytest.fixture(scope="module")
def junnyu(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("junnyu"), tmp_path_factory.mktemp("junnyu")
    different = [folder for folder in pairs("torch", DIFFERENT) if is_v2(folder)]
    return ask(TORCH, python, jobs_of(converted, "torch", [*JUNNYU, *different], tmp, package="roformer", mask=""))


@pytest.fixture(scope="module")
def tf(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("transformers4"), tmp_path_factory.mktemp("tf")
    folders = [*pairs("tf"), *pairs("tf", DIFFERENT)]
    return ask(TF, python, jobs_of(converted, "tf", folders, tmp), TF_USE_LEGACY_KERAS="1")


@pytest.fixture(scope="module")
def paddlenlp(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("paddlenlp"), tmp_path_factory.mktemp("paddlenlp")
    return ask(PADDLE, python, jobs_of(converted, "paddle", [*pairs("paddle"), *pairs("paddle", DIFFERENT)], tmp))


@pytest.fixture(scope="module")
def bert4keras(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("bert4keras"), tmp_path_factory.mktemp("bert4keras")
    jobs = []
    for folder in KERAS:
        path = written(converted, folder, "tf1")
        with open_checkpoint(path) as checkpoint:
            kind, config, pooler = checkpoint.kind, checkpoint.config, "pooler.weight" in checkpoint
        build: dict[str, Any] = {"model": "roformer_v2" if is_v2(folder) else "roformer"}
        if config.attention != "bidirectional":
            build["application"] = {"causal": "lm", "unilm": "unilm"}[config.attention]
        if kind.scores_words:
            build["with_mlm"] = "linear"
        pooled = pooler and kind.name != "sequence-classification"
        if pooled:
            build["with_pool"] = config.pooler_activation
        head = {"head": kind.name, "activation": config.pooler_activation, "pooled": pooled}
        head["layers"] = config.num_hidden_layers
        jobs.append(job(folder, folder, path, tmp, build=build, **head))
    return ask(BERT4KERAS, python, jobs, TF_KERAS="1", TF_USE_LEGACY_KERAS="1")


def check(peer: Peer, folder: str, *, everywhere: bool = True) -> None:
    assert folder in peer.logits, peer.said[folder]
    assert difference(folder, peer.logits[folder], everywhere=everywhere) <= TOLERANCE


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
    return [name for name in (*said["missing_keys"], *named) if "/" in name or "." in name]


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
    assert (said["missing_keys"], said["mismatched_keys"], scares(said)) == ([], [], [])
    assert set(said["unexpected_keys"]) == kept(written(converted, folder, "torch"), "torch")


@pytest.mark.parametrize("folder", JUNNYU)
def test_junnyus_package_misses_nothing(junnyu: Peer, folder: str) -> None:
    # of a bare encoder it was asked for a pooler
    assert [name for name in scares(junnyu.said[folder]) if not name.startswith("pooler.")] == []


@pytest.mark.parametrize("folder", pairs("tf"))
def test_transformers_for_tf_reports_nothing_but_the_parts_that_were_announced(
    converted: Path, tf: Peer, folder: str
) -> None:
    assert (tf.said[folder]["mismatched_keys"], scares(tf.said[folder])) == ([], [])
    names = {name.removesuffix(":0") for name in tf.said[folder]["unexpected_keys"]}
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
def test_paddlenlp_computes_what_the_writer_computed(paddlenlp: Peer, folder: str) -> None:
    check(paddlenlp, folder, everywhere=real_tokens(folder))
    assert paddlenlp.said[folder] == {"wrote": []}


@pytest.mark.parametrize("folder", KERAS)
def test_bert4keras_computes_what_the_writer_computed(bert4keras: Peer, folder: str) -> None:
    check(bert4keras, folder, everywhere=False)


@pytest.mark.parametrize("software", ["junnyu", "paddlenlp", "bert4keras"])
def test_a_linear_pooler_is_linear_wherever_it_is_read(software: str, request: pytest.FixtureRequest) -> None:
    peer: Peer = request.getfixturevalue(software)
    folder = "junn-Model_poollin_bin"
    got, want = np.load(peer.root / f"{folder}.pooled.npy"), np.load(PEERS / folder / "pooled.npy")
    assert np.abs(got - want).max() <= TOLERANCE
    assert np.abs(np.tanh(got) - want).max() > 0.1


@pytest.mark.parametrize(("folder", "dialect"), [pair for pair in DIFFERENT if pair[1] != "tf1"])
def test_what_is_refused_computes_something_else(folder: str, dialect: Dialect, request: pytest.FixtureRequest) -> None:
    """A refusal of what would have been right is as wrong as a conversion of what is not."""
    fixture = {"tf": "tf", "paddle": "paddlenlp", "torch": "junnyu" if is_v2(folder) else "transformers5"}[dialect]
    peer: Peer = request.getfixturevalue(fixture)
    name = f"different.{folder}" if fixture == "transformers5" else folder
    if name not in peer.logits:
        assert "failed" in peer.said[name]
        return
    if folder.startswith("pd") and refused(folder, dialect) == ("classifier.bias",):
        # never set by JunnYu's package: it has what was in memory, which may be zeros
        (bias,) = peer.said[name]["missing_keys"]
        assert bias in ("classifier.bias", "qa_outputs.bias")
        return
    got, want = peer.logits[name], logits_of(folder)
    assert got.shape == want.shape
    assert difference(folder, got, everywhere=False) > 1e-3 * np.abs(want).max()
