"""What a misfit is told as, at the edges: each problem's words, and the next step that the problems together call for.

Tensors are left out, renamed and misshapen in the index of one checkpoint; no file is written anew.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from golden_names import stored_in
from peer_folders import PEERS
from random_checkpoints import CONFIG, write_random
from safetensors.numpy import load_file

from roformer_convert.converters.errors import FormatError, Problem
from roformer_convert.converters.source import fitting, weight_set
from roformer_convert.converters.source.fitting import Fit, fit
from roformer_convert.converters.source.identification import Found, identify
from roformer_convert.converters.table.config_reading import CONFIGURATION
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.converters.table.statements import ANOTHERS
from roformer_convert.converters.tensors.stored import OpenFiles, StoredTensor

NOTHING_GUESSED = "Nothing is guessed"
TWO_MODELS = "The configuration and the weights are of two models"
FEW = "Few of the names"
TIE, TIED_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
WORDS = "roformer.embeddings.word_embeddings.weight"
TABLE = "roformer.encoder.embed_positions.weight"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """A whole model in each dialect, and a base model, with three layers."""
    root = tmp_path_factory.mktemp("found")
    for dialect in DIALECTS:
        write_random(root / dialect, dialect)
    write_random(root / "base", "torch", "base")
    write_random(root / "masked-lm", "torch", "masked-lm")
    write_random(root / "no-projection", "torch", "no-projection")
    return {path.name: identify(path) for path in root.iterdir()}


def without(found: Found, dropped: Callable[[str], bool], more: Iterable[StoredTensor] = (), **others: Any) -> Fit:
    """Fit what would be found if the file had other tensors: its dialect, class and configuration are found anew."""
    kept = [tensor for tensor in found.index.tensors if not dropped(tensor.name)]
    index = replace(found.index, tensors=(*kept, *more), **others)
    with patch.object(weight_set, "index", lambda _: index):
        return fit(identify(found.path), any_vocab=True)


def called(found: Found, *names: str) -> list[StoredTensor]:
    """A tensor of the checkpoint, which has the shape (24,), under other names."""
    vector = next(tensor for tensor in found.index.tensors if tensor.shape == (24,))
    return [replace(vector, name=name) for name in names]


def one(found: Found, name: str) -> StoredTensor:
    """A tensor of the checkpoint."""
    (tensor,) = (tensor for tensor in found.index.tensors if tensor.name == name)
    return tensor


def told(result: Fit) -> list[tuple[str, str, str]]:
    return [(problem.kind, problem.name, problem.detail) for problem in result.problems]


# --- what it should have been ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "model"), [("torch", "Pretraining"), ("masked-lm", "MaskedLM"), ("base", "Model"), ("tf1", "Pretraining")]
)
def test_the_class_is_that_of_the_heads_that_are_there(found: dict[str, Found], which: str, model: str) -> None:
    dialect = found[which].dialect
    gone = stored_in("layers.1.attention.key.bias", dialect, base=which == "base").name
    result = without(found[which], lambda name: name == gone)
    prefix = "RoFormerFor" if model != "Model" else "RoFormer"
    assert result.against == f"{prefix}{model} in {dialect}'s spelling"
    assert told(result) == [("missing", gone, "")]


@pytest.mark.parametrize(
    ("names", "kept", "what"),
    [
        (["base_model.encoder.lora_A.weight"], True, "adapters (LoRA and the like), such as "),
        (["bert.x"], False, "BERT's"),
        (["bert.x", "bert.y"], False, "BERT's"),
        ([], False, "none is there at all"),
    ],
)
def test_whose_the_tensors_are_is_one_problem(found: dict[str, Found], names: list[str], kept: bool, what: str) -> None:
    source = found["torch"]
    result = without(source, lambda _: not kept, called(source, *names))
    ((kind, count, words),) = told(result)
    number = len(source.index.tensors) * kept + len(names)
    assert (kind, count) == ("names", f"{number} tensor{'s' if number != 1 else ''}")
    assert words.startswith(what)
    assert (result.checkpoint, result.against, result.where) == (None, "a RoFormer", source.entry)
    assert result.next_step is not None


def test_a_file_of_unread_tensors_alone_is_no_strangers(found: dict[str, Found]) -> None:
    source = found["torch"]
    result = without(source, lambda _: True, metadata={WORDS: "a sparse tensor"}, unread=frozenset({WORDS}))
    assert result.against != "a RoFormer"
    assert ("unread", WORDS, "the file has a sparse tensor") in told(result)


def test_what_identifying_left_undecided_is_told_before_whose_the_tensors_are(found: dict[str, Found]) -> None:
    source = replace(found["torch"], problems=(Problem("names", "ema.", "as whole as model."),), next_step="Name one.")
    strange = replace(source.index, tensors=tuple(called(source, "bert.x")))
    for index in (source.index, strange):
        result = fit(replace(source, index=index), any_vocab=True)
        assert told(result) == [("names", "ema.", "as whole as model.")]
        assert (result.against, result.next_step, result.where) == ("one state dict", "Name one.", source.entry)


def test_a_class_that_nothing_decides_is_told_before_all_else(found: dict[str, Found]) -> None:
    choice = replace(found["torch"].choice, problem="two fit", step="Name it.")
    result = fit(replace(found["torch"], choice=choice), any_vocab=True)
    assert told(result) == [("class", "the model's class", "two fit")]
    assert (result.against, result.next_step, result.where) == ("one class", "Name it.", found["torch"].path)


def test_what_was_assumed_of_the_class_is_the_first_note(found: dict[str, Found]) -> None:
    source = found["torch"]
    assert fit(source, any_vocab=True).require().source_config.notes == ()
    config = replace(source.config, source=replace(source.config.source, notes=("later",)))  # type: ignore[type-var]
    noted = replace(source, choice=replace(source.choice, note="assumed"), config=config)
    assert fit(noted, any_vocab=True).require().source_config.notes == ("assumed", "later")


# --- layers ---------------------------------------------------------------------------------------------------------


def layers(directory: Path, said: int, shown: int, of_the_last: int) -> Fit:
    """Fit a torch model of ``shown`` layers, ``of_the_last`` tensors in the last, whose configuration says ``said``."""
    write_random(directory, "torch")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": said}))
    index = identify(directory)
    last = [tensor.name for tensor in index.index.tensors if f".layer.{shown - 1}." in tensor.name]
    gone = {*last[of_the_last:]}
    return without(index, lambda name: name in gone or any(f".layer.{layer}." in name for layer in range(shown, 3)))


@pytest.mark.parametrize(("said", "shown"), [(2, 1), (1, 2), (1, 3), (4, 3)])
def test_another_number_of_whole_layers_is_one_problem(tmp_path: Path, said: int, shown: int) -> None:
    detail = f"{said} in config.json, the tensors show {shown} layer{'s' if shown > 1 else ''}"
    result = layers(tmp_path / "ckpt", said, shown, 16)
    assert told(result) == [("configuration", "num_hidden_layers", detail)]
    assert result.next_step is not None
    assert result.next_step.startswith(TWO_MODELS)
    assert result.checkpoint is not None
    assert result.checkpoint.config.num_hidden_layers == shown


@pytest.mark.parametrize(("there", "counted"), [(1, False), (7, False), (8, True), (15, True)])
def test_a_layer_counts_where_half_of_it_is_there(tmp_path: Path, there: int, counted: bool) -> None:
    kinds = [kind for kind, _, _ in told(layers(tmp_path / "ckpt", 2, 3, there))]
    assert kinds == (["configuration"] + ["missing"] * (16 - there) if counted else ["unknown"] * there)


def test_where_no_layer_is_there_each_is_missing(found: dict[str, Found]) -> None:
    result = without(found["torch"], lambda name: ".layer." in name)
    assert [kind for kind, _, _ in told(result)] == ["missing"] * 16 * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("roformer.encoder.layer.3.output.dense.bias", ": looks like a layer beyond num_hidden_layers = 3"),
        ("roformer.encoder.layer.2.output.more.bias", ""),
        ("roformer.encoder.layer.9.crossattention.bias", ": looks like a decoder's cross-attention"),
    ],
)
def test_an_unknown_tensor_of_a_layer_is_told_with_what_it_looks_like(
    found: dict[str, Found], name: str, words: str
) -> None:
    result = without(found["torch"], lambda _: False, called(found["torch"], name))
    assert told(result) == [("unknown", name, f"shape (24,){words}")]


def test_a_projection_between_equal_sizes_is_not_wanted(found: dict[str, Found]) -> None:
    source, name = found["no-projection"], "roformer.embeddings_project.bias"
    assert without(source, lambda _: False).problems == ()
    result = without(source, lambda _: False, called(source, name))
    assert told(result) == [("unwanted", name, "embedding_size equals hidden_size = 24 in config.json: no projection")]
    assert result.checkpoint is not None
    assert result.checkpoint.bindings["embeddings.project.bias"].transposed is False
    assert result.checkpoint.bindings["embeddings.project.bias"].stored.name == name


def test_what_old_releases_keep_beside_the_weights_is_ignored(found: dict[str, Found]) -> None:
    name = "roformer.embeddings.position_ids"
    assert without(found["torch"], lambda _: False, called(found["torch"], name)).require().ignored == (name,)


@pytest.mark.parametrize(
    ("dialect", "canonical", "got", "detail"),
    [
        ("torch", "layers.1.feed_forward.up.weight", (34, 5), "(F, H) = (34, 24); H is hidden_size in config.json"),
        ("torch", "layers.1.feed_forward.up.weight", (5, 24), "(F, H) = (34, 24); F is intermediate_size in "),
        ("paddle", "layers.1.feed_forward.up.weight", (24, 5), "(H, F) = (24, 34); F is intermediate_size in "),
        ("torch", "layers.1.feed_forward.up.weight", (34,), "(F, H) = (34, 24); F is intermediate_size in config.json; "
                                                            "H is hidden_size in config.json"),
        ("torch", "layers.1.attention.key.weight", (5, 5), "(H, H) = (24, 24); H is hidden_size in config.json"),
        ("torch", "sop.weight", (3, 24), "(2, H) = (2, 24)"),
        ("torch", "sop.bias", (3,), "(2,) = (2,)"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_told_with_the_fields_that_say_otherwise(
    found: dict[str, Found], dialect: Dialect, canonical: str, got: tuple[int, ...], detail: str
) -> None:
    source, name = found[dialect], stored_in(canonical, dialect).name
    others = [replace(one(source, name), shape=got)]
    result = without(source, lambda each: each == name, others)
    end = source.config_file.name if detail.endswith(" in ") and source.config_file is not None else ""
    assert told(result) == [("shape", name, f"got {got}, want {detail}{end}")]


@pytest.mark.parametrize(
    ("dialect", "order", "transposed"),
    [("torch", "C", False), ("torch", "F", True), ("paddle", "C", True), ("paddle", "F", False)],
)
def test_a_kernel_is_transposed_by_its_dialect_or_by_its_memory_order(
    found: dict[str, Found], dialect: Dialect, order: str, transposed: bool
) -> None:
    source, canonical = found[dialect], "layers.1.feed_forward.up.weight"
    kernel = one(source, stored_in(canonical, dialect).name)
    checkpoint = without(source, lambda name: name == kernel.name, [replace(kernel, order=order)]).require()
    assert checkpoint.bindings[canonical].transposed is transposed


@pytest.mark.parametrize(
    ("folder", "file", "embeddings", "project", "kind"),
    [
        (
            "b4k-MaskedLM_v2",
            "bert_config.json",
            "bert/embeddings/",
            "bert/encoder/embedding_hidden_mapping_in/",
            "function",
        ),
        ("junn-MaskedLM_v2_bin", "config.json", "roformer.embeddings.", "roformer.embeddings_project.", "missing"),
    ],
)
def test_bert4keras_projection_without_a_bias_is_one_of_its_own(
    tmp_path: Path, found: dict[str, Found], folder: str, file: str, embeddings: str, project: str, kind: str
) -> None:
    """RoFormerV2 with embeddings narrower than its layers; in JunnYu's file, and in RoFormerV1, the bias is missed."""
    shutil.copytree(PEERS / folder, tmp_path / "v2")
    path = tmp_path / "v2" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "embedding_size": 10}))
    source = identify(tmp_path / "v2")
    width = source.config.source.config.hidden_size  # type: ignore[union-attr]
    narrow = [
        replace(each, shape=(each.shape[0], 10)) for each in source.index.tensors if each.name.startswith(embeddings)
    ]
    shape, end = ((10, width), "kernel") if project.endswith("/") else ((width, 10), "weight")
    more = [*narrow, replace(narrow[0], name=f"{project}{end}", shape=shape)]
    gone = {TIE, *(each.name for each in narrow)}
    result = without(source, gone.__contains__, more)
    ((told_kind, name, detail),) = told(result)
    assert (told_kind, name) == (kind, f"{project}bias")
    step = result.next_step or ""
    assert step.startswith("It has no counterpart" if kind == "function" else NOTHING_GUESSED)
    assert ("(Output-Mapping)" in detail) == (kind == "function")
    kernel = next(each.name for each in source.index.tensors if each.name not in gone and len(each.shape) == 2)
    damaged = without(source, {*gone, kernel}.__contains__, more)
    assert ("missing", kernel, "") in told(damaged)
    bias = stored_in("embeddings.project.bias", "tf1").name
    assert told(without(found["tf1"], {bias}.__contains__)) == [("missing", bias, "")]


