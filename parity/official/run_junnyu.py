"""JunnYu's package ``roformer``, which has RoFormerV2 and poolers that transformers has not.

Source: roformer 0.4.3. Its own tokenizer class cannot be built beside transformers 4.34 or later, not even from its own
files; its documents name transformers' classes, one for words and one for characters.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

import roformer
import transformers

from . import run_transformers
from .serving import Json


class Worker(run_transformers.Worker):
    """transformers in torch, with JunnYu's classes."""

    def choose(self, job: Json) -> Tuple[Any, Json]:
        """Return the class of the same name; the bare encoder has a pooler where it is asked for one."""
        name = job["class"].replace("ForPretraining", "ForMaskedLM")
        pooler = {"add_pooling_layer": True} if name == "RoFormerModel" and job.get("pooler") else {}
        return getattr(roformer, name), pooler

    def tokenizer(self, job: Json) -> Optional[Tuple[str, Callable[..., List[int]]]]:
        """Load the class that is right for the vocabulary's kind."""
        kind = transformers.RoFormerTokenizer if job["words"] else transformers.BertTokenizer
        tokenizer = kind.from_pretrained(job["directory"])
        return kind.__name__, lambda *parts: list(tokenizer(*parts)["input_ids"])
