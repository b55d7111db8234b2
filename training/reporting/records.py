"""What a training run reports: a stage that begins, steps taken, an evaluation. Plain data, each a line of metrics.

:mod:`.log` writes them, :mod:`.metrics` reads them back, :mod:`.plot` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageRecord:
    """The record that a stage begins.

    Attributes:
        step: Steps of the whole run that were taken before it; 0 for the first stage.
        stage: Its number, from 1.
        length: Longest sequence in tokens.
        batch_size: Sequences of a step, over all ranks and micro-batches; where ``batch_tokens`` decides, on average.
        steps: How many steps it has.
        batch_tokens: Tokens of a step, or 0 where the number of sequences decides.
    """

    step: int
    stage: int
    length: int
    batch_size: int
    steps: int
    batch_tokens: int = 0


@dataclass(frozen=True)
class StepRecord:
    """Steps were taken since the last such record; losses are what the caller made of them, usually their mean.

    Attributes:
        step: Steps of the whole run taken so far; 1 after the first.
        loss: What was minimised; NaN, as both parts, where loss scaling left out all of these steps.
        lm_loss: Its masked-LM part: mean cross-entropy of a masked token, in nats; 0 where that objective is off.
        sop_loss: Its sentence-order part; 0 where that objective is off, NaN where no sample had a second sentence.
        learning_rate: Rate of the last of these steps.
        steps_per_second: A time: differs from run to run, as the next two do.
        sequences_per_second: Sequences a second, over all ranks.
        tokens_per_second: Tokens a second, over all ranks, padding left out.
        loss_scaling: What the loss is multiplied by before the backward pass; 1 where nothing is scaled.
        good_steps: Steps with finite gradients since the scale last changed.
        bad_steps: Steps in a row whose gradients were not finite.
        stage: Number of the stage, from 1.
        tokens: Tokens trained on since the run began, padding left out; None where nobody counts.
        gradient_norm: Before clipping; None where it is unknown.
        lm_accuracy: Share of masked tokens that the model got right, 0 to 1; None where it is unknown.
        sop_accuracy: Share of sentence orders that are predicted right, of the same samples.
        peak_share: Share of the devices' peak rate that the steps' products reached, 0 to 1; a time, too. None on a CPU
            and where the peak is unknown.
    """

    step: int
    loss: float
    lm_loss: float
    sop_loss: float
    learning_rate: float
    steps_per_second: float
    sequences_per_second: float
    tokens_per_second: float
    loss_scaling: float = 1.0
    good_steps: int = 0
    bad_steps: int = 0
    stage: int = 1
    tokens: int | None = None
    gradient_norm: float | None = None
    lm_accuracy: float | None = None
    sop_accuracy: float | None = None
    peak_share: float | None = None

    def line(self) -> str:
        """Write the log line of PaddleNLP's ernie-1.0 example, field for field, which people grep and plot."""
        return (
            f"global step {self.step}, loss: {self.loss:.9f}, lm_loss: {self.lm_loss:.6f}, "
            f"sop_loss: {self.sop_loss:.6f}, speed: {self.steps_per_second:.2f} steps/s, "
            f"ips: {self.sequences_per_second:.2f} seqs/s, learning rate: {self.learning_rate:.5e}, "
            f"loss_scaling: {self.loss_scaling}, num_good_steps: {self.good_steps}, num_bad_steps: {self.bad_steps}"
        )


@dataclass(frozen=True)
class EvaluationRecord:
    """Held-out text was scored, without dropout.

    Attributes:
        step: Steps of the run before it.
        lm_loss: Mean cross-entropy of a masked token, in nats; None where the objective is off.
        lm_accuracy: Share of masked tokens whose best word is right, 0 to 1; None where none was scored.
        sop_loss: Mean cross-entropy of an order, in nats; None where nothing has a second sentence.
        sop_accuracy: Share of orders, 0 to 1; None where none was scored.
        tokens: Tokens read, padding left out.
        masked: Masked tokens scored.
        orders: Sentence orders scored.
        stage: Number of the stage, from 1.
    """

    step: int
    lm_loss: float | None
    lm_accuracy: float | None
    sop_loss: float | None
    sop_accuracy: float | None
    tokens: int
    masked: int = 0
    orders: int = 0
    stage: int = 1

    def line(self) -> str:
        """Write it in the manner of the step's line."""
        parts = [f"evaluation at step {self.step}"]
        for name, value in (
            ("lm_loss", self.lm_loss),
            ("lm_accuracy", self.lm_accuracy),
            ("sop_loss", self.sop_loss),
            ("sop_accuracy", self.sop_accuracy),
        ):
            if value is not None:
                parts.append(f"{name}: {value:.{6 if name.endswith('loss') else 4}f}")
        parts.append(f"tokens: {self.tokens}")
        return ", ".join(parts)