# --- two that should be one -----------------------------------------------------------------------------------------


def test_a_copy_in_another_memory_order_is_told(found: dict[str, Found]) -> None:
    word = one(found["torch"], WORDS)
    result = without(found["torch"], lambda _: False, [replace(word, name=TIE, order="F")])
    assert told(result) == [("tied", f"{TIE} (tied to {WORDS})", "the two copies lie in different memory orders")]
    assert result.next_step is not None
    assert result.next_step.startswith("These two are one tensor")
    assert without(found["torch"], lambda _: False, [replace(word, name=TIE)]).problems == ()


def test_a_repeated_vector_stands_in_for_the_first_one(found: dict[str, Found]) -> None:
    own = "cls.predictions.bias"
    for gone, taken in ((own, TIED_BIAS), (TIED_BIAS, own)):
        checkpoint = without(found["torch"], {gone}.__contains__).require()
        assert checkpoint.bindings["mlm.bias"].stored.name == taken


def test_a_head_without_a_name_in_the_files_is_not_missed(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "tf1", "base")
    assert fit(identify(tmp_path / "ckpt", model_class="token-classification"), any_vocab=True).problems == ()


def test_a_second_name_without_the_first_is_told_beside_what_is_missing(found: dict[str, Found]) -> None:
    """The word embedding shows the vocabulary's size; its second name does not stand in for it."""
    source = found["torch"]
    word = one(source, WORDS)
    problems = told(without(source, lambda name: name == WORDS, [replace(word, name=TIE)]))
    assert ("missing", WORDS, "") in problems
    assert ("tied", TIE, "is in the file and embeddings.word.weight is not") in problems


