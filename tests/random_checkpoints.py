"""Checkpoints for the tests: every tensor random, biases and norms too, and every size different.

A freshly initialised model hides mistakes: its biases are zero, its norms are ones, and equal sizes let a swapped or
untransposed matrix fit. Here no two symbols of the table share a size, and no size equals the literal 2 of the
sentence-order head. Q, K, V and the attention's output stay square, as in every RoFormer; only values tell them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roformer_convert.converters import RoFormerConfig, open_checkpoint, save_checkpoint
from roformer_convert.converters.table.mapping import (
    DIALECTS,
    EMBEDDINGS,
    LAYER,
    MLM,
    POOLER,
    PRETRAINING,
    PROJECT,
    SOP,
    Dialect,
    Group,
    Table,
)

Array = NDArray[Any]
Tensors = dict[str, Array]

#: All sizes different: V, E, H, F, S, the literal 2 of the sentence-order head, layers, heads and positions.
CONFIG = RoFormerConfig(
    vocab_size=61,
    embedding_size=14,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=34,
    hidden_dropout_prob=0.125,
    attention_probs_dropout_prob=0.25,
    max_position_embeddings=47,
    type_vocab_size=5,
    initializer_range=0.03125,
    pad_token_id=7,
)
#: The same without the projection: embeddings as wide as the encoder.
UNPROJECTED = replace(CONFIG, embedding_size=CONFIG.hidden_size)

HEADS: tuple[Group, ...] = (POOLER, MLM, SOP)
#: Every way in which the parts of a model come and go: name → (configuration, optional groups).
SHAPES: Mapping[str, tuple[RoFormerConfig, tuple[Group, ...]]] = {
    "everything": (CONFIG, (POOLER, MLM, SOP)),
    "no-projection": (UNPROJECTED, (POOLER, MLM, SOP)),
    "masked-lm": (CONFIG, (MLM,)),
    "masked-lm-pooler": (UNPROJECTED, (POOLER, MLM)),
    "no-pooler": (UNPROJECTED, (MLM, SOP)),
    "base": (CONFIG, ()),
    "base-pooler": (UNPROJECTED, (POOLER,)),
    "base-sop": (CONFIG, (POOLER, SOP)),
}

#: Ordered pairs of dialects.
DIRECTIONS = tuple((one, other) for one in DIALECTS for other in DIALECTS if one != other)

#: What holds a dialect's weights, where there is a choice: (dialect, container).
CONTAINERS: tuple[tuple[Dialect, str], ...] = (
    ("paddle", "pdparams"),
    ("paddle", "safetensors"),
    ("torch", "safetensors"),
    ("torch", "bin"),
)


def random_tensors(
    config: RoFormerConfig = CONFIG,
    groups: Iterable[Group] = HEADS,
    *,
    dtype: str = "float32",
    seed: int = 0,
    any_bits: bool = False,
    layers: int | None = None,
) -> Tensors:
    """Make every tensor of a model.

    Args:
        config: Its sizes; the projection is there where E differs from H.
        groups: The optional groups that are there.
        dtype: Their type; bfloat16 comes as uint16 bit patterns.
        seed: Another seed gives other values.
        any_bits: Any bit pattern, NaNs with payloads and subnormal numbers too, instead of finite values near 1.
        layers: Number of layers, where it is not the configuration's.
    """
    wanted = {id(EMBEDDINGS), id(LAYER), *map(id, groups)}
    if config.embedding_size != config.hidden_size:
        wanted.add(id(PROJECT))
    tensors: Tensors = {}
    for tensor in Table(config.num_hidden_layers if layers is None else layers, PRETRAINING).tensors:
        if id(tensor.group) not in wanted:
            continue
        tensors[tensor.canonical] = random_array(
            tensor.canonical, tensor.shape(config.sizes), dtype=dtype, seed=seed, any_bits=any_bits
        )
    return tensors


def random_array(
    name: str, shape: tuple[int, ...], *, dtype: str = "float32", seed: int = 0, any_bits: bool = False
) -> Array:
    """Make one tensor; its name and the seed decide its values."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    if any_bits:
        width = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        bits = generator.integers(0, 256, size=(*shape, width), dtype=np.uint8)
        holder = "uint16" if dtype == "bfloat16" else dtype
        return bits.view(holder).reshape(shape)
    values = generator.normal(0.0, 0.25, shape) + (1.0 if "norm.weight" in name else 0.0)
    if dtype == "bfloat16":
        narrow: Array = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return narrow
    return values.astype(dtype)


