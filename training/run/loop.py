"""The training loop: steps, and on the way the log's lines, evaluations and checkpoints."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from ...converters.errors import ConvertError
from ...models.proving import choice_paddle as kernel_choice_paddle
from ..reporting.log import RunLog
from ..reporting.records import StageRecord, StepRecord
from ..samples.position import Position
from ..settings.tables import Settings
from ..start.sources import open_sources
from ..step.agreement import require_agreement
from ..step.estimate import flop_per_token
from ..step.meter import Clock
from ..step.parallel import Ranks
from ..step.precision import choose_device, types_of
from ..step.resume import Change, change_lines, go_on
from ..step.schedule import learning_rate
from ..step.state import checkpoint_path, clear_unfinished, read_checkpoint, set_aside
from ..step.trainer import Trainer
from .evaluation import evaluate, fill_lines, sentences_to_fill
from .feed import Feed, in_sequences
from .opening import ending_line, opening, peak
from .run_directory import claim, locked


def train(settings: Settings, *, resume: bool = False, terminal: bool = False) -> int:
    """Train until the last step, or until SIGTERM or Ctrl-C; return the step of the newest checkpoint.

    Args:
        settings: All settings of the run.
        resume: Go on from the newest checkpoint of the run's directory, if it has one.
        terminal: Keep a progress line.

    Raises:
        ConvertError: The settings, the corpora or the run's directory do not allow it, or the numbers went wrong.
    """
    run = Path(settings.run.output)
    device = choose_device(settings.run)
    ranks = Ranks()
    require_work_for_all(settings, ranks.count)
    with ExitStack() as stack:
        if ranks.first:
            stack.enter_context(locked(run))
        # one rank decides for all: each would read every file, and two could find different ones damaged
        found, damaged = ranks.decide(lambda: claim(run, resume=resume))
        sources = open_sources(settings.data.corpora)
        position, changes, state = Position(), list[Change](), None
        if found is not None and (checkpoint := checkpoint_path(run, found)).exists():  # else the ranks disagree
            state = read_checkpoint(checkpoint)
            position, changes = go_on(checkpoint, state, settings, sources)
        settings = in_sequences(settings, sources, position, run / "samples")
        trainer = Trainer(settings, sources, ranks)
        verdicts = kernel_choice_paddle.prove(trainer.model.config, types_of(settings.run.precision), training=True)
        sentences = sentences_to_fill(settings.watch.fill_mask, sources.tokenizer, trainer.model.config)
        if state is not None:
            trainer.restore(checkpoint, state, changes)
        if ranks.count > 1:
            require_agreement(ranks, trainer.facts())
        feed = stack.enter_context(
            Feed(settings, sources, position, rank=ranks.rank, ranks=ranks.count, cache=run / "samples")
        )
        feed.check()  # what an evaluation lacks shows now, not after a thousand steps
        asked_to_end = stack.enter_context(ending_by_signal(tell=ranks.first))
        log = stack.enter_context(open_log(settings, run, terminal=terminal)) if ranks.first else None
        if log is not None:
            clear_unfinished(run)
            log.rewind(trainer.step)
            for line in opening(trainer, feed, device, kernel_choice_paddle.lines(verdicts)):
                log.say(line)
            for name, why in damaged:
                log.say(f"{name} is damaged and was renamed to {set_aside(run / name).name}: {why}")
            if state is None:
                log.say(f"starts from {settings.run.init or 'random weights'}", *trainer.notes)
            else:
                log.say(f"resumes from {checkpoint}", *change_lines(changes, state, settings))
        state = None  # its arrays, twice the size of the model, are the optimiser's by now
        Loop(trainer, feed, log, asked_to_end, sentences, peak(device, settings.run.precision, ranks.count)).run()
    return trainer.saved


class Loop:
    """Takes every step that is left. Reports before evaluations before checkpoints: a resumed run's log then equals an
    uninterrupted one's.

    Args:
        trainer: What is taken forward.
        feed: Its batches.
        log: The log, on the first rank; None on the others.
        asked_to_end: Set when the run shall save and end.
        sentences: Sentences that each evaluation fills in.
        peak: Operations a second of all devices by their data sheet, or None.
    """

    def __init__(
        self,
        trainer: Trainer,
        feed: Feed,
        log: RunLog | None,
        asked_to_end: threading.Event,
        sentences: Sequence[str] = (),
        peak: float | None = None,
    ) -> None:
        self.trainer = trainer
        self.feed = feed
        self.log = log
        self.asked_to_end = asked_to_end
        self.sentences = sentences
        self.peak = peak
        self.passed_over: tuple[int, int] | None = None  # what was said of last
        self.clock = Clock()

    def run(self) -> None:
        """Take the steps that are left."""
        trainer, settings = self.trainer, self.trainer.settings
        watch = settings.watch
        ending = trainer.step >= settings.steps
        if ending and self.log is not None:
            self.log.say(f"nothing is left to do: all {settings.steps:,} steps are taken; for more, raise --steps")
        while not ending:
            stage, _ = settings.stage_at(trainer.step)
            self.announce(stage)
            asked = self.step()
            last = trainer.step == settings.steps
            ending = asked or last
            if last or trainer.step % watch.log_steps == 0:
                self.report(stage)
            with self.clock.stopped():
                if watch.eval_steps and (last or trainer.step % watch.eval_steps == 0):
                    self.evaluate(stage)
                if ending or trainer.step % watch.save_steps == 0:
                    self.save()
            if self.log is not None:
                self.log.progress(trainer.step)
                if asked and not last:
                    self.log.say(f"asked to end: step {trainer.step} is saved; --resume continues from it")
        if trainer.step >= settings.steps and self.log is not None:
            self.log.say(ending_line(checkpoint_path(Path(settings.run.output), trainer.step)))

    def step(self) -> bool:
        """Take the next step, or pass it over; return whether a rank was asked to end."""
        trainer, settings = self.trainer, self.trainer.settings
        skipped = settings.skipped(trainer.step + 1)
        if skipped is None:
            asked = trainer.take_step(self.feed.batches(trainer.step), ending=self.asked_to_end.is_set())
            self.clock.tick()
            return asked
        if self.log is not None and skipped != self.passed_over:
            first, last = trainer.step + 1, skipped[1]
            steps = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
            self.log.say(f"skipped, together with their data: {steps} (skip_steps)")
        self.passed_over = skipped
        trainer.pass_over()
        return False

    def announce(self, stage: int) -> None:
        """Report that a stage begins, once."""
        step, index = self.trainer.step, self.trainer.settings.stage_at(self.trainer.step)[1]
        if self.log is not None and (index == 0 or step == self.trainer.saved):
            each = self.trainer.settings.stages[stage]
            self.log.stage(
                StageRecord(step - index, stage + 1, each.length, each.batch_size, each.steps, each.batch_tokens)
            )

    def report(self, stage: int) -> None:
        """Write the log's line, of the steps that were taken since the last."""
        trainer, meter, scaler = self.trainer, self.trainer.meter, self.trainer.scaler
        if not meter.taken:
            return
        steps, seconds = self.clock.lap()
        data = trainer.settings.data
        tokens_per_second = steps * meter.tokens / meter.taken / seconds
        loss, lm_loss, sop_loss, gradient_norm = meter.means(mlm=data.mlm, sop=data.sop)
        record = StepRecord(
            step=trainer.step,
            loss=loss,
            lm_loss=lm_loss,
            sop_loss=sop_loss,
            learning_rate=learning_rate(trainer.settings, trainer.step),
            steps_per_second=steps / seconds,
            # of the steps that this process took; the meter also holds those before a resume
            sequences_per_second=steps * meter.sequences / meter.taken / seconds,
            tokens_per_second=tokens_per_second,
            loss_scaling=1.0 if scaler is None else scaler.scale,
            good_steps=0 if scaler is None else scaler.good_steps,
            bad_steps=0 if scaler is None else scaler.bad_steps,
            stage=stage + 1,
            tokens=meter.all_tokens,
            gradient_norm=gradient_norm,
            peak_share=None if self.peak is None else tokens_per_second * self.work_of_token(stage) / self.peak,
        )
        meter.reset()
        if self.log is not None:
            self.log.step(record)

    def work_of_token(self, stage: int) -> float:
        """Return the operations of one token of a stage, as an estimate counts them."""
        data, length = self.trainer.settings.data, self.trainer.settings.stages[stage].length
        masked = data.masked_lm_probability if data.mlm else 0.0
        return flop_per_token(self.trainer.model.config, length, masked=masked)

    def evaluate(self, stage: int) -> None:
        """Score held-out text, and fill in some masks."""
        trainer, settings = self.trainer, self.trainer.settings
        if settings.evaluates:
            record = evaluate(
                trainer.model,
                self.feed.held_out(stage),
                settings.watch.eval_batches,
                micro_tokens=settings.stages[stage].micro_tokens,
                step=trainer.step,
                stage=stage + 1,
                rank=trainer.ranks.rank,
                ranks=trainer.ranks.count,
                reduce=trainer.ranks.add,
            )
            if self.log is not None:
                self.log.evaluation(record)
        if self.log is not None and settings.data.mlm and self.sentences:
            lines = fill_lines(trainer.model, trainer.sources.tokenizer, self.sentences)
            self.log.fill_mask(lines, step=trainer.step)

    def save(self) -> None:
        """Write a checkpoint."""
        settings = self.trainer.settings
        sync = self.log.sync if self.log is not None else lambda: None
        run, step = Path(settings.run.output), self.trainer.step
        position = self.feed.position(step)
        if self.trainer.save(run, position, keep=settings.watch.keep_checkpoints, sync=sync) and self.log is not None:
            self.log.say(f"saved {checkpoint_path(run, step)}")


