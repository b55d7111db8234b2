"""Our Paddle model: dynamic (packed where the batch is padded), static (``to_static``) and inference."""

# ruff: noqa: F401, I001
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import timing_loop  # before Paddle, which prints
from roformer_convert.models.processes.start_paddle import paddle
from paddle_modes import serve_modes

from roformer_convert.models.roformer_paddle import RoFormerForMaskedLM

source, threads = sys.argv[1], int(sys.argv[2])
paddle.set_device("cpu")
model = RoFormerForMaskedLM.from_pretrained(source, dtype="float32")


def score(input_ids, token_type_ids, attention_mask, positions):
    return model(input_ids, token_type_ids, attention_mask, positions)


def dynamic(**inputs):
    return model(**inputs, packed="attention_mask" in inputs)


def configure(config, mode):
    config.set_cpu_math_library_num_threads(threads)
    if mode == "inference":
        config.disable_mkldnn()


serve_modes(model, score, configure, {}, dynamic, full_graph=True)
