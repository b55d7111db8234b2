"""Run one framework's models for the tests: requests as JSON lines on stdin, answers on stdout, arrays in .npz files.

One process a framework (importing TensorFlow before Paddle is a crash), kept for many requests (imports take seconds).
``python run_model.py torch`` answers ``{"do": "forward", ...}`` with ``{}`` or ``{"error": [type, message]}``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]


class Torch:
    """PyTorch's idioms."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(1)

    def tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(np.array(array))

    def numpy(self, tensor: Any) -> Any:
        tensor = tensor.detach()
        return (tensor.float() if tensor.dtype.itemsize == 2 else tensor).numpy()

    def inference(self) -> Any:
        return self.torch.inference_mode()

    def compiled(self, model: Any) -> tuple[Callable[..., Any], Callable[[], int]]:
        self.torch._dynamo.reset()  # or what another model was compiled with decides which sizes are left free
        counter = importlib.import_module("torch._dynamo.testing").CompileCounterWithBackend("aot_eager")
        return self.torch.compile(model.forward, backend=counter, fullgraph=True), lambda: int(counter.frame_count)

    def gradients(self, model: Any, loss: Callable[[], Any]) -> dict[str, Any]:
        model.zero_grad()
        loss().backward()
        return {name: self.numpy(p.grad) for name, p in model.named_parameters() if p.grad is not None}

    def total(self, tensor: Any, weights: Any) -> Any:
        return (tensor * self.tensor(weights).to(tensor.dtype)).sum()

    def random_state(self) -> None:
        self.torch.manual_seed(5)

    def cast(self, model: Any, dtype: str) -> Any:
        return model.to(getattr(self.torch, dtype))


class Paddle(Torch):
    """Paddle's idioms."""

    def __init__(self) -> None:
        self.paddle = importlib.import_module("roformer_convert.models.processes.start_paddle").paddle
        self.paddle.set_device("cpu")

    def tensor(self, array: Any) -> Any:
        return self.paddle.to_tensor(np.array(array))

    def numpy(self, tensor: Any) -> Any:
        return (tensor.astype("float32") if tensor.element_size() == 2 else tensor).numpy()

    def inference(self) -> Any:
        return self.paddle.no_grad()

    def compiled(self, model: Any) -> tuple[Callable[..., Any], Callable[[], int]]:
        forward = self.paddle.jit.to_static(model.forward, full_graph=True)
        return forward, lambda: len(forward.program_cache)

    def gradients(self, model: Any, loss: Callable[[], Any]) -> dict[str, Any]:
        model.clear_gradients()
        loss().backward()
        return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    def total(self, tensor: Any, weights: Any) -> Any:
        return (tensor * self.tensor(weights).astype(tensor.dtype)).sum()

    def random_state(self) -> None:
        self.paddle.seed(5)

    def cast(self, model: Any, dtype: str) -> Any:
        return model.to(dtype=dtype)


class TensorFlow(Torch):
    """TensorFlow's idioms."""

    def __init__(self) -> None:
        self.tf = importlib.import_module("tensorflow")
        self.tf.config.set_visible_devices([], "GPU")

    def tensor(self, array: Any) -> Any:
        return self.tf.constant(array)

    def numpy(self, tensor: Any) -> Any:
        tensor = self.tf.convert_to_tensor(tensor)
        return (self.tf.cast(tensor, self.tf.float32) if tensor.dtype.size == 2 else tensor).numpy()

    def inference(self) -> Any:
        return contextlib.nullcontext()

    def compiled(self, model: Any) -> tuple[Callable[..., Any], Callable[[], int]]:
        forward = self.tf.function(model.forward, jit_compile=True)
        return forward, lambda: int(forward.experimental_get_tracing_count())

    def gradients(self, model: Any, loss: Callable[[], Any]) -> dict[str, Any]:
        names, parameters = zip(*model.named_parameters(), strict=True)
        with self.tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, parameters)
        return {n: self.numpy(g) for n, g in zip(names, found, strict=True) if g is not None}

    def total(self, tensor: Any, weights: Any) -> Any:
        return self.tf.reduce_sum(tensor * self.tf.cast(weights, tensor.dtype))

    def random_state(self) -> None:
        self.tf.random.set_seed(5)


