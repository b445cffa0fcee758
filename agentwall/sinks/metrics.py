# SPDX-License-Identifier: Apache-2.0
"""The daemon's figures for Prometheus, served from a thread of its own.

Imported only where a configuration asks for metrics. A scrape reads what the daemon last published
and copies of what it counts: it never waits for the daemon's loop, nor the loop for it.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agentwall.errors import HostError
from agentwall.sinks.escape import without_surrogates
from agentwall.sinks.figures import (
    MAX_SANDBOXES,
    Figures,
    Histogram,
    SandboxFigures,
    Series,
    Snapshot,
    TlsFigures,
)

_TLS_STATES = ("starting", "on", "off", "refused")
_TIMEOUT_S = 5.0
"""A client that takes longer to ask or to listen is cut off."""


class MetricsServer:
    """Serves ``/metrics`` until it is closed."""

    def __init__(
        self, address: str, port: int, figures: Figures, snapshot: Callable[[], Snapshot | None]
    ) -> None:
        """Listen, and serve from now on.

        Args:
            address: To listen at, v4 or v6.
            port: 0: any that is free.
            figures: What the daemon counts.
            snapshot: Returns what the daemon last published, at once; None: nothing yet. Is called
                by other threads.

        Raises:
            HostError: The address is in use, or none of this host.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(DaemonCollector(figures, snapshot))
        ProcessCollector(registry=registry)
        server = _Server6 if ":" in address else _Server
        try:
            self._server = make_server(
                address, port, make_wsgi_app(registry), server, handler_class=_Handler
            )
        except OSError as err:
            raise HostError(f"metrics at {address} port {port}: {err.strerror or err}") from err
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # Closing does not wait for a client that is slow.
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away in the middle is not worth a line."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each scrape."""


class DaemonCollector(Collector):
    """Makes metrics of figures and a snapshot."""

    def __init__(self, figures: Figures, snapshot: Callable[[], Snapshot | None]) -> None:
        self._figures = figures
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from _counted(self._figures)
        snapshot = self._snapshot()
        if snapshot is not None:
            yield from _daemon(snapshot)
            yield from _sandboxes(snapshot.sandboxes)
            yield from _writing(snapshot)
            yield from _upkeep(snapshot)
            if snapshot.tls is not None:
                yield from _inside_tls(snapshot.tls)


def _counted(figures: Figures) -> Iterator[Metric]:
    # Copies, each made in one step: the daemon's thread may be adding to them.
    yield _counter(
        "agentwall_denials",
        "Attempts that were denied, or would be in enforce mode, as far as they were reported.",
        ("policy", "reason", "verdict"),
        dict(figures.denials).items(),
    )
    yield _counter(
        "agentwall_detections",
        "What was recognised by its bytes, a name or its behaviour.",
        ("class", "response", "verdict"),
        dict(figures.detections).items(),
    )
    yield _counter(
        "agentwall_tls_sessions",
        "TLS sessions of sandboxes, by whether they were read, and by what or why not.",
        ("read", "how"),
        dict(figures.tls).items(),
    )
    yield _counter(
        "agentwall_lost_events",
        "Events that were lost, by the place where they were.",
        ("where",),
        dict(figures.lost).items(),
    )
    yield _counter(
        "agentwall_responses",
        "Sandboxes that were frozen or killed, or could not be.",
        ("response", "outcome"),
        dict(figures.responses).items(),
    )
    reloads = (
        (("applied",), figures.states.get(("reloaded",), 0)),
        (("failed",), figures.states.get(("reload-failed",), 0)),
    )
    yield _counter("agentwall_reloads", "Reloads, by how they ended.", ("outcome",), reloads)
    yield _total("agentwall_damages", "How often the wall was found broken.", figures.damages)
    yield _histogram(
        "agentwall_admission_seconds",
        "From the request to admit a sandbox until its wall stood.",
        figures.admission,
    )
    yield _histogram(
        "agentwall_unwatched_seconds",
        "How long sandboxes ran before their own policy was in force.",
        figures.unwatched,
    )


def _daemon(snapshot: Snapshot) -> Iterator[Metric]:
    info = InfoMetricFamily("agentwall_build", "What is running.")
    info.add_metric((), {"version": snapshot.version, "kernel": snapshot.kernel})
    yield info
    yield _gauge("agentwall_start_time_seconds", "When the daemon started.", snapshot.started_s)
    yield _gauge(
        "agentwall_mode_overrides", "Sandboxes whose mode somebody switched.", snapshot.overrides
    )
    yield _gauges(
        "agentwall_scope_in_force",
        "Whether a scope's default policy is in force.",
        "cgroup",
        snapshot.scopes,
    )
    yield _gauges(
        "agentwall_scope_unbound",
        "Cgroups in a scope that look like sandboxes and have no policy.",
        "cgroup",
        snapshot.unbound,
    )
    yield _gauges(
        "agentwall_hook_in_force", "Whether a kernel hook is in force.", "hook", snapshot.hooks
    )


