"""A folder or file that is nearly right: what it holds is said, and what to do."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from random_checkpoints import read_all, same_bits, write_random
from safetensors.numpy import save_file

from roformer_convert.converters import ConvertError, ConvertOptions, MisfitError, convert
from roformer_convert.converters.inspection import inspect

CASES = Path(__file__).parents[1] / "fixtures" / "cases"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 512000000\n"


def refused(source: Path) -> str:
    """Convert, and inspect; both must refuse with the same words and leave nothing behind."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(ConvertError) as caught:
        convert(source, to="paddle")
    with pytest.raises(ConvertError) as inspected:
        inspect(source)
    assert str(caught.value) == str(inspected.value)
    assert sorted(source.parent.rglob("*")) == before
    return str(caught.value)


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("chinese_roformer/bert_config.json"))
    return content.getvalue()


def test_an_exported_paddle_program_is_named_with_what_to_start_from() -> None:
    error = refused(CASES / "23-paddle-static")
    assert "no weights here, but an exported Paddle program" in error
    assert "model_state.pdparams of save_pretrained" in error
    for name in ("model.pdmodel", "model.pdiparams"):
        assert "not weights but an exported Paddle program" in refused(CASES / "23-paddle-static" / name)


def test_adapters_come_with_the_call_that_merges_them() -> None:
    error = refused(CASES / "27-lora")
    assert "no weights here, but adapters" in error
    assert "AutoModelForMaskedLM.from_pretrained('junnyu/roformer_chinese_base')" in error
    assert "merge_and_unload()" in error


