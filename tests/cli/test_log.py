# SPDX-License-Identifier: Apache-2.0
"""``agentwall log``: what is there, what comes, through rotations."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rig.cli import agentwall, environment
from rig.daemon_log import CONTAINER, RUN, WEB, write_daemon_log
from rig.invoking import invoke
from rig.records import flow, write_log
from rig.tls_records import STATIC, tls

from agentwall.sinks.rotating import RotatingLog


def shown(path, *words: str) -> list[dict]:
    done = invoke("log", "--format", "json", "--file", path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_of_it(tmp_path):
    """Rotated files come first; as JSON each line is as it is in the file."""
    path = write_daemon_log(tmp_path)
    done = invoke("log", "--format", "json", "--file", path)
    files = sorted(tmp_path.glob("events.jsonl*"), key=lambda each: each.suffix, reverse=True)
    files = [*(each for each in files if each.suffix != ".jsonl"), path]

    assert len(files) > 2
    assert done.stdout == "".join(each.read_text(encoding="ascii") for each in files)


def test_for_people(tmp_path):
    """A line says when, where, under which labels, what and the event's id; nothing acts."""
    path = write_daemon_log(tmp_path)
    done = invoke("log", "--file", path, "--verdict", "deny")
    lines = done.stdout.splitlines()

    assert "\x1b" not in done.stdout
    (line,) = [each for each in lines if "10.20.0.9:8000" in each]
    assert line == (
        r"2026-09-21 14:14:06.123 docker-3f2ab1c9 [run=r9 episode=41 step=7 team=x\x1b[31m]"
        " denied tcp 10.20.0.9:8000 (connect, EPERM) by ssh[5100]:"
        f" rl-rollout:deny[0] at {tmp_path}/rl-rollout.yaml:7;"
        f" no allow can undo it: denied by rl-rollout:deny[0] ({RUN}-54)"
    )


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (("--kind", "gap"), 1),
        (("--kind", "detection"), 1),
        (("--verdict", "would-deny"), 0),
        (("--label", "episode=41", "--kind", "detection"), 1),
        (("--label", "episode=42"), 0),
        (("--sandbox", "host", "--kind", "gap"), 0),
        (("--sandbox", CONTAINER[:8], "--kind", "gap"), 1),
        (("--sandbox", "web", "--kind", "gap"), 1),
        (("--sandbox", "/system.slice", "--kind", "gap"), 1),
        (("--since", "2026-09-21T14:14:12Z", "--kind", "gap"), 1),
        (("--since", "2026-09-21T14:14:13Z", "--kind", "gap"), 0),
        (("-n", "3"), 3),
        (("-n", "0"), 0),
    ],
)
def test_choices(tmp_path, words, number):
    """Conditions all have to hold; -n counts what is left."""
    assert len(shown(write_daemon_log(tmp_path), *words)) == number


@contextmanager
def following(path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        agentwall("log", "-f", "--format", "json", "--file", path, *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=300)


def test_following_through_rotations(tmp_path):
    """What comes is shown in order, none twice and none missing, however often files rotate."""
    path = tmp_path / "events.jsonl"
    log = RotatingLog(path, "d1", max_bytes=5000, keep=50)
    for number in range(5):
        log.write(flow(errno=number + 1))
    log.flush()
    seen = []
    with following(path, "--kind", "flow") as process:
        for number in range(5, 60):
            log.write(flow(errno=number + 1))
            log.flush()
            if number % 20 == 19:
                time.sleep(0.3)
        log.close()
        while len(seen) < 60:
            seen.append(json.loads(process.stdout.readline())["errno"])

    assert log.rotated > 5
    assert seen == list(range(1, 61))


def test_following_the_last_lines(tmp_path):
    """-n with -f shows the last so many and then what comes."""
    path = tmp_path / "events.jsonl"
    log = RotatingLog(path, "d1", max_bytes=1 << 20, keep=1)
    for number in range(9):
        log.write(flow(errno=number + 1))
    log.flush()
    with following(path, "-n", "2") as process:
        seen = [json.loads(process.stdout.readline())["errno"] for _ in range(2)]
        log.write(flow(errno=10))
        log.close()
        seen.append(json.loads(process.stdout.readline())["errno"])

    assert seen == [8, 9, 10]


def test_no_log(tmp_path):
    """Without a file the error says what may be meant instead."""
    done = invoke("log", "--file", tmp_path / "none.jsonl")

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/none.jsonl: no such file: no daemon has written a log" in done.stderr


def test_a_reader_that_leaves(tmp_path):
    """A pipe that is closed ends it without a word."""
    path = write_daemon_log(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        agentwall("log", "--file", path),
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=300,
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_damage_is_told(tmp_path):
    """A line that is no event is named, and the others are shown."""
    path = write_daemon_log(tmp_path)
    with path.open("ab") as file:
        file.write(b"not JSON\n")
    done = invoke("log", "--file", path, "-n", "1")

    assert done.returncode == 0
    assert "not JSON" in done.stderr
    assert WEB.id in done.stdout


def test_a_label_without_a_value(tmp_path):
    """A label is given as KEY=VALUE."""
    done = invoke("log", "--file", tmp_path, "--label", "episode")

    assert done.returncode == 2
    assert "expected KEY=VALUE, got 'episode'" in done.stderr


def test_unknown_schemas_are_passed_over(tmp_path):
    """What another version wrote is no flaw."""
    path = write_daemon_log(tmp_path, max_bytes=1 << 20)
    before = len(shown(path))
    with path.open("ab") as file:
        file.write(b'{"schema":"agentwall.event/9"}\n')

    assert len(shown(path)) == before


def test_tls_sessions(tmp_path):
    """They are a kind of their own, in words that say whether they were read."""
    path = write_log(tmp_path / "e.jsonl", [flow(), tls(), tls(STATIC)])
    done = invoke("log", "--file", path, "--kind", "tls")

    assert [line.rpartition(": ")[2].split(" (")[0] for line in done.stdout.splitlines()] == [
        "read",
        "its TLS has no names to probe",
    ]
    assert len(shown(path, "--kind", "tls")) == 2
