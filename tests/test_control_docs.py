# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/control.md run."""

from __future__ import annotations

from rig.control import serving
from rig.insides import STATE, process, readings
from rig.tree import ROOT

from agentwall.daemon.describe_tls import tls_of_sandbox, tls_status
from agentwall.errors import ControlCode, ControlError
from agentwall.flow.tls import Unread
from agentwall.sinks.tls_words import words_of

ROW = {"rule": "p:deny[0]", "reason": "rule", "count": 1}
DENIED = {
    "denied": 1,
    "would_denied": 0,
    "lost": 0,
    "complete": True,
    "denials": [ROW],
    "detections": [],
}


def test_documented_example(tmp_path, capsys):
    """The example of docs/control.md runs, and says what was denied."""
    text = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    example = text.partition("```python\n")[2].partition("```")[0]
    with serving(tmp_path / "c.sock", lambda *_: DENIED) as served:
        exec(example.replace("Client()", "Client(path)"), {"path": served.path})

    assert capsys.readouterr().out == "not rewarded: 1 denied by p:deny[0]\n"
    assert [arguments for _, _, arguments in served.calls] == [
        {"sandbox": "rollout-7", "labels": {"run": "grpo-41", "episode": "17", "step": "0"}},
        {"sandbox": "rollout-7", "labels": {"phase": "agent"}},
        *({"sandbox": "rollout-7", "labels": {"step": str(step)}} for step in range(3)),
        {"sandbox": "rollout-7", "labels": {"episode": "17"}},
    ]


def test_documented_lines(tmp_path):
    """The lines of docs/control.md are what goes over the socket."""
    text = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    lines = text.partition("## The protocol")[2].partition("```\n")[2].partition("```")[0]
    first, answer, second, refusal = lines.splitlines()

    def handle(_caller, name, _arguments):
        if name == "sandbox-show":
            raise ControlError(ControlCode.NOT_FOUND, "no such sandbox: rollout-8")
        return {"id": "0007c0ffee00", "labels": {"step": "1"}}

    with serving(tmp_path / "c.sock", handle) as served, served.connect() as asking:
        asking.sendall(f"{first}\n{second}\n".encode())
        said = asking.makefile()

        assert [said.readline(), said.readline()] == [f"{answer}\n", f"{refusal}\n"]
        said.close()


def test_reasons_are_documented():
    """Each reason for which text is not read is in docs/control.md, in the words that are shown."""
    text = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")

    for reason in Unread:
        assert f"| `{reason.value}` | {words_of(reason)} |" in text


def test_keys_inside_tls_are_documented():
    """What status and sandbox-show have of TLS is named in docs/control.md, key by key."""
    text = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    section = text.partition("### Inside TLS")[2].partition("\n## ")[0]
    shown = tls_of_sandbox(readings(process(1, Unread.GO)))
    keys = {*tls_status(STATE), *shown, *shown["processes"][0]}

    assert {key for key in keys if f"`{key}`" not in section} == set()
