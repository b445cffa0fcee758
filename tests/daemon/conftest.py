# SPDX-License-Identifier: Apache-2.0
"""Requests and enclosures of tests that run a command behind a real wall."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable

import pytest

from agentwall.daemon.enclosure import Enclosure
from agentwall.daemon.plan import RunRequest, new_run_id, plan_enclosure
from agentwall.host.identity import resolve_identity
from agentwall.policy.load import load_policy
from agentwall.sinks.console import Console


@pytest.fixture
def make_request(tmp_path) -> Callable[..., RunRequest]:
    """A function that returns the request to run a shell script under a policy's text."""

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
        server.settimeout(5)
        yield server
