"""Text to the best words at each [MASK], the same for all three frameworks, and the model card's line.

The task that is run (:mod:`.task`) for masked LMs; nothing here imports a framework.

Source of the line: the snippet on JunnYu's model cards (examples/test_mlm.py in RoFormer_pytorch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import ConvertError, quoted
from ...converters.source.stated import Stated
from ..processes.devices import CPU, DeviceName
from ..processes.frameworks import require_frameworks
from ..text.text_windows import Item
from ..text.tokenizer import Encoding, Tokenizer
from .checkpoint_facts import learn
from .framework_processes import Row
from .guesses import Guess, bracketed, check_top_k, guesses, spelled
from .task import Prediction, Task, run, said

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Classes, as ``--class`` names them, that have what fills a mask.
FILLED = ("masked-lm", "pretraining")


@dataclass(frozen=True)
class Mask:
    """A mask and what belongs there.

    Attributes:
        position: Index among the tokens, [CLS] being 0.
        start: Where it begins in the text, in characters.
        end: Where it ends.
        guesses: The best words, best first.
    """

    position: int
    start: int
    end: int
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Filled(Prediction):
    """One text as one framework fills it.

    Attributes:
        ids: Ids of its tokens.
        masks: Its masks and what belongs there.
    """

    ids: list[int]
    masks: tuple[Mask, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "framework": self.framework,
            "text": self.text,
            "line": self.line,
            "input_ids": self.ids,
            "masks": [
                {
                    "position": mask.position,
                    "start": mask.start,
                    "end": mask.end,
                    "top": [guess.__dict__ for guess in mask.guesses],
                }
                for mask in self.masks
            ],
        }


class FillMask(Task[Filled]):
    """Rank the words at each mask of a text.

    Args:
        tokenizer: The checkpoint's tokenizer.
        top_k: Words a mask.
    """

    request = "words"

    def __init__(self, tokenizer: Tokenizer, top_k: int) -> None:
        super().__init__(tokenizer)
        self.top_k = top_k
        self.mask = tokenizer.settings.special["mask_token"].content
        self.form = f"Write {self.mask} where a word is missing."

    @property
    def options(self) -> dict[str, Any]:
        """The rest of the request."""
        return {**super().options, "top_k": self.top_k}

    def read(self, text: str) -> tuple[list[Encoding], list[str]]:
        """Turn a text into tokens; one without a mask cannot be filled."""
        encoding = self.tokenizer.encode(text)
        return [encoding], [] if self.tokenizer.mask_id in encoding.ids else [f"no {self.mask} in {quoted(text, 40)}"]

    def row(self, encoding: Encoding) -> Row:
        """Words are wanted at the masks."""
        return Row(encoding.ids, encoding.token_type_ids, self.tokenizer.mask_positions(encoding.ids))

    def result(self, framework: str, item: Item, answers: list[Any]) -> Filled:
        """Put what was answered for a text's masks beside their places."""
        (encoding,), (ranked,) = item.encodings, answers
        positions = self.tokenizer.mask_positions(encoding.ids)
        masks = tuple(
            Mask(position, *encoding.offsets[position], guesses(answer, self.tokenizer))
            for position, answer in zip(positions, ranked, strict=True)
        )
        words = {mask.position: bracketed(mask.guesses) for mask in masks}
        line = said(framework, spelled(encoding.ids, words, self.tokenizer))
        return Filled(framework, item.number, item.text, line, encoding.ids, masks)


def fill_mask(
    directory: Path | str,
    texts: Iterable[str],
    *,
    frameworks: Sequence[str] = ("torch",),
    top_k: int = 5,
    extend_to: int | None = None,
    device: DeviceName = CPU,
    report: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
    **stated: Unpack[Stated],
) -> Iterator[Filled]:
    """Fill every mask of every text: for each text, in order, one result a framework.

    Texts are taken 64 at a time, so that memory does not grow with their number.

    Args:
        directory: A checkpoint of any dialect with its vocabulary.
        texts: Each with at least one mask, as the vocabulary spells it.
        frameworks: Names from :data:`~..processes.frameworks.FRAMEWORKS`; each runs in a process of its own, side by
        side.
        top_k: Words a mask.
        extend_to: Raises the longest text, in tokens, where the configuration allows less.
        device: Where each framework computes.
        report: Called with a line on what happens, for ``--verbose``.
        note: Called with what was assumed where the files say nothing, and with a batch that did not fit in memory.
        **stated: What is so of the checkpoint whatever its files say.

    Raises:
        ConvertError: The checkpoint, its tokenizer or a text is unusable, there is no such device, or a framework's
            process failed.
    """
    require_frameworks(frameworks, "fill-mask")
    facts = learn(directory, extend_to=extend_to, report=report, note=note, **stated)
    if facts.kind not in FILLED:
        raise ConvertError(
            f"{directory} is a {facts.model_class}; fill-mask wants a masked LM",
            "roformer-convert predict does what this class is for.",
        )
    if facts.config.attention == "causal":
        raise ConvertError(
            f"{directory} has causal attention: at a [MASK] it sees nothing of what follows",
            "roformer-convert predict --class causal-lm gives the words that come next.",
        )
    check_top_k(top_k, facts.config)
    task = FillMask(facts.tokenizer, top_k)
    yield from run(task, texts, frameworks, facts.load("RoFormerForMaskedLM", device), facts.config, report, note)
