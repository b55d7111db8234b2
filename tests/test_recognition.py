"""The table asked backwards, of what other software wrote and of names at the edges: whose are they, which class?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pytest
from family_folders import FAMILY, is_v2, source_of
from golden_names import stored_in
from peer_folders import FOLDERS as MASKED_LMS
from peer_folders import PEERS

from roformer_convert.converters.source import weight_files, weight_set
from roformer_convert.converters.table.mapping import CLASSES, DIALECTS, PRETRAINING, Dialect, Table, Traits
from roformer_convert.converters.table.recognition import (
    IGNORED,
    SLOT,
    TRAINING_STATE,
    Choice,
    another_dialects,
    choose_class,
    count_known_names,
    count_layers,
    detect_dialect,
    encoder_names,
    fitting_classes,
    has_head,
    head_names,
    is_inside_encoder,
    known_names,
    looks_like,
    measure_traits,
    stated_class,
)

Shapes = dict[str, tuple[int, ...]]
#: Name → shape, or None for a tensor that is left out.
Changes = Mapping[str, tuple[int, ...] | None]

#: What other software wrote; the names say class, traits and dialect.
FOLDERS = sorted({*MASKED_LMS, *FAMILY})
V2, V2_BIASED = Traits(norms=False, biases=False), Traits(norms=False)
#: How the names of a head begin.
HEADS = ("cls", "mlm___cls", "classifier", "qa_outputs", "sequence_summary")
WORDS = ["masked-lm", "pretraining", "causal-lm"]


@cache
def shapes_of(folder: str) -> Shapes:
    """Name → shape of a folder's tensors, as its file has them."""
    index = weight_set.index(weight_files.find(PEERS / folder, None))
    return {tensor.name: tensor.shape for tensor in index.tensors}


def changed(folder: str, changes: Changes) -> Shapes:
    shapes = {**shapes_of(folder), **changes}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def is_base(folder: str) -> bool:
    return "-Model_" in folder


def traits_of(folder: str) -> Traits:
    """Which norms and biases a folder's encoder has, as its name says."""
    return Traits(norms=not is_v2(folder), biases="_v2bias" in folder or not is_v2(folder))


def second_names(folder: str) -> set[str]:
    """Names of a file that are no row's: the rotary table, and the decoder, which is the embedding once more."""
    ends = ("embed_positions.weight", "embed_positions/embeddings", "decoder.weight", "decoder.bias", "decoder_weight")
    return {name for name in shapes_of(folder) if name.endswith(ends)}


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_that_was_written_is_known_and_most_of_them_in_its_own_dialect(folder: str) -> None:
    dialect, names = source_of(folder), set(shapes_of(folder))
    assert names <= known_names(dialect, names)
    assert count_known_names(dialect, names) == len(names - second_names(folder))
    assert detect_dialect(DIALECTS, names) == dialect
    assert detect_dialect(DIALECTS[::-1], names) == dialect


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_was_written_is_parted_into_encoder_and_head(folder: str) -> None:
    dialect, names = source_of(folder), set(shapes_of(folder))
    head = {name for name in names - second_names(folder) if name.startswith(HEADS)}
    assert names - encoder_names(dialect, names) == head | second_names(folder)
    assert has_head(dialect, names, base=is_base(folder)) is bool(head)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_pooler_is_no_head_and_what_stands_on_it_is_one(dialect: Dialect) -> None:
    assert not has_head(dialect, {stored_in("pooler.weight", dialect).name}, base=False)
    assert has_head(dialect, {stored_in("sop.weight", dialect).name}, base=False)
    assert not has_head(dialect, set(), base=False)


def test_of_dialects_that_know_as_many_names_the_first_is_taken() -> None:
    assert detect_dialect(("tf", "torch"), ["x"]) == "tf"
    assert detect_dialect(("torch", "tf1"), ["bert/embeddings/word_embeddings"]) == "tf1"
    assert detect_dialect(("torch",), ["bert/embeddings/word_embeddings"]) == "torch"


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_another_dialects_where_they_plainly_are(folder: str) -> None:
    owner, names = source_of(folder), set(shapes_of(folder))
    assert another_dialects(owner, names) is None
    written: Dialect = "tf1" if owner != "tf1" else "tf"
    assert another_dialects(written, names) == owner


