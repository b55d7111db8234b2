"""AdamW's state elsewhere than in a file of its own: in the weights' file, in one group, under the weights' names."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from next_steps import ADAM
from optimizer_states import (
    PADDLE,
    PADDLE_V2,
    TORCH,
    arrays,
    convert_state,
    loaded,
    require_same,
    unpickled,
    unpickled_table,
)
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertError, ConvertOptions, convert, open_checkpoint
from roformer_convert.converters.optimizer.adam_steps import power_after

#: How programs put weights and AdamW's state into one file.
TOGETHER: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "a loop's": lambda weights, state: {"model": weights, "optimizer": state, "epoch": 3},
    "in dicts": lambda weights, state: {"model_state_dict": weights, "training": {"adam": state}},
    "Lightning's": lambda weights, state: {
        "state_dict": {f"model.{name}": value for name, value in weights.items()},
        "optimizer_states": [state],
        "hyper_parameters": {"lr": 0.1},
    },
}


@pytest.mark.parametrize("decay", [0.0, 0.125])
@pytest.mark.parametrize("kind", TOGETHER)
def test_the_state_of_all_parameters_in_one_group_in_the_weights_file(tmp_path: Path, kind: str, decay: float) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.RoFormerForMaskedLM.from_pretrained(TORCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25, weight_decay=decay)
    for _ in range(3):
        for name, parameter in model.named_parameters():
            parameter.grad = None if "embed_positions" in name else torch.randn_like(parameter)
        optimizer.step()
    (tmp_path / "source").mkdir()
    shutil.copy(TORCH / "config.json", tmp_path / "source")
    together = TOGETHER[kind](model.state_dict(), optimizer.state_dict())
    torch.save(together, tmp_path / "source" / "best.ckpt")
    report = convert_state(tmp_path / "source", tmp_path / "made", "paddle", optimizer_file="training.safetensors")
    kept = {parameter: optimizer.state[parameter] for parameter in model.parameters() if optimizer.state[parameter]}
    named = {name: kept[parameter] for name, parameter in model.named_parameters() if parameter in kept}
    made = load_file(tmp_path / "made" / "training.safetensors")
    with open_checkpoint(tmp_path / "source") as checkpoint:
        for canonical, binding in checkpoint.bindings.items():
            theirs = named.pop(binding.stored.name)
            for ours, key in (("moment1", "exp_avg"), ("moment2", "exp_avg_sq")):
                want = theirs[key].numpy()
                want = want.T if binding.tensor.transposed("paddle") else want
                assert np.array_equal(made[f"{canonical}:{ours}"], want)
            assert made[f"{canonical}:beta1_pow_acc"] == np.float32(power_after(0.9, 3))
    assert {name for name in named if "embed_positions" not in name} == set()
    assert any("has the weight decay 0.125 for biases and norms too" in note for note in report.notes) == bool(decay)
    assert not any("exp_avg" in note for note in report.notes)


def test_of_several_states_in_the_weights_file_none_is_taken(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    shutil.copy(TORCH / "config.json", tmp_path / "source")
    state = loaded(TORCH / "optimizer.pt")
    weights = {name: torch.from_numpy(value) for name, value in load_file(TORCH / "model.safetensors").items()}
    torch.save({"model": weights, "a": state, "b": [state]}, tmp_path / "source" / "last.ckpt")
    with pytest.raises(ConvertError, match=r"several optimisers' states: 'a', 'b\.0'"):
        convert_state(tmp_path / "source", tmp_path / "made", "paddle")


def test_a_state_of_paddles_in_the_weights_file(tmp_path: Path) -> None:
    convert_state(PADDLE_V2, tmp_path / "apart", "torch", adam=ADAM)
    (tmp_path / "source").mkdir()
    shutil.copy(PADDLE_V2 / "config.json", tmp_path / "source")
    with open_checkpoint(PADDLE_V2) as checkpoint:
        weights = {
            each.stored.name: np.ascontiguousarray(array.T) if each.transposed else array
            for name, each in checkpoint.bindings.items()
            for array in [checkpoint.read(name)]
        }
    together = {"model": weights, "optimizer": unpickled(PADDLE_V2 / "optimizer.pdopt")}
    (tmp_path / "source" / "model_state.pdparams").write_bytes(pickle.dumps(together, 4))
    convert_state(tmp_path / "source", tmp_path / "together", "torch", adam=ADAM)
    one, other = (loaded(tmp_path / folder / "optimizer.pt") for folder in ("apart", "together"))
    require_same(arrays(one), arrays(other))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_unified_checkpoint_is_read_by_its_weights_names(tmp_path: Path, shards: int) -> None:
    convert_state(PADDLE, tmp_path / "apart", "torch", adam=ADAM)
    source = tmp_path / "source"
    source.mkdir()
    convert(PADDLE, source / "weights", to="paddle", options=ConvertOptions(container="safetensors"))
    for path in (source / "weights").iterdir():
        path.rename(source / path.name)
    table = {paddle: name for name, paddle in unpickled_table(next(PADDLE.glob("*.pdparams"))).items()}
    state = unpickled(PADDLE / "optimizer.pdopt")
    schedule = state.pop("LR_Scheduler")
    named = {}
    for key, value in state.items():
        parameter, kind = re.fullmatch(r"(.+?)_((?:moment|beta)\d.*)", key).groups()  # type: ignore[union-attr]
        named[f"{table[parameter]}/{kind}"] = np.ascontiguousarray(value)
    masters = {key.split("/")[0]: value + 1 for key, value in named.items() if key.endswith("/moment1_0")}
    for name, held in (("optimizer", named), ("master_weights", masters)):
        keys = sorted(held)
        files = [f"{name}-{number + 1:05d}-of-{shards:05d}.safetensors" for number in range(shards)]
        if shards == 1:
            files = [f"{name}.safetensors"]
        else:
            listed = {key: files[number % shards] for number, key in enumerate(keys)}
            (source / f"{name}.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
        for number, file in enumerate(files):
            save_file({key: held[key] for key in keys[number::shards]}, source / file)
    (source / "scheduler.pdparams").write_bytes(pickle.dumps(schedule, 4))
    convert_state(source, tmp_path / "made", "torch", adam={key: value for key, value in ADAM.items() if key != "lr"})
    one, other = (loaded(tmp_path / folder / "optimizer.pt") for folder in ("apart", "made"))
    require_same(arrays(one), arrays(other))
    assert other["param_groups"][0]["lr"] == schedule["last_lr"]
    with open_checkpoint(tmp_path / "made") as made, open_checkpoint(source) as checkpoint:
        for name in made:
            # Paddle's one parameter goes by the name that its state dict had last
            tied = "cls.predictions.decoder_weight" if name == "embeddings.word.weight" else None
            master = masters.pop(tied or checkpoint.bindings[name].stored.name, None)
            if master is None:  # the pooler was not trained
                continue
            transposed = made.bindings[name].tensor.transposed("paddle")
            assert np.array_equal(made.read(name), master.T if transposed else master)
    assert masters == {}


def test_a_unified_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    convert(PADDLE, source, to="paddle", options=ConvertOptions(container="safetensors"))
    save_file({"another.weight/moment1_0": np.zeros(3, np.float32)}, source / "optimizer.safetensors")
    with pytest.raises(ConvertError, match=r"it has 'another\.weight/moment1_0'; want arrays called WEIGHT/"):
        convert_state(source, tmp_path / "made", "torch", adam=ADAM)
    (source / "optimizer.safetensors").unlink()
    (source / "optimizer.safetensors.index.json").write_text('{"weight_map": {"a": "../config.json"}}')
    with pytest.raises(ConvertError, match="does not list files beside it"):
        convert_state(source, tmp_path / "made", "torch", adam=ADAM)
