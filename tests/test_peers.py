"""The programs of each world load what we write and compute what the source's writer computed.

They no longer install beside each other or beside ours: ``.peers/`` (``make peers``) holds their environments, and each
runs in one process for all of its checks. ``test_real_loaders.py`` has those that do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_roformer import Array
from peer_folders import (
    BFLOAT16,
    BOTH,
    DISTINCT,
    FOLDERS,
    PEERS,
    TOLERANCE,
    Converted,
    convert_all,
    environment,
    in_process,
    tolerance,
    worst,
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert_all(tmp_path_factory.mktemp("converted"), DISTINCT)


TRANSFORMERS_4 = """
import json, sys
import numpy, tensorflow, torch
from transformers import RoFormerForMaskedLM, TFRoFormerForMaskedLM, logging
logging.set_verbosity_error()
reports = {}
for job in json.loads(sys.argv[1]):
    inputs = dict(numpy.load(job["inputs"]))
    if job["tf"]:
        model, report = TFRoFormerForMaskedLM.from_pretrained(job["dir"], output_loading_info=True)
        logits = model({name: tensorflow.constant(array) for name, array in inputs.items()}).logits.numpy()
    else:
        options = {"output_loading_info": True, "torch_dtype": torch.float32}
        model, report = RoFormerForMaskedLM.from_pretrained(job["dir"], **options)
        with torch.no_grad():
            logits = model.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()
    numpy.save(job["out"], logits)
    reports[job["name"]] = {kind: sorted(map(str, names)) for kind, names in report.items()}
print(json.dumps(reports))
"""

# PaddleNLP 2.8.1 needs modules that use zlib before paddle 2.6.2, and writes into the directory it loads from.
PADDLENLP = """
import scipy, aiohttp, pyarrow, pandas, sklearn
import json, os, shutil, sys, warnings
import numpy, paddle
from paddlenlp.transformers import RoFormerForMaskedLM
reports = {}
for job in json.loads(sys.argv[1]):
    shutil.copytree(job["dir"], job["copy"])
    model = RoFormerForMaskedLM.from_pretrained(job["copy"], **job["options"])
    model.eval()
    inputs = {name: paddle.to_tensor(array) for name, array in dict(numpy.load(job["inputs"])).items()}
    numpy.save(job["out"], model(**inputs).numpy())
    reports[job["name"]] = sorted(set(os.listdir(job["copy"])) - set(os.listdir(job["dir"])))
print("\\n" + json.dumps(reports))
"""

BERT4KERAS = """
import json, sys
import numpy
from bert4keras.models import build_transformer_model
for job in json.loads(sys.argv[1]):
    inputs = dict(numpy.load(job["inputs"]))
    heads = {"with_pool": True, "with_nsp": True} if job["pair"] else {}
    files = (job["dir"] + "/bert_config.json", job["dir"] + "/bert_model.ckpt")
    model = build_transformer_model(*files, model="roformer", with_mlm="linear", **heads)
    out = model([inputs["input_ids"], inputs["token_type_ids"]], training=False)
    out = [one.numpy() for one in (out if isinstance(out, list) else [out])]
    numpy.save(job["out"], out[-1])
    if job["pair"]:
        numpy.save(job["out"] + ".pair", out[0])
