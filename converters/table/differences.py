"""What a target's own software would compute otherwise than the source says: each an error, unless it is allowed.

A note beside a file that computes something else is read by nobody. What is listed here keeps a conversion from being
written; ``--allow-different`` writes it all the same, and records it in the result.

Sources: the modelling files of transformers 5.23 and 4.57 (TF), JunnYu's roformer 0.4.3, PaddleNLP 2.8.1 and bert4keras
0.11.5. How far apart logits were was measured on the random models of ``fixtures/peers``; "no bound" stands where the
target's software puts random numbers in a tensor's place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .activations import in_paddles_heads, spell_activation
from .config import RoFormerConfig
from .config_fields import SourceConfig
from .derived_fields import CHOICE, SEQUENCE
from .dialects import software_of
from .mapping import CAUSAL_LM, MASKED_LM, PRETRAINING, Dialect, ModelClass, Traits

_EPSILON = 1e-12
_LARGEST_EPSILON_IN_PADDLE = 1e-3


@dataclass(frozen=True)
class Difference:
    """One function that a target's software would put in another's place.

    Attributes:
        field: Of the configuration, or what the tensor is.
        here: What the source says.
        there: What the target's software computes.
        apart: The largest difference that was measured, or what bounds it.
        remedy: The line of code after which the software that has loaded the result computes what the source says;
            empty where none is known.
    """

    field: str
    here: str
    there: str
    apart: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.here} here; {self.there} ({self.apart})"


_SEES = {
    "bidirectional": "every token sees every other",
    "causal": "a token sees those before it",
    "unilm": "a token sees those whose sum of token types is at most its own",
}


def differences(source: SourceConfig, target: Dialect, kind: ModelClass, present: Collection[str]) -> list[Difference]:
    """Compare what a source says with what ``target``'s software will compute from the files.

    Args:
        source: Its configuration.
        target: The dialect to write.
        kind: The model's class.
        present: Canonical names of the tensors.
    """
    config = source.config
    return [
        *_of_attention(config, target),
        *_of_encoder(config, target),
        *_of_activations(source, target, kind, "pooler.weight" in present),
        *_of_heads(config, target, kind, present),
    ]


def _of_attention(config: RoFormerConfig, target: Dialect) -> list[Difference]:
    """bert4keras is told its mask in code, and transformers' torch classes mask causally; nobody else masks at all."""
    software, v2 = software_of(target, config), not Traits.of(config).norms
    if config.attention == "bidirectional" or target == "tf1":
        return []
    if config.attention == "causal" and target == "torch" and not v2:
        return []
    there = f"{software} lets every token see every other, whatever the file says"
    if target == "torch" and not v2:
        there = f"{software} does so where its caller passes a 4-D mask; otherwise every token sees every other"
    apart = {
        "causal": "up to 3.0 off in logits of 3.1",
        "unilm": "up to 2.1 off in logits of 3.1; for texts of token type 0 alone the two are the same",
    }[config.attention]
    return [Difference("attention", f"{config.attention}, {_SEES[config.attention]},", there, apart)]


