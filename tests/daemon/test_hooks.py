# SPDX-License-Identifier: Apache-2.0
"""The operator's command: what it gets, and that nothing waits for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rig.process import wait_until
from rig.records import MINING, detection

from agentwall.daemon.hooks import MAX_RUNNING, Hooks, event_document
from agentwall.flow.finding import Finding


@pytest.fixture
def make_hooks():
    """A function that returns hooks for a shell script; what runs is ended."""
    made = []

    def make(script: str, timeout_s: float = 10.0) -> Hooks:
        made.append(Hooks(("/bin/sh", "-c", script), timeout_s))
        return made[-1]

    yield make
    for hooks in made:
        hooks.close()


def _reap(hooks: Hooks) -> None:
    def none_left() -> bool:
        hooks.poll(0)
        return not hooks.running

    wait_until(none_left, what="the command")


def test_what_it_gets(make_hooks, tmp_path: Path, monkeypatch):
    """The event is its standard input, and no variable of ours is its."""
    monkeypatch.setenv("SECRET", "x")
    hooks = make_hooks(f"cat >{tmp_path}/event; env >{tmp_path}/env; pwd >{tmp_path}/pwd")

    assert hooks.start(detection(), "run-1-7", 0) is None
    _reap(hooks)
    document = json.loads((tmp_path / "event").read_bytes())
    assert (document["schema"], document["kind"], document["id"]) == (
        "agentwall.event/1",
        "detection",
        "run-1-7",
    )
    assert document["class"] == "mining"
    assert "prev" not in document
    assert "SECRET" not in (tmp_path / "env").read_text()
    assert (tmp_path / "pwd").read_text() == "/\n"


def test_hostile_text_stays_within_the_document():
    """Whatever a sandbox said is one line of ASCII, and no id is made up."""
    evidence = {"excerpt": "a\n{\x1b[31m\u202e\udc80"}
    finding = Finding(
        **{
            each: evidence if each == "evidence" else getattr(MINING, each)
            for each in MINING.__dataclass_fields__
        }
    )
    raw = event_document(detection(finding))

    assert raw.isascii()
    assert raw.count(b"\n") == 1
    assert "id" not in json.loads(raw)


def test_nothing_waits(make_hooks, tmp_path: Path):
    """A command that neither reads nor ends holds nobody up, however large the event is."""
    finding = Finding(
        **{
            each: {"excerpt": "x" * 300_000} if each == "evidence" else getattr(MINING, each)
            for each in MINING.__dataclass_fields__
        }
    )
    hooks = make_hooks(f"sleep 600; touch {tmp_path}/late", timeout_s=1.0)

    assert hooks.start(detection(finding), None, 0) is None
    hooks.poll(0.9)
    assert hooks.running == 1
    hooks.poll(1.0)
    assert hooks.running == 0
    assert not (tmp_path / "late").exists()


def test_its_children_end_with_it(make_hooks, tmp_path: Path):
    """What the command has started is ended with it when its time is over."""
    hooks = make_hooks(f"sleep 600 & echo $! >{tmp_path}/pid; wait", timeout_s=1.0)
    hooks.start(detection(), None, 0)
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), what="the child")
    hooks.poll(1.0)
    child = Path("/proc", pid.read_text().strip())

    def is_over() -> bool:
        try:
            return "State:\tZ" in (child / "status").read_text()
        except OSError:
            return True

    wait_until(is_over, what="the end of the child")


def test_bound(make_hooks):
    """So many run at a time, and no more."""
    hooks = make_hooks("sleep 600")
    told = [hooks.start(detection(), None, 0) for _ in range(MAX_RUNNING + 1)]

    assert told == [None] * MAX_RUNNING + ["8 are running already"]


@pytest.mark.parametrize("script", ["exit 3", "exit 0"])
def test_failures_are_logged(make_hooks, caplog, script):
    """A command that fails is told of."""
    hooks = make_hooks(script)
    hooks.start(detection(), None, 0)
    _reap(hooks)

    assert ("exit code 3" in caplog.text) == (script == "exit 3")


def test_no_such_command():
    """A command that is not there is a reason, not an error."""
    hooks = Hooks(("/no/such/command",), 1.0)

    assert hooks.start(detection(), None, 0) == "/no/such/command: No such file or directory"
    assert hooks.running == 0