@pytest.mark.parametrize(("byte", "element"), [(0, "(0, 0)"), (4 * (3 * CONFIG.embedding_size + 5) + 3, "(3, 5)")])
def test_the_first_element_that_differs_is_told(found: dict[str, Found], byte: int, element: str) -> None:
    word = one(found["torch"], WORDS)
    other = replace(word, name=TIE, data=replace(word.data, offset=0))  # type: ignore[type-var]
    with patch.object(fitting, "first_difference", lambda *_: byte):
        result = without(found["torch"], lambda name: name == TIED_BIAS, [other])
    assert told(result) == [("tied", f"{TIE} (tied to {WORDS})", f"the two differ, first at element {element}")]


@pytest.mark.parametrize(
    ("change", "got"), [({"dtype": "float16"}, "float16 {}"), ({"shape": (2, 3)}, "float32 (2, 3)")]
)
def test_a_copy_of_another_shape_or_type_is_told(found: dict[str, Found], change: dict[str, Any], got: str) -> None:
    word = one(found["torch"], WORDS)
    result = without(found["torch"], lambda _: False, [replace(word, name=TIE, **change)])
    detail = f"got {got.format(word.shape)} beside float32 {word.shape}"
    assert told(result) == [("tied", f"{TIE} (tied to {WORDS})", detail)]


