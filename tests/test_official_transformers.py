"""transformers as an official participant: what we write for it passes, and each planted fault is laid to its cause."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_bench import OfficialBench, Plant, Workers, failed, kinds, nothing

from roformer_convert.converters import ConvertOptions, convert
from roformer_convert.parity.explaining.sampling import take_rows
from roformer_convert.parity.questions.cases import Case
from roformer_convert.parity.serving import causes as serving_causes
from roformer_convert.parity.serving.asking import Started

if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "safetensors")):
    pytest.skip("torch, transformers or safetensors is not installed", allow_module_level=True)

from safetensors.numpy import load_file, save_file

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TABLE = "roformer.encoder.embed_positions.weight"
QUERY = "roformer.encoder.layer.0.attention.self.query.weight"
Tensors = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with Workers(tmp_path_factory.mktemp("workers")) as workers:
        yield workers["transformers"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, worker: Started) -> OfficialBench:
    """A random model, written by PaddleNLP's names; transformers loads what is converted for it."""
    return OfficialBench(tmp_path_factory.mktemp("bench"), FIXTURES / "random", worker)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory, worker: Started) -> OfficialBench:
    """A model whose vocabulary has Latin letters."""
    return OfficialBench(tmp_path_factory.mktemp("letters"), FIXTURES / "tiny", worker)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, worker: Started) -> OfficialBench:
    """A model with a vocabulary of words."""
    if importlib.util.find_spec("rjieba") is None:
        pytest.skip("rjieba is not installed")
    return OfficialBench(tmp_path_factory.mktemp("words"), FIXTURES / "cases" / "33-word-tokenizer-to-paddle", worker)


def stated(file: str, **fields: Any) -> Plant:
    """Set keys of a JSON file."""

    def plant(directory: Path) -> None:
        path = directory / file
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")

    return plant


def config(**fields: Any) -> Plant:
    return stated("config.json", **fields)


def changed(change: Callable[[Tensors], None]) -> Plant:
    """Change the tensors of the file."""

    def plant(directory: Path) -> None:
        path = directory / "model.safetensors"
        tensors = {name: array.copy() for name, array in load_file(path).items()}
        change(tensors)
        whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(whole, path, metadata={"format": "pt"})

    return plant


def replaced(name: str, change: Callable[[Any], Any]) -> Plant:
    return changed(lambda tensors: tensors.update({name: change(tensors[name])}))


def dropped(*names: str) -> Plant:
    def drop(tensors: Tensors) -> None:
        for name in names:
            del tensors[name]

    return changed(drop)


def one_more(array: Any) -> Any:
    array[4, 2] += 1e-3
    return array


