"""Rows of heads and of RoFormerV2: names written by hand, and every fault noticed, by name and by the writers' logits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from family_folders import SET
from golden_names import GOLDEN, Stored
from numpy_roformer import Array, Forward
from peer_folders import PEERS, inputs_of
from random_checkpoints import CONFIG, write_random
from test_mapping import flip, mutable
from wrong_rows import rows_instead

from roformer_convert.converters.errors import MisfitError
from roformer_convert.converters.source.fitting import fit
from roformer_convert.converters.source.identification import Found, identify
from roformer_convert.converters.table.mapping import (
    CLASSES,
    DIALECTS,
    ENCODER,
    SYMBOLS,
    Dialect,
    Group,
    Row,
    Spelling,
    Table,
    Traits,
    outline,
    unread,
)


def held(*names: str) -> tuple[Stored | None, ...]:
    """Read names as they are written below: ``^T`` stored (in, out), ``-`` no such tensor."""
    return tuple(None if n == "-" else Stored(n.removesuffix(" ^T"), n.endswith(" ^T")) for n in names)


# fmt: off
# ruff: noqa: E501
#: Class → canonical name → its name in paddle, torch, tf, tf1, from live state dicts and from Google's scripts for TF1.
HEADS: dict[str, dict[str, tuple[Stored | None, ...]]] = {
    "sequence-classification": {
        "pooler.weight":     held("roformer.pooler.dense.weight ^T", "classifier.dense.weight", "classifier/dense/kernel ^T", "bert/pooler/dense/kernel ^T"),
        "pooler.bias":       held("roformer.pooler.dense.bias", "classifier.dense.bias", "classifier/dense/bias", "bert/pooler/dense/bias"),
        "classifier.weight": held("classifier.weight ^T", "classifier.out_proj.weight", "classifier/out_proj/kernel ^T", "output_weights"),
        "classifier.bias":   held("classifier.bias", "classifier.out_proj.bias", "classifier/out_proj/bias", "output_bias"),
    },
    "token-classification": {
        "classifier.weight": held("classifier.weight ^T", "classifier.weight", "classifier/kernel ^T", "-"),
        "classifier.bias":   held("classifier.bias", "classifier.bias", "classifier/bias", "-"),
    },
    "question-answering": {
        "classifier.weight": held("classifier.weight ^T", "qa_outputs.weight", "qa_outputs/kernel ^T", "cls/squad/output_weights"),
        "classifier.bias":   held("classifier.bias", "qa_outputs.bias", "qa_outputs/bias", "cls/squad/output_bias"),
    },
    "multiple-choice": {
        "pooler.weight":     held("roformer.pooler.dense.weight ^T", "sequence_summary.summary.weight", "sequence_summary/summary/kernel ^T", "-"),
        "pooler.bias":       held("roformer.pooler.dense.bias", "sequence_summary.summary.bias", "sequence_summary/summary/bias", "-"),
        "classifier.weight": held("classifier.weight ^T", "classifier.weight", "classifier/kernel ^T", "-"),
        "classifier.bias":   held("classifier.bias", "classifier.bias", "classifier/bias", "-"),
    },
}
#: The same where RoFormerV2 has them otherwise.
HEADS_V2: dict[str, dict[str, tuple[Stored | None, ...]]] = {
    "masked-lm": {
        "mlm.bias":          held("cls.decoder_bias", "cls.predictions.bias", "mlm___cls/predictions/bias", "cls/predictions/output_bias"),
    },
}
#: Folder of the real software → the class of its file.
WITNESSES: dict[str, str] = {
    "pd-SequenceClassification_relu_pd": "sequence-classification", "hf4-SequenceClassification_default_st": "sequence-classification",
    "hf4-SequenceClassification_default_tf": "sequence-classification", "pd-SequenceClassification_v2bias_st": "sequence-classification",
    "junn-SequenceClassification_v2_st": "sequence-classification",
    "pd-TokenClassification_default_pd": "token-classification", "hf4-TokenClassification_default_st": "token-classification",
    "hf4-TokenClassification_default_tf": "token-classification",
    "pd-QuestionAnswering_default_st": "question-answering", "hf4-QuestionAnswering_default_bin": "question-answering",
    "hf4-QuestionAnswering_default_tf": "question-answering",
    "pd-MultipleChoice_default_pd": "multiple-choice", "hf4-MultipleChoice_first_bin": "multiple-choice",
    "hf4-MultipleChoice_first_tf": "multiple-choice",
    "pd-MaskedLM_v2bias_pd": "masked-lm",
}
# fmt: on
_V2 = Traits(norms=False, biases=True)


def complaints() -> list[str]:
    """Compare the classes' rows as they are now with the names above; each complaint names class and tensor."""
    found = []
    for traits, heads in ((Traits(), HEADS), (_V2, HEADS_V2)):
        for kind, rows in heads.items():
            table = Table(0, CLASSES[kind], traits).by_canonical
            for canonical, names in rows.items():
                tensor = table.get(canonical)
                if tensor is None:
                    found.append(f"{kind} {canonical}: no row")
                    continue
                for dialect, want in zip(DIALECTS, names, strict=True):
                    name = tensor.name(dialect)
                    got = None if name is None else Stored(name, tensor.transposed(dialect))
                    if got != want:
                        found.append(f"{kind} {canonical}: {dialect} has {want}, the table {got}")
    return found


