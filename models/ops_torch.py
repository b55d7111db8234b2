"""The operations of the model in PyTorch: its idioms, and every fast path that it has.

``ops_paddle.py``, ``ops_torch.py`` and ``ops_tf.py`` have the same functions under the same names with the same
signatures; how each is computed is the framework's own business. The model itself is written with them in
``roformer_*.py``. ``config.py`` has the shape glossary.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.checkpoint import checkpoint

from ..converters.table.mapping import Dialect
from .config import MASKED, RoFormerConfig, check_length
from .kernels.attention_torch import Place, device_of, packed_way, send
from .kernels.choice_torch import find
from .kernels.trials_torch import gist
from .layout import Layout
from .packing import packed_positions, require_inside
from .packing_choice import how_to_batch
from .processes.devices import DeviceError, DeviceName, require_gpu
from .processes.frameworks import FRAMEWORKS

__all__ = ["Parameter", "Tensor"]

Module = nn.Module
ModuleList = nn.ModuleList

#: The dialect that ``save_pretrained`` writes, whose files hold kernels as this framework does.
DIALECT: Dialect = "torch"


#: Where this process computes: where tensors are made that follow no other.
_device = torch.device("cpu")


def compute_on(device: DeviceName) -> None:
    """Have this process compute on a device from now on, in full float32: what is made next is made there.

    Call it before anything is made.

    Raises:
        DeviceError: There is no such device, or it does not start.
    """
    global _device
    if device.kind == "gpu":
        computes = torch.version.cuda is not None or torch.version.hip is not None
        build, count = f"torch {torch.__version__}", torch.cuda.device_count()
        require_gpu(device, FRAMEWORKS["torch"], build=build, computes=computes, count=count)
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # a card is counted even where its driver is too old
        except RuntimeError as error:
            advice = f"The driver that nvidia-smi names must be new enough for {build}."
            raise DeviceError(f"{device} does not start: {gist(error)}", advice) from None
    torch.set_float32_matmul_precision("highest")  # no TF32, whatever was chosen before
    torch.backends.cudnn.allow_tf32 = False
    _device = torch.device("cpu" if device.kind == "cpu" else f"cuda:{device.number}")


#: What PyTorch says where it has no class of its own for it: on a CPU, and in libraries under it.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: ",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
)


def ran_out(error: BaseException) -> bool:
    """Say whether an error means that a device's memory, or the host's, ran out."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return told or isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))


def traced() -> bool:
    """Say whether a graph is being made: values are then unknown, and what only this machine can run is no use."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def at_hand(x: Tensor) -> bool:
    """Say whether values can be looked at without waiting for a device."""
    return not traced() and x.device.type == "cpu"


def all_real(attention_mask: Tensor) -> bool:
    """Say whether a mask masks nothing, where that is known without waiting for a device."""
    return at_hand(attention_mask) and bool(attention_mask.all())


def inference() -> AbstractContextManager[Any]:
    """Compute within this without keeping anything for a way back."""
    return torch.inference_mode()


def to_tensor(values: NDArray[Any], like: Tensor | None = None) -> Tensor:
    """Put an array where ``like`` is, or where this process computes."""
    return send(torch.from_numpy(values), _device if like is None else like.device)


def on_host(values: NDArray[Any]) -> Tensor:
    """Make a tensor of an array that stays where its values can be looked at without waiting for a device."""
    return torch.from_numpy(values)


def as_numpy(x: Tensor) -> NDArray[Any]:
    """Return a tensor's values on the host, bfloat16 as bit patterns."""
    values = x.detach().cpu().contiguous()
    array: NDArray[Any] = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()
    return array


def assign(parameter: Parameter, values: NDArray[Any]) -> None:
    """Fill a parameter with a checkpoint's values, bfloat16 as bit patterns."""
    tensor = torch.from_numpy(values)
    if parameter.dtype == torch.bfloat16:
        tensor = tensor.view(torch.bfloat16)
    with torch.no_grad():
        parameter.data = tensor.to(parameter.device)


def computes(dtype: str) -> bool:
    """Say whether the current device computes in a type."""
    return True


def dtype_name(tensor: Tensor) -> str:
    """Name a tensor's type as the converter does."""
    return str(tensor.dtype).removeprefix("torch.")