def _of_encoder(config: RoFormerConfig, target: Dialect) -> list[Difference]:
    software, v2 = software_of(target, config), not Traits.of(config).norms
    found = []
    if config.rotary_value and target == "tf1":
        found.append(
            Difference(
                "rotary_value",
                "values are rotated too",
                f"{software} rotates queries and keys alone",
                "up to 1.5 off in logits of 3.3",
            )
        )
    fixed = (target == "tf1" and not v2) or (target == "paddle" and v2)
    if fixed and config.layer_norm_eps != _EPSILON:
        apart = f"up to {config.layer_norm_eps / 2:.2g} of each normalized value whose variance is 1"
        found.append(
            Difference(
                "layer_norm_eps",
                f"{config.layer_norm_eps:g}",
                f"{software} computes with 1e-12 whatever the file says",
                apart,
            )
        )
    if target == "paddle" and not v2 and config.layer_norm_eps > _LARGEST_EPSILON_IN_PADDLE:
        found.append(
            Difference(
                "layer_norm_eps",
                f"{config.layer_norm_eps:g}",
                "PaddlePaddle refuses more than 1e-3",
                "no result at all",
            )
        )
    if v2 and target == "tf":
        there = f"{software} builds norms with weights and layers with biases, and starts those at random"
        found.append(Difference("norm_type", "rms_norm without parameters (RoFormerV2)", there, "up to 4.2 off"))
    elif not v2 and not config.use_bias and target == "tf1":
        there = f"{software} wants a bias of each, and does not load a checkpoint without"
        found.append(Difference("use_bias", "the encoder's kernels have no biases", there, "no result at all"))
    elif v2 and config.use_bias and target == "tf1":
        found.append(
            Difference(
                "use_bias", "the encoder's kernels have biases", "bert4keras builds RoFormerV2 without", "no bound"
            )
        )
    if v2 and target == "tf1" and config.embedding_size != config.hidden_size:
        there = f"{software}'s RoFormerV2 projects without a bias"
        found.append(
            Difference("embedding_size", "embeddings are projected with a bias", there, "up to 1.1 off in 2.9")
        )
    if v2 and target == "paddle" and config.embedding_size != config.hidden_size:
        found.append(
            Difference(
                "embedding_size",
                f"{config.embedding_size}, projected to hidden_size",
                "PaddleNLP's RoFormerV2 has no projection",
                "no result at all",
            )
        )
    return found


def _of_activations(source: SourceConfig, target: Dialect, kind: ModelClass, pooler: bool) -> list[Difference]:
    config, software = source.config, software_of(target, source.config)
    v1 = Traits.of(config).norms
    found = []
    fields = ["hidden_act"]
    read_there = kind in (SEQUENCE, CHOICE) or target == "paddle"
    if pooler and (read_there or target == "tf1"):
        fields.append("pooler_activation")
    for name in fields:
        value = getattr(config, name)
        in_head = name == "pooler_activation"
        spelled = spell_activation(value, source.spellings.get(name), target, in_head=in_head)
        if target == "paddle" and name == "hidden_act" and kind.scores_words and v1 and not in_paddles_heads(value):
            spelled = None  # the masked-LM head's transform is activated as heads are
        if spelled is None:
            there = f"{software} has no such function, and will not build the model"
            found.append(Difference(name, value, there, "no result at all"))
    if kind is SEQUENCE and pooler and target in ("torch", "tf") and config.pooler_activation != config.hidden_act:
        there = f"{software} computes it with hidden_act = {config.hidden_act}"
        apart = "gelu for tanh: up to 0.68 off in logits of 0.92"
        here = f"{config.pooler_activation} between the classifier's dense layer and its labels"
        spelled = spell_activation(config.pooler_activation, None, target)
        # torch's head looks the name up at every call, the encoder's layers did so when they were made; TF's keeps it
        code = {
            "torch": f"model.config.hidden_act = {spelled!r}",
            "tf": f"model.classifier.classifier_act_fn = transformers.activations_tf.get_tf_activation({spelled!r})",
        }[target]
        found.append(Difference("pooler_activation", here, there, apart, "" if spelled is None else code))
    return found


