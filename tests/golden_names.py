"""What the four programs' files hold, written out by hand from their sources: the table is held against this.

Nothing here is computed from ``converters/table/mapping.py``. Each line is one tensor: its canonical name, then, a
dialect a string, the name as the file spells it, with ``^T`` after it where the file stores the transposed (in, out)
matrix. Two layers are written out, 0 and 1, and the ``10`` of layer ten, so that a layer's number stands where it
belongs.

Sources, read line by line:
    paddle  PaddleNLP 2.8.1, ``paddlenlp/transformers/roformer/modeling.py``: ``nn.Linear`` holds (in, out); the
            encoder layer is ``paddle.nn.TransformerEncoderLayer``, whence ``self_attn``, ``linear1`` and ``norm1``.
    torch   transformers 5.23, ``models/roformer/modeling_roformer.py``: ``nn.Linear`` holds (out, in).
    tf      transformers 4.57, ``models/roformer/modeling_tf_roformer.py``: ``Dense`` holds (in, out). The name as
            Keras joins it, without the model's own prefix and ``:0``.
    tf1     bert4keras 0.11.5, ``models.BERT.variable_mapping`` and ``models.ALBERT`` (``embedding_hidden_mapping_in``);
            ``load_variable`` turns ``cls/seq_relationship/output_weights`` and nothing else.
The pooler and the sentence-order head exist in PaddleNLP (pooler) and bert4keras (both); in the other dialects they
stand under BERT's names, which is this project's own choice, as ``nsp___cls`` is (transformers' TF BERT has it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roformer_convert.converters.table.mapping import DIALECTS, Dialect


class Stored(NamedTuple):
    """How one dialect's file holds one tensor."""

    name: str
    transposed: bool


