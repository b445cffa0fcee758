# SPDX-License-Identifier: Apache-2.0
"""What ``run`` says on stderr."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import pytest
from rig.records import (
    DENIED,
    ICMP,
    SANDBOX,
    asked,
    detection,
    endpoint,
    flow,
    permitted,
    process,
    rome_day,
    state,
    totals,
)
from rig.tls_records import OFF, READ, STATIC, tls

from agentwall.flow.record import GapRecord, Question
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.sinks.console import MAX_LINES, Console, denial_line


def said(*records, quiet=False):
    stream = io.StringIO()
    console = Console(stream, quiet=quiet)
    for record in records:
        console.write(record)
    return console, stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            flow(),
            "denied tcp 203.0.113.7:443 (connect, EPERM) by curl[4242]: no rule allows it; "
            "to permit, under allow: - {cidr: 203.0.113.7, ports: [443]}",
        ),
        (
            flow(verdict=Verdict.WOULD_DENY, errno=None, name="a.example"),
            "would be denied tcp a.example:443 (203.0.113.7) (connect) by curl[4242]: "
            "no rule allows it; to permit, under allow: - {host: a.example}",
        ),
        (
            asked("evil.example.net", 1),
            "denied DNS question for evil.example.net (A) to 10.20.0.2 (outgoing packet) by "
            "curl[4242]: no rule permits the name; to permit, under allow: "
            "- {host: evil.example.net}",
        ),
        (
            asked("a\x1b[2J\n.example", 16),
            "denied DNS question for a\\x1b[2J\\x0a.example (TXT) to 10.20.0.2 (outgoing packet) "
            "by curl[4242]: no rule permits the name; no rule can name that",
        ),
        (
            flow(remote=endpoint("10.20.0.9", 22), reason=DENIED),
            "denied tcp 10.20.0.9:22 (connect, EPERM) by curl[4242]: rl-rollout:deny[0] at "
            "policies/rl-rollout.yaml:21; no allow can undo it: denied by rl-rollout:deny[0]",
        ),
        (
            flow(
                remote=None,
                protocol=ICMP,
                socket_type=3,
                hook=Hook.SOCK_CREATE,
                reason=Reason(code=ReasonCode.SOCKET_TYPE),
                process=process("p\x1b[2J\n", 7),
            ),
            "denied raw socket (icmp) (socket, EPERM) by p\\x1b[2J\\x0a[7]: the policy does not "
            "name this kind of socket; to permit, under allow: a rule with ports: [icmp] "
            "(raw sockets never)",
        ),
        (
            flow(
                direction=Direction.IN,
                local=endpoint("10.0.0.2", 80),
                remote=endpoint("10.0.0.1", 5),
                hook=Hook.INGRESS,
                errno=None,
                process=None,
            ),
            "denied tcp from 10.0.0.1 to port 80 (incoming packet) by unknown process: "
            "no rule allows it; to permit, under inbound: - {cidr: 10.0.0.1, ports: [80]}",
        ),
    ],
)
def test_a_denial_is_one_line(record, line):
    """What, who, where to, which rule where, and what would permit it."""
    assert denial_line(record) == line
    assert said(record)[1] == [f"agentwall: {line}"]


def test_equal_denials_are_said_once():
    """The same program at the same destination for the same reason is one line and a count."""
    again = flow(process=process("curl", 4300), hook=Hook.EGRESS)
    other = flow(remote=endpoint("203.0.113.8", 443))

    console, lines = said(flow(), again, other, flow())

    assert len(lines) == 2
    assert console.summary_lines()[0].startswith("4 denied (2 distinct), ")


def test_both_kinds_of_address_are_one_question():
    """A resolver asks for A and AAAA at a time; another type is another denial."""
    _, lines = said(asked("a.example", 1), asked("a.example", 28), asked("a.example", 16))

    assert len(lines) == 2


def test_a_name_is_one_destination():
    """Denials at several addresses of one name are said once, by the name."""
    others = [flow(remote=endpoint(f"203.0.113.{n}", 443), name="a.example") for n in (7, 8, 9)]

    console, lines = said(*others)

    assert len(lines) == 1
    assert console.summary_lines()[0].startswith("3 denied (1 distinct), ")


def test_addresses_that_were_not_learned():
    """They are no lost events, and say so."""
    gap = GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="names", lost=3)

    console, lines = said(gap, gap)

    assert (lines, console.lost) == ([], 0)
    assert console.summary_lines()[1:] == ["names: 6 addresses not learned"]


@pytest.mark.parametrize("code", ReasonCode)
def test_every_reason_has_words(code):
    """Whatever the reason, with a name, with a question and with neither, there is a line."""
    reason = Reason(code=code)
    question = Question(name="said.example", type=None)
    plain = denial_line(flow(reason=reason))
    named = denial_line(flow(reason=reason, name="a.example"))
    told = denial_line(flow(reason=reason, name="a.example", question=question))

    assert "203.0.113.7:443" in plain
    assert "tcp a.example:443 (203.0.113.7)" in named
    assert "said.example" in told


def test_what_is_permitted_is_only_counted():
    """Permitted flows make no line; their sockets and bytes stand in the summary."""
    sight = permitted()

    console, lines = said(sight, totals(sight, out=1500, back=20_000, sockets=3))

    assert lines == []
    assert console.summary_lines() == ["0 denied, 3 flows permitted, 1.5 kB out, 20.0 kB in"]


def test_the_summary_of_a_day():
    """Sums, losses, and the caller's notes, a line each."""
    console, before = said(*rome_day(Verdict.WOULD_DENY))
    stream = io.StringIO()
    console._stream = stream

    console.summary(["coverage full", "events in \x1b"])

    assert len(before) == 38
    assert stream.getvalue().splitlines() == [
        "agentwall: 51 would be denied (38 distinct), 6 flows permitted, 48.2 kB out, 9.8 MB in",
        "agentwall: 2 events lost",
        "agentwall: coverage full",
        "agentwall: events in \\x1b",
    ]


