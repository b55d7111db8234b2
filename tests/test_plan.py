"""What a plan says for sources chosen by hand: every note, word for word, and the type that the configuration names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoints import CONFIG, add_rotary_table, random_array, random_tensors, save, write_random
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertError, open_checkpoint
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.converters.target.plan import choose_container, make_plan

NOT_READ = "is written under BERT's names; {} does not read it and reports it as unexpected"
TF = "transformers for TF"
TF1 = (
    "initializer_range = 0.03125 is written, but bert4keras will compute with 0.02",
    "pad_token_id = 7 is written, but bert4keras will compute with 0",
)
NO_TABLE = "embed_positions is left out: it is computed from the configuration"


def notes(path: Path, target: Dialect, dtype: str | None = None) -> tuple[str, ...]:
    with open_checkpoint(path) as source:
        return make_plan(source, target, dtype=dtype).notes


def test_heads_that_the_targets_software_does_not_read_are_noted(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    both = "the pooler and the sentence-order head are written under BERT's names; {} does not read them and reports "
    both += "them as unexpected"
    assert {target: notes(tmp_path / "ckpt", target) for target in DIALECTS} == {
        "paddle": (f"the sentence-order head {NOT_READ.format('PaddleNLP')}",),
        "torch": (both.format("transformers"),),
        "tf": (both.format(TF),),
        "tf1": TF1,
    }


@pytest.mark.parametrize(("shape", "dialect"), [("masked-lm", "tf"), ("base", "torch")])
def test_a_rotary_table_that_no_file_of_the_target_has_is_noted_and_a_pooler_that_paddle_makes_up(
    tmp_path: Path, shape: str, dialect: Dialect
) -> None:
    write_random(tmp_path / "ckpt", dialect, shape)
    add_rotary_table(tmp_path / "ckpt", dialect, base=shape == "base")
    assert {target: notes(tmp_path / "ckpt", target) for target in DIALECTS} == {
        "paddle": ("PaddleNLP's model has a pooler and the source has none: its loader makes a random one", NO_TABLE),
        "torch": (),
        "tf": (),
        "tf1": (*TF1, NO_TABLE),
    }


def test_the_type_of_most_tensors_is_the_configurations_and_all_types_are_noted(tmp_path: Path) -> None:
    tensors = random_tensors(groups=())
    for name in list(tensors)[:-1]:
        tensors[name] = random_array(name, tensors[name].shape, dtype="float16")
    save(tmp_path / "ckpt", "torch", tensors, CONFIG)
    with open_checkpoint(tmp_path / "ckpt") as source:
        plan = make_plan(source, "tf")
        assert plan.config["dtype"] == "float16"
        assert plan.notes == (f"mixed types are kept: {len(tensors) - 1} × float16, 1 × float32",)
        assert [step.new.name for step in plan.steps if step.casts and not step.computed] == []
        wide = make_plan(source, "tf", dtype="float32")
        assert wide.config["dtype"] == "float32"
        assert wide.notes == ("cast to float32 from float16, float32",)
        assert sum(step.casts for step in wide.steps) == len(tensors) - 1


def test_a_cast_to_the_type_that_all_have_is_none(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    with open_checkpoint(tmp_path / "ckpt") as source:
        plan = make_plan(source, "torch", dtype="float32")
    assert plan.notes == ()
    assert not any(step.casts for step in plan.steps)


def test_a_type_that_a_container_lacks_is_refused_with_who_asks_for_it(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base", dtype="bfloat16")
    with open_checkpoint(tmp_path / "ckpt") as source:
        with pytest.raises(ConvertError, match=r"has no bfloat16, which the source holds") as held:
            make_plan(source, "tf")
        with pytest.raises(ConvertError, match=r"has no bfloat16, which --dtype asks for") as asked:
            make_plan(source, "tf", dtype="bfloat16")
        assert make_plan(source, "tf", dtype="float32").container.name == "h5"
    assert held.value.next_step == asked.value.next_step == "Use --dtype float32, which is exact."


@pytest.mark.parametrize(
    ("held", "holds", "step"),
    [
        ("float64", ("float32",), "Use --dtype float32, which rounds."),
        ("float16", ("float32",), "Use --dtype float32, which is exact."),
        ("float32", ("float16", "bfloat16"), "Use --dtype float16, which rounds."),
    ],
)
def test_a_type_that_a_container_holds_is_called_exact_or_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str, holds: tuple[str, ...], step: str
) -> None:
    write_random(tmp_path / "ckpt", "torch", "base", dtype=held)
    monkeypatch.setattr(type(choose_container("tf1", None)), "dtypes", holds)
    with open_checkpoint(tmp_path / "ckpt") as source, pytest.raises(ConvertError) as caught:
        make_plan(source, "tf1")
    assert caught.value.next_step == step


@pytest.mark.parametrize(
    ("shape", "model"), [("base-sop", "RoFormerModel"), ("masked-lm", "RoFormerForMaskedLM"), ("base", "RoFormerModel")]
)
def test_the_configuration_names_the_class_that_loads_what_is_written(tmp_path: Path, shape: str, model: str) -> None:
    write_random(tmp_path / "ckpt", "tf1", shape)
    with open_checkpoint(tmp_path / "ckpt") as source:
        assert make_plan(source, "torch").config["architectures"] == [model]


def test_what_a_container_says_of_its_types_is_noted(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle", "base-pooler", dtype="bfloat16")
    with open_checkpoint(tmp_path / "ckpt") as source:
        assert make_plan(source, "paddle").notes == ()
        assert make_plan(source, "paddle", container="safetensors").notes == (
            "PaddleNLP 2.8.1 cannot read bfloat16 from safetensors: use --container pdparams for it",
        )


@pytest.mark.parametrize(("count", "words"), [(7, ""), (8, ""), (9, " and 1 more")])
def test_eight_entries_that_are_no_tensors_are_named_and_the_rest_counted(
    tmp_path: Path, count: int, words: str
) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    path = tmp_path / "ckpt" / "model.safetensors"
    names = [f"k{number}" for number in range(count)]
    save_file(load_file(path), path, {"format": "pt", **dict.fromkeys(names, "5")})
    (note,) = notes(tmp_path / "ckpt", "torch")
    assert re.fullmatch(rf"left out because they are not tensors: (k\d, ){{{min(count, 8) - 1}}}k\d{words}", note)


@pytest.mark.parametrize(("count", "words"), [(1, ""), (2, " and 1 more"), (3, " and 2 more")])
def test_weights_that_are_none_are_counted_after_the_first(tmp_path: Path, count: int, words: str) -> None:
    write_random(tmp_path / "ckpt", "tf1", "base")
    ignored = ["global_step", "beta1_power", "beta2_power"][:count]
    with open_checkpoint(tmp_path / "ckpt") as source:
        plan = make_plan(replace(source, ignored=tuple(ignored)), "torch")
        assert plan.notes[-1] == f"left out because they are not weights: global_step{words}"


def test_a_tensor_under_its_second_name_alone_is_noted(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "masked-lm")
    path = tmp_path / "ckpt" / "model.safetensors"
    arrays = load_file(path)
    del arrays["cls.predictions.bias"]
    save_file(arrays, path, {"format": "pt"})
    taken = "cls.predictions.decoder.bias is taken for cls.predictions.bias, which is not in the file"
    assert notes(tmp_path / "ckpt", "torch") == (taken,)
    with open_checkpoint(tmp_path / "ckpt") as source:
        (decoder,) = (step for step in make_plan(source, "torch").steps if step.new.name == "cls.predictions.bias")
        assert decoder.binding.stored.name == "cls.predictions.decoder.bias"


def test_files_that_are_too_small_for_any_tensor_hold_one_each(tmp_path: Path) -> None:
    """A limit of nothing: no first file that is empty, and a second name beside the tensor that it names."""
    tensors = write_random(tmp_path / "ckpt", "torch", "masked-lm")
    with open_checkpoint(tmp_path / "ckpt") as source:
        plan = make_plan(source, "paddle", max_shard_size=1)
        assert [len(list(file.stored)) for file in plan.files] == [1] * len(tensors)
        assert len(make_plan(source, "paddle", max_shard_size=plan.nbytes).files) == 1
        assert len(make_plan(source, "paddle", max_shard_size=plan.nbytes - 1).files) == 2
