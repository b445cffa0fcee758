# SPDX-License-Identifier: Apache-2.0
"""Commands behind a real ``agentwall run`` whose TLS is read, and what its event file then says.

Several clients are run one after the other in one sandbox, which takes a while to set up. Each
calls a pool at an address of its own, by which events and what the pool got are told apart.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rig.lab import Lab, lab
from rig.patient import patient
from rig.tls_clients import PYTHON, TlsClient
from rig.tls_programs import with_debian_share
from rig.tls_service import NAME, Talk, TlsService, tls_service

TIMEOUT_S = 900.0
"""A run that takes longer hangs."""
CLIENT_S = 60
"""A client that takes longer hangs, and is ended."""
_DRIVER = f"""
import json, subprocess, sys
for words in json.load(open(sys.argv[1])):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout={CLIENT_S})
        code, said = done.returncode, done.stderr
    except subprocess.TimeoutExpired:
        code, said = None, "hangs"
    print(json.dumps(dict(code=code, said=said)), flush=True)
"""


@dataclass(slots=True)
class EventFile:
    """The event file of the run that is on."""

    path: Path | None = None

    def tells_of_session(self, address: str) -> bool:
        """Say whether it tells of a TLS session to *address*."""
        if self.path is None or not self.path.exists():
            return False
        # The last line may be half there.
        *lines, _ = self.path.read_text().split("\n")
        events = (json.loads(line) for line in lines if address in line)
        return any(each["kind"] == "tls" and _is_to(each, address) for each in events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended."""

    code: int | None
    """Its exit code; None: it hung."""
    said: str
    """On its standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run that has ended."""

    commands: list[Ended]
    said: str
    """On standard error, by ``agentwall run``."""
    file: Path
    """With the events."""
    events: list[dict[str, object]] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[dict[str, object]]:
        """Return the events of a kind."""
        return [each for each in self.events if each["kind"] == kind]

    @property
    def finish(self) -> dict[str, object]:
        """What the log says at the run's end."""
        return next(e["detail"] for e in self.events if e.get("state") == "finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What one client is to say."""

    client: TlsClient
    dialect: str | None
    """Of ``tls_pool.MINING``; None: what the client says by itself, or *lines*."""
    lines: tuple[str, ...] | None = None
    rule: str = ""
    """More keys of the rule that permits it, such as ``inspect: wire``."""
    is_slow: bool = False
    """The pool answers once it is told of the session; it is none of TLS in TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What came of it."""

    errand: Errand
    ended: Ended
    sessions: list[dict[str, object]]
    """Events of kind ``tls``."""
    detections: list[dict[str, object]]
    """Of what it said. That the sandbox tries many addresses is told of by any of its processes."""
    talks: list[Talk]

    @property
    def text(self) -> bytes:
        """What the pool got."""
        return b"".join(talk.text for talk in self.talks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A lab with three pools: a quick one, one that waits to be told of, one of TLS in TLS."""

    lab: Lab
    quick: TlsService
    slow: TlsService
    nested: TlsService
    directory: Path
    events: EventFile
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def run(self, *commands: Sequence[str], policy: str, options: Sequence[str] = ()) -> Ran:
        """Run commands one after the other on the near side, in one sandbox.

        Args:
            commands: None may print what its caller is to read.
            policy: Its rules.
            options: Of ``agentwall run``.
        """
        number = next(self.numbers)
        rules, events, listed = (
            self.directory / f"{name}{number}" for name in ("policy", "events", "commands")
        )
        self.events.path = events
        rules.write_text(f"version: 1\nname: inside\n{policy}")
        listed.write_text(json.dumps([list(map(str, each)) for each in commands]))
        words = [*patient(), sys.executable, "-m", "agentwall", "run", "--policy", str(rules)]
        words += ["--events", str(events), *options]
        words += ["--", PYTHON, "-I", "-S", "-c", _DRIVER, str(listed)]
        done = self.lab.near.run(*with_debian_share(words), timeout_s=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        return Ran(
            commands=[Ended(**json.loads(line)) for line in done.stdout.splitlines()],
            said=done.stderr,
            file=events,
            events=[json.loads(line) for line in events.read_text().splitlines()],
        )

    def send(self, *errands: Errand) -> tuple[Ran, list[Met]]:
        """Send clients to the pools, one after the other, in one sandbox."""
        rules = list(dict.fromkeys(errand.rule for errand in errands))
        addresses = [f"203.0.{100 + rules.index(e.rule)}.{1 + i}" for i, e in enumerate(errands)]
        policy = "allow:\n"
        for i, rule in enumerate(rules):
            more = f", {rule}" if rule else ""
            policy += f"  - {{cidr: 203.0.{100 + i}.0/24, ports: [1-65535]{more}}}\n"
        pools = (self.quick, self.slow, self.nested)
        for pool in pools:
            pool.clear()
        commands = [self._words(*each) for each in zip(errands, addresses, strict=True)]
        ran = self.run(*commands, policy=policy)
        talks = [talk for pool in pools for talk in pool.settle(0)]
        met = []
        for errand, ended, address in zip(errands, ran.commands, addresses, strict=True):
            sessions = [each for each in ran.of_kind("tls") if _is_to(each, address)]
            # NSS is handed text before it shakes hands: the flow is not known yet.
            found = [
                each
                for each in ran.of_kind("detection")
                if each["stage"] != "behaviour"
                and (_is_to(each, address) or (each["remote"] is None and _is_by(each, sessions)))
            ]
            met.append(
                Met(
                    errand=errand,
                    ended=ended,
                    sessions=sessions,
                    detections=found,
                    talks=[talk for talk in talks if talk.called == address],
                )
            )
        return ran, met

    def _words(self, errand: Errand, address: str) -> list[str]:
        client = errand.client
        lines = client.mining(errand.dialect) if errand.dialect else errand.lines
        pool = self.nested if client.nests else self.slow if errand.is_slow else self.quick
        name = NAME if client.names else None
        return client.argv(address, pool.port, lines, server_name=name, laid=True)


@contextmanager
def inside_ground(directory: Path) -> Iterator[Ground]:
    """Prepare such runs; *directory* is for their policies and events."""
    events = EventFile()

    def is_told_of(talk: Talk) -> bool:
        return events.tells_of_session(talk.called)

    with (
        lab() as made,
        tls_service(made.far, "0.0.0.0") as quick,
        tls_service(made.far, "0.0.0.0", until=is_told_of) as slow,
        tls_service(made.far, "0.0.0.0", nested=True) as nested,
    ):
        yield Ground(
            lab=made, quick=quick, slow=slow, nested=nested, directory=directory, events=events
        )


def _is_to(event: dict[str, object], address: str) -> bool:
    return event["remote"] is not None and event["remote"]["address"] == address


def _is_by(event: dict[str, object], sessions: list[dict[str, object]]) -> bool:
    # A number that another client has had is given out again, in a run that takes minutes.
    return any(
        event["process"]["pid"] == each["process"]["pid"]
        and abs(event["mono_ns"] - each["mono_ns"]) < CLIENT_S * 10**9
        for each in sessions
    )