@pytest.mark.parametrize(("others", "nobodys", "owner"), [(2, 0, None), (3, 0, "torch"), (3, 9, "torch"), (1, 9, None)])
def test_names_are_anothers_where_it_knows_more_than_twice_as_many(
    others: int, nobodys: int, owner: Dialect | None
) -> None:
    torch = [f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key", "value")]
    names = ["roformer/pooler/dense/kernel", *torch[:others], *(f"x.{number}" for number in range(nobodys))]
    assert another_dialects("tf", names) == owner


def test_names_of_two_dialects_are_the_one_s_that_knows_more_than_twice_as_many() -> None:
    shared = "embeddings.word_embeddings.weight"
    torch = [f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key")]
    assert another_dialects("paddle", [shared, *torch]) == "torch"
    assert another_dialects("paddle", [shared, torch[0]]) is None


@pytest.mark.parametrize(
    ("dialect", "name", "inside"),
    [
        ("torch", "roformer.encoder.layer.0.adapter.weight", True),
        ("torch", "embeddings.position_embeddings.weight", True),
        ("torch", "roformer.embeddings_project.weight", True),
        ("torch", "roformer.pooler.dense.weight", False),
        ("torch", "cls.predictions.bias", False),
        ("torch", "net.roformer.encoder.layer.0.x", False),
        ("paddle", "roformerv2.encoder.layers.0.x", True),
        ("tf", "roformer/encoder/layer_._0/x", True),
        ("tf1", "bert/encoder/layer_0/x", True),
        ("tf1", "bert/pooler/dense/kernel", False),
    ],
)
def test_a_name_is_inside_an_encoder_by_its_first_part(dialect: Dialect, name: str, inside: bool) -> None:
    assert is_inside_encoder(dialect, name) is inside


@pytest.mark.parametrize(
    ("dialect", "kind", "names"),
    [
        ("torch", "question-answering", "qa_outputs.weight qa_outputs.bias"),
        ("tf", "token-classification", "classifier/kernel classifier/bias"),
        (
            "paddle",
            "masked-lm",
            "cls.predictions.transform.weight cls.predictions.transform.bias cls.predictions.layer_norm.weight "
            "cls.predictions.layer_norm.bias cls.predictions.decoder_bias cls.predictions.decoder_weight "
            "cls.decoder_bias cls.decoder_weight",
        ),
    ],
)
def test_the_names_of_a_head_are_those_of_both_families(dialect: Dialect, kind: str, names: str) -> None:
    found = head_names(dialect, CLASSES[kind])
    assert {name for name in found if "pooler" not in name} == set(names.split())
    assert stored_in("pooler.weight", dialect).name in found


@pytest.mark.parametrize("dialect", DIALECTS)
def test_layers_are_counted_from_names(dialect: Dialect) -> None:
    for base in (False, True):
        names = [str(tensor.name(dialect, base=base)) for tensor in Table(11, PRETRAINING).tensors]
        assert count_layers(dialect, names) == 11


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("roformer.encoder.layer.9999.x", 10000),
        ("roformer.encoder.layer.10000.x", 0),
        ("roformerv2.encoder.layer.7.x", 8),
        ("bert.encoder.layer.7.x", 0),
        ("encoder.layer.0.x", 1),
        ("encoder.layer.00.x", 0),
        ("encoder.layer.x.0", 0),
        ("x", 0),
    ],
)
def test_a_layers_number_has_at_most_four_digits_and_no_zero_before_them(name: str, layers: int) -> None:
    assert count_layers("torch", [name]) == layers


