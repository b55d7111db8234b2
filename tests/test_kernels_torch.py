"""Fast kernels of PyTorch: which may be tried where, what a trial finds out, and what a packed batch then calls.

No GPU is here, so devices are pretended and kernels planted: right ones and wrong ones, which the CPU can compute.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small_model import SMALL

from roformer_convert.models import ops_torch
from roformer_convert.models.config import ModelError
from roformer_convert.models.kernels import attention_torch as kernels
from roformer_convert.models.kernels import choice_torch as choice
from roformer_convert.models.kernels.attention_torch import KERNELS, Device, Kernel, candidates, packed_way, pretending
from roformer_convert.models.kernels.trials_torch import Need, attempt, attend_rows
from roformer_convert.models.layout import Layout
from roformer_convert.models.ops_torch import worth_packing
from roformer_convert.models.roformer_torch import RoFormerForMaskedLM

CPU = Device("cpu", "cpu")
MPS = Device("mps", "mps")
V100 = Device("cuda", "V100", (7, 0))
A100 = Device("cuda", "A100", (8, 0))
H200 = Device("cuda", "H200", (9, 0))
CONFIG = replace(SMALL, max_position_embeddings=200, initializer_range=0.5)
LENGTHS = (130, 1, 0, 64, 37)
HERE = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_settled() -> Iterator[None]:
    choice._settled.cache_clear()
    choice.verdicts.clear()
    yield
    choice._settled.cache_clear()


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "dtype", "size", "version", "want"),
    [
        (H200, "bfloat16", 64, (2, 13), True),
        (H200, "float16", 64, (2, 10), True),
        (A100, "bfloat16", 8, (2, 11), True),
        (A100, "float16", 256, (2, 13), True),
        (H200, "bfloat16", 64, (2, 9), False),
        (H200, "bfloat16", 64, (1, 13), False),
        (H200, "bfloat16", 264, (2, 13), False),
        (H200, "bfloat16", 20, (2, 13), False),
        (H200, "float32", 64, (2, 13), False),
        (H200, "float64", 64, (2, 13), False),
        (V100, "float16", 64, (2, 13), False),
        (CPU, "bfloat16", 64, (2, 13), False),
        (MPS, "float16", 64, (2, 13), False),
    ],
)
def test_a_kernel_is_tried_where_it_has_machine_code(
    device: Device, dtype: str, size: int, version: tuple[int, int], want: bool
) -> None:
    for place in ("attention", "causal_attention"):
        assert bool(candidates(device, place, dtype, (12, size), version)) == want


@pytest.mark.parametrize(
    ("device", "kernel", "way"),
    [
        (CPU, False, "rows"),
        (V100, False, "batch"),
        (H200, True, "kernel"),
        (H200, False, "batch"),
        (MPS, False, "batch"),
    ],
)
def test_a_row_at_a_time_is_for_the_cpu_alone(device: Device, kernel: bool, way: str) -> None:
    assert packed_way(device, kernel) == way


def test_the_running_version_is_two_numbers() -> None:
    assert ".".join(map(str, kernels.VERSION)) == ".".join(torch.__version__.split(".")[:2])


def test_a_gpu_is_described_by_its_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(name="H200", major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {torch.device("cuda:1"): found}.get)
    assert kernels._device(torch.device("cuda:1")) == Device("cuda", "H200", (9, 0), 132)
    assert kernels._device(HERE) == CPU


def test_what_leaves_the_host_is_waited_for_where_it_could_still_change(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(2)
    told: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: told.append((device.type, non_blocking)))
    meta = torch.device("meta")
    assert kernels.send(x, HERE) is x
    kernels.send(x, meta)
    kernels.send(torch.zeros(2, device="meta"), HERE)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    kernels.send(x, meta)
    assert told == [("meta", True), ("cpu", False), ("meta", False)]


# --- the trial --------------------------------------------------------------------------------------------------------

Run = Callable[..., Any]


def right(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    """What ``varlen_attn`` should compute, by PyTorch's own attention."""
    return _by_torch(query, key, value, lengths, False)


