# SPDX-License-Identifier: Apache-2.0
"""Times of real clients of TLS, every variant in every round, in rotating order."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.course import BARE
from bench.ground import FAR_ADDRESS, run
from bench.ratios import rotated
from bench.tls_ground import SMALL, TALK_PORT, WEB_PORT
from bench.tls_variants import FOREIGN, READ, SIDE_BY_SIDE, TRAP, Seat

TRANSFER_BYTES = 100 << 20
PROCESSOR = "processor time"
_LOOP = Path(__file__).with_name("tls_loop.py")
_LINE = b'{"id": 7, "method": "status.get", "params": [1, 2, 3]}\n'
_SCALE = {"us": 1.0, "ms": 1e3, "s": 1e6}
_CONNECTIONS = re.compile(r"(\d+) connections in (\d+) real seconds")

CALLS = (BARE, TRAP, FOREIGN, READ)
"""Whose calls are compared."""

Samples = Mapping[tuple[str, str], list[float]]
"""By (title, variant), one a round."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is timed."""

    title: str
    unit: str
    sample: Callable[[Seat], Mapping[str, float]]
    """Figures by what they are of: less is better. "" is the title's own."""
    variants: Sequence[str] = (BARE, *SIDE_BY_SIDE)


def tasks(talk: Path, upload: Path, seconds: int) -> list[Task]:
    """Return what is timed.

    Args:
        talk: The program ``tls_talk``.
        upload: A file that :func:`write_upload` made.
        seconds: Of one run of what runs for some time.
    """
    return [
        Task("openssl s_time -new", "us a connection", lambda seat: _handshakes(seat, seconds)),
        Task("openssl s_client, 100 MB out", "ms", lambda seat: _transfer(seat, upload)),
        Task("openssl s_client, 100 MB in", "ms", lambda seat: _transfer(seat, None)),
        Task("64 octets there and back", "ns", lambda seat: _ping(seat, talk)),
        *(
            Task(title, "us a request", lambda seat, options=options: _wrk(seat, seconds, *options))  # type: ignore[misc]
            for title, options in _WRK.items()
        ),
        Task("Python http.client, kept open", "us a request", _loop),
    ]


_WRK = {
    "wrk, 1 connection": ("-c1",),
    "wrk, 8 connections": ("-c8",),
    "wrk, 1 connection, closed each time": ("-c1", "-H", "Connection: close"),
}


def call_tasks(talk: Path) -> list[Task]:
    """Return calls of the library that are timed, over memory: *talk* is ``tls_talk``."""
    return [
        Task(
            f"{size} octets of {what}",
            "ns",
            lambda seat, size=size, fill=fill: _calls(seat, talk, size, fill),  # type: ignore[misc]
            CALLS,
        )
        for size in (64, 1024)
        for fill, what in _FILLS.items()
    ]


_FILLS = {"lines": "HTTP, read", "zeros": "zeros, settled"}
WAYS = ("SSL_write", "SSL_read")


def write_upload(path: Path) -> None:
    """Write what ``tls_talk serve`` is told to take, and that."""
    body = (_LINE * (TRANSFER_BYTES // len(_LINE) + 1))[:TRANSFER_BYTES]
    path.write_bytes(b"U %d\n" % TRANSFER_BYTES + body)


def measure(
    of: Mapping[str, Seat], what: Sequence[Task], rounds: int, progress: Callable[[str], None]
) -> Samples:
    """Sample each task under each of its variants *rounds* times."""
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        progress(f"inside TLS: round {number + 1} of {rounds}")
        for task in what:
            for name in rotated(list(task.variants), number):
                seat = of[name]
                with seat.place.in_force():
                    found = _with_processor(task, seat)
                for part, value in found.items():
                    title = f"{task.title}, {part}" if part else task.title
                    samples[title, name].append(value)
    return samples


# Others on the machine lengthen an operation, and hardly the processor time of it. That of the run,
# the program's start included, is shared out as its time is.
def _with_processor(task: Task, seat: Seat) -> Mapping[str, float]:
    before_s, begun_s = _children_s(), time.perf_counter()
    found = task.sample(seat)
    took_s = time.perf_counter() - begun_s
    if "" not in found:
        return found
    return {**found, PROCESSOR: found[""] * (_children_s() - before_s) / took_s}


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _handshakes(seat: Seat, seconds: int) -> Mapping[str, float]:
    where = f"{FAR_ADDRESS}:{TALK_PORT}"
    command = seat.command("openssl", "s_time", "-new", "-connect", where, "-time", str(seconds))
    begun_s = time.perf_counter()
    said = run(*command)
    took_s = time.perf_counter() - begun_s
    found = _CONNECTIONS.search(said)
    if found is None or not int(found[1]):
        raise RuntimeError(f"openssl s_time: expected connections, got {said[-300:]!r}")
    # It says whole seconds only; starting it takes a hundredth of one.
    return {"": took_s / int(found[1]) * 1e6}


def _transfer(seat: Seat, upload: Path | None) -> Mapping[str, float]:
    where = f"{FAR_ADDRESS}:{TALK_PORT}"
    command = seat.command("openssl", "s_client", "-quiet", "-connect", where)
    asked = b"D %d\n" % TRANSFER_BYTES
    begun_s = time.perf_counter()
    if upload is None:
        done = subprocess.run(command, input=asked, capture_output=True, check=False)
        is_whole = len(done.stdout) == TRANSFER_BYTES
    else:
        with upload.open("rb") as source:
            done = subprocess.run(command, stdin=source, capture_output=True, check=False)
        is_whole = done.stdout == b"done\n"
    took_s = time.perf_counter() - begun_s
    if not is_whole:
        raise RuntimeError(f"openssl s_client: expected 100 MB, got {done.stderr[-300:]!r}")
    return {"": took_s * 1e3}


def _ping(seat: Seat, talk: Path) -> Mapping[str, float]:
    said = run(*seat.command(talk, "ping", FAR_ADDRESS, str(TALK_PORT), "5000", "64"))
    return {"": float(said)}


def _wrk(seat: Seat, seconds: int, *options: str) -> Mapping[str, float]:
    url = f"https://{FAR_ADDRESS}:{WEB_PORT}/{SMALL}"
    said = run(*seat.command("wrk", "-t1", f"-d{seconds}s", "--latency", *options, url))
    return read_wrk(said)


def read_wrk(said: str) -> Mapping[str, float]:
    """Return microseconds a request, and of latency the median.

    Raises:
        RuntimeError: It made no requests, or some failed.
    """
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    median = re.search(r"^\s+50%\s+([0-9.]+)(us|ms|s)$", said, re.MULTILINE)
    if rate is None or not float(rate[1]) or median is None or "Non-2xx" in said:
        raise RuntimeError(f"wrk: expected requests and latencies, got {said[-500:]!r}")
    return {
        "": 1e6 / float(rate[1]),
        "median latency": float(median[1]) * _SCALE[median[2]],
    }


def _loop(seat: Seat) -> Mapping[str, float]:
    command = (sys.executable, _LOOP, FAR_ADDRESS, str(WEB_PORT), f"/{SMALL}", "1500")
    return {"": float(run(*seat.command(*command)))}


def _calls(seat: Seat, talk: Path, size: int, fill: str) -> Mapping[str, float]:
    said = run(*seat.command(talk, "calls", "24576", str(size), fill)).split()
    return dict(zip(WAYS, map(float, said), strict=True))
