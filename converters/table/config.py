"""The configuration of a RoFormer in one spelling: what the tensors' shapes and the model's function depend on.

A checkpoint's own file is translated into this by :mod:`.config_reading`; the models compute from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Which keys a query sees: every key; key j from query i where j <= i; where the sum of the token types up to j is at
#: most that up to i.
Attention = Literal["bidirectional", "causal", "unilm"]
NormType = Literal["layer_norm", "rms_norm"]
#: Which hidden state of a row multiple choice looks at; "last" and "mean" count padding in, as transformers does.
SummaryType = Literal["first", "last", "mean"]


@dataclass(frozen=True, kw_only=True)
class RoFormerConfig:
    """Hyper-parameters under canonical names; single capitals are the symbols of the shape glossary.

    Attributes:
        vocab_size: V, rows of the word embedding.
        embedding_size: E, width of the embeddings and of the masked-LM transform.
        hidden_size: H, width of the encoder.
        num_hidden_layers: L.
        num_attention_heads: N; the head size D = H / N is even, for the rotation turns pairs.
        intermediate_size: F, width inside the feed-forward block.
        hidden_act: One of :data:`~.activations.ACTIVATIONS` (``"gelu"`` is the erf form, ``"gelu_tanh"`` the tanh
            one), or a name the table does not know, carried as it is.
        hidden_dropout_prob: Dropout after embeddings and blocks, in training.
        attention_probs_dropout_prob: Dropout of the attention weights, in training.
        max_position_embeddings: Longest sequence in tokens: the rows of the rotary table.
        type_vocab_size: S, number of token types.
        initializer_range: Standard deviation of a fresh weight.
        layer_norm_eps: Added to the variance in every norm.
        rotary_value: Whether the values are rotated as queries and keys are.
        pooler_activation: Applied to the pooled token: the pooler's, or the dense layer's of a sequence classifier.
        pad_token_id: The padding token.
        norm_type: ``"layer_norm"``, or RoFormerV2's ``"rms_norm"``: x / sqrt(mean(x²) + eps), without parameters.
        use_bias: Whether the encoder's kernels have biases; RoFormerV2's have none.
        attention: Which keys a query sees.
        summary_type: Which hidden state multiple choice looks at.
        num_labels: C, rows of a classifier.
        labels: Their names in order; empty where no file names them.
        num_choices: Options of a question in PaddleNLP's multiple choice.
        problem_type: Which loss transformers takes of a sequence classifier, or None.
        classifier_dropout: Dropout before a classifier, in training; None for ``hidden_dropout_prob``.
        eos_token_id: The token at which generation ends, or None.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 1536
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    rotary_value: bool = False
    pooler_activation: str = "tanh"
    pad_token_id: int | None = 0
    norm_type: NormType = "layer_norm"
    use_bias: bool = True
    attention: Attention = "bidirectional"
    summary_type: SummaryType = "first"
    num_labels: int = 2
    labels: tuple[str, ...] = ()
    num_choices: int = 2
    problem_type: str | None = None
    classifier_dropout: float | None = None
    eos_token_id: int | None = None

    @property
    def head_size(self) -> int:
        """D, the width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def sizes(self) -> dict[str, int]:
        """Symbol of the mapping table → size."""
        return {
            "V": self.vocab_size,
            "E": self.embedding_size,
            "S": self.type_vocab_size,
            "H": self.hidden_size,
            "F": self.intermediate_size,
            "C": self.num_labels,
        }
