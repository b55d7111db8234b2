"""What surrounds a state dict is seen through where one fits; where several do, or a head lies beside, it is asked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from click.testing import CliRunner, Result
from counted_calls import calls_below
from golden_names import stored_in
from numpy.typing import NDArray
from random_checkpoints import CONFIG, Tensors, read_all, same_bits, write_random
from safetensors.numpy import load_file, save_file

from roformer_convert.__main__ import cli
from roformer_convert.converters import convert, open_checkpoint
from roformer_convert.converters.conversion import ConvertOptions
from roformer_convert.converters.errors import ConvertError, MisfitError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.source import weight_set
from roformer_convert.converters.source.identification import identify
from roformer_convert.converters.source.renaming import Parts, in_words
from roformer_convert.converters.source.wrappers import see_through
from roformer_convert.converters.table.mapping import BASE, DIALECTS, MASKED_LM, Dialect, Table

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(params=["torch", "paddle"])
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen


@pytest.fixture(params=["masked-lm-pooler", "base-pooler", "base"])
def tensors(request: pytest.FixtureRequest, tmp_path: Path, dialect: Dialect) -> Tensors:
    return write_random(tmp_path / "ckpt", dialect, request.param, container="safetensors")


def edit(directory: Path, change: Callable[[Arrays], Arrays]) -> None:
    """Write what ``change`` makes of the tensors."""
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path)


def prefixed(*prefixes: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {prefix + name: array for prefix in prefixes for name, array in arrays.items()}


PREFIXES = (
    "module.",
    "model.",
    "_orig_mod.",
    "student.",
    "my_bert.",
    "my_roformer.",
    "net.tf_roformer.",
    "state_dict.model._orig_mod.module.",
    "a.b/c.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_seen_through_and_said(tmp_path: Path, tensors: Tensors, prefix: str) -> None:
    edit(tmp_path / "ckpt", prefixed(prefix))
    assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []
    shown, many = (
        prefix.replace("_orig_mod.", "").replace("model.module.", "model."),
        len(load_file(tmp_path / "ckpt" / "model.safetensors")),
    )
    notes = [note for note in inspect(tmp_path / "ckpt").notes if "begins with" in note]
    assert notes == ([f"the model is what begins with {shown} in the file ({many} tensors)"] if shown else [])


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("embeddings.", "_orig_mod.embeddings."),
        ("encoder.", "module.encoder."),
        (".0.", ".0._checkpoint_wrapped_module."),
        (".1.", "._fsdp_wrapped_module.1._orig_mod."),
    ],
)
def test_a_module_around_a_part_is_seen_through(tmp_path: Path, tensors: Tensors, inside: str, outside: str) -> None:
    edit(
        tmp_path / "ckpt",
        lambda arrays: {f"net.x.{name}".replace(inside, outside, 1): array for name, array in arrays.items()},
    )
    assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []


def test_what_adapters_that_were_merged_left_in_the_names_is_seen_through(tmp_path: Path, tensors: Tensors) -> None:
    """Names of peft 0.19, as ``merge_adapter()`` and a state dict without ``lora_`` leave them."""
    edit(
        tmp_path / "ckpt",
        lambda stored: {
            "base_model.model." + re.sub(r"\.(query|q_proj)\.", r".\1.base_layer.", name): each
            for name, each in stored.items()
        },
    )
    assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []
    assert "base_layer inside the names is passed over" in inspect(tmp_path / "ckpt").notes


def test_a_dict_does_not_make_two_tensors_one(tmp_path: Path) -> None:
    """Where a name without what is transparent is another tensor's, nothing is transparent."""
    write_random(tmp_path / "ckpt", "torch", "base", container="safetensors")
    word = "roformer.embeddings.word_embeddings.weight"
    edit(
        tmp_path / "ckpt",
        lambda arrays: (
            {f"roformer.{name}": array for name, array in arrays.items()}
            | {word.replace("embeddings.", "_orig_mod.embeddings.", 1): np.zeros((61, 14), np.float32)}
        ),
    )
    with pytest.raises(MisfitError, match="_orig_mod"):
        open_checkpoint(tmp_path / "ckpt")