def test_adapters_beside_whole_weights_are_said_to_be_apart(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch")
    shutil.copytree(CASES / "27-lora", tmp_path / "ckpt", dirs_exist_ok=True)
    report = convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(report.target), tensors) == []
    said = (
        "the weights are converted as they are, without the adapters in adapter_config.json, adapter_model.safetensors"
    )
    assert said in report.notes


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.onnx", b"\x08\x07", "an exported ONNX graph"),
        ("__0_0.distcp", b"PK", "a distributed checkpoint"),
        ("saved_model.pb", b"\x08\x01", "a TensorFlow SavedModel"),
        ("roformer.tflite", b"\x1c\0\0\0TFL3", "a TensorFlow SavedModel or frozen graph"),
        ("openvino_model.bin", b"\0" * 64, "a program exported for OpenVINO"),
        ("roformer.Q8_0.gguf", b"GGUF\3\0\0\0", "weights for llama.cpp"),
        ("flax_model.msgpack", b"\x81\xa1a", "Flax weights"),
        ("manifest.ocdbt", b"\x0c\xdb", "a checkpoint of JAX (Orbax)"),
        ("_METADATA", b"{}", "a checkpoint of JAX (Orbax)"),
        ("rust_model.ot", zipped("rust_model/data/0"), "weights for rust-bert"),
        ("model.safetensors.incomplete", b"\0\0", "an unfinished download"),
        ("chinese_roformer.zip", zipped("chinese_roformer/bert_config.json"), "a packed archive"),
        ("chinese_roformer.tar", tarred(), "a packed archive"),
        ("chinese_roformer.tar.gz", b"\x1f\x8b\x08\0", "a packed archive"),
        ("optimizer.pt", b"\x80\x02}.", "the state of an optimizer"),
        ("training_args.bin", b"\x80\x02}.", "the state of an optimizer"),
        ("model.pdopt", b"\x80\x02}.", "the state of an optimizer"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", b"\x80\x02}.", "the state of an optimizer"),
        ("weights.npz", b"PK\x05\x06" + b"\0" * 18, "arrays of numpy"),
        ("model.safetensors.dvc", b"outs:\n- md5: 0\n", "a pointer of DVC"),
        ("model.safetensors.part-aa", b"\0" * 9, "a piece of a file that was cut up"),
        ("chinese_roformer.zip.001", b"PK\3\4", "a piece of a file that was cut up"),
        ("vocab.txt", b"[PAD]\n", "part of a tokenizer: vocab.txt"),
        ("config.json", b"{}", "a configuration: config.json"),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / name).write_bytes(content)
    error = refused(tmp_path / "it")
    assert f"no weights here, but {words}" in error
    assert name in error


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.onnx", b"\x08\x07", "an exported ONNX graph"),
        ("model.bin", zipped("chinese/bert_config.json", "chinese/vocab.txt"), "archive, of chinese/bert_config.json"),
        (
            "roformer.zip",
            zipped("chinese_roformer_L-12/", "chinese_roformer_L-12_H-768_A-12/bert_model.ckpt.data-00000-of-00001"),
            "archive, of chinese_roformer_L-12_H-768_A-12/bert_model.ckpt.data-00000-of-00001\n",
        ),
        ("model.pt", zipped("model/code/a.py", "model/constants.pkl", "model/data.pkl"), "a TorchScript program"),
        ("model.bin", tarred(), "a packed archive"),
        ("model.safetensors", b"\x1f\x8b\x08\0\0\0\0\0", "a packed archive"),
        ("pytorch_model.bin", b"GGUF\3\0\0\0", "weights for llama.cpp"),
        ("config.json", b"{}", "not weights but a configuration"),
        (
            "model.safetensors",
            b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>",
            "not the weights but a web page",
        ),
        ("pytorch_model.bin", b"\x08\x08\x12\x07pytorch\x1a\x062.13.0", "an exported ONNX graph"),
        ("tf_model.h5", b"\x08\x01\x12\xb2\x01", "a TensorFlow SavedModel"),
        ("tf_model.h5", b"\x1c\0\0\0TFL3\0\0", "a TensorFlow SavedModel or frozen graph"),
        ("model.safetensors", b"\x82\xa3cls\x81\xabpredictions", "Flax weights"),
        ("model_state.pdparams", zipped("config.json", "metadata.json", "model.weights.h5"), "a whole Keras 3 model"),
        ("pytorch_model.bin", zipped("a.weight.npy", "b.npy"), "arrays of numpy"),
        ("model.pt", zipped("m/models/model.json", "m/archive_format"), "a program exported by torch.export"),
        ("pytorch_model.bin", b"\x93NUMPY\1\0v\0{'descr': '<f4'", "arrays of numpy"),
        ("pytorch_model.bin", b"Entry not found", "a text, which begins 'Entry not found'"),
        ("model.safetensors", b'{"error": "Repository not found"}', 'a text, which begins \'{"error": '),
        ("tf_model.h5", ("\u4e2d" * 400).encode(), "a text, which begins '\u4e2d\u4e2d"),
        ("model_state.pdparams", b"\0" * 4096, "zero bytes, which a copy or download left"),
        ("pytorch_model.bin", b"\0\5\x16\7\0\2\0\0Mac OS X", "what a Mac keeps beside a file"),
        ("model.safetensors", b"\x89PNG\r\n\x1a\n\0\0\0\r", "a picture"),
        ("roformer.ckpt", b"\n\x93\1\n\x2fbert.embedding_table\x12\x08", "a checkpoint of MindSpore"),
        ("pytorch_model.bin", b"SQLite format 3\0", "a database or a table of data"),
        ("pytorch_model.bin", b"\x7fELF\2\1\1", "a program for the machine"),
    ],
)
def test_a_file_that_is_no_weights_says_what_it_is(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name)
    assert words in error
    assert "\n  " in error, "there is a next step"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_a_link_to_itself_is_said_to_be_one(tmp_path: Path, name: str) -> None:
    write_random(tmp_path / "it", "torch")
    (tmp_path / "it" / name).unlink(missing_ok=True)
    (tmp_path / "it" / name).symlink_to(name)
    error = refused(tmp_path / "it")
    assert f"{name}: Too many levels of symbolic links" in error
    assert "leads back to itself" in error


def test_a_link_of_git_annex_is_answered_with_its_call(tmp_path: Path) -> None:
    write_random(tmp_path / "it", "torch")
    (tmp_path / "it" / "model.safetensors").unlink()
    (tmp_path / "it" / "model.safetensors").symlink_to("../.git/annex/objects/x/SHA256E-s1--0")
    assert "git annex get model.safetensors" in refused(tmp_path / "it")


def test_the_variables_of_a_saved_model_one_level_down_are_no_checkpoint(tmp_path: Path) -> None:
    write_random(tmp_path / "it" / "1" / "variables", "tf1")
    (tmp_path / "it" / "1" / "saved_model.pb").write_bytes(b"\x08\1\x12")
    error = refused(tmp_path / "it")
    assert "no weights here, but a TensorFlow SavedModel" in error
    assert "1/variables/variables" not in error


def test_a_folder_in_a_files_place_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "it" / "model.safetensors").mkdir(parents=True)
    assert "model.safetensors: a folder in a file's place" in refused(tmp_path / "it")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model_state.pdparams", "tf_model.h5", "model.safetensors"])
