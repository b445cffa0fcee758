# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` and the ways by which glibc has names resolved outside: none is left.

The listeners stand where nscd's and others' would, on a /run that only the test's own mount
namespace has. The client is the C library.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rig.cli import TIMEOUT_S, agentwall, environment

pytestmark = pytest.mark.kernel

HOST = """
import os, socket, subprocess, sys, threading

def listen(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()
    threading.Thread(target=serve, args=(listener, path), daemon=True).start()

def serve(listener, path):
    while True:
        connection, _ = listener.accept()
        # nscd's protocol: version, request type, length of the key.
        if asked := connection.recv(12):
            asked += connection.recv(256)
        # In one piece, and before the client knows: it may be this process's end.
        if b"asked.example" in asked:
            os.write(1, f"ASKED {path}\\n".encode())
        connection.close()

subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "test", "/run"], check=True)
os.makedirs("/run/systemd/resolve")
with open("/run/systemd/resolve/stub-resolv.conf", "w") as file:
    file.write("nameserver 127.0.0.53\\n")
if os.path.realpath("/var/run") != "/run":
    subprocess.run(["mount", "--bind", "/run", "/var/run"], check=True)
SOCKETS = sys.argv[1].split(",")
for path in SOCKETS:
    listen(path)
done = subprocess.run(sys.argv[2:])
sys.exit(done.returncode)
"""
NSCD = "/run/nscd/socket"
RESOLVED = "/run/systemd/resolve/io.systemd.Resolve"
BUS = "/run/dbus/system_bus_socket"
SEND = (
    "import socket, sys\n"
    "for path in sys.argv[1:]:\n"
    "    try: socket.socket(socket.AF_UNIX).connect(path)\n"
    "    except OSError as err: print(type(err).__name__)\n"
    "    else: print('CONNECTED')\n"
)

Inside = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def on_a_host(tmp_path) -> Inside:
    """A function that runs a command where sockets are listened on in a /run of the test's own."""

    def run(
        sockets: tuple[str, ...], *words: str, around: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        host = (sys.executable, "-c", HOST, ",".join(sockets))
        return subprocess.run(
            [*around, "unshare", "--mount", "--propagation", "private", *host, *words],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    return run


def wall(*words: str) -> tuple[str, ...]:
    """Return the command line of a run without a policy, which denies all."""
    return tuple(agentwall("run", "--events", "events.jsonl", *words))


LOOKUP = ("getent", "ahosts", "asked.example")


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_nscd(on_a_host, user):
    """glibc asks nscd first; in a run it finds none, and the question goes nowhere."""
    outside = on_a_host((NSCD,), *LOOKUP)
    inside = on_a_host((NSCD,), *wall("--user", user, "--", *LOOKUP))

    assert f"ASKED {NSCD}" in outside.stdout
    assert "ASKED" not in inside.stdout
    assert inside.returncode == 2, inside.stderr


def test_nscd_kept(on_a_host):
    """On request nscd is asked as ever, and coverage says so."""
    done = on_a_host((NSCD,), *wall("--keep-socket", f"/var{NSCD}", "--", *LOOKUP))

    assert f"ASKED {NSCD}" in done.stdout
    assert f"sockets kept: {NSCD} (nscd)" in done.stderr


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_each_socket(on_a_host, user):
    """None of the sockets is there, but what resolved writes for readers is."""
    sockets = (NSCD, RESOLVED, BUS, "/run/systemd/private", "/run/avahi-daemon/socket")
    look = "python3 -c '{}' {}; cat /run/systemd/resolve/stub-resolv.conf"
    script = look.format(SEND.replace("'", '"'), " ".join(sockets))

    done = on_a_host(sockets, *wall("--user", user, "--", "sh", "-c", script))

    assert done.stdout.splitlines() == [
        *(["FileNotFoundError"] * len(sockets)),
        "nameserver 127.0.0.53",
    ]


def test_not_masked(on_a_host):
    """To keep a socket that is not masked is agentwall's failure, before anything starts."""
    done = on_a_host((NSCD,), *wall("--keep-socket", "/run/x", "--", "echo", "ran"))

    assert (done.returncode, done.stdout) == (125, "")
    assert "agentwall: socket /run/x: expected one that is masked" in done.stderr


def test_required(on_a_host):
    """A kept socket is less than full coverage."""
    options = ("--keep-socket", BUS, "--require-full")
    done = on_a_host((BUS,), *wall(*options, "--", "true"))

    assert done.returncode == 125
    assert f"sockets kept: {BUS} (D-Bus)" in done.stderr


def test_doctor(on_a_host):
    """doctor names what is there, and says that run masks it."""
    done = on_a_host((NSCD, BUS), *agentwall("doctor"))

    said = " ".join(done.stdout.split())
    assert f"nscd socket {NSCD}: names resolve unseen by a sandbox that can reach it" in said
    assert f"D-Bus socket {BUS}: " in said
    assert "close: run masks it; elsewhere do not mount it" in said
    assert "avahi" not in said
    assert "declare dns: {servers: [" in said
    assert "ok netns cookie there" in said


def test_run_of_the_host_is_untouched(on_a_host):
    """Neither these tests nor a run leave anything in the /run of whoever started them."""
    # One that nobody else writes to; mount(8) wants its directory there.
    look = "ls -A /run"
    script = (
        f'mount -t tmpfs none /run && mkdir /run/mount && {look} && echo THEN && "$@" && {look}'
    )
    around = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")

    done = on_a_host((NSCD,), *wall("--", "touch", "/run/made"), around=around)
    before, then, after = done.stdout.partition("THEN\n")

    assert (done.returncode, bool(then)) == (0, True), done.stderr
    assert before == after


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_resolv_conf(on_a_host, tmp_path, user):
    """A policy's DNS servers are what the C library's resolver reads; it cannot be written."""
    (tmp_path / "names.yaml").write_text(
        'version: 1\ndns: {servers: [192.0.2.53, "2001:db8::53"], search: [a.example]}\n'
    )
    before = Path("/etc/resolv.conf").read_bytes()
    script = "cat /etc/resolv.conf; echo forged >>/etc/resolv.conf || echo REFUSED"
    words = ("-p", "names.yaml", "--user", user, "--", "sh", "-c", script)

    done = on_a_host((NSCD,), *wall(*words))

    assert done.stdout.splitlines()[1:4] == [
        "nameserver 192.0.2.53",
        "nameserver 2001:db8::53",
        "search a.example",
    ]
    assert done.stdout.endswith("REFUSED\n")
    assert Path("/etc/resolv.conf").read_bytes() == before


def test_resolv_conf_without_dns(on_a_host):
    """Without DNS servers in the policy the host's resolv.conf stays."""
    done = on_a_host((NSCD,), *wall("--", "cat", "/etc/resolv.conf"))

    assert done.stdout == Path("/etc/resolv.conf").read_text()
