"""The gate finds each planted mistake, names it with its layer, and lays it to the participant that has it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from parity_faults import LABELS, Bench, Plant

from roformer_convert.models.config import MASKED

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("parity"))


def within(module: Any, name: str, value: Any, target: Any) -> None:
    """Have ``target.forward`` run with ``module.name`` replaced."""
    original = target.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        kept = getattr(module, name)
        setattr(module, name, value)
        try:
            return original(*args, **kwargs)
        finally:
            setattr(module, name, kept)

    target.forward = forward


def rotate_halves(x: Any, turns: Any) -> Any:
    cosine, sine = turns.unbind(-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1).to(x.dtype)


def epsilon(module: ModuleType, model: Any) -> None:
    model.layers[1].attention_norm.epsilon = 1e-5


def odd_epsilon(module: ModuleType, model: Any) -> None:
    model.layers[2].feed_forward_norm.epsilon = 0.0007


def embedding_epsilon(module: ModuleType, model: Any) -> None:
    model.embeddings.norm.epsilon = 1e-12


def tanh_gelu(module: ModuleType, model: Any) -> None:
    model.layers[2].feed_forward.activation = "gelu_tanh"


def tanh_gelu_in_the_head(module: ModuleType, model: Any) -> None:
    model.mlm.activation = "gelu_tanh"


def half_split(module: ModuleType, model: Any) -> None:
    halves = lambda runs, turns: [rotate_halves(x, turns) for x in runs]  # noqa: E731
    within(module, "rotate_together", halves, model.layers[1].attention)


def rotated_values(module: ModuleType, model: Any) -> None:
    model.layers[0].attention.rotary_value = True


def decoder_bias(module: ModuleType, model: Any) -> None:
    plain = module.score_words

    def score_words(hidden: Any, word: Any, bias: Any, layout: Any) -> Any:
        return plain(hidden, word, torch.zeros_like(bias), layout)

    within(module, "score_words", score_words, model.mlm)


def zero_decoder_bias(module: ModuleType, model: Any) -> None:
    model.mlm.bias.data.zero_()


def untied_decoder(module: ModuleType, model: Any) -> None:
    original = model.mlm.forward
    other = model.embeddings.word.weight.detach().clone()
    other[3:9] += 0.25
    model.mlm.forward = lambda hidden, word, layout, taps: original(hidden, other, layout, taps)


def untransposed(module: ModuleType, model: Any) -> None:
    linear = model.layers[2].attention.key
    linear.forward = lambda x, activation=None: module.project(x, linear.weight.T, linear.bias, activation)


def untransposed_on_loading(module: ModuleType, model: Any) -> None:
    linear = model.layers[1].attention.out
    linear.weight.data = linear.weight.data.T.contiguous()


def attention_dropout(module: ModuleType, model: Any) -> None:
    model.layers[1].attention.training = True


def embedding_dropout(module: ModuleType, model: Any) -> None:
    model.embeddings.training = True


def token_0_masked(module: ModuleType, model: Any) -> None:
    original = model.lay_out

    def lay_out(input_ids: Any, attention_mask: Any, packed: bool, token_type_ids: Any) -> Any:
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return original(input_ids, real * (input_ids != 0), packed, token_type_ids)

    model.lay_out = lay_out


def mask_constant(module: ModuleType, model: Any) -> None:
    original = model.layers[1].attention.forward

    def forward(hidden: Any, layout: Any, name: str, taps: Any) -> Any:
        if layout.mask is not None:
            layout = layout._replace(mask=layout.mask / MASKED * -7.25)
        return original(hidden, layout, name, taps)

    model.layers[1].attention.forward = forward


def mask_ignored(module: ModuleType, model: Any) -> None:
    original = model.lay_out
    model.lay_out = lambda input_ids, attention_mask, packed, types: original(input_ids, None, packed, types)


def token_types_ignored(module: ModuleType, model: Any) -> None:
    original = model.embeddings.forward
    model.embeddings.forward = lambda input_ids, token_type_ids: original(input_ids, None)


def shifted_rows(module: ModuleType, model: Any) -> None:
    model.embeddings.word.weight.data = model.embeddings.word.weight.data.roll(1, 0)


def shifted_ids(module: ModuleType, model: Any) -> None:
    original = model.embeddings.forward
    size = model.config.vocab_size
    model.embeddings.forward = lambda input_ids, types: original((input_ids + 1) % size, types)


def first_position(module: ModuleType, model: Any) -> None:
    turns = torch.view_as_complex(model.rotary.table)
    model.rotary.table = torch.view_as_real(torch.cat([turns[1:], turns[-1:] * turns[1:2]]))


def norm_bias(module: ModuleType, model: Any) -> None:
    norm = model.layers[1].attention_norm
    norm.add = lambda x, residual, *_: norm(x + residual) - norm.bias


def embedding_norm_bias(module: ModuleType, model: Any) -> None:
    norm = model.embeddings.norm
    norm.forward = lambda x: module.normalize(x, norm.weight, torch.zeros_like(norm.bias), norm.epsilon)


def layer_bias(module: ModuleType, model: Any) -> None:
    linear = model.layers[2].feed_forward.down
    linear.forward = lambda x: module.project(x, linear.weight, None)


def subtracted(module: ModuleType, model: Any) -> None:
    add = model.layers[2].feed_forward_norm.add
    model.layers[2].feed_forward_norm.add = lambda x, *rest: add(-x, *rest)


def negated_kernel(module: ModuleType, model: Any) -> None:
    linear = model.layers[0].attention.value
    linear.forward = lambda x: module.project(-x, linear.weight, linear.bias)
    within(module, "project_together", lambda x, layers: [one(x) for one in layers], model.layers[0].attention)


def negated_on_loading(module: ModuleType, model: Any) -> None:
    model.layers[1].feed_forward.up.weight.data.neg_()


EVERY_LAYER = "layers.{}.attention.out"

# fault, its kind, words of its description, where it must be said to be
FAULTS: list[tuple[Plant, str, str, list[str]]] = [
    (epsilon, "epsilon", "epsilon 1e-05 instead of 1e-06", ["layers.1.attention_norm"]),
    (odd_epsilon, "epsilon", "epsilon 0.0007 instead of 1e-06", ["layers.2.feed_forward_norm"]),
    (embedding_epsilon, "epsilon", "epsilon 1e-12 instead of 1e-06", ["embeddings"]),
    (tanh_gelu, "activation", "gelu (tanh) instead of gelu (erf)", ["layers.2.feed_forward"]),
    (tanh_gelu_in_the_head, "activation", "gelu (tanh) instead of gelu (erf)", ["mlm.transform"]),
    (half_split, "rotation", "half-split", ["layers.1.attention.query", "layers.1.attention.key"]),
    (rotated_values, "rotation", "values are rotated", ["layers.0.attention.value"]),
    (decoder_bias, "bias", "decoder bias is missing", ["logits"]),
    (zero_decoder_bias, "bias", "decoder bias is missing", ["mlm.bias"]),
    (untied_decoder, "untied", "untied: 6 of 61 rows", ["logits"]),
    (
        untransposed,
        "transposed",
        "weight is used without being transposed",
        ["layers.2.attention.key"],
    ),
    (untransposed_on_loading, "transposed", "not transposed", ["layers.1.attention.out.weight"]),
    (attention_dropout, "dropout", "dropout is left on", ["layers.1.attention.out"]),
    (embedding_dropout, "dropout", "dropout is left on", ["embeddings"]),
    (token_0_masked, "token 0", "token 0 is masked", [EVERY_LAYER.format(i) for i in range(3)]),
    (mask_constant, "mask", "-7.25 is added", ["layers.1.attention.out"]),
    (mask_ignored, "mask", "mask is ignored", [EVERY_LAYER.format(i) for i in range(3)]),
    (token_types_ignored, "token types", "token types are ignored", ["embeddings"]),
    (
        first_position,
        "position",
        "the first position is 1 instead of 0",
        [f"layers.{i}.attention.{part}" for i in range(3) for part in ("query", "key")],
    ),
    (norm_bias, "bias", "layers.1.attention_norm.bias is missing", ["layers.1.attention_norm"]),
    (embedding_norm_bias, "bias", "embeddings.norm.bias is missing", ["embeddings"]),
    (layer_bias, "bias", "layers.2.feed_forward.down.bias is missing", ["layers.2.feed_forward"]),
    (subtracted, "sign", "subtracted from the residual", ["layers.2.feed_forward_norm"]),
    (
        negated_kernel,
        "sign",
        "layers.0.attention.value.weight is used with the other sign",
        ["layers.0.attention.value"],
    ),
    (negated_on_loading, "sign", "every value has the other sign", ["layers.1.feed_forward.up.weight"]),
    (shifted_rows, "vocabulary", "shifted by 1", ["embeddings.word.weight"]),
    (shifted_ids, "vocabulary", "shifted by -1", ["embeddings"]),
]


@pytest.mark.parametrize(("plant", "kind", "words", "where"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_planted_fault_is_named_with_its_layer(
    bench: Bench, plant: Plant, kind: str, words: str, where: list[str]
) -> None:
    odd = LABELS[[fault[0] for fault in FAULTS].index(plant) % 3]
    result = bench.compare(plant, odd)
    assert not result.passed
    assert [(cause.kind, cause.where, cause.label) for cause in result.causes] == [(kind, one, odd) for one in where]
    assert all(words in cause.what for cause in result.causes), result.causes
    assert result.divergence is not None
    assert result.divergence.odd == odd
    assert result.divergence.tap in (where[0], _first_tap_after(where[0]))


def _first_tap_after(parameter: str) -> str:
    return {
        "mlm.bias": "logits",
        "layers.1.attention.out.weight": "layers.1.attention.out",
        "embeddings.word.weight": "embeddings",
        "layers.1.feed_forward.up.weight": "layers.1.feed_forward",
    }.get(parameter, parameter)


def test_without_a_fault_all_verdicts_are_good(bench: Bench) -> None:
    result = bench.compare(None)
    assert result.passed
    assert result.causes == []
    assert result.divergence is None
    assert {verdict.check for verdict in result.verdicts} >= {"float64 logits", "float32 logits", "top 5 in order"}


@pytest.mark.parametrize("odd", LABELS)
def test_fault_in_one_framework_is_laid_to_that_framework(bench: Bench, odd: str) -> None:
    result = bench.compare(tanh_gelu, odd)
    assert result.divergence is not None
    assert result.divergence.odd == odd
    assert {cause.label for cause in result.causes} == {odd}
    failed = [verdict for verdict in result.verdicts if not verdict.passed]
    assert failed
    assert all(odd in verdict.about for verdict in failed)


def test_two_participants_suffice_to_name_the_one_with_the_fault(bench: Bench) -> None:
    result = bench.compare(half_split, "torch", ("paddle", "torch"))
    assert {cause.label for cause in result.causes} == {"torch"}


def test_a_fault_that_all_have_is_found_by_recomputation(bench: Bench) -> None:
    faulty = bench.dump(epsilon)
    result = bench.judge(dict.fromkeys(LABELS, faulty))
    assert [cause.where for cause in result.causes] == ["layers.1.attention_norm"] * 3
    assert result.divergence is None
    assert not result.passed


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_in_one_is_a_failure_there(bench: Bench) -> None:
    def plant(module: ModuleType, model: Any) -> None:
        model.layers[1].feed_forward.down.bias.data[3] = float("nan")

    result = bench.compare(plant)
    wrong = {
        verdict.about for verdict in result.verdicts if not verdict.passed and verdict.check == "every number finite"
    }
    assert wrong == {("tf",)}
    assert all("tf" in verdict.about for verdict in result.verdicts if not verdict.passed)
    assert result.divergence is not None
    assert result.divergence.tap == "layers.1.feed_forward"


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_in_all_is_a_failure(bench: Bench) -> None:
    def plant(module: ModuleType, model: Any) -> None:
        model.mlm.bias.data[0] = float("nan")

    result = bench.judge(dict.fromkeys(LABELS, bench.dump(plant)))
    wrong = {verdict.about[0] for verdict in result.verdicts if not verdict.passed}
    assert wrong >= set(LABELS)


def test_float32_alone_may_be_broken(bench: Bench) -> None:
    def plant(module: ModuleType, model: Any) -> None:
        if model.mlm.bias.dtype == torch.float32:
            model.layers[0].attention.value.weight.data = model.layers[0].attention.value.weight.data.half().float()

    result = bench.compare(plant, "paddle")
    assert result.divergence is not None
    assert (result.divergence.dtype, result.divergence.tap) == ("float32", "layers.0.attention.value")
    assert result.divergence.odd == "paddle"
    failed = {verdict.check for verdict in result.verdicts if not verdict.passed}
    assert "float32 against its own float64" in failed
    assert not any("float64 logits" in check for check in failed)


def test_gradient_that_differs_is_named_by_its_parameter(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gradients=True)

    def plant(module: ModuleType, model: Any) -> None:
        model.layers[1].feed_forward.up.weight.register_hook(lambda gradient: gradient * (1 + 1e-9))

    assert bench.compare(None).passed
    result = bench.compare(plant)
    wrong = [verdict for verdict in result.verdicts if not verdict.passed]
    assert {verdict.check for verdict in wrong} >= {"float64 gradients"}
    assert all(verdict.where.startswith("layers.1.feed_forward.up.weight") for verdict in wrong)


def test_step_that_differs_is_named_by_its_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_torch: Any = importlib.import_module("roformer_convert.parity.participants.run_torch")
    bench = Bench(tmp_path, gradients=True)
    monkeypatch.setattr(run_torch, "DECAY", run_torch.DECAY * 1.01)
    result = bench.judge({"torch": bench.dump(None)})
    wrong = [verdict for verdict in result.verdicts if not verdict.passed]
    assert {verdict.check for verdict in wrong} == {"float64 after one AdamW step"}
    assert all("torch" in verdict.about for verdict in wrong)
