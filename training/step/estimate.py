"""What a step costs, by arithmetic: parameters, floating-point operations and bytes. Pure Python.

Operations are those of matrix products, two for a multiply-add, forward and backward. Bytes of activations are counted
from what :mod:`...models.roformer_paddle` keeps for the way back; against Paddle's own count on a CPU they are right to
a tenth (tests/test_training_doctor.py). Half types were not measured on a GPU: there allow for a fifth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from ...models.config import RoFormerConfig

_BUCKETS = 128 << 20  # bytes of gradients that are on their way between ranks

#: Share of a device's memory that a run can have; the rest is its context, kernels' workspaces and fragments.
USABLE = 0.92


@dataclass(frozen=True)
class Kind:
    """A device whose figures are known, to estimate for while one sits at another machine.

    Attributes:
        name: Its name on the command line.
        memory: Its memory in bytes.
        flops: Operations a second of its half-precision matrix units, by its data sheet.
        flops_fp32: Rate of its float32 units.
        capability: Compute capability; 8.0 and above have bfloat16 and FlashAttention 2.
    """

    name: str
    memory: int
    flops: float
    flops_fp32: float
    capability: tuple[int, int]


# Source: NVIDIA's data sheets (dense, without sparsity).
# fmt: off
KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (
        Kind("V100-16GB", 16 << 30, 125e12, 15.7e12, (7, 0)),
        Kind("V100-32GB", 32 << 30, 125e12, 15.7e12, (7, 0)),
        Kind("A100-40GB", 40 << 30, 312e12, 19.5e12, (8, 0)),
        Kind("A100-80GB", 80 << 30, 312e12, 19.5e12, (8, 0)),
    )
}
# fmt: on


def peak_flops(device: str, precision: str) -> float | None:
    """Return the data sheet's rate of a device by the name that it gives itself, such as Tesla V100-SXM2-32GB.

    Args:
        device: Name of the device.
        precision: ``fp32`` takes the float32 units, everything else the half-precision matrix units.

    Returns:
        Operations a second; None where the device is not among :data:`KINDS`.
    """
    words = re.split(r"[\s-]+", device)
    kind = next((kind for name, kind in KINDS.items() if name.partition("-")[0] in words), None)
    if kind is None:
        return None
    return kind.flops_fp32 if precision == "fp32" else kind.flops


#: Share of the data sheet's rate that the reference run reached: 287.13 sequences of 512 tokens a second on four V100s,
#: at :func:`flop_per_token` operations each.
REFERENCE_SHARE = 0.169
_FP32_SHARE = 0.5  # of a float32 run on CPUs, where products leave as much time to the rest


def parameter_count(config: RoFormerConfig) -> int:
    """Count the parameters of ``RoFormerForPretraining``; the decoder is the word embedding and counts once."""
    h, e, f, v = config.hidden_size, config.embedding_size, config.intermediate_size, config.vocab_size
    embeddings = (v + config.type_vocab_size) * e + 2 * e + (0 if e == h else e * h + h)
    layer = 4 * (h * h + h) + (h * f + f) + (f * h + h) + 2 * 2 * h
    heads = (h * h + h) + (h * e + e) + 2 * e + v + (2 * h + 2)  # pooler, masked-LM transform, norm, bias, order
    return embeddings + config.num_hidden_layers * layer + heads


def matmul_parameters(config: RoFormerConfig) -> int:
    """Count the parameters that every token is multiplied by: the layers' kernels and the embedding's projection."""
    h, e, f = config.hidden_size, config.embedding_size, config.intermediate_size
    return config.num_hidden_layers * (4 * h * h + 2 * h * f) + (0 if e == h else e * h)


def flop_per_token(config: RoFormerConfig, length: int, *, masked: float = 0.15, recompute: bool = False) -> float:
    """Count the operations of one token of a training step.

    Args:
        config: The model.
        length: Tokens of a sequence.
        masked: Share of the tokens whose words are scored; 0 without that objective.
        recompute: Whether the layers' forward pass is done twice.
    """
    h, e, v = config.hidden_size, config.embedding_size, config.vocab_size
    layers = 2 * matmul_parameters(config) + 4 * config.num_hidden_layers * length * h  # the latter: scores, context
    head = 2 * masked * (h * e + e * v)
    return float((4 if recompute else 3) * layers + 3 * head)


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, by what they are for.

    Attributes:
        weights: Weights as the forward pass holds them.
        gradients: Gradients of all parameters; of half ones also the sums in float32 (O2).
        moments: AdamW's two, float32.
        masters: Weights in float32 beside half ones (O2); every rank holds all of them.
        copies: Half copies of weights that O1 makes for the way back, and what ranks exchange gradients through.
        activations: Kept for the way back.
        head: Scores of the masked positions and their gradients.
    """

    weights: int
    gradients: int
    moments: int
    masters: int
    copies: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        """Bytes of all these together."""
        return sum(getattr(self, each.name) for each in fields(self))


