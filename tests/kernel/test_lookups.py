# SPDX-License-Identifier: Apache-2.0
"""What glibc, musl and c-ares make of a refused question: the table of docs/names.md."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.dns import NameServer, name_server
from rig.lab import PERMITTED, PERMITTED6, Lab, lab
from rig.process import wait_until
from rig.refusal import Refusal, refusing, skip_without_tcx
from rig.sniffer import Sniffer, sniff

pytestmark = pytest.mark.kernel

SERVERS = ("198.51.100.53", "2001:db8:53::53")
FOUND = sorted([PERMITTED, PERMITTED6])
SOURCES = Path(__file__).parent / "clients"
CLIENTS = {
    "glibc": ("gcc", "-O2", "lookup.c"),
    "musl": ("musl-gcc", "-static", "-O2", "lookup.c"),
    "c-ares": ("gcc", "-O2", "ares_lookup.c", "-lcares"),
}
NO_SUCH_NAME = {"glibc": -2, "musl": -2, "c-ares": 4}
"""EAI_NONAME, and ARES_ENOTFOUND."""
AGAIN = {"glibc": -3, "musl": -3}
"""EAI_AGAIN."""
SEARCH = "search xa.test xb.test example\noptions ndots:5 attempts:1 retry:1"
"""Of ok, the first two candidates are refused and the third is permitted."""
PATIENT, HASTY = (f"{SEARCH} timeout:{s} retrans:{1000 * s}" for s in (20, 1))
"""c-ares reads retrans. Hasty where nothing is to answer."""
IN_OWN_MOUNTS = (
    "if [ -e /run/nscd ]; then mount -t tmpfs none /run/nscd; fi; "
    'mount --bind "$0" /etc/resolv.conf; mount --bind "$1" /etc/nsswitch.conf; shift; exec "$@"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab with two name servers, and what crosses its wire."""

    lab: Lab
    servers: dict[str, NameServer]
    wire: Sniffer
    cgroup: Path


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """The lab, built once."""
    names = {"ok.example": f"{PERMITTED},{PERMITTED6}"}
    with lab() as made, temp_cgroup() as cgroup, sniff(made) as wire:
        v4, v6 = SERVERS
        with name_server(made, v4, names) as first, name_server(made, v6, names) as second:
            servers = {v4: first, v6: second}
            yield Bench(lab=made, servers=servers, wire=wire, cgroup=cgroup)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that builds a client of :data:`CLIENTS` and returns it."""
    directory = tmp_path_factory.mktemp("clients")

    def build(name: str) -> Path:
        made = directory / name
        if not made.exists():
            compiler, *arguments = CLIENTS[name]
            subprocess.run([compiler, "-o", made, *arguments], cwd=SOURCES, check=True)
        return made

    return build


@dataclass(frozen=True, slots=True)
class Lookup:
    """How a lookup ended."""

    found: list[str]
    error: int | None
    crossed: int
    """Packets to the server."""
    asked: set[str]
    """Names that the server was asked for."""


def look_up(
    bench: Bench, program: Path, name: str, directory: Path, *, server: str, options: str
) -> Lookup:
    """Look *name* up inside the cgroup, with a resolv.conf that names *server*."""
    resolv, nsswitch = directory / "resolv.conf", directory / "nsswitch.conf"
    resolv.write_text(f"nameserver {server}\n{options}\n")
    nsswitch.write_text("hosts: dns\n")
    bench.wire.clear()
    bench.servers[server].forget()
    inside = ("unshare", "--mount", "sh", "-ec", IN_OWN_MOUNTS, resolv, nsswitch, program, name)
    done = bench.lab.near.run(*inside, cgroup=bench.cgroup)
    bench.wire.settle()
    words = done.stdout.split()
    assert words, done.stderr
    crossed, resolver = len(bench.wire.to(server)), bench.servers[server]
    wait_until(lambda: len(resolver.questions()) >= crossed, what="the questions that crossed")
    is_error = words[0] == "error"
    return Lookup(
        found=[] if is_error else sorted(words),
        error=int(words[1]) if is_error else None,
        crossed=crossed,
        asked={asked for _, asked, _ in resolver.questions()},
    )


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("extra", ["", "options edns0"])
def test_answered(
    bench: Bench,
    compile_bpf: Callable[[str], Path],
    client: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    server: str,
    extra: str,
) -> None:
    """With a belt a search list goes on to the permitted name, and a refused one does not exist."""
    skip_without_tcx()
    options = f"{PATIENT}\n{extra}"
    program = client(name)
    rig = compile_bpf("belt_rig")
    with refusing(rig, bench.lab.near, bench.cgroup, Refusal.ANSWERED):
        listed = look_up(bench, program, "ok", tmp_path, server=server, options=options)
        refused = look_up(bench, program, "x.example.", tmp_path, server=server, options=options)

    assert listed == Lookup(FOUND, None, 2, {"ok.example"})
    assert refused == Lookup([], NO_SUCH_NAME[name], 0, set())


@pytest.mark.parametrize(
    ("name", "how", "error"),
    [
        ("glibc", Refusal.EPERM, AGAIN["glibc"]),
        ("glibc", Refusal.ENOBUFS, AGAIN["glibc"]),
        ("musl", Refusal.EPERM, AGAIN["musl"]),
        ("musl", Refusal.ENOBUFS, AGAIN["musl"]),
        ("musl", Refusal.LOST, AGAIN["musl"]),
        ("c-ares", Refusal.EPERM, 11),
        ("c-ares", Refusal.ENOBUFS, 12),
        ("c-ares", Refusal.LOST, 12),
    ],
)
def test_not_answered(
    bench: Bench,
    compile_bpf: Callable[[str], Path],
    client: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    how: Refusal,
    error: int,
) -> None:
    """Without a belt a refusal ends the search before the permitted name is asked for.

    11 and 12 are ARES_ECONNREFUSED and ARES_ETIMEOUT.
    """
    if how is Refusal.LOST:
        skip_without_tcx()
    program = client(name)
    with refusing(compile_bpf("belt_rig"), bench.lab.near, bench.cgroup, how):
        listed = look_up(bench, program, "ok", tmp_path, server=SERVERS[0], options=HASTY)

    assert listed == Lookup([], error, 0, set())


def test_lost_for_glibc(
    bench: Bench, compile_bpf: Callable[[str], Path], client: Callable[[str], Path], tmp_path: Path
) -> None:
    """glibc, too, passes over the rest of the list, and then asks for the name as it was given."""
    skip_without_tcx()
    program = client("glibc")
    with refusing(compile_bpf("belt_rig"), bench.lab.near, bench.cgroup, Refusal.LOST):
        listed = look_up(bench, program, "ok", tmp_path, server=SERVERS[0], options=HASTY)

    assert (listed.error, listed.asked) == (AGAIN["glibc"], {"ok"})