def _of_heads(config: RoFormerConfig, target: Dialect, kind: ModelClass, present: Collection[str]) -> list[Difference]:
    software, v2 = software_of(target, config), not Traits.of(config).norms
    pooler = "pooler.weight" in present
    found = []
    if kind is CHOICE and target == "paddle" and config.summary_type != "first":
        here = {"last": "the last position, padding included,", "mean": "the mean of all positions"}[
            config.summary_type
        ]
        found.append(
            Difference(
                "summary_type", f"{here} is scored", f"{software} scores the first", "up to 0.71 off in logits of 0.42"
            )
        )
    if kind is CHOICE and target == "paddle" and not v2 and not pooler:
        there = f"{software} projects it first, and starts that layer at random"
        found.append(Difference("summary_use_proj", "the hidden state is scored as it is", there, "no bound"))
    if v2 and target == "paddle" and kind in (SEQUENCE, CHOICE) and pooler:
        there = f"{software}'s RoFormerV2 scores the first token as it is"
        found.append(Difference("pooler", "a dense layer stands before the scores", there, "no bound"))
    if kind is CHOICE and target == "paddle" and not pooler and config.pooler_activation != "linear":
        here = f"{config.pooler_activation} of the hidden state is scored"
        found.append(Difference("summary_activation", here, f"{software} scores the hidden state as it is", "no bound"))
    if kind is SEQUENCE and not pooler and target in ("torch", "tf"):
        there = f"{software} puts a dense layer before it, and starts that at random"
        found.append(Difference("pooler", "the first token is classified as it is", there, "no bound"))
    if v2 and target in ("torch", "tf1") and "mlm.bias" in present:
        there = f"{software}'s RoFormerV2 scores words without one"
        found.append(Difference("mlm.bias", "words are scored with a bias", there, "the bias's own size"))
    if v2 and target == "paddle" and not config.use_bias and "classifier.bias" in present:
        there = f"{software}'s RoFormerV2 takes the bias away where use_bias is false"
        found.append(Difference("classifier.bias", "the scores have a bias", there, "the bias's own size"))
    biased = target == "torch" or (target == "paddle" and config.use_bias)
    if v2 and biased and "classifier.weight" in present and "classifier.bias" not in present:
        there = f"{software} adds one, and leaves what no file sets to what was in memory"
        found.append(Difference("classifier.bias", "the scores have no bias", there, "no bound"))
    return found


def advice(config: RoFormerConfig, target: Dialect, kind: ModelClass, present: Collection[str]) -> list[str]:
    """Say what no file of the target can hold and whoever loads it must say in code, and whose software it is for."""
    notes = []
    v2 = not Traits.of(config).norms
    if target == "tf1":
        arguments = ["model='roformer_v2'"] if v2 else []
        if config.attention != "bidirectional":
            arguments.append({"causal": "application='lm'", "unilm": "application='unilm'"}[config.attention])
        if "pooler.weight" in present and kind not in (SEQUENCE, CHOICE) and config.pooler_activation != "tanh":
            arguments.append(f"with_pool='{config.pooler_activation}'")
        if arguments:
            notes.append(f"bert4keras is told in code: build_transformer_model(…, {', '.join(arguments)})")
        if kind.stated:
            notes.append(
                f"the head is written under Google BERT's names; bert4keras builds none, so {kind.does} is code"
            )
        if v2:
            notes.append(
                "bert4keras 0.11.5 computes RoFormerV2 with epsilon 1e-7, its released weights were trained with "
                "1e-12: up to 1.9e-4 of the largest logit apart"
            )
    if target in ("paddle", "tf") and not v2 and not config.use_bias:
        notes.append(
            f"{software_of(target, config)} gives the encoder's kernels biases: it reports them as missing and starts "
            "them at 0, which computes the same"
        )
    words = kind in (MASKED_LM, PRETRAINING, CAUSAL_LM)
    if target == "paddle" and v2 and config.use_bias and words and "mlm.bias" not in present:
        notes.append(
            "PaddleNLP's RoFormerV2 adds a bias to the scores of words: it reports cls.decoder_bias as missing and "
            "starts it at 0, which computes the same"
        )
    if target == "torch" and (v2 or not config.use_bias):
        notes.append(
            "written for JunnYu's package (roformer 0.4.3), which knows norm_type and use_bias: transformers would "
            "load it as RoFormer with random norms and say nothing"
        )
    if target == "torch" and kind is CAUSAL_LM and config.attention == "bidirectional":
        notes.append("is_decoder = false is written, for nothing is masked here; transformers then warns about it")
    return notes