def memory(
    config: RoFormerConfig,
    *,
    rows: int,
    length: int,
    precision: str = "fp32",
    recompute: bool = False,
    masked: float = 0.15,
    fused_attention: bool = False,
    ranks: int = 1,
    shard_optimizer: bool = False,
) -> Memory:
    """Count what one rank holds at the peak of a step.

    Args:
        config: The model.
        rows: Sequences computed at once.
        length: Tokens of a sequence.
        precision: ``fp32``, or ``fp16`` or ``bf16`` with ``-o1`` or ``-o2``.
        recompute: Keep each layer's input alone.
        masked: Share of the tokens whose words are scored.
        fused_attention: Whether scores are never written out, as by FlashAttention and memory-efficient attention.
        ranks: Processes that train together.
        shard_optimizer: Whether they divide the moments among them.
    """
    count, tokens = parameter_count(config), rows * length
    o1, o2 = precision.endswith("o1"), precision.endswith("o2")
    weight_bytes = 2 if o2 else 4  # bytes of a weight
    summed = 6 if o2 else 4  # of its gradient: at the end of a backward pass a half one and its sum are both there
    parts = ranks if shard_optimizer else 1
    layer = _layer_bytes(config, length, half=o1 or o2, wide_norms=not o2, fused_attention=fused_attention)
    stream = 2 if o2 else 4
    if recompute:  # the inputs of all layers, and the activations of the one that is being computed again
        kept = config.num_hidden_layers * config.hidden_size * stream + layer
    else:
        kept = config.num_hidden_layers * layer
    kept += (2 * config.embedding_size + 3 * config.hidden_size) * stream  # embeddings; gradients under way
    scored = int(masked * tokens)
    return Memory(
        weights=weight_bytes * count,
        gradients=summed * count,
        moments=8 * count // parts,
        masters=4 * count if o2 else 0,
        copies=(2 * matmul_parameters(config) if o1 else 0) + (min(4 * count, _BUCKETS) if ranks > 1 else 0),
        activations=int(tokens * kept),
        head=scored * config.vocab_size * (14 if o1 or o2 else 12) + 4 * scored * config.embedding_size * 4,
    )


def _layer_bytes(config: RoFormerConfig, length: int, *, half: bool, wide_norms: bool, fused_attention: bool) -> float:
    """Count the bytes that one layer keeps of one token."""
    h, f, n = config.hidden_size, config.intermediate_size, config.num_attention_heads
    size = 2 if half else 4
    # query and key before rotation, which is done in float32, and after; value; context twice; what enters the
    # activation and what leaves it
    kept = 2 * h * 4 + (3 + 2) * h * size + 2 * f * size + (h * 4 if config.rotary_value else 0)
    # two sums and two norms' outputs; with O1 they stay float32 and the products' inputs are cast
    kept += 4 * h * (4 if wide_norms else size) + (2 * h * 2 if half and wide_norms else 0)
    kept += 2 * h  # dropout's masks, a byte an element
    if fused_attention:
        return float(kept + 4 * n)
    # softmax's output, which O1 leaves in float32; dropout's mask, and what it leaves
    return float(kept + n * length * ((4 if wide_norms else size) + 1 + size))


def largest_rows(room: int, rows: int, **shape: object) -> int:
    """Find the most sequences, of at most ``rows``, that fit into ``room`` bytes; 0 where not one does.

    Args:
        room: Bytes that a run can have.
        rows: Sequences that are wanted.
        shape: What :func:`memory` takes beside ``rows``.
    """
    low, high = 0, rows
    while low < high:
        middle = (low + high + 1) // 2
        if memory(rows=middle, **shape).total <= room:  # type: ignore[arg-type]
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class Pace:
    """How fast one device computes a model's step.

    Attributes:
        flops: Operations a second that a whole step reaches.
        update_seconds: What a step takes beside forward and backward: clipping, AdamW.
        source: Where the figure comes from, for the report.
    """

    flops: float
    update_seconds: float
    source: str


def step_seconds(
    config: RoFormerConfig,
    pace: Pace,
    *,
    batch_size: int,
    length: int,
    ranks: int = 1,
    masked: float = 0.15,
    recompute: bool = False,
) -> float:
    """Estimate a step's seconds; what ranks lose by waiting for each other is not in it.

    Args:
        config: The model.
        pace: Pace of one device.
        batch_size: Sequences of a step, over all ranks.
        length: Tokens of a sequence; every sequence is taken to be full.
        ranks: Devices, of one kind.
        masked: The same as for :func:`flop_per_token`.
        recompute: The same as for :func:`flop_per_token`.
    """
    work = batch_size * length * flop_per_token(config, length, masked=masked, recompute=recompute)
    return work / (pace.flops * ranks) + pace.update_seconds


def by_data_sheet(kind: Kind, precision: str) -> Pace:
    """Return the pace that a device would have at a share of its data sheet's rate."""
    if precision == "fp32":
        rate, share, who = kind.flops_fp32, _FP32_SHARE, "float32, a guess"
    else:
        rate, share, who = kind.flops, REFERENCE_SHARE, "as the reference run on V100s"
    return Pace(rate * share, 0.0, f"{100 * share:.1f} % of its {rate / 1e12:.3g} TFLOP/s, {who}")
