"""Both sides know the same word for few pieces; neither imports the other."""

from __future__ import annotations

from core.pool import answer
from skills.runtime import pieces


def test_pool_and_servers_mean_the_same() -> None:
    assert answer.FEW_PIECES == pieces.FEW_PIECES
