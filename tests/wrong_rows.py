"""Rows put into the table for the time of a test, in place: its groups are known by identity all over the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from roformer_convert.converters.source import wrappers
from roformer_convert.converters.table import mapping, recognition, spellings
from roformer_convert.converters.table.mapping import Group, Row

_CACHES = [
    each.cache_clear
    for module in (mapping, recognition, spellings, wrappers)
    for each in vars(module).values()
    if hasattr(each, "cache_clear")
]


@contextmanager
def rows_instead(changed: Mapping[Group, tuple[Row, ...]]) -> Iterator[None]:
    """Give groups other rows, and take nothing that was made of the former ones for what these say."""
    before = {group: group.rows for group in changed}
    try:
        _set(changed)
        yield
    finally:
        _set(before)


def _set(rows: Mapping[Group, tuple[Row, ...]]) -> None:
    for group, those in rows.items():
        object.__setattr__(group, "rows", those)
    for clear in _CACHES:
        clear()
