"""Collect what callers report of the calls that wait at them, where no replica sees them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from core.rpc import grpc
from core.scaling import scaler_pb2, scaler_pb2_grpc

HOLDS_S = 5.0
"""How long a report holds, seconds: a caller that dies is forgotten after that."""
_MOST_CALLERS = 10_000
_MOST_NAME_BYTES = 128
_MOST_WORK_S = 1e9
"""Sums of larger ones would have no digits left for the others."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Calls that wait at their callers."""

    calls: int = 0
    work_s: float = 0.0
    """Their work as far as the callers can tell, replica-seconds."""


class WaitingCalls:
    """The calls that wait at all callers. Thread-safe.

    Args:
        on_first: Called by the first report of calls that wait while there was none.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        self._on_first = on_first
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[float, Waiting]] = {}

    def report(self, caller: str, waiting: Waiting) -> None:
        """Replace what a caller has reported before."""
        now_s = time.monotonic()
        with self._lock:
            first = waiting.calls > 0 and not self._reports
            # At the end, so that the first one is the oldest.
            self._reports.pop(caller, None)
            if waiting.calls:
                self._reports[caller] = (now_s + HOLDS_S, waiting)
            if len(self._reports) > _MOST_CALLERS:
                del self._reports[next(iter(self._reports))]
        if first:
            self._on_first()

    def total(self) -> Waiting:
        """Return the calls that wait now."""
        now_s = time.monotonic()
        with self._lock:
            self._reports = {caller: report for caller, report in self._reports.items() if report[0] > now_s}
            reported = [waiting for _, waiting in self._reports.values()]
        return Waiting(sum(each.calls for each in reported), math.fsum(each.work_s for each in reported))


class ScalerServicer(scaler_pb2_grpc.ScalerServiceServicer):
    """Takes the reports about one skill."""

    def __init__(self, skill: str, calls: WaitingCalls) -> None:
        self._skill, self._calls = skill, calls

    def ReportWaiting(  # noqa: N802  # the contract's name
        self, request: scaler_pb2.ReportWaitingRequest, context: grpc.ServicerContext
    ) -> scaler_pb2.ReportWaitingResponse:
        """Take one report."""
        if request.skill != self._skill:
            _refuse(context, grpc.StatusCode.NOT_FOUND, f"this scaler is for {self._skill!r}, not {request.skill!r}")
        if not 1 <= len(request.caller.encode()) <= _MOST_NAME_BYTES:
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"caller must have 1 to {_MOST_NAME_BYTES} bytes")
        if request.calls < 0:
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"calls must be 0 or more, not {request.calls}")
        if not 0 <= request.work_s <= _MOST_WORK_S:
            _refuse(
                context, grpc.StatusCode.INVALID_ARGUMENT, f"work_s must be 0 to {_MOST_WORK_S:g}, not {request.work_s}"
            )
        self._calls.report(request.caller, Waiting(request.calls, request.work_s))
        return scaler_pb2.ReportWaitingResponse(holds_s=HOLDS_S)


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort always raises")