# fmt: off
_TEXT = """
embeddings.word.weight
    paddle  roformer.embeddings.word_embeddings.weight
    torch   roformer.embeddings.word_embeddings.weight
    tf      roformer/embeddings/word_embeddings/weight
    tf1     bert/embeddings/word_embeddings
embeddings.segment.weight
    paddle  roformer.embeddings.token_type_embeddings.weight
    torch   roformer.embeddings.token_type_embeddings.weight
    tf      roformer/embeddings/token_type_embeddings/embeddings
    tf1     bert/embeddings/token_type_embeddings
embeddings.norm.weight
    paddle  roformer.embeddings.layer_norm.weight
    torch   roformer.embeddings.LayerNorm.weight
    tf      roformer/embeddings/LayerNorm/gamma
    tf1     bert/embeddings/LayerNorm/gamma
embeddings.norm.bias
    paddle  roformer.embeddings.layer_norm.bias
    torch   roformer.embeddings.LayerNorm.bias
    tf      roformer/embeddings/LayerNorm/beta
    tf1     bert/embeddings/LayerNorm/beta
embeddings.project.weight
    paddle  roformer.embeddings_project.weight ^T
    torch   roformer.embeddings_project.weight
    tf      roformer/embeddings_project/kernel ^T
    tf1     bert/encoder/embedding_hidden_mapping_in/kernel ^T
embeddings.project.bias
    paddle  roformer.embeddings_project.bias
    torch   roformer.embeddings_project.bias
    tf      roformer/embeddings_project/bias
    tf1     bert/encoder/embedding_hidden_mapping_in/bias
layers.0.attention.query.weight
    paddle  roformer.encoder.layers.0.self_attn.q_proj.weight ^T
    torch   roformer.encoder.layer.0.attention.self.query.weight
    tf      roformer/encoder/layer_._0/attention/self/query/kernel ^T
    tf1     bert/encoder/layer_0/attention/self/query/kernel ^T
layers.0.attention.query.bias
    paddle  roformer.encoder.layers.0.self_attn.q_proj.bias
    torch   roformer.encoder.layer.0.attention.self.query.bias
    tf      roformer/encoder/layer_._0/attention/self/query/bias
    tf1     bert/encoder/layer_0/attention/self/query/bias
layers.0.attention.key.weight
    paddle  roformer.encoder.layers.0.self_attn.k_proj.weight ^T
    torch   roformer.encoder.layer.0.attention.self.key.weight
    tf      roformer/encoder/layer_._0/attention/self/key/kernel ^T
    tf1     bert/encoder/layer_0/attention/self/key/kernel ^T
layers.0.attention.key.bias
    paddle  roformer.encoder.layers.0.self_attn.k_proj.bias
    torch   roformer.encoder.layer.0.attention.self.key.bias
    tf      roformer/encoder/layer_._0/attention/self/key/bias
    tf1     bert/encoder/layer_0/attention/self/key/bias
layers.0.attention.value.weight
    paddle  roformer.encoder.layers.0.self_attn.v_proj.weight ^T
    torch   roformer.encoder.layer.0.attention.self.value.weight
    tf      roformer/encoder/layer_._0/attention/self/value/kernel ^T
    tf1     bert/encoder/layer_0/attention/self/value/kernel ^T
layers.0.attention.value.bias
    paddle  roformer.encoder.layers.0.self_attn.v_proj.bias
    torch   roformer.encoder.layer.0.attention.self.value.bias
    tf      roformer/encoder/layer_._0/attention/self/value/bias
    tf1     bert/encoder/layer_0/attention/self/value/bias
layers.0.attention.out.weight
    paddle  roformer.encoder.layers.0.self_attn.out_proj.weight ^T
    torch   roformer.encoder.layer.0.attention.output.dense.weight
    tf      roformer/encoder/layer_._0/attention/output/dense/kernel ^T
    tf1     bert/encoder/layer_0/attention/output/dense/kernel ^T
layers.0.attention.out.bias
    paddle  roformer.encoder.layers.0.self_attn.out_proj.bias
    torch   roformer.encoder.layer.0.attention.output.dense.bias
    tf      roformer/encoder/layer_._0/attention/output/dense/bias
    tf1     bert/encoder/layer_0/attention/output/dense/bias
layers.0.attention_norm.weight
    paddle  roformer.encoder.layers.0.norm1.weight
    torch   roformer.encoder.layer.0.attention.output.LayerNorm.weight
    tf      roformer/encoder/layer_._0/attention/output/LayerNorm/gamma
    tf1     bert/encoder/layer_0/attention/output/LayerNorm/gamma
layers.0.attention_norm.bias
    paddle  roformer.encoder.layers.0.norm1.bias
    torch   roformer.encoder.layer.0.attention.output.LayerNorm.bias
    tf      roformer/encoder/layer_._0/attention/output/LayerNorm/beta
    tf1     bert/encoder/layer_0/attention/output/LayerNorm/beta
layers.0.feed_forward.up.weight
    paddle  roformer.encoder.layers.0.linear1.weight ^T
    torch   roformer.encoder.layer.0.intermediate.dense.weight
    tf      roformer/encoder/layer_._0/intermediate/dense/kernel ^T
    tf1     bert/encoder/layer_0/intermediate/dense/kernel ^T
layers.0.feed_forward.up.bias
    paddle  roformer.encoder.layers.0.linear1.bias
    torch   roformer.encoder.layer.0.intermediate.dense.bias
    tf      roformer/encoder/layer_._0/intermediate/dense/bias
    tf1     bert/encoder/layer_0/intermediate/dense/bias
layers.0.feed_forward.down.weight
    paddle  roformer.encoder.layers.0.linear2.weight ^T
    torch   roformer.encoder.layer.0.output.dense.weight
    tf      roformer/encoder/layer_._0/output/dense/kernel ^T
    tf1     bert/encoder/layer_0/output/dense/kernel ^T
layers.0.feed_forward.down.bias
    paddle  roformer.encoder.layers.0.linear2.bias
    torch   roformer.encoder.layer.0.output.dense.bias
    tf      roformer/encoder/layer_._0/output/dense/bias
    tf1     bert/encoder/layer_0/output/dense/bias
layers.0.feed_forward_norm.weight
    paddle  roformer.encoder.layers.0.norm2.weight
    torch   roformer.encoder.layer.0.output.LayerNorm.weight
    tf      roformer/encoder/layer_._0/output/LayerNorm/gamma
    tf1     bert/encoder/layer_0/output/LayerNorm/gamma
layers.0.feed_forward_norm.bias
    paddle  roformer.encoder.layers.0.norm2.bias
    torch   roformer.encoder.layer.0.output.LayerNorm.bias
    tf      roformer/encoder/layer_._0/output/LayerNorm/beta
    tf1     bert/encoder/layer_0/output/LayerNorm/beta
layers.1.attention.query.weight
    paddle  roformer.encoder.layers.1.self_attn.q_proj.weight ^T
    torch   roformer.encoder.layer.1.attention.self.query.weight
    tf      roformer/encoder/layer_._1/attention/self/query/kernel ^T
    tf1     bert/encoder/layer_1/attention/self/query/kernel ^T
layers.10.feed_forward_norm.bias
    paddle  roformer.encoder.layers.10.norm2.bias
    torch   roformer.encoder.layer.10.output.LayerNorm.bias
    tf      roformer/encoder/layer_._10/output/LayerNorm/beta
    tf1     bert/encoder/layer_10/output/LayerNorm/beta
pooler.weight
    paddle  roformer.pooler.dense.weight ^T
    torch   roformer.pooler.dense.weight
    tf      roformer/pooler/dense/kernel ^T
    tf1     bert/pooler/dense/kernel ^T
pooler.bias
    paddle  roformer.pooler.dense.bias
    torch   roformer.pooler.dense.bias
    tf      roformer/pooler/dense/bias
    tf1     bert/pooler/dense/bias
mlm.transform.weight
    paddle  cls.predictions.transform.weight ^T
    torch   cls.predictions.transform.dense.weight
    tf      mlm___cls/predictions/transform/dense/kernel ^T
    tf1     cls/predictions/transform/dense/kernel ^T
mlm.transform.bias
    paddle  cls.predictions.transform.bias
    torch   cls.predictions.transform.dense.bias
    tf      mlm___cls/predictions/transform/dense/bias
    tf1     cls/predictions/transform/dense/bias
mlm.norm.weight
    paddle  cls.predictions.layer_norm.weight
    torch   cls.predictions.transform.LayerNorm.weight
    tf      mlm___cls/predictions/transform/LayerNorm/gamma
    tf1     cls/predictions/transform/LayerNorm/gamma
mlm.norm.bias
    paddle  cls.predictions.layer_norm.bias
    torch   cls.predictions.transform.LayerNorm.bias
    tf      mlm___cls/predictions/transform/LayerNorm/beta
    tf1     cls/predictions/transform/LayerNorm/beta
mlm.bias
    paddle  cls.predictions.decoder_bias
    torch   cls.predictions.bias
    tf      mlm___cls/predictions/bias
    tf1     cls/predictions/output_bias
sop.weight
    paddle  cls.seq_relationship.weight ^T
    torch   cls.seq_relationship.weight
    tf      nsp___cls/seq_relationship/kernel ^T
    tf1     cls/seq_relationship/output_weights
sop.bias
    paddle  cls.seq_relationship.bias
    torch   cls.seq_relationship.bias
    tf      nsp___cls/seq_relationship/bias
    tf1     cls/seq_relationship/output_bias
"""
# fmt: on