def right_causal(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    return _by_torch(query, key, value, lengths, True)


def _by_torch(query: Any, key: Any, value: Any, lengths: tuple[int, ...], causal: bool) -> Any:
    attend: Run = torch.nn.functional.scaled_dot_product_attention
    runs = zip(*(torch.split(x, [length for length in lengths if length]) for x in (query, key, value)), strict=True)
    return torch.cat([attend(*(x.transpose(0, 1) for x in run), is_causal=causal).transpose(0, 1) for run in runs])


def across_rows(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    return right(query, key, value, (sum(lengths),))


def nothing(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    return torch.zeros_like(query) + 0 * (query + key + value)


def lost_rest(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    found = right(query, key, value, lengths)
    return torch.cat([found[:-1], found[-1:] * float("nan")])


def wrong_gradient(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    return right(query, key.detach(), value, lengths) + 0 * key


def folded_heads(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    return right(query, key, value, lengths).flatten(1)


def half_the_digits(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    query, key, value = (x.half().to(x.dtype) for x in (query, key, value))
    return right(query, key, value, lengths)


def crash(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nmore")


def planted(run: Run, place: Any = "attention") -> Kernel:
    return replace(next(k for k in KERNELS if k.place == place), run=run, types=("float16", "bfloat16", "float32"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(("run", "place"), [(right, "attention"), (right_causal, "causal_attention")])
def test_a_right_kernel_agrees(run: Run, place: Any, dtype: str) -> None:
    with torch.inference_mode():  # where a batch is first met
        verdict = attempt(planted(run, place), Need(place, dtype, (4, 8)), HERE)
    assert verdict.agrees, verdict.why


@pytest.mark.parametrize(
    ("run", "place", "why"),
    [
        (across_rows, "attention", "the result is off by"),
        (nothing, "attention", "the result is off by"),
        (lost_rest, "attention", "the result is off by nan"),
        (wrong_gradient, "attention", "gradient of key is off by"),
        (folded_heads, "attention", "RuntimeError"),
        (half_the_digits, "attention", "the result is off by"),
        (right, "causal_attention", "the result is off by"),
        (right_causal, "attention", "the result is off by"),
        (crash, "attention", "RuntimeError: FlashAttention only supports Ampere GPUs or newer."),
    ],
)
def test_a_kernel_that_lies_is_refused(run: Run, place: Any, why: str) -> None:
    verdict = attempt(planted(run, place), Need(place, "float32", (4, 8)), HERE)
    assert not verdict.agrees
    assert verdict.why.startswith(why)
    assert "\n" not in verdict.why


def test_the_plain_operators_of_a_trial_are_attention() -> None:
    generator = np.random.default_rng(0)
    query, key, value = (torch.from_numpy(generator.standard_normal((sum(LENGTHS), 4, 8))) for _ in range(3))
    for causal, run in ((False, right), (True, right_causal)):
        found = attend_rows(query, key, value, LENGTHS, causal)
        assert abs(found - run(query, key, value, LENGTHS)).max() < 1e-13


# --- what the model calls ---------------------------------------------------------------------------------------------


def inputs(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    real[0, 3:6] = False  # tokens may be masked anywhere
    ids = generator.integers(0, CONFIG.vocab_size, real.shape)
    types = (np.arange(real.shape[1]) > 20).astype(np.int64) * real
    return {
        name: torch.from_numpy(array)
        for name, array in {"input_ids": ids, "token_type_ids": types, "attention_mask": real.astype(np.int64)}.items()
    }


def model(attention: Any, dtype: str = "float64") -> Any:
    torch.manual_seed(0)
    return RoFormerForMaskedLM(replace(CONFIG, attention=attention), dtype=dtype).eval()


def packed_logits(made: Any, **more: Any) -> Any:
    with torch.inference_mode():
        return made(**inputs(), packed=True, **more)


@pytest.mark.parametrize("attention", ["bidirectional", "causal", "unilm"])
@pytest.mark.parametrize("device", [V100, H200, MPS])
def test_a_gpu_without_a_kernel_attends_the_packed_run_as_its_batch(
    attention: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(attention)
    want = packed_logits(made)
    calls = []
    attend: Run = torch.nn.functional.scaled_dot_product_attention

    def record(query: Any, *rest: Any, **more: Any) -> Any:
        calls.append(query.shape)
        assert more["attn_mask"] is None or not more["is_causal"]  # CUDA refuses both
        return attend(query, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    with pretending(device):
        got = packed_logits(made)
    assert calls == [(len(LENGTHS), 4, max(LENGTHS), 8)] * CONFIG.num_hidden_layers  # one kernel a layer
    assert abs(got - want).max() < 1e-11 * abs(want).max()
    assert not [one for one in choice.verdicts if "attention" in one.need.place]  # float64 has no candidate


@pytest.mark.parametrize(("attention", "run"), [("bidirectional", right), ("causal", right_causal)])
def test_a_kernel_that_agreed_attends_the_packed_run(attention: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(attention, "float32")
    want = packed_logits(made)
    calls = []
    place = "causal_attention" if attention == "causal" else "attention"

    def record(query: Any, key: Any, value: Any, lengths: tuple[int, ...]) -> Any:
        calls.append(lengths)
        return run(query, key, value, lengths)

    monkeypatch.setattr(kernels, "KERNELS", (planted(record, place),))
    with pretending(H200):
        got = packed_logits(made)
        tried = len(calls)
        packed_logits(made)
    assert [(one.kernel, one.need.place, one.agrees) for one in choice.verdicts] == [("varlen_attn", place, True)]
    real = tuple(int(n) for n in inputs()["attention_mask"].sum(1))
    assert calls[tried - 2 : tried] == calls[tried:] == [real] * 2  # tried once; then a call a layer
    assert abs(got - want).max() < 1e-4


@pytest.mark.parametrize("run", [across_rows, lost_rest, crash])
def test_a_model_does_without_a_kernel_that_lies(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = model("bidirectional", "float32")
    want = packed_logits(made)
    monkeypatch.setattr(kernels, "KERNELS", (planted(run),))
    with caplog.at_level(logging.WARNING), pretending(H200):
        got = packed_logits(made)
        packed_logits(made)
    assert abs(got - want).max() < 1e-4
    assert [one.agrees for one in choice.verdicts] == [False]
    (said,) = caplog.messages
    assert said.startswith("varlen_attn for attention in float32 on H200 is left out: ")


def test_no_kernel_is_asked_where_none_knows_the_order_or_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "KERNELS", (planted(crash), planted(crash, "causal_attention")))
    with pretending(H200):
        packed_logits(model("unilm", "float32"))
        dropping = RoFormerForMaskedLM(replace(CONFIG, attention_probs_dropout_prob=0.5), dtype="float32").train()
        dropping(**inputs(), packed=True)
    assert not choice.verdicts


@pytest.mark.parametrize(
    ("device", "dtype", "attention", "worth"),
    [
        (CPU, "float32", "bidirectional", True),
        (H200, "float32", "bidirectional", True),
        (H200, "float32", "causal", True),
        (H200, "float32", "unilm", False),
        (H200, "float64", "bidirectional", False),
        (V100, "float32", "bidirectional", False),
        (MPS, "float32", "bidirectional", False),
    ],
)
def test_little_padding_is_worth_packing_where_a_kernel_attends_the_run(
    device: Device, dtype: str, attention: Any, worth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "KERNELS", (planted(right), planted(right_causal, "causal_attention")))
    config, like = replace(CONFIG, attention=attention), torch.zeros(1, dtype=getattr(torch, dtype))
    with pretending(device):
        assert worth_packing(like, config, 900, 1000) == worth
        assert worth_packing(like, config, 500, 1000)  # laid out for attention alone, it is faster all the same


# --- what is known on the host is not asked of the device -------------------------------------------------------------


@pytest.mark.parametrize("device", [CPU, H200])
def test_positions_on_the_host_are_checked_there(device: Device) -> None:
    made = model("bidirectional")
    whole = packed_logits(made).reshape(-1, CONFIG.vocab_size)
    chosen = torch.tensor([0, 130, 2])
    with pretending(device):
        assert abs(packed_logits(made, positions=chosen) - whole[chosen]).max() < 1e-9
        for wrong, what in ((4, "positions holds 4, which attention_mask masks"), (9999, "positions holds 9999")):
            with pytest.raises(ModelError, match=what):
                packed_logits(made, positions=torch.tensor([wrong]))


def test_positions_on_a_device_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("bidirectional")
    whole = packed_logits(made).reshape(-1, CONFIG.vocab_size)
    monkeypatch.setattr(ops_torch, "at_hand", lambda x: False)
    monkeypatch.setattr(ops_torch, "packed_positions", None)
    found = packed_logits(made, positions=torch.tensor([0, 130, 4]))
    assert abs(found[:2] - whole[[0, 130]]).max() < 1e-9
    bare = made.score(torch.zeros(1, CONFIG.hidden_size, dtype=torch.float64), Layout(1, 1, None), None, None)
    assert abs(found[2] - bare[0, 0]).max() < 1e-9  # a masked token has no hidden state


# --- how PyTorch's own kernel is called -------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "asked"), [("attention", {}), ("causal_attention", {"window_size": (-1, 0)})])
def test_varlen_attn_is_told_where_rows_begin(
    place: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    calls: list[Any] = []

    def record(query: Any, key: Any, value: Any, *places: Any, window_size: tuple[int, int] = (-1, -1)) -> Any:
        calls.append((*(x.tolist() if torch.is_tensor(x) else x for x in places), window_size))
        return query

    monkeypatch.setattr(varlen, "varlen_attn", record)
    kernel = next(one for one in KERNELS if one.place == place)
    with torch.inference_mode():
        starts = kernels._rows(LENGTHS, HERE)[0]
    assert not starts.is_inference()  # kept for a way back, too
    assert starts.dtype == torch.int32
    query = torch.zeros(232, 4, 8)
    kernel.run(query, query, query, LENGTHS)
    want = [0, 130, 131, 195, 232]
    assert calls == [(want, want, 130, 130, asked.get("window_size", (-1, -1)))]


def test_an_older_varlen_attn_has_a_flag_for_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(kernels, "VERSION", (2, 10))

    def older(query: Any, *rest: Any, is_causal: bool = False) -> Any:
        return query if is_causal else None

    monkeypatch.setattr(varlen, "varlen_attn", older)
    query = torch.zeros(232, 4, 8)
    assert kernels._causal_varlen(query, query, query, LENGTHS) is query


def test_the_running_pytorch_takes_these_arguments() -> None:
    """By its own shape function, since a CPU has no such kernel."""
    pytest.importorskip("torch.nn.attention.varlen")
    query = torch.zeros(232, 4, 8, dtype=torch.bfloat16, device="meta")
    for kernel in KERNELS[:2]:
        assert kernel.run(query, query, query, LENGTHS).shape == query.shape
