"""The best words at a place, as tasks that rank words show them: spelled, and in the model card's brackets.

Source of the brackets: the snippet on JunnYu's model cards (examples/test_mlm.py in RoFormer_pytorch).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...converters.errors import ConvertError
from ..config import RoFormerConfig
from ..text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Guess:
    """One word at a place: its id, its spelling (None past the vocabulary's last row), logit and softmax."""

    id: int
    token: str | None
    logit: float
    probability: float

    @property
    def shown(self) -> str:
        """The spelling, or the id of a word without one."""
        return self.token or f"<{self.id}>"


def guesses(answer: Sequence[Sequence[Any]], tokenizer: Tokenizer) -> tuple[Guess, ...]:
    """Spell what :meth:`~.worker.Worker.words` answered for one place: ids, logits and probabilities, best first."""
    return tuple(
        Guess(token_id, tokenizer.token(token_id), logit, probability)
        for token_id, logit, probability in zip(*answer, strict=True)
    )


def bracketed(words: Iterable[Guess]) -> str:
    """Write the words at one place as the model card does: ``[天||人||气]``."""
    return "[" + "||".join(guess.shown for guess in words) + "]"


def spelled(ids: Sequence[int], instead: Mapping[int, str], tokenizer: Tokenizer) -> str:
    """Write tokens as the model card does: ``今天[天||人||气||阳||雨]很好``.

    Pieces stand as the vocabulary spells them, nothing between them, and special tokens are left out ([UNK] too).

    Args:
        ids: The tokens.
        instead: Index among them → what is written there.
        tokenizer: Spells them.
    """
    return "".join(
        instead[position] if position in instead else "" if one in tokenizer.special_ids else tokenizer.token(one) or ""
        for position, one in enumerate(ids)
    )


def check_top_k(top_k: int, config: RoFormerConfig) -> None:
    """Refuse to rank more words than there are.

    Raises:
        ConvertError: ``top_k`` is above ``vocab_size``.
    """
    if top_k > config.vocab_size:
        raise ConvertError(f"the {top_k:,} best words are asked for; vocab_size is {config.vocab_size:,}")
