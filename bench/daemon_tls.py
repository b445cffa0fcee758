# SPDX-License-Identifier: Apache-2.0
"""Many sandboxes with a process each that speaks TLS: what reading inside it takes of the daemon.

Every process is ``daemon_speaker.c``: it maps the system's libssl and says a ClientHello to a
service on loopback, in its sandbox.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.client import Client
from agentwall.errors import ControlError
from bench.crowd import policy
from bench.hosted import POLICY, Hosted, hosted, sandbox
from bench.prober import Doors, listening
from bench.toolchain import HERE

_EARLY = 20
"""One of so many has mapped libssl before it is admitted: of these it is timed until they are known
to be read."""
_ROUND_S = 16.0
"""Until the daemon has looked at each sandbox once."""
_PATIENCE_S = 60.0
_MOMENT_S = 0.001
_PACE_S = 0.01
"""Between two ClientHellos: together they are more than the kernel keeps for the daemon."""


@dataclass(slots=True)
class TlsCrowd:
    """What was measured."""

    sandboxes: int
    empty_bytes: int = 0
    """Resident without a sandbox, reading inside TLS."""
    admitted_bytes: int = 0
    """Resident with all, of whose processes hardly any maps libssl."""
    spoken_bytes: int = 0
    """Resident at rest, after each has spoken TLS."""
    rest_share: float = 0.0
    """Of a processor, at rest then."""
    admitted_ms: list[float] = field(default_factory=list)
    """From the request to admit until its answer, while another thread looks for libraries."""
    known_ms: list[float] = field(default_factory=list)
    """From the request to admit a process that maps libssl until it is listed as read."""
    sessions: int = 0
    """That the daemon counted."""
    joined: int = 0
    """Of these, whose text was read."""
    read: int = 0
    """Processes that are listed as read."""


def build_speaker(directory: Path) -> Path:
    """Compile ``daemon_speaker.c`` into *directory*.

    Raises:
        subprocess.CalledProcessError: The compiler refused; its messages went to stderr.
    """
    directory.mkdir(parents=True, exist_ok=True)
    built = directory / "daemon_speaker"
    source = HERE / "daemon_speaker.c"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", built, source, "-ldl"], check=True)
    return built


def measure_tls_crowd(
    speaker: Path, directory: Path, count: int, rest_s: float, progress: Callable[[str], None]
) -> TlsCrowd:
    """Admit *count* sandboxes, have each speak TLS, and let them rest *rest_s*.

    Args:
        speaker: As :func:`build_speaker` made it.
        directory: Of the daemon; is made.
        count: Of sandboxes.
        rest_s: How long.
        progress: Is told what is next.
    """
    crowd = TlsCrowd(count)
    with listening() as (doors, _), hosted(directory, tls="require") as host:
        host.write(policy(doors))
        host.start()
        crowd.empty_bytes = host.resident_bytes()
        progress(f"daemon: admitting {count} sandboxes that speak TLS")
        with _speakers(host, speaker, doors, count) as pids, host.client() as client:
            for number, pid in enumerate(pids):
                _admit(client, crowd, pid, is_early=_is_early(number))
            crowd.admitted_bytes = host.resident_bytes()
            for pid in pids:
                os.kill(pid, signal.SIGUSR1)
                time.sleep(_PACE_S)
            _await_all(client, crowd)
            progress(f"daemon: at rest for {rest_s:g} s")
            _rest(host, crowd, rest_s)
    return crowd


def _is_early(number: int) -> bool:
    return number % _EARLY == _EARLY - 1


@contextmanager
def _speakers(host: Hosted, speaker: Path, doors: Doors, count: int) -> Iterator[list[int]]:
    """Make *count* cgroups, each with a process that waits for SIGUSR1."""
    pids: list[int] = []
    with contextlib.ExitStack() as stack:
        try:
            for number in range(count):
                cgroup = stack.enter_context(sandbox(host, str(number)))
                when = "before" if _is_early(number) else "after"
                command = [str(speaker), str(cgroup), str(doors.permitted), when]
                pids.append(os.posix_spawn(command[0], command, dict(os.environ)))
                _await_joined(cgroup)
            yield pids
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _await_joined(cgroup: Path) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not (cgroup / "cgroup.procs").read_text():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{cgroup}: nobody came")
        time.sleep(_MOMENT_S)


def _admit(client: Client, crowd: TlsCrowd, pid: int, *, is_early: bool) -> None:
    begun_s = time.perf_counter()
    answer = client.admit(pid=pid, policy=POLICY)
    crowd.admitted_ms.append((time.perf_counter() - begun_s) * 1e3)
    if not is_early:
        return
    while not _is_read(client.sandbox(str(answer["sandbox"]))):
        if time.perf_counter() - begun_s > _PATIENCE_S:
            raise RuntimeError(f"process {pid}: not read")
        time.sleep(_MOMENT_S)
    crowd.known_ms.append((time.perf_counter() - begun_s) * 1e3)


def _is_read(shown: dict[str, object]) -> bool:
    tls = shown["tls"]
    assert isinstance(tls, dict)
    return any(each["read"] for each in tls["processes"])


def _await_all(client: Client, crowd: TlsCrowd) -> None:
    """Wait until the daemon has counted a session of each."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while crowd.sessions < crowd.sandboxes and time.monotonic() < deadline_s:
        time.sleep(0.2)
        with contextlib.suppress(ControlError):
            tls = client.status()["tls"]
            assert isinstance(tls, dict)
            crowd.sessions, crowd.joined = tls["sessions"]["seen"], tls["sessions"]["joined"]
            crowd.read = tls["processes"]["read"]


def _rest(host: Hosted, crowd: TlsCrowd, rest_s: float) -> None:
    time.sleep(min(_ROUND_S, rest_s))
    before_s = host.processor_s()
    time.sleep(rest_s)
    crowd.rest_share = (host.processor_s() - before_s) / rest_s
    crowd.spoken_bytes = host.resident_bytes()