def require_work_for_all(settings: Settings, ranks: int) -> None:
    """Refuse stages whose batches have fewer samples than there are ranks.

    Raises:
        ConvertError: There are such stages; all are named.
    """
    small = [
        f"stages[{number}].batch_"
        + (
            f"tokens = {stage.batch_tokens:,} of length {stage.length}"
            if stage.batch_tokens
            else f"size = {stage.fewest}"
        )
        + f", but there are {ranks} ranks: each needs at least one sequence a step"
        for number, stage in enumerate(settings.stages)
        if stage.fewest < ranks
    ]
    if small:
        raise ConvertError(
            "\n  ".join(small),
            "Raise --batch-size or --batch-tokens, which count all ranks together, or start fewer ranks.",
        )


def open_log(settings: Settings, run: Path, *, terminal: bool) -> RunLog:
    """Open the log of a run."""
    return RunLog(
        run,
        tensorboard=settings.watch.tensorboard,
        visualdl=settings.watch.visualdl,
        terminal=terminal,
        plan=[(stage.steps, stage.batch_size * stage.length) for stage in settings.stages],
    )


@contextmanager
def ending_by_signal(*, tell: bool) -> Iterator[threading.Event]:
    """Turn SIGTERM and the first Ctrl-C into an event, so that the step at hand is finished and saved.

    A second Ctrl-C interrupts. A second SIGTERM changes nothing: Paddle's launcher sends several, a fifth of a second
    apart.

    Args:
        tell: Answer Ctrl-C with a line on standard error.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread alone
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if tell:  # past Python's buffers, in which the loop may be writing at this moment
                os.write(2, b"\nfinishing the step, then saving; Ctrl-C again stops at once\n")

    # a shell's background job ignores Ctrl-C, and goes on doing so
    numbers = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, ask)) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in before:
            signal.signal(number, handler)
