"""The kernels that a GPU build of Paddle registers, as a file of a line an operator.

    # paddlepaddle-gpu 2.6.2, CUDA 11.8: ...
    matmul bfloat16 complex128 ...

A build knows its kernels without a GPU: it registers them when it is loaded. :func:`registered_kernels` asks it.
"""

# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: "{data_type[float]; data_layout[Undefined(AnyLayout)]; place[Place(gpu:0)]; library_type[PLAIN]}"
_KERNEL = re.compile(r"data_type\[(.+?)\]; .*place\[Place\((\w+)")
_SPELLINGS = {
    "float": "float32",
    "double": "float64",
    "int": "int32",
    "int64_t": "int64",
    "int16_t": "int16",
    "int8_t": "int8",
    "uint8_t": "uint8",
    "complex<float>": "complex64",
    "complex<double>": "complex128",
}


@dataclass(frozen=True)
class KernelList:
    """GPU kernels of one build of Paddle.

    Attributes:
        build: Its version and its CUDA's.
        types: Of each operator, by phi's names.
    """

    build: str
    types: Mapping[str, frozenset[str]]


def read_kernel_list(path: Path) -> KernelList:
    """Read a list that :func:`write_kernel_list` wrote.

    Raises:
        OSError: It cannot be read.
        ValueError: It is something else.
    """
    first, *lines = (line for line in path.read_text(encoding="ascii").splitlines() if line)
    if not first.startswith("# paddlepaddle-gpu "):
        raise ValueError(f"it begins with {first[:40]!r}")
    rows = (line.split() for line in lines if not line.startswith("#"))
    return KernelList(first.removeprefix("# ").partition(":")[0], {name: frozenset(types) for name, *types in rows})


def write_kernel_list(path: Path, kernels: KernelList) -> None:
    """Write a list."""
    head = [
        f"# {kernels.build}: types of each operator's GPU kernels, by phi's names.",
        "# Made by `make audit-gpu` from what the build registers; no GPU is needed for it.",
    ]
    rows = [" ".join([name, *sorted(types)]) for name, types in sorted(kernels.types.items())]
    path.write_text("\n".join([*head, *rows]) + "\n", encoding="ascii")


def registered_kernels() -> KernelList | None:
    """Ask the Paddle that is installed; None where it is not built for GPUs."""
    from roformer_convert.models.processes.start_paddle import paddle

    if not paddle.device.is_compiled_with_cuda():
        return None
    types: dict[str, set[str]] = {}
    for name, kernels in paddle.base.core._get_all_register_op_kernels("phi").items():
        for each in kernels:
            found = _KERNEL.search(each)
            if found and found[2] == "gpu":
                dtype = found[1].removeprefix("::paddle::platform::")
                types.setdefault(paddle.base.core._get_phi_kernel_name(name), set()).add(_SPELLINGS.get(dtype, dtype))
    build = f"paddlepaddle-gpu {paddle.__version__}, CUDA {paddle.version.cuda()}"
    return KernelList(build, {name: frozenset(found) for name, found in types.items()})
