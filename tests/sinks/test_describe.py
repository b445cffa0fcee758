# SPDX-License-Identifier: Apache-2.0
"""The words for flows, processes and numbers."""

from __future__ import annotations

import pytest
from rig.records import CURL, DENIED, START_NS, endpoint, process

from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.sinks import describe


@pytest.mark.parametrize(
    ("direction", "protocol", "remote", "port", "socket_type", "words"),
    [
        (Direction.OUT, 6, endpoint("203.0.113.7", 443), 443, 1, "tcp 203.0.113.7:443"),
        (Direction.OUT, 17, endpoint("2001:db8::1", 53), 53, 2, "udp [2001:db8::1]:53"),
        (Direction.OUT, 1, endpoint("203.0.113.7", 0), 0, 3, "icmp 203.0.113.7"),
        (Direction.OUT, 132, endpoint("203.0.113.7", 9), 9, 1, "ip/132 203.0.113.7:9"),
        (Direction.OUT, 47, endpoint("203.0.113.7", 0), 0, 0, "ip/47 203.0.113.7"),
        (
            Direction.IN,
            6,
            endpoint("203.0.113.7", 50000),
            8888,
            1,
            "tcp from 203.0.113.7 to port 8888",
        ),
        (Direction.IN, 1, endpoint("203.0.113.7", 0), 0, 0, "icmp from 203.0.113.7"),
        (Direction.IN, 6, endpoint("203.0.113.7", 50000), 0, 0, "tcp from 203.0.113.7"),
        (Direction.OUT, 1, None, 0, 3, "raw socket (icmp)"),
        (Direction.OUT, 255, None, 0, 9, "type 9 socket (ip/255)"),
        (Direction.OUT, 132, None, 0, 0, "a socket (ip/132)"),
    ],
)
def test_flows(direction, protocol, remote, port, socket_type, words):
    """What was tried and where to reads the same in every report."""
    assert describe.describe_flow(direction, protocol, remote, port, socket_type) == words


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (CURL, "curl[4242]"),
        (None, "unknown process"),
        (process("", 0), "unknown process"),
        (process("", 7), "(no name)[7]"),
        (process("\x1b]0;x\a", 7), "\\x1b]0;x\\x07[7]"),
        (process("x" * 100, 7), "x" * 57 + "...[7]"),
    ],
)
def test_processes(found, words):
    """A process is its name and pid; neither acts on a terminal."""
    assert describe.describe_process(found) == words


@pytest.mark.parametrize(
    ("hook", "errno", "words"),
    [
        (Hook.CONNECT6, 1, "connect, EPERM"),
        (Hook.SENDMSG4, 111, "sendmsg, ECONNREFUSED"),
        (Hook.EGRESS, None, "outgoing packet"),
        (Hook.SOCK_CREATE, 4000, "socket, errno 4000"),
    ],
)
def test_hooks(hook, errno, words):
    """Where it fell is said with the errno that the application got."""
    assert describe.describe_hook(hook, errno) == words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (DENIED, "rl-rollout:deny[0] at policies/rl-rollout.yaml:21"),
        (Reason(code=ReasonCode.NO_RULE), "no rule allows it"),
        (Reason(code=ReasonCode.RULE, rule="p:allow[0]"), "p:allow[0]"),
        (
            Reason(code=ReasonCode.TRANSLATED, rule="p:deny[0]", file="p\n.yaml", line=3),
            "the destination was rewritten after connect: p:deny[0] at p\\x0a.yaml:3",
        ),
    ],
)
def test_reasons(reason, words):
    """A reason names the rule and its place, or says why in words."""
    assert describe.describe_reason(reason) == words


@pytest.mark.parametrize("code", ReasonCode)
def test_every_reason_has_words(code):
    """No reason of the kernel is without words."""
    assert describe.describe_reason(Reason(code=code))


@pytest.mark.parametrize("hook", Hook)
def test_every_hook_has_words(hook):
    """No hook of the kernel is without words."""
    assert describe.describe_hook(hook, None)


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_words(verdict):
    """No verdict is without words."""
    assert describe.describe_verdict(verdict)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        *((None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1500, "1.5 kB")),
        *((99_949, "99.9 kB"), (123_456, "123 kB"), (999_500, "1.0 MB"), (10**12, "1.0 TB")),
        (2**64, "18446744 TB"),
    ],
)
def test_sizes(size, words):
    """Sizes have a unit and about three digits."""
    assert describe.describe_bytes(size) == words


@pytest.mark.parametrize(
    ("duration_ns", "words"),
    [
        *((None, "-"), (0, "0 ms"), (250_000_000, "250 ms"), (10**9, "1 s")),
        *((61_500_000_000, "61.5 s"), (3600 * 10**9, "60 min"), (7500 * 10**9, "2 h 05 min")),
    ],
)
def test_durations(duration_ns, words):
    """Durations read as people say them."""
    assert describe.describe_duration(duration_ns) == words


@pytest.mark.parametrize(
    ("width_ns", "words"),
    [(10**9, "14:13:20"), (10**7, "14:13:20.123"), (86_400 * 10**9, "2026-09-21")],
)
def test_clocks(width_ns, words):
    """A step of the timeline is named as exactly as its width needs."""
    assert describe.describe_clock(START_NS, width_ns) == words


def test_moments_and_counts():
    """Moments are UTC to the second; a noun follows its number."""
    assert describe.describe_moment(START_NS) == "2026-09-21 14:13:20"
    assert describe.describe_count(1, "denial") == "1 denial"
    assert describe.describe_count(2, "entry", "entries") == "2 entries"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        *((0, "exit code 0"), (1, "exit code 1"), (137, "SIGKILL (exit code 137)")),
        *((200, "exit code 200"), (160, "exit code 160")),
    ],
)
def test_exits(code, words):
    """A code that stands for a signal is told with its name."""
    assert describe.describe_exit(code) == words


def test_losses():
    """Each place of loss is told in words, an unknown one escaped."""
    assert describe.describe_loss("flows").startswith("reports of permitted flows")
    assert describe.describe_loss("\x1bx") == "events at \\x1bx"
