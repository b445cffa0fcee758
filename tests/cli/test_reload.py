# SPDX-License-Identifier: Apache-2.0
"""``agentwall reload`` says what came of it."""

from __future__ import annotations

import pytest
from rig.control import serving

from agentwall.cli.main import main

KEPT = {
    "applied": False,
    "what": "the edition of 09:00 stays",
    "problems": ["p.yaml:3:1: allow: expected a list\x1b"],
}


@pytest.mark.parametrize(
    ("argv", "answer", "code", "out", "err"),
    [
        ([], {}, 0, "reload: begun\n", ""),
        (
            ["--wait"],
            {"applied": True, "what": "1 policy changed", "problems": []},
            0,
            "reload: applied: 1 policy changed\n",
            "",
        ),
        (
            ["--wait"],
            KEPT,
            2,
            "reload: not applied, what was in force stays: the edition of 09:00 stays\n",
            "agentwall: p.yaml:3:1: allow: expected a list\\x1b\n",
        ),
    ],
)
def test_reload(capsys, tmp_path, argv, answer, code, out, err):
    """Begun, applied, or not applied: then it ends with 2 and the reasons."""
    with serving(tmp_path / "c.sock", lambda *_: answer) as served:
        found = main(["reload", "--socket", str(served.path), *argv])
    printed = capsys.readouterr()

    assert (found, printed.out, printed.err) == (code, out, err)
    assert served.calls[0][1:] == ("reload", {"wait": bool(argv)})


def test_not_running(tmp_path):
    """Without a daemon it ends with 3."""
    assert main(["reload", "--socket", str(tmp_path / "none")]) == 3