def test_names_and_turns_of_heads_are_as_the_software_has_them() -> None:
    assert complaints() == []


@pytest.mark.parametrize("kind", CLASSES)
def test_every_row_of_a_class_is_written_out_by_hand(kind: str) -> None:
    for traits, heads in ((Traits(), HEADS), (_V2, HEADS_V2)):
        rows = {tensor.canonical for tensor in Table(0, CLASSES[kind], traits).tensors}
        assert rows <= {*GOLDEN, *HEADS.get(kind, {}), *heads.get(kind, {})}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("biases", [True, False])
def test_roformer_v2_is_the_encoder_without_norms_under_paddles_own_name(dialect: Dialect, biases: bool) -> None:
    table = Table(2, CLASSES["base"], Traits(norms=False, biases=biases))
    wanted = {name for name in GOLDEN if "norm" not in name and not name.startswith(("mlm", "layers.10"))}
    if not biases:
        wanted = {name for name in wanted if not (name.startswith("layers.") and name.endswith("bias"))}
    assert wanted <= set(table.by_canonical)
    assert not [name for name in table.by_canonical if "norm" in name]
    assert biases or not [n for n in table.by_canonical if n.startswith("layers.") and n.endswith("bias")]
    for canonical in wanted:
        name, transposed = GOLDEN[canonical][dialect]
        if dialect == "paddle" and name.startswith("roformer."):
            name = "roformerv2." + name.removeprefix("roformer.")
        tensor = table.by_canonical[canonical]
        assert (tensor.name(dialect), tensor.transposed(dialect)) == (name, transposed)
        prefix = {"paddle": "roformerv2.", "torch": "roformer."}.get(dialect, "")
        assert tensor.name(dialect, base=True) == name.removeprefix(prefix)


# --- every row at fault ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One fault in a class's rows.

    Attributes:
        what: In words, for the test's name.
        kind: The class.
        row: Canonical name.
        group: Where the row stands.
        rows: What stands there instead.
        dialects: Whose files are misread.
    """

    what: str
    kind: str
    row: str
    group: Group
    rows: tuple[Row, ...]
    dialects: tuple[Dialect, ...]


def faults() -> Iterator[Fault]:
    """Drop each row, turn its matrix in each dialect, and take another name in each."""
    for kind in HEADS:
        for group in CLASSES[kind].heads:
            if group in CLASSES["base"].heads:
                continue
            for row in group.rows:
                names = [d for d, name in zip(DIALECTS, row.spelling, strict=True) if name is not None]

                def instead(other: Row | None, row: Row = row, group: Group = group) -> tuple[Row, ...]:
                    return tuple(r for r in (other if each is row else each for each in group.rows) if r is not None)

                yield Fault(f"{kind}: drop {row.canonical}", kind, row.canonical, group, instead(None), tuple(names))
                for dialect in names:
                    turned = replace(row, kind=tuple(flip(leaf, dialect) for leaf in row.kind))
                    what = f"{kind}: turn {row.canonical} in {dialect}"
                    yield Fault(what, kind, row.canonical, group, instead(turned), (dialect,))
                    other = list(row.spelling)
                    other[DIALECTS.index(dialect)] = f"{other[DIALECTS.index(dialect)]}x"
                    renamed = replace(mutable(row), forced=Spelling(*other))
                    what = f"{kind}: rename {row.canonical} in {dialect}"
                    yield Fault(what, kind, row.canonical, group, instead(renamed), (dialect,))


FAULTS = list(faults())


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    with rows_instead({fault.group: fault.rows}):
        yield


@dataclass
class Witness:
    """A folder of other software, found once, and what that software computed."""

    folder: str
    found: Found

    def complaint(self) -> str:
        """Say how our reading of the file differs from its writer's, or nothing."""
        try:
            with fit(self.found, any_vocab=True).require() as checkpoint:
                model = Forward({name: checkpoint.read(name) for name in checkpoint}, checkpoint.config)
            inputs = inputs_of(self.folder)
            kind = WITNESSES[self.folder]
            got = model.choices(**inputs) if kind == "multiple-choice" else self.answers(model, kind, inputs)
            worst = float(np.abs(got - np.load(PEERS / self.folder / "logits.npy")).max())
        except (MisfitError, KeyError, ValueError) as error:
            return str(error)
        return "" if worst <= 1e-5 else f"{self.folder}: logits differ by {worst:.2g}"

    @staticmethod
    def answers(model: Forward, kind: str, inputs: dict[str, Array]) -> Array:
        hidden = model.hidden(**inputs)
        if kind == "masked-lm":
            return model.logits(hidden)
        return model.row_labels(hidden) if kind == "sequence-classification" else model.token_labels(hidden)


