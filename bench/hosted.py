# SPDX-License-Identifier: Apache-2.0
"""A daemon of the bench's own, with a scope of its own, and what it costs the host."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentwall.client import Client
from agentwall.errors import ControlError, DaemonNotRunningError
from agentwall.kernel import pins
from agentwall.kernel.cgroup2 import own_cgroup
from bench.ground import run

POLICY = "bench"
_START_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Hosted:
    """One daemon after another on the same ground."""

    directory: Path
    scope: Path
    """Its one scope, a shared one: what is in it is a sandbox once somebody says so."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def scope_path(self) -> str:
        """The scope as /proc/PID/cgroup spells it."""
        return f"/{self.scope.name}" if self.scope.parent == own_cgroup() else str(self.scope)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / "control.sock"

    @property
    def state(self) -> Path:
        """Its records; of this process's daemon alone, and so are the pins of that name."""
        return Path("/run/agentwall") / f"bench-{os.getpid()}-{self.directory.name}"

    def write(self, policy: str, name: str = POLICY) -> None:
        """Write a policy whose text is *policy*, beside version and name, at once."""
        draft = self.directory / "draft"
        draft.write_text(f"version: 1\nname: {name}\n{policy}")
        draft.rename(self.directory / "policies" / f"{name}.yaml")

    def start(self, *, wait: bool = True) -> float:
        """Start it, and return how many seconds it took until it answered."""
        begun_s = time.perf_counter()
        config = str(self.directory / "agentwall.yaml")
        command = [sys.executable, "-m", "agentwall", "daemon", "--config", config]
        with (self.directory / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            )
        while wait and not self._answers():
            if self.process.poll() is not None or time.perf_counter() - begun_s > _START_S:
                raise RuntimeError(f"the daemon does not serve: {self.said()}")
            time.sleep(0.02)
        return time.perf_counter() - begun_s

    def _answers(self) -> bool:
        with contextlib.suppress(DaemonNotRunningError, ControlError), self.client() as client:
            client.status()
            return True
        return False

    def said(self) -> str:
        """Return the end of what it wrote to standard error."""
        return (self.directory / "stderr").read_text(errors="replace")[-2000:]

    def client(self) -> Client:
        """Return a client of it."""
        return Client(self.socket, timeout_s=60)

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def resident_bytes(self) -> int:
        """Return what it holds resident, shared libraries included."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the daemon has ended")

    def processor_s(self) -> float:
        """Return its processor time so far, its children's included."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        return sum(map(int, text.rpartition(")")[2].split()[11:15])) / _TICKS


@contextmanager
def hosted(directory: Path, *, tls: str = "auto") -> Iterator[Hosted]:
    """Make a daemon's ground, *directory* included, and start none; nothing is left at the end.

    Args:
        directory: Is made.
        tls: Its ``tls.inspect``.
    """
    (directory / "policies").mkdir(parents=True)
    scope = own_cgroup() / f"agentwall-bench-{os.getpid()}-{directory.name}"
    scope.mkdir()
    host = Hosted(directory, scope)
    (directory / "agentwall.yaml").write_text(
        f"version: 1\npolicies: {directory / 'policies'}\nstate: {host.state}\nwatch: false\n"
        f"tls: {{inspect: '{tls}'}}\n"
        f"control: {{socket: {host.socket}}}\nlog: {{path: {directory / 'events.jsonl'}}}\n"
        f"scopes: [{{cgroup: {host.scope_path}, kind: shared, include: ['/**/sandbox-*']}}]\n"
    )
    try:
        yield host
    finally:
        host.kill()
        pins.clear_pins(pins.BPFFS / host.state.name)
        pins.unmount_bpffs()
        run("rm", "-rf", "--", host.state)
        _remove(scope)


def _remove(scope: Path) -> None:
    with contextlib.suppress(OSError):
        (scope / "cgroup.kill").write_text("1")
    deadline_s = time.monotonic() + 30
    while scope.exists() and time.monotonic() < deadline_s:
        for path in (*scope.glob("*"), scope):
            if path.is_dir():
                with contextlib.suppress(OSError):
                    path.rmdir()
        time.sleep(0.02)


@contextmanager
def sandbox(host: Hosted, name: str) -> Iterator[Path]:
    """Make a cgroup in the scope; whoever is in it at the end is killed."""
    path = host.scope / f"sandbox-{name}"
    path.mkdir()
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            (path / "cgroup.kill").write_text("1")


def settle(cgroup: Path, *command: str) -> int:
    """Start *command*, have it live in *cgroup*, and return its pid."""
    pid = os.posix_spawn("/bin/" + command[0], list(command), dict(os.environ))
    (cgroup / "cgroup.procs").write_text(str(pid))
    return pid