@pytest.mark.parametrize(
    ("numbers", "looked_for"), [([9000], 1), ([0, 1, 9000], 3), (range(499), 499), (range(510), 500)]
)
def test_no_more_layers_are_looked_for_than_names_or_than_500(numbers: Sequence[int], looked_for: int) -> None:
    name = "encoder.layer.{}.output.dense.weight"
    known = known_names("torch", [name.format(number) for number in numbers])
    assert name.format(looked_for - 1) in known
    assert name.format(looked_for) not in known


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("classifier.weight", "a fine-tuned head"),
        ("output_weights", "a fine-tuned head"),
        ("output_bias", "a fine-tuned head"),
        ("classifier.dense.weight", "sequence-classification head of transformers"),
        ("qa_outputs.bias", "question-answering"),
        ("cls.seq_relationship.weight", "sentence-order"),
        ("cls.predictions.another.bias", "masked-LM head"),
        ("cls/predictions/another", "masked-LM head"),
        ("bert/embeddings/position_embeddings", "learned positions"),
        ("linear_0.w_0_moment1_0", "optimizer state"),
        ("linear_0.w_0_beta2_pow_acc_0", "optimizer state"),
        ("classifier.out_proj.weight", "sequence-classification head of transformers"),
        ("sequence_summary.summary.weight", "multiple-choice head"),
        ("roformer.encoder.layer.0.crossattention.self.query.weight", "cross-attention"),
        ("summary.bias", "multiple-choice head"),
        ("decoder.layers.0.encoder_attn.q_proj.weight", "cross-attention"),
        ("discriminator_predictions.dense.weight", "discriminator head"),
        ("encoder.layer.0.attention.self.qkv.weight", "query, key and value in one tensor"),
        ("encoder.layer.0.attention.query_key_value.bias", "query, key and value in one tensor"),
        ("layers.0.self_attn.in_proj_weight", "query, key and value in one tensor"),
        ("cls.predictions.transform.dense.weight_g", "part of a weight that torch computes from several"),
        ("a.parametrizations.weight.original0", "part of a weight that torch computes from several"),
        ("whatever", ""),
    ],
)
def test_unknown_tensors_are_called_what_they_look_like(name: str, words: str) -> None:
    assert words in looks_like(name)
    assert bool(looks_like(name)) == bool(words)


@pytest.mark.parametrize(
    ("dialect", "name", "ignored"),
    [
        ("torch", "roformer.embeddings.position_ids", True),
        ("torch", "embeddings.position_ids", True),
        ("torch", "bert.embeddings.position_ids", False),
        ("torch", "global_step", False),
        ("paddle", "embeddings.position_ids", False),
        ("tf", "global_step", False),
        ("tf", "_CHECKPOINTABLE_OBJECT_GRAPH", True),
        ("tf1", "_CHECKPOINTABLE_OBJECT_GRAPH", True),
        ("tf1", "global_step", True),
        ("tf1", "save_counter/.ATTRIBUTES/VARIABLE_VALUE", True),
        ("tf1", "bert/pooler/dense/kernel/adam_m", True),
        ("tf1", "output_weights/lamb_v", True),
        ("tf1", "cls/predictions/output_bias/AdamWeightDecayOptimizer_1", True),
        ("tf1", "bert/pooler/dense/kernel/ema", False),
        ("tf1", "beta1_power", True),
    ],
)
def test_what_lies_beside_a_model_is_left_out_in_its_dialect_alone(dialect: Dialect, name: str, ignored: bool) -> None:
    assert any(pattern.fullmatch(name) for pattern in IGNORED[dialect]) is ignored


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("training/Adam/bert/x/m", True),
        ("training_1/SGD/iter", True),
        ("optimizer/iter", True),
        ("optimizers/0/iter", True),
        ("AdamWeightDecay/v/bert/x", True),
        ("lamb/beta_1", True),
        ("SGD/momentum", True),
        ("AdaBelief/iter", True),
        ("model/x/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE", True),
        ("_variables/3", True),
        ("optimizer_of_mine/_variables/3", True),
        ("layer/keras_api/metrics/0/total", True),
        ("save_counter/.ATTRIBUTES/VARIABLE_VALUE", True),
        ("training", False),
        ("pretraining/x", False),
        ("sgd/momentum", False),
        ("bert/Adam/x", False),
        ("my_variables/3", False),
        ("save_counter", False),
    ],
)
def test_what_an_optimizer_of_tensorflow_keeps_is_known_by_what_it_is_under(name: str, known: bool) -> None:
    assert (TRAINING_STATE.fullmatch(name) is not None) is known


@pytest.mark.parametrize(
    ("word", "known"),
    [
        *((word, True) for word in ("adam_m", "lamb_v", "m", "vhat", "Momentum", "ExponentialMovingAverage")),
        *((word, True) for word in ("Adam", "Adam_1", "RMSProp_2", "LAMBOptimizer")),
        *((word, False) for word in ("kernel", "mm", "Adam_x", "SGD")),
    ],
)
def test_a_slot_is_called_as_its_variable_with_a_word_behind_it(word: str, known: bool) -> None:
    match = SLOT.fullmatch(f"bert/a/{word}")
    assert (match and match[1]) == ("bert/a" if known else None)


