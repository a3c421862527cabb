"""How long before a deadline an answer must be sent to reach its caller in time.

A caller counts its deadline from when it sends the request, the server from when the request arrives; and the answer
has to get back. None of that is the same on two machines, so it is measured.
"""

from __future__ import annotations

import math

from .round_trip import round_trip_s

LEAST_DELAY_S = 0.005
"""A lower bound for the part that is not measured: gRPC and its threads, on both sides."""
LEAST_SHARE, LEAST_SHARE_S = 0.01, 0.05
"""A share of the call's time, and its maximum in seconds, for delays in the caller's process, unseen from here."""
MOST_DELAY_S = 1.0
"""The longest delay that counts: a process that was frozen for a minute says nothing about the next call."""
REMEMBERED_S = 10.0
MOST_SHARE = 0.25
"""The largest share of the call's time that is reserved."""
REUSED_WITHIN = 0.03
"""The share by which the timeout that gRPC's core sends may be longer than the one that it was given."""


class WayBack:
    """Learns how late this process notices events, and asks the kernel about the wire."""

    def __init__(self) -> None:
        self._delay_s, self._noted_s = 0.0, -math.inf

    def note_delay(self, delay_s: float, now: float) -> None:
        """Note that an event was noticed `delay_s` after it happened. The largest delay is remembered for a while."""
        self._delay_s = max(min(delay_s, MOST_DELAY_S), self._delay_s * math.exp((self._noted_s - now) / REMEMBERED_S))
        self._noted_s = now

    def needs_s(self, peer: str, timeout_s: float) -> float:
        """Return how long before the deadline an answer has to be sent, in seconds.

        Args:
            peer: The caller, as gRPC names it.
            timeout_s: The time that the call had when it arrived.
        """
        # Twice, as the caller's process may be as late as this one.
        delay_s = max(LEAST_DELAY_S, min(LEAST_SHARE * timeout_s, LEAST_SHARE_S), self._delay_s)
        needs_s = sent_late_s(timeout_s) + round_trip_s(peer) + 2 * delay_s
        return min(needs_s, MOST_SHARE * timeout_s)


def sent_late_s(timeout_s: float) -> float:
    """Return how much later than the caller's deadline the one that arrives may be, in seconds.

    gRPC's core sends two or three digits of a timeout and rounds up (timeout_encoding.cc): 1.234 s are sent as 1.24 s,
    15.01 s as 15.1 s. It also compresses: if a timeout is less than 3 % shorter than an earlier one of the connection,
    it sends that one instead (`TimeoutCompressorImpl`), so that 3.4 s may arrive as 3.5 s.

    Args:
        timeout_s: The time that a call had when it arrived.
    """
    digits = max(0, math.floor(math.log10(timeout_s)) + 1) if timeout_s > 0 else 0
    return REUSED_WITHIN * timeout_s + (float(10.0 ** (digits - 3)) if digits else 0.001)