def test_noise_under_the_name_of_weights_comes_with_a_next_step(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(3).bytes(4096))
    assert "etch it again" in refused(tmp_path / name)


def test_the_modules_of_sentence_transformers_are_said_to_stay_behind(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "it", "torch", "base")
    (tmp_path / "it" / "1_Pooling").mkdir()
    (tmp_path / "it" / "modules.json").write_text("[]")
    report = convert(tmp_path / "it", to="paddle")
    assert same_bits(read_all(report.target), tensors) == []
    assert any(note.startswith("what modules.json names behind the model") for note in report.notes)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "it is empty" in refused(tmp_path / "empty")


@pytest.mark.parametrize("several", [False, True])
def test_pointers_of_git_lfs_are_answered_with_the_pull(tmp_path: Path, several: bool) -> None:
    (tmp_path / "it").mkdir()
    for name in ("pytorch_model.bin", "tf_model.h5", "model.safetensors")[: 3 if several else 1]:
        (tmp_path / "it" / name).write_bytes(POINTER)
    assert "git lfs pull" in refused(tmp_path / "it")


def test_a_pointer_beside_weights_is_left_where_it_is(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "it", "torch")
    (tmp_path / "it" / "tf_model.h5").write_bytes(POINTER)
    report = convert(tmp_path / "it", to="paddle")
    assert same_bits(read_all(report.target), tensors) == []
    assert "not copied: tf_model.h5" in report.notes


def test_what_a_trainer_leaves_beside_weights_of_any_name_is_not_taken_for_them(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "it", "torch", container="bin")
    (tmp_path / "it" / "pytorch_model.bin").rename(tmp_path / "it" / "best.pt")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
        shutil.copy(tmp_path / "it" / "best.pt", tmp_path / "it" / name)
    assert same_bits(read_all(convert(tmp_path / "it", to="paddle").target), tensors) == []


# --- one level down -------------------------------------------------------------------------------------------------


