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


@dataclass(frozen=True, slots=True)
class Waiting:
    """Calls that wait at their callers."""

    calls: int = 0
    work_s: float = 0.0
    """Their work as far as the callers can tell, replica-seconds."""


class WaitingCalls:
    """The calls that wait at all callers. Thread-safe.

    Args:
        on_change: Called after each report that changes the number of calls, by the thread that reports.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[float, Waiting]] = {}

    def report(self, caller: str, waiting: Waiting) -> None:
        """Replace what a caller has reported before."""
        now_s = time.monotonic()
        with self._lock:
            before = self._total(now_s).calls
            # At the end, so that the first one is the oldest.
            self._reports.pop(caller, None)
            if waiting.calls:
                self._reports[caller] = (now_s + HOLDS_S, waiting)
            if len(self._reports) > _MOST_CALLERS:
                del self._reports[next(iter(self._reports))]
            changed = self._total(now_s).calls != before
        if changed:
            self._on_change()

    def total(self) -> Waiting:
        """Return the calls that wait now."""
        with self._lock:
            return self._total(time.monotonic())

    def _total(self, now_s: float) -> Waiting:
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
        if not (math.isfinite(request.work_s) and request.work_s >= 0):
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"work_s must be 0 or more, not {request.work_s}")
        self._calls.report(request.caller, Waiting(request.calls, request.work_s))
        return scaler_pb2.ReportWaitingResponse(holds_s=HOLDS_S)


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort always raises")