# --- traits and classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_norms_and_biases_are_those_that_were_written(folder: str) -> None:
    assert measure_traits(source_of(folder), shapes_of(folder), base=is_base(folder)) == traits_of(folder)


def test_an_encoder_lacks_norms_or_biases_where_not_one_is_there() -> None:
    names = set(shapes_of("hf5-MaskedLM_default_st"))
    kernels = {name for name in names if "LayerNorm" not in name and not name.endswith("bias")}
    one = ["roformer.encoder.layer.1.output.LayerNorm.bias", "roformer.encoder.layer.0.attention.self.key.bias"]
    transform = "cls.predictions.transform.dense.weight"  # RoFormerV2's head has none
    assert measure_traits("torch", kernels, base=False) == Traits(norms=True, biases=False)
    assert measure_traits("torch", kernels - {transform}, base=False) == V2
    assert measure_traits("torch", kernels - {transform} | {one[0]}, base=False) == Traits(norms=True, biases=False)
    assert measure_traits("torch", kernels - {transform} | {one[1]}, base=False) == V2_BIASED
    assert measure_traits("torch", {name for name in kernels if ".layer." not in name}, base=False) == Traits()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("RoFormerModel", "base"),
        ("RoFormerForMaskedLM", "masked-lm"),
        ("TFRoFormerForQuestionAnswering", "question-answering"),
        ("RoFormerv2ForCausalLM", "causal-lm"),
        ("roformerformultiplechoice", "multiple-choice"),
        ("RoFormer", None),
        ("RoFormerEncoder", None),
        ("BertForMaskedLM", None),
        ("RoFormerForMaskedLM2", None),
        (["RoFormerModel"], None),
        (None, None),
    ],
)
def test_a_stated_class_is_one_of_a_roformer(name: object, kind: str | None) -> None:
    assert stated_class(name) is (None if kind is None else CLASSES[kind])


def expected_fits(folder: str) -> list[str]:
    """Classes that have just the tensors of a folder: PaddleNLP calls four heads alike, transformers two."""
    paddle = source_of(folder) == "paddle"
    if "Model_" in folder:
        return ["base"]
    for model, kind in (("Sequence", "sequence"), ("Token", "token")):
        if model in folder and paddle:
            return ["sequence-classification", "token-classification"]
        if model in folder:
            return [f"{kind}-classification"]
    alike = ["sequence-classification", "token-classification"] if paddle else []
    if "QuestionAnswering" in folder:
        return [*alike, "question-answering"]
    if "MultipleChoice" in folder:
        projected = "_first_" in folder
        return [*(alike if paddle or projected else ["token-classification"]), "multiple-choice"]
    if "nsp" in folder:
        return ["pretraining"]
    headless = is_v2(folder) and folder != "pd-MaskedLM_v2bias_pd"
    return ["base", *WORDS] if headless else WORDS


