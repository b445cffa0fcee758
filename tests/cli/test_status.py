# SPDX-License-Identifier: Apache-2.0
"""``agentwall status`` against a real control socket."""

from __future__ import annotations

import json

import pytest
from rig import daemon_answers
from rig.control import serving

from agentwall.cli.main import main


def _run(capsys, tmp_path, answer, *argv):
    with serving(tmp_path / "c.sock", lambda *_: answer) as served:
        code = main(["status", "--socket", str(served.path), *argv])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("answer", "code", "first"),
    [
        (daemon_answers.status(), 0, "agentwall 0.5.0  in force for 12 sandboxes"),
        (daemon_answers.broken_status(), 4, "agentwall 0.5.0  not in force"),
    ],
)
def test_status(capsys, tmp_path, answer, code, first):
    """What is in force, and 4 where something required is not; nothing is cut in a pipe."""
    found, printed = _run(capsys, tmp_path, answer)

    assert found == code
    assert printed.out.startswith(f"{first}\n")
    assert "/usr/share/agentwall/policies/default-deny.yaml\n" in printed.out
    assert "\x1b" not in printed.out
    assert printed.err == ""


def test_json(capsys, tmp_path):
    """Machines get what the daemon said."""
    found, printed = _run(capsys, tmp_path, daemon_answers.broken_status(), "--format", "json")

    assert found == 4
    assert json.loads(printed.out) == daemon_answers.broken_status()


def test_not_running(capsys, tmp_path):
    """Without a daemon it ends with 3, and says so."""
    code = main(["status", "--socket", str(tmp_path / "none")])

    assert code == 3
    assert capsys.readouterr().err == (
        f"agentwall: {tmp_path}/none: no such file or directory: is the daemon running?\n"
    )
