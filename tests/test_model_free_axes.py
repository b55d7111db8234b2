"""Compiled models with free axes: batch, tokens and chosen positions vary, and the graph is made once."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

RANDOM = Path(__file__).resolve().parents[1] / "fixtures" / "random"

#: Rows, tokens and positions of successive calls.
SHAPES = ((3, 12, 2), (2, 12, 2), (4, 12, 3), (5, 13, 4), (6, 17, 7))

#: Prints how many graphs there are after each call, and how far its logits are from the model's own.
SCRIPTS = {
    "torch": """
        import torch
        from torch._dynamo.testing import CompileCounterWithBackend
        from roformer_convert.models.roformer_torch import RoFormerForMaskedLM
        model = RoFormerForMaskedLM.from_pretrained(directory, set=fields)
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
        tensor, graphs = torch.tensor, lambda: counter.frame_count
        def run(*batch):
            with torch.inference_mode():
                return compiled(batch[0], None, batch[1], positions=batch[2]).numpy()
        def expected(*batch):
            with torch.inference_mode():
                return model(batch[0], None, batch[1], positions=batch[2]).numpy()
    """,
    "paddle": """
        from roformer_convert.models.roformer_paddle import RoFormerForMaskedLM
        from roformer_convert.models.processes.start_paddle import paddle
        class Served(paddle.nn.Layer):
            def __init__(self):
                super().__init__()
                self.model = RoFormerForMaskedLM.from_pretrained(directory, set=fields)
            def forward(self, input_ids, attention_mask, positions):
                return self.model(input_ids, None, attention_mask, positions=positions)
        served = Served()
        served.eval()
        model = served.model
        axes = [paddle.static.InputSpec([None] * n, "int64", name) for n, name in ((2, "a"), (2, "b"), (1, "c"))]
        compiled = paddle.jit.to_static(served, input_spec=axes, full_graph=True)
        tensor, graphs = paddle.to_tensor, lambda: len(compiled.forward.program_cache)
        def run(*batch):
            with paddle.no_grad():
                return compiled(*batch).numpy()
        def expected(*batch):
            with paddle.no_grad():
                return model(batch[0], None, batch[1], positions=batch[2]).numpy()
    """,
    "tf": """
        import tensorflow as tf
        from roformer_convert.models.roformer_tf import RoFormerForMaskedLM
        model = RoFormerForMaskedLM.from_pretrained(directory, set=fields)
        made = []
        axes = [tf.TensorSpec([None] * n, tf.int64) for n in (2, 2, 1)]
        @tf.function(input_signature=axes, jit_compile=True)
        def compiled(input_ids, attention_mask, positions):
            made.append(1)
            return model(input_ids, None, attention_mask, positions=positions)
        tensor, graphs = tf.constant, lambda: len(made)
        def run(*batch):
            return compiled(*batch).numpy()
        def expected(*batch):
            return model(batch[0], None, batch[1], positions=batch[2]).numpy()
    """,
}
CALLS = """
import numpy
random = numpy.random.default_rng(5)
for rows, columns, count in shapes:
    ids = random.integers(0, model.config.vocab_size, (rows, columns))
    mask = numpy.ones((rows, columns), numpy.int64)
    mask[0, -2:] = 0
    batch = [tensor(one) for one in (ids, mask, numpy.arange(count))]
    found = run(*batch)
    print("graphs", graphs(), "difference", abs(found - expected(*batch)).max())
"""

#: Appended to a script: compiles a packed call, which must be refused, and prints what is said.
PACKED = {
    "torch": "call = torch.compile(lambda a, b: model(a, None, b, packed=True), backend='aot_eager', fullgraph=True)",
    "paddle": """
def packed(a, b):
    return model(a, None, b, packed=True)
call = paddle.jit.to_static(packed, full_graph=True)
""",
    "tf": "call = tf.function(lambda a, b: model(a, None, b, packed=True))",
}
REFUSED = """
try:
    call(tensor([[1, 2, 3], [1, 2, 3]]), tensor([[1, 1, 0], [1, 1, 1]]))
except Exception as error:
    print("refused", "packed runs eagerly alone" in str(error))
"""


def run_script(framework: str, script: str, tmp_path: Path, **fields: str) -> str:
    module = {"tf": "tensorflow"}.get(framework, framework)
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    script = (
        f"directory, shapes, fields = {str(RANDOM)!r}, {SHAPES}, {fields}\n"
        + textwrap.dedent(SCRIPTS[framework])
        + script
    )
    file = tmp_path / "run.py"  # Paddle reads the source of what it compiles
    file.write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("framework", SCRIPTS)
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_one_graph_serves_every_number_of_rows_tokens_and_positions(
    framework: str, attention: str, tmp_path: Path
) -> None:
    said = run_script(framework, CALLS, tmp_path, attention=attention)
    found = re.findall(r"^graphs (\d+) difference (\S+)$", said, re.MULTILINE)
    assert len(found) == len(SHAPES)
    assert len({graphs for graphs, _ in found}) == 1, "a later shape was traced anew"
    assert all(float(difference) < 1e-5 for _, difference in found)  # float32; logits are of the order of 1


@pytest.mark.parametrize("framework", SCRIPTS)
def test_a_packed_batch_is_refused_in_a_compiled_call(framework: str, tmp_path: Path) -> None:
    said = run_script(framework, PACKED[framework] + "\n" + REFUSED, tmp_path)
    # what torch.compile says of a whole graph that it cannot make is its own
    assert re.findall(r"^refused (\w+)$", said, re.MULTILINE) == [str(framework != "torch")]


def test_xla_names_the_longest_position(tmp_path: Path) -> None:
    long = """
try:
    compiled(*(tensor(numpy.ones(shape, int)) for shape in ((1, model.config.max_position_embeddings + 1),) * 2), [0])
except tf.errors.InvalidArgumentError as error:
    print("refused", f"[0, {model.config.max_position_embeddings}]" in str(error))
"""
    assert "refused True" in run_script("tf", "import numpy\n" + long, tmp_path)


#: Appended to Paddle's script: prints the last operators of a graph of every token's scores.
LAST = """
def scores(a, b):
    return model(a, None, b)
spec = [paddle.static.InputSpec([None] * 2, "int64", name) for name in "ab"]
program = paddle.jit.to_static(scores, input_spec=spec, full_graph=True).concrete_program.main_program
names = [one.name() for one in program.global_block().ops]
print("last", *[name for name in names if name in ("pd_op.matmul", "pd_op.reshape")][-2:])
"""


def test_a_graph_of_paddles_does_not_reshape_its_scores_which_onednn_would_copy(tmp_path: Path) -> None:
    assert "last pd_op.reshape pd_op.matmul\n" in run_script("paddle", LAST, tmp_path)
