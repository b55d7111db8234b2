"""Files in which the table's rows have other programs' names, written by those programs, are read as theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from file_contents import read_stored, write_layout
from random_checkpoints import read_all, same_bits, write_random
from safetensors.numpy import load_file, save_file

from roformer_convert.converters import convert
from roformer_convert.converters.containers.bundle import tensor_bundle
from roformer_convert.converters.conversion import ConvertOptions
from roformer_convert.converters.errors import ConvertError, MisfitError
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.source.renaming import Parts
from roformer_convert.converters.table.mapping import DIALECTS
from roformer_convert.converters.table.spellings import respell
from roformer_convert.converters.tensors.stored import NewTensor

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "fixtures" / "cases"
#: As people sent them, where they lie beside the checkout.
MORE = ROOT.parent / "shared" / "cases"
#: The farthest of these programs from ours, as a part of the largest logit: RoFormerV2, which bert4keras computes with
#: another epsilon than its weights were trained with.
BOUND, BOUND_V2 = 2e-6, 2e-4

WRITTEN = {
    "03-bert4keras-save-weights": ("tf1", "h5"),
    "03-bert4keras-save-weights-tf": ("tf1", "ckpt"),
    "03-bert4keras-v2": ("tf1", "h5"),
    "03-bert4keras-head-tf": ("tf1", "ckpt"),
    "04-keras-layer-names-ckpt": ("tf1", "ckpt"),
    "26-tf2-object-ckpt": ("tf", "ckpt"),
    "29-bert4torch": ("torch", "bin"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_another_program_wrote_computes_what_it_computed(name: str, tmp_path: Path) -> None:
    encoder = "head" in name
    assert (inspect(CASES / name).dialect, inspect(CASES / name).container) == WRITTEN[name]
    report = convert(
        CASES / name, tmp_path / "torch", to="torch", options=ConvertOptions(parts=Parts(encoder_only=encoder))
    )
    if name.startswith("03-bert4keras-head"):
        assert {"dense/kernel", "dense/bias"} <= set(report.plan.left_out)
    from roformer_convert.models import roformer_torch

    kind = roformer_torch.RoFormerModel if encoder else roformer_torch.RoFormerForMaskedLM
    model = kind.from_pretrained(tmp_path / "torch").eval()
    given = np.load(CASES / name / "inputs.npz")
    with torch.no_grad():
        out = model(torch.tensor(given["input_ids"]), torch.tensor(given["token_type_ids"]))
    want = np.load(CASES / name / "logits.npy")
    found = (out[0] if isinstance(out, tuple) else out).numpy()
    assert found.shape == want.shape
    bound = BOUND_V2 if "v2" in name else BOUND
    assert float(np.abs(found - want).max()) <= bound * float(np.abs(want).max())


@pytest.mark.parametrize("name", [*(name for name in WRITTEN if "bert4keras-" not in name), "30-gamma-beta"])
def test_the_reports_as_they_came_convert(name: str, tmp_path: Path) -> None:
    if not (MORE / name).is_dir():
        pytest.skip("the larger files do not lie beside this checkout")
    for to in DIALECTS:
        assert convert(MORE / name, tmp_path / to, to=to).verified


def test_a_person_s_head_is_no_part_of_the_model_unasked() -> None:
    with pytest.raises(MisfitError, match="dense/kernel"):
        convert(CASES / "03-bert4keras-head-tf", "unwritten", to="torch")
    assert not Path("unwritten").exists()


def test_a_projection_that_only_bert4keras_has_is_said_to_be_one(tmp_path: Path) -> None:
    """RoFormerV2 whose embeddings are narrower than its layers, as bert4keras saves one: Embedding-Mapping/kernel."""
    h5py = pytest.importorskip("h5py")
    shutil.copytree(CASES / "03-bert4keras-v2", tmp_path / "v2")
    settings = json.loads((tmp_path / "v2" / "bert_config.json").read_text())
    (tmp_path / "v2" / "bert_config.json").write_text(json.dumps({**settings, "embedding_size": 10}))
    with h5py.File(tmp_path / "v2" / "best_model.h5", "r+") as file:
        for layer in ("Embedding-Token", "Embedding-Segment"):
            name = file[layer].attrs["weight_names"][0]
            narrow = file[layer][name][:, :10]
            del file[layer][name]
            file[layer][name] = narrow
        mapping = file.create_group("Embedding-Mapping")
        mapping.attrs["weight_names"] = [b"Embedding-Mapping/kernel:0"]
        mapping["Embedding-Mapping/kernel:0"] = np.ones((10, settings["hidden_size"]), np.float32)
        file.attrs["layer_names"] = [str(name).encode() for name in (*file.attrs["layer_names"], "Embedding-Mapping")]
    with pytest.raises(MisfitError, match=r"projects without a bias, and back \(Output-Mapping\)") as caught:
        convert(tmp_path / "v2", tmp_path / "out", to="paddle")
    assert [problem.kind for problem in caught.value.problems] == ["function"]


def under_other_names(own: Path, other: Path, names: Callable[[str], tuple[str, ...]]) -> None:
    """Write a TF1 checkpoint anew, each variable under the names that are made of its own."""
    index = tensor_bundle.index(own / "bert_model.ckpt.index")
    each = [(name, tensor) for tensor in index.tensors for name in names(tensor.name)]
    layout = tensor_bundle.lay_out("bert_model.ckpt", [NewTensor(name, t.dtype, t.shape) for name, t in each])
    other.mkdir()
    write_layout(layout, other, {name: read_stored(tensor) for name, tensor in each}, crc32c.crc32c)
    shutil.copy(own / "bert_config.json", other)


@pytest.mark.parametrize("scope", ["roformer", "bert_1", "model/my.encoder"])
def test_a_tf1_encoder_in_another_scope(scope: str, tmp_path: Path) -> None:
    def scoped(name: str) -> tuple[str, ...]:
        other = name.replace("bert/", f"{scope}/", 1)
        return (other if "/" not in scope or other.startswith("model/") else f"model/{other}",)

    tensors = write_random(tmp_path / "own", "tf1", "masked-lm")
    under_other_names(tmp_path / "own", tmp_path / "other", scoped)
    report = convert(tmp_path / "other", to="torch")
    assert same_bits(read_all(report.target), tensors) == []
    assert any(f"the scope {scope}/, read as" in note for note in report.notes)


def test_moving_averages_are_left_out_in_words(tmp_path: Path) -> None:
    """They are a model too, and often the better one: whoever has them is to know which of the two was converted."""
    tensors = write_random(tmp_path / "own", "tf1", "masked-lm")
    under_other_names(tmp_path / "own", tmp_path / "other", lambda name: (name, f"{name}/ExponentialMovingAverage"))
    report = convert(tmp_path / "other", to="torch")
    assert same_bits(read_all(report.target), tensors) == []
    count = len(tensors)
    assert f"left out: bert/*/ExponentialMovingAverage ({count - 5}), cls/predictions/*" in "\n".join(report.notes)
    assert any(f"the moving averages of {count} of them left out; to have those" in note for note in report.notes)


def test_slots_and_powers_are_left_out_and_named() -> None:
    report = convert(CASES / "04-keras-layer-names-ckpt", to="torch", options=ConvertOptions(dry_run=True))
    embedding = "Embedding-Token/embeddings"
    slots = {f"{embedding}/Adam", f"{embedding}/Adam_1", f"training/Adam/{embedding}/m", f"Adam/v/{embedding}"}
    assert set(report.plan.left_out) == {*slots, "training/Adam/iterations"}


@pytest.mark.parametrize("prefix", ["", "model.", "bert."])
@pytest.mark.parametrize("old", [False, True])
def test_bert4torch_in_a_class_of_somebody_s_own_and_of_older_releases(prefix: str, old: bool, tmp_path: Path) -> None:
    shutil.copytree(CASES / "29-bert4torch", tmp_path / "source")
    want = read_all(tmp_path / "source")
    state = torch.load(tmp_path / "source" / "pytorch_model.bin")
    names = {"attnLayerNorm": "layerNorm1", "ffnLayerNorm": "layerNorm2"} if old else {}

    def respelled(name: str) -> str:
        for new, former in names.items():
            name = name.replace(new, former)
        return prefix + name

    torch.save({respelled(name): tensor for name, tensor in state.items()}, tmp_path / "source" / "pytorch_model.bin")
    (tmp_path / "source" / "config.json").rename(tmp_path / "source" / "bert4torch_config.json")
    assert same_bits(read_all(tmp_path / "source"), want) == []
    assert inspect(tmp_path / "source").config_file == "bert4torch_config.json"


def test_a_layer_with_other_dense_layers_in_it_is_not_guessed() -> None:
    attention = "Transformer-0-MultiHeadSelfAttention"
    whole = [f"{attention}/dense{number}/kernel" for number in ("", "_1", "_2", "_3")]
    assert [each.name.rsplit("/", 2)[-2] for each in respell(whole)[0].values()] == ["query", "key", "value", "dense"]
    assert respell([*whole, f"{attention}/dense_4/kernel"]) == ({}, ())
    assert respell(whole[1:]) == ({}, ())


def test_numbers_of_dense_layers_count_and_not_the_order_of_names() -> None:
    names = [f"Transformer-3-MultiHeadSelfAttention/dense_{number}/kernel" for number in (10, 11, 8, 9)]
    assert [respell(names)[0][name].name.split("/")[-2] for name in names] == ["value", "dense", "query", "key"]


def test_long_names_cost_nothing() -> None:
    names = ["x" * 10_000_000, "a/" * 1_000_000, "encoderLayer." * 100_000]
    assert respell(names) == ({}, ())


@pytest.mark.parametrize("variant", ["masked-lm-pooler", "base"])
def test_norms_called_gamma_and_beta(variant: str, tmp_path: Path) -> None:
    want = write_random(tmp_path / "ckpt", "torch", variant, container="safetensors")
    path = tmp_path / "ckpt" / "model.safetensors"
    leaves = {"weight": "gamma", "bias": "beta"}

    def old(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        return f"{module}.{leaves[leaf]}" if module.endswith("LayerNorm") else name

    renamed = {old(name): array for name, array in load_file(path).items()}
    assert sum("gamma" in name for name in renamed) > 2
    save_file(renamed, path)
    assert same_bits(read_all(tmp_path / "ckpt"), want) == []


def bert(path: Path, **settings: Any) -> dict[str, Any]:
    """Write a BERT of transformers', and return its tensors."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=36, **settings
    )
    model = transformers.BertForPreTraining(config)
    model.save_pretrained(path)
    tensors: dict[str, Any] = model.state_dict()
    return tensors


