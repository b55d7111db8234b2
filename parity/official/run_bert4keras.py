"""bert4keras, which is told in code what no file of a TF1 checkpoint says: the mask, the pooler's activation.

It masks the token 0 and takes no other mask, so only real tokens are compared. It builds no head of a fine-tuned model:
there its hidden states go through the head's own variables, as Google's run_classifier.py and run_squad.py have it.
Source: bert4keras 0.11.5 (models.py, tokenizers.py).
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import tensorflow as tf
from bert4keras.backend import keras
from bert4keras.models import build_transformer_model
from bert4keras.tokenizers import Tokenizer

from .serving import Arrays, Json, Software


class Worker(Software):
    """bert4keras."""

    def __init__(self) -> None:
        self.bert: Any = None
        self.model: Any = None
        self.head: Dict[str, Any] = {}
        self.job: Json = {}
        self.count = 0

    def load(self, job: Json) -> Json:
        """Build the model and load the checkpoint; what that lacks is an error."""
        keras.backend.clear_session()
        self.job = job
        files = (job["directory"] + "/bert_config.json", job["directory"] + "/bert_model.ckpt")
        self.bert = build_transformer_model(*files, return_keras_model=False, **job["build"])
        layer = self.bert.model.get_layer
        hidden = [layer(job["first_layer"]).output]
        hidden += [layer(f"Transformer-{i}-FeedForward-Norm").output for i in range(job["layers"])]
        pooled = [layer("Pooler-Dense").output] if job["pooled"] else []
        given = self.bert.model.output
        last = (given if isinstance(given, list) else [given])[-1] if "with_mlm" in job["build"] else hidden[-1]
        self.model = keras.models.Model(self.bert.model.inputs, [*hidden, *pooled, last])
        self.count = len(hidden)
        reader = tf.train.load_checkpoint(files[1])
        there = set(reader.get_variable_to_shape_map())
        head = [*job["head"].get("variables", ()), *job["head"].get("optional", ())]
        self.head = {name: reader.get_tensor(name) for name in head if name in there}
        missing = [name for name in job["head"].get("variables", ()) if name not in there]
        read = {name for names in self.bert.variable_mapping().values() for name in names} | set(head)
        return {
            "class": type(self.bert).__name__,
            "missing": missing,
            "unexpected": sorted(there - read),
            "mismatched": [],
            "warned": [],
        }

    def parameters(self) -> Iterator[Tuple[str, Any]]:
        """Yield the weights under the names that they are loaded from."""
        for layer, names in self.bert.variable_mapping().items():
            if layer in self.bert.layers:
                for name, weight in zip(names, self.bert.layers[layer].trainable_weights):
                    yield name, weight.numpy()
        for name, array in self.head.items():
            yield name, array

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run the model on ids alone, in which a masked token is 0."""
        ids = given["input_ids"]
        if "attention_mask" in given:
            ids = np.where(given["attention_mask"] != 0, ids, 0)
        types = given.get("token_type_ids", np.zeros_like(ids))
        out = [one.numpy() for one in self.model([ids, types], training=False)]
        found: Arrays = {"scores": self._through_the_head(out[-1])}
        if hidden:
            found["hidden"] = out[: self.count]
        if self.job["pooled"]:
            found["pooled"] = out[self.count]
        return found

    def _through_the_head(self, out: Any) -> Any:
        head, held = self.job["head"], self.head
        if "kernel" not in head:
            return out
        if head["first"]:
            out = out[:, 0]
        if head["pooler"] and head["pooler"][0] in held:
            out = out @ held[head["pooler"][0]] + held[head["pooler"][1]]
            out = keras.activations.get(head["activation"])(tf.constant(out)).numpy()
        out = out @ held[head["kernel"]].T
        return out + held[head["bias"]] if head["bias"] in held else out

    def tokenizer(self, job: Json) -> Optional[Tuple[str, Callable[..., List[int]]]]:
        """Build the tokenizer, told in code whether words stay whole."""
        words: Json = {}
        if job["words"]:
            import jieba

            words["pre_tokenize"] = lambda text: jieba.cut(text, HMM=False)
        tokenizer = Tokenizer(job["directory"] + "/vocab.txt", do_lower_case=job["lower_case"], **words)
        return "Tokenizer", lambda *parts: list(tokenizer.encode(*parts)[0])
