"""What a plan says for sources chosen by hand: every note, word for word, and the type that the configuration names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from peer_folders import PEERS
from random_checkpoints import CONFIG, CONTAINERS, add_rotary_table, random_array, random_tensors, save, write_random
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import ConvertError, open_checkpoint
from roformer_convert.converters.errors import InexpressibleError
from roformer_convert.converters.table.differences import Difference
from roformer_convert.converters.table.mapping import DIALECTS, POOLER, Dialect
from roformer_convert.converters.target import plan as plans
from roformer_convert.converters.target.plan import SideFile, choose_container, make_plan
from roformer_convert.converters.target.positions import MOST_POSITIONS

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


def test_the_bytes_to_write_are_every_files_and_the_rotary_table_is_computed(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", "base")
    own = sum(array.nbytes for array in tensors.values()) + 4 * 47 * CONFIG.head_size
    with open_checkpoint(tmp_path / "ckpt") as source:
        plan = make_plan(source, "torch")
    (file,) = plan.files
    (table,) = (step for step in file.steps if step.computed)
    assert (table.new.name, table.binding.tensor.canonical) == ("encoder.embed_positions.weight", "embed_positions")
    assert plan.nbytes == plan.nbytes_in_all == own
    beside = SideFile("optimizer", file.steps[:1], plan.lay_out(file), "a state")
    assert beside.nbytes == file.steps[0].new.nbytes
    assert replace(plan, beside=beside).nbytes_in_all == own + beside.nbytes


def test_a_container_that_the_targets_software_does_not_read_is_refused(tmp_path: Path) -> None:
    assert choose_container("torch", "bin").name == "bin"
    with pytest.raises(
        ConvertError, match="h5 files are not read by transformers; wanted safetensors or bin"
    ) as caught:
        choose_container("torch", "h5")
    assert caught.value.next_step == "Leave --container out to write safetensors."


def test_another_function_is_planned_where_that_is_allowed_and_noted(tmp_path: Path) -> None:
    config = replace(CONFIG, layer_norm_eps=0.01)  # Paddle's kernels take none above 0.001
    save(tmp_path / "ckpt", "torch", random_tensors(groups=(POOLER,)), config)
    with open_checkpoint(tmp_path / "ckpt") as source:
        with pytest.raises(InexpressibleError) as caught:
            make_plan(source, "paddle")
        plan = make_plan(source, "paddle", allow_different=True)
        assert make_plan(source, "torch").differences == ()
    (different,) = plan.differences
    assert caught.value.what.splitlines() == [
        f"{tmp_path / 'ckpt'}: PaddleNLP would compute another function than the source says",
        f"  {different}",
    ]
    assert (caught.value.next_step or "").startswith("If the source is misread, --set FIELD=VALUE says what is right")
    assert plan.notes == (f"allowed to differ: {different}",)


@pytest.mark.parametrize("remedies", [("a = 1",), ("a = 1", "b = 2"), ("a = 1", ""), ("",)])
def test_lines_of_code_are_named_where_they_end_every_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remedies: tuple[str, ...]
) -> None:
    write_random(tmp_path / "ckpt", "torch")
    different = [Difference("hidden_act", "tanh here", "gelu there", "0.1", remedy) for remedy in remedies]
    monkeypatch.setattr(plans, "differences", lambda *_: different)
    with open_checkpoint(tmp_path / "ckpt") as source:
        with pytest.raises(InexpressibleError) as caught:
            make_plan(source, "torch")
        noted = make_plan(source, "torch", allow_different=True).notes
    line = "After from_pretrained, {} makes transformers compute it too; do not save the model then"
    told = [line.format(remedy) for remedy in remedies if remedy]
    wanted = "".join(f" {one}." for one in told) if all(remedies) else ""
    assert (caught.value.next_step or "").endswith(f", and records that.{wanted}")
    assert set(told) == {note for note in noted if note.startswith("After from_pretrained")}


@pytest.mark.parametrize(
    ("folder", "head", "names"),
    [
        ("hf4-TokenClassification_default_st", "token classifier", "classifier.weight, classifier.bias"),
        ("pd-TokenClassification_v2_pd", "token classifier", "classifier.weight"),
        ("hf4-MultipleChoice_default_st", "multiple-choice head", "classifier.weight, classifier.bias"),
    ],
)
def test_heads_that_a_target_has_no_name_for_are_refused(folder: str, head: str, names: str) -> None:
    """Each of their tensors is named, though another function is allowed."""
    with open_checkpoint(PEERS / folder) as source, pytest.raises(InexpressibleError) as caught:
        make_plan(source, "tf1", allow_different=True)
    assert caught.value.what == f"{PEERS / folder}: bert4keras builds no {head}, and tf1 has no name for it: {names}"
    assert (caught.value.next_step or "").startswith("Convert it to another dialect, or its encoder alone")


def test_what_a_caller_must_say_in_code_is_noted(tmp_path: Path) -> None:
    save(tmp_path / "ckpt", "torch", random_tensors(groups=(POOLER,)), replace(CONFIG, pooler_activation="linear"))
    told = "bert4keras is told in code: build_transformer_model(…, with_pool='linear')"
    assert notes(tmp_path / "ckpt", "tf1") == (*TF1, told)


def test_a_type_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    said = "dtype 'int8' is not known; wanted float32 or float16 or bfloat16 or"
    with open_checkpoint(tmp_path / "ckpt") as source, pytest.raises(ConvertError, match=said):
        make_plan(source, "torch", dtype="int8")


def test_second_names_are_written_where_they_cost_nothing_or_are_worth_it(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf", "masked-lm")
    word, bias = "embeddings.word_embeddings.weight", "cls.predictions"
    with open_checkpoint(tmp_path / "ckpt") as source:
        found = {
            (target, container): {
                step.new.name: step.new.alias_of
                for step in make_plan(source, target, container=container).steps
                if "decoder" in step.new.name and step.new.name != f"{bias}.decoder_bias"
            }
            for target, container in CONTAINERS
        }
    assert found == {
        ("paddle", "pdparams"): {f"{bias}.decoder_weight": f"roformer.{word}"},
        ("paddle", "safetensors"): {},
        ("torch", "safetensors"): {f"{bias}.decoder.bias": None},
        ("torch", "bin"): {f"{bias}.decoder.weight": f"roformer.{word}", f"{bias}.decoder.bias": f"{bias}.bias"},
    }


def test_kernels_are_transposed_between_software_that_stores_them_otherwise(tmp_path: Path) -> None:
    """Matrices that paddle, torch and TF1 store (in, out); a vector is not a matrix, whoever stores it."""
    write_random(tmp_path / "ckpt", "paddle")
    with open_checkpoint(tmp_path / "ckpt") as source:
        same, turned = make_plan(source, "paddle"), make_plan(source, "torch")
    assert not any(step.transpose for step in same.steps)
    kernels = {step.new.name: step.new.shape for step in turned.steps if step.transpose}
    assert kernels["roformer.embeddings_project.weight"] == (CONFIG.hidden_size, CONFIG.embedding_size)
    assert kernels["roformer.encoder.layer.2.output.dense.weight"] == (CONFIG.hidden_size, CONFIG.intermediate_size)
    assert len(kernels) == 1 + 6 * CONFIG.num_hidden_layers + 3  # the projection, the layers', three of the heads
    (shapes,) = ({step.new.name: step.new.shape for step in file.steps} for file in same.files)
    assert shapes["roformer.encoder.layers.2.linear2.weight"] == (CONFIG.intermediate_size, CONFIG.hidden_size)


@pytest.mark.parametrize(
    ("held", "asked", "written"),
    [
        ("float16", None, {"torch": "float16", "tf": "float16"}),
        ("bfloat16", None, {"torch": "bfloat16", "tf": "float32"}),  # HDF5 has no bfloat16
        ("float16", "float64", {"torch": "float64", "tf": "float64"}),
        (None, None, {"torch": "float32", "tf": "float32"}),
    ],
)
def test_a_rotary_table_has_the_type_of_the_sources(
    tmp_path: Path, held: str | None, asked: str | None, written: dict[Dialect, str]
) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    if held is not None:
        add_rotary_table(tmp_path / "ckpt", "torch", base=True, dtype="float16")
    with open_checkpoint(tmp_path / "ckpt") as source:
        index = source.found.index
        of_type = [replace(each, dtype=held or "") if each.name in source.derived else each for each in index.tensors]
        source = replace(source, found=replace(source.found, index=replace(index, tensors=tuple(of_type))))
        plans = {target: make_plan(source, target, dtype=asked) for target in written}
    assert {target: [step.new.dtype for step in plan.steps if step.computed] for target, plan in plans.items()} == {
        target: [dtype] for target, dtype in written.items()
    }


def test_a_rotary_table_that_is_not_wanted_or_too_long_is_left_out(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    again = "transformers computes it, and reports it as newly initialized"
    with open_checkpoint(tmp_path / "ckpt") as source:
        assert make_plan(source, "torch", positions=False).notes == (f"embed_positions is left out; {again}",)
    for length, notes_wanted in (
        (MOST_POSITIONS, ()),
        (MOST_POSITIONS + 1, ("max_position_embeddings is 65,537, and it is written for 65,536 at most",)),
    ):
        with open_checkpoint(tmp_path / "ckpt", set={"max_position_embeddings": length}) as source:
            said = tuple(note for note in make_plan(source, "torch").notes if "embed_positions" in note)
            assert said == tuple(f"embed_positions is left out: {why}; {again}" for why in notes_wanted)


def test_a_container_of_one_file_is_not_split(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    with open_checkpoint(tmp_path / "ckpt") as source:
        with pytest.raises(ConvertError, match=r"tf_model\.h5 is always one file: shards of it are not read") as caught:
            make_plan(source, "tf", max_shard_size=1 << 20)
        whole = make_plan(source, "torch")
        assert ([file.filename for file in whole.files], whole.shard_index) == (["model.safetensors"], None)
        halves = make_plan(source, "torch", max_shard_size=whole.nbytes - 1)
    assert caught.value.next_step == "Leave --max-shard-size out."
    assert [file.filename for file in halves.files] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert halves.shard_index == "model.safetensors.index.json"
    assert halves.config_name == "config.json"


def test_settings_that_are_written_anew_travel_once(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "ckpt" / name).write_text('{"auto_map": "there"}' if name.endswith("json") else "x\n" * 61)
    with open_checkpoint(tmp_path / "ckpt") as source:
        plan = make_plan(source, "torch")
    assert sorted(plan.travelling) == ["tokenizer_config.json", "vocab.txt"]
    assert list(plan.settings) == ["tokenizer_config.json"]


def test_a_model_without_a_pooler_of_paddles_is_given_none() -> None:
    """PaddleNLP's classifier has a layer of its own there, and its RoFormerV2 no pooler at all."""
    for folder in ("hf4-SequenceClassification_default_st", "junn-MaskedLM_v2_bin"):
        with open_checkpoint(PEERS / folder) as source:
            said = make_plan(source, "paddle", allow_different=True).notes
        assert [note for note in said if "makes a random one" in note] == [], folder


def test_what_the_files_hold_beside_the_model_is_noted(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base")
    with open_checkpoint(tmp_path / "ckpt") as source:
        index = replace(
            source.found.index, metadata={"b": "sparse", "step": "5", "a": "sparse"}, unread=frozenset("ba")
        )
        found = replace(source.found, index=index, left_out=("optimizer.pt", "b.bin"))
        assert make_plan(replace(source, found=found), "torch").notes == (
            "left out: optimizer.pt, b.bin",
            "left out because they are not tensors: step",
            "left out because they are of a kind that is not read: a, b",
        )
        assert make_plan(replace(source, found=found), "torch").left_out == ("optimizer.pt", "b.bin")
