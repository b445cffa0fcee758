# SPDX-License-Identifier: Apache-2.0
"""A hook that cannot be had is an error, or borne and named; egress is never done without."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.enclosure import Enclosure, parse_policy
from rig.exclusive import exclusively
from rig.lending import lent_wall

from agentwall.errors import KernelError, UnsupportedFeatureError
from agentwall.flow.verdict import Hook, Verdict
from agentwall.kernel import features, pins, plain
from agentwall.kernel.hooks import ENFORCER
from agentwall.kernel.libbpf import AttachType
from agentwall.kernel.wall import Wall

pytestmark = pytest.mark.kernel

SANDBOX = 7
OTHERS = [hook.program for hook in features.HOOKS if hook.program != ENFORCER]
SEND = """
import socket, sys
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    try:
        sock.connect(("::1", 9)) if sys.argv[1] == "connect" else sock.sendto(b"x", ("::1", 9))
    except OSError as error:
        sys.exit(error.errno)
"""


@pytest.fixture
def cgroup():
    """A cgroup of the test's own, with one below it."""
    with temp_cgroup() as outer:
        inner = outer / "inner"
        inner.mkdir()
        yield inner


def send(cgroup: Path, how: str) -> int:
    """Send a datagram to ::1 from inside *cgroup*, or connect() there; return the errno."""
    command = in_cgroup(cgroup, sys.executable, "-c", SEND, how)
    return subprocess.run(command, check=False, timeout=60).returncode


def without(monkeypatch, *programs: str) -> None:
    """Give these programs a hook that the kernel refuses them, whatever it is."""
    changed = [
        replace(hook, attach_type=AttachType.LSM_CGROUP) if hook.program in programs else hook
        for hook in features.HOOKS
    ]
    monkeypatch.setattr(features, "HOOKS", tuple(changed))


def test_refused_link(cgroup):
    """A link that is refused is an error with the hook's name and what to do; no link is left."""
    with exclusively(cgroup.parent, "aw_sendmsg6"), lent_wall() as wall:
        with pytest.raises(KernelError) as caught:
            wall.attach(cgroup, SANDBOX)

        assert str(caught.value).startswith("aw_sendmsg6: attach ")
        assert "bpftool cgroup tree" in str(caught.value)
        assert "on_error: degrade" in str(caught.value)
        assert caught.value.errno == errno.EPERM
        with pytest.raises(KeyError):
            wall.hooks(SANDBOX)


def test_degraded(cgroup):
    """A wall that may degrade stands without the hook, names it, and egress refuses the packet."""
    with exclusively(cgroup.parent, "aw_sendmsg6"), lent_wall(degrade=True) as wall:
        enclosure = Enclosure(wall)
        key = enclosure.enclose(cgroup, parse_policy("loopback: deny\n"))
        seen = send(cgroup, "sendto"), send(cgroup, "connect")
        denied = {event.hook for event in enclosure.events(key) if event.verdict is Verdict.DENY}

        assert list(wall.missing_hooks(key)) == ["aw_sendmsg6"]
        assert "operation not permitted" in wall.missing_hooks(key)["aw_sendmsg6"]
        assert sorted([*wall.hooks(key), "aw_sendmsg6"]) == sorted(
            h.program for h in features.HOOKS
        )
        assert seen == (errno.EPERM, errno.EPERM)
        assert Hook.EGRESS in denied
        assert Hook.SENDMSG6 not in denied


def test_egress_alone(cgroup):
    """With every other hook occupied egress still refuses what the policy does not permit."""
    with exclusively(cgroup.parent, *OTHERS), lent_wall(degrade=True) as wall:
        enclosure = Enclosure(wall)
        key = enclosure.enclose(cgroup, parse_policy("loopback: deny\n"))

        assert list(wall.hooks(key)) == [ENFORCER]
        assert sorted(wall.missing_hooks(key)) == sorted(OTHERS)
        assert send(cgroup, "sendto") == errno.EPERM


@pytest.mark.parametrize("degrade", [False, True])
def test_never_without_egress(cgroup, degrade):
    """Where egress cannot be attached no wall stands, and nothing is said of degrading."""
    with exclusively(cgroup.parent, ENFORCER), lent_wall(degrade=degrade) as wall:
        with pytest.raises(KernelError, match=r"^aw_egress: attach inet_egress: ") as caught:
            wall.attach(cgroup, SANDBOX)

        assert "degrade" not in str(caught.value)


