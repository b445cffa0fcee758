# SPDX-License-Identifier: Apache-2.0
"""``agentwall sandbox`` against a real control socket."""

from __future__ import annotations

import json

import pytest
from rig.control import serving
from rig.daemon_answers import busy_sandbox, sandbox

from agentwall.cli.main import main
from agentwall.errors import ControlCode, ControlError


@pytest.fixture
def served(tmp_path):
    """A daemon with two sandboxes."""

    def handle(_caller, name, arguments):
        if arguments.get("sandbox") == "gone":
            raise ControlError(ControlCode.NOT_FOUND, "no such sandbox: gone")
        if name == "sandbox-list":
            return {"sandboxes": [sandbox(1), busy_sandbox()]}
        if name == "sandbox-show":
            return busy_sandbox()
        if name == "sandbox-label":
            return {"id": "0002c0ffee00", "labels": {"episode": "18", "x": "a\x1b"}}
        return {}

    with serving(tmp_path / "c.sock", handle) as served:
        yield served


def _run(capsys, served, *argv):
    words = list(argv)
    words[1:1] = ["--socket", str(served.path)]
    code = main(["sandbox", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_ls(capsys, served):
    """A table that is not cut in a pipe, however wide."""
    code, out, err = _run(capsys, served, "ls")
    lines = out.splitlines()

    assert (code, err) == (0, "")
    assert lines[2].endswith("episode=1 run=grpo-41 step=3")
    assert len(lines) == 5
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("wanted", "count"),
    [([], 2), (["run=grpo-41"], 2), (["run=grpo-41", "episode=1"], 1), (["step=4"], 0)],
)
def test_ls_of_labels(capsys, served, wanted, count):
    """--label leaves the others out; all have to match."""
    options = [word for each in wanted for word in ("--label", each)]
    code, out, _ = _run(capsys, served, "ls", "--format", "json", *options)
    document = json.loads(out)

    assert code == 0
    assert document["schema"] == "agentwall.sandboxes/1"
    assert len(document["sandboxes"]) == count


@pytest.mark.parametrize("style", ["pretty", "json"])
def test_show(capsys, served, style):
    """Everything about one."""
    code, out, _ = _run(capsys, served, "show", "0002", "--format", style)

    assert code == 0
    assert served.calls[0][2] == {"sandbox": "0002"}
    if style == "json":
        assert json.loads(out) == busy_sandbox()
    else:
        assert out.startswith("sandbox 0002c0ffee00\ncgroup ")


def test_show_nobody(capsys, served):
    """A sandbox that is not there is wrong usage."""
    code, out, err = _run(capsys, served, "show", "gone")

    assert (code, out, err) == (2, "", "agentwall: no such sandbox: gone\n")


def test_label(capsys, served):
    """K=V sets, K- removes, and what came of it is printed."""
    code, out, _ = _run(capsys, served, "label", "0002", "episode=18", "note=a=b-", "step-")

    assert code == 0
    assert served.calls[0][2] == {
        "sandbox": "0002",
        "labels": {"episode": "18", "note": "a=b-", "step": None},
    }
    assert out == "0002c0ffee00: episode=18 x=a\\x1b\n"


@pytest.mark.parametrize(
    ("argv", "asked", "said"),
    [
        (
            ["0002", "audit", "--for", "30m", "--reason", "r"],
            {"sandbox": "0002", "mode": "audit", "for_s": 1800.0, "reason": "r"},
            "0002: audit for 30 min",
        ),
        (
            ["--all", "observe", "--for", "1h30m5s", "--reason", "r"],
            {"sandbox": None, "mode": "observe", "for_s": 5405.0, "reason": "r"},
            "all sandboxes: observe for 90 min",
        ),
        (
            ["0002", "enforce", "--reason", "r"],
            {"sandbox": "0002", "mode": "enforce", "for_s": None, "reason": "r"},
            "0002: enforce until it is ended",
        ),
        (
            ["--all", "--end"],
            {"sandbox": None, "mode": None, "reason": "ended by hand"},
            "all sandboxes: the policies' own mode is in force again",
        ),
        (
            ["0002", "--end", "--reason", "vLLM is back"],
            {"sandbox": "0002", "mode": None, "reason": "vLLM is back"},
            "0002: the policies' own mode is in force again",
        ),
    ],
)
def test_mode(capsys, served, argv, asked, said):
    """One sandbox or all, for a while or to the end."""
    code, out, err = _run(capsys, served, "mode", *argv)

    assert (code, out, err) == (0, f"{said}\n", "")
    assert served.calls[0][1:] == ("sandbox-mode", asked)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["mode", "0002", "audit", "--reason", "r"], "--for TIME is needed: audit has to end by"),
        (["mode", "0002", "audit", "--for", "30m"], "--reason TEXT is needed: it is logged"),
        (["mode", "0002", "off", "--for", "1m", "--reason", "r"], "expected a mode, one of audit"),
        (["mode", "audit", "--for", "1m", "--reason", "r"], "expected one sandbox or --all, got 0"),
        (["mode", "--all", "0002", "audit", "--for", "1m", "--reason", "r"], "or --all, got both"),
        (["mode", "--all", "--end", "--for", "1m"], "--for does not go with --end"),
        (["mode", "a", "b", "--end"], "expected one sandbox or --all, got 2"),
        (["mode", "a", "audit", "--for", "soon", "--reason", "r"], "expected a duration such as"),
        (["mode", "a", "audit", "--for", "", "--reason", "r"], "expected a duration such as"),
        (["label", "a"], "Missing argument"),
        (["label", "a", "episode"], "expected K=V or K-, got episode"),
        (["label", "a", "-"], "expected K=V or K-, got -"),
        (["ls", "--label", "a\x1b"], "--label: expected K=V, got a\\x1b"),
    ],
)
def test_wrong_usage(capsys, served, argv, message):
    """What makes no sense is not asked for."""
    code, _, err = _run(capsys, served, *argv)

    assert code == 2
    assert message in err
    assert served.calls == []
