"""Half types and automatic mixed precision on a machine without a GPU.

Paddle has few CPU kernels for half types, and its mixed precision calls itself off there. Within :func:`as_on_a_gpu`
every operator that Python calls goes through :class:`_Dispatcher`, so that it sees what it would on a GPU:

- Under ``auto_cast`` its inputs are cast by the rule of Paddle's own C++, with the lists that ``auto_cast`` set.
- On a half type for which a CPU has no kernel it is computed in float32 and its result halved. Its kernels, forward and
  backward, are logged between marks that name the type that they would have.

Tensors then have the types that they have on a GPU wherever they are kept, and autograd is Paddle's own.
:mod:`.dispatch_log` reads the log, and finds there what Paddle itself would have halved: a second opinion on the rule.

Source of the rule: paddle/fluid/eager/amp_utils.h (GetAmpDestDtype, GetPromoteType) and eager_amp_auto_cast.h of 2.6.2.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined,no-any-return"
from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any
from unittest import mock

from roformer_convert.models.processes.start_paddle import paddle

from .marks import ASIDE, CALL, HALF, LISTED, between, mark

Tensor = paddle.Tensor
_core = paddle.base.core
_HALVES = {paddle.float16: "float16", paddle.bfloat16: "bfloat16"}
_FLOATS = (*_HALVES, paddle.float32)
_PACKAGE = "roformer_convert."

#: Methods that call an operator of two tensors without going through ``paddle._C_ops``.
_SIGNS = {
    "add": "add",
    "radd": "add",
    "sub": "subtract",
    "mul": "multiply",
    "rmul": "multiply",
    "truediv": "divide",
    "matmul": "matmul",
    "pow": "elementwise_pow",
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less_than",
    "le": "less_equal",
    "gt": "greater_than",
    "ge": "greater_equal",
}
#: Methods of one tensor that do so.
_METHODS = ("__getitem__", "__setitem__", "__neg__", "__rsub__", "__rtruediv__", "clone", "backward")
#: Calls that Paddle answers with two operators, which see mixed precision each for itself.
_PAIRS = {"linear": ("matmul", "add")}
_PRODUCT = (False, False)  # matmul's flags: neither input is transposed
#: Operators whose first input alone is asked for its type, and cast.
_NORMS = ("layer_norm", "batch_norm", "sync_batch_norm_")


@contextmanager
def as_on_a_gpu(capability: tuple[int, int], gpu_kernels: Mapping[str, Collection[str]]) -> Iterator[None]:
    """Let half types and ``paddle.amp.auto_cast`` work as on a GPU.

    Args:
        capability: Its compute capability: ``auto_cast`` asks for it.
        gpu_kernels: Types by operator: mixed precision leaves an operator alone that has no kernel in its half type.
    """
    operators = vars(paddle._C_ops)
    originals = {name: each for name, each in operators.items() if callable(each) and not name.startswith("_")}
    dispatcher = _Dispatcher(gpu_kernels, originals)
    with ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        taken = {id(each): dispatcher.bind(name, each) for name, each in originals.items()}
        modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "paddle" and module]
        for owner in [*modules, Tensor]:  # some functions of Paddle's Python are operators themselves
            for name, value in list(vars(owner).items()):
                if id(value) in taken and originals.get(getattr(value, "__name__", "")) is value:
                    replace(owner, name, taken[id(value)])
        for sign, operator in _SIGNS.items():
            name = f"__{sign}__"
            replace(Tensor, name, dispatcher.bind_sign(name, getattr(Tensor, name), operator))
        for name in _METHODS:
            replace(Tensor, name, dispatcher.bind(name, getattr(Tensor, name)))
        amp = sys.modules["paddle.amp.auto_cast"]
        replace(amp, "_dygraph_tracer", lambda: _GpuTracer())
        replace(paddle.device.cuda, "get_device_capability", lambda device=None: capability)
        replace(paddle.device.cuda, "get_device_name", lambda device=None: "a pretended GPU")
        replace(paddle.version, "cuda", lambda: "11.8")
        yield


class _GpuTracer:
    """Paddle's tracer, but for the place where it says that it computes: all that ``auto_cast`` asks of a device."""

    class _expected_place:  # noqa: N801
        is_gpu_place = staticmethod(lambda: True)
        is_cpu_place = is_xpu_place = is_custom_place = staticmethod(lambda: False)

    def __getattr__(self, name: str) -> Any:
        return getattr(_tracer(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_tracer(), name, value)


class _Dispatcher:
    """Calls operators as a GPU would."""

    def __init__(self, gpu_kernels: Mapping[str, Collection[str]], originals: Mapping[str, Callable[..., Any]]) -> None:
        self.gpu_kernels = gpu_kernels
        self.originals = originals
        self.cpu_kernels: dict[str, set[str]] = {}
        self.listed_names: dict[str, str] = {}  # phi's name of an operator → the one in mixed precision's lists
        for listed_name, kernels in _core._get_all_register_op_kernels("phi").items():
            name = _core._get_phi_kernel_name(listed_name)
            self.listed_names[name] = listed_name
            plain = [each for each in kernels if "Place(cpu)" in each and "[PLAIN]" in each]
            self.cpu_kernels[name] = {half for half in _HALVES.values() if any(f"::{half}]" in each for each in plain)}
        self.busy = False

    def bind(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make what stands in for an operator, or for a method."""
        return lambda *args, **kwargs: self.call(name, original, args, kwargs)

    def bind_sign(self, name: str, original: Callable[..., Any], operator: str) -> Callable[..., Any]:
        """Make what stands in for a sign: of two tensors it is the operator, of a tensor and a number the method."""

        def call(x: Any, y: Any) -> Any:
            if isinstance(y, Tensor) and not self.busy:
                return self.call(operator, self.originals[operator], (x, y), {})
            return self.call(name, original, (x, y), {})

        return call

    def call(self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator or a method."""
        if self.busy:
            return original(*args, **kwargs)
        if name in _PAIRS and self.originals.get(name) is original:
            first, second = (self.bind(each, self.originals[each]) for each in _PAIRS[name])
            return first(*args[:2], *_PRODUCT) if args[2] is None else second(first(*args[:2], *_PRODUCT), args[2])
        mark(CALL, name, _caller())
        tracer = _tracer()
        is_operator, listed = self.originals.get(name) is original, False
        # mixed precision casts nothing for an operator in place
        if is_operator and tracer._amp_level != _core.AmpLevel.O0 and not name.endswith("_") and name != "cast":
            args, listed = self._cast(name, args, tracer)
        half = next((_HALVES[x.dtype] for x in _tensors(args) if x.dtype in _HALVES), None)
        if half is None:
            return original(*args, **kwargs)
        if is_operator and not self._has_cpu_kernel(name.removesuffix("_"), half):
            # what works in place returns its result too, and whoever calls it takes that
            return self._compute_wide(self.originals[name.removesuffix("_")], args, kwargs, half, listed)
        with _without_casts():
            return original(*args, **kwargs)

    def _has_cpu_kernel(self, name: str, half: str) -> bool:
        backward = self.cpu_kernels.get(f"{name}_grad")
        return half in self.cpu_kernels.get(name, ()) and (backward is None or half in backward)

    def _cast(self, name: str, args: tuple[Any, ...], tracer: Any) -> tuple[tuple[Any, ...], bool]:
        """Cast floating inputs as mixed precision does; say also whether a list is why they are half."""
        floats = [x for x in _tensors(args) if x.dtype in _FLOATS]
        if name in _NORMS:
            floats = floats[:1]
        if not floats:
            return args, False
        half, listed_name = str(tracer._amp_dtype), self.listed_names.get(name, name)
        allowed, blocked = tracer._get_amp_op_list()
        listed = listed_name in allowed
        wide = not listed and (listed_name in blocked or any(x.dtype == paddle.float32 for x in floats))
        wide = wide or half not in self.gpu_kernels.get(name, (half,))
        wanted = paddle.float32 if wide else getattr(paddle, half)
        changed = {id(x) for x in floats if x.dtype != wanted}
        with _without_casts():
            args = _replaced(args, lambda x: self.originals["cast"](x, wanted) if id(x) in changed else x)
        return args, listed and not wide

    def _compute_wide(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], half: str, listed: bool
    ) -> Any:
        result: list[Any] = []

        def compute(inner: Sequence[Any]) -> list[Any]:
            following = iter(inner)
            # Paddle's mixed precision, left on, changes nothing on a CPU but says whether it would have halved this
            with nullcontext() if listed else _without_casts():
                result[:] = [original(*_replaced(args, lambda x: next(following)), **kwargs)]
            return _tensors(result)

        before, self.busy = self.busy, True
        try:
            outputs = _Wide.apply(self, compute, half, listed, *_tensors(args))
        finally:
            self.busy = before
        following = iter(outputs if isinstance(outputs, (list, tuple)) else [outputs])
        return _replaced(result, lambda x: next(following))[0]


class _Wide(paddle.autograd.PyLayer):
    """An operator computed in float32 between half inputs and half outputs, both ways."""

    @staticmethod
    def forward(ctx: Any, dispatcher: _Dispatcher, compute: Any, half: str, listed: bool, *outer: Any) -> Any:
        """Compute from ``outer``, all tensors of the call in their order."""
        ctx.dispatcher, ctx.half = dispatcher, half
        ctx.set_materialize_grads(False)
        ctx.types = [None if x.stop_gradient or x.dtype not in _FLOATS else x.dtype for x in outer]
        with between(ASIDE), paddle.no_grad():
            ctx.inner = [_cast(x, paddle.float32) if x.dtype in _HALVES else x.detach() for x in outer]
        for x, dtype in zip(ctx.inner, ctx.types, strict=True):
            x.stop_gradient = dtype is None
        with paddle.enable_grad() if any(ctx.types) else nullcontext(), between(HALF, half):
            if listed:
                mark(LISTED)
            ctx.outputs = compute(ctx.inner)
        with between(ASIDE), paddle.no_grad():
            outputs = [_cast(x, getattr(paddle, half)) if x.dtype == paddle.float32 else x for x in ctx.outputs]
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Give each input that wants one its gradient, in the input's type."""
        before, ctx.dispatcher.busy = ctx.dispatcher.busy, True
        try:
            outputs, given = [], []
            with between(ASIDE), paddle.no_grad():
                for output, gradient in zip(ctx.outputs, gradients, strict=True):
                    if not output.stop_gradient and gradient is not None:
                        outputs.append(output)
                        given.append(_cast(gradient, paddle.float32))
            wanted = [x for x in ctx.inner if not x.stop_gradient]
            with between(HALF, ctx.half):
                found = iter(paddle.grad(outputs, wanted, given, allow_unused=True))
            with between(ASIDE), paddle.no_grad():
                return tuple(None if dtype is None else _cast(next(found), dtype) for dtype in ctx.types)
        finally:
            ctx.dispatcher.busy = before


def _tracer() -> Any:
    return paddle.base.framework._dygraph_tracer()


@contextmanager
def _without_casts() -> Iterator[None]:
    """Switch Paddle's own mixed precision off, which makes half tensors float32 on a CPU."""
    tracer = _tracer()
    level, tracer._amp_level = tracer._amp_level, _core.AmpLevel.O0
    try:
        yield
    finally:
        tracer._amp_level = level


def _cast(x: Any, dtype: Any) -> Any:
    return x if x is None or x.dtype == dtype else x.cast(dtype)


def _tensors(args: Sequence[Any]) -> list[Any]:
    """List the tensors among arguments and in lists among them."""
    out: list[Any] = []
    for each in args:
        if isinstance(each, Tensor):
            out.append(each)
        elif isinstance(each, (list, tuple)):
            out += _tensors(each)
    return out


def _replaced(args: Any, change: Callable[[Any], Any]) -> Any:
    """Change every tensor that :func:`_tensors` lists, in its order."""
    return type(args)(
        change(each)
        if isinstance(each, Tensor)
        else _replaced(each, change)
        if isinstance(each, (list, tuple))
        else each
        for each in args
    )


def _caller() -> str:
    """Say from where in the project an operator is called: module, function and line."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith(_PACKAGE):
            path = module.removeprefix(_PACKAGE).replace(".", "/")
            return f"{path}.py:{frame.f_lineno}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "paddle"