def kernel_shape(inputs: int, outputs: int) -> tuple[int, int]:
    """Return the shape in which this framework holds a kernel."""
    return outputs, inputs


def normal(shape: tuple[int, ...], dtype: str, deviation: float, fresh: bool) -> Parameter:
    """Make a parameter at random, or of any values where they do not matter because a checkpoint will fill it."""
    values = torch.empty(shape, dtype=getattr(torch, dtype), device=_device)
    return Parameter(values.normal_(0.0, deviation) if fresh else values)


def constant(shape: tuple[int, ...], dtype: str, value: float) -> Parameter:
    """Make a parameter of one value."""
    return Parameter(torch.full(shape, value, dtype=getattr(torch, dtype), device=_device))


class FixedTable(Module):
    """Constants beside the parameters, in no state dict, whose type does not follow the weights' to a half one.

    Args:
        values: In float64; held in float32, or as they are in a float64 model.
        dtype: Name of the weights' type.
    """

    def __init__(self, values: NDArray[Any], dtype: str) -> None:
        super().__init__()
        self.table: Tensor
        self.values = values
        self.register_buffer("table", self._cast(getattr(torch, dtype)).to(_device), persistent=False)

    def _cast(self, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(self.values).to(torch.float64 if dtype == torch.float64 else torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedTable:
        # Module.to(dtype) would round the table, or widen a rounded one: take it anew in the type it should have
        moved = fn(self.table)
        self.table = moved if moved.dtype == self.table.dtype else self._cast(moved.dtype).to(moved.device)
        return self


def measure(input_ids: Tensor, config: RoFormerConfig) -> tuple[int, int]:
    """Return rows and columns of a batch (B, T).

    Raises:
        LengthError: There are more columns than ``max_position_embeddings``; a graph has an error of the framework's.
    """
    rows, columns = input_ids.shape
    if not torch.compiler.is_compiling():
        check_length(columns, config)
    elif columns > config.max_position_embeddings:  # Dynamo cannot make an error of ours
        raise ValueError(f"longer than {config.max_position_embeddings} tokens (max_position_embeddings)")
    return rows, columns


def real_tokens(ids: Tensor, pad: int) -> Tensor:
    """Say which of ids (B, T) are no padding."""
    return ids != pad


def key_mask(attention_mask: Tensor, like: Tensor, order: Tensor | None = None) -> Tensor:
    """Return what is added to scores of the type of ``like``: (B, 1, 1, T), or with an order (B, 1, T, T).

    Args:
        attention_mask: (B, T), 0 or false at keys that nobody sees.
        like: Names the type.
        order: (B or 1, T): a key is hidden from queries whose number is lower; None where order hides nothing.
    """
    hidden = ~attention_mask.to(like.device).bool()[:, None, None, :]
    return (hidden if order is None else hidden | _later(order)).to(like.dtype) * MASKED


def _later(order: Tensor) -> Tensor:
    return order[:, None, None, :] > order[:, None, :, None]


def order_mask(order: Tensor, like: Tensor) -> Tensor:
    """Return what is added to scores of the type of ``like`` where an order alone hides keys: (B or 1, 1, T, T)."""
    return _later(order).to(like.dtype) * MASKED


def packed_mask(
    tokens: Tensor, slots: Tensor, shape: tuple[int, int], like: Tensor, order: Tensor | None
) -> Tensor | None:
    """Return the mask of a packed batch of a ``shape`` (B, T) where :func:`attend` needs one beside the lengths."""
    # made of the slots, for attention_mask may have stayed on the host; small beside the batch, whoever needs it
    rows = packed_way(device_of(like), kernel=False) == "rows"
    return None if rows else key_mask((slots < tokens.shape[0]).reshape(shape), like, order)


def worth_packing(like: Tensor, config: RoFormerConfig, real: int, slots: int) -> bool:
    """Say whether a batch is computed faster packed than padded.

    Args:
        like: One of the model's weights: it names the device and the type.
        config: Its configuration.
        real: Tokens that are not masked.
        slots: Tokens with the masked ones, B * T.
    """
    kernel = None
    if config.attention != "unilm":
        place: Place = "causal_attention" if config.attention == "causal" else "attention"
        kernel = find(place, like, config.num_attention_heads, config.head_size)
    device = device_of(like)
    return how_to_batch(device.kind, packed_way(device, kernel is not None), real, slots) == "packed"


def causal_mask(columns: int, like: Tensor) -> Tensor | None:
    """Return the mask of real tokens that are read in order where :func:`attend` needs one beside ``causal``."""
    return None


def count_up(columns: int, like: Tensor) -> Tensor:
    """Number the columns of a batch: (1, T)."""
    return torch.arange(columns, device=like.device)[None]


def running_sum(token_type_ids: Tensor) -> Tensor:
    """Add up the token types (B, T) along each row, each token's own included: (B, T)."""
    return token_type_ids.cumsum(1)


def fold(ids: Tensor) -> Tensor:
    """Make a row of each choice: ids (B, A, T) to (B * A, T)."""
    return ids.reshape(-1, ids.shape[-1])


def unfold(scores: Tensor, ids: Tensor) -> Tensor:
    """Put the scores (B * A, 1) of the rows that :func:`fold` made of ids (B, A, T) back together: (B, A)."""
    return scores.reshape(-1, ids.shape[1])


def average(hidden: Tensor) -> Tensor:
    """Average hidden (B, T, H) over the columns: (B, H)."""
    return hidden.mean(1)


def flatten(ids: Tensor, layout: Layout) -> Tensor:
    """Put a batch's ids (B, T) in the order of the run (P,)."""
    ids = ids.reshape(-1)
    return ids if layout.tokens is None else ids[layout.tokens]


def spread(x: Tensor, layout: Layout) -> Tensor:
    """Lay a run (P, ...) out as its batch (B, T, ...), zero where a packed run has no token."""
    if layout.slots is not None:
        x = torch.cat([x, x.new_zeros((1, *x.shape[1:]))])[layout.slots]
    return x.reshape(layout.rows, layout.columns, *x.shape[1:])


def take(x: Tensor, positions: Any, layout: Layout) -> Tensor:
    """Take the tokens of a run (P, ...) at ``positions`` (K,) of the batch read row by row.

    Raises:
        ModelError: One of them is outside the batch, where that is known without waiting for a device; or the run is
            packed and one is masked.
    """
    positions = torch.as_tensor(positions).reshape(-1)
    known = at_hand(positions)
    if layout.slots is None:
        if known:
            require_inside(positions.numpy(), layout.rows * layout.columns)
        return x[send(positions, x.device)]
    if known:
        return x[to_tensor(packed_positions(layout.host_slots, positions.numpy(), x.shape[0]), x)]
    return spread(x, layout).flatten(0, 1)[positions]  # not looked at: zero where masked


def turns_of_rows(table: Tensor, rows: int, columns: int, heads: int) -> Tensor:
    """Repeat the first ``columns`` turns of a table (T, D / 2, 2) for each row: (P, 1 or N, D / 2, 2)."""
    turns = table[:columns].expand(rows, -1, -1, -1)
    return turns.reshape(-1, 1, *table.shape[1:])


def turns_of_tokens(table: Tensor, columns: Tensor, heads: int) -> Tensor:
    """Take the turns of tokens in columns (P,) of a table (T, D / 2, 2): (P, 1 or N, D / 2, 2)."""
    return table[columns].unsqueeze(1)


def embed(table: Tensor, ids: Tensor) -> Tensor:
    """Look up the rows ids (P,) of a table (rows, width): (P, width)."""
    return F.embedding(ids, table)


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Drop elements of x while training."""
    return F.dropout(x, probability) if training and probability else x


#: Activations under their names in the converter's table.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply an activation, or none."""
    return x if activation is None else ACTIVATIONS[activation](x)


#: Activations that oneDNN applies inside its matrix product, as ``mkldnn._linear_pointwise`` spells them.
_FUSED: dict[str | None, tuple[str, str]] = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
    "sigmoid": ("sigmoid", ""),
    "linear": ("none", ""),
}


def project(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
    """Multiply x (P, inputs) by a kernel, add its bias where it has one, and apply an activation."""
    # PyTorch's own product goes to MKL, which on AMD processors runs at 0.7 of oneDNN's speed: inference on a CPU asks
    # oneDNN, by the operator that torch.compile itself uses, with the activation inside
    if activation in _FUSED and _onednn_takes(x, weight):
        name, algorithm = _FUSED[activation]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return activate(F.linear(x, weight, bias), activation)


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Say whether oneDNN's own linear operator applies: it has no gradient and knows plain CPU tensors alone."""
    return (
        _ONEDNN
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _ONEDNN_BFLOAT16))
        and weight.dtype == x.dtype
        and x.shape[0] > 0
        and not traced()
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn_works() -> bool:
    # the operator is PyTorch's own and not documented: try it once, on numbers that show a wrong result
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x = torch.tensor([[1.0, 2.0]])
    weight, bias = torch.tensor([[3.0, 5.0], [-7.0, 11.0], [0.5, 0.25]]), torch.tensor([0.0, 1.0, -1.5])
    try:
        with torch.no_grad():
            got = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.equal(got, torch.tensor([[13.0, 16.0, 0.0]]))


_ONEDNN = _onednn_works()
#: oneDNN has no bfloat16 products on a processor without AVX-512, where PyTorch's own do work.
_ONEDNN_BFLOAT16 = _ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def project_together(x: Tensor, layers: Sequence[Any]) -> list[Tensor]:
    """Apply several linear layers to the same x (P, inputs)."""
    if not _joins(x, layers):
        return [layer(x) for layer in layers]
    weights = [layer.weight for layer in layers]
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return list(torch.split(F.linear(x, torch.cat(weights), bias), [len(weight) for weight in weights], dim=1))


#: From so many tokens on, copying three weights costs a GPU little beside their products.
_JOINED_TOKENS = 2048


def _joins(x: Tensor, layers: Sequence[Any]) -> bool:
    """Say whether one product is faster than several: on a GPU, whose cores one of them does not fill."""
    return (
        not traced()
        and not torch.is_grad_enabled()  # the joined weights would be kept for the way back
        and x.shape[0] >= _JOINED_TOKENS
        and device_of(x).kind == "cuda"
        and all(_is_plain(layer) for layer in layers)
        and len({layer.bias is None for layer in layers}) == 1
        and all(layer.weight.shape[0] * x.element_size() % 16 == 0 for layer in layers)  # kernels want results aligned
    )


def _is_plain(layer: Any) -> bool:
    """Say whether a layer still is what the model made: not quantized, not watched, not replaced."""
    watched = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return type(layer).__module__.endswith(".roformer_torch") and type(layer.weight) is Parameter and not watched


def score_words(hidden: Tensor, word: Tensor, bias: Tensor | None, layout: Layout | None) -> Tensor:
    """Multiply hidden (P, E) by the word embedding (V, E) and add a bias where there is one: (P, V), or (B, T, V)."""
    scores = project(hidden, word, bias)
    return scores if layout is None else spread(scores, layout)


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the highest of each row of scores (K, V), in float64.

    Args:
        scores: Of any type.
        count: How many.

    Returns:
        Their numbers (K, count), of equals any; they themselves, the highest first; and the sum (K,) over a row of the
        exponential of each score less the highest, NaN where one is not finite.
    """
    wide = scores.double()
    values, numbers = wide.topk(count)
    return numbers, values, ((wide - values[:, :1]).exp() + wide * 0).sum(1)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalize each token of x (P, width)."""
    return F.layer_norm(x, weight.shape, weight, bias, epsilon)


def rms_normalize(x: Tensor, epsilon: float) -> Tensor:
    """Divide each token of x (P, width) by the root of its mean square."""
    return F.rms_norm(x, x.shape[-1:], eps=epsilon)


def add_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float, dropout: float, training: bool
) -> Tensor:
    """Drop elements of x (P, H) while training, add it to the residual (P, H), and normalize."""
    x = drop(x, dropout, training)
    kernel = find("add_norm", x, x.shape[1]) if _adds_and_normalizes(x, residual, weight, bias) else None
    return (
        normalize(residual + x, weight, bias, epsilon) if kernel is None else kernel(x, residual, weight, bias, epsilon)
    )


