# SPDX-License-Identifier: Apache-2.0
"""The catalogue of ways out, and running one of them for real: tests/evasion/attempt.py."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rig.ground import Ground, remote_on_wire
from rig.lab import NEAR4, NEAR6, NEAR_DEVICE, PERMITTED, PERMITTED6
from rig.namespace import Namespace

EVASION = Path(__file__).parents[1] / "evasion"
ATTEMPT_TIMEOUT_S = 120.0
PATIENCE_S = 30.0
"""How long what must come is waited for."""
SILENCE_S = 0.6
"""How long an answer to what was refused may still come, and TCP sends it again."""
_LOOK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """How the wall is expected to answer."""

    hook: str
    errno: str | None
    """What the application sees; TIMEOUT: nothing until its own time-out; None: success."""
    remote: str
    """Role of the destination that the event names; ``none``: the hook knows no destination."""
    port: int | str | None = None
    """Where it is not the role's own; ``any``: not judged."""
    reason: str | None = None
    direction: str = "out"
    reported: str = "event"
    """``event``; ``probe``: counted only, because UDP connect() sends nothing; or ``nothing``."""
    passed: int | None = None
    """Payload octets that reach *remote* before the segment that is refused; None: not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """One row of catalog.yaml."""

    id: str
    reference: str
    does: str
    run: str
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    is_late: bool = False
    dial: str | None = None
    tried: str = "here"
    """Also on ``every-kernel``, or besides in ``every-mode``."""
    reaches: str
    """Role that the payload reaches where there is no wall; ``any`` where no role names it."""
    blocked: Blocked | None


def read_catalog() -> tuple[Technique, ...]:
    """Return every technique of catalog.yaml, in order."""
    rows = yaml.safe_load((EVASION / "catalog.yaml").read_text())["techniques"]
    return tuple(_read_row(row) for row in rows)


def _read_row(row: dict[str, Any]) -> Technique:
    arguments = row.get("with", {})
    target = arguments.get("via") or arguments.get("to", "any")
    blocked = row.pop("blocked")
    return Technique(
        id=row["id"],
        reference=row["reference"],
        does=row["does"],
        run=row["run"],
        arguments=arguments,
        needs=tuple(row.get("needs", ())),
        is_late=row.get("attach") == "late",
        dial=row.get("dial"),
        tried=row.get("tried", "here"),
        reaches=row.get("reaches", target),
        blocked=Blocked(**{"remote": target, **blocked}) if blocked else None,
    )


def make_marker() -> bytes:
    """Return a payload of 16 bytes that no other run uses."""
    return b"AW" + uuid.uuid4().hex[:14].encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the application saw."""

    errno: str | None
    """TIMEOUT: nothing until its own time-out; None: success."""
    ports: range
    """It sent from these, where it did not choose its port itself."""


@contextmanager
def _attempt(
    ground: Ground, run: str, arguments: dict[str, Any], plan: dict[str, Any]
) -> Iterator[subprocess.Popen[str]]:
    # -I and -S: only the standard library, and a third of the start-up time.
    command = (sys.executable, "-I", "-S", EVASION / "attempt.py", run, json.dumps(arguments))
    with ground.near.process(*command) as child:
        assert child.stdin
        child.stdin.write(json.dumps(plan) + "\n")
        child.stdin.flush()
        yield child


def attempt(
    ground: Ground,
    technique: Technique,
    marker: bytes,
    *,
    cgroup: Path,
    outside: Path,
    prepared: Callable[[], None] = lambda: None,
    is_walled: bool = False,
    is_refused: Callable[[], bool] | None = None,
) -> Outcome:
    """Run *technique* in *cgroup*; call *prepared* while it waits, if it does.

    Args:
        is_walled: What may be refused without a word is not waited for long.
        is_refused: Says whether the wall has refused by now what the technique waits for: it is
            told to give up, then. Until then it has all the time that it needs.

    Raises:
        RuntimeError: The program failed otherwise than by an OSError.
        TimeoutError: It went on and on.
    """
    ports = ground.hand_out_ports()
    silence_s = SILENCE_S if is_walled else PATIENCE_S
    plan = {
        "timeout_s": PATIENCE_S,
        "silence_s": silence_s,
        "marker": marker.decode(),
        "places": ground.places(),
        "cgroup": str(cgroup),
        "outside": str(outside),
        "interface": NEAR_DEVICE,
        "far_netns": str(ground.far.path),
        "side_netns": str(ground.side.path),
    }
    with _attempt(ground, technique.run, technique.arguments, plan) as child:
        assert child.stdout
        assert child.stdin
        assert child.stderr
        port, line = 0, _next_line(child, is_refused)
        if line.startswith("port "):
            port, line = int(line.split()[1]), child.stdout.readline()
        if line == "ready\n":
            prepared()
            child.stdin.write("go\n")
            child.stdin.flush()
            if technique.dial:
                dial(ground.far, technique.dial, port, silence_s)
            line = _next_line(child, is_refused)
        child.wait(ATTEMPT_TIMEOUT_S)
        if not line.startswith("{"):
            raise RuntimeError(f"{technique.id}: {line}{child.stderr.read()}")
    return Outcome(errno=json.loads(line)["errno"], ports=ports)


def _next_line(child: subprocess.Popen[str], is_refused: Callable[[], bool] | None) -> str:
    """Return what *child* says next, which is told to wait no longer once it *is_refused*."""
    assert child.stdout
    deadline = time.monotonic() + ATTEMPT_TIMEOUT_S
    while not _speaks(child, _LOOK_AGAIN_S):
        if is_refused and is_refused():
            if not _speaks(child, SILENCE_S):
                child.send_signal(signal.SIGALRM)
            is_refused = None
        if time.monotonic() > deadline:
            raise TimeoutError(f"attempt: expected its end within {ATTEMPT_TIMEOUT_S:g} s")
    return child.stdout.readline()


def _speaks(child: subprocess.Popen[str], timeout_s: float) -> bool:
    return bool(select.select([child.stdout], [], [], timeout_s)[0])


def dial(far: Namespace, how: str, port: int, timeout_s: float) -> bytes:
    """Call *port* of the near side from the permitted address on far; return what is answered.

    Args:
        far: The calling side.
        how: ``tcp``, ``tcp6``, ``udp`` or ``udp6``.
        port: On the near side.
        timeout_s: For the call, and for the answer.
    """
    is_v6, is_stream = how.endswith("6"), how.startswith("tcp")
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
    with far.socket(family, kind) as caller:
        caller.settimeout(timeout_s)
        caller.bind((PERMITTED6 if is_v6 else PERMITTED, 0))
        with suppress(OSError):
            caller.connect((NEAR6 if is_v6 else NEAR4, port))
            if not is_stream:
                caller.send(b"hello")
            return caller.recv(1 << 16)
    return b""


def has_arrived(ground: Ground, marker: bytes, role: str) -> bool:
    """Wait until *marker* reaches far (or the relay) and say whether it was addressed to *role*.

    ``any`` is every address. Where it does not come, the answer is no, after PATIENCE_S.
    """
    wanted = str(remote_on_wire(role)) if role != "any" else None
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for packet in ground.settle():
            if marker in packet.raw and wanted in (None, packet.destination):
                return True
        time.sleep(0.005)
    return False
