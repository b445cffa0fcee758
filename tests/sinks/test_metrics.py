# SPDX-License-Identifier: Apache-2.0
"""Metrics: what promtool says of them, and what the real Prometheus scrapes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import replace
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from rig.ports import reserved_port
from rig.process import running, wait_until
from rig.records import SANDBOX, detection, flow, state

from agentwall.errors import HostError
from agentwall.flow.record import GapRecord, PolicyInForce
from agentwall.sinks.figures import MAX_SANDBOXES, Figures, SandboxFigures, Snapshot, TlsFigures
from agentwall.sinks.metrics import MetricsServer

SANDBOX_FIGURES = SandboxFigures(
    id="docker-1",
    policy="rl",
    mode="enforce",
    coverage="full",
    denied=7,
    would_denied=0,
    detections=1,
    lost=0,
)
SNAPSHOT = Snapshot(
    version="1.0",
    kernel="6.1.0",
    started_s=1_790_000_000.0,
    sandboxes=(
        SANDBOX_FIGURES,
        replace(SANDBOX_FIGURES, id='p"o\\d\nman', mode="audit", denied=0),
    ),
    overrides=1,
    scopes={"/agentwall.slice": True},
    unbound={"/machine.slice": 2},
    hooks={"connect4": True},
    log_written=100,
    log_failed=3,
    log_rotated=1,
    journal_sent=5,
    journal_lost=1,
    checked_s=1_790_000_100.0,
    problems=0,
    reloaded_s=1_790_000_050.0,
    reload_applied=False,
    tls=TlsFigures(
        state="on",
        libraries={"openssl": 2},
        over_limit=1,
        displaced=2,
        unreadable=4,
        calls=40,
        octets=4096,
        lost=3,
        doubled=5,
        connections=9,
        joined=8,
        read=12,
        unread={"go": 1, "static": 0},
    ),
)
MOST_ADDED = 50_000
needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="prometheus is not installed"
)


def figures() -> Figures:
    found = Figures()
    managed = replace(SANDBOX, policy=PolicyInForce(name="rl"))
    for record in (
        flow(sandbox=managed, count=41),
        detection(),
        GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="denials", lost=9),
        state("started", {"unwatched_ms": 3}),
        state("reloaded"),
        state("reload-failed"),
        state("response", {"response": "kill", "problem": None}),
    ):
        found.count(record)
    found.admitted(0.0031)
    return found


@contextmanager
def serving(snapshot=lambda: SNAPSHOT, address="127.0.0.1"):
    server = MetricsServer(address, 0, figures(), snapshot)
    try:
        yield server
    finally:
        server.close()


def scrape(server: MetricsServer, address: str = "127.0.0.1") -> str:
    with urlopen(f"http://{address}:{server.port}/metrics", timeout=60) as answer:
        return answer.read().decode()


def values(text: str) -> dict[str, float]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_what_is_served():
    """Counts, state and histograms are there under their names."""
    with serving() as server:
        found = values(scrape(server))

    expected = {
        'agentwall_denials_total{policy="rl",reason="no-rule",verdict="deny"}': 41,
        'agentwall_detections_total{class="mining",response="block",verdict="deny"}': 1,
        'agentwall_lost_events_total{where="denials"}': 9,
        'agentwall_responses_total{outcome="done",response="kill"}': 1,
        'agentwall_reloads_total{outcome="failed"}': 1,
        'agentwall_admission_seconds_bucket{le="0.005"}': 1,
        'agentwall_admission_seconds_bucket{le="0.0025"}': 0,
        "agentwall_unwatched_seconds_sum": 0.003,
        'agentwall_build_info{kernel="6.1.0",version="1.0"}': 1,
        'agentwall_sandboxes{coverage="full",mode="enforce",policy="rl"}': 1,
        "agentwall_sandboxes_unlisted": 0,
        'agentwall_sandbox_denied_total{sandbox="docker-1"}': 7,
        "agentwall_mode_overrides": 1,
        'agentwall_scope_in_force{cgroup="/agentwall.slice"}': 1,
        'agentwall_scope_unbound{cgroup="/machine.slice"}': 2,
        'agentwall_hook_in_force{hook="connect4"}': 1,
        "agentwall_log_failed_total": 3,
        "agentwall_journal_lost_total": 1,
        "agentwall_reload_success": 0,
        "agentwall_check_problems": 0,
        'agentwall_tls_state{state="on"}': 1,
        'agentwall_tls_state{state="refused"}': 0,
        'agentwall_tls_libraries{library="openssl"}': 2,
        "agentwall_tls_over_limit_total": 1,
        "agentwall_tls_displaced_total": 2,
        "agentwall_tls_unreadable_total": 4,
        "agentwall_tls_calls_total": 40,
        "agentwall_tls_read_bytes_total": 4096,
        "agentwall_tls_lost_calls_total": 3,
        "agentwall_tls_doubled_calls_total": 5,
        "agentwall_tls_connections_total": 9,
        "agentwall_tls_joined_total": 8,
        "agentwall_tls_read_processes": 12,
        'agentwall_tls_unread_processes{reason="go"}': 1,
        'agentwall_tls_unread_processes{reason="static"}': 0,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["process_resident_memory_bytes"] > 0


@needs_prometheus
def test_promtool_finds_nothing():
    """Names, types and help texts are as Prometheus wants them."""
    with serving() as server:
        text = scrape(server)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_prometheus
def test_the_real_prometheus(tmp_path):
    """Prometheus scrapes it and answers queries about it."""
    with serving() as server:
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "scrape_configs:\n"
            "  - job_name: agentwall\n"
            "    scrape_interval: 1s\n"
            "    scrape_timeout: 1s\n"
            f"    static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]\n",
            encoding="ascii",
        )
        with reserved_port() as port:
            command = [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ]
            with running(command, log=tmp_path / "log") as prometheus:
                # First scrapes may fail where others keep the processors: then it is asked again.
                (up,) = _query(prometheus, port, 'up{job="agentwall"} == 1')
                denied = _query(prometheus, port, "sum by (policy) (agentwall_denials_total)")
                sandboxes = _query(prometheus, port, "agentwall_sandbox_denied_total")

    assert up["metric"]["instance"] == f"127.0.0.1:{server.port}"
    assert [(one["metric"], one["value"][1]) for one in denied] == [({"policy": "rl"}, "41")]
    assert {one["metric"]["sandbox"] for one in sandboxes} == {"docker-1", 'p"o\\d\nman'}


def _query(prometheus: subprocess.Popen[bytes], port: int, query: str) -> list[dict]:
    found: list[dict] = []

    def knows() -> bool:
        assert prometheus.poll() is None, "prometheus has ended"
        try:
            url = f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}"
            with urlopen(url, timeout=60) as answer:
                found[:] = json.load(answer)["data"]["result"]
        except (URLError, ConnectionError):
            return False
        return bool(found)

    wait_until(knows, what=f"prometheus: {query}")
    return found


def test_before_anything_is_published():
    """A scrape that comes before the daemon has published anything has what was counted."""
    with serving(lambda: None) as server:
        found = values(scrape(server))

    assert "agentwall_log_written_total" not in found
    assert found['agentwall_lost_events_total{where="denials"}'] == 9


def test_sandboxes_beyond_the_limit():
    """So many sandboxes have figures of their own; the others are counted."""
    many = tuple(replace(SANDBOX_FIGURES, id=f"s{n}") for n in range(MAX_SANDBOXES + 5))
    with serving(lambda: replace(SNAPSHOT, sandboxes=many)) as server:
        found = values(scrape(server))

    assert sum(key.startswith("agentwall_sandbox_denied_total") for key in found) == MAX_SANDBOXES
    assert found["agentwall_sandboxes_unlisted"] == 5
    assert found['agentwall_sandboxes{coverage="full",mode="enforce",policy="rl"}'] == 2005


def test_counting_goes_on_while_it_is_read():
    """Scrapes see whole copies while the daemon adds series all the time."""
    counted = figures()
    stop = threading.Event()

    def add() -> None:
        number = 0
        # So many that scrapes of them stay quick, whoever of the two gets more of the processor.
        while not stop.is_set() and number < MOST_ADDED:
            number += 1
            gap = GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where=f"{number}", lost=1)
            counted.count(gap)

    server = MetricsServer("127.0.0.1", 0, counted, lambda: SNAPSHOT)
    writer = threading.Thread(target=add)
    writer.start()
    try:
        texts = [scrape(server) for _ in range(10)]
    finally:
        stop.set()
        writer.join()
        server.close()

    assert all("agentwall_log_written_total" in text for text in texts)


def test_a_slow_client_holds_nobody_up():
    """Whoever connects and says nothing does not keep others from being served."""
    with serving() as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        text = scrape(server)
        for each in idle:
            each.close()

    assert "agentwall_build_info" in text


def test_ipv6():
    """It listens at the address that was given, v6 too."""
    with serving(address="::1") as server:
        assert "agentwall_build_info" in scrape(server, "[::1]")


def test_an_address_in_use():
    """An address that is taken is an error that names it."""
    with serving() as server, pytest.raises(HostError, match=r"metrics at 127\.0\.0\.1 port \d+: "):
        MetricsServer("127.0.0.1", server.port, figures(), lambda: None)
