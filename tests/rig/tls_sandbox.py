# SPDX-License-Identifier: Apache-2.0
"""One ``agentwall run`` in which a test runs command after command, and a benign day in it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.lab import PERMITTED, Lab
from rig.patient import patient
from rig.process import stop
from rig.tls_benign import benign_requests
from rig.tls_clients import PYTHON
from rig.tls_web import Load, Run, ask_all, benign_server

_END_S = 120.0
_DRIVER = """
import json, subprocess, sys
for line in sys.stdin:
    done = subprocess.run(json.loads(line), capture_output=True, text=True)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""


@contextmanager
def sandboxed(lab: Lab, policy: Path, events: Path, options: Sequence[str] = ()) -> Iterator[Run]:
    """Run commands in one sandbox on the near side; the event file is whole at the end.

    Args:
        lab: Where.
        policy: A file.
        events: A file that does not exist yet.
        options: Of ``agentwall run``.

    Raises:
        RuntimeError: The run did not end well.
    """
    # What is installed is probed before the first command, however busy the machine is.
    words = [*patient(), sys.executable, "-m", "agentwall", "run", "--policy", str(policy)]
    words += ["--events", str(events), *options, "--", PYTHON, "-I", "-S", "-c", _DRIVER]
    with events.with_suffix(".said").open("w+") as said:
        child = subprocess.Popen(
            lab.near.command(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None

        def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
            print(json.dumps(list(map(str, command))), file=child.stdin, flush=True)
            code, out, err = json.loads(child.stdout.readline())
            return subprocess.CompletedProcess(list(command), code, out, err)

        try:
            yield run
            child.stdin.close()
            if child.wait(_END_S):
                said.seek(0)
                raise RuntimeError(f"agentwall run ended with {child.returncode}: {said.read()}")
        finally:
            stop(child)
            for stream in (child.stdin, child.stdout):
                stream.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignDay:
    """What came of many benign requests in one sandbox."""

    load: Load
    took_s: float
    """For the requests alone."""
    events: list[dict[str, object]]
    file: Path
    """With the events."""

    @property
    def matches(self) -> int:
        """How many detections there were."""
        return sum(each["kind"] == "detection" for each in self.events)

    @property
    def sessions(self) -> tuple[int, int]:
        """How many TLS sessions there were, and how many of them were read."""
        end = next(each["detail"] for each in self.events if each.get("state") == "finished")
        return end.get("tls_sessions", 0), end.get("tls_read", 0)


def benign_day(
    lab: Lab, directory: Path, count: int, *, seed: int = 1, options: Sequence[str] = ()
) -> BenignDay:
    """Ask a web server for *count* things in one sandbox, by several clients over TLS.

    Args:
        lab: The server is on its far side.
        directory: For the policy and the events, one pair for each *options*.
        count: Of requests.
        seed: Of the requests.
        options: Of ``agentwall run``.
    """
    name = "-".join(("benign", *(word.strip("-") for word in options)))
    policy, events = directory / f"{name}.yaml", directory / f"{name}.jsonl"
    policy.write_text(
        f"version: 1\nname: benign\nallow:\n  - {{cidr: {PERMITTED}, ports: [443]}}\n"
    )
    with (
        benign_server(lab.far, PERMITTED, seed=seed, command=lab.far_command) as server,
        sandboxed(lab, policy, events, options) as run,
    ):
        begin_s = time.monotonic()
        load = ask_all(server, benign_requests(seed, count), run)
        took_s = time.monotonic() - begin_s
    lines = events.read_text().splitlines()
    return BenignDay(
        load=load, took_s=took_s, events=[json.loads(line) for line in lines], file=events
    )
