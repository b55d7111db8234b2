"""Whose tensors they are, where not one name is a RoFormer's: by what the names of other models have in common.

A whole file is asked about here; of single names in a RoFormer's file :func:`.recognition.looks_like` tells.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..errors import quoted
from .mapping import DIALECTS
from .recognition import count_known_names


@dataclass(frozen=True)
class Stranger:
    """Another model's tensors.

    Attributes:
        what: What the tensors are, as a sentence continues: "GPT-2's".
        step: What to do.
    """

    what: str
    step: str


_MERGE = (
    "Merge them into their base model first: PeftModel.from_pretrained(base, FOLDER).merge_and_unload(), or where it "
    "was trained model.merge_and_unload(), and save what that returns."
)
_FULL = (
    "Start from the weights that were quantized. If they are lost: load it with the software that quantized it, make "
    "its weights floating again (transformers: model.dequantize()), and save that."
)
_STATE = "Name the file with the model instead; it lies in the same folder, or is another key of what was saved."
_ANOTHER = "Another model's weights cannot be a RoFormer's: name a RoFormer checkpoint."

#: A name that only adapters have; a file that holds one is theirs, whatever else is in it.
#: Sources: ``adapter_layer_names`` of the tuners in peft 0.19; AdapterHub's adapters 1.2, ``adapter.py``.
_ADAPTED = re.compile(
    r"(^|[./])((lora|hada|lokr|ia3|oft|boft|vera|fourierft|randlora|shira|vblora|delora|waveft|gralora|trainable_tokens)_\w+|"
    r"hra_u|miss_block|bone_block|c3a_kernel|prompt_embeddings|adapters|adapter_(down|up)|prefix_tunings?)([./]|$)"
)
#: What quantized weights have beside them, or in their place: bitsandbytes, GPTQ and AWQ, compressed-tensors, PyTorch.
_QUANTIZED = re.compile(
    r"\.(SCB|weight_format|weight\.(absmax|quant_map|nested_absmax|quant_state\.[\w.]+)|qweight|qzeros|g_idx|weight_packed|"
    r"weight_scale(_inv)?|weight_zero_point|_packed_params\._packed_params)(\.|$)"
)
_BY_NUMBER = re.compile(r"(^|\.)(shadow_params|collected_params)\.\d+$")
_ANY_STATE = (
    r"(^|[./_])(exp_avg|exp_avg_sq|momentum_buffer|moment[12](_0)?|beta[12]_pow_acc(_0)?|master_weights|"
    r"param_groups|optimizer_states?|lr_schedulers?)([./]|$)"
)
#: Pattern of a name → whose it is; the first that some name has decides.
_WHOSE: tuple[tuple[str, str], ...] = (
    (r"(^|\.)bert[./]", "BERT's"),
    (r"(^|\.)ernie[_.]?", "ERNIE's"),
    (r"(^|\.)(xlm_)?roberta[./]", "RoBERTa's"),
    (r"(^|\.)albert[./]", "ALBERT's"),
    (r"(^|\.)electra[./]", "ELECTRA's"),
    (r"(^|\.)nezha[./]", "NEZHA's"),
    (r"(^|\.)deberta[./]", "DeBERTa's"),
    (r"(^|\.)distilbert[./]", "DistilBERT's"),
    (r"(^|\.)esm[./]", "ESM's"),
    (r"(^|\.)(wte|h\.\d+\.attn\.c_attn)\.", "GPT-2's"),
    (r"\.layers\.\d+\.self_attn\.(q|k|v)_proj\..*", "those of a decoder such as LLaMA, Qwen or BART"),
    (r"block\.\d+\.layer\.\d+\.SelfAttention", "T5's"),
    (r"transformer\.layer\.\d+\.(rel_attn|attention\.q_lin)", "XLNet's or DistilBERT's"),
    (r"^(conv1|layer[1-4]\.\d+\.conv\d)\.", "ResNet's"),
    (r"vision_model|patch_embed|visual\.", "those of a vision model"),
)


def altered(names: Iterable[str]) -> Stranger | None:
    """Say that a file has adapters' or quantized tensors, or return None: whatever else is in it, no model is whole."""
    for name in names:
        if _ADAPTED.search(name):
            return Stranger(f"adapters (LoRA and the like), such as {quoted(name)}", _MERGE)
        if _QUANTIZED.search(name):
            return Stranger(f"quantized weights, as {quoted(name)} shows", _FULL)
    return None


def whose(names: Collection[str]) -> Stranger | None:
    """Say whose the tensors of a file are by all their names, or None where one is a RoFormer's."""
    if any(count_known_names(dialect, names) for dialect in DIALECTS):
        return None
    if not names:
        return Stranger("none is there at all", "Name a file with weights, or save it again.")
    if any(name.split(".")[-1].startswith("_flat_param") for name in names):
        step = "Save the full state dict where it was trained: FullStateDictConfig, or accelerate's merge-weights."
        return Stranger("parameters that FSDP has made flat", step)
    if any(map(_BY_NUMBER.search, names)):
        step = (
            "Put them into the model where it was trained (torch_ema: ema.copy_to(model.parameters())), and save that."
        )
        return Stranger("averages of parameters, which have numbers and no names", step)
    if any(re.search(_ANY_STATE, name) for name in names):
        return Stranger("the state of an optimizer or of a training run", _STATE)
    owner = next((words for pattern, words in _WHOSE if any(re.search(pattern, name) for name in names)), None)
    if owner is not None:
        return Stranger(owner, _ANOTHER)
    example = quoted(next(iter(names)))
    step = "If somebody gave them other names, give them the table's back; otherwise name a RoFormer checkpoint."
    return Stranger(f"not one is a RoFormer's, nor another's that is known here, such as {example}", step)