def _parse(text: str) -> dict[str, dict[Dialect, Stored]]:
    golden: dict[str, dict[Dialect, Stored]] = {}
    current: dict[Dialect, Stored] = {}
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            current = golden.setdefault(line, {})
            continue
        word, name, *mark = line.split()
        (dialect,) = (known for known in DIALECTS if known == word)
        assert mark in ([], ["^T"]), line
        current[dialect] = Stored(name, bool(mark))
    return golden


#: Canonical name → how each dialect's file holds it, as literally written above.
GOLDEN = _parse(_TEXT)

#: Second names that the files carry beside the table's: (of, name), as PaddleNLP and transformers tie them.
GOLDEN_TIES: dict[Dialect, tuple[tuple[str, str], ...]] = {
    "paddle": (("embeddings.word.weight", "cls.predictions.decoder_weight"),),
    "torch": (
        ("embeddings.word.weight", "cls.predictions.decoder.weight"),
        ("mlm.bias", "cls.predictions.decoder.bias"),
    ),
    "tf": (),
    "tf1": (),
}


def stored_in(canonical: str, dialect: Dialect, *, base: bool = False) -> Stored:
    """Say how a file holds a tensor of any layer; a bare base model's file has no ``roformer.`` (torch, Paddle)."""
    number = re.match(r"layers\.(\d+)\.", canonical)
    name, transposed = GOLDEN[re.sub(r"layers\.\d+\.", "layers.0.", canonical)][dialect]
    if number is not None:
        name, count = re.subn(r"(layers?[._]+)0(?=[./])", rf"\g<1>{number.group(1)}", name)
        assert count == 1, name
    if base and dialect in ("paddle", "torch"):
        name = name.removeprefix("roformer.")
    return Stored(name, transposed)


def spelled(
    tensors: Mapping[str, NDArray[Any]], dialect: Dialect, *, base: bool = False, ties: bool = True
) -> dict[str, NDArray[Any]]:
    """Canonical tensors → what a file of ``dialect`` holds, with or without the second names of tied ones."""
    arrays = {}
    for canonical, array in tensors.items():
        name, transposed = stored_in(canonical, dialect, base=base)
        arrays[name] = np.ascontiguousarray(array.T) if transposed else array
    for of, name in GOLDEN_TIES[dialect] if ties and not base else ():
        arrays[name] = arrays[stored_in(of, dialect).name]
    return arrays