def _sandboxes(sandboxes: tuple[SandboxFigures, ...]) -> Iterator[Metric]:
    labels = ("policy", "mode", "coverage")
    total = GaugeMetricFamily("agentwall_sandboxes", "Sandboxes behind the wall.", labels=labels)
    counted = Counter((each.policy, each.mode, each.coverage) for each in sandboxes)
    for values, number in sorted(counted.items()):
        total.add_metric(tuple(map(without_surrogates, values)), number)
    yield total
    shown = sandboxes[:MAX_SANDBOXES]
    yield _gauge(
        "agentwall_sandboxes_unlisted",
        f"Sandboxes beyond the {MAX_SANDBOXES} that have figures of their own.",
        len(sandboxes) - len(shown),
    )
    for name, words, of in (
        ("denied", "Attempts that the kernel denied.", [each.denied for each in shown]),
        (
            "would_denied",
            "Attempts that it would have denied in enforce mode.",
            [e.would_denied for e in shown],
        ),
        ("detections", "What was recognised in it.", [each.detections for each in shown]),
        ("lost_events", "Events of it that were lost.", [each.lost for each in shown]),
    ):
        series = [((each.id,), number) for each, number in zip(shown, of, strict=True)]
        yield _counter(f"agentwall_sandbox_{name}", words, ("sandbox",), series)


def _writing(snapshot: Snapshot) -> Iterator[Metric]:
    for name, words, number in (
        ("log_written", "Events in the event log.", snapshot.log_written),
        ("log_failed", "Events that could not be written there.", snapshot.log_failed),
        ("log_rotated", "How often it was rotated.", snapshot.log_rotated),
    ):
        yield _total(f"agentwall_{name}", words, number)
    if snapshot.journal_sent is not None:
        sent, lost = snapshot.journal_sent, snapshot.journal_lost
        yield _total("agentwall_journal_sent", "Messages that journald took.", sent)
        yield _total("agentwall_journal_lost", "Messages that journald did not take.", lost)


def _upkeep(snapshot: Snapshot) -> Iterator[Metric]:
    if snapshot.checked_s is not None:
        yield _gauge(
            "agentwall_check_timestamp_seconds",
            "When the wall was last looked over.",
            snapshot.checked_s,
        )
    yield _gauge("agentwall_check_problems", "What was wrong with it then.", snapshot.problems)
    if snapshot.reloaded_s is not None:
        yield _gauge(
            "agentwall_reload_timestamp_seconds",
            "When the last reload ended.",
            snapshot.reloaded_s,
        )
    yield _gauge(
        "agentwall_reload_success",
        "Whether the last reload was applied; 1 before the first.",
        snapshot.reload_applied,
    )


def _inside_tls(figures: TlsFigures) -> Iterator[Metric]:
    states = {state: float(state == figures.state) for state in _TLS_STATES}
    words = "How reading inside TLS stands: 1 for the state that holds."
    yield _gauges("agentwall_tls_state", words, "state", states)
    yield _gauges(
        "agentwall_tls_libraries", "Files whose calls are probed.", "library", figures.libraries
    )
    yield _gauge("agentwall_tls_read_processes", "Processes whose text is read.", figures.read)
    yield _gauges(
        "agentwall_tls_unread_processes",
        "Processes whose text is not read, whether they speak TLS or not.",
        "reason",
        figures.unread,
    )
    for name, words, number in (
        ("over_limit", "Libraries not probed because as many are as may be.", figures.over_limit),
        (
            "displaced",
            "Libraries probed no longer, for sandboxes that had fewer.",
            figures.displaced,
        ),
        ("unreadable", "Libraries that could not be opened.", figures.unreadable),
        ("calls", "Calls of TLS libraries that were seen.", figures.calls),
        ("read_bytes", "Text that was read inside TLS.", figures.octets),
        ("lost_calls", "Calls whose text could not be read.", figures.lost),
        ("doubled_calls", "Calls within one that is read, passed over.", figures.doubled),
        ("connections", "Connections that libraries began.", figures.connections),
        ("joined", "Of these, those whose flow is known.", figures.joined),
    ):
        yield _total(f"agentwall_tls_{name}", words, number)


def _counter(
    name: str, words: str, labels: Series, counted: Iterable[tuple[Series, int]]
) -> Metric:
    family = CounterMetricFamily(name, words, labels=labels)
    for series, number in counted:
        family.add_metric(tuple(map(without_surrogates, series)), number)
    return family


def _total(name: str, words: str, number: int) -> Metric:
    return _counter(name, words, (), [((), number)])


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=float(value))


def _gauges(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, words, labels=(label,))
    for key, value in values.items():
        family.add_metric((without_surrogates(key),), float(value))
    return family


def _histogram(name: str, words: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        name, words, buckets=histogram.cumulative(), sum_value=histogram.sum_s
    )
