"""A model in shards of ``tf_model.h5``, which we read and do not write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from file_contents import read_stored, write_layout
from random_checkpoints import Tensors, write_random

from roformer_convert.converters.containers.hdf5 import keras_h5
from roformer_convert.converters.source.identification import identify
from roformer_convert.converters.tensors.stored import NewTensor


def write_keras_shards(directory: Path) -> Tensors:
    """Write a random model as ``save_pretrained(…, max_shard_size=…)`` of transformers 4's TF classes does.

    Its index has each name behind the model's own and before TensorFlow's number of an output.
    """
    whole = directory.with_name("whole")
    tensors = write_random(whole, "tf", "masked-lm")
    stored = list({each.name: each for each in identify(whole).index.tensors}.values())  # Keras repeats embeddings
    directory.mkdir(exist_ok=True)
    shutil.copy(whole / "config.json", directory)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((stored[::2], stored[1::2]), 1):
        name = f"tf_model-{number:05}-of-00002.h5"
        layout = keras_h5.lay_out(name, [NewTensor(each.name, each.dtype, each.shape) for each in part], "tf_ro_former")
        write_layout(layout, directory, {each.name: read_stored(each) for each in part})
        weight_map |= {f"tf_ro_former/{each.name}:0": name for each in part}
    (directory / "tf_model.h5.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors
