"""Properties that hold of every plan, every split into shards and every configuration, on random ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from golden_names import stored_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_checkpoints import CONTAINERS, SHAPES, write_random

from roformer_convert.converters import RoFormerConfig, open_checkpoint
from roformer_convert.converters.source.checkpoint import Checkpoint
from roformer_convert.converters.table import config_reading, config_writing
from roformer_convert.converters.table.activations import ACTIVATIONS
from roformer_convert.converters.table.config_fields import SourceConfig
from roformer_convert.converters.table.mapping import DIALECTS, MASKED_LM, PRETRAINING, Dialect, Table
from roformer_convert.converters.target.plan import make_plan

SOURCES: tuple[tuple[str, Dialect], ...] = (
    ("everything", "paddle"), ("no-projection", "torch"), ("masked-lm", "tf"), ("no-pooler", "tf1"), ("base", "torch"),
    ("base-pooler", "tf1"), ("base-sop", "paddle"),
)  # fmt: skip

#: The second names that one file of a dialect's usual container has beside the tensors' own.
SECOND_NAMES: dict[Dialect, list[str]] = {
    "paddle": ["cls.predictions.decoder_weight"],  # a pickle refers to the same array
    "torch": ["cls.predictions.decoder.bias"],  # safetensors: a vector, which PaddleNLP's import reads alone
    "tf": [],
    "tf1": [],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Checkpoint]]:
    """One open checkpoint of each kind, in some dialect; a plan looks at no payload."""
    root, opened = tmp_path_factory.mktemp("sources"), {}
    with ExitStack() as stack:
        for shape, dialect in SOURCES:
            write_random(root / shape, dialect, shape)
            opened[shape] = stack.enter_context(open_checkpoint(root / shape))
        yield opened


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    shape=st.sampled_from([shape for shape, _ in SOURCES]),
    target=st.sampled_from(DIALECTS),
    dtype=st.sampled_from([None, "float32", "float16"]),
)
def test_a_plan_has_each_tensor_once_under_its_name_transposed_as_its_software_wants(
    sources: dict[str, Checkpoint], shape: str, target: Dialect, dtype: str | None
) -> None:
    source, dialect = sources[shape], dict(SOURCES)[shape]
    base = "mlm.bias" not in source
    plan = make_plan(source, target, dtype=dtype)
    (file,) = plan.files
    sizes = SHAPES[shape][0].sizes
    rows = Table(source.config.num_hidden_layers, PRETRAINING).by_canonical
    wanted: dict[str, tuple[int, ...]] = {}
    for canonical in source:
        name, transposed = stored_in(canonical, target, base=base)
        wanted[name] = rows[canonical].shape(sizes)[:: -1 if transposed else 1]
    own = {step.new.name: step for step in file.steps if step.new.name in wanted}
    assert {name: step.new.shape for name, step in own.items()} == wanted
    second = Counter(step.new.name for step in file.steps if not step.computed) - Counter(list(wanted))
    assert second == Counter([] if base else SECOND_NAMES[target])
    assert {step.new.dtype for step in file.steps} == {dtype or "float32"}
    for canonical in source:
        step = own[stored_in(canonical, target, base=base).name]
        assert step.binding is source.bindings[canonical]
        there, here = (stored_in(canonical, one, base=base).transposed for one in (target, dialect))
        assert step.transpose == (there != here and len(step.new.shape) == 2)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    shape=st.sampled_from([shape for shape, _ in SOURCES]),
    container=st.sampled_from(CONTAINERS),
    limit=st.integers(1, 60_000),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_shards_hold_what_one_file_holds_in_its_order_and_none_is_larger_than_it_must_be(
    sources: dict[str, Checkpoint], shape: str, container: tuple[Dialect, str], limit: int, dtype: str
) -> None:
    target, name = container
    (whole,) = make_plan(sources[shape], target, container=name, dtype=dtype).files
    plan = make_plan(sources[shape], target, container=name, dtype=dtype, max_shard_size=limit)
    assert [step for file in plan.files for step in file.steps] == list(whole.steps)
    sizes = [sum(step.new.nbytes for step in file.stored) for file in plan.files]
    for file, size in zip(plan.files, sizes, strict=True):
        assert size <= limit or len(list(file.stored)) == 1, "a shard of several tensors is past the limit"
        here = {step.new.name for step in file.stored}
        assert all(step.new.alias_of in here for step in file.steps if step.new.alias_of is not None)
    for size, after in zip(sizes, plan.files[1:], strict=False):
        assert size + next(after.stored).new.nbytes > limit, "the next tensor would have had room"
    names = [file.filename for file in plan.files]
    assert len(set(names)) == len(names)
    assert names == sorted(names)
    assert (plan.shard_index is None) == (len(names) == 1)
    if len(names) == 1:
        assert names == [whole.filename]
    else:
        assert all(f"-{number:05d}-of-{len(names):05d}." in one for number, one in enumerate(names, 1))


#: Values that no dialect has as a default come up as often as those that one has.
SMALL, SHARE = st.integers(1, 64), st.floats(0, 0.9375, width=16)


@st.composite
def configurations(draw: st.DrawFn) -> RoFormerConfig:
    """A configuration that every dialect can express but where it says otherwise."""
    heads, activation = draw(st.integers(1, 8)), st.sampled_from(sorted(ACTIVATIONS))
    return RoFormerConfig(
        vocab_size=draw(st.integers(8, 500)),
        embedding_size=draw(SMALL),
        hidden_size=heads * 2 * draw(st.integers(1, 8)),
        num_hidden_layers=draw(st.integers(1, 4)),
        num_attention_heads=heads,
        intermediate_size=draw(SMALL),
        hidden_act=draw(activation),
        hidden_dropout_prob=draw(SHARE),
        attention_probs_dropout_prob=draw(SHARE),
        max_position_embeddings=draw(SMALL),
        type_vocab_size=draw(st.integers(1, 4)),
        initializer_range=draw(st.sampled_from([0.01, 0.02, 0.05])),
        layer_norm_eps=draw(st.sampled_from([1e-12, 1e-7, 1e-5])),
        rotary_value=draw(st.booleans()),
        pooler_activation=draw(activation),
        pad_token_id=draw(st.integers(0, 7)),
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(config=configurations(), dialect=st.sampled_from(DIALECTS))
def test_a_field_comes_back_as_it_was_written_or_the_change_is_told(
    tmp_path: Path, config: RoFormerConfig, dialect: Dialect
) -> None:
    measured = {
        name: getattr(config, name)
        for name in (
            "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "intermediate_size", "type_vocab_size",
        )
    }  # fmt: skip
    written, notes = config_writing.write(SourceConfig(config), dialect, kind=MASKED_LM, dtype="float32")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(written))
    again = config_reading.read(path, dialect, measured, where=tmp_path)
    changed: dict[str, Any] = {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name) != getattr(again.config, field.name)
    }
    told = " ".join(notes)
    assert all(name in told for name in changed), (changed, notes)
    # and what was written says the same a second time
    twice, _ = config_writing.write(again, dialect, kind=MASKED_LM, dtype="float32")
    assert twice == written
