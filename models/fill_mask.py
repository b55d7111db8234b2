"""Text to the best words at each [MASK], the same for all three frameworks, and the model card's line.

Texts are tokenized here, checked, sorted by length and sent in batches to one process a framework
(:mod:`.process`, :mod:`.worker`), which answers with the best words; nothing here imports a framework.

Source of the line: the snippet on JunnYu's model cards (examples/test_mlm.py in RoFormer_pytorch).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..converters import open_checkpoint
from ..converters.errors import ConvertError, quoted
from ..converters.table.mapping import Dialect
from .config import RoFormerConfig, with_limit
from .frameworks import FRAMEWORKS, MissingPackageError, is_installed
from .process import Process
from .tokenizer import Encoding, Tokenizer, half_pair

#: Asked for in this order where a person names no framework: the one that starts quickest first.
PREFERRED = ("torch", "paddle", "tf")

_WINDOW = 64  # texts that are read before the first is answered
_BATCH_TOKENS = 8192  # tokens of a batch, which bound its memory
_MOST_CHARACTERS = 1 << 20
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Guess:
    """One word at a mask: its id, its spelling (None past the vocabulary's last row), logit and softmax."""

    id: int
    token: str | None
    logit: float
    probability: float


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
class Filled:
    """One text as one framework fills it.

    Attributes:
        framework: ``paddle``, ``torch`` or ``tf``.
        number: Number of the text, from 1.
        text: As it was given.
        ids: Its tokens.
        masks: Its masks.
        line: The text with its guesses, written as on the model card.
    """

    framework: str
    number: int
    text: str
    ids: list[int]
    masks: tuple[Mask, ...]
    line: str

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


class TextsError(ConvertError):
    """Texts that cannot be filled.

    Args:
        problems: Number of a text, from 1, and what is wrong with it.
    """

    def __init__(self, problems: Sequence[tuple[int, str]], next_step: str) -> None:
        shown = [f"  text {number}: {problem}" for number, problem in problems[:_SHOWN_PROBLEMS]]
        if len(problems) > _SHOWN_PROBLEMS:
            shown.append(f"  and {len(problems) - _SHOWN_PROBLEMS} more")
        count = "a text" if len(problems) == 1 else f"{len(problems)} texts"
        super().__init__("\n".join([f"{count} cannot be filled", *shown]), next_step)
        self.problems = tuple(problems)


def choose_frameworks(name: str | None) -> tuple[str, ...]:
    """Turn ``"all"``, a framework's name or None (the first that is installed) into frameworks that are installed.

    Raises:
        MissingPackageError: One is not installed; it is named with its extra.
    """
    if name is None:
        found = next((one for one in PREFERRED if is_installed(FRAMEWORKS[one].package)), PREFERRED[0])
        names: tuple[str, ...] = (found,)
    else:
        names = tuple(FRAMEWORKS) if name == "all" else (name,)
    _require(names, "fill-mask" if name is None else f"fill-mask --framework {name}")
    return names


def _require(names: Sequence[str], what: str) -> None:
    wanted = [FRAMEWORKS[one] for one in names]
    missing = {one.package: one.extra for one in wanted if not is_installed(one.package)}
    if missing:
        raise MissingPackageError(what, missing)


def fill_mask(
    directory: Path | str,
    texts: Iterable[str],
    *,
    frameworks: Sequence[str] = ("torch",),
    top_k: int = 5,
    extend_to: int | None = None,
    dialect: Dialect | None = None,
    config: Path | str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[Filled]:
    """Fill every mask of every text: for each text, in order, one result a framework.

    Texts are taken 64 at a time, so that memory does not grow with their number.

    Args:
        directory: A checkpoint of any dialect with its vocabulary.
        texts: Each with at least one mask, as the vocabulary spells it.
        frameworks: Names from :data:`~.frameworks.FRAMEWORKS`; each runs in a process of its own, side by side.
        top_k: Words a mask.
        extend_to: Raises the longest text, in tokens, where the configuration allows less.
        dialect: Overrules what the files look like.
        config: A configuration file that does not lie beside the weights.
        report: Called with a line on what happens, for ``--verbose``.

    Raises:
        ConvertError: The checkpoint, its tokenizer or a text is unusable, or a framework's process failed.
    """
    _require(frameworks, "fill-mask")
    directory = Path(directory)
    with open_checkpoint(directory, dialect=dialect, config=config) as checkpoint:
        limits = with_limit(checkpoint.config, extend_to)
    tokenizer = Tokenizer.from_pretrained(directory if directory.is_dir() else directory.parent)
    kind = "jieba's words" if tokenizer.settings.words else "BERT's rules"
    report(f"tokenizer: {kind} ({tokenizer.settings.words_because}), {tokenizer.size:,} tokens")
    if top_k > limits.vocab_size:
        raise ConvertError(f"the {top_k:,} best words are asked for; vocab_size is {limits.vocab_size:,}")
    load = {
        "directory": str(directory),
        "dialect": dialect,
        "config": None if config is None else str(config),
        "extend_to": extend_to,
    }
    numbered = enumerate(texts, 1)
    window = read_window(numbered, tokenizer, limits)  # before any process: a mistake in the first texts costs no wait
    with ExitStack() as stack:
        processes = [
            # the command keeps numpy's OpenBLAS to one thread, which a framework built on OpenBLAS would obey too
            stack.enter_context(Process(name, f"{__package__}.worker", [name], {"OPENBLAS_NUM_THREADS": None}))
            for name in (frameworks if window else ())
        ]
        for process in processes:
            process.ask({"load": load})
        for process in processes:
            loaded = process.answer()
            report(
                f"{process.name}: {FRAMEWORKS[process.name].package} {loaded['version']}, imported in "
                f"{loaded['import_seconds']} s, loaded in {loaded['load_seconds']} s"
            )
            for note in loaded["notes"]:
                report(f"{process.name}: {note}")
        while window:
            answers = _ask(processes, [encoding.ids for _, _, encoding in window], tokenizer, top_k)
            for (number, text, encoding), answer in zip(window, zip(*answers, strict=True), strict=True):
                for process, masks in zip(processes, answer, strict=True):
                    yield assemble(process.name, number, text, encoding, masks, tokenizer)
            window = read_window(numbered, tokenizer, limits)
        for process in processes:
            for line in process.words().splitlines():
                report(f"{process.name}: {line}")


def read_window(
    numbered: Iterator[tuple[int, str]], tokenizer: Tokenizer, limits: RoFormerConfig
) -> list[tuple[int, str, Encoding]]:
    """Tokenize the next texts, and report all that is wrong with them at once; nothing where there are none.

    Raises:
        TextsError: Some cannot be filled.
    """
    window: list[tuple[int, str, Encoding]] = []
    problems: list[tuple[int, str]] = []
    longest = 0
    mask = tokenizer.settings.special["mask_token"].content
    for number, text in itertools.islice(numbered, _WINDOW):
        if len(text) > _MOST_CHARACTERS:
            problems.append((number, f"{len(text):,} characters; wanted at most {_MOST_CHARACTERS:,}"))
            continue
        wrong = half_pair(text)
        if wrong:
            problems.append((number, wrong))
            continue
        encoding = tokenizer.encode(text)
        if tokenizer.mask_id not in encoding.ids:
            problems.append((number, f"no {mask} in {quoted(text, 40)}"))
        if len(encoding.ids) > limits.max_position_embeddings:
            longest = max(longest, len(encoding.ids))
            limit = f"the limit is {limits.max_position_embeddings:,} (max_position_embeddings)"
            problems.append((number, f"{len(encoding.ids):,} tokens; {limit}"))
        if max(encoding.ids) >= limits.vocab_size:
            problems.append(
                (
                    number,
                    f"the token {max(encoding.ids)} is past the embedding's {limits.vocab_size:,} rows (vocab_size)",
                )
            )
        window.append((number, text, encoding))
    if problems:
        step = f"Write {mask} where a word is missing."
        raise TextsError(
            problems, f"Shorten the text, or raise the limit: --max-length {longest}." if longest else step
        )
    return window


def _ask(
    processes: Sequence[Process], texts: list[list[int]], tokenizer: Tokenizer, top_k: int
) -> list[list[list[Any]]]:
    """Have every process answer every text; batches hold texts of about one length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
    answers: list[list[list[Any]]] = [[[] for _ in texts] for _ in processes]
    while order:
        count = max(1, _BATCH_TOKENS // len(texts[order[0]]))
        batch, order = order[:count], order[count:]
        request = {
            "ids": [texts[index] for index in batch],
            "mask_id": tokenizer.mask_id,
            "pad_id": tokenizer.pad_id,
            "top_k": top_k,
        }
        for process in processes:
            process.ask(request)
        for process, answered in zip(processes, answers, strict=True):
            for index, masks in zip(batch, process.answer()["texts"], strict=True):
                answered[index] = masks
    return answers


def assemble(
    framework: str, number: int, text: str, encoding: Encoding, answers: list[Any], tokenizer: Tokenizer
) -> Filled:
    """Join what :class:`~.worker.Worker` answered for a text's masks with their places in the text."""
    masks = tuple(
        Mask(
            position,
            *encoding.offsets[position],
            tuple(
                Guess(token_id, tokenizer.token(token_id), logit, probability)
                for token_id, logit, probability in zip(*answer, strict=True)
            ),
        )
        for position, answer in zip(tokenizer.mask_positions(encoding.ids), answers, strict=True)
    )
    return Filled(framework, number, text, encoding.ids, masks, card_line(framework, encoding.ids, masks, tokenizer))


def card_line(framework: str, ids: Sequence[int], masks: Iterable[Mask], tokenizer: Tokenizer) -> str:
    """Write a result as the model card does: ``pytorch: 今天[天||人||气||阳||雨]很好``.

    Pieces stand as the vocabulary spells them, nothing between them, and special tokens are left out ([UNK] too).
    """
    filled = {
        mask.position: "[" + "||".join(guess.token or f"<{guess.id}>" for guess in mask.guesses) + "]" for mask in masks
    }
    parts = [
        filled[position] if position in filled else "" if one in tokenizer.special_ids else tokenizer.token(one) or ""
        for position, one in enumerate(ids)
    ]
    return f"{FRAMEWORKS[framework].label}: {''.join(parts)}"
