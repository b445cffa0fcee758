# SPDX-License-Identifier: Apache-2.0
"""A real ``agentwall daemon`` with a configuration, scopes and policies of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentwall.client import Client
from agentwall.errors import ControlError, DaemonNotRunningError
from agentwall.kernel import pins
from rig.cgroup import cgroup_root, in_cgroup, temp_cgroup
from rig.process import wait_until

START_S = 120.0
"""Generous: on an emulated processor Python alone takes its time."""
_PATIENCE_S = 60.0
"""For what a daemon does within a second, beside whatever else the machine does."""
DENY_ALL = "version: 1\nname: deny-all\n"


@dataclass(slots=True)
class Daemon:
    """One daemon after another, with the same configuration; what stands between them stays."""

    directory: Path
    scope: Path
    """Directory of its one owned scope."""
    config: Path
    socket: Path
    log: Path
    state: Path
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)
    """Words before its command line, of a program that becomes it."""

    @property
    def policies(self) -> Path:
        """Where its policies are."""
        return self.directory / "policies"

    @property
    def scope_path(self) -> str:
        """The scope as /proc/PID/cgroup spells it."""
        return f"/{self.scope.relative_to(cgroup_root())}"

    def policy(self, name: str, text: str) -> None:
        """Write the policy *name*; *text* is its body, indented as it stands in a test."""
        body = f"version: 1\nname: {name}\n{textwrap.dedent(text)}"
        (self.policies / f"{name}.yaml").write_text(body)

    def configure(self, more: str = "", *, default: str = "deny-all", tls: str = "off") -> None:
        """Write the configuration; *more* is added to it.

        Inside TLS nothing is read unless it is asked for: each daemon would load its probes.
        """
        self.config.write_text(
            f"version: 1\npolicies: {self.policies}\nstate: {self.state}\n"
            f"control: {{socket: {self.socket}}}\nlog: {{path: {self.log}}}\n"
            f"tls: {{inspect: {tls}}}\n"
            f"scopes:\n  - {{cgroup: {self.scope_path}, kind: owned, default: {default}}}\n" + more
        )

    def start(self, *arguments: str, wait: bool = True) -> subprocess.Popen[bytes]:
        """Start it, and wait until it serves."""
        command = [*self.prefix, sys.executable, "-m", "agentwall", "daemon"]
        command += ["--config", str(self.config)]
        with (self.directory / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, **self.environment},
            )
        if wait:
            self.wait_until_ready()
        return self.process

    def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It ended instead, with what it said.
        """
        assert self.process is not None
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended: {self.said()}")
            errors = (DaemonNotRunningError, ControlError, OSError)
            with contextlib.suppress(*errors), self.client() as client:
                client.status()
                return
            time.sleep(0.05)
        raise RuntimeError(f"the daemon does not serve: {self.said()}")

    def said(self) -> str:
        """Return what all of them wrote to standard error."""
        return (self.directory / "stderr").read_text(errors="replace")

    def client(self) -> Client:
        """Return a client of it."""
        return Client(self.socket, timeout_s=_PATIENCE_S)

    def kill(self) -> None:
        """Kill it, as the kernel does when memory is short."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, and return its exit code; the wall stands."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(_PATIENCE_S)
        self.process = None
        return code

    def reload(self) -> Mapping[str, object]:
        """Have it read everything anew, and return what came of it."""
        with self.client() as client:
            return client.reload(wait=True)

    def events(self, kind: str | None = None) -> list[dict[str, object]]:
        """Return the log's events, what the daemon knows by now included."""
        if self.process is not None and self.process.poll() is None:
            with self.client() as client:
                # Whoever it is asked of: for this answer it takes what waits in the kernel, though
                # it rest from that. What came of it is in what waits at the next one.
                with contextlib.suppress(ControlError):
                    client.denials("nobody")
                while client.status()["log"]["waiting"]:
                    time.sleep(0.005)
        if not self.log.exists():
            return []
        # What is being written meanwhile may be half there.
        *lines, _ = self.log.read_text().split("\n")
        found = [json.loads(line) for line in lines]
        return [each for each in found if kind in (None, each["kind"])]

    def told(self, kind: str, address: str) -> list[dict[str, object]]:
        """Return the events of a kind about who called *address*."""
        found = self.events(kind)
        return [each for each in found if (each["remote"] or {}).get("address") == address]

    def session_to(self, address: str) -> dict[str, object]:
        """Return the one TLS session there; one that was not read is told of a little later."""
        wait_until(lambda: self.told("tls", address), what=f"a session to {address}")
        [session] = self.told("tls", address)
        return session

    def sandbox_at(self, cgroup: Path) -> dict[str, object] | None:
        """Return the sandbox with this cgroup, if there is one that is not leaving."""
        path = f"/{cgroup.relative_to(cgroup_root())}"
        with self.client() as client:
            found = [each for each in client.sandboxes() if each["cgroup"] == path]
        # One of that name that has gone may not be let go yet.
        return next((each for each in found if each["state"] != "leaving"), None)

    def wait_for_sandbox(self, cgroup: Path, timeout_s: float = _PATIENCE_S) -> dict[str, object]:
        """Wait until *cgroup* is a sandbox, and return it."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            found = self.sandbox_at(cgroup)
            if found is not None:
                return found
            time.sleep(0.02)
        raise AssertionError(f"no sandbox at {cgroup}: {self.said()}")

    @contextlib.contextmanager
    def sandbox(self, name: str) -> Iterator[Path]:
        """Make a cgroup in the scope, as a runtime does."""
        path = self.scope / name
        path.mkdir()
        try:
            yield path
        finally:
            _empty(path)

    def run(self, cgroup: Path, *command: str, **options: object) -> subprocess.CompletedProcess:
        """Run a command inside *cgroup*, and wait for it."""
        settings = {"capture_output": True, "text": True, "timeout": _PATIENCE_S, **options}
        return subprocess.run(in_cgroup(cgroup, *command), check=False, **settings)


def _empty(path: Path) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    while path.is_dir() and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            path.rmdir()
            return
        time.sleep(0.01)


@contextlib.contextmanager
def daemon_ground(directory: Path) -> Iterator[Daemon]:
    """Make everything a daemon needs but start none; at the end nothing of it is left."""
    (directory / "policies").mkdir()
    (directory / "policies" / "deny-all.yaml").write_text(DENY_ALL)
    name = f"test-{os.getpid()}-{time.monotonic_ns()}"
    with temp_cgroup("scope") as scope:
        daemon = Daemon(
            directory=directory,
            scope=scope,
            config=directory / "agentwall.yaml",
            socket=directory / "control.sock",
            log=directory / "log" / "events.jsonl",
            state=Path("/run/agentwall") / name,
        )
        daemon.configure()
        try:
            yield daemon
        finally:
            if daemon.process is not None:
                daemon.process.kill()
                daemon.process.wait()
            pins.clear_pins(pins.BPFFS / name)
            pins.unmount_bpffs()
            subprocess.run(["rm", "-rf", "--", str(daemon.state)], check=True)