@contextlib.contextmanager
def entering(kind: type) -> Iterator[list[list[int]]]:
    """Record the shape of what enters each call of ``forward`` of a class of modules."""
    shapes: list[list[int]] = []
    forward = kind.forward  # type: ignore[attr-defined]

    def recording(module: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.append([int(size) for size in x.shape])
        return forward(module, x, *args, **kwargs)

    kind.forward = recording  # type: ignore[attr-defined]
    try:
        yield shapes
    finally:
        kind.forward = forward  # type: ignore[attr-defined]


FRAMEWORKS: dict[str, type[Torch]] = {"torch": Torch, "paddle": Paddle, "tf": TensorFlow}


class Driver:
    """Answers requests: the model of the last directory stays loaded."""

    def __init__(self, name: str) -> None:
        self.framework = FRAMEWORKS[name]()
        self.module = importlib.import_module(f"roformer_convert.models.roformer_{name}")

    def load(self, request: Json) -> Any:
        model_class = getattr(self.module, request.get("class", "RoFormerForMaskedLM"))
        return model_class.from_pretrained(request["directory"], **request.get("loading", {}))

    def inputs(self, request: Json) -> Json:
        with np.load(request["inputs"]) as arrays:
            return {name: self.framework.tensor(arrays[name]) for name in arrays.files}

    def write(self, request: Json, arrays: dict[str, Any]) -> None:
        named: Json = {name: np.asarray(value) for name, value in arrays.items()}
        np.savez(request["output"], **named)

    def outputs(self, value: Any) -> dict[str, Any]:
        values = value if isinstance(value, tuple) else (value,)
        return {f"out{i}": self.framework.numpy(one) for i, one in enumerate(values) if one is not None}

    def forward(self, request: Json) -> Json:
        """Write what ``forward`` returns, and the taps where they are asked for."""
        model = self.load(request)
        if "cast" in request:  # float32 weights, then Module.to / Layer.to
            model = self.framework.cast(model, request["cast"])
        if request.get("train"):
            model.train()
        taps: dict[str, Any] | None = {} if request.get("taps") else None
        context = contextlib.nullcontext() if request.get("grad") else self.framework.inference()
        with context:
            found = self.outputs(model(**self.inputs(request), **request.get("options", {}), taps=taps))
        order = list(taps or {})
        self.write(request, found | {name: self.framework.numpy(taps[name]) for name in order} if taps else found)
        return {"taps": order, "dtype": str(model.embeddings.word.weight.dtype), "turns": str(model.rotary.table.dtype)}

    def compiled(self, request: Json) -> Json:
        """Run several inputs through one compiled forward; answer with how often it was traced."""
        model = self.load(request)
        forward, traces = self.framework.compiled(model)
        with self.framework.inference():
            for inputs, output in zip(request["inputs"], request["outputs"], strict=True):
                found = self.outputs(forward(**self.inputs({"inputs": inputs}), **request.get("options", {})))
                self.write({"output": output}, found)
        return {"traces": traces()}

    def gradients(self, request: Json) -> Json:
        """Write the gradient of a weighted sum of the outputs in every parameter, in training mode.

        Answers with how many layers were computed before and while going back.
        """
        model = self.load(request)
        model.train()
        model.gradient_checkpointing = request["checkpointing"]
        inputs = self.inputs(request)
        weights = {name: inputs.pop(name) for name in list(inputs) if name.startswith("weights")}

        def loss() -> Any:
            self.framework.random_state()
            value = model(**inputs)
            values = value if isinstance(value, tuple) else (value,)
            parts = [self.framework.total(one, weights[f"weights{i}"]) for i, one in enumerate(values)]
            total = sum(parts[1:], parts[0])
            before.append(len(layers))
            return total

        before: list[int] = []
        with entering(self.module.RoFormerLayer) as layers:
            self.write(request, self.framework.gradients(model, loss))
        return {"forward": before[0], "backward": len(layers) - before[0]}

    def shapes(self, request: Json) -> Json:
        """Run a model once; answer with the shapes that enter its layers and its head."""
        model = self.load(request)
        layer, head = self.module.RoFormerLayer, self.module.RoFormerMaskedLMHead
        with self.framework.inference(), entering(layer) as layers, entering(head) as heads:
            model(**self.inputs(request), **request.get("options", {}))
        return {"layers": layers, "mlm": heads}

    def lay_out(self, request: Json) -> Json:
        """Lay a batch out; answer with the shape of the mask that is made, if one is, and what a kernel is told."""
        inputs = self.inputs(request)
        types = inputs.get("token_type_ids")
        found = self.load(request).lay_out(inputs["input_ids"], inputs["attention_mask"], False, types)
        return {
            "mask": None if found.mask is None else [int(size) for size in found.mask.shape],
            "causal": found.causal,
        }

    def dropouts(self, request: Json) -> Json:
        """Answer with the probability of dropout before a model's classifier."""
        return {"classifier": self.load(request).classifier.dropout}

    def key_mask(self, request: Json) -> Json:
        """Write what masks keys in a type, as it is added to scores."""
        like = self.module.ParameterMaker(self.load(request).config, request["dtype"]).constant((1,), 0.0)
        mask = self.module.key_mask(self.inputs(request)["attention_mask"], like)
        self.write(request, self.outputs(mask))
        return {"dtype": self.module.dtype_name(mask)}

    def state_dict(self, request: Json) -> Json:
        """Name what a raw state dict holds; None where the framework's modules have none."""
        model = self.load(request)
        return {"names": list(model.state_dict()) if hasattr(model, "state_dict") else None}

    def onednn(self, request: Json) -> Json:
        """Count oneDNN's own linear operator in one call of a PyTorch model; None where PyTorch lacks it."""
        torch = importlib.import_module("torch")
        if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return {"calls": None}
        mode = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode
        calls: list[str] = []

        class Counting(mode):  # type: ignore[misc,valid-type]  # a class of PyTorch's
            def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                calls.append(str(function))
                return function(*args, **(kwargs or {}))

        model, inputs = self.load(request), self.inputs(request)
        with contextlib.nullcontext() if request.get("grad") else self.framework.inference(), Counting():
            model(**inputs)
        return {"calls": sum("_linear_pointwise" in name for name in calls)}

    def save(self, request: Json) -> Json:
        """Load and write again in the framework's own dialect."""
        self.load(request).save_pretrained(request["output"], **request.get("saving", {}))
        return {}

    def fresh(self, request: Json) -> Json:
        """Make a model at random from a configuration; answer with its parameters' spread."""
        config = importlib.import_module("roformer_convert.models.config").RoFormerConfig(**request["config"])
        model = getattr(self.module, request["class"])(config)
        arrays = {name: self.framework.numpy(p) for name, p in model.named_parameters()}
        return {name: [list(a.shape), float(a.mean()), float(a.std())] for name, a in arrays.items()}

    def rotate(self, request: Json) -> Json:
        """Rotate tokens at positions 0 to P - 1 by the model's own table and function."""
        config_class = importlib.import_module("roformer_convert.models.config").RoFormerConfig
        x = self.inputs(request)["x"]
        tokens, heads, size = x.shape
        config = config_class(
            vocab_size=1,
            embedding_size=1,
            hidden_size=heads * size,
            num_hidden_layers=1,
            num_attention_heads=heads,
            intermediate_size=1,
            max_position_embeddings=tokens,
        )
        table = self.module.RotaryTable(config, self.module.ParameterMaker(config, request["dtype"]))
        self.write(request, self.outputs(self.module.rotate_together((x,), table(1, tokens))[0]))
        return {}

    def rotate_in_transformers(self, request: Json) -> Json:
        """Do what transformers' RoFormerEncoder and RoFormerSelfAttention do."""
        theirs = importlib.import_module("transformers.models.roformer.modeling_roformer")
        x = self.inputs(request)["x"].transpose(0, 1)[None]
        table = theirs.RoFormerSinusoidalPositionalEmbedding(x.shape[2], x.shape[3])
        sinusoid = table.create_weight()[None, None]
        turned, _ = theirs.RoFormerSelfAttention.apply_rotary_position_embeddings(sinusoid, x, x)
        self.write(request, self.outputs(turned[0].transpose(0, 1)))
        return {}

    def forward_in_transformers(self, request: Json) -> Json:
        """Load a checkpoint with transformers and write its logits."""
        model_class = importlib.import_module("transformers").RoFormerForMaskedLM
        model, loaded = model_class.from_pretrained(request["directory"], output_loading_info=True)
        assert not loaded["missing_keys"], loaded
        with self.framework.inference():
            self.write(request, self.outputs(model.eval()(**self.inputs(request)).logits))
        return {}

    def modules(self, request: Json) -> Json:
        """Name the frameworks that are imported."""
        return {"modules": [name for name in ("torch", "paddle", "tensorflow", "keras") if name in sys.modules]}

    def answer(self, request: Json) -> Json:
        try:
            answer: Json = getattr(self, request.pop("do"))(request)
        except Exception as error:
            return {"error": [type(error).__name__, str(error)]}
        return answer


def main(name: str) -> None:
    """Serve until stdin ends. What a library prints goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    driver = Driver(name)
    for line in sys.stdin:
        answers.write(json.dumps(driver.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]
    main(sys.argv[1])