def write_random(
    directory: Path,
    dialect: Dialect,
    shape: str = "everything",
    *,
    dtype: str = "float32",
    seed: int = 0,
    any_bits: bool = False,
    **options: Any,
) -> Tensors:
    """Write a random checkpoint of ``dialect``; return what it holds under canonical names."""
    config, groups = SHAPES[shape]
    tensors = random_tensors(config, groups, dtype=dtype, seed=seed, any_bits=any_bits)
    save(directory, dialect, tensors, config, dtype=dtype, **options)
    return tensors


def save(
    directory: Path,
    dialect: Dialect,
    tensors: Tensors,
    config: RoFormerConfig,
    *,
    dtype: str = "float32",
    **options: Any,
) -> None:
    """Write ``tensors`` as a checkpoint directory, and nothing that is computed."""
    kinds = dict.fromkeys(tensors, dtype) if dtype == "bfloat16" else None
    save_checkpoint(directory, tensors, config, dialect=dialect, dtypes=kinds, positions=False, **options)


def read_all(path: Path) -> Tensors:
    """Read a checkpoint of ours back under canonical names."""
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def same_bits(one: Tensors, other: Tensors) -> list[str]:
    """Name the tensors whose names, types, shapes or bits differ; empty where the two are equal."""
    wrong = [f"only in one: {name}" for name in sorted(one.keys() ^ other.keys())]
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            wrong.append(f"{name}: {a.dtype} {a.shape} and {b.dtype} {b.shape}")
        elif a.tobytes() != b.tobytes():
            wrong.append(f"{name}: other bits")
    return wrong


def file_bytes(directory: Path, *, but: str = "") -> dict[str, str]:
    """Name → digest of every file under a directory but one, to see that nothing was touched."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != but
    }


def rotary_table(positions: int = CONFIG.max_position_embeddings, width: int = CONFIG.head_size) -> Array:
    """Compute [sin | cos] pair by pair, without the converters' own function."""
    rows = []
    for position in range(positions):
        angles = [position / 10000 ** (2 * pair / width) for pair in range(width // 2)]
        rows.append([*np.sin(angles), *np.cos(angles)])
    return np.array(rows)


def add_rotary_table(
    directory: Path, dialect: Dialect, *, base: bool = False, table: Array | None = None, dtype: str = "float32"
) -> None:
    """Put embed_positions into a torch or TF file, as transformers' own files have it."""
    values = (rotary_table() if table is None else table).astype(dtype)
    if dialect == "torch":
        from safetensors.numpy import load_file, save_file

        arrays = load_file(directory / "model.safetensors")
        name = "encoder.embed_positions.weight"
        arrays[name if base else f"roformer.{name}"] = values
        save_file(arrays, directory / "model.safetensors", {"format": "pt"})
        return
    import h5py

    with h5py.File(directory / "tf_model.h5", "r+") as file:
        group = file["roformer"]
        names = [name if isinstance(name, bytes) else name.encode() for name in group.attrs["weight_names"]]
        model = names[0].decode().partition("/")[0]
        added = f"{model}/roformer/encoder/embed_positions/embeddings:0"
        group.create_dataset(added, data=values)
        del group.attrs["weight_names"]
        group.attrs["weight_names"] = np.array([*names, added.encode()])
