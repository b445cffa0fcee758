# SPDX-License-Identifier: Apache-2.0
"""Requests and enclosures of tests that run a command behind a real wall."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from rig.cgroup import temp_cgroup
from rig.daemon import daemon_ground
from rig.keeping import SMALL, spelled, walled

from agentwall.daemon.enclosure import Enclosure
from agentwall.daemon.inside_state import TlsUse
from agentwall.daemon.plan import RunRequest, new_run_id, plan_enclosure
from agentwall.host.identity import resolve_identity
from agentwall.policy.load import load_policy
from agentwall.sinks.console import Console

HOOK = """#!/bin/sh
cat >> "$0.told"
"""


@pytest.fixture
def make_request(tmp_path) -> Callable[..., RunRequest]:
    """A function that returns the request to run a shell script under a policy's text.

    Inside TLS nothing is read unless it is asked for: each run would load its probes.
    """

    def make(script: str = "true", policy: str = "version: 1\n", **changes: object) -> RunRequest:
        path = tmp_path / "train.yaml"
        path.write_text(policy)
        values = {
            "argv": ("/bin/sh", "-c", script),
            "environment": dict(os.environ),
            "policy": load_policy(path),
            "mode": None,
            "identity": resolve_identity(None, {}),
            "labels": {"role": "test"},
            "kept_capabilities": (),
            "inherited": (),
            "events": str(tmp_path / "events.jsonl"),
            "report": None,
            "requires_full": False,
            "tls": TlsUse.OFF,
        }
        return RunRequest(**{**values, **changes})

    return make


@pytest.fixture
def console() -> Console:
    """A console that writes into memory."""
    return Console(io.StringIO())


@pytest.fixture
def make_enclosure(make_request, tmp_path):
    """A function that builds an enclosure for a request; all are removed at the end."""
    made = []

    def make(request: RunRequest | None = None) -> Enclosure:
        request = request or make_request()
        blueprint = plan_enclosure(new_run_id(), request, tmp_path / "events.jsonl")
        made.append(Enclosure(blueprint))
        return made[-1]

    yield make
    for enclosure in made:
        if enclosure.cgroup.directory.exists():
            enclosure.remove()


@pytest.fixture
def listener():
    """A TCP listener on loopback, outside every sandbox."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


@pytest.fixture(scope="session")
def shared_scope():
    """The cgroup of a shared scope of :func:`house`."""
    with temp_cgroup("shared") as made:
        yield made


@pytest.fixture(scope="session")
def house(tmp_path_factory, shared_scope):
    """One daemon for many tests: who changes its files puts them back, and reloads."""
    with daemon_ground(tmp_path_factory.mktemp("house")) as daemon:
        own = daemon.scope_path
        hook = daemon.directory / "hook"
        hook.write_text(HOOK)
        hook.chmod(0o755)
        local = "allow: [{cidr: 127.0.0.1, ports: [any]}]\n"
        daemon.policy("web", f"{local}match: [{{cgroup: {own}/web-*}}]\n")
        daemon.policy("claimed", f"{local}match: [{{labels: {{role: web}}}}]\n")
        daemon.policy(
            "pool",
            f"match: [{{cgroup: {own}/pool-*}}]\nphases: {{setup: {{}}, agent: {{mode: audit}}}}\n",
        )
        for response in ("kill", "freeze"):
            daemon.policy(
                f"mine-{response}",
                f"{local}detect: {{mining: {response}}}\nmatch: [{{cgroup: {own}/{response}-*}}]\n",
            )
        daemon.configure(
            f"  - {{cgroup: {spelled(shared_scope)}, kind: shared, include: [/**/box-*]}}\n"
            f"response: {{command: [{hook}], snapshots: {daemon.directory}/snapshots}}\n"
        )
        daemon.start()
        yield daemon


@pytest.fixture(scope="session")
def small_wall(tmp_path_factory):
    """One wall for many tests, with room for 1024 prefixes; nothing is pinned."""
    with walled(tmp_path_factory.mktemp("walled"), replace(SMALL, prefixes=1024)) as ground:
        yield ground
