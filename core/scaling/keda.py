"""KEDA's contract for external scalers: how many replicas are wanted, and whether any is.

KEDA asks for the number, and hears of the first call at zero replicas at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NoReturn

from core.rpc import grpc
from core.scaling.samples import Decision
from core.scaling.vendored import externalscaler_pb2 as pb
from core.scaling.vendored import externalscaler_pb2_grpc
from core.scaling.wanted import Wanted

METRIC = "wanted_replicas"
"""The metric's name for KEDA."""
MOST_STREAMS = 24
"""Streams that may be open at once; each takes a thread."""


class KedaServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """KEDA's external scaler."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._streams = threading.BoundedSemaphore(MOST_STREAMS)

    def IsActive(self, request: pb.ScaledObjectRef, context: grpc.ServicerContext) -> pb.IsActiveResponse:  # noqa: N802, ARG002
        """Return whether any replica is wanted."""
        return pb.IsActiveResponse(result=self._latest(context).wanted > 0)

    def StreamIsActive(  # noqa: N802
        self,
        request: pb.ScaledObjectRef,  # noqa: ARG002
        context: grpc.ServicerContext,
    ) -> Iterator[pb.IsActiveResponse]:
        """Say whether any replica is wanted: at once, and whenever that changes."""
        if not self._streams.acquire(blocking=False):
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_STREAMS} streams are open already")
        try:
            context.add_callback(self._wanted.wake)
            for active in self._wanted.is_active(context.is_active):
                yield pb.IsActiveResponse(result=active)
        finally:
            self._streams.release()

    def GetMetricSpec(self, request: pb.ScaledObjectRef, context: grpc.ServicerContext) -> pb.GetMetricSpecResponse:  # noqa: N802, ARG002
        """Return the metric and its target: one of it is one replica."""
        spec = pb.MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    def GetMetrics(self, request: pb.GetMetricsRequest, context: grpc.ServicerContext) -> pb.GetMetricsResponse:  # noqa: N802
        """Return how many replicas are wanted."""
        if request.metricName not in ("", METRIC):
            _abort(context, grpc.StatusCode.NOT_FOUND, f"there is no metric {request.metricName!r}, only {METRIC!r}")
        wanted = self._latest(context).wanted
        value = pb.MetricValue(metricName=METRIC, metricValue=wanted, metricValueFloat=float(wanted))
        return pb.GetMetricsResponse(metricValues=[value])

    def StreamMetricSpec(self, request: pb.ScaledObjectRef, context: grpc.ServicerContext) -> NoReturn:  # noqa: N802, ARG002
        """Refuse, as KEDA allows: the target never changes."""
        _abort(context, grpc.StatusCode.UNIMPLEMENTED, "the target never changes: GetMetricSpec has it")

    def _latest(self, context: grpc.ServicerContext) -> Decision:
        decision = self._wanted.latest()
        if decision is None:  # an error, at which KEDA changes nothing; 0 would be an order
            _abort(context, grpc.StatusCode.UNAVAILABLE, "nothing is known of the replicas yet")
        return decision


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort always raises")
