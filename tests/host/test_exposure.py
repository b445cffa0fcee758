# SPDX-License-Identifier: Apache-2.0
"""Facts about what of the host a command could reach."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from rig.namespace import temp_netns
from rig.tree import ROOT

from agentwall.host.deputies import Deputy
from agentwall.host.descriptors import Inherited
from agentwall.host.exposure import (
    Arrangement,
    collect_facts,
    has_own_netns,
    has_vsock,
    reachable_sockets,
)
from agentwall.host.identity import Identity, resolve_identity
from agentwall.host.seccomp import knows_machine

STRANGER = Identity(uid=54321, gid=54321, groups=(), environment={})
ROOT_USER = Identity(uid=0, gid=0, groups=(), environment={})


@pytest.fixture
def served(public_path):
    """A unix socket that is listened on, in a directory that all may enter."""
    path = public_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path


@pytest.mark.parametrize("prefix", ["", "unix://", "unix:path="])
def test_socket_named_by_environment(served, prefix):
    """A socket that a variable names is found, whatever way it is written."""
    served.chmod(0o666)

    found = reachable_sockets(STRANGER, {"DOCKER_HOST": f"{prefix}{served}"})

    assert str(served) in found


@pytest.mark.parametrize(
    ("mode", "identity", "is_found"),
    [
        (0o600, STRANGER, False),
        (0o660, STRANGER, False),
        (0o666, STRANGER, True),
        (0o600, ROOT_USER, True),
    ],
)
def test_socket_modes(served, mode, identity, is_found):
    """A socket counts if file modes let the command's user write to it."""
    served.chmod(mode)

    found = reachable_sockets(identity, {"SSH_AUTH_SOCK": str(served)})

    assert (str(served) in found) is is_found


def test_socket_by_group(served):
    """A supplementary group counts, as docker's does."""
    served.chmod(0o660)
    member = Identity(uid=54321, gid=54321, groups=(served.stat().st_gid,), environment={})

    assert str(served) in reachable_sockets(member, {"SSH_AUTH_SOCK": str(served)})


def test_stale_socket(tmp_path):
    """A socket's file that nobody listens on leads nowhere."""
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))

    assert str(path) not in reachable_sockets(ROOT_USER, {"SSH_AUTH_SOCK": str(path)})


@pytest.mark.kernel
def test_own_netns():
    """A network namespace that is not the host's is told from it."""
    code = "from agentwall.host.exposure import has_own_netns; print(has_own_netns())"
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", code]
    with temp_netns("exposure") as namespace:
        inside = namespace.run(*command).stdout

    outside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (inside, outside) == ("True\n", f"{has_own_netns()}\n")


def test_vsock():
    """A machine whose AF_VSOCK has an address of its own is connected by it."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
            can_make = True
    except OSError:
        can_make = False

    assert not has_vsock() or can_make


def test_facts():
    """What the caller arranged is among the facts; only descriptors that lead out are."""
    facts = collect_facts(
        Arrangement(
            identity=resolve_identity(None, {}),
            kept_capabilities=("NET_RAW",),
            families=frozenset({1, 2}),
            inherited=(Inherited(0, "pipe", False), Inherited(5, "inet socket", True)),
            missing_hooks=("aw_egress",),
            environment=os.environ,
        )
    )

    assert facts.kept_descriptors == ("5 (inet socket)",)
    assert facts.kept_capabilities == ("NET_RAW",)
    assert facts.missing_hooks == ("aw_egress",)
    assert facts.filters_families is knows_machine(platform.machine())


@pytest.mark.parametrize(
    ("machine", "families", "filters"),
    [
        ("x86_64", frozenset({1}), True),
        ("aarch64", frozenset({1}), True),
        ("x86_64", None, False),
        ("riscv64", frozenset({1}), False),
    ],
)
def test_families(monkeypatch, machine, families, filters):
    """Families count as closed where a list is asked for and the machine's filter is known."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    facts = collect_facts(
        Arrangement(
            identity=resolve_identity(None, {}),
            kept_capabilities=(),
            families=families,
            inherited=(Inherited(0, "terminal", False),),
            missing_hooks=(),
            environment={},
        )
    )

    assert facts.filters_families is filters
    assert facts.can_type_for_others is (machine == "riscv64")


def test_deputies(served, monkeypatch):
    """A socket that run leaves out is no road, unless it is kept; then it is named as that."""
    deputy = Deputy(name="nscd", socket=str(served), mask=str(served), base=str(served.parent))
    monkeypatch.setattr("agentwall.host.exposure.deputies_for", lambda _uid: (deputy,))
    arrangement = Arrangement(
        identity=ROOT_USER,
        kept_capabilities=(),
        families=None,
        inherited=(),
        missing_hooks=(),
        environment={"DBUS_SESSION_BUS_ADDRESS": f"unix:path={served}"},
        loopback_resolvers=("127.0.0.53",),
    )

    masked = collect_facts(arrangement)
    kept = collect_facts(replace(arrangement, kept_sockets=(str(served),)))

    assert str(served) not in (*masked.host_sockets, *kept.host_sockets)
    assert (masked.kept_deputies, kept.kept_deputies) == ((), (f"{served} (nscd)",))
    assert masked.loopback_resolvers == ("127.0.0.53",)