def fits(folder: str, shapes: Shapes) -> list[str]:
    dialect = source_of(folder)
    return [kind.name for kind in fitting_classes(dialect, shapes, traits_of(folder), base=is_base(folder))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_classes_that_fit_are_those_whose_software_has_these_names(folder: str) -> None:
    assert fits(folder, shapes_of(folder)) == expected_fits(folder)


@pytest.mark.parametrize(
    ("folder", "changes", "classes"),
    [
        ("hf4-QuestionAnswering_default_bin", {"qa_outputs.bias": None}, []),
        ("junn-QuestionAnswering_v2_st", {"classifier.bias": None, "qa_outputs.bias": None}, ["question-answering"]),
        ("hf4-QuestionAnswering_default_bin", {"qa_outputs.weight": (24, 2)}, ["question-answering"]),
        ("hf4-QuestionAnswering_default_bin", {"qa_outputs.weight": (3, 24)}, []),
        ("hf4-QuestionAnswering_default_bin", {"qa_outputs.weight": (2,)}, []),
        ("hf4-QuestionAnswering_default_bin", {"classifier.weight": (2, 24)}, []),
        ("hf4-MultipleChoice_first_bin", {"classifier.weight": (2, 24)}, []),
        ("hf5-MaskedLM_default_st", {"cls.predictions.bias": None}, []),
        ("hf5-MaskedLM_default_st", {"cls.predictions.bias": None, "cls.predictions.decoder.bias": (70,)}, WORDS),
        ("hf5-MaskedLM_default_st", {"cls.predictions.decoder.bias": (70, 1)}, WORDS),
        ("hf5-MaskedLM_default_st", {"cls.predictions.bias": (70, 1), "cls.predictions.decoder.bias": (70,)}, []),
        ("b4k-MaskedLM_v2", {"output_weights": (3, 24), "output_bias": (3,)}, ["sequence-classification"]),
        ("b4k-MaskedLM_poollin", {"output_weights": (3, 24), "output_bias": (3,)}, []),
        ("b4k-MaskedLM_v2", {"cls/squad/output_weights": (2, 24)}, ["question-answering"]),
    ],
)
def test_a_class_fits_where_its_head_is_whole_and_no_other_is_there(
    folder: str, changes: Changes, classes: list[str]
) -> None:
    assert fits(folder, changed(folder, changes)) == classes


# --- the choice -----------------------------------------------------------------------------------------------------


def choose(folder: str, stated: object, given: str | None = None, changes: Changes | None = None) -> Choice:
    dialect, traits, base = source_of(folder), traits_of(folder), is_base(folder)
    return choose_class(dialect, changed(folder, changes or {}), traits, base=base, stated=stated, given=given)


def taken(kind: str, *, settled: bool = True, note: str = "", problem: str = "", step: str = "") -> Choice:
    return Choice(CLASSES[kind], settled, note, problem, step)


QA, MLM, BARE = "hf4-QuestionAnswering_default_bin", "hf5-MaskedLM_default_st", "hf4-Model_discriminator_bin"


@pytest.mark.parametrize(
    ("stated", "note"),
    [
        (None, ""),
        ("BertForMaskedLM", ""),
        ("RoFormerForTokenClassification", ""),
        (
            "RoFormerForMaskedLM",
            "class token-classification, as --class says; the configuration names RoFormerForMaskedLM",
        ),
    ],
)
def test_a_persons_word_decides_and_is_held_against_the_configuration(stated: object, note: str) -> None:
    assert choose(QA, stated, "token-classification") == taken("token-classification", note=note)


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if not folder.startswith("b4k")])
def test_the_configurations_word_decides_where_it_fits(folder: str) -> None:
    suffix = folder.split("-")[1].split("_")[0].replace("Model", "")
    (kind,) = (kind for kind in CLASSES.values() if kind.suffix == (f"For{suffix}" if suffix else "Model"))
    for prefix in ("RoFormer", "TFRoFormer", "RoFormerv2"):
        assert choose(folder, prefix + kind.suffix) == taken(kind.name)


@pytest.mark.parametrize(
    ("folder", "stated", "called", "said"),
    [
        (MLM, "ForTokenClassification", "RoFormerForMaskedLM", "masked-lm."),
        ("b4k-MaskedLM_pool_nsp", "ForTokenClassification", "RoFormerForPretraining", "pretraining."),
        ("junn-MaskedLM_v2_bin", "ForTokenClassification", "RoFormerForMaskedLM", "masked-lm."),
        (QA, "ForTokenClassification", "RoFormerForQuestionAnswering", "question-answering."),
        (BARE, "ForMultipleChoice", "RoFormerModel", "base, or --encoder-only to leave others out."),
    ],
)
def test_a_stated_head_that_is_not_there_is_kept_and_the_one_that_is_there_offered(
    folder: str, stated: str, called: str, said: str
) -> None:
    (kind,) = (kind for kind in CLASSES.values() if kind.suffix == stated)
    step = f"The configuration names RoFormer{stated}, and the tensors are {called}'s: say --class {said}"
    assert choose(folder, f"RoFormer{stated}") == taken(kind.name, step=step)


def test_a_stated_head_that_is_damaged_is_kept() -> None:
    choice = choose(QA, "RoFormerForQuestionAnswering", changes={"qa_outputs.bias": None})
    assert choice == taken("question-answering")


