"""Run in small what a GPU would be asked to, while Paddle logs: the process that ``python -m audit`` records.

    GLOG_v=6 python -m audit.scenarios KERNEL_LIST 2> log

Each scenario is the project's own code from end to end: the trainer's step, an evaluation, fill-mask's worker, the
gate's process. It takes the branches of a GPU of some compute capability, with the model's own operators everywhere
(plain) or as if every candidate among the fast kernels had proved itself (fast).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

from roformer_convert.converters import open_checkpoint
from roformer_convert.models.answers.continuation import CausalLM
from roformer_convert.models.answers.fill_mask import FillMask
from roformer_convert.models.answers.framework_processes import Row
from roformer_convert.models.answers.worker import Worker
from roformer_convert.models.kernels.attention_paddle import Device, Kernel, pretending
from roformer_convert.models.ops_paddle import F, attend, rotate
from roformer_convert.models.processes.start_paddle import paddle
from roformer_convert.models.proving import choice_paddle as kernel_choice_paddle
from roformer_convert.models.proving import trials_paddle as kernel_trials_paddle
from roformer_convert.models.roformer_paddle import RoFormerForMaskedLM
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.parity.participants import run_paddle
from roformer_convert.parity.participants.dump import Dumper
from roformer_convert.parity.questions.case_file import write_cases
from roformer_convert.parity.questions.cases import make_cases
from roformer_convert.parity.questions.targets import make_training
from roformer_convert.parity.questions.tasks import TASKS
from roformer_convert.training.corpus.prepare import prepare
from roformer_convert.training.run.evaluation import SENTENCES, evaluate, fill_lines
from roformer_convert.training.run.feed import Feed
from roformer_convert.training.settings.reading import settings_from_tree
from roformer_convert.training.start.sources import open_sources
from roformer_convert.training.step.parallel import Ranks
from roformer_convert.training.step.trainer import Trainer

from .half_types import as_on_a_gpu
from .kernel_list import KernelList, read_kernel_list
from .marks import SCENARIO, STANDS_FOR, mark

_FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
_CHECKPOINT = _FIXTURES / "random"
_VOCABULARY = _FIXTURES / "tiny" / "vocab.txt"

_MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_STAGE = {"length": 48, "batch_size": 6, "steps": 2, "max_lr": 1e-3, "warmup_steps": 1, "micro_tokens": 4096}


def _attend(query: Any, key: Any, value: Any, lengths: tuple[int, ...], dropout: float, causal: bool = False) -> Any:
    layout = kernel_trials_paddle._layout(lengths, causal)
    return attend(query, key, value, layout, dropout).reshape(query.shape)


#: The model's own operators with the arguments of a kernel of their place.
_STAND_INS: dict[str, Callable[..., Any]] = {
    "attention": _attend,
    "causal_attention": partial(_attend, causal=True),
    "rotation": rotate,
    "add_norm": lambda x, residual, weight, bias, epsilon, dropout: F.layer_norm(
        residual + F.dropout(x, dropout), x.shape[-1], weight, bias, epsilon
    ),
    "projection": F.linear,
}

V100 = (7, 0)
#: Other GPUs, with what is trained on each: P40 (which Paddle's mixed precision leaves out), T4, A100, H100.
OTHERS = {(6, 1): ("fp32",), (7, 5): ("fp16-o2",), (8, 0): ("fp16-o1", "bf16-o1", "bf16-o2"), (9, 0): ("fp16-o2",)}


def main(kernel_list: str) -> None:
    """Run every scenario."""
    kernels = read_kernel_list(Path(kernel_list))
    with tempfile.TemporaryDirectory() as directory:
        recorder = _Recorder(kernels, Path(directory))
        for precision in ("fp32", "fp16-o1", "fp16-o2"):
            for fast in (False, True):
                recorder.record(f"train {precision}", V100, fast, recorder.train, precision=precision)
            recorder.record(
                f"train {precision}, 2 ranks sharded, micro-batches, recompute", V100, True, recorder.train,
                precision=precision, recompute=True, shard_optimizer=True, micro_tokens=96, ranks=2,
            )  # fmt: skip
        for capability, precisions in OTHERS.items():
            for precision in precisions:
                recorder.record(f"train {precision}", capability, True, recorder.train, precision=precision)
        for fast in (False, True):
            recorder.record("fill-mask", V100, fast, recorder.fill_mask)
            for attention in ("causal", "unilm"):
                recorder.record(f"next words, {attention}", V100, fast, recorder.next_words, attention=attention)
            recorder.record("gate", V100, fast, recorder.gate)
        recorder.record("trials", V100, False, recorder.trials)


class _Recorder:
    """Makes what scenarios need, and runs them."""

    def __init__(self, kernels: KernelList, directory: Path) -> None:
        self.kernels = kernels
        self.directory = directory
        self.corpus = directory / "corpus"
        (directory / "text.txt").write_text("\n\n".join(_documents()), encoding="utf-8")
        prepare([directory / "text.txt"], self.corpus, _VOCABULARY, segmenter="none", processes=1)

    def record(
        self, name: str, capability: tuple[int, int], fast: bool, run: Callable[..., None], **arguments: Any
    ) -> None:
        """Run one scenario on a pretended GPU."""

        def heard(kernel: Kernel, dtype: str) -> None:
            for operator in kernel.operators:
                mark(STANDS_FOR, operator, dtype)

        device = Device(f"a GPU of capability {capability[0]}.{capability[1]}", capability)
        with ExitStack() as stack:
            stack.enter_context(pretending(device, fast=fast, heard=heard))
            for owner in (kernel_choice_paddle, run_paddle):  # trials run on the device alone
                stack.enter_context(mock.patch.object(owner, "prove", return_value=()))
            stack.enter_context(as_on_a_gpu(capability, self.kernels.types))
            mark(SCENARIO, f"{name}, {'fast' if fast else 'plain'}, {capability[0]}.{capability[1]}")
            run(**arguments)

    def train(self, *, ranks: int = 1, micro_tokens: int = 4096, **run: Any) -> None:
        """Take a step, evaluate, and fill sentences, as the training loop does."""
        tree = {
            "run": {"output": str(self.directory / "run"), "device": "cpu", **run},
            "data": {"corpora": [str(self.corpus)], "held_out_fraction": 0.2},
            "model": {**_MODEL},
            "watch": {"eval_batches": 1, "tensorboard": False},
            "stages": [{**_STAGE, "micro_tokens": micro_tokens}],
        }
        settings = settings_from_tree(tree)
        sources = open_sources(settings.data.corpora)
        with _ranks(ranks) as members, Feed(settings, sources, ranks=ranks) as feed:
            trainer = Trainer(settings, sources, members)
            trainer.take_step(feed.batches(0))
            evaluate(trainer.model, feed.held_out(0), 1, micro_tokens=micro_tokens)
            fill_lines(trainer.model, sources.tokenizer, SENTENCES)

    def fill_mask(self) -> None:
        """Answer as the worker of fill-mask does."""
        worker = Worker("paddle")
        worker.take(RoFormerForMaskedLM.from_pretrained(_FIXTURES / "tiny", dtype="float32"))
        task = FillMask(Tokenizer.from_pretrained(_FIXTURES / "tiny"), top_k=5)
        encodings = [encoding for text in SENTENCES for encoding in task.read(text)[0]]
        worker.words([task.row(encoding).__dict__ for encoding in encodings], **task.options)

    def next_words(self, *, attention: str) -> None:
        """Answer as the worker of predict does for a language model that reads in order."""
        worker = Worker("paddle")
        model = RoFormerForMaskedLM.from_pretrained(_FIXTURES / "tiny", dtype="float32", set={"attention": attention})
        worker.take(model)
        task = CausalLM(Tokenizer.from_pretrained(_FIXTURES / "tiny"), model.config, top_k=5, words=1)
        encodings = [encoding for text in SENTENCES for encoding in task.read(text)[0]]
        rows = [Row(one.ids, one.token_type_ids, [len(one.ids) - 1]) for one in encodings]
        worker.words([row.__dict__ for row in rows], **task.options)

    def gate(self) -> None:
        """Dump and differentiate as the gate's process does."""
        with open_checkpoint(_CHECKPOINT) as checkpoint:
            config = checkpoint.config
        task = TASKS["RoFormerForPretraining"]
        cases, training = make_cases(config, task, None), make_training(config, task)
        listed = write_cases(self.directory / "cases.npz", cases, training)
        Dumper("paddle").dump(
            directory=str(_CHECKPOINT), class_name="RoFormerForPretraining", out=str(self.directory),
            cases_file=str(self.directory / "cases.npz"), cases=listed, dialect=None,
        )  # fmt: skip

    def trials(self) -> None:
        """Try stand-ins for the fast kernels: what a trial computes beside the kernel must work where kernels do."""
        with open_checkpoint(_CHECKPOINT) as checkpoint:
            config = replace(checkpoint.config, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        types = ("float16", "float32")
        needs = [
            *kernel_trials_paddle.needs(config, types),
            *kernel_trials_paddle.needs(replace(config, attention="causal"), types),
        ]
        for need in dict.fromkeys(needs):
            kernel = Kernel("stand-in", need.place, V100, (need.dtype,), (), _STAND_INS[need.place], "")
            verdict = kernel_trials_paddle.attempt(kernel, need)
            if not verdict.agrees:
                raise AssertionError(f"the trial of {need.place} in {need.dtype} is at odds with itself: {verdict.why}")


def _documents() -> Iterator[str]:
    """Put the gate's sentences together into documents of a few each."""
    data = files("roformer_convert.parity") / "data" / "sentences"
    lines = [line for kind in ("news", "everyday") for line in (data / f"{kind}.txt").read_text("utf-8").splitlines()]
    lines = [line.replace("[MASK]", "的").replace("\t", "") for line in lines]
    for number in range(40):
        yield "\n".join(lines[(number * 3 + each) % len(lines)] for each in range(6))


@contextmanager
def _ranks(count: int) -> Iterator[Ranks]:
    """Be the first of some ranks, whose others have nothing to add: what they exchange goes past Paddle's kernels."""
    ranks = Ranks()
    ranks.count = count
    with (
        mock.patch.object(paddle.distributed, "all_reduce"),
        mock.patch.object(paddle.distributed, "broadcast"),
        mock.patch.object(paddle.distributed, "barrier"),
    ):
        yield ranks


if __name__ == "__main__":
    main(*sys.argv[1:])
