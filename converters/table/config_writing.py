"""Spell a configuration as a dialect's own file has it, and say what of the source's is left out or changed.

What the target's software would compute otherwise is told by :mod:`.differences`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import quoted
from ..json_input import Json
from .activations import spell_activation
from .config import RoFormerConfig
from .config_fields import FIELDS, RECORD, SourceConfig
from .config_reading import examine
from .derived_fields import spelled_pooler, write_derived
from .dialects import DIALECT_FILES
from .mapping import CAUSAL_LM, MASKED_LM, PRETRAINING, Dialect, ModelClass, Spelling, Traits

#: What :mod:`.differences` tells of.
_TOLD_AS_DIFFERENCES = ("layer_norm_eps", "rotary_value")

#: Provenance of the software that wrote the source: meaningless to another's loader, so left out and reported.
PROVENANCE = ("transformers_version", "paddlenlp_version", "_from_model_config")
#: Keys without a field that change what a dialect's loader hands back: (key, value) → what it would do there.
_MISREAD: Mapping[Dialect, Mapping[tuple[str, Any], str]] = {
    # every config.json of transformers says so, where it means nothing outside a decoder
    "paddle": {
        ("use_cache", True): "PaddleNLP's model would return its cache beside the logits, as a tuple",
        ("output_hidden_states", True): "PaddleNLP's model would return them beside the logits, as a tuple",
        ("output_attentions", True): "PaddleNLP's model would return them beside the logits, as a tuple",
        ("return_dict", True): "PaddleNLP's model would return a dictionary instead of the logits",
    },
    # PaddleNLP's default, and what was set to trace the source's model; neither is a fact about the weights
    "torch": {
        ("return_dict", False): "transformers' model would return a tuple, which has no .logits",
        ("torchscript", True): "transformers before 5 would return a tuple, which has no .logits",
    },
    "tf": {
        ("return_dict", False): "transformers' TF model would return a tuple, which has no .logits",
        ("torchscript", True): "transformers' TF model would return a tuple, which has no .logits",
    },
}
#: Keys that send a loader to something that does not travel → why they are left out.
_LEADS_ASTRAY: Mapping[str, str] = {
    "auto_map": "it names code of the source's repository, which does not travel",
    "custom_pipelines": "they are code of the source's repository, which does not travel",
    "trust_remote_code": "no code travels, and whether to run any is for whoever loads the result to say",
    "_name_or_path": "it says where the source was loaded from, and that is another model's place now",
    "quantization_config": "the weights are written as numbers, and a loader would look for quantized ones",
}


def class_name(kind: ModelClass, config: RoFormerConfig, target: Dialect) -> str:
    """Name the class of ``target``'s software that loads what is written."""
    v2 = not Traits.of(config).norms
    if kind is PRETRAINING or (v2 and target == "paddle" and kind is CAUSAL_LM):
        kind = MASKED_LM  # nobody else has a class for pretraining, nor PaddleNLP one for a causal RoFormerV2
    return f"{'RoFormerv2' if v2 and target == 'paddle' else 'RoFormer'}{kind.suffix}"