@pytest.mark.parametrize(
    "beside", ["optimizer.state.0.exp_avg", "exp_avg.model.roformer.embeddings.word_embeddings.weight"]
)
def test_training_state_beside_is_left_out_and_named(tmp_path: Path, tensors: Tensors, beside: str) -> None:
    more: Arrays = {beside: np.ones((3, 5), np.float32), "n_averaged": np.ones(1, np.int64)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed("model.")(arrays) | more)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="tf")
    assert sorted(report.as_dict()["left_out"]) == sorted(more)
    assert any(beside in note and "n_averaged" in note for note in report.notes if note.startswith("left out: "))
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_training_state_without_a_prefix_of_its_own_is_left_out(tmp_path: Path, tensors: Tensors) -> None:
    more: Arrays = {"optimizer.exp_avg.3": np.ones((3, 5), np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: arrays | more)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="tf")
    assert report.plan.left_out == ("optimizer.exp_avg.3",)
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_of_several_state_dicts_one_is_asked_for(tmp_path: Path, tensors: Tensors) -> None:
    directory = tmp_path / "ckpt"
    edit(directory, lambda arrays: prefixed("model.")(arrays) | {f"ema.{n}": a + 1 for n, a in arrays.items()})
    with pytest.raises(MisfitError, match="Say which one is meant with --prefix, for example `--prefix") as caught:
        convert(directory, to="tf")
    assert {(problem.kind, problem.name) for problem in caught.value.problems} == {
        ("wrapped", "ema.*"),
        ("wrapped", "model.*"),
    }
    assert [problem.kind for problem in inspect(directory).problems] == ["wrapped", "wrapped"]
    for prefix in ("model.", "model"):
        with open_checkpoint(directory, parts=Parts(prefix=prefix)) as checkpoint:
            assert same_bits({name: checkpoint.read(name) for name in checkpoint}, tensors) == []
    with open_checkpoint(directory, parts=Parts(prefix="ema.")) as checkpoint:
        assert same_bits({name: checkpoint.read(name) - 1 for name in checkpoint}, tensors) != list(tensors)
        assert all(name.startswith("model.") for name in checkpoint.found.left_out)


def test_of_two_state_dicts_the_one_without_a_prefix_can_be_asked_for(tmp_path: Path, tensors: Tensors) -> None:
    directory = tmp_path / "ckpt"
    edit(directory, lambda arrays: arrays | {f"teacher.{n}": a + 1 for n, a in arrays.items()})
    with pytest.raises(MisfitError, match="--prefix ''"):
        open_checkpoint(directory)
    with open_checkpoint(directory, parts=Parts(prefix="")) as checkpoint:
        assert same_bits({name: checkpoint.read(name) for name in checkpoint}, tensors) == []


def test_a_prefix_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base", container="safetensors")
    edit(tmp_path / "ckpt", prefixed("a.", "b."))
    with pytest.raises(ConvertError, match="no tensor's name begins with 'c', which --prefix says") as caught:
        open_checkpoint(tmp_path / "ckpt", parts=Parts(prefix="c"))
    assert caught.value.next_step == "Before a RoFormer's names stand here: a., b."