def test_what_is_stored_twice_is_told_or_counts_as_a_copy(found: dict[str, Found]) -> None:
    word, norm = one(found["torch"], WORDS), one(found["torch"], "roformer.embeddings.LayerNorm.bias")
    same = without(found["torch"], lambda _: False, [word, norm, replace(word, name=TIE)])
    assert same.require().duplicates == (TIED_BIAS, TIE, norm.name, WORDS)  # in the file's order
    turned = replace(word, order="F")
    for copies in ([turned], [word, turned]):
        result = without(found["torch"], lambda _: False, [*copies, norm])
        detail = "the two copies lie in different memory orders"
        assert told(result) == [("tied", f"{WORDS} (stored twice)", detail)]
        assert result.checkpoint is not None
        assert result.checkpoint.bindings["embeddings.word.weight"].stored.order == "C"


def test_files_stay_open_where_everything_fits_alone(found: dict[str, Found]) -> None:
    """They are read on by whoever gets the checkpoint; a file that breaks while copies are compared is its error."""
    source, closed = found["torch"], []

    class Watched(OpenFiles):
        def close(self) -> None:
            closed.append(self)
            super().close()

    def broken(*_: object) -> None:
        raise FormatError(source.entry, "cannot be read")

    with patch.object(fitting, "OpenFiles", Watched):
        whole = without(source, lambda _: False)
        assert (whole.problems, len(closed)) == ((), 0)
        whole.require().files.close()
        assert without(source, lambda name: name == WORDS).problems != ()
        assert len(closed) == 2
        with patch.object(fitting, "first_difference", broken), pytest.raises(FormatError, match="cannot be read"):
            without(source, lambda _: False)
        assert len(closed) == 3


# --- what is there and is not read ----------------------------------------------------------------------------------


def test_a_tensor_of_a_kind_that_is_not_read_is_told_under_its_name(found: dict[str, Found]) -> None:
    """Under another tensor's prefix too; and nothing is told of what only ends like a tensor, or is there as one."""
    source = found["torch"]
    gone, there = "roformer.encoder.layer.1.output.dense.bias", "roformer.encoder.layer.0.output.dense.bias"
    extra = "cls.predictions.decoder.weight"
    kinds = {f"module.model.{gone}": "a sparse tensor", there: "a sparse tensor", "own.step": "a number"}
    kinds[f"module.{extra}"] = "a quantized tensor"
    result = without(source, lambda name: name == gone, metadata=kinds, unread=frozenset(kinds) - {"own.step"})
    assert told(result) == [
        ("unread", gone, "the file has a sparse tensor under module.model"),
        ("unread", extra, "the file has a quantized tensor under module"),
    ]
    assert (result.next_step or "").startswith("Save plain arrays or tensors under these names")


