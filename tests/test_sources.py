"""What may be named as the source, what travels with it, and what the report says of it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_shards import write_keras_shards
from random_checkpoints import (
    CONFIG,
    CONTAINERS,
    DIRECTIONS,
    add_rotary_table,
    file_bytes,
    read_all,
    rotary_table,
    same_bits,
    write_random,
)

import roformer_convert
from roformer_convert.converters import ConvertError, ConvertOptions, MisfitError, Watcher, convert, open_checkpoint
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.converters.target.plan import Plan

PAIRS = pytest.mark.parametrize(("source", "target"), DIRECTIONS, ids=[f"{a}2{b}" for a, b in DIRECTIONS])


# --- what is named as the source ------------------------------------------------------------------------------------


def without_config(directory: Path) -> Path:
    """Move the configuration away; return where it is."""
    (found,) = directory.glob("*config.json")
    return Path(shutil.move(found, directory.parent / "elsewhere.json"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_weight_file_with_its_configuration(tmp_path: Path, dialect: Dialect) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect)
    config = without_config(tmp_path / "ckpt")
    weights = next(path for path in (tmp_path / "ckpt").iterdir() if ".data-" not in path.name)
    target: Dialect = "torch" if dialect != "torch" else "paddle"
    report = convert(weights, to=target, options=ConvertOptions(config=config))
    # beside the file, by its name
    assert report.target == tmp_path / "ckpt" / f"{weights.name.split('.')[0]}-{target}"
    assert same_bits(read_all(report.target), tensors) == []
    with open_checkpoint(report.target) as opened:
        assert opened.config == CONFIG


@pytest.mark.parametrize(("dialect", "container"), [*CONTAINERS, ("tf", "h5")])
def test_a_weight_file_of_any_name_is_known_by_its_bytes(tmp_path: Path, dialect: Dialect, container: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, container=container)
    config = without_config(tmp_path / "ckpt")
    (weights,) = (tmp_path / "ckpt").iterdir()
    renamed = weights.rename(tmp_path / "epoch=3.ckpt")
    convert(renamed, tmp_path / "out", to="tf1", options=ConvertOptions(config=config))
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_a_tf1_prefix_and_its_index_name_one_checkpoint(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1")
    for name in ("bert_model.ckpt", "bert_model.ckpt.index"):
        convert(tmp_path / "ckpt" / name, tmp_path / f"{name}-out", to="torch")
        assert same_bits(read_all(tmp_path / f"{name}-out"), tensors) == []


def test_a_tf1_checkpoint_may_have_any_prefix(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "tf1")
    for path in (tmp_path / "ckpt").glob("bert_model.ckpt.*"):
        path.rename(path.with_name(path.name.replace("bert_model.ckpt", "model.ckpt-1000")))
    convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(tmp_path / "ckpt-paddle"), tensors) == []


@pytest.mark.parametrize(("dialect", "container"), CONTAINERS)
def test_a_shard_index_names_its_checkpoint(tmp_path: Path, dialect: Dialect, container: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, container=container, max_shard_size=3000)
    (index,) = (tmp_path / "ckpt").glob("*.index.json")
    convert(index, tmp_path / "out", to="tf1")
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


def test_shards_of_hdf5_are_read(tmp_path: Path) -> None:
    tensors = write_keras_shards(tmp_path / "ckpt")
    index = tmp_path / "ckpt" / "tf_model.h5.index.json"
    for source in (tmp_path / "ckpt", index):
        report = convert(source, tmp_path / "out", to="torch", options=ConvertOptions(force=True))
        assert same_bits(read_all(report.target), tensors) == []
    listed = json.loads(index.read_text())["weight_map"]
    first = next(name for name, file in listed.items() if "00001" in file)
    index.write_text(json.dumps({"weight_map": {**listed, first: "tf_model-00002-of-00002.h5"}}))
    with pytest.raises(MisfitError, match="the index says tf_model-00002"):
        convert(tmp_path / "ckpt", tmp_path / "again", to="torch")


@pytest.mark.parametrize(("dialect", "container"), CONTAINERS)
def test_shards_without_their_index_are_no_model(tmp_path: Path, dialect: Dialect, container: str) -> None:
    """The encoder in one of them is not converted as if it were the whole, whether the others were fetched or not."""
    write_random(tmp_path / "ckpt", dialect, "masked-lm", container=container, max_shard_size=3000)
    (index,) = (tmp_path / "ckpt").glob("*.index.json")
    index.unlink()
    first, *others = sorted(path for path in (tmp_path / "ckpt").iterdir() if "-of-" in path.name)
    assert others
    with pytest.raises(ConvertError, match="one shard of a model's weights"):
        inspect(first)
    for missing in (None, *others):
        if missing is not None:
            missing.unlink()
        with pytest.raises(MisfitError, match="These are shards, and the"):
            convert(tmp_path / "ckpt", tmp_path / "out", to="tf1")


def test_the_dialect_of_safetensors_is_known_by_its_names(tmp_path: Path) -> None:
    for dialect in ("paddle", "torch"):
        for shape in ("everything", "base"):
            write_random(tmp_path / f"{dialect}-{shape}", dialect, shape, container="safetensors")
            with open_checkpoint(tmp_path / f"{dialect}-{shape}") as opened:
                assert opened.dialect == dialect
                assert opened.base == (shape == "base")


def test_a_file_without_configuration_and_rotary_table_does_not_decide_the_heads(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    without_config(tmp_path / "ckpt")
    with pytest.raises(MisfitError, match="num_attention_heads") as caught:
        convert(tmp_path / "ckpt" / "model_state.pdparams", to="torch")
    assert "--config" in str(caught.value)
    assert {problem.name for problem in caught.value.problems} == {"num_attention_heads"}


@pytest.mark.parametrize("dialect", ["torch", "tf"])
@pytest.mark.parametrize("shape", ["everything", "base-pooler"])
def test_a_rotary_table_in_the_file_decides_heads_and_positions(tmp_path: Path, dialect: Dialect, shape: str) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect, shape)
    add_rotary_table(tmp_path / "ckpt", dialect, base=shape.startswith("base"))
    without_config(tmp_path / "ckpt")
    report = convert(tmp_path / "ckpt", to="paddle")
    assert same_bits(read_all(tmp_path / "ckpt-paddle"), tensors) == []
    with open_checkpoint(tmp_path / "ckpt-paddle") as opened:
        assert (opened.config.num_attention_heads, opened.config.max_position_embeddings) == (4, 47)
    notes = " ".join(report.notes)
    for said in (
        "num_attention_heads = 4, from the tensors' shapes",
        "hidden_size = 24",
        "embed_positions is left out",
    ):
        assert said in notes


@pytest.mark.parametrize(
    ("dialect", "own", "name"),
    [("torch", "config.json", "bert_config.json"), ("tf1", "bert_config.json", "config.json")],
)
def test_another_dialects_configuration_is_named_and_not_read(
    tmp_path: Path, dialect: Dialect, own: str, name: str
) -> None:
    tensors = write_random(tmp_path / "ckpt", dialect)
    path = (tmp_path / "ckpt" / own).rename(tmp_path / "ckpt" / name)
    with pytest.raises(MisfitError, match="num_attention_heads") as caught:
        convert(tmp_path / "ckpt", to="paddle")
    called = "config.json or bert4torch_config.json" if dialect == "torch" else own
    said = f"{name} was not read, for {dialect}'s is called {called}: "
    said += f"if it is this model's, name it with --config {path}"
    assert str(caught.value).endswith(said)
    if dialect == "torch":  # a file that carries its rotary table needs no configuration
        add_rotary_table(tmp_path / "ckpt", dialect)
        assert said in convert(tmp_path / "ckpt", tmp_path / "guessed", to="paddle").notes
    report = convert(tmp_path / "ckpt", to="paddle", options=ConvertOptions(config=path))
    assert same_bits(read_all(report.target), tensors) == []
    assert not [note for note in report.notes if "was not read" in note]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_rounded_rotary_table_is_accepted_and_not_copied(tmp_path: Path, dtype: str) -> None:
    tensors = write_random(tmp_path / "ckpt", "torch", dtype=dtype)
    table = rotary_table().astype(dtype)
    add_rotary_table(tmp_path / "ckpt", "torch", table=np.nextafter(table, 0, dtype=dtype), dtype=dtype)
    convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=ConvertOptions(container="bin"))
    assert same_bits(read_all(tmp_path / "out"), tensors) == []
    with open_checkpoint(tmp_path / "ckpt") as before, open_checkpoint(tmp_path / "out") as after:
        assert before.derived == ("roformer.encoder.embed_positions.weight",)
        assert after.derived == before.derived
        (stored,) = (each for each in after.found.index.tensors if each.name in after.derived)
        got = np.empty(stored.shape, stored.dtype)
        stored.data.read_into(after.files, 0, got.reshape(-1).view(np.uint8).data)
    assert got.dtype == dtype
    assert (got == rotary_table().astype("float32").astype(dtype)).all()


# --- what travels ---------------------------------------------------------------------------------------------------

VOCABULARY = "".join(f"字{number}\n" for number in range(CONFIG.vocab_size))
BESIDE = {
    "vocab.txt": VOCABULARY,
    "tokenizer_config.json": '{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}',
    "special_tokens_map.json": "{}\n",
    "added_tokens.json": "{}",
    "tokenizer.json": '{"version": "1.0"}\r\n',
    "generation_config.json": "{}",
    "LICENSE": "free",
}


@PAIRS
def test_tokenizer_files_travel_as_they_are(tmp_path: Path, source: Dialect, target: Dialect) -> None:
    write_random(tmp_path / "ckpt", source)
    for name, text in BESIDE.items():
        (tmp_path / "ckpt" / name).write_bytes(text.encode())
    report = convert(tmp_path / "ckpt", to=target)
    for name, text in BESIDE.items():
        assert (tmp_path / f"ckpt-{target}" / name).read_bytes() == text.encode()
    assert {path.name for path in report.plan.companions} == BESIDE.keys()
    assert report.left_behind == ()


def test_files_that_do_not_travel_are_reported(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", max_shard_size=3000)
    for name in ("README.md", "training_args.bin", ".gitattributes"):
        (tmp_path / "ckpt" / name).write_text("x")
    report = convert(tmp_path / "ckpt", to="paddle")
    assert report.left_behind == ("README.md", "training_args.bin")
    assert "not copied: README.md, training_args.bin" in report.notes


@pytest.mark.parametrize("container", ["pdparams", "bin"])
def test_entries_that_are_no_tensors_are_reported(tmp_path: Path, container: str) -> None:
    torch = pytest.importorskip("torch")
    kind: Dialect = "paddle" if container == "pdparams" else "torch"
    tensors = write_random(tmp_path / "ckpt", kind, container=container)
    more = {"epoch": 5, "note": "hello", "empty": {}}
    if container == "bin":
        path = tmp_path / "ckpt" / "pytorch_model.bin"
        torch.save({**torch.load(path), **more}, path)
    else:
        path = tmp_path / "ckpt" / "model_state.pdparams"
        path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), **more}, 4))
    report = convert(tmp_path / "ckpt", to="tf1")
    assert "left out because they are not tensors: epoch, note, empty" in report.notes
    assert same_bits(read_all(report.target), tensors) == []


def test_a_note_beside_safetensors_is_reported_and_the_formats_own_is_not(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_random(tmp_path / "ckpt", "torch")
    path = tmp_path / "ckpt" / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "epoch": "5"})
    assert "left out because they are not tensors: epoch" in convert(tmp_path / "ckpt", to="tf").notes
    assert not [note for note in convert(tmp_path / "ckpt-tf", to="paddle").notes if "no tensors" in note]


def test_many_entries_that_are_no_tensors_are_counted(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    path = tmp_path / "ckpt" / "model_state.pdparams"
    more = {f"k{number}": number for number in range(20)}
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), **more}, 4))
    notes = convert(tmp_path / "ckpt", to="tf1").notes
    assert "left out because they are not tensors: k0, k1, k2, k3, k4, k5, k6, k7 and 12 more" in notes


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_of_old_torch_is_known_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    tensors = write_random(tmp_path / "ckpt", "torch", container="bin")
    path = tmp_path / "ckpt" / "pytorch_model.bin"
    torch.save(torch.load(path), path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    path.rename(path.with_name("weights.ckpt"))
    convert(
        path.with_name("weights.ckpt"),
        tmp_path / "out",
        to="tf1",
        options=ConvertOptions(config=tmp_path / "ckpt" / "config.json"),
    )
    assert same_bits(read_all(tmp_path / "out"), tensors) == []


@pytest.mark.parametrize("rows", [CONFIG.vocab_size - 1, CONFIG.vocab_size + 1, 0])
def test_a_vocabulary_of_another_length_is_refused(tmp_path: Path, rows: int) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / "vocab.txt").write_text("字\n" * rows)
    with pytest.raises(MisfitError, match=rf"got {rows} rows, want vocab_size = 61"):
        convert(tmp_path / "ckpt", to="torch")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(any_vocab=True))
    assert (tmp_path / "ckpt-torch" / "vocab.txt").read_text() == "字\n" * rows


def test_a_vocabulary_may_lack_its_last_line_break(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    (tmp_path / "ckpt" / "vocab.txt").write_text(VOCABULARY.rstrip("\n"))
    convert(tmp_path / "ckpt", to="torch")


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_front_door_converts(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle")
    roformer_convert.convert(tmp_path / "ckpt", to="torch")
    assert same_bits(read_all(tmp_path / "ckpt-torch"), tensors) == []


def test_the_report_says_what_was_done(tmp_path: Path) -> None:
    tensors = write_random(tmp_path / "ckpt", "paddle")
    data = convert(tmp_path / "ckpt", to="torch").as_dict()
    json.dumps(data)
    assert data["source"] == {"path": str(tmp_path / "ckpt"), "dialect": "paddle", "container": "pdparams"}
    assert data["target"] == {
        "path": str(tmp_path / "ckpt-torch"),
        "dialect": "torch",
        "container": "safetensors",
        "files": ["model.safetensors"],
    }
    assert data["tensors"] == len(tensors)
    assert data["model_class"] == "RoFormerForPretraining"
    assert data["tied_in_source"] == ["cls.predictions.decoder_weight"]
    kernels = [name for name in tensors if name.endswith("weight") and "norm" not in name]
    kernels = [name for name in kernels if name not in ("embeddings.word.weight", "embeddings.segment.weight")]
    transposed = {step["canonical"] for step in data["plan"] if step["transposed"]}
    assert transposed == set(kernels)
    assert data["transposed"] == len(kernels)
    # cls.predictions.decoder.bias is written a second time for PaddleNLP's importer, and the rotary table is computed
    more = tensors["mlm.bias"].nbytes + 4 * CONFIG.max_position_embeddings * CONFIG.head_size
    assert data["bytes"] == sum(array.nbytes for array in tensors.values()) + more
    assert data["computed"] == ["roformer.encoder.embed_positions.weight"]
    assert data["written"]
    assert data["verified"]
    assert data["cast"] == 0
    cast = convert(tmp_path / "ckpt", tmp_path / "half", to="torch", options=ConvertOptions(dtype="float16")).as_dict()
    assert cast["cast"] == cast["tensors"] == len(tensors)


def test_what_the_target_does_not_know_is_kept_and_reported(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1")
    notes = convert(tmp_path / "ckpt", to="torch").notes
    assert sum("the pooler and the sentence-order head are written under BERT's" in note for note in notes) == 1
    assert not [note for note in convert(tmp_path / "ckpt-torch", to="tf1").notes if "under BERT's names" in note]
    write_random(tmp_path / "plain", "torch", "masked-lm")
    assert any("has a pooler" in note for note in convert(tmp_path / "plain", to="paddle").notes)


def test_a_dry_run_plans_everything_and_writes_nothing(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    before = file_bytes(tmp_path)
    planned = convert(tmp_path / "ckpt", to="torch", options=ConvertOptions(dry_run=True))
    assert file_bytes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]
    assert not planned.written
    assert not planned.verified
    done = convert(tmp_path / "ckpt", to="torch")
    assert planned.as_dict()["plan"] == done.as_dict()["plan"]


def test_verification_can_be_left_out_and_writes_the_same(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1")
    for target in ("paddle", "torch", "tf"):
        one = convert(tmp_path / "ckpt", tmp_path / f"{target}1", to=target)
        other = convert(
            tmp_path / "ckpt", tmp_path / f"{target}2", to=target, options=ConvertOptions(verify=False, fsync=True)
        )
        assert (one.verified, other.verified) == (True, False)
        written = [file_bytes(tmp_path / f"{target}{number}", but="conversion.json") for number in (1, 2)]
        assert written[0] == written[1]


def test_progress_tells_every_byte_once_written_and_once_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    told: list[Any] = []
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Listener(Watcher):
        def start(self, plan: Plan) -> None:
            told.append(plan)

        def advance(self, nbytes: int) -> None:
            told.append(nbytes)

        def finish(self, made: Path, target: Path) -> None:
            assert (made / "config.json").exists()
            assert (target, target.exists()) == (tmp_path / "ckpt-torch", False)
            clock[0] += 1000.0
            told.append("finished")

    report = convert(tmp_path / "ckpt", to="torch", watcher=Listener())
    assert (told[0], told[-1]) == (report.plan, "finished")
    assert sum(told[1:-1]) == 2 * report.plan.nbytes
    assert report.seconds == 0.0  # what is done with the result is no part of it


def test_the_source_is_never_touched(tmp_path: Path) -> None:
    """A read-only source and links to it are fine, and no file of it changes, not even its times."""
    for dialect in DIALECTS:
        source = tmp_path / f"{dialect}-source"
        tensors = write_random(source, dialect)
        link = tmp_path / f"{dialect}-link"
        link.symlink_to(source, target_is_directory=True)
        for path in source.iterdir():
            path.chmod(0o444)
        source.chmod(0o555)
        before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in source.iterdir()}
        stamp = source.stat().st_mtime_ns
        target: Dialect = "torch" if dialect != "torch" else "tf"
        convert(link, to=target)
        assert same_bits(read_all(tmp_path / f"{dialect}-link-{target}"), tensors) == []
        assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in source.iterdir()} == before
        assert source.stat().st_mtime_ns == stamp
        source.chmod(0o755)


def test_a_directory_of_links_to_its_files_is_read(tmp_path: Path) -> None:
    """As the Hugging Face cache lays a snapshot out."""
    tensors = write_random(tmp_path / "blobs", "torch", max_shard_size=4000)
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(os.path.relpath(path, tmp_path / "snapshot"))
    convert(tmp_path / "snapshot", to="paddle")
    assert same_bits(read_all(tmp_path / "snapshot-paddle"), tensors) == []
    assert not any(path.is_symlink() for path in (tmp_path / "snapshot-paddle").iterdir())


# --- links ----------------------------------------------------------------------------------------------------------


def test_a_companion_that_leads_out_is_named_and_copied_only_where_links_are_followed(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "secret").write_text("字\n" * CONFIG.vocab_size)
    (tmp_path / "ckpt" / "vocab.txt").symlink_to("../secret")
    (tmp_path / "ckpt" / "terms").write_text("inside")
    (tmp_path / "ckpt" / "LICENSE").symlink_to("terms")
    report = convert(tmp_path / "ckpt", to="paddle")
    said = f"vocab.txt is a link out of the directory, to {tmp_path / 'secret'}: not copied; --follow-links copies it"
    assert said in report.notes
    assert said in inspect(tmp_path / "ckpt").notes
    assert not (report.target / "vocab.txt").exists()
    assert (report.target / "LICENSE").read_text() == "inside"
    followed = convert(tmp_path / "ckpt", tmp_path / "out", to="paddle", options=ConvertOptions(follow_links=True))
    assert said not in followed.notes
    assert (followed.target / "vocab.txt").read_text() == (tmp_path / "secret").read_text()
    assert not (followed.target / "vocab.txt").is_symlink()
    (tmp_path / "secret").write_text("字\n")  # now the vocabulary counts
    with pytest.raises(MisfitError, match="got 1 rows"):
        convert(tmp_path / "ckpt", tmp_path / "no", to="paddle", options=ConvertOptions(follow_links=True))


def test_a_directory_that_is_a_link_itself_is_its_own_root(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_text("字\n" * CONFIG.vocab_size)
    (tmp_path / "name").symlink_to("ckpt")
    assert (convert(tmp_path / "name", to="paddle").target / "vocab.txt").is_file()


def test_the_links_of_a_hubs_snapshot_stay_in_its_cache(tmp_path: Path) -> None:
    """Those of one model lead to its own blobs; another model's are out of it."""
    mine = tmp_path / "models--a--b"
    write_random(tmp_path / "files", "torch")
    (tmp_path / "files" / "vocab.txt").write_text("字\n" * CONFIG.vocab_size)
    (mine / "blobs").mkdir(parents=True)
    (mine / "snapshots" / "0123").mkdir(parents=True)
    for path in (tmp_path / "files").iterdir():
        shutil.copy(path, mine / "blobs" / f"{path.name}-blob")
        (mine / "snapshots" / "0123" / path.name).symlink_to(f"../../blobs/{path.name}-blob")
    report = convert(mine, tmp_path / "out", to="paddle")
    assert (report.target / "vocab.txt").is_file()
    (mine / "snapshots" / "0123" / "vocab.txt").unlink()
    (mine / "snapshots" / "0123" / "vocab.txt").symlink_to("../../../files/vocab.txt")
    report = convert(mine, tmp_path / "out2", to="paddle")
    assert not (report.target / "vocab.txt").exists()
    assert any("vocab.txt is a link out of the directory" in note for note in report.notes)


@pytest.mark.parametrize("names", [("tp00", "tp01"), ("tp00_pp00", "tp00_pp01"), ("pp01",)])
def test_what_ranks_hold_of_a_model_of_paddlenlp_is_told_with_what_puts_it_together(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    write_random(tmp_path / "ckpt", "paddle")
    parts = [tmp_path / "ckpt" / f"model_state.{name}.pdparams" for name in names]
    for part in parts:
        shutil.copy(tmp_path / "ckpt" / "model_state.pdparams", part)
    with open_checkpoint(tmp_path / "ckpt"):  # what was put together lies beside them
        pass
    (tmp_path / "ckpt" / "model_state.pdparams").unlink()
    for source in (tmp_path / "ckpt", parts[-1]):
        with pytest.raises(MisfitError, match="merge_tensor_parallel=True") as caught:
            open_checkpoint(source)
        assert {problem.name for problem in caught.value.problems} <= {part.name for part in parts}