def halved(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_we_write_for_it_is_loaded_whole_and_computes_the_same(bench: OfficialBench) -> None:
    result = bench.judge()
    assert (failed(result), result.causes, result.divergence) == ([], [], None)
    found = {verdict.check: verdict for verdict in result.verdicts}
    assert list(found) == [
        "official: loaded whole",
        "official: parameters as loaded",
        "official: ids of the sentences",
        "official: float64 logits",
        "official: float32 logits",
        "official: top 5 in order",
    ]
    assert found["official: parameters as loaded"].note == "59 by their bits, the rotary table by its rounding"
    assert found["official: ids of the sentences"].note == "23 sentences, BertTokenizer"
    assert 0.0 < found["official: float64 logits"].value <= 1e-13  # measured: 8e-16
    assert found["official: float32 logits"].value > 0.0
    assert set(result.official.versions) == {"transformers", "torch", "numpy", "python"}
    assert result.official.label.startswith("transformers ")
    assert result.official.called.startswith("torch ")  # its label has named transformers
    assert result.official.facts["peak_bytes"] > 1 << 27


#: Fault → the checks that fail, the kinds of causes, and what is said.
FAULTS: dict[str, tuple[Plant, list[str], set[str], str]] = {
    "epsilon": (
        config(layer_norm_eps=1e-5),
        ["float64 logits", "float32 logits"],
        {"configuration", "epsilon"},
        "layer_norm_eps is 1e-05 there, 1e-12 here",
    ),
    "activation": (
        config(hidden_act="relu"),
        ["float64 logits", "float32 logits", "top 5 in order"],
        {"configuration", "activation"},
        "relu instead of gelu (erf)",
    ),
    "values rotated": (
        config(rotary_value=True),
        ["float64 logits", "float32 logits", "top 5 in order"],
        {"configuration", "rotation"},
        "values are rotated",
    ),
    "causal": (
        config(is_decoder=True),
        ["float64 logits", "float32 logits"],
        {"mask"},
        "a causal mask instead of a mask in both directions",
    ),
    "heads": (
        config(num_attention_heads=12),
        ["loaded whole", "parameters as loaded", "float64 logits", "float32 logits"],
        {"load report", "rotary table"},
        f"{TABLE} (96, 12) for (96, 6) of another shape in the file",
    ),
    "another model": (
        config(model_type="nezha"),
        ["loaded whole"],
        {"files"},
        'model_type got "nezha" in config.json, want "roformer"',
    ),
    "half-split table": (
        replaced(TABLE, lambda table: np.stack(np.split(table, 2, 1), -1).reshape(table.shape)),
        ["parameters as loaded", "float32 logits"],
        {"rotary table"},
        "its sines and cosines alternate",
    ),
    "table of another order": (
        replaced(TABLE, lambda table: np.roll(table, table.shape[1] // 2, 1)),
        ["parameters as loaded", "float32 logits"],
        {"rotary table"},
        "its cosines stand before its sines",
    ),
    "table a position late": (
        replaced(TABLE, lambda table: np.concatenate([table[1:], table[-1:]])),
        # rotations are relative: only the last position, which has its neighbour's, is wrong
        ["parameters as loaded", "float32 logits"],
        {"rotary table"},
        "it starts at position 1",
    ),
    "one entry of the table": (
        replaced(TABLE, one_more),
        ["parameters as loaded"],
        {"rotary table"},
        "1 of 1,152 entries differ, most at [4, 2]: 0.185598731 instead of 0.184598724",
    ),
    "a layer's bias dropped": (
        dropped("roformer.encoder.layer.1.output.dense.bias"),
        ["loaded whole", "parameters as loaded", "float64 logits", "float32 logits", "top 5 in order"],
        {"load report", "bias"},
        "roformer.encoder.layer.1.output.dense.bias missing in the file, so that it was set at random",
    ),
    "the decoder's bias dropped": (
        dropped("cls.predictions.bias", "cls.predictions.decoder.bias"),
        ["loaded whole", "parameters as loaded", "float64 logits", "float32 logits", "top 5 in order"],
        {"load report", "bias"},
        "the decoder bias is missing (all 0)",
    ),
    "half a file": (halved, ["loaded whole"], {"files"}, "a download or a copy of it was cut short"),
    "a kernel that is not transposed": (
        replaced(QUERY, lambda kernel: kernel.T),
        ["parameters as loaded", "float64 logits", "float32 logits"],
        {"transposed"},
        "the kernel is not transposed",
    ),
    "one value": (
        replaced(QUERY, one_more),
        ["parameters as loaded", "float64 logits"],
        {"corrupted"},
        "1 of 5,184 values differ, most at [4, 2]",
    ),
    "another shape": (
        replaced("roformer.encoder.layer.1.intermediate.dense.weight", lambda kernel: kernel[:-1]),
        ["loaded whole", "parameters as loaded", "float64 logits", "float32 logits", "top 5 in order"],
        {"load report", "corrupted"},
        "roformer.encoder.layer.1.intermediate.dense.weight (103, 72) for (104, 72) of another shape in the file",
    ),
    "a tensor that nobody announced": (
        changed(lambda tensors: tensors.update({"roformer.strange.weight": np.ones(3, np.float32)})),
        ["loaded whole"],
        {"load report"},
        "roformer.strange.weight not read, which was not announced",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_laid_to_its_cause(bench: OfficialBench, fault: str) -> None:
    plant, checks, causes, what = FAULTS[fault]
    result = bench.judge(plant)
    said = [f"{cause.where}: {cause.what}" for cause in result.causes]
    assert (failed(result), kinds(result)) == (checks, causes), said
    assert any(what in line for line in said), said
    assert all(cause.label.startswith("transformers ") for cause in result.causes)


@pytest.mark.parametrize("fault", ["epsilon", "activation", "values rotated", "causal"])
def test_of_a_large_model_a_row_that_differs_explains_it(
    bench: OfficialBench, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    rows: list[int] = []

    def counted(case: Case, chosen: Any, task: Any) -> Any:
        rows.append(len(chosen))
        return take_rows(case, chosen, task)

    monkeypatch.setattr(serving_causes, "take_rows", counted)
    monkeypatch.setattr(serving_causes, "_WORK", 0.0)
    plant, _, causes, what = FAULTS[fault]
    result = bench.judge(plant)
    assert kinds(result) == causes
    assert any(what in cause.what for cause in result.causes)
    assert set(rows) == {1}


def test_the_first_hidden_states_that_differ_are_named(bench: OfficialBench) -> None:
    result = bench.judge(replaced("roformer.encoder.layer.1.output.dense.weight", one_more))
    assert result.divergence is not None
    assert (result.divergence.dtype, result.divergence.tap) == ("float64", "layers.1.feed_forward_norm")
    assert result.divergence.odd == result.official.label


def test_the_part_that_its_class_does_not_know_is_announced_and_passes(bench: OfficialBench) -> None:
    result = bench.judge()
    assert "roformer.pooler.dense.weight" in result.official.facts["unexpected"]
    names = "cls.seq_relationship.bias, cls.seq_relationship.weight, roformer.pooler.dense.bias and 1 more"
    assert result.verdicts[0].note == f"announced, and not read: {names}"


def test_letters_whose_case_is_kept_give_other_ids(letters: OfficialBench) -> None:
    assert failed(letters.judge()) == []
    result = letters.judge(stated("tokenizer_config.json", do_lower_case=False))
    assert failed(result) == ["ids of the sentences"]
    (cause,) = result.causes
    assert (cause.kind, cause.explains) == ("ids", True)
    assert "it does not lower the case of letters (do_lower_case)" in cause.what
    where = next(verdict.where for verdict in result.verdicts if not verdict.passed)
    assert "1 '[UNK]', ours " in where


def test_a_vocabulary_of_words_that_is_taken_apart_into_characters_is_named(words: OfficialBench) -> None:
    for named, what in (
        # what transformers 5 does with a vocab.txt of words, whatever it holds
        ("RoFormerTokenizer", "it splits into words and finds none of them in the vocabulary"),
        ("BertTokenizer", "it takes the words of the vocabulary apart into characters"),
    ):
        result = words.judge(stated("tokenizer_config.json", tokenizer_class=named))
        assert failed(result) == ["ids of the sentences"]
        assert [(cause.kind, cause.explains) for cause in result.causes] == [("ids", True)]
        assert what in result.causes[0].what


def test_a_tokenizer_that_cannot_be_loaded_fails_and_takes_nothing_else_along(words: OfficialBench) -> None:
    result = words.judge(lambda directory: (directory / "vocab.txt").unlink())
    assert failed(result) == ["ids of the sentences"]
    assert "its tokenizer cannot be loaded" in result.causes[0].what


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("fixture", ["random", "tiny"])
def test_a_checkpoint_in_a_half_type_passes_with_its_rounded_table_noted(
    worker: Started, tmp_path: Path, fixture: str, dtype: str
) -> None:
    """transformers keeps the table as the file has it, rounded: said, and put right before its results are compared.

    In the longer table an entry is as far as two roundings take it, to float32 and from there.
    """
    convert(FIXTURES / fixture, tmp_path / "half", to="torch", options=ConvertOptions(dtype=dtype))
    bench = OfficialBench(tmp_path, tmp_path / "half", worker)
    result = bench.judge()
    assert failed(result) == []
    assert any(f"its rotary table is rounded to {dtype}" in note for note in result.notes)
    assert failed(bench.judge(replaced_half)) == ["parameters as loaded"]


def replaced_half(directory: Path) -> None:
    """Set an entry of the table in a half type two units off."""
    import torch
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors[TABLE][4, 2] *= 1.02
    save_file(tensors, path, metadata={"format": "pt"})
    assert isinstance(tensors[TABLE], torch.Tensor)


HEADS = [
    "hf4-CausalLM_default_st",
    "hf4-Model_discriminator_bin",
    "hf4-MultipleChoice_default_st",
    "hf4-QuestionAnswering_default_bin",
    "hf4-SequenceClassification_default_st",
    "hf4-TokenClassification_default_st",
]


@pytest.mark.parametrize("folder", HEADS)
def test_each_class_is_compared_by_its_own_results(worker: Started, tmp_path: Path, folder: str) -> None:
    bench = OfficialBench(tmp_path, FIXTURES / "peers" / folder, worker)
    result = bench.judge()
    assert failed(result) == [], result.causes
    checks = [verdict.check for verdict in result.verdicts if verdict.check.startswith("official: float64 ")]
    name = {"CausalLM": "logits", "Model": "last hidden states"}.get(folder.split("-")[1].split("_")[0], "classifier")
    assert f"official: float64 {name}" in checks
    result = bench.judge(config(layer_norm_eps=1e-4))
    assert {"configuration", "epsilon"} == kinds(result)
    assert f"float64 {name}" in failed(result)


# Bounds --------------------------------------------------------------------------------------------------------------


def shifted(bench: OfficialBench, dtype: str, share: float) -> Plant:
    """Shift one logit of what was computed by a share of its bound."""

    def plant(folder: Path) -> None:
        right = bench.ours.read("float64.everyday", "logits")
        scale = bench.bounds.measured.scales["logits"]
        at = np.unravel_index(np.abs(right).argmin(), right.shape)  # where it has no last digits of its own
        path = folder / f"{dtype}.everyday.npz"
        arrays = dict(np.load(path))
        arrays["logits"] = right.copy()
        arrays["logits"][at] += share * bench.bounds.at_tap(dtype, "logits") * scale[at[-1]]
        np.savez(path, **arrays)

    return plant


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_result_within_half_its_bound_passes_and_one_at_twice_does_not(bench: OfficialBench, dtype: str) -> None:
    assert failed(bench.judge(after=shifted(bench, dtype, 0.5))) == []
    result = bench.judge(after=shifted(bench, dtype, 2.0))
    assert failed(result) == [f"{dtype} logits"]
    assert result.divergence is not None
    assert (result.divergence.dtype, result.divergence.tap) == (dtype, "logits")


def test_a_table_within_half_a_unit_passes_and_one_at_a_unit_does_not(bench: OfficialBench) -> None:
    """The largest entries are those next to 1, whose float32 neighbours are 2**-24 away."""

    def neighbour(table: Any) -> Any:
        at = np.unravel_index(np.abs(table - 0.9).argmin(), table.shape)
        table[at] = np.nextafter(table[at], np.float32(2))
        table[at] = np.nextafter(table[at], np.float32(2))
        return table

    assert failed(bench.judge()) == []
    result = bench.judge(replaced(TABLE, neighbour))
    assert failed(result) == ["parameters as loaded"]
    assert "1 of 1,152 entries differ" in result.causes[0].what


# What the tokens tell ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["padding", "mask", "token types", "position", "unknown"])
def test_the_tokens_at_which_it_differs_tell_what_it_is(bench: OfficialBench, kind: str) -> None:
    """No mistake in a step explains a number added: where it stands does."""

    def wrong_at(case: Case) -> Any:
        mask = np.ones_like(case.input_ids) if case.attention_mask is None else case.attention_mask
        types = np.zeros_like(case.input_ids) if case.token_type_ids is None else case.token_type_ids
        padded = np.broadcast_to((mask == 0).any(1, keepdims=True), mask.shape)
        typed = np.broadcast_to((types != 0).any(1, keepdims=True), mask.shape)
        longest = np.broadcast_to(mask.sum(1, keepdims=True) == bench.model.config.max_position_embeddings, mask.shape)
        found = {"padding": mask == 0, "mask": padded, "token types": typed, "position": longest, "unknown": mask >= 0}
        return found[kind]

    def plant(folder: Path) -> None:
        for case in bench.cases:
            path = folder / f"float64.{case.name}.npz"
            arrays = dict(np.load(path))
            arrays["logits"] = arrays["logits"] + 0.1 * wrong_at(case)[..., None]
            np.savez(path, **arrays)

    result = bench.judge(after=plant)
    assert failed(result) == ["float64 logits"]
    assert [(cause.kind, cause.where, cause.explains) for cause in result.causes] == [(kind, "logits", False)]


def test_the_bench_plants_nothing_by_itself(bench: OfficialBench) -> None:
    assert failed(bench.judge(nothing)) == []
