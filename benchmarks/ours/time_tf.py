"""Our TF2 model: eager, graph (``tf.function``) and xla (``jit_compile=True``)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tensorflow as tf
from timing_loop import serve

from roformer_convert.models.roformer_tf import RoFormerForMaskedLM

source, threads = sys.argv[1], int(sys.argv[2])
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)
model = RoFormerForMaskedLM.from_pretrained(source, dtype="float32")


def prepare(mode, batch):
    inputs = {name: tf.constant(array) for name, array in batch.items()}

    def score(inputs):
        return model(**inputs)

    if mode != "eager":
        score = tf.function(score, jit_compile=mode == "xla")

    def job():
        logits = score(inputs)
        tf.test.experimental.sync_devices()
        return logits

    return job


def product(m, k, n):
    a, b = tf.random.uniform((m, k)), tf.random.uniform((k, n))
    return lambda: tf.matmul(a, b)


serve(prepare, lambda logits: logits.numpy(), {"tensorflow": tf.__version__}, product)
