# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed again and again, and sandboxes that must not notice."""

from __future__ import annotations

import contextlib
import json
import random
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from agentwall.client import Client
from agentwall.errors import ControlError, DaemonNotRunningError
from agentwall.kernel import pins
from bench.prober import Doors, Seen, waiting
from rig.daemon import Daemon
from rig.process import wait_until

PHASES = ("one", "two")


def switching_policy(daemon: Daemon, doors: Doors, variant: int) -> None:
    """Write ``work``: whatever *variant* and phase, the refused door stays shut."""
    door = doors.permitted
    ports = f"[{door}, udp/{door}, {20_000 + variant % 1000}]"
    text = f"""
        version: 1
        name: work
        allow: [{{cidr: 127.0.0.1, ports: {ports}}}]
        match: [{{cgroup: {daemon.scope_path}/work-*}}]
        phases:
          one: {{allow: [{{cidr: 203.0.113.{variant % 200}, ports: [any]}}]}}
          two: {{deny: [{{cidr: 203.0.113.0/24}}]}}
        """
    draft = daemon.directory / "draft"
    draft.write_text(textwrap.dedent(text))
    # At once: half a file may be a policy as well.
    draft.rename(daemon.policies / "work.yaml")


def keys(daemon: Daemon, *names: str) -> dict[str, str]:
    """Return the keys of sandboxes as they are written down, by id."""
    found: dict[str, str] = {}

    def are_found() -> bool:
        found.update({name: key for name, key in _written(daemon) if name in names})
        return found.keys() == set(names)

    # One that is written anew just now may be missing in a listing.
    wait_until(are_found, what=f"records of {names}")
    pin_dir = pins.BPFFS / daemon.state.name / pins.LINKS
    for key in found.values():
        assert list(pin_dir.glob(f"{key}-*")), f"no pin of {key}"
    return found


def _written(daemon: Daemon) -> Iterator[tuple[str, str]]:
    for path in (daemon.state / "sandboxes").glob("*.json"):
        # That of another sandbox, which has ended, may go just now.
        with contextlib.suppress(FileNotFoundError):
            record = json.loads(path.read_text())
            yield record["id"], f"{record['key']:016x}"


def standing(daemon: Daemon) -> dict[str, dict[str, object]]:
    """Return what has to be the same under the next daemon, by sandbox."""
    with daemon.client() as client:
        found = client.sandboxes()
    kept = ("cgroup", "policy", "phase", "labels", "mode", "effective_mode", "unwatched_ms")
    return {
        str(each["id"]): {
            **{name: each[name] for name in kept},
            "override": _lasting(each["override"]),
        }
        for each in found
    }


def _lasting(override: object) -> object:
    if not isinstance(override, Mapping):
        return None
    return {name: override[name] for name in ("mode", "reason", "by")}


class Switcher:
    """Switches policies and phases under a daemon for as long as it answers."""

    def __init__(self, daemon: Daemon, doors: Doors, sandbox: str) -> None:
        self._daemon = daemon
        self._doors = doors
        self._sandbox = sandbox
        self._stopped = threading.Event()
        with daemon.client() as client:
            self.asked = self.answered = str(client.sandbox(sandbox)["phase"])
        """Phases: one of these holds, whenever the daemon dies."""
        self.switches = 0
        self.reloads = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Switch on for the length of the block."""
        threads = [threading.Thread(target=each) for each in (self._phases, self._policies)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _phases(self) -> None:
        with _until_killed(self._daemon) as client:
            while not self._stopped.is_set():
                self.asked = PHASES[self.asked == PHASES[0]]
                client.phase(self._sandbox, self.asked)
                self.answered = self.asked
                self.switches += 1

    def _policies(self) -> None:
        with _until_killed(self._daemon) as client:
            while not self._stopped.is_set():
                switching_policy(self._daemon, self._doors, random.randrange(1000))
                self.reloads += client.reload(wait=True)["applied"] is True


@dataclass(slots=True, kw_only=True)
class Survived:
    """What came of one daemon that was killed while it switched and admitted."""

    switcher: Switcher
    late: Seen
    """By a prober in a sandbox that was just being admitted."""
    late_policy: object
    """Of that sandbox, under the next daemon."""


def kill_while_switching(daemon: Daemon, doors: Doors, sandbox: str, late: str) -> Survived:
    """Kill *daemon* while it switches *sandbox* and admits another, and start the next one."""
    switcher = Switcher(daemon, doors, sandbox)
    with waiting(doors) as prober, ExitStack() as stack:
        with switcher.at_work():
            time.sleep(random.uniform(0.05, 0.8))
            cgroup = stack.enter_context(daemon.sandbox(late))
            prober.enter(cgroup)
            asker = threading.Thread(target=_ask, args=(daemon, prober.process.pid))
            asker.start()
            # An admission takes some milliseconds.
            time.sleep(random.choice((0, random.uniform(0, 0.01), random.uniform(0, 0.2))))
            daemon.kill()
            asker.join()
        daemon.start()
        policy = daemon.wait_for_sandbox(cgroup)["policy"]
        return Survived(switcher=switcher, late=prober.leave(), late_policy=policy)


def _ask(daemon: Daemon, pid: int) -> None:
    with _until_killed(daemon) as client:
        client.admit(pid=pid)


@contextmanager
def _until_killed(daemon: Daemon) -> Iterator[Client]:
    with contextlib.suppress(DaemonNotRunningError, ControlError), daemon.client() as client:
        yield client


def kill_while_starting(daemon: Daemon, within_s: float = 3.0) -> None:
    """Start *daemon* and kill it at some moment of its first seconds."""
    daemon.start(wait=False)
    time.sleep(random.uniform(0, within_s))
    daemon.kill()