@pytest.mark.parametrize("own", ["model.head.weight", "model.encoder.scores.bias", "head.weight"])
def test_heads_beside_the_encoder_are_asked_about(tmp_path: Path, own: str) -> None:
    """Somebody's own class holds the encoder as an attribute, and heads of theirs beside it."""
    tensors = write_random(tmp_path / "ckpt", "torch", "base-pooler", container="safetensors")
    more = {own: np.ones((3, 24), np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed("model.bert.")(arrays) | more)
    with pytest.raises(
        MisfitError, match=r"To convert without what is beside, say `--prefix model\.bert\.` or"
    ) as caught:
        convert(tmp_path / "ckpt", to="paddle")
    assert [(problem.kind, problem.name) for problem in caught.value.problems][1:] == [("beside", own)]
    for parts in (Parts(prefix="model.bert"), Parts(encoder_only=True), Parts(drop=(own,))):
        options = ConvertOptions(parts=parts, force=True)
        report = convert(tmp_path / "ckpt", tmp_path / "out", to="paddle", options=options)
        assert report.plan.left_out == (own,)
        assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_beside_a_model_with_a_head_of_its_own_nothing_is_asked_about(tmp_path: Path) -> None:
    """A Lightning module's loss has class weights, and its metrics count."""
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="safetensors")
    more: Arrays = {"loss.weight": np.ones(3, np.float32), "train_f1.tp": np.ones(1, np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed("net.model.")(arrays) | more)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="tf")
    assert sorted(report.plan.left_out) == sorted(more)
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_a_second_head_beside_a_model_with_one_is_asked_about(tmp_path: Path) -> None:
    """Two tasks over one encoder: a note that a trained kernel stayed behind is read by nobody."""
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="safetensors")
    more: Arrays = {"intent.weight": np.ones((3, 24), np.float32), "intent.bias": np.ones(3, np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed("net.model.")(arrays) | more)
    with pytest.raises(MisfitError, match=r"say `--prefix net\.model\.` or") as caught:
        convert(tmp_path / "ckpt", to="tf")
    assert {problem.name for problem in caught.value.problems if problem.kind == "beside"} == set(more)
    report = convert(tmp_path / "ckpt", to="tf", options=ConvertOptions(parts=Parts(prefix="net.model.")))
    assert sorted(report.plan.left_out) == sorted(more)
    assert same_bits(read_all(report.target), tensors) == []


def test_a_prefix_may_be_the_end_of_one(tmp_path: Path, tensors: Tensors) -> None:
    directory = tmp_path / "ckpt"
    edit(directory, prefixed("state_dict.model.", "state_dict.ema.model."))
    for prefix in ("ema.model.", "ema.model"):
        with open_checkpoint(directory, parts=Parts(prefix=prefix)) as checkpoint:
            assert same_bits({name: checkpoint.read(name) for name in checkpoint}, tensors) == []
            assert all(name.startswith("state_dict.model.") for name in checkpoint.found.left_out)
    for prefix in ("model.", "odel.", "dict.ema.model"):  # the end of two; not whole parts of a name
        with pytest.raises(ConvertError, match="no tensor's name begins with"):
            open_checkpoint(directory, parts=Parts(prefix=prefix))


def test_dropped_names_are_named_and_must_be_there(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="safetensors")
    more = {"head.0.weight": np.ones((3, 24), np.float32), "head.0.bias": np.ones(3, np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: arrays | more)
    with pytest.raises(MisfitError):
        convert(tmp_path / "ckpt", to="paddle")
    options = ConvertOptions(parts=Parts(drop=("head.*",)))
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="paddle", options=options)
    assert set(report.plan.left_out) == set(more)
    assert same_bits(read_all(tmp_path / "out"), tensors) == []
    with pytest.raises(ConvertError, match="no tensor's name matches --drop 'tail"):
        convert(tmp_path / "ckpt", to="tf", options=ConvertOptions(parts=Parts(drop=("head.*", "tail.*"))))


def test_names_can_be_dropped_as_messages_have_them(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="safetensors")
    more = {"model.crf.transitions": np.ones((3, 3), np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed("model.")(arrays) | more)
    with pytest.raises(MisfitError) as caught:
        open_checkpoint(tmp_path / "ckpt")
    (name,) = (problem.name for problem in caught.value.problems)
    assert "--drop PATTERN" in str(caught.value)
    for pattern in (name, "model.crf.*"):
        with open_checkpoint(tmp_path / "ckpt", parts=Parts(drop=(pattern,))) as checkpoint:
            assert same_bits({name: checkpoint.read(name) for name in checkpoint}, tensors) == []


def test_a_pattern_is_held_against_the_files_own_names_first(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "base", container="safetensors")
    more = {"encoder.x": np.ones((3, 3), np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed("model.")(arrays) | more)
    with open_checkpoint(tmp_path / "ckpt", parts=Parts(drop=("encoder.*",))) as checkpoint:
        assert same_bits({name: checkpoint.read(name) for name in checkpoint}, tensors) == []


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_encoder_alone_is_without_heads_and_with_its_pooler(tmp_path: Path, dialect: Dialect, prefix: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, "everything", container="safetensors")
    own = {f"{prefix}discriminator_predictions.dense.weight": np.ones((24, 24), np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed(prefix)(arrays) | own)
    options = ConvertOptions(parts=Parts(encoder_only=True))
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="tf", options=options)
    want = {name: array for name, array in tensors.items() if not name.startswith(("mlm.", "sop."))}
    assert same_bits(read_all(tmp_path / "out"), want) == []
    assert report.plan.kind.name == "base"
    assert "discriminator_predictions.dense.weight" in report.plan.left_out
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.config == CONFIG


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("shape", ["base-pooler", "masked-lm"])
def test_the_encoder_alone_is_with_all_that_is_inside_it(tmp_path: Path, dialect: Dialect, shape: str) -> None:
    """Learned positions, another model's part: an encoder without them computes something else."""
    write_random(tmp_path / "ckpt", dialect, shape)
    found = identify(tmp_path / "ckpt")
    by_name = {tensor.name: tensor for tensor in found.index.tensors}
    for canonical, old, new in (
        ("embeddings.segment.weight", "token_type", "position"),
        ("layers.2.feed_forward.down.bias", "linear2" if dialect == "paddle" else "output", "gate"),
    ):
        name = stored_in(canonical, dialect, base=found.shape.base).name
        more = replace(by_name[name], name=name.replace(old, new))
        index = replace(found.index, tensors=(*found.index.tensors, more))
        with patch.object(weight_set, "index", lambda _, index=index: index):
            problems = inspect(tmp_path / "ckpt", parts=Parts(encoder_only=True)).problems
        assert [(problem.kind, problem.name) for problem in problems] == [("unknown", more.name)]


def test_many_names_are_said_in_few_words() -> None:
    names = [f"optimizer.state.{n}.exp_avg" for n in range(9)] + ["epoch"]
    assert in_words(names) == "optimizer.state.* (9), epoch"
    assert in_words(names[:2]) == ", ".join(names[:2])
    slots = [f"bert/layer_{n}/kernel/{slot}" for n in range(9) for slot in ("Momentum", "ExponentialMovingAverage")]
    assert in_words(slots) == "bert/*/Momentum (9), bert/*/ExponentialMovingAverage (9)"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_every_command_takes_the_parts(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="safetensors")
    write_random(tmp_path / "plain", "torch", "masked-lm", container="safetensors")
    own = {"student.mine.weight": np.ones((3, 24), np.float32)}
    edit(tmp_path / "ckpt", lambda arrays: prefixed("student.", "teacher.")(arrays) | own)
    asked = "--prefix", "student", "--drop", "student.mine.*"
    done = run("convert", tmp_path / "ckpt", "--to", "paddle", "-o", tmp_path / "out", *asked)
    assert done.exit_code == 0, done.output
    assert "note: the model is what begins with student. in the file" in done.output
    assert "note: left out: student.mine.weight, teacher." in done.output.replace("* (", ". (")
    assert same_bits(read_all(tmp_path / "out"), tensors) == []
    done = run("torch2tf", tmp_path / "ckpt", "-o", tmp_path / "bare", "--encoder-only", "--prefix", "student.")
    assert done.exit_code == 0, done.output
    assert all(name.startswith(("embeddings.", "layers.")) for name in read_all(tmp_path / "bare"))
    shown = run("inspect", tmp_path / "ckpt", *asked)
    assert "yes: every tensor has a row" in shown.output
    sides = "--prefix-second", "student.", "--drop-second", "*.mine.*"
    assert run("diff", tmp_path / "plain", tmp_path / "ckpt", *sides).exit_code == 0
    refused = run("diff", tmp_path / "plain", tmp_path / "ckpt")
    assert isinstance(refused.exception, MisfitError)
    assert "with --prefix-second, for example `--prefix-second student.`" in str(refused.exception)
    gate = run("parity", tmp_path / "ckpt", "--conversions", "only", "--prefix", "student", "--drop", "student.mine.*")
    assert gate.exit_code == 0, gate.output


def test_a_tensor_that_would_take_code_is_said_to_be_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    write_random(tmp_path / "ckpt", "torch", "base", container="bin")
    path, name = tmp_path / "ckpt" / "pytorch_model.bin", "encoder.layer.0.output.dense.weight"
    state = torch.load(path)
    (key,) = (key for key in state if key.endswith(name) and "attention" not in key)
    state[key] = state[key].to_sparse()
    torch.save({"state_dict": state}, path)
    with pytest.raises(MisfitError, match="which was not run") as caught:
        open_checkpoint(tmp_path / "ckpt")
    (problem,) = caught.value.problems
    assert (problem.kind, problem.name) == ("unread", key)
    made = "what torch._utils._rebuild_sparse_tensor makes, which was not run"
    assert problem.detail == f"the file has {made} under state_dict"


@pytest.mark.parametrize("target", ["paddle", "torch", "tf", "tf1"])
def test_only_what_the_target_reads_is_written(tmp_path: Path, target: Dialect) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "everything")
    options = ConvertOptions(only_read=True)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to=target, options=options)
    unread = {"paddle": ("sop.",), "torch": ("sop.", "pooler."), "tf": ("sop.", "pooler."), "tf1": ()}[target]
    want = {name: array for name, array in tensors.items() if not name.startswith(unread or ("-",))}
    assert same_bits(read_all(tmp_path / "out"), want) == []
    assert len(report.plan.left_out) == len(tensors) - len(want)
    assert not any("unexpected" in note for note in report.notes)
    assert report.plan.kind.name == ("pretraining" if target == "tf1" else "masked-lm")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_prefix_is_found_in_every_dialect(dialect: Dialect) -> None:
    slash = "." if dialect in ("torch", "paddle") else "/"
    rows = Table(2, MASKED_LM).by_name(dialect, base=False)
    stored = {f"my_model{slash}net{slash}{name}": "float32" for name in rows} | {"step": "int64"}
    seen = see_through(stored, [dialect], (), None, "here")
    assert seen.names == {f"my_model{slash}net{slash}{name}": name for name in rows}
    assert seen.notes == (f"the model is what begins with my_model{slash}net{slash} in the file ({len(rows)} tensors)",)


def test_a_bert_is_no_wrapped_roformer() -> None:
    names = [f"bert.{tensor.name('torch', base=True)}" for tensor in Table(2, BASE).tensors]
    positions = "bert.embeddings.position_embeddings.weight"
    assert see_through(dict.fromkeys(names, "float32"), ["torch"], (), None, "here").names[names[0]] == names[0][5:]
    stored = dict.fromkeys([*names, positions], "float32")
    assert see_through(stored, ["torch"], (), None, "here").names == {name: name for name in stored}


def test_many_names_with_many_beginnings_take_no_time() -> None:
    """What one name costs does not grow with the others."""
    word = "embeddings.word_embeddings.weight"
    deep = {"a." * 200 + f"b{number}.{word}": "float32" for number in range(3000)}
    deep |= {f"{number}.embeddings.position_embeddings.weight": "float32" for number in range(3000)}
    nested = {"a." * number for number in range(200)}
    with calls_below(1_000_000):
        seen = see_through(deep, ["torch", "paddle"], nested, None, "here")
    assert len(seen.problems) == 20


# DeepSpeed -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def deepspeed(tmp_path: Path) -> Path:
    """Write a folder as DeepSpeed leaves it: two steps, the newer one named."""
    torch = pytest.importorskip("torch")
    top = tmp_path / "run"
    for step in (50, 100):
        write_random(tmp_path / f"ckpt{step}", "torch", "masked-lm", container="bin")
        state = {name: value + step for name, value in torch.load(tmp_path / f"ckpt{step}/pytorch_model.bin").items()}
        (top / f"global_step{step}").mkdir(parents=True)
        torch.save({"module": state, "optimizer": None}, top / f"global_step{step}/mp_rank_00_model_states.pt")
        optimizer = {"optimizer_state_dict": {"single_partition_of_fp32_groups": [torch.ones(7)]}}
        torch.save(optimizer, top / f"global_step{step}/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (tmp_path / "ckpt100" / "config.json").rename(top / "config.json")
    (top / "latest").write_text("global_step100\n")
    return top


def test_deepspeeds_newest_step_is_taken(deepspeed: Path) -> None:
    newest = deepspeed / "global_step100"
    whole = read_all(deepspeed)
    assert same_bits(read_all(newest), whole) == []
    assert same_bits(read_all(newest / "mp_rank_00_model_states.pt"), whole) == []
    assert same_bits(read_all(deepspeed / "global_step50"), whole) != []
    report = convert(deepspeed, to="paddle")
    assert same_bits(read_all(report.target), whole) == []
    assert any("zero_pp_rank_0_mp_rank_00_optim_states.pt, from which" in note for note in report.notes)
    assert "not copied: global_step50, latest" in report.notes
    (deepspeed / "latest").unlink()
    assert same_bits(read_all(newest), whole) == []  # a step is told by its name too: the configuration lies above


def test_of_deepspeeds_steps_without_a_newest_one_is_asked_for(deepspeed: Path) -> None:
    for content in (None, "global_step7", "../run/global_step100", "/etc", "x" * 5000, b"\xff"):
        (deepspeed / "latest").unlink(missing_ok=True)
        if content is not None:
            (deepspeed / "latest").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(MisfitError, match="does not fit one step") as caught:
            open_checkpoint(deepspeed)
        assert [problem.name for problem in caught.value.problems] == ["global_step100", "global_step50"]
    assert read_all(deepspeed / "global_step50" / "mp_rank_00_model_states.pt")


@pytest.mark.parametrize(
    ("names", "step"),
    [
        (["mp_rank_01_model_states.pt"], "engine.save_16bit_model"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"], "zero_to_fp32.py"),
    ],
)
def test_a_model_that_deepspeed_divided_is_refused(deepspeed: Path, names: list[str], step: str) -> None:
    for name in names:
        (deepspeed / "global_step100" / name).write_bytes(b"")
    with pytest.raises(MisfitError, match=step) as caught:
        open_checkpoint(deepspeed)
    assert {problem.kind for problem in caught.value.problems} == {"divided"}
    assert set(names) <= {problem.name for problem in caught.value.problems}


@pytest.mark.parametrize("name", ["epoch=3-step=100.ckpt", "best.pt", "model.pth", "best_model.weights"])
def test_a_file_of_any_name_is_found_beside_what_is_no_model(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm", container="bin")
    (tmp_path / "ckpt" / "pytorch_model.bin").rename(tmp_path / "ckpt" / name)
    word = "exp_avg.roformer.embeddings.word_embeddings.weight"
    torch.save({"state": {0: torch.ones(3)}, word: torch.ones(2)}, tmp_path / "ckpt" / "optimizer.pt")
    torch.save(slice(1), tmp_path / "ckpt" / "training_args.bin")
    assert same_bits(read_all(tmp_path / "ckpt"), tensors) == []
    assert same_bits(read_all(tmp_path / "ckpt" / name), tensors) == []


def test_tensorflows_output_numbers_are_taken_off(tmp_path: Path) -> None:
    """transformers' TF classes save safetensors under the variables' full names."""
    tensors = write_random(tmp_path / "h5", "tf", "masked-lm")
    convert(tmp_path / "h5", tmp_path / "torch", to="torch")
    with open_checkpoint(tmp_path / "h5") as source:
        arrays = {
            f"{binding.stored.name}:0": np.ascontiguousarray(array.T) if binding.transposed else array
            for name, binding in source.bindings.items()
            for array in [source.read(name)]
        }
    (tmp_path / "st").mkdir()
    save_file(arrays, tmp_path / "st" / "model.safetensors", {"format": "tf"})
    shutil.copy(tmp_path / "h5" / "config.json", tmp_path / "st")
    with open_checkpoint(tmp_path / "st") as made:
        assert made.dialect == "tf"
    assert same_bits(read_all(tmp_path / "st"), tensors) == []
