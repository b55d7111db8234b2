"""A model, its optimiser and what they have seen, taken forward a step at a time.

Everything random is a function of the seed and the step: the data (:mod:`..samples.batches`) and dropout, whose
generator is seeded anew for every micro-batch. The state between two steps is therefore weights, moments, the loss
scale and a number, and a run that goes on from them computes what an uninterrupted one would have.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError
from ...converters.optimizer.paddle_state import KINDS
from ...models.ops_paddle import as_numpy
from ...models.processes.start_paddle import paddle
from ..samples.batches import NO_ORDER, Batch
from ..samples.position import Position
from ..samples.splitmix import derive
from ..settings.tables import Settings
from ..start.sources import Sources, load_weights, starting_model
from .agreement import digest, settings_facts
from .exchange import GradientExchange
from .health import BadNumberError, first_bad_tensor
from .meter import Meter
from .objective import losses
from .optimizer import AdamW, Arrays, clip_factor
from .parallel import Ranks
from .precision import LossScaler, autocast, half_type, is_halved
from .resume import Change
from .schedule import learning_rate
from .state import TrainingState, checkpoint_path, read_moments, write_checkpoint
from .weights import Weights, clear_gradients, gradient_norm


class Trainer:
    """The state of a run, and its step.

    Args:
        settings: All settings of the run.
        sources: Corpora and vocabulary.
        ranks: The processes.
        scaled: Whether losses are scaled; by default where the precision is fp16.

    Attributes:
        step: Number of steps taken.
        saved: Step of the newest checkpoint, 0 where there is none.
        history: What was changed on resumes, as :class:`.state.TrainingState` has it.
        notes: What is to be said of the weights that it starts from, a sentence each.
        model: The model that computes.
        weights: What is trained.
        scaler: The loss scale, or None.
        meter: Sums for the log.
    """

    def __init__(self, settings: Settings, sources: Sources, ranks: Ranks, *, scaled: bool | None = None) -> None:
        precision = settings.run.precision
        half = half_type(precision)
        self.settings = settings
        self.sources = sources
        self.ranks = ranks
        self.step = self.saved = 0
        self.history: list[dict[str, Any]] = []
        model, self.notes = starting_model(settings, sources)
        self.weights = Weights(model, settings.data, half=half if is_halved(precision) else None)
        self.model = self.weights.model
        self.model.gradient_checkpointing = settings.run.recompute
        self.model.train()
        trained = self.weights.trained
        self._shares = ranks.shares(trained) if settings.run.shard_optimizer else [trained] * ranks.count
        self._exchange = GradientExchange(ranks, self.weights, half if settings.run.exchange == "half" else None)
        self.optimizer = AdamW(self._shares[ranks.rank], settings.optimizer)
        if settings.run.init_optimizer:
            self._begin_with(Path(settings.run.init))
        scaled = half == "float16" if scaled is None else scaled
        self.scaler = LossScaler.fresh(settings.scaling) if scaled else None
        self.meter = Meter()
        self._restored = "nothing"  # digest of the state beside the weights that it goes on from

    def _begin_with(self, directory: Path) -> None:
        """Begin with the optimiser's state of another run.

        Raises:
            ConvertError: There is none, or it is another model's.
        """
        if not self.settings.run.init:
            raise ConvertError("init_optimizer is on, and there is nothing to start from", "Name it: --init DIR.")
        anew = self.optimizer.begin(read_moments(directory))
        but = f", but begins anew for {', '.join(anew)}" if anew else ""
        self.notes.append(f"AdamW's state is that of {directory}{but}")

    def facts(self) -> dict[str, Any]:
        """List what this rank is about to do, which must be the same on all: settings, contents, place, weights."""
        return {
            "step": self.step,
            **settings_facts(self.settings.as_tree()),
            "vocabulary": self.sources.vocabulary,
            **{f"corpora[{number}]": contents for number, contents in enumerate(self.sources.contents)},
            "weights": digest((name, as_numpy(master)) for name, master in self.weights.masters.items()),
            "optimizer": self._restored,
        }

    def take_step(self, batches: Sequence[Batch], *, ending: bool = False) -> bool:
        """Update the model from one global batch, of which ``batches`` are this rank's micro-batches.

        Args:
            batches: Batches of step ``self.step``, counted from 0.
            ending: Whether this rank was asked to end.

        Returns:
            Whether any rank was asked to end.

        Raises:
            BadNumberError: Losses or gradients are not finite, or no loss scale makes them so.
        """
        step, trained = self.step + 1, self.weights.trained
        mlm_count, sop_count, tokens, sequences = self.ranks.add(_counts(batches)).tolist()
        scale = 1.0 if self.scaler is None else self.scaler.scale
        sums = paddle.zeros([2], "float32")
        for part, batch in enumerate(batches):
            paddle.seed(self._seed(part))
            with autocast(self.settings.run.precision):
                found = losses(self.model, batch, accuracy=False)
            # divided by the counts of the whole global batch: gradients of parts and ranks then simply add up
            mlm, sop = found.mlm_sum / max(1.0, mlm_count), found.sop_sum / max(1.0, sop_count)
            if part == len(batches) - 1:
                self._exchange.begin()
            ((mlm + sop) * scale).backward()
            self.weights.collect()
            sums += paddle.stack([mlm, sop]).detach()
        self._exchange.finish()
        lm_loss, sop_loss, endings = self.ranks.add([*sums.numpy().tolist(), float(ending)]).tolist()

        norm = gradient_norm(trained, scale)
        finite = math.isfinite(norm) and math.isfinite(lm_loss + sop_loss)
        if self.scaler is not None:
            self.scaler.update(finite)
        self.meter.count(int(tokens), int(sequences))
        if finite:
            clip = clip_factor(norm, self.settings.optimizer.grad_clip)
            self.optimizer.step(learning_rate(self.settings, step), clip / scale)
            if self.settings.run.shard_optimizer:
                self.ranks.publish(self._shares)
            self.weights.publish()
            self.meter.add(lm_loss if mlm_count else None, sop_loss if sop_count else None, norm)
        elif self.scaler is None or self.scaler.vanished:
            raise self._bad_number(batches, scale, lm_loss, sop_loss, norm)
        clear_gradients(trained)
        self.step = step
        return bool(endings)

    def pass_over(self) -> None:
        """Count a step as taken whose data nobody shall see."""
        self.step += 1

    def save(self, run: Path, position: Position, *, keep: int, sync: Callable[[], None]) -> bool:
        """Write a checkpoint of this step, unless it is written already; all ranks together.

        Args:
            run: The run's directory.
            position: How far the data are read.
            keep: The same as for :func:`.state.write_checkpoint`.
            sync: The same as for :func:`.state.write_checkpoint`.

        Returns:
            Whether one was written.
        """
        if self.saved == self.step:
            return False
        arrays = self._optimizer_state()
        if self.ranks.first:
            state = TrainingState(
                step=self.step,
                settings=self.settings,
                vocabulary=self.sources.vocabulary,
                corpora=self.sources.contents,
                position=position,
                scaler={} if self.scaler is None else self.scaler.state(),
                meter=self.meter,
                history=self.history,
                arrays=arrays,
            )
            write_checkpoint(
                run, state, lambda path: self.weights.save(path, self.sources.companions), keep=keep, sync=sync
            )
        self.ranks.wait()
        self.saved = self.step
        return True

    def restore(self, directory: Path, state: TrainingState, changes: Sequence[Change] = ()) -> None:
        """Go on from a checkpoint of this run, with what was changed since.

        Raises:
            ConvertError: It is one of another model.
        """
        self.weights.load(load_weights(directory, self.model.config))
        self.optimizer.load(state.arrays)
        if self.scaler is not None:
            self.scaler = LossScaler.loaded(self.settings.scaling, state.scaler)
        self.meter = state.meter
        self.history = [*state.history]
        if changes:
            self.history.append({"step": state.step, "changes": [asdict(change) for change in changes]})
        if self.ranks.count > 1:  # else nobody asks
            self._restored = digest(state.arrays.items())
        self.step = self.saved = state.step

    def _optimizer_state(self) -> Arrays:
        """Return the whole state, on every rank: what a checkpoint holds does not depend on how it was divided."""
        mine = self.optimizer.state()
        if not self.settings.run.shard_optimizer or self.ranks.count == 1:
            return mine
        return {
            f"{name}:{kind}": self.ranks.gather(
                mine.get(f"{name}:{kind}"), tuple(parameter.shape) if kind.startswith("moment") else (1,), owner
            )
            for owner, share in enumerate(self._shares)
            for name, parameter in share.items()
            for kind in KINDS
        }

    def _seed(self, part: int) -> int:
        """Return the dropout seed of a micro-batch of this rank in the step that is being taken."""
        return derive(self.settings.run.seed, self.step, self.ranks.rank, part) >> 1  # Paddle takes a signed number

    def _bad_number(
        self, batches: Sequence[Batch], scale: float, lm_loss: float, sop_loss: float, norm: float
    ) -> BadNumberError:
        why = f"not finite: loss {lm_loss + sop_loss} (lm {lm_loss}, sop {sop_loss}), norm of the gradients {norm}"
        if self.scaler is not None:
            why += f"; the loss scale fell to {self.scaler.scale:g}, below min_loss_scaling"
        precision = self.settings.run.precision
        tensor, samples = first_bad_tensor(
            self.model,
            self.weights.masters,
            batches,
            scale=scale,
            autocast=lambda: autocast(precision),
            seed=self._seed,
        )
        run = Path(self.settings.run.output)
        saved = str(checkpoint_path(run, self.saved)) if self.saved else None
        return BadNumberError(self.step + 1, why, tensor, samples, saved, self.settings.data.skip_steps)


def _counts(batches: Sequence[Batch]) -> list[float]:
    """Count the masked tokens, samples with two sentences, tokens and samples of a rank's part of a global batch."""
    return [
        sum(len(batch.labels) for batch in batches),
        sum(int((batch.order != NO_ORDER).sum()) for batch in batches),
        sum(int(batch.attention_mask.sum()) for batch in batches),
        sum(len(batch.input_ids) for batch in batches),
    ]
