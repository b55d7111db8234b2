"""Mistakes that only some members of the family can have: each is found, named with its layer, and laid to its owner.

The mistakes are planted in the model's own code, as in ``test_parity_faults.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import pytest
from parity_faults import LABELS, Bench, Plant

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    return lru_cache(None)(lambda name: Bench(tmp_path_factory.mktemp("family"), name))


def configured(**fields: Any) -> Plant:
    """Plant a model that takes some fields of its configuration for others."""

    def plant(module: ModuleType, model: Any) -> None:
        model.config = replace(model.config, **fields)

    plant.__name__ = ", ".join(f"{name} {value}" for name, value in fields.items())
    return plant


def every_mask_forgotten(module: ModuleType, model: Any) -> None:
    original = model.lay_out

    def lay_out(*arguments: Any) -> Any:
        return original(*arguments)._replace(mask=None, order=None, causal=False)

    model.lay_out = lay_out


def mask_of_one_layer_forgotten(module: ModuleType, model: Any) -> None:
    original = model.layers[1].attention.forward

    def forward(hidden: Any, layout: Any, name: str, taps: Any) -> Any:
        if layout.mask is None:
            layout = layout._replace(causal=False, order=None)
        else:  # what is left is the padding
            layout = layout._replace(mask=layout.mask.amax(-2, keepdim=True))
        return original(hidden, layout, name, taps)

    model.layers[1].attention.forward = forward


def mean_subtracted(module: ModuleType, model: Any) -> None:
    norm = model.layers[1].attention_norm
    norm.add = lambda x, residual, dropout, training: torch.nn.functional.layer_norm(
        x + residual, x.shape[-1:], eps=norm.epsilon
    )


def mean_of_the_embeddings_subtracted(module: ModuleType, model: Any) -> None:
    norm = model.embeddings.norm
    norm.forward = lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:], eps=norm.epsilon)


def mean_not_subtracted(module: ModuleType, model: Any) -> None:
    norm = model.layers[2].feed_forward_norm
    norm.add = lambda x, residual, dropout, training: (
        torch.nn.functional.rms_norm(x + residual, x.shape[-1:], norm.weight, norm.epsilon) + norm.bias
    )


def released_epsilon(module: ModuleType, model: Any) -> None:
    model.layers[2].feed_forward_norm.epsilon = 1e-7


def released_epsilon_of_the_embeddings(module: ModuleType, model: Any) -> None:
    model.embeddings.norm.epsilon = 1e-7


def odd_epsilon(module: ModuleType, model: Any) -> None:
    model.layers[0].attention_norm.epsilon = 3e-5


def last_position(module: ModuleType, model: Any) -> None:
    model.summarize = lambda hidden: hidden[:, -1]


def mean_position(module: ModuleType, model: Any) -> None:
    model.summarize = lambda hidden: hidden.mean(1)


def first_position(module: ModuleType, model: Any) -> None:
    model.summarize = lambda hidden: hidden[:, 0]


def classifier_bias_missing(module: ModuleType, model: Any) -> None:
    model.classifier.bias = None


def classifier_untransposed(module: ModuleType, model: Any) -> None:
    model.pooler.weight.data = model.pooler.weight.data.T.contiguous()


def rows_exchanged(one: int, other: int) -> Plant:
    """Plant a head whose rows were loaded in another order."""

    def plant(module: ModuleType, model: Any) -> None:
        order = list(range(len(model.classifier.bias)))
        order[one], order[other] = order[other], order[one]
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter.data = parameter.data[order].contiguous()

    plant.__name__ = f"rows {one} and {other} exchanged"
    return plant


def rows_rotated(module: ModuleType, model: Any) -> None:
    model.classifier.weight.data = model.classifier.weight.data[[2, 0, 1, 3, 4, 5]].contiguous()


def scores_exchanged(one: int, other: int) -> Plant:
    """Plant a head whose scores come out in another order."""

    def plant(module: ModuleType, model: Any) -> None:
        original = model.classifier.forward

        def forward(x: Any) -> Any:
            scores = original(x).clone()
            scores[..., [one, other]] = scores[..., [other, one]]
            return scores

        model.classifier.forward = forward

    plant.__name__ = f"scores {one} and {other} exchanged"
    return plant


def options_exchanged(module: ModuleType, model: Any) -> None:
    original = model.forward

    def forward(input_ids: Any, taps: Any, **arguments: Any) -> Any:
        original(input_ids, taps=taps, **arguments)
        taps["classifier"] = taps["classifier"][:, [0, 2, 1]]

    model.forward = forward


def untied_decoder(module: ModuleType, model: Any) -> None:
    original = model.mlm.forward
    other = model.embeddings.word.weight.detach().clone()
    other[3:9] += 0.25
    model.mlm.forward = lambda hidden, word, layout, taps: original(hidden, other, layout, taps)


EVERY_LAYER = [f"layers.{i}.attention.out" for i in range(3)]
HEAD = ["classifier.weight", "classifier.bias"]
FORGOTTEN = "a causal mask is forgotten: every key is seen"

# model, fault, its kind, words of its description, where it must be said to be
FAULTS: list[tuple[str, Plant, str, str, list[str]]] = [
    ("causal LM", configured(attention="bidirectional"), "mask", FORGOTTEN, EVERY_LAYER),
    ("causal LM", configured(attention="unilm"), "mask", "a UniLM mask instead of a causal mask", EVERY_LAYER),
    ("causal LM", every_mask_forgotten, "mask", "the attention mask is ignored and a causal mask forgot", EVERY_LAYER),
    ("causal LM", mask_of_one_layer_forgotten, "mask", FORGOTTEN, EVERY_LAYER[1:2]),
    ("causal LM V2", configured(attention="bidirectional"), "mask", FORGOTTEN, EVERY_LAYER),
    ("labels, causal", configured(attention="bidirectional"), "mask", FORGOTTEN, EVERY_LAYER),
    ("causal LM, UniLM", configured(attention="bidirectional"), "mask", "a UniLM mask is forgotten", EVERY_LAYER),
    ("causal LM, UniLM", configured(attention="causal"), "mask", "a causal mask instead of a UniLM", EVERY_LAYER),
    ("masked LM", configured(attention="causal"), "mask", "a causal mask instead of a mask in both", EVERY_LAYER),
    ("masked LM V2", mean_subtracted, "norm", "mean is subtracted in RoFormerV2", ["layers.1.attention_norm"]),
    ("base V2", mean_of_the_embeddings_subtracted, "norm", "mean is subtracted in RoFormerV2", ["embeddings"]),
    ("masked LM", mean_not_subtracted, "norm", "the mean is not subtracted", ["layers.2.feed_forward_norm"]),
    ("masked LM V2", released_epsilon, "epsilon", "1e-07 instead of 1e-12", ["layers.2.feed_forward_norm"]),
    ("base V2", released_epsilon_of_the_embeddings, "epsilon", "1e-07 instead of 1e-12", ["embeddings"]),
    ("labels V2", odd_epsilon, "epsilon", "3e-05 instead of 1e-12", ["layers.0.attention_norm"]),
    ("masked LM V2", untied_decoder, "untied", "untied: 6 of 61 rows", ["logits"]),
    ("labels", last_position, "position", "the last position, padding included, instead of the first", ["pooler"]),
    ("labels", mean_position, "position", "the mean over all positions instead of the first", ["pooler"]),
    ("base, linear pooler", last_position, "position", "the last position", ["pooler"]),
    ("pretraining", last_position, "position", "the last position", ["pooler"]),
    ("labels V2, first token alone", last_position, "position", "the last position", ["classifier"]),
    ("choices, first", last_position, "position", "the last position", ["pooler"]),
    ("choices, last, no projection", first_position, "position", "the first position instead of", ["classifier"]),
    ("choices, mean, activation", last_position, "position", "instead of the mean over all pos", ["classifier"]),
    ("labels, causal", configured(pooler_activation="gelu"), "activation",
     "the hidden activation gelu (erf) instead of the pooler's tanh", ["pooler"]),
    ("base, linear pooler", configured(pooler_activation="tanh"), "activation",
     "tanh instead of the pooler's linear", ["pooler"]),
    ("labels", configured(pooler_activation="linear"), "activation",
     "linear instead of the pooler's gelu (erf)", ["pooler"]),
    ("choices V2", configured(pooler_activation="relu"), "activation",
     "the hidden activation relu instead of the pooler's linear", ["classifier"]),
    ("labels", rows_exchanged(1, 4), "exchanged", "label rows 1 and 4 are exchanged", HEAD),
    ("token labels", rows_exchanged(0, 5), "exchanged", "label rows 0 and 5 are exchanged", HEAD),
    ("token labels", rows_rotated, "exchanged", "label rows stand in another order: 2, 0, 1", HEAD[:1]),
    ("labels V2", scores_exchanged(2, 3), "exchanged", "label rows 2 and 3 are exchanged", ["classifier"]),
    ("token labels V2", scores_exchanged(0, 1), "exchanged", "label rows 0 and 1 are exchanged", ["classifier"]),
    ("answers", rows_exchanged(0, 1), "exchanged", "start and end are exchanged", HEAD),
    ("answers V2, UniLM", scores_exchanged(0, 1), "exchanged", "start and end are exchanged", ["classifier"]),
    ("choices, first", options_exchanged, "exchanged", "options 1 and 2 are exchanged", ["classifier"]),
    ("labels", classifier_bias_missing, "bias", "the bias classifier.bias is missing", ["classifier"]),
    ("labels V2", classifier_untransposed, "transposed", "the kernel is not transposed", ["pooler.weight"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plant", "kind", "words", "where"), FAULTS, ids=[f"{fault[0]}: {fault[1].__name__}" for fault in FAULTS]
)
def test_planted_fault_is_named_with_its_layer(
    bench_of: Callable[[str], Bench], name: str, plant: Plant, kind: str, words: str, where: list[str]
) -> None:
    odd = LABELS[len(words) % 3]
    result = bench_of(name).compare(plant, odd)
    assert not result.passed
    assert [(cause.kind, cause.where, cause.label) for cause in result.causes] == [(kind, one, odd) for one in where]
    assert all(words in cause.what for cause in result.causes), result.causes
    assert result.divergence is not None
    assert result.divergence.odd == odd
    assert result.divergence.tap in (where[0], where[0].rpartition(".")[0])
