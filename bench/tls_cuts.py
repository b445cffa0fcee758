# SPDX-License-Identifier: Apache-2.0
"""How soon a miner inside TLS is cut off, and what of reading inside TLS a host holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.ground import FAR_ADDRESS, Ground
from bench.hosted import POLICY, hosted, sandbox, settle
from bench.tls_ground import TALK_PORT

_LOOK_S = 0.0002
_SETTLE_S = 3.0
_PATIENCE_S = 120.0


@dataclass(slots=True)
class Cuts:
    """What became of connections on which a miner's first line was said."""

    connections: int = 0
    error_ms: list[float] = field(default_factory=list)
    """From before SSL_write of the line until the client has its error."""
    event_ms: list[float] = field(default_factory=list)
    """From the same until the detection can be read in the event file."""
    octets_out: int = 0
    """Of text, as the server heard it."""


def measure_cuts(
    ground: Ground, talk: Path, heard: Path, policy: Path, scratch: Path, count: int
) -> Cuts:
    """Let ``tls_talk mine`` speak *count* times under ``agentwall run``.

    Args:
        ground: With ``tls_talk serve`` at the far side.
        talk: The program.
        heard: What the server says of each connection.
        policy: Permits the far address.
        scratch: A directory, in which an event file is made.
        count: Of connections, one after another.
    """
    events = scratch / "cuts.jsonl"
    before = heard.stat().st_size
    options = ("--tls", "require", "--quiet", "--policy", policy, "--events", events)
    miner = (talk, "mine", FAR_ADDRESS, str(TALK_PORT), str(count))
    command = ground.inside(sys.executable, "-m", "agentwall", "run", *options, "--", *miner)
    seen: list[int] = []
    with _watching(events, seen):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    spoken = [tuple(map(int, each.split())) for each in done.stdout.splitlines()]
    if done.returncode or len(spoken) != count or len(seen) < count:
        raise RuntimeError(
            f"agentwall run: expected {count} connections cut, got {len(spoken)} and "
            f"{len(seen)} detections: {done.stderr[-500:]}"
        )
    said = heard.read_text()[before:].split()
    return Cuts(
        connections=count,
        error_ms=[(failed - begun) / 1e6 for begun, failed in spoken],
        event_ms=[(at - begun) / 1e6 for at, (begun, _) in zip(seen, spoken, strict=False)],
        octets_out=sum(map(int, said)),
    )


@contextmanager
def _watching(path: Path, seen: list[int]) -> Iterator[None]:
    """Note CLOCK_BOOTTIME, in ns, at which each detection can be read in an event file."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(path, seen, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(path: Path, seen: list[int], stop: threading.Event) -> None:
    at, is_last = 0, False
    while not is_last:
        is_last = stop.is_set()
        if path.exists() and path.stat().st_size > at:
            with path.open("rb") as events:
                events.seek(at)
                text = events.read()
            # Not before: what came in between would have been seen before it was said.
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            whole = text[: text.rfind(b"\n") + 1]
            at += len(whole)
            kinds = [json.loads(each)["kind"] for each in whole.splitlines()]
            seen += [now_ns] * kinds.count("detection")
        time.sleep(_LOOK_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Bytes that a daemon holds resident."""

    alone: int
    """Without a sandbox."""
    with_one: int
    """With one."""


def measure_held(scratch: Path, progress: Callable[[str], None]) -> dict[str, Held]:
    """Start a daemon that does not read inside TLS, and one that does."""
    found = {}
    for use in ("off", "require"):
        progress(f"inside TLS: a daemon, tls.inspect: {use}")
        with hosted(scratch / f"daemon-{use}", tls=use) as host:
            host.write("allow: []\n")
            host.start()
            time.sleep(_SETTLE_S)
            alone = host.resident_bytes()
            with sandbox(host, "0") as cgroup, host.client() as client:
                pid = settle(cgroup, "sleep", "infinity")
                client.admit(pid=pid, policy=POLICY)
                time.sleep(_SETTLE_S)
                found[use] = Held(alone=alone, with_one=host.resident_bytes())
            os.waitpid(pid, 0)
    return found
