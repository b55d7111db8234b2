"""Which fast kernels stand in for a model's functions on the device at hand: those that proved themselves there.

No device of ours has machine code for all of them, so nothing is taken on trust: before a kernel is used it is tried
(:mod:`.trials_paddle`), in a process of its own, for a kernel can end its process. Whatever goes wrong with one,
it is left out with a line that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache

from ...converters.errors import ConvertError
from ..config import RoFormerConfig
from ..kernels.attention_paddle import KERNELS, Kernel, candidates, choose, current_device
from ..processes.process import DeathError, Json, Process, serve
from ..processes.start_paddle import paddle
from .trials_paddle import Need, Verdict, attempt, gist, needs


def settle(wanted: Sequence[Need], attempt: Callable[[Kernel, Need], Verdict]) -> list[Verdict]:
    """Try the candidates of the current device, best first, and let the first of each need that agrees stand in."""
    found = []
    for need in wanted:
        for kernel in candidates(current_device(), need.place, need.dtype):
            found.append(attempt(kernel, need))
            if found[-1].agrees:
                choose(kernel, need.dtype, need.sizes, dropping=need.dropout > 0)
                break
    return found


def prove(config: RoFormerConfig, dtypes: tuple[str, ...], *, training: bool) -> tuple[Verdict, ...]:
    """Let the kernels that prove themselves on the current device stand in for a model's functions from now on.

    On a CPU there are none. On a GPU it takes some seconds, once a process.

    Args:
        config: Configuration of the model.
        dtypes: Types that it will compute in.
        training: Whether it will drop elements: a kernel that is right without may be wrong with it.
    """
    if not training:
        config = replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return _proven(config, dtypes, str(paddle.device.get_device()))


@lru_cache(maxsize=8)
def _proven(config: RoFormerConfig, dtypes: tuple[str, ...], device: str) -> tuple[Verdict, ...]:
    wanted = [need for need in needs(config, dtypes) if candidates(current_device(), need.place, need.dtype)]
    if not wanted:
        return ()
    with _Elsewhere(device) as elsewhere:
        return tuple(settle(wanted, elsewhere.attempt))


def lines(verdicts: Iterable[Verdict]) -> list[str]:
    """Say which kernel stands in where, and which was left out and why: a line for each place and type."""
    found: dict[tuple[str, str, str, bool], list[Verdict]] = {}
    for each in verdicts:
        found.setdefault((each.need.place, each.kernel, each.need.dtype, each.agrees), []).append(each)
    out = []
    for (place, kernel, dtype, agrees), group in found.items():
        sizes = "" if len(group) == 1 else f" ({len(group)} sizes)"
        what = f"{place}: {kernel} in {dtype}{sizes}"
        out.append(f"{what}, {group[0].why}" if agrees else f"{what} is left out: {group[0].why}")
    return out


class _Elsewhere:
    """Tries kernels in a process of its own, and starts another where one ends it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._process: Process | None = None

    def __enter__(self) -> _Elsewhere:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def attempt(self, kernel: Kernel, need: Need) -> Verdict:
        """Try a kernel in that process."""
        if self._process is None:
            self._process = Process("kernel trial", __name__, [self.device])
        try:
            self._process.ask({"kernel": kernel.name, "need": asdict(need)})
            found = self._process.answer()
            return Verdict(kernel.name, need, found["agrees"], found["why"])
        except DeathError as error:
            self._end()
            return Verdict(
                kernel.name, need, False, f"it crashes its process: {gist(error.last_words) or error.status}"
            )
        except ConvertError as error:
            return Verdict(kernel.name, need, False, error.what)

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def main(device: str) -> None:
    """Serve trials on a device."""
    paddle.device.set_device(device)
    kernels = {(kernel.place, kernel.name): kernel for kernel in KERNELS}

    def answer(request: Json) -> Json:
        need = Need(**{**request["need"], "sizes": tuple(request["need"]["sizes"])})
        verdict = attempt(kernels[need.place, request["kernel"]], need)
        return {"agrees": verdict.agrees, "why": verdict.why}

    serve(answer)
