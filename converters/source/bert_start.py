"""A BERT as the start of a RoFormer: its tensors under a RoFormer's names, without its positions.

A BERT is a RoFormer with learned positions: its tensors have the table's names under ``bert.`` instead of
``roformer.``, in Paddle's dialect, torch's and TF's; in TF1 both are ``bert/``. The positions are left out, for
rotation takes their place, and so is the next-sentence head, which was trained on another question than the order of
two sentences. What comes of it computes another function than the BERT: it is where training begins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ..errors import Problem, fold_layers

#: What makes a checkpoint a BERT. (In bert4torch and bert4keras, too: :mod:`..table.spellings` comes first.)
_POSITIONS = re.compile(r"(?:.*[./])?embeddings[./]position_(?:embeddings|ids)(?:[./][^./]+)?")
#: What a RoFormer that starts from it has no use for, beside the positions.
_NEXT_SENTENCE = re.compile(r"(?:.*[./])?(?:nsp___)?cls[./]seq_relationship[./].+")
#: Where the encoder's name stands: in Paddle and torch, and in TF, whose layers are called so. ERNIE and RoBERTa are
#: BERTs under names of their own.
_DOTTED = re.compile(r"(?<![^.])(?:bert|ernie|roberta)\.(?=(?:embeddings|encoder|pooler)\.)")
_SLASHED = re.compile(r"(?<![^/])(?:bert|ernie|roberta)/(?=(?:embeddings|encoder|pooler)/)")
_LAYER_OF_TF = "/layer_._"
#: What a BERT's configuration says of its function, and a RoFormer that starts from it is not.
OF_A_BERT = ("model_type", "architectures", "init_class", "position_embedding_type")


def is_bert(names: Iterable[str]) -> bool:
    """Say whether learned positions are among tensors."""
    return any(map(_POSITIONS.fullmatch, names))


def as_roformer(names: Collection[str]) -> dict[str, str]:
    """Return name → a RoFormer's, of the tensors that one that starts from this BERT has a use for."""
    pattern = _SLASHED if any(_LAYER_OF_TF in name for name in names) else _DOTTED
    kept = (name for name in names if not _POSITIONS.fullmatch(name) and not _NEXT_SENTENCE.fullmatch(name))
    return {name: pattern.sub(lambda match: f"roformer{match[0][-1]}", name, count=1) for name in kept}


def note(dropped: Iterable[str]) -> str:
    """Say what was left out of a BERT, and what that means."""
    folded = ", ".join(problem.name for problem, _ in fold_layers(Problem("dropped", name) for name in dropped))
    return (
        f"a BERT: left out {folded}; RoFormer has rotary positions instead, which these weights have never seen: "
        "it must be trained before it is of use"
    )