def test_a_scan_does_not_fill_the_terminal():
    """After so many lines one says that more follow; the counts go on."""
    records = [flow(remote=endpoint("203.0.113.7", port)) for port in range(1, MAX_LINES + 50)]

    console, lines = said(*records)

    assert len(lines) == MAX_LINES + 1
    assert lines[-1].startswith("agentwall: more denials follow")
    assert console.distinct == console.denied == MAX_LINES + 49


def test_more_distinct_denials_than_are_told_apart(monkeypatch):
    """Where memory ends the count of distinct denials says that there were more."""
    monkeypatch.setattr("agentwall.sinks.console.MAX_DISTINCT", 2)
    console, _ = said(*(flow(remote=endpoint("203.0.113.7", port)) for port in (1, 2, 3)))

    assert console.summary_lines()[0].startswith("3 denied (2+ distinct), ")


def test_quiet_says_nothing():
    """With quiet not even the summary is printed, and counts are kept."""
    console, lines = said(flow(), quiet=True)
    console.summary(["note"])

    assert lines == []
    assert console.denied == 1


def test_a_damaged_wall_is_said():
    """Damage to the wall is a line of its own."""
    assert said(state("damaged", {"what": "egress is detached"}))[1] == [
        "agentwall: the wall is damaged: egress is detached"
    ]


def test_a_closed_terminal_is_survived():
    """When nobody reads stderr any more, writing stops and nothing raises."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", closefd=False) as stream:
        console = Console(stream)
        for _ in range(3):
            console.write(flow(remote=endpoint("203.0.113.9", 1)))
        console.summary()
        console.close()
        # The stream must not try again when it is collected.
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)

    assert console.denied == 3


def test_a_closed_stream_is_survived():
    """A stream that was closed is as good as none."""
    stream = io.StringIO()
    console = Console(stream)
    stream.close()
    console.write(flow())

    assert console.denied == 1


def test_a_detection_has_a_line_and_a_sum():
    """Equal detections are printed once; the sums say how often, and how often it was cut off."""
    stream = io.StringIO()
    console = Console(stream)
    for record in (detection(), detection(bytes_left=9), detection(verdict=Verdict.ALLOW)):
        console.write(record)
    console.summary()
    lines = stream.getvalue().splitlines()

    assert [line.startswith("agentwall: detected mining (stratum-v1) in ") for line in lines] == [
        *(True, True),
        *(False, False),
    ]
    assert lines[2].startswith("agentwall: 0 denied, ")
    assert lines[3] == "agentwall: detected: mining (stratum-v1) 3 times, 2 cut off"


def test_packets_that_no_decoder_saw():
    """They are no lost events, and say so."""
    console = Console(io.StringIO())
    console.write(GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="excerpts", lost=3))

    assert console.lost == 0
    assert "decoders: 3 packets not seen" in console.summary_lines()


def test_tls_that_is_not_read():
    """A program has one line, however many sessions and processes there are; sums at the end."""
    console, lines = said(
        tls(STATIC), tls(STATIC, process=process("curl", 9), count=5), tls(count=4)
    )

    assert lines == [
        "agentwall: TLS to hub.example at 198.51.100.10:443 by curl[4242]:"
        " not read: static binary: its TLS has no names to probe"
    ]
    assert console.summary_lines()[1:] == ["inside TLS: 4 of 10 sessions read"]


def test_tls_that_is_read_in_part():
    """A session beside the library that is read is told of too."""
    _, lines = said(tls(), tls(READ, is_joined=False))

    assert len(lines) == 1
    assert "this session is none of it" in lines[0]


def test_tls_where_nothing_is_read():
    """That probes are off was said once; it is not said of each program."""
    console, lines = said(tls(OFF), tls(None))

    assert lines == []
    assert len(console.summary_lines()) == 1


def test_what_was_found_inside_tls_is_a_kind_of_its_own():
    """The sums tell it apart from what was found in clear."""
    inside = replace(detection().finding, evidence={"inside": "tls"})
    console, lines = said(detection(), detection(inside))

    assert "inside TLS" in lines[1]
    assert console.summary_lines()[1] == (
        "detected: mining (stratum-v1) 1 time, 1 cut off,"
        " mining (stratum-v1) inside TLS 1 time, 1 cut off"
    )