def write(
    source: SourceConfig, target: Dialect, *, kind: ModelClass, dtype: str, pooler: bool = True
) -> tuple[Json, list[str]]:
    """Spell a configuration in ``target``'s file; return it and what of the source's is left out or changed.

    Args:
        source: The configuration as it was read.
        target: The dialect.
        kind: The class of what is written.
        dtype: The weights' type.
        pooler: Whether there is a pooler.
    """
    position = Spelling._fields.index(target)
    config = source.config
    notes: list[str] = []
    out: Json = {}
    v2 = not Traits.of(config).norms
    architecture = class_name(kind, config, target)
    if target != "tf1":
        out["architectures"] = [architecture]
        out["model_type"] = "roformerv2" if v2 and target == "paddle" else "roformer"
        # transformers before 4.56 reads torch_dtype and later ones dtype. PaddleNLP reads dtype and computes in it,
        # which fails for half types on a CPU (no kernel for its rotary table): without the key it loads as float32
        if target != "paddle" or dtype == "float32":
            out["dtype"] = dtype
        if target == "torch":
            out["torch_dtype"] = dtype
    elif kind.stated or kind is CAUSAL_LM or v2:
        out["architectures"] = [architecture]  # bert4keras reads no such key; whoever converts it back does
    pooler_spelled = spelled_pooler(config, source.spellings.get("pooler_activation"), target)
    for item in FIELDS:
        value, key = getattr(config, item.name), item.key[position]
        if key is None or (value is None and item.name != "pad_token_id"):
            continue
        if item.name == "num_choices" and value == 2 and kind.name != "multiple-choice":
            continue
        if item.name == "hidden_act":
            value = spell_activation(value, source.spellings.get(item.name), target) or value
        fixed = item.fixed[position]
        if fixed is not None and value != fixed and item.name not in _TOLD_AS_DIFFERENCES:
            notes.append(f"{key} = {value} is written, but {DIALECT_FILES[target].software} will compute with {fixed}")
        out[key] = value
    if target == "paddle" and "num_choices" in source.assumed:  # no other software reads it
        notes.append(
            f"num_choices = {config.num_choices} is assumed, which PaddleNLP reads: no file says it; otherwise "
            "--set num_choices=…"
        )
    out |= write_derived(config, target, kind, pooler=pooler, pooler_spelled=pooler_spelled)
    notes += _carry(source.extra, out, target, architecture)
    record = _unsaid(out, source, target, kind, pooler=pooler)
    if record:
        out[RECORD] = record
    return out, notes


def _carry(extra: Mapping[str, Any], out: Json, target: Dialect, architecture: str) -> list[str]:
    """Add the keys that have no field, but for those that would mislead a loader; return what is to be said of them."""
    notes: list[str] = []
    for key, value in extra.items():
        if key in PROVENANCE:
            if value is not None and value is not True:
                notes.append(f"{key} = {quoted(value)} is left out: it names the software that wrote the source")
        elif isinstance(value, bool) and (key, value) in _MISREAD.get(target, {}):
            notes.append(f"{key} = {value} is left out: {_MISREAD[target][key, value]}")
        elif key in _LEADS_ASTRAY:
            if value not in (None, ""):
                shown = key if key == "_name_or_path" else f"{key} = {quoted(value)}"  # a path is somebody's own
                notes.append(f"{shown} is left out: {_LEADS_ASTRAY[key]}")
        elif key == "architectures":
            if value and _suffix(value[0] if isinstance(value, list) else value) != _suffix(architecture):
                notes.append(f"{key} = {quoted(value)} is not carried: the class for what is written is {architecture}")
        elif key == "tie_word_embeddings":
            # the masked-LM head has no kernel of its own in any dialect: a second copy was required to be equal
            out[key] = True
            if value is not True:
                notes.append(
                    f"{key} = {quoted(value)} is written as True: the head's kernel is the word embeddings here, and "
                    "transformers would make a random one"
                )
        elif key not in out:
            out[key] = value
    return notes


def _unsaid(out: Json, source: SourceConfig, target: Dialect, kind: ModelClass, *, pooler: bool) -> Json:
    """Return the fields that, read back from ``target``'s own keys, would be assumed or mean something else."""
    back = examine(out, None, target, {}, where=Path(), kind=kind, pooler=pooler).source
    assert back is not None, "what is written can be read"
    return {
        item.name: getattr(source.config, item.name)
        for item in FIELDS
        if getattr(back.config, item.name) != getattr(source.config, item.name)
        or item.name in back.assumed - source.assumed
    }


def _suffix(name: Any) -> str:
    """Return what a class's name says beside the family and the framework."""
    return str(name).removeprefix("TF").removeprefix("RoFormerv2").removeprefix("RoFormer")
