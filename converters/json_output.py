"""Results as JSON, as every ``--json`` gives them: the version of their keys first."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Version of the keys of all commands together. A key that is new leaves it as it is; one that is renamed, removed or
#: has another meaning raises it.
SCHEMA = 1


def render_json(data: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """Render a command's result as a JSON object, ``"schema"`` before its own keys; without ``indent`` on one line."""
    assert "schema" not in data
    text = json.dumps({"schema": SCHEMA, **data}, ensure_ascii=False, indent=indent)
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)  # JSON allows these, a terminal obeys
