"""The campaign of a fuzzing test."""

from __future__ import annotations

import pytest

from fuzz.campaign import Campaign


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Campaign:
    """The test's own, with its share of the time."""
    return Campaign(request.node.name, 1 / len(request.session.items))