@pytest.mark.parametrize(
    ("folder", "stated", "changes", "kind", "noted"),
    [
        ("b4k-MaskedLM_pool_nsp", "RoFormerForMaskedLM", {}, "pretraining", False),
        ("b4k-MaskedLM_pool_nsp", "RoFormerForCausalLM", {}, "pretraining", False),
        ("b4k-MaskedLM_pool_nsp", "RoFormerModel", {}, "pretraining", True),
        (MLM, "RoFormerForPretraining", {}, "pretraining", False),
        (MLM, "RoFormerModel", {}, "masked-lm", True),
        (BARE, "RoFormerForMaskedLM", {}, "base", True),
        (MLM, "RoFormerForCausalLM", {"cls.predictions.bias": None}, "causal-lm", False),
        (MLM, "RoFormerModel", {"cls.predictions.bias": None}, "masked-lm", True),
        (MLM, "RoFormerModel", {"cls.predictions.bias": None, "cls.seq_relationship.bias": (2,)}, "pretraining", True),
        (QA, "RoFormerForPretraining", {}, "pretraining", False),
    ],
)
def test_of_classes_for_words_the_one_whose_tensors_are_there_is_taken(
    folder: str, stated: str, changes: Changes, kind: str, noted: bool
) -> None:
    note = f"the configuration names {stated}, and the tensors are those of {CLASSES[kind].class_name}"
    assert choose(folder, stated, changes=changes) == taken(kind, note=note if noted else "")


@pytest.mark.parametrize(
    ("folder", "changes", "kind"),
    [
        (MLM, {}, "masked-lm"),
        ("b4k-MaskedLM_pool_nsp", {}, "pretraining"),
        (BARE, {}, "base"),
        ("junn-MaskedLM_v2_bin", {}, "masked-lm"),
        ("pd-MaskedLM_v2bias_pd", {"cls.decoder_weight": None}, "masked-lm"),
        (MLM, {"cls.predictions.bias": None}, "masked-lm"),
        (QA, {"qa_outputs.bias": None}, "question-answering"),
        ("hf5-TokenClassification_names_st", {"classifier.bias": None}, "token-classification"),
        (QA, {"qa_outputs.bias": None, "qa_outputs.weight": None, "another.weight": (2, 24)}, "base"),
    ],
)
def test_where_no_file_names_a_class_it_is_the_one_of_the_names(folder: str, changes: Changes, kind: str) -> None:
    assert choose(folder, "BertForMaskedLM", changes=changes) == taken(kind, settled=False)


def test_a_bare_roformer_v2_may_be_a_masked_lm_where_its_names_have_the_outer_prefix() -> None:
    choice = choose("b4k-MaskedLM_v2", None)
    assert choice == taken("masked-lm", settled=False, note=choice.note)
    assert choice.note.startswith("class masked-lm is assumed: RoFormerV2's head has no tensor of its own")
    whole = changed("junn-MaskedLM_v2_bin", {"cls.predictions.decoder.weight": None})
    bare = {name.removeprefix("roformer."): shape for name, shape in whole.items()}
    assert choose_class("torch", whole, V2, base=False, stated=None, given=None) == choice
    assert choose_class("torch", bare, V2, base=True, stated=None, given=None) == taken("base", settled=False)


@pytest.mark.parametrize("folder", [QA, "hf4-MultipleChoice_first_tf", "hf5-SequenceClassification_multilabel_st"])
def test_a_head_with_names_of_its_own_is_recognised_by_them(folder: str) -> None:
    (kind,) = (kind for kind in expected_fits(folder) if kind != "token-classification")
    assert choose(folder, None) == taken(kind, note=f"class {kind}, from the tensors' names: no file names one")


@pytest.mark.parametrize(
    ("folder", "changes", "have"),
    [
        ("pd-QuestionAnswering_v2_st", {}, "these classes have"),
        ("hf4-MultipleChoice_mean_st", {}, "these classes have"),
        ("hf5-TokenClassification_names_st", {}, "this class has, and a head of somebody's own may have,"),
        # in TF1 anybody's head is called so
        (
            "b4k-MaskedLM_v2",
            {"output_weights": (3, 24), "output_bias": (3,)},
            "this class has, and a head of somebody's own may have,",
        ),
    ],
)
def test_names_that_several_heads_may_have_are_asked_about(folder: str, changes: Changes, have: str) -> None:
    kinds = expected_fits(folder) if not changes else ["sequence-classification"]
    names = ", ".join(f"{kind} ({CLASSES[kind].does})" for kind in kinds)
    problem = f"no file names it, and {have} such tensors: {names}"
    step = f"Say which it is, for example with --class {kinds[0]}."
    assert choose(folder, None, changes=changes) == taken(kinds[0], settled=False, problem=problem, step=step)
