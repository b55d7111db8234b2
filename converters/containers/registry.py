"""Every container that is known: what finds, reads, plans and writes weight files asks here.

A new one is one file with a subclass of :class:`~.container.Container`, and its line in :data:`_KNOWN`; a program of
somebody else's adds its own with :func:`register`.
"""

from __future__ import annotations

from ..table.mapping import DIALECTS, Dialect
from .container import Container
from .container_bin import TorchBin
from .container_ckpt import TensorBundle
from .container_h5 import KerasH5
from .container_pdparams import Pdparams
from .container_safetensors import Safetensors

#: In the order in which a file's bytes are held against them: from eight bytes that nothing else begins with down to
#: the first opcode of any pickle.
_KNOWN: list[Container] = [KerasH5(), TorchBin(), TensorBundle(), Safetensors(), Pdparams()]


def register(container: Container) -> None:
    """Add a container; its bytes are looked for before those of the others.

    Raises:
        ValueError: There is one of that name.
    """
    if any(known.name == container.name for known in _KNOWN):
        raise ValueError(f"there is a container called {container.name}")
    _KNOWN.insert(0, container)


def containers_of(dialect: Dialect) -> tuple[Container, ...]:
    """Return the containers that a dialect's software reads, the one that is written by default first."""
    read = [container for container in _KNOWN if dialect in container.dialects]
    return tuple(sorted(read, key=lambda container: dialect not in container.default_of))


def all_containers() -> tuple[Container, ...]:
    """Return every container, in the order of the dialects."""
    return tuple(dict.fromkeys(container for dialect in DIALECTS for container in containers_of(dialect)))


def recognise(head: bytes, tail: bytes) -> Container | None:
    """Return the container whose file begins and ends so, or None."""
    return next((container for container in _KNOWN if container.recognises(head, tail)), None)
