"""AdamW's state as files: what it is called and how it is counted, there and back bit for bit, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from next_steps import ADAM, STATES
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
from peer_folders import PEERS, in_process

from roformer_convert.__main__ import cli
from roformer_convert.converters import ConvertError, convert, open_checkpoint
from roformer_convert.converters.optimizer import paddle_state
from roformer_convert.converters.optimizer.adam_steps import MOST_STEPS, power_after, steps_behind
from roformer_convert.converters.optimizer.paddle_state import fresh_names
from roformer_convert.converters.optimizer.state import parse_options
from roformer_convert.converters.optimizer.torch_state import POSITIONS, named_order, trained_order
from roformer_convert.converters.source.checkpoint import Checkpoint
from roformer_convert.converters.table.mapping import unread

#: What transformers' models of PEERS are trained as, group by group.
_ORDERS = """
import json, sys
import transformers
job = json.loads(sys.argv[1])[0]
out = {}
for folder in job["folders"]:
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    for name, model in (("from_pretrained", kind.from_pretrained(folder)), ("built", kind(config))):
        decayed = set(transformers.Trainer.get_decay_parameter_names(None, model))
        trained = [each for each, parameter in model.named_parameters() if parameter.requires_grad]
        out[f"{folder} {name} in one"] = trained
        out[f"{folder} {name}"] = [[each for each in trained if (each in decayed) is first] for first in (True, False)]
print(json.dumps(out))
"""


def spelled(checkpoint: Checkpoint, names: list[str]) -> list[str]:
    """Canonical names → torch's."""
    spelling = {row.canonical: str(row.name("torch", base=checkpoint.base)) for row in checkpoint.table.tensors}
    positions = "encoder.embed_positions.weight"
    spelling[POSITIONS] = positions if checkpoint.base else f"roformer.{positions}"
    return [spelling[name] for name in names]


NAMES: dict[str, dict[str, str]] = json.loads((STATES / "paddle-names.json").read_text())


@pytest.mark.parametrize("folder", NAMES)
def test_parameters_are_called_as_paddlenlp_calls_them(folder: str) -> None:
    with open_checkpoint(PEERS / folder) as checkpoint:
        fresh = fresh_names(checkpoint.table, project="embeddings.project.weight" in checkpoint)
        assert {row.name("paddle", base=checkpoint.base): fresh[name] for name, row in rows(checkpoint)} == NAMES[
            folder
        ]


def rows(checkpoint: Checkpoint) -> list[tuple[str, Any]]:
    return [(name, binding.tensor) for name, binding in checkpoint.bindings.items()]


def test_parameters_are_counted_as_transformers_counts_them(tmp_path: Path) -> None:
    folders = [path for path in sorted(PEERS.glob("hf[45]-*_st")) if "bfloat16" not in path.name]
    answer = in_process(_ORDERS, [{"folders": list(map(str, folders)), "cwd": str(tmp_path)}])
    orders = json.loads(answer.splitlines()[-1])
    assert len(orders) == 4 * len(folders) > 20
    for folder in folders:
        with open_checkpoint(folder) as checkpoint:
            left = unread("torch", checkpoint.kind, checkpoint.table.traits)
            for made, counted in (("from_pretrained", True), ("built", False)):
                ours = trained_order(checkpoint, without=left, positions=counted)
                assert [spelled(checkpoint, names) for names in ours] == orders[f"{folder} {made}"]
                alone = named_order(checkpoint, without=left, positions=counted)
                assert spelled(checkpoint, alone) == orders[f"{folder} {made} in one"]


@pytest.mark.parametrize("folder", [name for name in os.listdir(PEERS) if name.startswith("junn-") and "v2" in name])
def test_parameters_are_counted_as_junnyu_counts_them(folder: str) -> None:
    order = json.loads((STATES / "junnyu-order.json").read_text())[folder]
    with open_checkpoint(PEERS / folder) as checkpoint:
        decayed, rest = trained_order(checkpoint, without=(), positions=False)
        assert sorted(spelled(checkpoint, decayed + rest), key=order.index) == order
        for names in (decayed, rest):
            places = [order.index(name) for name in spelled(checkpoint, names)]
            assert places == sorted(places)