def _adds_and_normalizes(*each: Tensor) -> bool:
    """Say whether a kernel may be asked for: for inference, in one type, which autocast would change."""
    x = each[0]
    return (
        not torch.is_grad_enabled()
        and not traced()
        and all(one.dtype == x.dtype for one in each)
        and not torch.is_autocast_enabled(x.device.type)
    )


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split x (P, H) into heads: (P, N, D)."""
    return x.reshape(-1, heads, x.shape[1] // heads)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each adjacent pair (2i, 2i + 1) of x (P, N, D) by its token's angle.

    Source: RoFormer, equation 34; pairs are adjacent in every released RoFormer, unlike in GPT-NeoX and its heirs.
    """
    pairs = x.to(turns.dtype).reshape(-1, x.shape[1], x.shape[2] // 2, 2)
    if traced():  # exporters and inductor have no complex numbers
        turned = _turn_apart(pairs, turns) if x.device.type == "cpu" else _turn_swapped(pairs, turns)
    else:  # one pass over memory, 20 times as fast here
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.reshape(x.shape).to(x.dtype)


def _turn_apart(pairs: Tensor, turns: Tensor) -> Tensor:
    (a, b), (cosine, sine) = pairs.unbind(-1), turns.unbind(-1)
    return torch.stack((a * cosine - b * sine, b * cosine + a * sine), dim=-1)


def _turn_swapped(pairs: Tensor, turns: Tensor) -> Tensor:
    # each number and its partner: inductor's kernel of this loads half as often on a GPU, where a CPU would take three
    # times as long
    cosine, sine = turns.unsqueeze(-2).unbind(-1)
    signs = torch.arange(-1, 2, 2, device=pairs.device)
    return pairs * cosine + pairs.flip(-1) * (sine * signs)


def rotate_together(runs: Sequence[Tensor], turns: Tensor) -> list[Tensor]:
    """Turn several runs (P, N, D) by the same angles, as :func:`rotate` does each."""
    kernel = None if traced() else find("rotation", runs[0], *runs[0].shape[1:])
    return [rotate(x, turns) for x in runs] if kernel is None else list(kernel(turns, *runs))


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float) -> Tensor:
    """Attend within each row: query, key and value (P, N, D) to (P, H). The one place for a fused kernel."""
    width = query.shape[1] * query.shape[2]
    if layout.lengths is not None:
        kernel = _packed_kernel(query, layout, dropout)
        if kernel is not None:
            return kernel(query, key, value, layout.lengths).reshape(-1, width)
        if packed_way(device_of(query), kernel=False) == "rows":
            return _attend_rows(query, key, value, layout, dropout).reshape(-1, width)
    q, k, v = (spread(x, layout).transpose(1, 2) for x in (query, key, value))
    causal = layout.causal and layout.mask is None  # a packed batch's mask knows the order too
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask, dropout_p=dropout, is_causal=causal)
    context = context.transpose(1, 2).reshape(-1, width)
    return context if layout.tokens is None else context[layout.tokens]