# --- what a misread configuration leaves open -----------------------------------------------------------------------


def rewritten(directory: Path, **fields: Any) -> Found:
    """Write a torch model whose configuration says something else."""
    write_random(directory, "torch")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return identify(directory)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size"])
def test_a_size_that_is_misread_and_that_no_tensor_shows_is_all_that_is_told(tmp_path: Path, field: str) -> None:
    source = rewritten(tmp_path / "ckpt", **{field: "many"})
    (tmp_path / "ckpt" / "vocab.txt").write_text("x\n" * 60)
    size = getattr(CONFIG, field)
    table = replace(one(source, WORDS), name="roformer.encoder.embed_positions.weight", shape=(5,))
    kept = tuple(tensor for tensor in source.index.tensors if size not in tensor.shape)
    with patch.object(weight_set, "index", lambda _: replace(source.index, tensors=(*kept, table))):
        result = fit(identify(source.path), any_vocab=False)
    assert [(kind, name) for kind, name, _ in told(result)] == [("configuration", field)]
    assert result.checkpoint is None
    assert result.undetermined == {field}


@pytest.mark.parametrize("field", ["num_attention_heads", "max_position_embeddings"])
def test_a_rotary_table_is_not_held_against_a_configuration_that_is_misread(tmp_path: Path, field: str) -> None:
    source = rewritten(tmp_path / "ckpt", **{field: "many"})
    table = replace(one(source, WORDS), name="roformer.encoder.embed_positions.weight", shape=(5,))  # shows no size
    result = without(source, lambda _: False, [table])
    assert [(kind, name) for kind, name, _ in told(result)] == [("configuration", field)]
    assert result.undetermined == {field}
    assert result.checkpoint is not None
    assert result.checkpoint.derived == (table.name,)
    assert (result.where, result.against) == (tmp_path / "ckpt" / "config.json", CONFIGURATION)


def test_problems_of_the_configuration_the_tensors_and_the_vocabulary_come_in_this_order(tmp_path: Path) -> None:
    source = rewritten(tmp_path / "ckpt", layer_norm_eps="tiny")
    (tmp_path / "ckpt" / "vocab.txt").write_text("x\n" * 60)
    gone = "roformer.encoder.layer.1.output.dense.bias"
    kept = tuple(tensor for tensor in source.index.tensors if tensor.name != gone)
    result = fit(replace(identify(source.path), index=replace(source.index, tensors=kept)), any_vocab=False)
    assert [(kind, name) for kind, name, _ in told(result)] == [
        ("configuration", "layer_norm_eps"), ("missing", gone), ("vocabulary", "vocab.txt"),
    ]  # fmt: skip
    assert result.next_step == source.config.next_step
    assert result.where == source.entry


def test_another_models_configuration_over_damaged_weights_is_another_models(tmp_path: Path) -> None:
    source = rewritten(tmp_path / "ckpt", use_relative_position=True)
    result = without(source, lambda name: name == "cls.predictions.bias" or name == TIED_BIAS)
    assert [kind for kind, _, _ in told(result)] == ["function", "missing"]
    assert result.next_step == ANOTHERS


# --- the next step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_masked_lm_without_norms_is_damaged_and_no_roformer_v2(found: dict[str, Found], dialect: Dialect) -> None:
    """The norms of the layers and the embeddings in each dialect's spelling; RoFormerV2 has no transform either."""
    gone = {
        stored_in(f"{module}.{leaf}", dialect).name
        for layer in range(3)
        for module in (
            "embeddings.norm",
            "mlm.norm",
            f"layers.{layer}.attention_norm",
            f"layers.{layer}.feed_forward_norm",
        )
        for leaf in ("weight", "bias")
    }
    result = without(found[dialect], gone.__contains__)
    assert {kind for kind, _, _ in told(result)} == {"missing"}
    assert len(result.problems) == len(gone)
    assert (result.next_step or "").startswith(NOTHING_GUESSED)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_encoder_lacks_biases_where_it_has_none_at_all(found: dict[str, Found], dialect: Dialect) -> None:
    """All but one missing is a damaged file; none there is a model without."""
    names = [
        stored_in(f"layers.{layer}.{module}.bias", dialect).name
        for layer in range(3)
        for module in (
            "attention.query", "attention.key", "attention.value", "attention.out", "feed_forward.up",
            "feed_forward.down",
        )
    ]  # fmt: skip
    damaged = without(found[dialect], {*names[1:]}.__contains__)
    assert [(kind, name) for kind, name, _ in told(damaged)] == [("missing", name) for name in names[1:]]
    whole = without(found[dialect], {*names}.__contains__)
    assert whole.problems == ()
    assert whole.checkpoint is not None
    assert whole.checkpoint.config.use_bias is False