@pytest.fixture(scope="module")
def witnesses() -> list[Witness]:
    return [Witness(folder, identify(PEERS / folder, set=SET.get(folder))) for folder in WITNESSES]


def test_the_heads_compute_what_their_writers_computed(witnesses: Sequence[Witness]) -> None:
    assert [witness.complaint() for witness in witnesses] == [""] * len(WITNESSES)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_in_a_heads_row_is_noticed_by_name_and_by_the_writers_logits(
    fault: Fault, witnesses: Sequence[Witness]
) -> None:
    with planted(fault):
        assert any(line.startswith(f"{fault.kind} {fault.row}.") for line in complaints())
        for dialect in fault.dialects:
            if dialect == "tf1":  # no software has a head for it: the names by hand decide
                continue
            mine = [w for w in witnesses if WITNESSES[w.folder] == fault.kind and w.found.dialect == dialect]
            assert mine, (fault.kind, dialect)
            told = [witness.complaint() for witness in mine if witness.found.shape.traits.norms]
            assert all(told), f"{dialect}: {fault.what} computes the same"
    assert complaints() == []


def test_the_encoder_is_in_every_class() -> None:
    for kind in CLASSES.values():
        for traits in (Traits(), Traits(norms=False, biases=False)):
            assert Table(1, kind, traits).groups[: len(ENCODER)] == ENCODER


# --- what the table says beside names -------------------------------------------------------------------------------


#: (dialect, class, V2) whose own software has no place for the pooler; the sentence-order head has one in TF1 alone.
POOLER_UNREAD = {
    (dialect, kind, v2)
    for dialect in ("torch", "tf", "paddle")
    for kind in CLASSES
    for v2 in (False, True)
    if not (dialect == "paddle" and not v2)  # PaddleNLP's RoFormer has one in every class
    and not (dialect == "torch" and v2 and kind == "causal-lm")  # so has JunnYu's causal RoFormerV2
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("v2", [False, True])
def test_groups_that_the_software_has_no_place_for(dialect: Dialect, kind: str, v2: bool) -> None:
    groups = [group.name for group in unread(dialect, CLASSES[kind], Traits(norms=not v2))]
    assert ("pooler" in groups) == ((dialect, kind, v2) in POOLER_UNREAD)
    assert ("sentence-order head" in groups) == (dialect != "tf1")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_size_is_measured_by_its_tensor(tmp_path: Path, dialect: Dialect) -> None:
    write_random(tmp_path / "ckpt", dialect)
    sizes = identify(tmp_path / "ckpt").shape.sizes
    for field in SYMBOLS.values():
        if field != "num_labels":
            assert sizes[field] == getattr(CONFIG, field), field
    assert sizes["num_hidden_layers"] == CONFIG.num_hidden_layers


@pytest.mark.parametrize("folder", [folder for folder, kind in WITNESSES.items() if "classification" in kind])
def test_the_number_of_labels_is_the_writers_number_of_logits(folder: str) -> None:
    assert identify(PEERS / folder).shape.sizes["num_labels"] == np.load(PEERS / folder / "logits.npy").shape[-1]


@pytest.mark.parametrize("folder", sorted(path.name for path in PEERS.glob("hf[45]-*")))
def test_a_class_is_called_as_transformers_calls_its_own(folder: str) -> None:
    (name,) = json.loads((PEERS / folder / "config.json").read_text())["architectures"]
    assert identify(PEERS / folder).kind.class_name == name.removeprefix("TF")


def test_classes_with_a_masked_lm_head_score_words_and_the_names_of_the_others_heads_are_not_theirs_alone() -> None:
    wordy = ("masked-lm", "pretraining", "causal-lm")
    said = {name: (kind.scores_words, kind.stated) for name, kind in CLASSES.items()}
    assert said == {name: (name in wordy, name not in (*wordy, "base")) for name in CLASSES}


def test_a_leaf_says_how_many_axes_its_tensors_have() -> None:
    for kind in CLASSES.values():
        for traits in (Traits(), _V2):
            for row, tensor in outline(kind, traits):
                (axes,) = {
                    leaf.axes for leaf in row.kind if tensor.canonical == f"{row.canonical}.{leaf.name}".rstrip(".")
                }
                assert axes == len(tensor.axes), tensor.canonical


def test_a_head_may_lack_its_bias_in_roformer_v2_alone() -> None:
    """PaddleNLP's RoFormerV2 has such heads; in a RoFormer a file without it is damaged."""
    for kind in HEADS:
        for traits in (Traits(), Traits(norms=False), Traits(norms=False, biases=False)):
            rows = Table(0, CLASSES[kind], traits).by_canonical
            assert rows["classifier.bias"].optional is not traits.norms
            assert not rows["classifier.weight"].optional
