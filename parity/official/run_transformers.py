"""transformers' torch classes, loaded by its Auto classes; and JunnYu's package, which is built on them.

Sources: transformers 5.23 and 4.57 (models/roformer/modeling_roformer.py, modeling_utils.py), roformer 0.4.3.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
import transformers

from .serving import Arrays, Json, Software

#: Class of the family → the class of transformers that loads it, whatever the configuration makes of it.
AUTO = {
    "RoFormerModel": "AutoModel",
    "RoFormerForMaskedLM": "AutoModelForMaskedLM",
    "RoFormerForPretraining": "AutoModelForMaskedLM",  # transformers has no class with both heads
    "RoFormerForCausalLM": "AutoModelForCausalLM",
    "RoFormerForSequenceClassification": "AutoModelForSequenceClassification",
    "RoFormerForTokenClassification": "AutoModelForTokenClassification",
    "RoFormerForQuestionAnswering": "AutoModelForQuestionAnswering",
    "RoFormerForMultipleChoice": "AutoModelForMultipleChoice",
}


class Listening(logging.Handler):
    """Keeps what a library logs from warnings upwards."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: List[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.said.append(record.getMessage())


def listen() -> Listening:
    """Let transformers log to nobody else."""
    listening = Listening()
    transformers.logging.set_verbosity_warning()  # type: ignore[no-untyped-call,unused-ignore]
    transformers.logging.disable_default_handler()
    transformers.logging.add_handler(listening)
    return listening


def report_of(model: Any, info: Json, warned: List[str]) -> Json:
    """Say what a loader of transformers reports."""
    kinds = {kind: sorted(map(_told, info[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    return {"class": type(model).__name__, **kinds, "warned": list(warned)}


def _told(one: Any) -> str:
    if isinstance(one, str):
        return one
    name, there, wanted = one
    return f"{name} {tuple(there)} for {tuple(wanted)}"


def tokenizer_of(directory: str) -> Tuple[str, Callable[..., List[int]]]:
    """Load the tokenizer that the directory names."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    return type(tokenizer).__name__, lambda *parts: list(tokenizer(*parts)["input_ids"])


class Worker(Software):
    """transformers in torch."""

    types = ("float64", "float32")
    half_types = ("float16", "bfloat16")

    def __init__(self) -> None:
        self.listening = listen()
        self.model: Any = None
        self._job: Json = {}
        self._served: Dict[str, Any] = {}
        self._tables: Dict[str, Tuple[Any, str]] = {}
        self._exact: List[str] = []

    def choose(self, job: Json) -> Tuple[Any, Json]:
        """Return the class that loads the directory, and the arguments that are its own."""
        return getattr(transformers, AUTO[job["class"]]), {"trust_remote_code": False}

    def load(self, job: Json) -> Json:
        """Load with the type that the files have, as transformers 5 does by itself.

        What has another shape is let pass, so that it is named in the report: an error names nothing.
        """
        del self.listening.said[:]
        torch.set_grad_enabled(False)
        self._job, self._served = job, {}
        self.model, info = self._load("auto")
        loaded = dict(self.model.named_parameters())
        self._tables = {}
        for name, file in job.get("tables", {}).items():
            if name in loaded and tuple(loaded[name].shape) == np.load(file, allow_pickle=False).shape:
                self._tables[name] = (loaded[name].clone(), file)
        self._exact = job.get("exact", [])
        warned = [text for text in self.listening.said if "torch_dtype" not in text]
        return report_of(self.model, info, warned)

    def _load(self, dtype: Any) -> Tuple[Any, Json]:
        loader, options = self.choose(self._job)
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "torch_dtype": dtype, **options}
        model, info = loader.from_pretrained(self._job["directory"], **options)
        model.eval()
        return model, info

    def parameters(self) -> Iterator[Tuple[str, Any]]:
        """Yield what torch calls parameters; tied ones once."""
        kept = {name: loaded for name, (loaded, _) in self._tables.items()}
        for name, value in self.model.named_parameters():
            yield name, kept.get(name, value).detach().double().numpy()

    def compute(self, given: Arrays, dtype: str, hidden: bool) -> Arrays:
        """Run the model as it was loaded, but for the tables that it is given for a type, or loaded in a half type."""
        model = self._half(dtype) if dtype in self.half_types else self._become(dtype)
        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        out = model(**tensors, output_hidden_states=hidden, return_dict=True)
        if "start_logits" in out:
            scores = torch.stack([out.start_logits, out.end_logits], -1)
        else:
            scores = out["logits" if "logits" in out else "last_hidden_state"]
        found: Arrays = {"scores": _numbers(scores)}
        if hidden and out.get("hidden_states") is not None:
            found["hidden"] = [_numbers(state) for state in out.hidden_states]
        if out.get("pooler_output") is not None:
            found["pooled"] = _numbers(out.pooler_output)
        return found

    def _half(self, dtype: str) -> Any:
        """Load the directory once more in a half type, as a server does; the other model keeps what it loaded."""
        if dtype not in self._served:
            self._served = {dtype: self._load(getattr(torch, dtype))[0]}
        return self._served[dtype]

    def _become(self, dtype: str) -> Any:
        """Give the model another type: first float64, and then float32, which loses what float64 files held beyond."""
        wanted = getattr(torch, dtype)
        if next(self.model.parameters()).dtype is wanted and dtype == "float64":
            return self.model
        self.model.to(wanted)
        by_name = dict(self.model.named_parameters())
        for name, (loaded, file) in self._tables.items():
            exact = torch.from_numpy(np.load(file, allow_pickle=False)) if dtype in self._exact else loaded
            by_name[name].data = exact.to(wanted)
        return self.model

    def tokenizer(self, job: Json) -> Optional[Tuple[str, Callable[..., List[int]]]]:
        """Load the tokenizer that the directory names."""
        return tokenizer_of(job["directory"])


def _numbers(tensor: Any) -> Any:
    """Give bfloat16 a type that numpy has."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
