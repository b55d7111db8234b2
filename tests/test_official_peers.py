"""Each software of the family as an official participant: what it wrote passes, and faults are laid to their causes.

The environments are those of ``make peers``; a test whose environment is absent is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from family_folders import SET
from official_bench import OfficialBench, Workers, failed, kinds
from peer_folders import PEERS, ROOT, environment
from test_official_transformers import config, stated

from roformer_convert.converters import convert

#: How the name of a folder of fixtures/peers begins → who wrote it, and the environment that has it.
WRITERS = {
    "hf4": ("transformers", "transformers4"),
    "hf5": ("transformers", ""),
    "junn": ("junnyu", "junnyu"),
    "pd": ("paddlenlp", "paddlenlp"),
    "trained": ("paddlenlp", "paddlenlp"),
    "b4k": ("bert4keras", "bert4keras"),
}
FOLDERS = sorted(path.name for path in PEERS.iterdir() if path.is_dir() and not path.name.startswith("__"))
CASES = ROOT / "fixtures" / "cases"


def asked(name: str, place: str) -> str:
    """What ``--with`` is given; skips where the environment is absent."""
    if not place:
        pytest.importorskip(name)
        return name
    return f"{name}={environment(place)}"


def writer(folder: str) -> str:
    name, place = WRITERS[folder.partition("-")[0]]
    return asked("transformers-tf" if folder.endswith("_tf") else name, place)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with Workers(tmp_path_factory.mktemp("workers")) as workers:
        yield workers


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_software_wrote_passes_with_itself_as_participant(workers: Workers, tmp_path: Path, folder: str) -> None:
    said = writer(folder)
    bench = OfficialBench(tmp_path, PEERS / folder, workers[said], SET.get(folder))
    result = bench.judge()
    assert failed(result) == [], [cause.as_dict() for cause in result.causes]
    checks = {verdict.check for verdict in result.verdicts}
    assert {"official: loaded whole", "official: parameters as loaded"} <= checks
    assert any(check.startswith("official: float32 ") for check in checks)
    compared = next(one for one in result.verdicts if one.check == "official: parameters as loaded")
    assert int(compared.note.split()[0]) >= len(result.official.expected) - 1  # a tied one is held once
    assert all(one.value > 0.0 for one in result.verdicts if one.check.startswith("official: float32 "))
    assert set(result.official.versions) >= {"numpy", "python"}
    assert result.official.facts["peak_bytes"]


SOFTWARE = {
    "transformers-tf": ("transformers4", "config.json", "layer_norm_eps"),
    "paddlenlp": ("paddlenlp", "config.json", "pool_act"),
    "bert4keras": ("bert4keras", "bert_config.json", "hidden_act"),
    "junnyu": ("junnyu", "config.json", "layer_norm_eps"),
}


@pytest.mark.parametrize("name", SOFTWARE)
def test_a_configuration_that_differs_is_named(workers: Workers, tmp_path: Path, name: str) -> None:
    place, file, field = SOFTWARE[name]
    # PaddleNLP computes with an epsilon of its own, whatever a file says; bert4keras too
    value = {"layer_norm_eps": 1e-4, "hidden_act": "relu", "pool_act": "relu"}[field]
    source = PEERS / "b4k-MaskedLM_pool_nsp" if name != "paddlenlp" else PEERS / "pd-Model_discriminator_pd"
    bench = OfficialBench(tmp_path, source, workers[asked(name, place)])
    assert failed(bench.judge()) == []
    result = bench.judge(stated(file, **{field: value}))
    assert any(check.startswith("float32 ") for check in failed(result))
    assert "configuration" in kinds(result)
    assert any(f"is {value!r} there" in cause.what for cause in result.causes)


def test_paddlenlp_without_use_jieba_takes_the_words_apart(workers: Workers, tmp_path: Path) -> None:
    bench = OfficialBench(tmp_path, CASES / "33-word-tokenizer-to-paddle", workers[asked("paddlenlp", "paddlenlp")])
    result = bench.judge()
    assert failed(result) == []
    # its masked LM has a pooler, which a checkpoint of transformers has not and nobody reads
    assert "roformer.pooler.dense.weight set at random, which nothing compared reads" in result.verdicts[0].note
    result = bench.judge(stated("tokenizer_config.json", use_jieba=False))
    assert failed(result) == ["ids of the sentences"]
    assert [(cause.kind, cause.explains) for cause in result.causes] == [("ids", True)]
    assert "use_jieba false" in result.causes[0].what


def test_paddlenlp_sets_symbols_apart_and_that_is_said(workers: Workers, tmp_path: Path) -> None:
    bench = OfficialBench(tmp_path, ROOT / "fixtures" / "random", workers[asked("paddlenlp", "paddlenlp")])
    result = bench.judge()
    assert failed(result) == []
    (ids,) = [verdict for verdict in result.verdicts if verdict.check == "official: ids of the sentences"]
    assert "23 sentences, 1 by its own rules for symbols and scripts" in ids.note


def test_a_vocabulary_of_words_in_transformers_4_and_bert4keras(workers: Workers, tmp_path: Path) -> None:
    """transformers 5 takes them apart (test_official_transformers.py); these do not."""
    for name, place in (("transformers", "transformers4"), ("bert4keras", "bert4keras")):
        folder = tmp_path / name
        folder.mkdir()
        bench = OfficialBench(folder, CASES / "33-word-tokenizer-to-paddle", workers[asked(name, place)])
        result = bench.judge()
        assert failed(result) == []
        assert "official: ids of the sentences" in {verdict.check for verdict in result.verdicts}


def test_half_a_file_and_a_tensor_that_is_not_there(workers: Workers, tmp_path: Path) -> None:
    source = tmp_path / "source"
    convert(PEERS / "pd-MaskedLM_default_pd", source, to="paddle")

    def halved(directory: Path) -> None:
        path = directory / "model_state.pdparams"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    bench = OfficialBench(tmp_path, source, workers[asked("paddlenlp", "paddlenlp")])
    result = bench.judge(halved)
    assert failed(result) == ["loaded whole"]
    assert kinds(result) == {"files"}
    # a layer more than the file has: its tensors are newly initialised
    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    result = bench.judge(config(num_hidden_layers=layers + 1))
    assert "loaded whole" in failed(result)
    assert "load report" in kinds(result)


def test_bert4keras_is_held_against_the_epsilon_that_it_adds(workers: Workers, tmp_path: Path) -> None:
    """The trained fixture's variances are small enough for it to show."""
    bench = OfficialBench(tmp_path, ROOT / "fixtures" / "tiny", workers[asked("bert4keras", "bert4keras")])
    result = bench.judge()
    assert failed(result) == []
    assert any("it adds 1e-07 in the encoder's norms" in note for note in result.notes)
    software = replace(result.official.software, epsilon=0.0)
    bench.worker = replace(bench.worker, wanted=replace(bench.worker.wanted, software=software))
    with_it, without = (
        {verdict.check: verdict.value for verdict in one.verdicts}["official: float32 pooler"]
        for one in (result, bench.judge())
    )
    assert without > 3 * with_it > 0.0, (with_it, without)