@pytest.mark.parametrize(("missing", "unknown", "few"), [(8, 9, False), (9, 8, False), (9, 9, True)])
def test_another_dialect_is_offered_where_many_are_missing_and_many_unknown(
    found: dict[str, Found], missing: int, unknown: int, few: bool
) -> None:
    source = found["torch"]
    kernels = {tensor.name for tensor in source.index.tensors if tensor.name.endswith("dense.weight")}
    more = called(source, *(f"my.own.{number}" for number in range(unknown)))
    result = without(source, set(sorted(kernels)[:missing]).__contains__, more)
    assert len(result.problems) == missing + unknown
    assert (result.next_step or "").startswith(FEW if few else NOTHING_GUESSED)
    assert "fetch the file again" not in (result.next_step or "")


@pytest.mark.parametrize("missing", [8, 9])
def test_a_bert_under_its_own_names_is_told_by_its_positions_alone(tmp_path: Path, missing: int) -> None:
    """And by what its configuration says of another function; the names that a RoFormer would have say no more."""
    source = rewritten(tmp_path / "ckpt", use_relative_position=True, layer_norm_eps="tiny")
    learned = "roformer.embeddings.position_embeddings.weight"
    kernels = sorted(tensor.name for tensor in source.index.tensors if tensor.name.endswith("dense.weight"))
    result = without(source, set(kernels[:missing]).__contains__, called(source, learned, "my.own"))
    kinds = [kind for kind, name, _ in told(result) if name != learned]
    assert learned in [name for _, name, _ in told(result)]
    assert kinds == (["function"] if missing > 8 else ["configuration", "function", *["missing"] * 8, "unknown"])


NOT_ITS = (
    "These are not a RoFormerForPretraining's. If it is of another class, name it with --class. --encoder-only "
    "converts the encoder without heads, --drop PATTERN leaves out what matches."
)


@pytest.mark.parametrize(
    ("names", "step"),
    [
        (("qa_outputs.bias",), NOT_ITS),
        (("qa_outputs.bias", "my.own"), NOT_ITS),
        (("roformer.embeddings.position_embeddings.x", "qa_outputs.bias"), "This looks like BERT"),
        (("roformer.encoder.layer.3.output.dense.bias",), TWO_MODELS),
        (("roformer.encoder.layer.0.attention.self.qkv.weight",), "Save query, key and value as three tensors"),
        (("roformer.encoder.layer.0.output.dense.weight_g",), "Merge these where the model is"),
        (("roformer.encoder.layer.0.attention.self.gate.weight", "my.own"), "What is inside the encoder takes part"),
    ],
)
def test_unknown_tensors_call_for_a_next_step(found: dict[str, Found], names: tuple[str, ...], step: str) -> None:
    result = without(found["torch"], lambda _: False, called(found["torch"], *names))
    assert [name for _, name, _ in told(result)] == [*names]
    assert (result.next_step or "").startswith(step)


@pytest.mark.parametrize(
    ("change", "detail", "step"),
    [
        ({"dtype": "int64"}, "got int64, want float32 or float16 or bfloat16 or float64", "Save the weights in one of"),
        ({"shape": (12, 2)}, "got (12, 2), want (H,) = (24,); H is hidden_size in config.json", TWO_MODELS),
    ],
)
def test_a_wrong_shape_or_type_calls_for_a_next_step(
    found: dict[str, Found], change: dict[str, object], detail: str, step: str
) -> None:
    name = "roformer.encoder.layer.1.attention.self.query.bias"
    (one,) = (tensor for tensor in found["torch"].index.tensors if tensor.name == name)
    result = without(found["torch"], lambda each: each == name, [replace(one, **change)])  # type: ignore[arg-type]
    assert [(kind, words) for kind, _, words in told(result)] == [(next(iter(change)), detail)]
    assert (result.next_step or "").startswith(step)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_kernels_that_lie_the_other_way_round_are_said_to(found: dict[str, Found], dialect: Dialect) -> None:
    source = found[dialect]
    turned = {tensor.name: tensor for tensor in source.index.tensors if sorted(tensor.shape) == [24, 34]}
    assert len(turned) == 6
    result = without(source, turned.__contains__, [replace(each, shape=each.shape[::-1]) for each in turned.values()])
    assert {kind for kind, _, _ in told(result)} == {"shape"}
    assert (result.next_step or "").startswith(f"These lie the other way round: save every kernel as {dialect}'s")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_widths_in_which_all_tensors_agree_are_told_once(tmp_path: Path, dialect: Dialect) -> None:
    """The configuration of a larger model: forty shapes say no more than these three numbers."""
    write_random(tmp_path / "ckpt", dialect)
    path = next((tmp_path / "ckpt").glob("*config.json"))
    settings = json.loads(path.read_text())
    more = {"embedding_size": 28, "hidden_size": 48, "intermediate_size": 68, "num_attention_heads": 8}
    path.write_text(json.dumps({**settings, **more}))
    result = fit(identify(tmp_path / "ckpt"), any_vocab=True)
    shown = {"embedding_size": (28, 14), "hidden_size": (48, 24), "intermediate_size": (68, 34)}
    assert sorted(told(result)) == [
        ("configuration", name, f"{said} in {path.name}, the tensors show {there}")
        for name, (said, there) in shown.items()
    ]
    assert (result.next_step or "").startswith(TWO_MODELS)
    assert result.checkpoint is not None
    assert [getattr(result.checkpoint.config, name) for name in shown] == [there for _, there in shown.values()]
    assert result.undetermined == {"num_attention_heads"}


