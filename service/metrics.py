"""Prometheus figures of this instance: counted here by all its web workers, or read from the supervisor's status.

Labels are configured model names and closed lists of codes, never anything a client chose.
"""

import os
import re
import struct
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ipu_supervisor.protocol.errors import ErrorCode
from ipu_supervisor.protocol.messages import Reply, Status

#: Every name begins with this.
NAMESPACE = "model_server"
#: Upper bounds of the histograms, seconds: from an empty model's answer to the longest default request.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: Codes that mean "refused, come back later".
SHED = {ErrorCode.OVERLOADED.value, ErrorCode.NOT_READY.value, ErrorCode.DRAINING.value}
#: What Prometheus's users expect some of the supervisor's counters to be called, and their labels; others keep their
#: names.
RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "restarts": ("replica_restarts", {}),
    "expired": ("deadline_exceeded", {"stage": "backlog"}),
}
#: Figures of the supervisor that also go down.
GAUGES = frozenset({"quarantined", "alarms", "ipus", "ipus_leased"})
#: Counters of the supervisor that are one family, told apart by why it refused.
REFUSED = "refused_"
#: What reading another worker's file raises in the microseconds in which that worker makes it, and how often to read it
#: again before that counts as a fault (chosen; once has been enough in every test).
TORN, MAX_TORN_READS = (struct.error, RuntimeError, ValueError, FileNotFoundError), 5
#: What no metric's name may hold.
NOT_A_NAME = re.compile(r"[^a-z0-9_]")


class Metrics:
    """What one worker counts. Under Gunicorn the values lie in files that all workers of the instance share."""

    def __init__(self, models: Iterable[str]) -> None:
        """Make the figures in a registry of their own; those of `models` are there, as zeros, from the start."""
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "Answers.", ["model", "code"], NAMESPACE, registry=self.registry)
        self.shed = Counter(
            "requests_shed", "Refused to limit load.", ["model", "reason"], NAMESPACE, registry=self.registry
        )
        self.cancelled = Counter(
            "requests_cancelled", "Clients that hung up.", ["model"], NAMESPACE, registry=self.registry
        )
        self.in_progress = Gauge(
            "requests_in_progress",
            "Inference requests being answered.",
            ["model"],
            NAMESPACE,
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.duration = self._histogram("request_duration_seconds", "From the first byte read to the answer.")
        self.queue = self._histogram("request_queue_duration_seconds", "Waiting for a replica.")
        self.batch_wait = self._histogram("batch_wait_seconds", "Waiting in a forming batch.")
        self.inference = self._histogram("inference_duration_seconds", "Computing.")
        for model in models:
            for figure in (
                self.duration,
                self.queue,
                self.batch_wait,
                self.inference,
                self.cancelled,
                self.in_progress,
            ):
                figure.labels(model)

    def _histogram(self, name: str, text: str) -> Histogram:
        """Return a histogram of durations per model."""
        return Histogram(name, text, ["model"], NAMESPACE, registry=self.registry, buckets=BUCKETS_S)

    def answered(self, model: str, status: int, code: str, seconds: float) -> None:
        """Count one answer; `code` is the error's, or empty."""
        self.requests.labels(model, str(status)).inc()
        self.duration.labels(model).observe(seconds)
        if code in SHED:
            self.shed.labels(model, code.lower()).inc()
        if status == 499:
            self.cancelled.labels(model).inc()

    def computed(self, model: str, reply: Reply) -> None:
        """Note where a reply spent its time."""
        self.queue.labels(model).observe(reply.timing.queue_ms / 1000)
        self.batch_wait.labels(model).observe(reply.timing.batch_ms / 1000)
        self.inference.labels(model).observe(reply.timing.inference_ms / 1000)

    def exposition(self, status: Status | None) -> bytes:
        """Return every figure in Prometheus's text format; no `status`: the supervisor cannot be reached."""
        registry = CollectorRegistry()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry.register(self.registry)
        registry.register(SupervisorFigures(status))
        for _ in range(MAX_TORN_READS):
            try:
                return generate_latest(registry)
            except TORN:
                continue
        return generate_latest(registry)


class SupervisorFigures(Collector):
    """What the supervisor's status says, as Prometheus sees it."""

    def __init__(self, status: Status | None) -> None:
        """Store the status, if there is one."""
        self._models = status.models if status else []
        self._version = status.version if status else ""
        self._own = status.counters if status else {}

    def collect(self) -> Iterator[Metric]:
        """Yield one family per figure."""
        build = GaugeMetricFamily(f"{NAMESPACE}_build_info", "Which supervisor runs.", labels=["version"])
        build.add_metric([self._version], float(bool(self._version)))
        yield build
        yield self._gauge(
            "queue_depth", "Requests accepted, not dispatched.", {m.model: m.backlog for m in self._models}
        )
        yield self._gauge(
            "in_flight", "Requests dispatched, not answered.", {m.model: m.in_flight for m in self._models}
        )
        yield self._gauge("model_ready", "1 when a replica is usable.", {m.model: m.ready for m in self._models})
        yield self._gauge("model_load_seconds", "The last load and compile.", {m.model: m.load_s for m in self._models})
        for name, value in sorted(self._own.items()):
            family = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
            yield family(f"{NAMESPACE}_supervisor_{name}", "Counted by the supervisor.", value=value)
        yield from self._counters()

    @staticmethod
    def _gauge(name: str, text: str, values: dict[str, float]) -> Metric:
        """Return one gauge with a sample per model."""
        family = GaugeMetricFamily(f"{NAMESPACE}_{name}", text, labels=["model"])
        for model, value in values.items():
            family.add_metric([model], float(value))
        return family

    def _counters(self) -> Iterator[Metric]:
        """Yield what the supervisor counted, one family per name."""
        families: dict[str, Metric] = {}
        for model in self._models:
            for key, value in sorted(model.counters.items()):
                name, labels = _named(key)
                kind, suffix = ("gauge", "") if key in GAUGES else ("counter", "_total")
                full = f"{NAMESPACE}_{name}"
                family = families.setdefault(full, Metric(full, "Counted by the supervisor.", kind))
                family.add_sample(full + suffix, {"model": model.model, **labels}, float(value))
        yield from families.values()


def _named(key: str) -> tuple[str, dict[str, str]]:
    """Return the name and the labels under which a counter of the supervisor is exposed."""
    if key.startswith(REFUSED):
        return "supervisor_refused", {"reason": key.removeprefix(REFUSED)}
    return RENAMED.get(key, ("supervisor_" + NOT_A_NAME.sub("_", key), {}))
