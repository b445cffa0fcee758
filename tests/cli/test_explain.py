# SPDX-License-Identifier: Apache-2.0
"""``agentwall explain``: an event found in whichever file, with its rule and its neighbours."""

from __future__ import annotations

import json

import pytest
from rig.daemon_log import COMMIT, RUN, write_daemon_log
from rig.invoking import invoke
from rig.records import CURL, flow, rome_day, write_log
from rig.tls_records import STATIC, tls


def explained(path, event_id: str) -> str:
    done = invoke("explain", event_id, "--file", path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def section(text: str, heading: str) -> str:
    (line,) = [each for each in text.splitlines() if each.startswith(f"{heading} ")]
    return line.removeprefix(heading).strip()


@pytest.mark.parametrize("max_bytes", [5_000, 20_000, 1 << 20])
def test_a_denial(tmp_path, max_bytes):
    """What, who, where to, which rule with its line, under which commit, what would permit it."""
    path = write_daemon_log(tmp_path, max_bytes)
    text = explained(path, _id_of(tmp_path, 8000))

    assert text.startswith("denied: tcp 10.20.0.9:8000\n")
    assert section(text, "sandbox").startswith("docker-3f2ab1c9, cgroup /system.slice/docker-")
    assert "name web, image python:3.11" in section(text, "made by")
    assert section(text, "episode") == "run r9, episode 41, step 7"
    assert section(text, "labels") == r"team=x\x1b[31m"
    assert section(text, "process") == "ssh[5100], uid 1000, child of 100: /usr/bin/ssh"
    assert section(text, "how") == "connect, EPERM; nothing of it left"
    assert section(text, "why") == f"rl-rollout:deny[0] at {tmp_path}/rl-rollout.yaml:7"
    assert "7 |   - cidr: 10.20.0.9            # the orchestrator" in text
    assert section(text, "policy") == f"rl-rollout, phase agent, commit {COMMIT}"
    assert section(text, "remedy") == "no allow can undo it: denied by rl-rollout:deny[0]"


def test_what_the_same_process_did(tmp_path):
    """Events of the process around it are shown in order, across files, the event marked."""
    text = explained(write_daemon_log(tmp_path), _id_of(tmp_path, 8000))
    around = text.partition("The same process, around it\n")[2].splitlines()

    assert [line[0] for line in around] == [" ", " ", " ", ">", " "]
    assert all("by ssh[5100]" in line for line in around)
    assert "203.0.113.7:22" in around[0]


def _events(directory) -> list[dict]:
    texts = (file.read_text(encoding="ascii") for file in directory.glob("events.jsonl*"))
    return [json.loads(line) for text in texts for line in text.splitlines()]


def _id_of(directory, port: int, kind: str = "flow") -> str:
    found = [
        each
        for each in _events(directory)
        if each["kind"] == kind and (each.get("remote") or {}).get("port") == port
    ]
    return found[0]["id"]


def test_a_policy_that_has_changed(tmp_path):
    """Once the file is another, its line is not shown; the commit says where the old one is."""
    path = write_daemon_log(tmp_path)
    (tmp_path / "rl-rollout.yaml").write_text("version: 1\n" * 20, encoding="ascii")
    text = explained(path, _id_of(tmp_path, 8000))

    assert "7 |" not in text
    assert (
        "the policy's files have changed since then;"
        f" see git -C {tmp_path} show {COMMIT}:./rl-rollout.yaml" in text
    )


def test_a_policy_that_is_gone(tmp_path):
    """Without the file that is what is said."""
    path = write_daemon_log(tmp_path)
    (tmp_path / "rl-rollout.yaml").unlink()

    assert f"{tmp_path}/rl-rollout.yaml cannot be read here" in explained(
        path, _id_of(tmp_path, 8000)
    )


def test_a_detection(tmp_path):
    """What was recognised, by what, what it said and what would let it pass."""
    text = explained(write_daemon_log(tmp_path), _id_of(tmp_path, 3333, "detection"))

    assert text.startswith("detected: mining (stratum-v1), 3 times\n")
    assert section(text, "what") == "mining/stratum-v1, high severity, high confidence"
    assert "mining.subscribe" in text
    assert section(text, "outcome").endswith("before any of it was out (response block)")
    assert section(text, "remedy").startswith("to let it pass, except: [mining/stratum-v1]")


def test_every_event_can_be_explained(tmp_path):
    """Whatever kind an event is of, there is something to say, and nothing acts on a terminal."""
    path = write_log(tmp_path / "run.jsonl", rome_day())
    texts = [explained(path, f"run-7f3a-{n}") for n in (1, 2, 3, 50, 55, len(rome_day()))]

    assert all(text.count("\n") > 3 for text in texts)
    assert not any("\x1b" in text or "\u202e" in text for text in texts)
    assert texts[0].startswith("started, mode enforce")


@pytest.mark.parametrize(
    "event_id", ["nope-1", f"{RUN}-9999", "", "../../etc/passwd-1", "a\x1b[2J-1", '"-1']
)
def test_an_unknown_id(tmp_path, event_id):
    """An id that is nowhere is 1 and a hint where ids come from, whatever the id."""
    done = invoke("explain", event_id, "--file", write_daemon_log(tmp_path))

    assert (done.returncode, done.stdout) == (1, "")
    assert "no event has this id in" in done.stderr
    assert "agentwall log shows ids" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_file_that_is_not_there(tmp_path):
    """A wrong --file is said as such."""
    done = invoke("explain", "x-1", "--file", tmp_path / "none")

    assert done.returncode == 1
    assert f"{tmp_path}/none: no such file" in done.stderr


def test_a_tls_session(tmp_path):
    """Why it is not read, and what its process did around it."""
    path = write_log(tmp_path / "e.jsonl", [flow(), tls(STATIC), tls(process=CURL)], "r")
    text = explained(path, "r-2")
    around = text.partition("The same process, around it\n")[2].splitlines()

    assert section(text, "inside") == "not read: static binary: its TLS has no names to probe"
    assert section(text, "why").startswith("rl-rollout:allow[0] at")
    assert [line[0] for line in around] == [" ", ">", " "]
