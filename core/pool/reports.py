"""Reports to an autoscaler how many calls wait here, where no replica sees them: above all while there is none."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from core.rpc import grpc, open_channel

if TYPE_CHECKING:
    from core.skill import SkillSpec

_log = logging.getLogger(__name__)

FIRST_AFTER_S = 0.05
"""Calls that wait no longer than this are not worth a replica, seconds."""
_ANSWERS_WITHIN_S = 1.0
_AGAIN_S = 1.0


class WaitingReports:
    """Tells the autoscaler at an address of calls that wait. Thread-safe; has a thread only while any wait.

    Args:
        spec: The skill.
        target: Address of the autoscaler.
    """

    def __init__(self, spec: SkillSpec, target: str) -> None:
        self._spec, self._target = spec, target
        self._caller = secrets.token_urlsafe(12)
        self._lock = threading.Lock()
        self._waiting = 0
        self._running = False
        self._news = threading.Event()

    def note(self, waiting: int) -> None:
        """Note how many calls wait now. Takes microseconds."""
        if waiting == self._waiting:
            return
        with self._lock:
            self._waiting = waiting
            self._news.set()
            if waiting and not self._running:
                with contextlib.suppress(RuntimeError):  # no more threads here: calls go on unreported
                    threading.Thread(target=self._run, name="sarai-waiting", daemon=True).start()
                    self._running = True

    def _run(self) -> None:
        told = 0
        with open_channel(self._target) as channel:
            while True:
                self._news.wait(FIRST_AFTER_S if not told else _AGAIN_S)
                self._news.clear()
                time.sleep(FIRST_AFTER_S)  # they come and go together
                with self._lock:
                    waiting = self._waiting
                    if not waiting and not told:
                        self._running = False
                        return
                told = waiting
                self._send(channel, waiting)

    def _send(self, channel: grpc.Channel, waiting: int) -> None:
        from core.scaling import scaler_pb2, scaler_pb2_grpc

        request = scaler_pb2.ReportWaitingRequest(skill=self._spec.name, caller=self._caller, calls=waiting)
        try:
            report: Any = scaler_pb2_grpc.ScalerServiceStub(channel).ReportWaiting
            report(request, timeout=_ANSWERS_WITHIN_S)
        except grpc.RpcError as error:
            _log.debug("the autoscaler at %s does not answer: %s", self._target, error)
