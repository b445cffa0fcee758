# SPDX-License-Identifier: Apache-2.0
"""Ways out of ``agentwall run`` that no cgroup hook sees, and what must go on working."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest
from rig.cli import agentwall, environment, run_agentwall
from rig.lab import OUTSIDE, PERMITTED, lab
from rig.namespace import temp_netns
from rig.scratch import scratch
from rig.ssh import ssh_server
from rig.web import web_server

from agentwall.host.exposure import reachable_sockets
from agentwall.host.identity import resolve_identity
from agentwall.host.seccomp import knows_machine

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not knows_machine(platform.machine()), reason="no filter for this machine"),
]

ROADS = {
    "vsock": (40, 1),
    "vsock-datagram": (40, 2),
    "vsock-behind-high-bits": (40 | 1 << 32, 1),
    "packet": (17, 3),
    "packet-by-its-old-name": (2, 10),
    "alg": (38, 5),
    "xdp": (44, 3),
    "key": (15, 3),
    "rds": (21, 5),
    "tipc": (30, 5),
    "smc": (43, 1),
    "kcm": (41, 5),
    "rxrpc": (33, 2),
    "can": (29, 3),
    "pppox": (24, 1),
    "bluetooth": (31, 3),
    "qipcrtr": (42, 2),
    "mctp": (45, 2),
}
"""Family and type."""
TRY = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
word = ctypes.c_ulong
seen = {}
for name, (family, kind) in json.loads(sys.argv[1]).items():
    made = libc.syscall(word(int(sys.argv[2])), word(family), word(kind), word(0))
    seen[name] = 0 if made >= 0 else ctypes.get_errno()
ring = libc.syscall(word(425), word(4), ctypes.create_string_buffer(120))
seen["io_uring"] = 0 if ring >= 0 else ctypes.get_errno()
print(json.dumps(seen))
"""
PLAIN = {"unix": (1, 1), "inet": (2, 1), "inet6": (10, 2), "netlink": (16, 3)}
SYS_SOCKET = {"x86_64": "41", "aarch64": "198"}.get(platform.machine(), "")


def attempt(roads: dict[str, tuple[int, int]], *words: str) -> dict[str, int]:
    """Try *roads* inside ``agentwall run``, or outside without *words*; return the errnos."""
    command = ("python3", "-c", TRY, json.dumps(roads), SYS_SOCKET)
    if words:
        with scratch("families") as directory:
            done = run_agentwall("run", *words, "--", *command, cwd=directory)
    else:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_no_way_out_by_family(user):
    """In enforce mode no family opens that no hook sees, nor a ring, for root or another."""
    seen = attempt(ROADS | PLAIN, "--events", "e", "--user", user)

    expected = dict.fromkeys(ROADS, errno.EAFNOSUPPORT) | dict.fromkeys(PLAIN, 0)
    assert seen == expected | {"io_uring": errno.ENOSYS}


@pytest.mark.parametrize("mode", ["audit", "observe"])
def test_families_in_other_modes(mode):
    """Where nothing is refused, what opens outside opens inside too, and coverage says so."""
    tried = {name: ROADS[name] for name in ("vsock", "alg")} | PLAIN

    assert attempt(tried, "--events", "e", "--mode", mode) == attempt(tried)


