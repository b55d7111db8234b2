"""What each of the peers' folders may become, and what it may not, and why: the whole family, class by class.

``peer_folders.py`` has those of plain masked LMs, in every container; here are the heads, the masks, RoFormerV2, the
poolers and the activations. Which pairs cannot be is read off the software's sources and not off ours: :data:`REFUSED`
says it in the fields that a target's own software would compute otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy_roformer import Array
from peer_folders import FOLDERS, PEERS, TRAINED, inputs_of

from roformer_convert.converters import ConvertOptions
from roformer_convert.converters.table.mapping import DIALECTS, Dialect

#: Every folder that is not a masked LM of the usual kind.
FAMILY = tuple(
    sorted(path.name for path in PEERS.iterdir() if path.is_dir() and path.name not in {*FOLDERS, TRAINED.name})
)

#: What no file of a TF1 checkpoint says and its owner has to.
SET: dict[str, dict[str, Any]] = {
    "b4k-LM_default": {"attention": "causal"},
    "b4k-UniLM_default": {"attention": "unilm"},
    "b4k-UniLM_sim": {"attention": "unilm", "pooler_activation": "linear"},
    "b4k-MaskedLM_poollin": {"pooler_activation": "linear"},
}

#: The target has no name for a head, so not even --allow-different writes it.
NO_NAME = ("no name",)
#: bert4keras and Google's BERT have names for a label of a text and for an answer, and for no other head.
_NO_TF1: dict[Dialect, tuple[str, ...]] = {"tf1": NO_NAME}
#: PaddleNLP and transformers' TF classes never mask; transformers' torch classes mask where is_decoder says so.
_CAUSAL: dict[Dialect, tuple[str, ...]] = {"paddle": ("attention",), "tf": ("attention",)}
_UNILM: dict[Dialect, tuple[str, ...]] = {**_CAUSAL, "torch": ("attention",)}
#: transformers computes the dense layer of a sequence classifier with hidden_act, PaddleNLP with pool_act.
_TANH: dict[Dialect, tuple[str, ...]] = {"torch": ("pooler_activation",), "tf": ("pooler_activation",)}
_ROTATED: dict[Dialect, tuple[str, ...]] = {"tf1": ("rotary_value",)}
_V2: dict[Dialect, tuple[str, ...]] = {"tf": ("norm_type",)}
#: PaddleNLP scores the first position, and in RoFormerV1 projects it first.
_LAST: dict[Dialect, tuple[str, ...]] = {"paddle": ("summary_type", "summary_use_proj"), **_NO_TF1}

#: Folder → dialect → the fields in which its software would compute another function; nothing where it converts.
REFUSED: dict[str, dict[Dialect, tuple[str, ...]]] = {
    "b4k-LM_default": _CAUSAL,
    "b4k-UniLM_default": _UNILM,
    "b4k-UniLM_sim": _UNILM,
    "b4k-MaskedLM_v2": _V2,
    "hf4-CausalLM_default_st": _CAUSAL,
    "hf4-MaskedLM_generator_bin": _ROTATED,
    "hf4-Model_discriminator_bin": _ROTATED,
    "hf4-MultipleChoice_default_st": _LAST,
    "hf4-MultipleChoice_default_tf": _LAST,
    "hf4-MultipleChoice_first_bin": _NO_TF1,
    "hf4-MultipleChoice_first_tf": _NO_TF1,
    "hf4-MultipleChoice_mean_st": _LAST,
    "hf4-TokenClassification_default_st": _NO_TF1,
    "hf4-TokenClassification_default_tf": _NO_TF1,
    "hf5-CausalLM_default_st": _CAUSAL,
    "hf5-MaskedLM_gelunew_st": {"paddle": ("hidden_act",)},  # paddle.nn.functional has gelu alone
    "hf5-MultipleChoice_default_st": _LAST,
    "hf5-TokenClassification_names_st": _NO_TF1,
    "junn-MaskedLM_v2_bin": _V2,
    "junn-MaskedLM_v2bias_bin": {**_V2, "tf1": ("use_bias",)},
    # PaddleNLP's RoFormerV2 has neither the dense layer nor, without use_bias, a bias in its heads
    "junn-SequenceClassification_v2_st": {**_V2, "paddle": ("pooler", "classifier.bias")},
    "junn-TokenClassification_v2_bin": {**_V2, **_NO_TF1, "paddle": ("classifier.bias",)},
    "junn-QuestionAnswering_v2_st": {**_V2, "paddle": ("classifier.bias",)},
    "junn-MultipleChoice_v2_bin": {**_V2, **_NO_TF1, "paddle": ("summary_type", "classifier.bias")},
    "pd-MaskedLM_generator_pd": _ROTATED,
    "pd-Model_discriminator_pd": _ROTATED,
    "pd-MaskedLM_v2_pd": _V2,
    # JunnYu's head scores words without a bias, bert4keras' RoFormerV2 has no biases at all
    "pd-MaskedLM_v2bias_pd": {**_V2, "torch": ("mlm.bias",), "tf1": ("use_bias", "mlm.bias")},
    "pd-MultipleChoice_default_pd": _NO_TF1,
    "pd-MultipleChoice_v2_pd": {**_V2, **_NO_TF1, "torch": ("classifier.bias",)},
    "pd-MultipleChoice_v2bias_pd": {**_V2, **_NO_TF1},
    "pd-QuestionAnswering_v2_st": {**_V2, "torch": ("classifier.bias",)},
    "pd-SequenceClassification_default_pd": _TANH,
    "pd-SequenceClassification_legacy_pd": _TANH,
    "pd-SequenceClassification_quickgelu_pd": {"tf1": ("hidden_act", "pooler_activation")},
    # JunnYu's class has a dense layer that PaddleNLP's has not
    "pd-SequenceClassification_v2_pd": {"tf": ("norm_type", "pooler"), "torch": ("pooler", "classifier.bias")},
    "pd-SequenceClassification_v2bias_st": {"tf": ("norm_type", "pooler"), "torch": ("pooler",), "tf1": ("use_bias",)},
    "pd-TokenClassification_classes_pd": _NO_TF1,
    "pd-TokenClassification_default_pd": _NO_TF1,
    "pd-TokenClassification_v2_pd": {**_V2, **_NO_TF1, "torch": ("classifier.bias",)},
    "pd-TokenClassification_v2bias_pd": {**_V2, **_NO_TF1},
}

#: Logits of deviation 0.8 in float32.
TOLERANCE = 1e-5


def source_of(folder: str) -> Dialect:
    """Say in whose words a folder is written."""
    if folder.endswith("_tf"):
        return "tf"
    return {"pd": "paddle", "b4k": "tf1"}.get(folder.partition("-")[0], "torch")  # type: ignore[return-value]


def is_v2(folder: str) -> bool:
    return "_v2" in folder


def refused(folder: str, dialect: Dialect) -> tuple[str, ...]:
    return REFUSED.get(folder, {}).get(dialect, ())


#: Pairs of folder and dialect that convert, and those of another function, which --allow-different writes.
EXPRESSIBLE = tuple((folder, dialect) for folder in FAMILY for dialect in DIALECTS if not refused(folder, dialect))
DIFFERENT = tuple(
    (folder, dialect) for folder in FAMILY for dialect in DIALECTS if refused(folder, dialect) not in ((), NO_NAME)
)
NAMELESS = tuple((folder, dialect) for folder in FAMILY for dialect in DIALECTS if refused(folder, dialect) == NO_NAME)


def options(folder: str, dialect: Dialect, **more: Any) -> ConvertOptions:
    """What a conversion of the folder has to be told."""
    dtype = "float32" if "bfloat16" in folder and dialect == "tf" else None  # HDF5 has no bfloat16
    return ConvertOptions(set=SET.get(folder), dtype=dtype, **more)


def logits_of(folder: str) -> Array:
    logits: Array = np.load(PEERS / folder / "logits.npy")
    return logits


def difference(folder: str, logits: Array, *, everywhere: bool = True) -> float:
    """Largest difference from what the writer computed, at every token or at those that are no padding."""
    want = logits_of(folder)
    assert logits.shape == want.shape
    apart = np.abs(logits - want)
    if not everywhere and want.shape[:2] == (3, 16):
        apart = apart[inputs_of(folder)["attention_mask"] != 0]
    return float(apart.max())


def written(root: Path, folder: str, dialect: Dialect) -> Path:
    """Where a test module puts a conversion."""
    return root / f"{folder}.{dialect}"
