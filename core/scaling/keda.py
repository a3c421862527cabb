"""Tell KEDA and Prometheus how many replicas are wanted; they make them come and go.

The number is the policy's, by the load of the replicas that a DNS name lists and by the calls that wait at their
callers. KEDA asks for it by its contract for external scalers, and hears of the first call at zero replicas at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, Self

from core.errors import ConfigError
from core.rpc import grpc
from core.scaling import scaler_pb2_grpc
from core.scaling.policy import State, decide
from core.scaling.reading import LoadReader, NoDataError
from core.scaling.samples import Decision, Limits, Sample
from core.scaling.vendored import externalscaler_pb2 as pb
from core.scaling.vendored import externalscaler_pb2_grpc
from core.scaling.waiting import ScalerServicer, WaitingCalls

if TYPE_CHECKING:
    from core.skill import SkillSpec

METRIC = "wanted_replicas"
"""The metric's name for KEDA."""
PROMETHEUS_METRIC = "sarai_wanted_replicas"
"""The metric's name for Prometheus; its label `skill` is the skill's name."""
TICK_S = 0.5
START_S = 120.0
"""A replica that was wanted and is not listed after this time has failed to start, seconds."""
_MOST_STREAMS = 24
_THREADS = _MOST_STREAMS + 8
_log = logging.getLogger(__name__)


class Wanted:
    """The latest decision, for all who ask or listen. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._decision: Decision | None = None
        self._closed = False

    def publish(self, decision: Decision) -> None:
        """Replace the decision."""
        with self._changed:
            self._decision = decision
            self._changed.notify_all()

    def close(self) -> None:
        """End what `changes` yields."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Have `changes` look at `goes_on`."""
        with self._changed:
            self._changed.notify_all()

    def latest(self) -> Decision | None:
        """Return the decision, None before the first one."""
        return self._decision

    def is_active(self, goes_on: Callable[[], bool]) -> Iterator[bool]:
        """Yield whether any replica is wanted: at once, and whenever it changes, for as long as `goes_on`."""
        told: bool | None = None
        while True:
            with self._changed:
                while goes_on() and not self._closed and (self._decision is None or self._active() is told):
                    self._changed.wait()
                if self._closed or not goes_on():
                    return
                told = self._active()
            yield told

    def _active(self) -> bool:
        return self._decision is not None and self._decision.wanted > 0


class KedaServicer(externalscaler_pb2_grpc.ExternalScalerServicer):
    """KEDA's external scaler."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._streams = threading.BoundedSemaphore(_MOST_STREAMS)

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
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MOST_STREAMS} streams are open already")
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


class ScalerServer:
    """Reads the load, decides, and serves the number: KEDA's service, ScalerService and the standard health service.

    Args:
        spec: The skill.
        targets: Where its replicas are: `dns:///name:port`, or addresses.
        limits: What the number is to keep to.
        listen: `HOST:PORT`; port 0 takes a free one.
        metrics: `HOST:PORT` for Prometheus; empty: none.
        on_decision: Called with each decision that differs from the one before in its number or its reason.

    Raises:
        ConfigError: An address cannot be bound, or prometheus-client is not installed.
    """

    def __init__(
        self,
        spec: SkillSpec,
        targets: Sequence[str],
        limits: Limits,
        *,
        listen: str,
        metrics: str = "",
        on_decision: Callable[[Decision], None] = lambda _: None,
    ) -> None:
        self._limits, self._on_decision = limits, on_decision
        self._reader = LoadReader(spec, targets)
        self._wanted = Wanted()
        self._look_now, self._closing = threading.Event(), threading.Event()
        self._waiting = WaitingCalls(self._look_now.set)
        self._starts = _Starts()
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
        self._keda = KedaServicer(self._wanted)
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(self._keda, self._server)
        scaler_pb2_grpc.add_ScalerServiceServicer_to_server(ScalerServicer(spec.name, self._waiting), self._server)
        _add_health(self._server)
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {listen}: is it in use, or not an address of this machine?") from error
        self.address = f"{listen.rpartition(':')[0]}:{port}"
        """Where it serves."""
        self._stop_metrics = _serve_metrics(metrics, spec.name, self._wanted) if metrics else None
        self._thread = threading.Thread(target=self._run, name="sarai-scaler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._look_now.set()
        self._wanted.close()
        self._server.stop(1.0).wait()
        self._thread.join()
        self._reader.close()
        if self._stop_metrics is not None:
            self._stop_metrics()

    def wait(self) -> None:
        """Serve until another thread or a signal handler calls `stop`."""
        self._closing.wait()

    def stop(self) -> None:
        """End `wait`."""
        self._closing.set()

    def _run(self) -> None:
        state, said = State(), None
        while not self._closing.is_set():
            self._look_now.clear()
            try:
                state, decision = decide(state, self._sample(), self._limits)
                self._starts.wanted(decision.wanted, time.monotonic())
                self._wanted.publish(decision)
                if (decision.wanted, decision.why) != said:
                    said = (decision.wanted, decision.why)
                    self._on_decision(decision)
            except NoDataError as error:
                _log.warning("%s; nothing changes", error)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next second may be better
                _log.warning("reading the load failed, and continues: %r", error, exc_info=True)
            self._look_now.wait(TICK_S)

    def _sample(self) -> Sample:
        readings, now_s = self._reader.read(), time.monotonic()
        starting = self._starts.starting(sum(each.serving for each in readings.replicas) + readings.silent, now_s)
        waiting = self._waiting.total()
        return Sample(
            at_s=now_s,
            replicas=readings.replicas,
            silent=readings.silent,
            starting=starting,
            failed_starts=self._starts.failed,
            waiting_calls=waiting.calls,
            waiting_work_s=waiting.work_s,
        )


class _Starts:
    """Which replicas are on their way. Others start them, so all that shows is that they are not listed yet."""

    def __init__(self) -> None:
        self.failed = 0
        self._wanted = 0
        self._since_s: float | None = None

    def wanted(self, number: int, now_s: float) -> None:
        """Note how many replicas there are to be."""
        if number > self._wanted:
            self._since_s = now_s
        self._wanted = number

    def starting(self, there: int, now_s: float) -> int:
        """Return how many replicas are on their way while `there` are listed."""
        missing = self._wanted - there
        if missing <= 0 or self._since_s is None:
            return 0
        if now_s - self._since_s > START_S:
            self.failed += 1
            self._wanted, self._since_s = there, None
            return 0
        return missing


def _add_health(server: grpc.Server) -> None:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


def _serve_metrics(address: str, skill: str, wanted: Wanted) -> Callable[[], None]:
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import GaugeMetricFamily
    except ImportError as error:
        raise ConfigError("metrics take the package prometheus-client: pip install prometheus-client") from error

    class Collector:
        def collect(self) -> Iterator[Any]:
            if (decision := wanted.latest()) is None:
                return  # no value, at which the autoscaler changes nothing; 0 would be an order
            for name, help_, value in (
                (PROMETHEUS_METRIC, "Replicas that are wanted", decision.wanted),
                ("sarai_offered_load_replicas", "Replicas that would be busy all the time", decision.load),
            ):
                family = GaugeMetricFamily(name, help_, labels=["skill"])
                family.add_metric([skill], value)
                yield family

    registry = CollectorRegistry()
    registry.register(Collector())
    host, _, port = address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), addr=host or "127.0.0.1", registry=registry)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot serve metrics on {address}: {error}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort always raises")
