"""Which of several equally busy replicas gets a call, for tests that script them."""

from __future__ import annotations

import pytest

from core.pool import balance


@pytest.fixture
def by_content() -> None:
    """Let a test have what users have: the content of a request decides among equally busy replicas."""


@pytest.fixture(autouse=True)
def by_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first in the list be the first that is asked, as scripts of several replicas need to know that."""
    if "by_content" not in request.fixturenames:
        monkeypatch.setattr(balance, "_rendezvous", lambda _, replicas: replicas[0])