def test_paddles_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    convert_state(PADDLE, tmp_path / "torch", "torch", adam=ADAM)
    convert_state(tmp_path / "torch", tmp_path / "back", "paddle")
    theirs, ours = unpickled(PADDLE / "optimizer.pdopt"), unpickled(tmp_path / "back" / "optimizer.pdopt")
    assert ours.pop("LR_Scheduler") == theirs.pop("LR_Scheduler")
    table = unpickled_table(PADDLE / "model_state.pdparams")
    fresh = NAMES["pd-MaskedLM_default_pd"]
    assert table["roformer.embeddings.word_embeddings.weight"] != "embedding_0.w_0"  # of a process with another model
    renamed = {}
    for key, array in theirs.items():
        name = next(name for name in sorted(table.values(), key=len)[::-1] if key.startswith(f"{name}_"))
        structured = next(one for one, paddle in table.items() if paddle == name and one in fresh)
        renamed[fresh[structured] + key.removeprefix(name)] = array
    require_same(ours, renamed)


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("hf-MaskedLM", "optimizer.pdopt"),
        ("hf-MaskedLM", "training.safetensors"),
        ("hf-SequenceClassification", "optimizer.pdopt"),
        ("hf-SequenceClassification", "training.safetensors"),
    ],
)
def test_torchs_state_comes_back_bit_for_bit(tmp_path: Path, folder: str, file: str) -> None:
    convert_state(STATES / folder, tmp_path / "paddle", "paddle", optimizer_file=file)
    convert_state(tmp_path / "paddle", tmp_path / "back", "torch", adam={**ADAM, "lr": 1e-3})
    theirs, ours = loaded(STATES / folder / "optimizer.pt"), loaded(tmp_path / "back" / "optimizer.pt")
    require_same(arrays(ours), arrays(theirs))
    for one, other in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        same = set(other) - {"fused", "initial_lr"}  # the way of computing, and a scheduler's note
        assert {key: one[key] for key in same} == {key: other[key] for key in same}


def test_a_state_without_a_table_of_names_is_of_a_fresh_process(tmp_path: Path) -> None:
    report = convert_state(PADDLE_V2, tmp_path / "torch", "torch", adam=ADAM)
    assert report.plan.beside is not None
    assert "14 tensors after 5 steps" in report.plan.beside.summary
    state = loaded(tmp_path / "torch" / "optimizer.pt")
    theirs = unpickled(PADDLE_V2 / "optimizer.pdopt")
    order = json.loads((STATES / "junnyu-order.json").read_text())["junn-MaskedLM_v2_bin"]
    query = order.index("roformer.encoder.layer.1.attention.self.query.weight")
    assert np.array_equal(state["state"][query]["exp_avg"].numpy(), theirs["linear_16.w_0_moment1_0"].T)


def test_powers_are_those_that_paddle_computes(tmp_path: Path) -> None:
    program = """
import json, sys
import numpy as np
from roformer_convert.models.processes.start_paddle import paddle
weight = paddle.create_parameter([3], "float32")
optimizer = paddle.optimizer.AdamW(parameters=[weight], beta1=0.9, beta2=0.997)
found = []
for step in range(1, 1501):
    weight.sum().backward()
    optimizer.step()
    optimizer.clear_grad()
    state = optimizer.state_dict()
    found.append([float(array) for key, array in sorted(state.items()) if "pow_acc" in key])
print(json.dumps(found))
"""
    powers = json.loads(in_process(program, [{"cwd": str(tmp_path)}]).splitlines()[-1])
    for step, (first, second) in enumerate(powers, 1):
        if first >= np.finfo(np.float32).tiny:
            assert (first, second) == (power_after(0.9, step), power_after(0.997, step))
        assert steps_behind((first, second), (0.9, 0.997), None) == step
    assert powers[-1][0] < np.finfo(np.float32).tiny < powers[-1][1]


def test_steps_whose_powers_have_vanished_come_from_the_run() -> None:
    gone = (power_after(0.9, 200_000), power_after(0.999, 200_000))
    assert steps_behind(gone, (0.9, 0.999), 200_000) == 200_000
    least = steps_behind(gone, (0.9, 0.999), None)
    assert power_after(0.999, least) < np.finfo(np.float32).tiny <= power_after(0.999, least - 1)
    assert 1 - 0.999**least == 1.0
    with pytest.raises(ValueError, match="more than"):
        power_after(0.9, MOST_STEPS * 2)