def test_widths_in_which_one_tensor_does_not_agree_are_told_of_each(found: dict[str, Found]) -> None:
    source, name = found["torch"], "roformer.encoder.layer.2.output.LayerNorm.bias"
    wide = [each for each in source.index.tensors if 34 in each.shape]
    widened = [replace(each, shape=tuple({34: 35}.get(size, size) for size in each.shape)) for each in wide]
    whole = without(source, {each.name for each in wide}.__contains__, widened)
    assert told(whole) == [("configuration", "intermediate_size", "34 in config.json, the tensors show 35")]
    narrow = replace(one(source, name), shape=(23,))
    result = without(source, {name, *(each.name for each in wide)}.__contains__, [narrow, *widened])
    assert [kind for kind, _, _ in told(result)] == ["shape"] * (1 + len(wide))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_query_key_and_value_in_one_tensor_are_not_missing(found: dict[str, Found], dialect: Dialect) -> None:
    source = found[dialect]
    parts = [
        stored_in(f"layers.{n}.attention.{part}.weight", dialect).name
        for n in range(3)
        for part in ("query", "key", "value")
    ]
    joined = [name.replace("query", "qkv").replace("q_proj", "qkv_proj") for name in parts[::3]]
    result = without(source, set(parts).__contains__, called(source, *joined))
    assert [(kind, name) for kind, name, _ in told(result)] == [("unknown", name) for name in joined]
    assert (result.next_step or "").startswith("Save query, key and value as three tensors")
    other = stored_in("layers.1.feed_forward.up.weight", dialect).name
    result = without(source, {*parts, other}.__contains__, called(source, *joined))
    assert [name for kind, name, _ in told(result) if kind == "missing"] == [other]


def test_another_dialects_names_are_one_problem_with_the_option(tmp_path: Path) -> None:
    """A pickle of numpy arrays is what Paddle's software writes, and what people make of torch's tensors."""
    write_random(tmp_path / "ckpt", "torch")
    arrays = load_file(tmp_path / "ckpt" / "model.safetensors")
    (tmp_path / "ckpt" / "model.safetensors").unlink()
    (tmp_path / "ckpt" / "pytorch_model.bin").write_bytes(pickle.dumps(arrays, protocol=4))
    result = fit(identify(tmp_path / "ckpt"), any_vocab=True)
    assert told(result) == [("names", f"{len(arrays)} tensors", "torch's, in a file as paddle's software writes it")]
    assert "say --from torch" in (result.next_step or "")
    assert fit(identify(tmp_path / "ckpt", dialect="torch"), any_vocab=True).problems == ()


def test_a_type_of_the_whole_model_is_told_once(found: dict[str, Found]) -> None:
    source = found["torch"]
    whole = [replace(tensor, dtype="int8") for tensor in source.index.tensors if tensor.shape]
    result = without(source, lambda _: True, whole)
    detail = "got int8, want float32 or float16 or bfloat16 or float64"
    rows = len(whole) - 1  # one is the bias of the masked-LM head again
    assert [each for each in told(result) if each[0] == "dtype"] == [("dtype", f"{rows} tensors", detail)]


def test_a_head_that_lacks_a_tensor_is_answered_with_the_encoder(found: dict[str, Found]) -> None:
    result = without(found["torch"], "cls.predictions.transform.dense.weight".__eq__)
    assert [kind for kind, _, _ in told(result)] == ["missing"]
    assert "--encoder-only" in (result.next_step or "")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["layers.2.attention_norm.bias", "pooler.bias", "embeddings.segment.weight"])
def test_an_encoder_that_lacks_a_tensor_is_not_answered_with_itself(
    found: dict[str, Found], dialect: Dialect, name: str
) -> None:
    result = without(found[dialect], stored_in(name, dialect).name.__eq__)
    assert [kind for kind, _, _ in told(result)] == ["missing"]
    assert (result.next_step or "").startswith(NOTHING_GUESSED)
    assert (result.next_step or "").endswith("fetch the file again.")


