# SPDX-License-Identifier: Apache-2.0
"""Sandboxes of the host layer alone: cgroup, namespaces and privileges, but no BPF program."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from rig.scratch import scratch

from agentwall.host import argv
from agentwall.host.cgroup import choose_place
from agentwall.host.identity import resolve_identity
from agentwall.host.launch import prepare
from agentwall.host.namespaces import Confinement
from agentwall.host.signals import SignalQueue
from agentwall.host.veil import Veil
from agentwall.host.warden import Launch

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Who reads arguments waits until it has them: nobody holds them but where a test has it so.

    On a machine that is busy with other tests the time it has else is over before its turn comes.
    """
    monkeypatch.setattr(argv, "_LOOKS", round(60 / argv._LOOK_S))
    monkeypatch.setattr(argv, "_OWN_S", 60.0)
    monkeypatch.setattr(argv, "_ALL_S", 60.0)


def _name() -> str:
    return f"agentwall-test-{os.getpid()}-host-{next(_numbers)}"


@pytest.fixture
def own_cgroup():
    """An empty cgroup of the test's own, removed at the end with what still runs in it."""
    # One may be there still of a process that had this one's id, and was killed.
    while (place := choose_place(_name())).directory.exists():
        pass
    made = place.make()
    yield made
    if made.directory.exists():
        made.kill(60)
        made.remove()


@pytest.fixture
def signals():
    """The signals agentwall passes on, blocked for the length of the test."""
    queue = SignalQueue()
    yield queue
    queue.close()


@pytest.fixture
def make_launch():
    """A function that returns the launch of a shell script; it hides and guards nothing extra."""

    def make(
        script: str,
        *,
        user: str | None = None,
        hidden: tuple[Path, ...] = (),
        read_only: tuple[Path, ...] = (),
        capabilities: tuple[str, ...] = (),
        families: frozenset[int] | None = None,
        argv: tuple[str, ...] | None = None,
        veils: tuple[Veil, ...] = (),
        files: Mapping[Path, str] | None = None,
    ) -> Launch:
        identity = resolve_identity(user, {})
        return Launch(
            argv=argv or ("/bin/sh", "-c", script),
            environment=dict(os.environ),
            identity=identity,
            confinement=Confinement(
                hidden=hidden,
                read_only=read_only,
                guards_kernel=identity.uid == 0,
                veils=veils,
                files=files or {},
            ),
            kept_capabilities=capabilities,
            families=families,
            kept_descriptors=(0, 1, 2),
        )

    return make


@pytest.fixture
def public_path():
    """A directory that every user may enter, unlike pytest's own."""
    with scratch("host") as directory:
        yield directory


@pytest.fixture
def run_inside(own_cgroup, signals, make_launch, public_path):
    """A function that runs a shell script in a sandbox; returns its exit code and its output."""

    def run(script: str, **options: object) -> tuple[int, str]:
        output = public_path / f"output-{next(_numbers)}"
        output.touch()
        output.chmod(0o666)
        launch = make_launch(f"exec >{output} 2>&1\n{script}", **options)
        sandboxed = prepare(launch, own_cgroup, signals)
        try:
            sandboxed.start()
            while sandboxed.exit_code is None:
                sandboxed.read()
        finally:
            sandboxed.end()
        return sandboxed.exit_code, output.read_text()

    return run