def torch_file(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A copy of the Trainer's checkpoint with another ``optimizer.pt``."""

    def make(folder: Path) -> None:
        state = loaded(TORCH / "optimizer.pt")
        change(state)
        torch.save(state, folder / "optimizer.pt")

    return make


def each(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return torch_file(lambda state: [change(kept) for kept in state["state"].values()])


def both(**values: Any) -> Callable[[Path], None]:
    return torch_file(lambda state: [group.update(values) for group in state["param_groups"]])


def one_group(state: dict[str, Any]) -> None:
    first, second = state["param_groups"]
    first["params"] += second["params"]
    del state["param_groups"][1:]


def replaced(kept: dict[str, Any], **values: Any) -> None:
    kept.clear()
    kept.update(values)


class Code:
    """Makes a directory where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


_T = torch.zeros(3)
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "SGD": (each(lambda kept: replaced(kept, momentum_buffer=_T)), "SGD; want AdamW's exp_avg, exp_avg_sq and step"),
    "Adafactor": (each(lambda kept: replaced(kept, step=1, exp_avg_sq_row=_T, exp_avg_sq_col=_T)), "Adafactor"),
    "8 bits": (each(lambda kept: replaced(kept, step=1, state1=_T, state2=_T)), "an 8-bit optimiser"),
    "amsgrad": (each(lambda kept: kept.update(max_exp_avg_sq=kept["exp_avg_sq"])), "AdamW with amsgrad"),
    "amsgrad before a step": (both(amsgrad=True), "amsgrad is on"),
    "maximize": (both(maximize=True), "maximize is on"),
    "Adam": (torch_file(lambda state: state["param_groups"][0].update(decoupled_weight_decay=False)), "it is Adam's"),
    "one group in another order": (torch_file(one_group), "parameter '4' is the rotary table, which is not trained"),
    "three groups": (
        torch_file(lambda s: s["param_groups"].append({**s["param_groups"][1], "params": []})),
        "3 groups of 16, 26, 0 parameters; want the Trainer's two of 16 and 26 or 15 and 26: .* or one of 42 or 41, as",
    ),
    "another count": (torch_file(lambda s: s["param_groups"][1]["params"].pop()), "2 groups of 16, 25 parameters"),
    "other numbers": (torch_file(lambda s: s["param_groups"][0]["params"].reverse()), "do not count the parameters"),
    "decay of biases": (torch_file(lambda s: s["param_groups"][1].update(weight_decay=0.1)), "other settings"),
    "two rates": (torch_file(lambda s: s["param_groups"][1].update(lr=0.1)), "other settings"),
    "no betas": (torch_file(lambda s: s["param_groups"][1].pop("betas")), "lacks AdamW's lr, betas"),
    "impossible betas": (both(betas=(0.9, 1.5)), "betas 0.9, 1.5"),
    "a huge rate": (both(lr=10**400), "lacks AdamW's lr, betas"),
    "no number": (both(eps=float("nan")), "lacks AdamW's lr, betas"),
    "a truth value": (both(lr=True), "lacks AdamW's lr, betas"),
    "a stranger": (torch_file(lambda s: s["state"].update({99: s["state"][0]})), "parameter '99' is in no group"),
    "trained positions": (torch_file(lambda s: s["state"].update({2: s["state"][0]})), "the rotary table"),
    "another shape": (torch_file(lambda s: s["state"][0].update(exp_avg=_T)), r"got \(3,\), want \(70, 24\)"),
    "integers": (torch_file(lambda s: s["state"][0].update(exp_avg=torch.zeros(70, 24, dtype=torch.int64))), "int64"),
    "half a step": (each(lambda kept: kept.update(step=torch.tensor(1.5))), "has taken 1.5 steps"),
    "a huge number of steps": (each(lambda kept: kept.update(step=10**400)), "has taken 1000000"),
    "too many steps": (each(lambda kept: kept.update(step=torch.tensor(1e30))), "steps"),
    "steps of a shape": (each(lambda kept: kept.update(step=torch.zeros(2))), "want one number"),
    "no moments": (torch_file(lambda s: s["state"].clear()), "it holds no moments"),
    "no dict": (lambda folder: torch.save({"a": _T}, folder / "optimizer.pt"), "no state and param_groups"),
    "code": (each(lambda kept: kept.update(step=Code())), "posix.mkdir makes, which was not run"),
    "none": (lambda folder: (folder / "optimizer.pt").unlink(), "no optimiser's state here"),
    "two": (lambda folder: (folder / "other.pdopt").write_bytes(b""), "several files"),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_a_state_of_another_layout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], said: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "model.safetensors", "optimizer.pt"):
        shutil.copy(TORCH / name, source / name)
    make(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConvertError, match=said):
        convert_state(source, tmp_path / "made", "paddle")
    assert os.listdir(tmp_path) == ["source"]


def test_steps_may_be_plain_numbers_as_in_older_files(tmp_path: Path) -> None:
    shutil.copytree(TORCH, tmp_path / "source")
    each(lambda kept: kept.update(step=int(kept["step"])))(tmp_path / "source")
    for made, source in (("old", tmp_path / "source"), ("new", TORCH)):
        convert_state(source, tmp_path / made, "paddle")
    assert (tmp_path / "old" / "optimizer.pdopt").read_bytes() == (tmp_path / "new" / "optimizer.pdopt").read_bytes()


def test_accelerates_name_of_the_file_is_known(tmp_path: Path) -> None:
    shutil.copytree(TORCH, tmp_path / "source")
    (tmp_path / "source" / "optimizer.pt").rename(tmp_path / "source" / "optimizer.bin")
    for made, source in (("one", tmp_path / "source"), ("other", TORCH)):
        convert_state(source, tmp_path / made, "paddle")
    assert (tmp_path / "one" / "optimizer.pdopt").read_bytes() == (tmp_path / "other" / "optimizer.pdopt").read_bytes()


def test_a_schedule_of_huge_numbers_is_not_believed(tmp_path: Path) -> None:
    shutil.copytree(PADDLE, tmp_path / "source")
    change = paddle_file(lambda state: state.update(LR_Scheduler={"last_epoch": 1 << 2000, "last_lr": 1e-3, "x": "y"}))
    change(tmp_path / "source")
    convert_state(tmp_path / "source", tmp_path / "made", "paddle", adam=ADAM)
    assert unpickled(tmp_path / "made" / "optimizer.pdopt")["LR_Scheduler"] == {"last_lr": 1e-3}


def paddle_file(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        state = unpickled(PADDLE / "optimizer.pdopt")
        change(state)
        (folder / "optimizer.pdopt").write_bytes(pickle.dumps(state, protocol=4))

    return make


def _first(state: dict[str, Any]) -> str:
    return next(key for key in state if key.endswith("_moment1_0"))


REFUSED_PADDLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "Momentum": (paddle_file(lambda s: s.update({"embedding_0.w_0_velocity_0": np.zeros(3)})), "velocity_0"),
    "no second moment": (paddle_file(lambda s: s.pop(_first(s).replace("moment1", "moment2"))), "of '.*' it has"),
    "two optimisers": (paddle_file(lambda s: s.update({_first(s)[:-1] + "1": np.zeros(3)})), "twice"),
    "a stranger": (
        paddle_file(lambda s: s.update({f"linear_999.w_0{k}": v for k, v in
                                        ((key.removeprefix(_first(s)[: -len("_moment1_0")]), s[key]) for key in list(s)
                                         if key.startswith(_first(s)[: -len("moment1_0")]))})),
        "the weights do not have: 'linear_999.w_0'",
    ),
    "other powers": (
        paddle_file(lambda s: s.update({k: np.full(1, 0.5, np.float32) for k in s if "beta1_pow" in k})),
        "beta1_pow_acc = 0.5 is not 0.9 to the power of 6",
    ),
    "an impossible power": (
        paddle_file(lambda s: s.update({k: np.full(1, 1.5, np.float32) for k in s if "beta1_pow" in k})),
        "its neighbour are 1.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "said"), REFUSED_PADDLE.values(), ids=REFUSED_PADDLE)
def test_a_state_of_paddle_of_another_layout_is_refused(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(PADDLE, source)
    make(source)
    with pytest.raises(ConvertError, match=said):
        convert_state(source, tmp_path / "made", "torch", adam=ADAM)
    assert os.listdir(tmp_path) == ["source"]


def test_decays_that_the_powers_are_not_of_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"beta2_pow_acc = 0.88\d+ is no power of 0.999(.|\n)*--adam beta2="):
        convert_state(PADDLE, tmp_path / "made", "torch")


def test_a_rate_that_no_file_says_is_asked_for(tmp_path: Path) -> None:
    convert_state(TORCH, tmp_path / "ours", "paddle", optimizer_file="training.safetensors")
    with pytest.raises(ConvertError, match=r"no file here says it(.|\n)*--adam lr="):
        convert_state(tmp_path / "ours", tmp_path / "made", "torch", adam=ADAM)


def test_weights_of_a_half_type_are_their_masters(tmp_path: Path) -> None:
    """As paddle's AdamW with multi_precision has it: moments under the master's name, the masters beside them."""
    source = tmp_path / "source"
    shutil.copytree(PADDLE, source)
    masters = unpickled(PADDLE / "model_state.pdparams")
    table = unpickled_table(PADDLE / "model_state.pdparams")
    halved = {name: array.astype(np.float16) for name, array in masters.items()}
    halved["StructuredToParameterName@@"] = table
    (source / "model_state.pdparams").write_bytes(pickle.dumps(halved, protocol=4))
    state = unpickled(PADDLE / "optimizer.pdopt")
    renamed = {key.replace("_0_moment", "_0_fp32_master_0_moment").replace("_0_beta", "_0_fp32_master_0_beta"): value
               for key, value in state.items()}  # fmt: skip
    renamed["master_weights"] = {table[name]: array for name, array in masters.items() if "decoder_weight" not in name}
    (source / "optimizer.pdopt").write_bytes(pickle.dumps(renamed, protocol=4))
    report = convert_state(source, tmp_path / "made", "torch", adam=ADAM)
    convert_state(PADDLE, tmp_path / "plain", "torch", adam=ADAM)
    assert any("43 float32 masters" in note for note in report.notes)
    for name in ("model.safetensors", "optimizer.pt"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_damaged_state_is_not_carried(tmp_path: Path) -> None:
    shutil.copytree(TORCH, tmp_path / "source")
    path = tmp_path / "source" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConvertError, match="CRC32"):
        convert_state(tmp_path / "source", tmp_path / "made", "paddle")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("to", "options", "said"),
    [
        ("tf", {}, "--optimizer-file training.safetensors"),
        ("torch", {"optimizer_file": "optimizer.pdopt"}, "optimizer.pdopt is not transformers's"),
        ("paddle", {"dtype": "float16"}, "rounded weights"),
    ],
)
def test_a_state_goes_where_its_software_reads_it(tmp_path: Path, to: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConvertError, match=said):
        convert_state(TORCH, tmp_path / "made", to, **options)


def test_what_is_said_of_adamw_is_checked() -> None:
    assert parse_options(["beta2=0.98", "lr=1e-4"]).lr == 1e-4
    for text in ("beta3=0.9", "lr", "lr=nan", "lr=-1", "beta1=1", "lr=inf"):
        with pytest.raises(ConvertError, match="--adam"):
            parse_options([text])
    with pytest.raises(ConvertError, match="twice"):
        parse_options(["lr=1", "lr=2"])


def test_the_command_says_what_becomes_of_the_state(tmp_path: Path) -> None:
    run = CliRunner().invoke
    words = ["torch2paddle", str(TORCH), "-o", str(tmp_path / "made"), "--with-optimizer"]
    planned = run(cli, [*words, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert not (tmp_path / "made").exists()
    done = run(cli, words)
    line = "  optimizer.pdopt: AdamW's moments of 41 tensors after 5 steps, from optimizer.pt\n"
    assert line in done.output
    assert line in planned.output
    assert "_moment1_0" in planned.output
    assert "note: not copied: next.npz, scheduler.pt, trainer_state.json\n" in done.output
    again = run(cli, [*words, "--force", "--json"])
    assert again.exit_code == 0, again.output
    data = json.loads(again.output)["optimizer"]
    assert data["file"] == "optimizer.pdopt"
    record = json.loads((tmp_path / "made" / "conversion.json").read_text())
    assert record["optimizer"] == data
    assert {"name": "optimizer.pt", "bytes": (TORCH / "optimizer.pt").stat().st_size} in record["source"]["files"]
    assert data["bytes"] == 2 * 4 * sum(parameter_sizes()) + 41 * 8


def parameter_sizes() -> list[int]:
    with open_checkpoint(TORCH) as checkpoint:
        return [int(np.prod(checkpoint.shape(name))) for name in checkpoint]


@pytest.mark.parametrize("words", [["--adam", "lr=1"], ["--optimizer-file", "optimizer.pdopt"], ["--frozen-positions"]])
def test_what_is_said_of_a_state_means_nothing_without_it(tmp_path: Path, words: list[str]) -> None:
    result = CliRunner().invoke(cli, ["torch2paddle", str(TORCH), "-o", str(tmp_path / "made"), *words])
    assert result.exit_code == 2
    assert "add --with-optimizer" in result.output


def test_without_being_asked_a_state_stays_behind_and_is_named(tmp_path: Path) -> None:
    report = convert(TORCH, tmp_path / "made", to="paddle")
    assert "optimizer.pt" in report.left_behind
    assert not (tmp_path / "made" / "optimizer.pdopt").exists()


def test_moments_are_compared_with_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that puts one parameter's moments in another's place is found out by the reader."""
    honest = paddle_state.fresh_names

    def swapped(table: Any, *, project: bool) -> dict[str, str]:
        names = honest(table, project=project)
        one, other = "layers.0.attention.query.weight", "layers.0.attention.key.weight"
        names[one], names[other] = names[other], names[one]
        return names

    layouts = iter([swapped])
    monkeypatch.setattr(paddle_state, "fresh_names", lambda *a, **k: next(layouts, honest)(*a, **k))
    with pytest.raises(ConvertError, match="elsewhere"):
        convert_state(TORCH, tmp_path / "made", "paddle")
    assert not (tmp_path / "made").exists()
