"""How much of a deadline an answer needs to get from here to its caller.

A caller counts its deadline from when it sends the request, the server from when that arrives; and the answer has to
get back. None of it is the same on two machines, so it is measured.
"""

from __future__ import annotations

import math

from .round_trip import round_trip_s

LEAST_DELAY_S = 0.005
"""What is measured is one step of the way. gRPC and the turns of its threads, on both sides, take at least this."""
LEAST_SHARE, LEAST_SHARE_S = 0.01, 0.05
"""Of the time that the call has, and at most so many seconds: a caller that is late itself cannot be seen from here."""
MOST_DELAY_S = 1.0
"""A process that was frozen for a minute says nothing about the next call."""
REMEMBERED_S = 10.0
MOST_SHARE = 0.25
"""Of the time that the call has."""
REUSED_WITHIN = 0.03
"""Share by which the timeout that gRPC's core sends may be longer than the one that it was given."""


class WayBack:
    """Learns how late this process takes up what has happened; asks the kernel about the wire."""

    def __init__(self) -> None:
        self._delay_s, self._noted_s = 0.0, -math.inf

    def note_delay(self, delay_s: float, now: float) -> None:
        """Something was taken up so many seconds after it had happened. The largest is remembered for a while."""
        self._delay_s = max(min(delay_s, MOST_DELAY_S), self._delay_s * math.exp((self._noted_s - now) / REMEMBERED_S))
        self._noted_s = now

    def needs_s(self, peer: str, timeout_s: float) -> float:
        """Seconds before the deadline at which an answer has to set out.

        Args:
            peer: the caller, as gRPC names it.
            timeout_s: the time that the call had when it arrived.
        """
        # Twice: the caller's process is as late as this one.
        delay_s = max(LEAST_DELAY_S, min(LEAST_SHARE * timeout_s, LEAST_SHARE_S), self._delay_s)
        needs_s = sent_late_s(timeout_s) + round_trip_s(peer) + 2 * delay_s
        return min(needs_s, MOST_SHARE * timeout_s)


def sent_late_s(timeout_s: float) -> float:
    """How much later than the caller's a deadline may be for the way in which it is sent, seconds.

    gRPC's core sends two or three digits of a timeout and rounds up (timeout_encoding.cc): 1.234 s are sent as 1.24 s,
    15.01 s as 15.1 s. And it compresses: where a timeout is less than 3 % shorter than an earlier one of the
    connection, that one is sent in its place (`TimeoutCompressorImpl`), so that 3.4 s may arrive as 3.5 s.

    Args:
        timeout_s: the time that a call had when it arrived.
    """
    digits = max(0, math.floor(math.log10(timeout_s)) + 1) if timeout_s > 0 else 0
    return REUSED_WITHIN * timeout_s + (float(10.0 ** (digits - 3)) if digits else 0.001)
