"""Text to what a checkpoint's class is for: labels, answers, the chosen option, the next words, a sentence vector.

:data:`TASKS` says which task (:mod:`.task`) a class has and which class of the frameworks' models computes it. Masked
LMs have :mod:`.fill_mask`. Nothing here imports a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import ConvertError
from ...converters.source.stated import Stated
from ..processes.devices import CPU, DeviceName
from ..processes.frameworks import require_frameworks
from .answer_spans import QuestionAnswering
from .checkpoint_facts import CheckpointFacts, learn
from .classification import SequenceClassification, TokenClassification
from .continuation import CausalLM
from .fill_mask import FILLED
from .guesses import check_top_k
from .multiple_choice import MultipleChoice
from .sentence_vectors import SentenceVectors
from .task import Prediction, Task, run

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Wanted:
    """What a person asked for, beside the texts.

    Attributes:
        top_k: Labels, answers or next words that are shown.
        words: Words that a causal LM adds.
        max_answer: Most tokens of an answer.
        vector: Whether a sentence vector is wanted though the model has a language-model head.
    """

    top_k: int = 5
    words: int = 0
    max_answer: int = 30
    vector: bool = False


def _causal_lm(facts: CheckpointFacts, wanted: Wanted) -> CausalLM:
    check_top_k(wanted.top_k, facts.config)
    return CausalLM(facts.tokenizer, facts.config, wanted.top_k, wanted.words)


#: Class, as ``--class`` names it → its task.
TASKS: Mapping[str, Callable[[CheckpointFacts, Wanted], Task[Any]]] = {
    "base": lambda facts, _: SentenceVectors(facts.tokenizer, facts.pooler),
    "causal-lm": _causal_lm,
    "sequence-classification": lambda facts, wanted: SequenceClassification(
        facts.tokenizer, facts.config, wanted.top_k
    ),
    "token-classification": lambda facts, _: TokenClassification(facts.tokenizer, facts.config),
    "question-answering": lambda facts, wanted: QuestionAnswering(facts.tokenizer, wanted.top_k, wanted.max_answer),
    "multiple-choice": lambda facts, _: MultipleChoice(facts.tokenizer),
}
#: Classes whose encoder gives sentence vectors when they are asked for; what else has a pooler trained it for its head.
_LANGUAGE_MODELS = (*FILLED, "causal-lm")


def predict(
    directory: Path | str,
    texts: Iterable[str],
    wanted: Wanted = Wanted(),
    *,
    frameworks: Sequence[str] = ("torch",),
    compare: bool = False,
    extend_to: int | None = None,
    device: DeviceName = CPU,
    report: Callable[[str], None] = lambda line: None,
    note: Callable[[str], None] = lambda line: None,
    **stated: Unpack[Stated],
) -> Iterator[Prediction]:
    """Do with every text what the checkpoint's class is for: for each text, in order, one result a framework.

    Texts are taken 64 at a time, so that memory does not grow with their number.

    Args:
        directory: A checkpoint of any dialect with its vocabulary.
        texts: As the class wants them; parts of one are divided by tabs.
        wanted: What is wanted of them.
        frameworks: Names from :data:`~..processes.frameworks.FRAMEWORKS`; each runs in a process of its own, side by
        side.
        compare: Where the result is a sentence vector, take two texts as one pair.
        extend_to: Raises the longest text, in tokens, where the configuration allows less.
        device: Where each framework computes.
        report: Called with a line on what happens, for ``--verbose``.
        note: Called with what was assumed where the files say nothing, and with a batch that did not fit in memory.
        **stated: What is so of the checkpoint whatever its files say.

    Raises:
        ConvertError: The checkpoint, its tokenizer or a text is unusable, there is no such device, or a framework's
            process failed.
    """
    require_frameworks(frameworks, "predict")
    facts = learn(directory, extend_to=extend_to, report=report, note=note, **stated)
    kind, loaded = _choose(facts, wanted)
    task = TASKS[kind](facts, wanted)
    if kind == "base" and not facts.pooler:
        note("there is no pooler: the vector is the hidden state of the first token")
    if kind == "causal-lm" and facts.config.attention == "bidirectional":
        note(
            "attention is bidirectional, so that every word added changes how the words before it are read; "
            "--set attention=causal if the model was trained so"
        )
    if compare and kind == "base":
        several = list(texts)
        texts = ["\t".join(several)] if not any("\t" in text for text in several) else several
    yield from run(task, texts, frameworks, facts.load(loaded, device), facts.config, report, note)


def _choose(facts: CheckpointFacts, wanted: Wanted) -> tuple[str, str]:
    """Choose the task's class and the class of the frameworks' models that computes it."""
    if wanted.vector and facts.kind not in ("base", *_LANGUAGE_MODELS):
        raise ConvertError(
            f"a {facts.model_class} gives no sentence vector", "Leave --vector out to have what its head gives."
        )
    if facts.kind == "base" or wanted.vector:
        return "base", "RoFormerModel"
    if facts.kind in FILLED:
        raise ConvertError(
            f"{facts.path} is a {facts.model_class}, which fills masks",
            "Use roformer-convert fill-mask, or add --vector for a sentence vector.",
        )
    return facts.kind, facts.model_class
