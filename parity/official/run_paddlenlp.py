"""PaddleNLP's classes.

PaddleNLP 2.8.1 needs modules that use zlib before paddle 2.6.2, and writes into the directory it loads from.
Sources: PaddleNLP 2.8.1 (transformers/roformer/modeling.py, transformers/roformerv2/modeling.py, model_utils.py).
"""

# isort: off
from __future__ import annotations

import aiohttp  # noqa: F401 - before paddle, as the next three
import pandas  # noqa: F401
import pyarrow  # noqa: F401
import scipy  # noqa: F401
import sklearn  # noqa: F401

import inspect
import logging
import os
import re
import shutil
from typing import Any, Callable, Iterator, List, Optional, Tuple

import numpy as np
import paddle
from paddlenlp import transformers
from paddlenlp.utils.log import logger

from .serving import Arrays, Json, Software
# isort: on


class Worker(Software):
    """PaddleNLP."""

    def __init__(self) -> None:
        self.said: List[str] = []
        logger.logger.handlers = [_Keeping(self.said)]
        self.model: Any = None
        self.directory = ""

    def load(self, job: Json) -> Json:
        """Load a copy of the directory in float32."""
        del self.said[:]
        self.directory = os.path.join(job["out"], "copy")
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(job["directory"], self.directory)
        name = job["class"].replace("ForPretraining", "ForMaskedLM")
        if job["v2"]:
            name = name.replace("RoFormer", "RoFormerv2")
        self.model = getattr(transformers, name).from_pretrained(self.directory, dtype="float32")
        self.model.eval()
        wrote = sorted(set(os.listdir(self.directory)) - set(os.listdir(job["directory"])))
        return {
            "class": name,
            "missing": _named(self.said, "newly initialized: "),
            "unexpected": _named(self.said, "were not used when initializing"),
            "mismatched": _named(self.said, "because the shapes did not match"),
            "warned": list(self.said),
            "wrote": wrote,
        }

    def parameters(self) -> Iterator[Tuple[str, Any]]:
        """Yield what Paddle calls parameters; tied ones once."""
        for name, value in self.model.named_parameters():
            yield name, value.numpy()

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run the model; without a mask it would mask the padding token wherever that stands."""
        given = {"attention_mask": np.ones_like(given["input_ids"]), **given}
        tensors = {name: paddle.to_tensor(array) for name, array in given.items()}
        known = inspect.signature(self.model.forward).parameters
        asked = {"output_hidden_states": hidden, "return_dict": True}
        with paddle.no_grad():
            out = self.model(**tensors, **{name: value for name, value in asked.items() if name in known})
        if not hasattr(out, "keys"):  # RoFormerV2's classes return what they have
            return _of_a_tuple(out, type(self.model).__name__, hidden and "output_hidden_states" in known)
        if "start_logits" in out:
            scores = paddle.stack([out["start_logits"], out["end_logits"]], -1)
        else:
            scores = out["logits" if "logits" in out else "last_hidden_state"]
        found: Arrays = {"scores": scores.numpy()}
        if "pooler_output" in out and out["pooler_output"] is not None:
            found["pooled"] = out["pooler_output"].numpy()
        if hidden and out.get("hidden_states") is not None:
            found["hidden"] = [state.numpy() for state in out["hidden_states"]]
        return found

    def tokenizer(self, job: Json) -> Optional[Tuple[str, Callable[..., List[int]]]]:
        """Load the tokenizer that the directory names; without a file that does, the only one there is."""
        named = os.path.exists(os.path.join(self.directory, "tokenizer_config.json"))
        loader = transformers.AutoTokenizer if named else transformers.RoFormerTokenizer
        tokenizer = loader.from_pretrained(self.directory)
        return type(tokenizer).__name__, lambda *parts: list(tokenizer(*parts)["input_ids"])


class _Keeping(logging.Handler):
    """Keeps warnings."""

    def __init__(self, said: List[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self._said.append(record.getMessage())


def _named(said: List[str], words: str) -> List[str]:
    """Name the parameters that the warnings with such words list."""
    lines = [text.partition(words)[2].partition("\n- This")[0].partition("\nYou should")[0] for text in said]
    quoted = [name for line in lines for name in re.findall(r"'([^']+)'", line)]
    return sorted(
        quoted + [name for line in lines for name in re.findall(r"^- (\S+): found shape", line, re.MULTILINE)]
    )


def _of_a_tuple(out: Any, name: str, hidden: bool) -> Arrays:
    if name.endswith("ForQuestionAnswering"):
        return {"scores": paddle.stack(list(out), -1).numpy()}
    if name.endswith("Model") and isinstance(out, (tuple, list)):
        return {"scores": out[0].numpy(), "pooled": out[1].numpy()}
    if hidden:
        return {"scores": out[-1].numpy(), "hidden": [state.numpy() for state in out]}
    return {"scores": out.numpy()}