def steps(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_random(root / name, "torch", seed=seed)


def test_weights_one_level_down_are_named(tmp_path: Path) -> None:
    steps(tmp_path / "run", "checkpoint-500")
    (tmp_path / "run" / "trainer_state.json").write_text("{}")
    (tmp_path / "run" / "vocab.txt").write_text("[PAD]\n")
    error = refused(tmp_path / "run")
    assert "no weights at its top; they are in checkpoint-500/" in error
    assert error.endswith(f"Name that: {tmp_path / 'run' / 'checkpoint-500'}")


@pytest.mark.parametrize("names", [("models", "junnyu", "roformer_x"), ("hub", "models--junnyu--roformer_x")])
def test_weights_in_a_cache_of_any_hub_are_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = (tmp_path / "cache").joinpath(*names)
    if len(names) == 2:
        folder.joinpath("blobs").mkdir(parents=True)
        write_random(folder / "snapshots" / "abcdef01", "torch")
    else:
        write_random(folder, "torch")
    error = refused(tmp_path / "cache")
    assert error.endswith(f"Name that: {folder}")
    assert convert(folder, tmp_path / "out", to="paddle").written


@pytest.mark.parametrize("divided", [False, True])
def test_a_step_of_deepspeeds_one_level_down_is_named_by_the_folder_above_it(tmp_path: Path, divided: bool) -> None:
    step = tmp_path / "run" / "checkpoint-500" / "global_step500"
    step.mkdir(parents=True)
    for rank in range(1 + divided):
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if divided else "mp_rank_00_model_states.pt"
        (step / name).write_bytes(b"PK")
    assert refused(tmp_path / "run").endswith(f"Name that: {tmp_path / 'run' / 'checkpoint-500'}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch_model_fsdp_0/__0_0.distcp", "a distributed checkpoint"),
        ("saved/saved_model.pb", "a TensorFlow SavedModel"),
        ("checkpoint-500/adapter_model.safetensors", "adapters"),
    ],
)
def test_what_no_weights_one_level_down_are_is_said(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert f"{path.parent}: no weights here, but {words}" in refused(tmp_path / "run")


def test_a_saved_models_variables_are_named_and_read(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1", "masked-lm")
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    for path in (tmp_path / "ckpt").glob("bert_model.ckpt.*"):
        path.rename(tmp_path / "saved" / "variables" / path.name.replace("bert_model.ckpt", "variables"))
    error = refused(tmp_path / "saved")
    prefix = tmp_path / "saved" / "variables" / "variables"
    assert f"{prefix} with --config FILE" in error
    config = tmp_path / "ckpt" / "bert_config.json"
    report = convert(prefix, tmp_path / "out", to="torch", options=ConvertOptions(config=config))
    assert same_bits(read_all(report.target), tensors) == []


def test_weights_two_levels_down_are_named(tmp_path: Path) -> None:
    steps(tmp_path / "run", "checkpoints/step-000500")
    assert "they are in checkpoints/step-000500/" in refused(tmp_path / "run")


def test_names_of_folders_and_files_cannot_drive_a_terminal(tmp_path: Path) -> None:
    steps(tmp_path / "run", "step\x1b[31m-1")
    assert "\x1b" not in refused(tmp_path / "run")
    steps(tmp_path / "run", "step\x1b[31m-2")
    assert "\x1b" not in refused(tmp_path / "run")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "evil\x1b[31m.txt").write_text("")
    assert "\x1b" not in refused(tmp_path / "none")
    (tmp_path / "none" / "evil\x1b[31m.onnx").write_text("")
    assert "\x1b" not in refused(tmp_path / "none")


def last(root: Path) -> None:
    """Nothing says it: the highest number."""


def trainer(root: Path) -> None:
    (root / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": "C:\\out\\checkpoint-90"}))


def latest(root: Path) -> None:
    (root / "latest").write_text("checkpoint-90\n")


def hostile(root: Path) -> None:
    (root / "trainer_state.json").write_text("[" * 100_000)
    (root / "latest").write_bytes(b"\xff\xfe")
    (root / "checkpoint").write_text('model_checkpoint_path: "../../elsewhere"')


@pytest.mark.parametrize(
    ("note", "name", "why"),
    [
        (last, "checkpoint-1000", "the last one"),
        (trainer, "checkpoint-90", "which trainer_state.json names"),
        (latest, "checkpoint-90", "which latest names"),
        (hostile, "checkpoint-1000", "the last one"),
    ],
)
def test_of_several_steps_the_one_that_is_meant_is_named(
    tmp_path: Path, note: Callable[[Path], None], name: str, why: str
) -> None:
    steps(tmp_path / "run", "checkpoint-1000", "checkpoint-200", "checkpoint-90")
    note(tmp_path / "run")
    error = refused(tmp_path / "run")
    assert "in 3 folders: checkpoint-1000, checkpoint-200, checkpoint-90" in error
    assert error.endswith(f"Name one, for example {tmp_path / 'run' / name}, {why}.")


def test_the_step_that_is_called_the_last_is_the_last(tmp_path: Path) -> None:
    steps(tmp_path / "run", "blast-9", "checkpoint-1000", "checkpoint_last")
    assert refused(tmp_path / "run").endswith(
        f"Name one, for example {tmp_path / 'run' / 'checkpoint_last'}, the last one."
    )


def test_folders_that_no_number_and_no_note_tells_apart_are_named_alike(tmp_path: Path) -> None:
    steps(tmp_path / "run", "other", "best")
    assert refused(tmp_path / "run").endswith(f"Name one, for example {tmp_path / 'run' / 'best'}.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_notes_place_is_not_waited_for(tmp_path: Path) -> None:
    steps(tmp_path / "run", "step-1", "step-2")
    for name in ("latest", "checkpoint", "vocab.txt"):
        os.mkfifo(tmp_path / "run" / name)
    assert refused(tmp_path / "run").endswith("step-2, the last one.")


@pytest.mark.parametrize("said", [True, False])
def test_of_several_steps_of_tf_the_one_that_checkpoint_names_is_named(tmp_path: Path, said: bool) -> None:
    for step in (200, 1000, 90):
        write_random(tmp_path / str(step), "tf1", seed=step)
        (tmp_path / "run").mkdir(exist_ok=True)
        for path in (tmp_path / str(step)).glob("bert_model.ckpt.*"):
            shutil.copy(path, tmp_path / "run" / path.name.replace("bert_model.ckpt", f"model.ckpt-{step}"))
    shutil.copy(tmp_path / "90" / "bert_config.json", tmp_path / "run")
    if said:
        (tmp_path / "run" / "checkpoint").write_text(
            'model_checkpoint_path: "/old/place/model.ckpt-90"\nall_model_checkpoint_paths: "model.ckpt-1000"\n'
        )
    with pytest.raises(MisfitError) as caught:
        convert(tmp_path / "run", to="torch")
    named = tmp_path / "run" / f"model.ckpt-{90 if said else 1000}"
    assert f"e.g. {named}, {'which checkpoint names' if said else 'the last one'}" in str(caught.value)
    assert convert(named, to="torch", target=tmp_path / "out").written


def test_a_part_of_a_hubs_snapshot_is_answered_with_the_hubs_name(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--junnyu--roformer_x" / "snapshots" / "abcdef01"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    assert "only a part was fetched" in refused(snapshot)
    (snapshot / "config.json").write_text("{}")
    assert "only a part was fetched" in refused(snapshot.parents[1])


# --- whose names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["bert.embeddings.position_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"], "BERT's"),
        (["roberta.embeddings.position_embeddings.weight", "roberta.embeddings.LayerNorm.weight"], "RoBERTa's"),
        (["transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"], "GPT-2's"),
        (["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"], "those of a decoder such as LLaMA"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight"], "T5's"),
        (["state.0.exp_avg", "state.0.exp_avg_sq", "state.0.step"], "the state of an optimizer"),
        (["linear.weight"], "not one is a RoFormer's, nor another's that is known here"),
        (["base_model.model.roformer.encoder.layer.0.attention.self.query.lora_A.weight"], "adapters"),
        (
            [
                "base_model.model.roformer.embeddings.word_embeddings.weight",
                "base_model.model.roformer.encoder.layer.0.attention.self.query.base_layer.weight",
                "base_model.model.roformer.encoder.layer.0.attention.self.query.lora_A.default.weight",
            ],
            "adapters",
        ),
        *(
            (["roformer.embeddings.LayerNorm.weight", f"roformer.encoder.layer.0.output.dense.{ending}"], "quantized")
            for ending in ("SCB", "weight.absmax", "weight.quant_state.bitsandbytes__nf4", "qweight", "weight_packed",
                           "weight_scale")
        ),
        *(
            (["roformer.embeddings.LayerNorm.weight", f"roformer.encoder.layer.0.output.{part}.weight"], "adapters")
            for part in ("dense.oft_R.default", "dense.hada_w1_a", "dense.boft_R", "adapters.a.adapter_up")
        ),
        (["roformer._fsdp_wrapped_module._flat_param"], "parameters that FSDP has made flat"),
        (["decay", "shadow_params.0", "shadow_params.1"], "averages of parameters, which have numbers and no names"),
        ([], "none is there at all"),
    ],
)  # fmt: skip
def test_names_are_looked_at_before_the_configuration(
    tmp_path: Path, names: list[str], words: str, config: bool
) -> None:
    (tmp_path / "it").mkdir()
    save_file({name: np.zeros((2, 2), np.float32) for name in names}, tmp_path / "it" / "model.safetensors")
    if config:
        (tmp_path / "it" / "config.json").write_text('{"model_type": "another", "hidden_size": 2}')
    with pytest.raises(MisfitError) as caught:
        convert(tmp_path / "it", to="paddle")
    assert [problem.kind for problem in caught.value.problems] == ["names"]
    assert words in str(caught.value)
    assert "vocab_size" not in str(caught.value)
    assert [problem.kind for problem in inspect(tmp_path / "it").problems] == ["names"]


def test_a_file_with_one_of_a_roformers_names_is_held_against_the_table(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    save_file(
        {"roformer.embeddings.word_embeddings.weight": np.zeros((2, 2), np.float32)},
        tmp_path / "it" / "model.safetensors",
    )
    kinds = {problem.kind for problem in inspect(tmp_path / "it").problems}
    assert "names" not in kinds


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "vocab.txt"])
@pytest.mark.parametrize(
    ("content", "words", "step"),
    [
        (POINTER, "Git LFS's pointer", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page", "download the file again"),
    ],
)
def test_what_stands_in_the_place_of_a_text_beside_the_weights_is_said(
    tmp_path: Path, name: str, content: bytes, words: str, step: str
) -> None:
    write_random(tmp_path / "it", "torch", max_shard_size=3000 if "index" in name else None)
    (tmp_path / "it" / name).write_bytes(content)
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "it", to="paddle")
    assert words in str(caught.value)
    assert caught.value.next_step is not None
    assert step in caught.value.next_step


@pytest.mark.parametrize(
    ("content", "step"), [(" \n", "Fetch it again"), ("{'a': 1}", "no comments"), ('{"a": 1,}', "no comma after")]
)
def test_a_configuration_that_is_no_json_comes_with_a_next_step(tmp_path: Path, content: str, step: str) -> None:
    write_random(tmp_path / "it", "torch")
    (tmp_path / "it" / "config.json").write_text(content)
    assert step in refused(tmp_path / "it")