def test_optional_hook(cgroup):
    """A hook that is not required may be missing in every wall, and is named all the same."""
    with exclusively(cgroup.parent, "aw_sock_release"), lent_wall() as wall:
        wall.attach(cgroup, SANDBOX)

        assert list(wall.missing_hooks(SANDBOX)) == ["aw_sock_release"]


def test_nothing_missing(cgroup):
    """A wall that may degrade and need not has every hook."""
    with lent_wall(degrade=True) as wall:
        wall.attach(cgroup, SANDBOX)

        assert wall.missing_hooks(SANDBOX) == {}
        assert set(wall.hooks(SANDBOX)) == {hook.program for hook in features.HOOKS}


def test_pins_of_a_degraded_wall(cgroup, tmp_path):
    """Pins are of the links there are, and detaching removes them."""
    pin_dir = tmp_path / "bpf" / "run-1"
    try:
        with (
            exclusively(cgroup.parent, "aw_sendmsg6"),
            Wall.load(pin_dir=pin_dir, degrade=True) as wall,
        ):
            wall.attach(cgroup, SANDBOX)
            pinned = {path.name for path in (pin_dir / pins.LINKS).iterdir()}
            wall.detach(SANDBOX)
            left = list((pin_dir / pins.LINKS).iterdir())
    finally:
        pins.clear_pins(pin_dir)
        pins.unmount_bpffs(pin_dir.parent)

    expected = {hook.program for hook in features.HOOKS} - {"aw_sendmsg6"}
    assert pinned == {f"{SANDBOX:016x}-{name}" for name in expected}
    assert left == []


def test_kernel_without_the_hook(cgroup, monkeypatch):
    """A program that the kernel does not take is not loaded by a wall that may degrade."""
    without(monkeypatch, "aw_sendmsg4", "aw_ingress")
    with Wall.load(degrade=True) as wall:
        wall.attach(cgroup, SANDBOX)

        assert set(wall.missing_hooks(SANDBOX)) == {"aw_sendmsg4", "aw_ingress"}
        assert "invalid argument" in wall.missing_hooks(SANDBOX)["aw_ingress"]
        assert "aw_ingress" not in {program.name for program in wall.programs()}


@pytest.mark.parametrize(
    ("program", "degrade", "has_hint"),
    [("aw_sendmsg4", False, True), (ENFORCER, False, False), (ENFORCER, True, False)],
)
def test_kernel_without_a_hook_it_needs(monkeypatch, program, degrade, has_hint):
    """Otherwise that is an error that names the program, and says how to start without it."""
    without(monkeypatch, program)

    with pytest.raises(UnsupportedFeatureError, match=f"^{program}: load .* doctor") as caught:
        Wall.load(degrade=degrade)
    assert ("on_error: degrade" in str(caught.value)) is has_hint


def test_kernel_without_reading_inside_tls(cgroup, monkeypatch):
    """A wall stands without aw_plain, whole; only what leads to it is refused, with the reason."""
    monkeypatch.setattr(plain, "why_not", lambda: "operation not permitted")
    with Wall.load() as wall:
        wall.attach(cgroup, SANDBOX)

        assert wall.missing_hooks(SANDBOX) == {}
        with pytest.raises(KernelError, match="aw_plain: this kernel takes no such program"):
            wall.plain.open()
        assert wall.plain.counts().calls == 0
        assert plain.READS not in wall.maps()


@pytest.mark.skipif(plain.why_not() is not None, reason="this kernel does not take aw_plain")
def test_reading_inside_tls():
    """Where the kernel takes it, aw_plain is loaded, reachable, and at no cgroup."""
    with Wall.load() as wall:
        wall.plain.open()

        assert plain.READS in wall.maps()
        assert plain.PROGRAM not in {program.name for program in wall.programs()}
        assert wall.maps()["aw_plain_next"].lookup(bytes(4)) is not None
        assert set(wall.plain.counts().__slots__) == {
            *("calls", "foreign", "doubled", "lost"),
            *("unreadable", "connections", "joined", "octets"),
        }
