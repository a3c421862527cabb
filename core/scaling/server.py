"""Tell KEDA, Prometheus and others how many replicas are wanted; they make them come and go.

The number is the policy's, by the load of the replicas that a DNS name lists and by the calls that wait at their
callers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from core.errors import ConfigError
from core.scaling import scaler_pb2_grpc
from core.scaling.keda import MOST_STREAMS, KedaServicer
from core.scaling.listening import bind
from core.scaling.looking import keep_looking
from core.scaling.policy import State, decide
from core.scaling.reading import LoadReader
from core.scaling.samples import Decision, Limits
from core.scaling.vendored import externalscaler_pb2_grpc
from core.scaling.waiting import ScalerServicer, WaitingCalls
from core.scaling.wanted import Wanted

if TYPE_CHECKING:
    from core.rpc import grpc
    from core.skill import SkillSpec

PROMETHEUS_METRIC = "sarai_wanted_replicas"
"""The metric's name for Prometheus; its label `skill` is the skill's name."""
START_S = 600.0
"""A replica that is wanted and not listed for this time has failed to start, seconds. Earlier, the number would fall
while a node still fetches the image or the model, and the orchestrator would take back what is about to serve."""
_NAMES_S = 2.0
"""How long its end waits for a name server."""
_log = logging.getLogger(__name__)


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
        self._starts = Starts()
        self._state, self._said = State(), (-1, "")
        self._server, self.address = bind(listen, streams=MOST_STREAMS)
        """The server, and where it serves."""
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(KedaServicer(self._wanted), self._server)
        scaler_pb2_grpc.add_ScalerServiceServicer_to_server(ScalerServicer(spec.name, self._waiting), self._server)
        _add_health(self._server)
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
        self._thread.join(_NAMES_S)
        self._reader.close()
        if self._stop_metrics is not None:
            self._stop_metrics()

    def wait(self) -> None:
        """Wait until it has ended, as its decisions cannot be told any more."""
        self._closing.wait()

    def _run(self) -> None:
        try:
            keep_looking(self._look, self._tell, self._pause)
        except Exception as error:  # noqa: BLE001  # whatever `on_decision` raises
            _log.error("no more decisions: %s", error)
        finally:
            self._closing.set()

    def _pause(self, seconds: float) -> bool:
        self._look_now.wait(seconds)
        self._look_now.clear()
        return self._closing.is_set()

    def _look(self) -> Decision:
        sample, waiting = self._reader.read(), self._waiting.total()
        sample = replace(
            sample,
            starting=self._starts.starting(sample.there, sample.at_s),
            failed_starts=self._starts.failed,
            waiting_calls=waiting.calls,
            waiting_work_s=waiting.work_s,
        )
        state, self._state = self._state, State()  # begins anew if this fails: its memory may be why
        self._state, decision = decide(state, sample, self._limits)
        self._starts.wanted(decision.wanted)
        self._wanted.publish(decision)
        return decision

    def _tell(self, decision: Decision) -> None:
        if (news := (decision.wanted, decision.why)) != self._said:
            self._said = news
            self._on_decision(decision)


class Starts:
    """Which replicas are on their way. Others start them, so all that shows is that they are not listed yet."""

    def __init__(self) -> None:
        self.failed = 0
        self._wanted = 0
        self._since_s: float | None = None

    def wanted(self, number: int) -> None:
        """Note how many replicas there are to be."""
        if number > self._wanted:
            self._since_s = None
        self._wanted = number

    def starting(self, there: int, now_s: float) -> int:
        """Return how many replicas are on their way while `there` are listed."""
        missing = self._wanted - there
        if missing <= 0:
            self._since_s = None
            return 0
        if self._since_s is None:
            self._since_s = now_s
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
