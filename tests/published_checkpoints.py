"""What is published of the family, rebuilt small: the weights of one of the peers' folders under the published keys.

The keys are those of the published configurations, and what these leave out is left out here; sizes are the folder's.

Sources: ``junnyu``'s and ``alchemab``'s model cards and configurations; ``pretrained_init_configuration`` of PaddleNLP
2.8.1; Zhuiyi's archives, whose ``bert_config.json`` is Google's with an embedding size.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_folders import PEERS

Json = dict[str, Any]

_DROPOUT: Json = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1}
#: JunnYu's V1, as transformers 4.6 wrote it.
_JUNNYU: Json = {
    "architectures": ["RoFormerForMaskedLM"],
    "embedding_size": 768,
    "hidden_act": "gelu",
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 1536,
    "model_type": "roformer",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "rotary_value": False,
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 50000,
    **_DROPOUT,
}
_SIM: Json = {**_JUNNYU, "eos_token_id": 102, "max_position_embeddings": 512, "vocab_size": 12000}
_V2: Json = {**_JUNNYU, "hidden_act": "relu", "norm_type": "rms_norm", "use_bias": False, "vocab_size": 12000}
_ANTIBERTA: Json = {
    **_JUNNYU,
    "hidden_size": 1024,
    "max_position_embeddings": 256,
    "torch_dtype": "float32",
    "transformers_version": "4.30.2",
    "vocab_size": 30,
}
_PADDLE: Json = {
    "vocab_size": 50000,
    "embedding_size": 768,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 1536,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "rotary_value": False,
    **_DROPOUT,
}
_PADDLE_SIM: Json = {**_PADDLE, "eos_token_id": 102, "pool_act": "linear"}
_PADDLE_V2: Json = {
    "vocab_size": 12000,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "relu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "rotary_value": False,
    "use_bias": False,
    **_DROPOUT,
}
_ZHUIYI: Json = {
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "type_vocab_size": 2,
    "vocab_size": 50000,
    "embedding_size": 768,
    **_DROPOUT,
}


def _without(config: Json, *keys: str) -> Json:
    return {key: value for key, value in config.items() if key not in keys}


@dataclass(frozen=True)
class Published:
    """One checkpoint.

    Attributes:
        folder: The peers' folder that lends its weights and what was computed of them.
        config: Its configuration.
        set: What its owner has to say, for no file does.
        any_vocab: Whether its vocabulary has other than ``vocab_size`` rows.
        kind: The class that it is.
        refused: Dialects whose software would compute something else.
        note: Words of a note that the conversion gives.
    """

    folder: str
    config: Json
    set: Json = field(default_factory=dict)
    any_vocab: bool = False
    kind: str = "RoFormerForMaskedLM"
    refused: tuple[str, ...] = ()
    note: str = ""

    def build(self, root: Path, name: str) -> Path:
        """Make its directory."""
        path = root / name
        path.mkdir()
        source = PEERS / self.folder
        for file in source.iterdir():
            if file.suffix not in (".json", ".npy", ".npz", ".meta"):
                shutil.copy(file, path / file.name)
        own = next(file for file in source.glob("*config.json") if not file.name.startswith("generation"))
        small = json.loads(own.read_text())
        small.setdefault("embedding_size", small["hidden_size"])
        sizes = ("size", "layers", "heads", "embeddings")
        config = {key: small.get(key, value) if key.endswith(sizes) else value for key, value in self.config.items()}
        (path / own.name).write_text(json.dumps(config, indent=2))
        if self.any_vocab:
            rows = [f"token{number}" for number in range(small["vocab_size"] - 2)]
            (path / "vocab.txt").write_text("\n".join(rows) + "\n")
        return path


_BIN, _V2_BIN, _SIM_BIN = "hf4-MaskedLM_default_bin", "junn-MaskedLM_v2_bin", "junn-CausalLM_poollin_bin"
_CAUSAL = "RoFormerForCausalLM"
_LINEAR = {"pooler_activation": "linear"}
_GPT, _UNI = ("paddle", "tf"), ("paddle", "tf", "torch")

#: Its name as it is published → the checkpoint.
PUBLISHED: dict[str, Published] = {
    "roformer_chinese_base": Published(_BIN, _JUNNYU),
    "roformer_chinese_small": Published(_BIN, _without(_JUNNYU, "max_position_embeddings")),
    "roformer_chinese_char_base": Published(_BIN, _without(_JUNNYU, "embedding_size")),
    "roformer_chinese_char_small": Published(_BIN, _JUNNYU),
    "roformer_base_wwm_cluecorpussmall": Published(_BIN, _JUNNYU),
    "roformer_small_generator": Published(
        "hf4-MaskedLM_generator_bin", {**_JUNNYU, "rotary_value": True}, refused=("tf1",)
    ),
    "roformer_small_discriminator": Published(
        "hf4-Model_discriminator_bin",
        {**_JUNNYU, "architectures": ["RoFormerModel"], "rotary_value": True},
        kind="RoFormerModel",
        refused=("tf1",),
    ),
    # the card sets pooler_activation in code, and its use is UniLM or vectors alone
    "roformer_chinese_sim_char_base": Published(_SIM_BIN, _SIM, _LINEAR),
    "roformer_chinese_sim_char_small": Published(_SIM_BIN, _SIM, note="pooler_activation = tanh is assumed"),
    "roformer_chinese_sim_char_ft_base": Published(_SIM_BIN, {**_SIM, **_LINEAR}),
    "roformer_chinese_sim_char_ft_small": Published(_SIM_BIN, _SIM, {**_LINEAR, "attention": "unilm"}, refused=_UNI),
    "roformer_v2_chinese_char_small": Published(_V2_BIN, _V2, refused=("tf",), note="JunnYu's package"),
    "roformer_v2_chinese_char_base": Published(_V2_BIN, _V2, refused=("tf",)),
    "roformer_v2_chinese_char_large": Published(_V2_BIN, _without(_V2, "layer_norm_eps"), refused=("tf",)),
    "antiberta2": Published(_BIN, _ANTIBERTA, any_vocab=True),
    "antiberta2-cssp": Published(_BIN, {**_ANTIBERTA, "_name_or_path": "alchemab/antiberta2"}),
    "roformer-chinese-small": Published("pd-MaskedLM_default_pd", _PADDLE),
    "roformer-chinese-base": Published("pd-MaskedLM_default_pd", _PADDLE),
    "roformer-chinese-char-small": Published("pd-MaskedLM_default_pd", _PADDLE),
    "roformer-chinese-char-base": Published("pd-MaskedLM_default_pd", _PADDLE),
    "roformer-chinese-sim-char-small": Published("pd-MaskedLM_poollin_pd", _PADDLE_SIM),
    "roformer-chinese-sim-char-base": Published("pd-MaskedLM_poollin_pd", _PADDLE_SIM),
    "roformer-chinese-sim-char-ft-small": Published("pd-MaskedLM_poollin_pd", _PADDLE_SIM),
    "roformer-chinese-sim-char-ft-base": Published("pd-MaskedLM_poollin_pd", _PADDLE_SIM),
    "roformer-english-small-discriminator": Published(
        "pd-Model_discriminator_pd", {**_PADDLE, "rotary_value": True}, kind="RoFormerModel", refused=("tf1",)
    ),
    "roformer-english-small-generator": Published(
        "pd-MaskedLM_generator_pd", {**_PADDLE, "rotary_value": True}, refused=("tf1",)
    ),
    "roformer_v2_chinese_char_small.paddle": Published("pd-MaskedLM_v2_pd", _PADDLE_V2, refused=("tf",)),
    "roformer_v2_chinese_char_base.paddle": Published("pd-MaskedLM_v2_pd", _PADDLE_V2, refused=("tf",)),
    "roformer_v2_chinese_char_large.paddle": Published("pd-MaskedLM_v2_pd", _PADDLE_V2, refused=("tf",)),
    "chinese_roformer_L-12_H-768_A-12": Published("b4k-MaskedLM_default", _ZHUIYI),
    "chinese_roformer-char_L-6_H-384_A-6": Published("b4k-MaskedLM_default", _ZHUIYI),
    "chinese_roformer-char_L-12_H-768_A-12": Published("b4k-MaskedLM_default", _ZHUIYI),
    # the name of the folder tells what no file does: the mask, and the pooler
    "chinese_roformer-gpt-char_L-12_H-768_A-12": Published(
        "b4k-LM_default", _ZHUIYI, kind=_CAUSAL, refused=_GPT, note="attention = causal"
    ),
    "chinese_roformer-sim-char_L-12_H-768_A-12": Published(
        "b4k-UniLM_sim", _ZHUIYI, kind=_CAUSAL, refused=_UNI, note="pooler_activation = linear"
    ),
    "chinese_roformer-sim-char-ft_L-6_H-384_A-6": Published(
        "b4k-UniLM_sim", _ZHUIYI, kind=_CAUSAL, refused=_UNI, note="attention = unilm"
    ),
    "chinese_roformer-v2-char_L-6_H-384_A-6": Published(
        "b4k-MaskedLM_v2", {**_ZHUIYI, "hidden_act": "relu"}, refused=("tf",), note="rms_norm"
    ),
    "chinese_roformer-v2-char_L-24_H-1024_A-16": Published(
        "b4k-MaskedLM_v2", {**_ZHUIYI, "hidden_act": "relu"}, refused=("tf",)
    ),
}