def _packed_kernel(query: Tensor, layout: Layout, dropout: float) -> Callable[..., Tensor] | None:
    if dropout or (layout.order is not None and not layout.causal):
        return None  # there is none that drops weights or is told of UniLM's order
    return find("causal_attention" if layout.causal else "attention", query, *query.shape[1:])


def _attend_rows(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float) -> Tensor:
    # a row at a time, of its own length: no mask, and no work on padding
    lengths = list(layout.lengths or ())
    runs = zip(*(torch.split(x, lengths) for x in (query, key, value)), strict=True)
    rows = [[x.transpose(0, 1).unsqueeze(0) for x in run] for run in runs if len(run[0])]
    masks: list[Tensor | None] = [None] * len(rows)
    if layout.order is not None and not layout.causal:
        masks = [order_mask(order[None], query) for order in torch.split(layout.order, lengths) if len(order)]
    out = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=layout.causal)
        for (q, k, v), mask in zip(rows, masks, strict=True)
    ]
    return torch.cat([x[0].transpose(0, 1) for x in out])


def recompute(layer: Module, hidden: Tensor, layout: Layout, name: str) -> Tensor:
    """Compute a layer whose activations are not kept for the way back, but computed again there.

    Raises:
        ModelError: The layer has dropout, and the framework would draw another one the second time.
    """
    return checkpoint(layer, hidden, layout, name, None, use_reentrant=False)
