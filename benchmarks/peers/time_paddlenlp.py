"""PaddleNLP's RoFormer: dynamic, static and inference; where positions are given, its head runs on those alone."""

# ruff: noqa: E401, F401, I001
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import timing_loop  # before Paddle, which prints

# paddle 2.6.2 crashes where these are imported after it
import scipy, aiohttp, pyarrow, pandas, sklearn
import paddle
import paddlenlp
from paddlenlp.transformers import RoFormerForMaskedLM
from paddle_modes import serve_modes

source, threads = sys.argv[1], int(sys.argv[2])
paddle.set_device("cpu")
model = RoFormerForMaskedLM.from_pretrained(source)
model.eval()


def score(input_ids, token_type_ids, attention_mask, positions):
    if positions is None:
        return model(input_ids, token_type_ids, attention_mask)
    hidden = model.roformer(input_ids, token_type_ids, attention_mask)[0]
    return model.cls(paddle.gather(hidden.reshape([-1, hidden.shape[-1]]), positions))


def configure(config, mode):
    config.set_cpu_math_library_num_threads(threads)
    config.enable_memory_optim()  # otherwise every layer's activations stay


serve_modes(model, score, configure, {"paddlenlp": paddlenlp.__version__})