@pytest.mark.parametrize(("what", "gathers"), [("torch.distributed.tensor.DTensor", True), ("a sparse tensor", False)])
def test_a_part_of_a_tensor_is_gathered_first(found: dict[str, Found], what: str, gathers: bool) -> None:
    name = stored_in("layers.1.attention.key.bias", "torch", base=True).name
    result = without(found["base"], name.__eq__, metadata={name: f"what {what} makes"}, unread=frozenset({name}))
    assert told(result) == [("unread", name, f"the file has what {what} makes")]
    assert ("which gathers them" in (result.next_step or "")) == gathers


@pytest.mark.parametrize("many", [8, 9])
@pytest.mark.parametrize("kind", ["empty", "unread", "dtype"])
def test_what_many_tensors_have_alike_is_told_once(found: dict[str, Found], kind: str, many: int) -> None:
    source = found["base"]
    rows = [each for each in source.index.tensors if ".layer." in each.name][:many]
    names = [each.name for each in rows]
    changes: dict[str, dict[str, Any]] = {"empty": {"shape": (0,)}, "dtype": {"dtype": "int8"}}
    change = changes.get(kind, {})
    more = [replace(each, **change) for each in rows] if change else []
    others: dict[str, Any] = (
        {} if change else {"metadata": dict.fromkeys(names, "a sparse tensor"), "unread": frozenset(names)}
    )
    result = without(source, set(names).__contains__, more, **others)
    assert {each for each, _, _ in told(result)} == {kind}
    assert sorted(name for _, name, _ in told(result)) == (["9 tensors"] if many == 9 else sorted(names))
    if kind == "empty":
        assert "which gathers them" in (result.next_step or "")


@pytest.mark.parametrize(
    ("change", "words", "step"),
    [
        ({}, "differs from the rotary table of this configuration", "The table is computed from the configuration"),
        ({"order": "F"}, "stored column by column", "The table is computed from the configuration"),
        ({"dtype": "int32"}, "got int32, want float32", "Save the weights in one of these types"),
        ({"shape": (6, 47)}, "want (max_position_embeddings, head size) = (47, 6)", "The table is computed from"),
        ({"shape": (0,)}, "a tensor without elements", "The values were never loaded"),
    ],
)
def test_a_rotary_table_that_is_not_the_configurations_calls_for_a_next_step(
    found: dict[str, Found], change: dict[str, object], words: str, step: str
) -> None:
    source = found["torch"]
    name = TABLE
    kernel = next(tensor for tensor in source.index.tensors if tensor.nbytes >= 4 * 47 * 6)
    table = replace(kernel, name=name, shape=(47, 6))
    result = without(source, lambda _: False, [replace(table, **change)])  # type: ignore[arg-type]
    ((_, told_name, detail),) = told(result)
    assert told_name == name
    assert words in detail
    assert (result.next_step or "").startswith(step)


def test_a_rotary_table_of_tf_may_have_been_trained(found: dict[str, Found]) -> None:
    """It is a trainable variable there, of which a gradient comes: TFRoFormerSinusoidalPositionalEmbedding.build."""
    source = found["tf"]
    kernel = next(tensor for tensor in source.index.tensors if tensor.nbytes >= 4 * 47 * 6)
    table = replace(kernel, name="roformer/encoder/embed_positions/embeddings", shape=(47, 6))
    result = without(source, lambda _: False, [table])
    assert [kind for kind, _, _ in told(result)] == ["derived"]
    assert "--drop '*embed_positions*' takes the computed one" in (result.next_step or "")
    assert "--drop" not in (without(found["torch"], lambda _: False, [replace(table, name=TABLE)]).next_step or "")


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [("float64", 2.0**-23), ("float32", 2.0**-23), ("float16", 2.0**-10), ("bfloat16", 2.0**-7)],
)
def test_a_rotary_table_may_be_off_by_its_types_rounding_twice(
    found: dict[str, Found], dtype: str, bound: float
) -> None:
    source, name = found["torch"], TABLE
    table = replace(one(source, WORDS), name=name, shape=(47, 6), dtype=dtype)
    for distance, wrong in ((0.0, False), (bound, False), (bound * 1.01, True), (float("nan"), True)):
        with patch.object(fitting, "rotary_distance", lambda *_, worst=distance: worst):
            result = without(source, lambda _: False, [table])
        words = f"differs from the rotary table of this configuration by {distance:.2g} (bound {bound:.2g})"
        assert told(result) == ([("derived", name, words)] if wrong else [])
        assert result.checkpoint is not None
        assert result.checkpoint.derived == (() if wrong else (name,))
