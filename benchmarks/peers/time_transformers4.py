"""transformers 4's TF2 RoFormer: eager, graph and xla; where positions are given, its head runs on those alone."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from timing_loop import serve

os.environ["TF_USE_LEGACY_KERAS"] = "1"
import tensorflow as tf
import transformers

source, threads = sys.argv[1], int(sys.argv[2])
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)
model = transformers.TFRoFormerForMaskedLM.from_pretrained(source)


def prepare(mode, batch):
    inputs = {name: tf.constant(array) for name, array in batch.items()}
    positions = inputs.pop("positions", None)

    def score(inputs, positions):
        if positions is None:
            return model(inputs, training=False).logits
        hidden = model.roformer(**inputs, training=False)[0]
        chosen = tf.gather(tf.reshape(hidden, [-1, hidden.shape[-1]]), positions)
        return model.mlm(chosen[None], training=False)[0]

    if mode != "eager":
        score = tf.function(score, jit_compile=mode == "xla")

    def job():
        logits = score(inputs, positions)
        tf.test.experimental.sync_devices()
        return logits

    return job


def product(m, k, n):
    a, b = tf.random.uniform((m, k)), tf.random.uniform((k, n))
    return lambda: tf.matmul(a, b)


serve(
    prepare,
    lambda logits: logits.numpy(),
    {"transformers": transformers.__version__, "tensorflow": tf.__version__},
    product,
)
