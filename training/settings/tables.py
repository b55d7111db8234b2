"""What a pretraining run does, as one frozen tree of records: the tables and keys of ``configs/*.toml``.

A key's name is unique in the whole tree, so that each is also a flag of ``roformer-pretrain train``.
:mod:`.reading` reads and checks; this file says what there is. Lengths are in tokens, times in steps of the
optimiser.
"""

# ruff: noqa: RUF009  # _key is dataclasses.field with our metadata
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field
from typing import Any, Literal, get_args

Precision = Literal["fp32", "fp16-o1", "fp16-o2", "bf16-o1", "bf16-o2"]
Device = Literal["auto", "cpu", "gpu"]
Decay = Literal["linear", "cosine", "constant"]
Exchange = Literal["float32", "half"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DEVICES: tuple[Device, ...] = get_args(Device)
DECAYS: tuple[Decay, ...] = get_args(Decay)
EXCHANGES: tuple[Exchange, ...] = get_args(Exchange)


@dataclass(frozen=True)
class Range:
    """Numbers that a key may have.

    Attributes:
        low: The smallest number.
        high: The largest number.
        above: Whether ``low`` itself is excluded.
        below: Whether ``high`` itself is excluded.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, (int, float))
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high == math.inf:
            return low
        return f"{low} and {f'less than {self.high:g}' if self.below else f'at most {self.high:g}'}"


_ANY = Range(-math.inf)
_SHARE = Range(0, 1, below=True)
_PROPER_SHARE = Range(0, 1, above=True, below=True)
_POSITIVE = Range(0, above=True)
_FROM_0 = Range(0)
_FROM_1 = Range(1)
#: Past these no machine holds a layer, and Paddle's own errors are not for people.
_WIDTH, _WIDTH_OR_0 = Range(1, 1 << 16), Range(0, 1 << 20)
_LAYERS, _POSITIONS = Range(1, 4096), Range(1, 1 << 20)


def _key(
    default: Any = MISSING, words: str = "", within: Range = _ANY, *, free: bool = False, choices: Sequence[str] = ()
) -> Any:
    """Declare a key: default, --help, numbers or choices it may have, and whether a resumed run may have another."""
    return field(default=default, metadata={"help": words, "within": within, "free": free, "choices": tuple(choices)})


@dataclass(frozen=True)
class Run:
    """Where the run lies and what it starts from."""

    output: str = _key("output", "Directory of the run: checkpoints, metrics, curves.", free=True)
    init: str = _key("", "Checkpoint directory of any dialect to start from; empty: start at random.")
    init_optimizer: bool = _key(False, "Take AdamW's moments and steps from init too, from its training.safetensors.")
    seed: int = _key(42, "Seed of weights, masks, swaps and dropout.", _FROM_0)
    device: Device = _key("auto", "Device that computes; auto takes a GPU if there is one.", free=True, choices=DEVICES)
    precision: Precision = _key(
        "fp32", "Type of the arithmetic; o1 and o2 say how much of it is in the half type.", choices=PRECISIONS
    )
    recompute: bool = _key(
        False, "Compute each layer again in the backward pass instead of keeping its activations.", free=True
    )
    shard_optimizer: bool = _key(False, "Divide the optimiser's state among the ranks.", free=True)
    exchange: Exchange = _key(
        "float32", "Type in which ranks exchange gradients; half: that of precision.", free=True, choices=EXCHANGES
    )


@dataclass(frozen=True)
class Data:
    """What is read and what is made of it."""

    corpora: tuple[str, ...] = _key(
        (), "Prepared corpora: DIR, or DIR=WEIGHT to draw from one more than another.", free=True
    )
    skip_steps: tuple[str, ...] = _key(
        (), "Steps that are skipped with their data: 513, or 510-520; the schedule goes on.", free=True
    )
    mlm: bool = _key(True, "Train the masked-language-model head.")
    sop: bool = _key(True, "Train the sentence-order head.")
    whole_word: bool = _key(True, "Mask all tokens of a word together.")
    masked_lm_probability: float = _key(0.15, "Share of the tokens that are predicted.", _PROPER_SHARE)
    ngrams: int = _key(1, "Longest run of words that is masked together; n words with weight 1/n.", Range(1, 16))
    short_sequence_probability: float = _key(0.1, "Share of samples that are made shorter than the length.", _SHARE)
    held_out_fraction: float = _key(0.005, "Share of the documents that is held out for evaluation.", _SHARE)


@dataclass(frozen=True)
class Model:
    """The architecture; the vocabulary is the corpus's."""

    hidden_size: int = _key(768, "H, width of the encoder.", _WIDTH)
    embedding_size: int = _key(0, "E, width of the embeddings; 0: hidden_size.", _WIDTH_OR_0)
    num_hidden_layers: int = _key(12, "L, number of layers.", _LAYERS)
    num_attention_heads: int = _key(12, "N, number of attention heads.", _WIDTH)
    intermediate_size: int = _key(0, "F, width inside the feed-forward block; 0: 4 × hidden_size.", _WIDTH_OR_0)
    hidden_act: str = _key("gelu", "Activation of the feed-forward block and the masked-LM head.")
    hidden_dropout_prob: float = _key(0.1, "Dropout after embeddings and blocks.", _SHARE)
    attention_probs_dropout_prob: float = _key(0.1, "Dropout of attention weights.", _SHARE)
    max_position_embeddings: int = _key(
        512, "Longest sequence the checkpoint declares; positions have no weights.", _POSITIONS
    )
    initializer_range: float = _key(0.02, "Standard deviation of fresh weights.", _POSITIVE)
    layer_norm_eps: float = _key(1e-12, "Added to the variance in every norm.", _POSITIVE)
    rotary_value: bool = _key(False, "Rotate values as queries and keys are.")


@dataclass(frozen=True)
class Optimizer:
    """The settings of AdamW."""

    weight_decay: float = _key(0.01, "Decay of the weights; biases and norms have none.", _FROM_0, free=True)
    beta1: float = _key(0.9, "Decay of the first moment.", _SHARE)
    beta2: float = _key(0.999, "Decay of the second moment.", _SHARE)
    adam_epsilon: float = _key(1e-8, "Added to the root of the second moment.", _POSITIVE)
    grad_clip: float = _key(1.0, "Largest norm of all gradients together; 0: no limit.", _FROM_0, free=True)


@dataclass(frozen=True)
class Scaling:
    """Dynamic loss scaling, for fp16 alone. The defaults are the reference run's."""

    init_loss_scaling: float = _key(32768.0, "Scale of the first step.", _POSITIVE)
    incr_ratio: float = _key(2.0, "The scale is multiplied by this after enough good steps.", Range(1, above=True))
    decr_ratio: float = _key(0.8, "The scale is multiplied by this after enough bad steps.", _PROPER_SHARE)
    incr_every_n: int = _key(1000, "Good steps in a row before the scale grows.", _FROM_1)
    decr_every_n: int = _key(2, "Bad steps in a row before it shrinks.", _FROM_1)
    min_loss_scaling: float = _key(1.0, "The run stops where the scale falls below this.", _POSITIVE)


@dataclass(frozen=True)
class Watch:
    """What is written while it runs; none of it changes what is computed."""

    log_steps: int = _key(100, "Steps between two lines of the log.", _FROM_1, free=True)
    save_steps: int = _key(5000, "Steps between two checkpoints.", _FROM_1, free=True)
    keep_checkpoints: int = _key(3, "How many of the last checkpoints are kept; 0: all.", _FROM_0, free=True)
    eval_steps: int = _key(1000, "Steps between two evaluations; 0: none.", _FROM_0, free=True)
    eval_batches: int = _key(20, "Batches of held-out text in an evaluation.", _FROM_0, free=True)
    fill_mask: tuple[str, ...] = _key((), "Sentences with [MASK] that each evaluation fills in.", free=True)
    tensorboard: bool = _key(True, "Write curves for TensorBoard.", free=True)
    visualdl: bool = _key(False, "Write curves for VisualDL.", free=True)


@dataclass(frozen=True)
class Stage:
    """A stretch of the run with one length, batch size and learning-rate schedule.

    A stage without ``max_lr`` goes on along the schedule of the stage before it; one with ``max_lr`` begins its own,
    whose steps are counted from the stage's first.
    """

    length: int = _key(MISSING, "Tokens of a sequence, [CLS] and [SEP] included.", Range(8))
    steps: int = _key(MISSING, "Steps of the stage.", _FROM_1, free=True)
    batch_size: int = _key(0, "Sequences of a step, over all ranks and micro-batches.", _FROM_0, free=True)
    batch_tokens: int = _key(0, "Instead of batch_size: tokens of a step, give or take a sequence.", _FROM_0, free=True)
    micro_tokens: int = _key(
        0, "Tokens that one device computes at once, at least length; 0: its share of the batch.", _FROM_0, free=True
    )
    max_lr: float | None = _key(None, "Learning rate after the warm-up.", _POSITIVE, free=True)
    min_lr: float = _key(0.0, "Learning rate at the end of the decay and after it.", _FROM_0, free=True)
    warmup_steps: int = _key(0, "Steps in which the rate rises from 0 to max_lr.", _FROM_0, free=True)
    decay: Decay = _key("linear", "Shape of the decay from max_lr to min_lr.", free=True, choices=DECAYS)
    decay_steps: int = _key(0, "Step of the schedule at which min_lr is reached; 0: its last.", _FROM_0, free=True)

    def sequences(self, mean: float) -> int:
        """Return the number of sequences of a step on average, where one holds ``mean`` tokens."""
        return self.batch_size or max(1, round(self.batch_tokens / mean))

    @property
    def fewest(self) -> int:
        """Sequences that every step has at least."""
        return self.batch_tokens // self.length or self.batch_size


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run."""

    stages: tuple[Stage, ...]
    run: Run = field(default_factory=Run)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    scaling: Scaling = field(default_factory=Scaling)
    watch: Watch = field(default_factory=Watch)

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Return the stage of a step (from 0) of the run: its number, and the step within it."""
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        raise IndexError("past the last stage")

    def skipped(self, step: int) -> tuple[int, int] | None:
        """Return the range of ``skip_steps``, first and last, that a step (from 1) of the run lies in, or None."""
        ranges = map(read_range, self.data.skip_steps)
        return next(((first, last) for first, last in ranges if first <= step <= last), None)

    @property
    def evaluates(self) -> bool:
        """Whether held-out text is scored."""
        return bool(self.watch.eval_steps and self.watch.eval_batches and self.data.held_out_fraction)

    def as_tree(self) -> dict[str, Any]:
        """Return the settings as plain tables and values, as JSON and TOML hold them."""
        tree: dict[str, Any] = {name: asdict(getattr(self, name)) for name in TABLES}
        for table in tree.values():
            table.update({name: list(value) for name, value in table.items() if isinstance(value, tuple)})
        tree["stages"] = [
            {name: value for name, value in asdict(stage).items() if value is not None} for stage in self.stages
        ]
        for stage in tree["stages"]:
            if stage["batch_tokens"]:
                stage["batch_size"] = 0  # which may have been reckoned since, from the corpora
        return tree


def read_range(text: str) -> tuple[int, int]:
    """Read a step or a range of steps, counted from 1: ``513`` or ``510-520``.

    Raises:
        ValueError: It is neither.
    """
    found = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text, re.ASCII)
    if not found or int(found[2] or found[1]) < int(found[1]):
        raise ValueError(text)
    return int(found[1]), int(found[2] or found[1])


#: Table of a configuration file → its record.
TABLES: dict[str, type] = {
    "run": Run,
    "data": Data,
    "model": Model,
    "optimizer": Optimizer,
    "scaling": Scaling,
    "watch": Watch,
}