def test_a_bert_begins_a_roformer_that_transformers_loads_whole(tmp_path: Path) -> None:
    from transformers import RoFormerForMaskedLM

    source = bert(tmp_path / "bert")
    with pytest.raises(MisfitError, match="--from bert") as caught:
        convert(tmp_path / "bert", tmp_path / "no", to="torch")
    assert {problem.kind for problem in caught.value.problems} <= {"function", "unknown"}
    assert "bert.embeddings.position_embeddings.weight" in [problem.name for problem in caught.value.problems]
    assert len(caught.value.problems) < 5
    report = convert(tmp_path / "bert", tmp_path / "out", to="torch", options=ConvertOptions(parts=Parts(bert=True)))
    assert any("must be trained" in note for note in report.notes)
    assert {name.split(".")[2] for name in report.plan.left_out if "embeddings" in name} == {"position_embeddings"}
    loaded: Any = RoFormerForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    model, said = loaded
    assert said["missing_keys"] == set()
    assert model.config.model_type == "roformer"
    assert not hasattr(model.config, "position_embedding_type")
    for name, tensor in model.state_dict().items():
        if "embed_positions" not in name:
            assert torch.equal(tensor, source[name.replace("roformer.", "bert.")]), name


@pytest.mark.parametrize("own", ["ernie", "roberta", "module.ernie"])
def test_a_bert_under_another_name_begins_a_roformer_too(tmp_path: Path, own: str) -> None:
    source = bert(tmp_path / "bert")
    arrays = load_file(tmp_path / "bert" / "model.safetensors")
    named = {name.replace("bert.", f"{own}.") if name.startswith("bert.") else name: a for name, a in arrays.items()}
    if own.startswith("module."):
        named = {name if name.startswith("module.") else f"module.{name}": array for name, array in named.items()}
    save_file(named, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    convert(tmp_path / "bert", tmp_path / "out", to="torch", options=ConvertOptions(parts=Parts(bert=True)))
    made = load_file(tmp_path / "out" / "model.safetensors")
    taken = [name for name in made if "embed_positions" not in name]
    assert len(taken) > 40
    for name in taken:
        assert np.array_equal(made[name], source[name.replace("roformer.", "bert.")].numpy()), name


def test_what_is_no_bert_begins_nothing(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch", "base", container="safetensors")
    with pytest.raises(ConvertError, match="it is no BERT"):
        convert(tmp_path / "ckpt", tmp_path / "out", to="torch", options=ConvertOptions(parts=Parts(bert=True)))
    assert not (tmp_path / "out").exists()