def test_kept_capability_keeps_its_family():
    """NET_RAW that is kept opens packet sockets, by both names, and no other family."""
    seen = attempt(ROADS, "--events", "e", "--keep-cap", "NET_RAW", "--user", "root")

    opened = {name for name, code in seen.items() if code == 0}
    assert opened == {"packet", "packet-by-its-old-name"}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 0, "coverage: full"),
        (["--mode", "audit"], 125, "expected full, got partial; open roads: socket families"),
        (["--keep-cap", "NET_RAW"], 125, "capabilities kept: NET_RAW"),
    ],
)
def test_full_coverage(tmp_path, words, code, says):
    """In a network namespace of its own, with nothing kept, an enforced run has full coverage."""
    if found := reachable_sockets(resolve_identity(None, {}), {}):
        pytest.skip(f"services of this host are in reach: {found}")
    options = ("run", "--events", "e", "--require-full", *words)
    variables = {k: v for k, v in environment().items() if not k.endswith(("_SOCK", "_ADDRESS"))}
    with temp_netns("full") as namespace:
        done = subprocess.run(
            namespace.inside(*agentwall(*options, "--", "true")),
            cwd=tmp_path,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_partial_in_the_hosts_namespace(tmp_path):
    """In the host's network namespace coverage stays partial, though families are closed."""
    done = run_agentwall("run", "--events", "e", "--", "true", cwd=tmp_path)

    assert "coverage: partial; open roads: the host's network namespace" in done.stderr
    assert "vsock" not in done.stderr


POLICY = f"""version: 1
allow:
  - {{cidr: {PERMITTED}, ports: [443]}}
  - {{cidr: {OUTSIDE}, ports: [22], except: [tunnel/ssh]}}
"""
RESOLVE = """
import asyncio, multiprocessing, socket
found = socket.getaddrinfo("localhost", 80, flags=socket.AI_ADDRCONFIG, type=socket.SOCK_STREAM)
assert {each[4][0] for each in found} <= {"127.0.0.1", "::1"} and found
assert socket.if_nameindex()
assert asyncio.run(asyncio.sleep(0, "slept")) == "slept"
ours, theirs = socket.socketpair()
ours.sendall(b"x")
assert theirs.recv(1) == b"x"
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
print("fine")
"""


@pytest.fixture(scope="module")
def world():
    """A lab with a web server that also has a git repository, and an SSH server."""
    commit = "1" * 40
    files = {"v1/x": "weights", "repo.git/info/refs": f"{commit}\trefs/heads/main\n"}
    files["repo.git/HEAD"] = "ref: refs/heads/main\n"
    with ExitStack() as stack:
        made = stack.enter_context(lab())
        web = web_server(made, PERMITTED, name="models.example", files=files)
        ssh = ssh_server(made, OUTSIDE)
        yield made, stack.enter_context(web), stack.enter_context(ssh)


@pytest.fixture
def run_tool(world, tmp_path):
    """A function that runs a command behind the wall in the lab; returns the finished process."""
    (tmp_path / "policy.yaml").write_text(POLICY)

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        events = f"{len(list(tmp_path.iterdir()))}.jsonl"
        options = ("run", "-p", "policy.yaml", "--events", events)
        return subprocess.run(
            world[0].near.inside(*agentwall(*options, "--", *map(str, command))),
            cwd=tmp_path,
            env=environment(HOME=str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def test_curl_works(world, run_tool):
    """curl fetches over TLS what the policy permits."""
    done = run_tool("curl", "-sS", "--cacert", world[1].authority, f"https://{PERMITTED}/v1/x")

    assert (done.returncode, done.stdout) == (0, "weights"), done.stderr


def test_git_works(world, run_tool):
    """Git lists a repository over TLS."""
    trust = f"GIT_SSL_CAINFO={world[1].authority}"
    done = run_tool("env", trust, "git", "ls-remote", "--heads", f"https://{PERMITTED}/repo.git")

    assert (done.returncode, done.stdout) == (0, f"{'1' * 40}\trefs/heads/main\n"), done.stderr


def test_ssh_works(world, run_tool, tmp_path):
    """An ssh client logs in."""
    key = tmp_path / "key"
    shutil.copy(world[2].client_key, key)
    key.chmod(0o600)
    world[2].forget()
    run_tool(*world[2].client_command(key), "1")

    assert world[2].logins() == 1


def test_python_works(run_tool, tmp_path):
    """getaddrinfo() with its netlink query, socket pairs, asyncio and process pools work."""
    (tmp_path / "resolve.py").write_text(RESOLVE)
    done = run_tool(sys.executable, "resolve.py")

    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