"""


def job(name: str, folder: str, directory: Path, tmp: Path, **more: Any) -> dict[str, Any]:
    paths = {"dir": str(directory), "inputs": str(PEERS / folder / "inputs.npz"), "out": str(tmp / name)}
    return {"name": name, "folder": folder, "cwd": str(tmp), "copy": str(tmp / f"{name}-copy"), **paths, **more}


@dataclass
class Peer:
    """What a peer computed for each job, and what it said."""

    logits: dict[str, Array]
    folder: dict[str, str]
    said: dict[str, Any]
    root: Path


def ask(program: str, python: Path, jobs: list[dict[str, Any]], *, answers: bool = True, **env: str) -> Peer:
    out = in_process(program, jobs, python=python, **env)
    logits = {one["name"]: np.load(one["out"] + ".npy") for one in jobs}
    said = json.loads(out.strip().splitlines()[-1]) if answers else {}
    return Peer(logits, {one["name"]: one["folder"] for one in jobs}, said, Path(jobs[0]["cwd"]))


@pytest.fixture(scope="module")
def transformers4(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("transformers4"), tmp_path_factory.mktemp("transformers4")
    jobs = [job(f"tf.{folder}", folder, converted.path(folder, "tf"), tmp, tf=True) for folder in DISTINCT]
    jobs += [job(f"torch.{folder}", folder, converted.path(folder, "torch"), tmp, tf=False) for folder in DISTINCT]
    for folder in BOTH:
        for kind in ("-st-sharded", "-bin", "-bin-sharded"):
            jobs.append(job(f"torch{kind}.{folder}", folder, converted.path(folder, "torch", kind), tmp, tf=False))
    return ask(TRANSFORMERS_4, python, jobs, TF_USE_LEGACY_KERAS="1")


@pytest.mark.parametrize("folder", DISTINCT)
def test_transformers_4s_tf_class_computes_what_the_writer_computed(transformers4: Peer, folder: str) -> None:
    assert worst(folder, transformers4.logits[f"tf.{folder}"]) <= tolerance(folder)
    report = transformers4.said[f"tf.{folder}"]
    assert report["missing_keys"] == []
    assert report["mismatched_keys"] == []
    pooler = ["roformer/pooler/dense/bias:0", "roformer/pooler/dense/kernel:0"]
    unexpected = {"pd-MaskedLM_default_pd": pooler, "b4k-MaskedLM_pool_nsp": ["nsp___cls", *pooler]}
    assert report["unexpected_keys"] == unexpected.get(folder, [])


@pytest.mark.parametrize("kind", ["", "-st-sharded", "-bin", "-bin-sharded"])
def test_transformers_4s_torch_class_computes_what_the_writer_computed(transformers4: Peer, kind: str) -> None:
    names = [name for name in transformers4.logits if name.startswith(f"torch{kind}.")]
    assert len(names) == (len(BOTH) if kind else len(DISTINCT))
    for name in names:
        folder = transformers4.folder[name]
        assert worst(folder, transformers4.logits[name]) <= TOLERANCE, name
        report = transformers4.said[name]
        assert (set(report["missing_keys"]), set(report["unexpected_keys"])) == (set(), FOLDERS[folder]), name


@pytest.fixture(scope="module")
def paddlenlp(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("paddlenlp"), tmp_path_factory.mktemp("paddlenlp")
    jobs = []
    for folder in DISTINCT:
        # it makes its own tables in the weights' type, and its CPU kernels have no bfloat16
        options = {"dtype": "float32"} if folder == BFLOAT16 else {}
        jobs.append(job(folder, folder, converted.path(folder, "paddle"), tmp, options=options))
    for folder in BOTH:
        for kind in ("-st", "-st-sharded", "-pd-sharded"):
            jobs.append(job(f"{folder}{kind}", folder, converted.path(folder, "paddle", kind), tmp, options={}))
    importing = {"convert_from_torch": True}  # of the two only this: it cannot import embeddings_project at all
    for kind in ("-st", "-bin"):
        directory = converted.path(BOTH[0], "torch", kind)
        jobs.append(job(f"import{kind}", BOTH[0], directory, tmp, options=importing))
    return ask(PADDLENLP, python, jobs)


@pytest.mark.parametrize("folder", DISTINCT)
def test_paddlenlp_computes_what_the_writer_computed(paddlenlp: Peer, folder: str) -> None:
    assert worst(folder, paddlenlp.logits[folder]) <= tolerance(folder)
    assert paddlenlp.said[folder] == []  # nothing was imported and written beside: it read our file as its own


@pytest.mark.parametrize("kind", ["-st", "-st-sharded", "-pd-sharded"])
@pytest.mark.parametrize("folder", BOTH)
def test_paddlenlp_loads_safetensors_and_shards(paddlenlp: Peer, folder: str, kind: str) -> None:
    """Safetensors without decoder_weight too: it is tied after loading."""
    assert worst(folder, paddlenlp.logits[f"{folder}{kind}"]) <= TOLERANCE
    assert paddlenlp.said[f"{folder}{kind}"] == []


@pytest.mark.parametrize("kind", ["-st", "-bin"])
def test_paddlenlps_own_import_of_our_torch_files_keeps_the_bias(paddlenlp: Peer, kind: str) -> None:
    """It maps cls.predictions.decoder.bias alone, which transformers' safetensors leave out: ours hold both."""
    assert worst(BOTH[0], paddlenlp.logits[f"import{kind}"]) <= TOLERANCE


@pytest.fixture(scope="module")
def bert4keras(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    python, tmp = environment("bert4keras"), tmp_path_factory.mktemp("bert4keras")
    jobs = [job(one, one, converted.path(one, "tf1"), tmp, pair="nsp" in one) for one in DISTINCT]
    return ask(BERT4KERAS, python, jobs, answers=False, TF_KERAS="1", TF_USE_LEGACY_KERAS="1")


@pytest.mark.parametrize("folder", DISTINCT)
def test_bert4keras_computes_what_the_writer_computed(bert4keras: Peer, folder: str) -> None:
    # it adds 1e-7 to the encoder's variances where the others add 1e-12, which shows most at padding
    assert worst(folder, bert4keras.logits[folder], everywhere=False) <= tolerance(folder)


def test_bert4keras_computes_the_sentence_pair(bert4keras: Peer) -> None:
    pair = np.load(bert4keras.root / "b4k-MaskedLM_pool_nsp.pair.npy")
    assert np.abs(pair - np.load(PEERS / "b4k-MaskedLM_pool_nsp" / "out0.npy")).max() <= 1e-6
