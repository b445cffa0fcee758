# SPDX-License-Identifier: Apache-2.0
"""Real clients behind the shipped signatures: miners get nothing out, others work as ever."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.cli import agentwall, environment
from rig.lab import OUTSIDE, PERMITTED, Lab, lab
from rig.listeners import Session, sink, tcp_server
from rig.process import run_checked, running
from rig.stratum import CryptonoteSession, StratumSession
from rig.tree import ROOT
from rig.web import WebServer, web_server

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

MODULES = ROOT / "build" / "clients" / "node_modules"
MINE = ROOT / "tests" / "clients" / "mine.js"
V1, CRYPTONOTE, WEBSOCKET = 3333, 4444, 8892
FILES, SOCKS, CONNECT, RPC, REDIS = 8000, 1080, 3128, 9000, 6379
ALLOWED = [443, V1, CRYPTONOTE, WEBSOCKET, FILES, SOCKS, CONNECT, RPC, REDIS]
POLICY = f"""version: 1
name: lab
detect: {{mining: block, tunnel: block}}
allow:
  - {{cidr: {PERMITTED}, ports: {ALLOWED}}}
"""
SUBSCRIBE = '{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}'


def excepting(*groups: str) -> str:
    """Return the policy with what its rule excepts."""
    return POLICY.replace("]}\n", f"], except: [{', '.join(groups)}]}}\n")


@pytest.fixture(scope="module")
def here() -> Iterator[Lab]:
    with lab() as made:
        yield made


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a command."""

    code: int
    out: str
    err: str
    found: list[dict]
    """Detections in the event file."""


def run(made: Lab, directory: Path, *command: str | Path, policy: str = POLICY) -> Outcome:
    """Run *command* behind *policy* and the shipped signatures in the near namespace."""
    path, events = directory / "policy.yaml", directory / "events.jsonl"
    path.write_text(policy)
    words = agentwall("run", "-p", path, "--events", events, "--", *command)
    done = subprocess.run(
        made.near.inside(*words),
        env=environment(NODE_PATH=str(MODULES), HOME=str(directory), GIT_CONFIG_NOSYSTEM="1"),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert events.exists(), done.stderr
    records = [json.loads(line) for line in events.read_text().splitlines()]
    found = [each for each in records if each["kind"] == "detection"]
    return Outcome(code=done.returncode, out=done.stdout, err=done.stderr, found=found)


@pytest.fixture(scope="module")
def node() -> str:
    """Node, where the miners' packages are installed."""
    found = shutil.which("node")
    if found is None or not (MODULES / "stratum-client").is_dir():
        pytest.skip("real clients are not installed: tools/setup.sh clients")
    return found


def denied(outcome: Outcome) -> set[tuple[str, str]]:
    """Return class and dialect of what was cut."""
    return {(e["class"], e["dialect"]) for e in outcome.found if e["verdict"] == "deny"}


@pytest.mark.parametrize(
    ("client", "port", "session", "dialect"),
    [
        ("stratum-client", V1, StratumSession, "stratum-v1"),
        ("coin-hive", CRYPTONOTE, CryptonoteSession, "cryptonote"),
    ],
)
def test_miners(
    here: Lab,
    tmp_path: Path,
    node: str,
    client: str,
    port: int,
    session: Callable[[], Session],
    dialect: str,
) -> None:
    """The pool hears nothing of a real miner, which is told; where mining is excepted it works."""
    with tcp_server(here.far, PERMITTED, port, session=session) as pool:
        cut = run(here, tmp_path, node, MINE, client, PERMITTED, str(port))
        assert pool.received == b""
        assert cut.out.split() == ["closed"]
        assert {cls for cls, _ in denied(cut)} == {"mining"}, cut.err
        (tmp_path / "events.jsonl").unlink()
        mined = run(
            *(here, tmp_path, node, MINE, client, PERMITTED, str(port)),
            policy=excepting("mining"),
        )

    assert dialect in {found for _, found in denied(cut)}
    assert mined.out.split() == ["work", "share"], mined.err
    assert [each for each in mined.found if each["remote"]["address"] == PERMITTED] == []


def test_an_account_without_a_wallet(here: Lab, tmp_path: Path, node: str) -> None:
    """A login that could be any application's gets out; the work that answers it is kept out."""
    with tcp_server(here.far, PERMITTED, CRYPTONOTE, session=CryptonoteSession) as pool:
        command = ("env", "ACCOUNT=account", node, MINE, "coin-hive", PERMITTED, str(CRYPTONOTE))
        cut = run(here, tmp_path, *command)

    assert pool.received.count(b"\n") == 1
    assert "work" not in cut.out
    assert ("mining", "cryptonote") in denied(cut), cut.err


@contextmanager
def browsers_proxy(
    made: Lab, directory: Path, node: str, session: Callable[[], Session]
) -> Iterator[None]:
    """Run what browsers' miners mine by on the far side, at a pool with which *session* talks."""
    address = (PERMITTED, str(CRYPTONOTE), PERMITTED, str(WEBSOCKET))
    with (
        tcp_server(made.far, PERMITTED, CRYPTONOTE, session=session),
        running(
            made.far_command("env", f"NODE_PATH={MODULES}", node, MINE, "proxy", *address),
            log=directory / "proxy.log",
            ready=lambda: made.far.listens(WEBSOCKET),
        ),
    ):
        yield


def test_browser(here: Lab, tmp_path: Path, node: str) -> None:
    """A browser's miner is cut for its first masked frame, which only a decoder can read."""
    browse = (node, MINE, "browser", PERMITTED, str(WEBSOCKET))
    # There is no work for it: the answer would be cut as well, by whoever of the two comes first.
    with browsers_proxy(here, tmp_path, node, lambda: sink):
        cut = run(here, tmp_path, *browse)
    (tmp_path / "events.jsonl").unlink()
    with browsers_proxy(here, tmp_path, node, CryptonoteSession):
        mined = run(here, tmp_path, *browse, policy=excepting("mining"))

    assert "share" not in cut.out
    assert {cls for cls, _ in denied(cut)} == {"mining"}, cut.err
    assert {each["stage"] for each in cut.found} == {"decoder"}
    assert mined.out.split() == ["work", "share"], mined.err
    assert mined.found == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What harmless clients talk to, on the far side."""

    web: WebServer
    """A git repository, over TLS."""


@pytest.fixture(scope="module")
def site(here: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A git repository over TLS, packages over HTTP, JSON-RPC and a store of keys."""
    root = tmp_path_factory.mktemp("files")
    (root / "hello.txt").write_text("hello\n")
    make_package(root / "simple" / "tiny")
    serve = (sys.executable, "-m", "http.server", "-d", root, str(FILES))
    with ExitStack() as stack:
        web = stack.enter_context(web_server(here, PERMITTED, name="lab.example", files={}))
        make_repository(web.access_log.parent / "root")
        stack.enter_context(tcp_server(here.far, PERMITTED, RPC, session=json_rpc))
        stack.enter_context(tcp_server(here.far, PERMITTED, REDIS, session=lambda: store))
        log = root.parent / "http.log"
        listening = running(
            here.far_command(*serve), log=log, ready=lambda: here.far.listens(FILES)
        )
        stack.enter_context(listening)
        yield Site(web=web)


def make_package(directory: Path) -> None:
    """Put a wheel into *directory*, large enough for several segments."""
    directory.mkdir(parents=True)
    entry = "tiny-1.0.dist-info"
    with zipfile.ZipFile(directory / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", f"TEXT = {'mining.subscribe ' * 20_000!r}\n")
        wheel.writestr(f"{entry}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{entry}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{entry}/RECORD", "")


def make_repository(root: Path) -> None:
    """Put a bare repository with one commit below *root*, as a plain web server can serve it."""
    root.mkdir(exist_ok=True)
    tree, bare = root.parent / "tree", root / "tiny.git"
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", tree)
    run_checked("git", "init", "-q", tree)
    (tree / "pool.py").write_text(SUBSCRIBE * 100)
    run_checked(*git, "add", ".")
    run_checked(*git, "commit", "-qm", "a commit")
    run_checked("git", "clone", "-q", "--bare", tree, bare)
    run_checked("git", "-C", bare, "update-server-info")
    # nginx reads as a user of its own.
    for entry in (root, *root.rglob("*")):
        entry.chmod(0o755 if entry.is_dir() else 0o644)


def json_rpc() -> Session:
    """A tool server that speaks as MCP does: JSON-RPC 2.0, one message a line."""
    rest = b""

    def converse(data: bytes) -> bytes:
        nonlocal rest
        *lines, rest = (rest + data).split(b"\n")
        ids = [json.loads(line)["id"] for line in lines]
        answers = [{"jsonrpc": "2.0", "id": ident, "result": {"text": SUBSCRIBE}} for ident in ids]
        return b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)

    return converse


def store(data: bytes) -> bytes:
    """Answer a command as Redis does (RESP): a text that names a pool's method."""
    return b"+OK\r\n" if b"SET" in data else b"$16\r\nmining.subscribe\r\n"


CALL_TOOLS = f"""
import json, socket
sock = socket.create_connection(({PERMITTED!r}, {RPC}), timeout=60)
lines = sock.makefile("r")
for ident, method in enumerate(["initialize", "tools/list", "tools/call", "login", "submit"]):
    params = {{"name": "search", "arguments": {{"text": {SUBSCRIBE!r}, "login": "me"}}}}
    message = {{"jsonrpc": "2.0", "id": ident, "method": method, "params": params}}
    sock.sendall(json.dumps(message).encode() + b"\\n")
    assert json.loads(lines.readline())["id"] == ident
print("hello")
"""
KEEP = f"""
import socket
sock = socket.create_connection(({PERMITTED!r}, {REDIS}), timeout=60)
sock.sendall(b"*3\\r\\n$3\\r\\nSET\\r\\n$1\\r\\nk\\r\\n$16\\r\\nmining.subscribe\\r\\n")
assert sock.recv(99) == b"+OK\\r\\n"
sock.sendall(b"*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\nk\\r\\n")
assert b"mining.subscribe" in sock.recv(99)
print("hello")
"""
BROWSE = f"""
import http.client
connection = http.client.HTTPConnection({PERMITTED!r}, {FILES}, timeout=60)
for _ in range(3):
    connection.request("GET", "/hello.txt", headers={{"X-Note": "mining.subscribe"}})
    text = connection.getresponse().read().decode()
print(text, end="")
"""
PYTHON = (sys.executable, "-c")
HARMLESS = {
    "json-rpc": (*PYTHON, CALL_TOOLS),
    "redis": (*PYTHON, KEEP),
    "http.client": (*PYTHON, BROWSE),
    "pip": (
        *(
            "sh",
            "-c",
            '"$0" -m pip --isolated download -q --no-deps --no-cache-dir "$@" && echo hello',
        ),
        *(sys.executable, "--disable-pip-version-check", "--trusted-host", PERMITTED),
        *("-i", f"http://{PERMITTED}:{FILES}/simple", "tiny==1.0"),
    ),
    "git": (
        *("sh", "-c", 'git clone -q "$0" out && test -s out/pool.py && echo hello'),
        f"https://{PERMITTED}/tiny.git",
    ),
}


@pytest.mark.parametrize("command", HARMLESS.values(), ids=HARMLESS)
def test_harmless(here: Lab, tmp_path: Path, site: Site, command: tuple[str, ...]) -> None:
    """Other software works as ever, and nothing is told of it, even where it talks about mining."""
    trusting = ("env", f"GIT_SSL_CAINFO={site.web.authority}")
    done = run(here, tmp_path, *trusting, *command)

    assert (done.code, done.out) == (0, "hello\n"), done.err
    assert done.found == []


@contextmanager
def socks_proxy(made: Lab, directory: Path) -> Iterator[None]:
    """Run microsocks on the far side."""
    found = shutil.which("microsocks")
    if found is None:
        pytest.skip("needs microsocks: a SOCKS proxy")
    command = made.far_command(found, "-i", PERMITTED, "-p", str(SOCKS))
    log = directory / "socks.log"
    with running(command, log=log, ready=lambda: made.far.listens(SOCKS)):
        yield


def test_socks(here: Lab, tmp_path: Path, site: Site) -> None:
    """A SOCKS proxy is a tunnel: cut, unless the rule excepts it."""
    url = f"http://{OUTSIDE}:{FILES}/hello.txt"
    fetch = ("curl", "-sS", "-m", "60", "--socks5", f"{PERMITTED}:{SOCKS}", url)
    with socks_proxy(here, tmp_path):
        cut = run(here, tmp_path, *fetch)
        (tmp_path / "events.jsonl").unlink()
        let = run(here, tmp_path, *fetch, policy=excepting("tunnel/socks"))

    assert (denied(cut), cut.out) == ({("tunnel", "socks")}, "")
    assert (let.out, denied(let)) == ("hello\n", set()), let.err


def test_mining_behind_socks(here: Lab, tmp_path: Path) -> None:
    """Behind a proxy that is excepted mining is still mining: the pool hears nothing."""
    telnet = (
        f"{{ echo {shlex.quote(SUBSCRIBE)}; sleep 1; }} | curl -sS -m 60 "
        f"--socks5 {PERMITTED}:{SOCKS} telnet://{OUTSIDE}:{V1}"
    )
    with (
        socks_proxy(here, tmp_path),
        tcp_server(here.far, OUTSIDE, V1, session=StratumSession) as pool,
    ):
        cut = run(here, tmp_path, "sh", "-c", telnet, policy=excepting("tunnel/socks"))

    assert pool.connections == 1
    assert pool.received == b""
    assert denied(cut) == {("mining", "stratum-v1")}, cut.err


def proxy_and_origin() -> Session:
    """A proxy that CONNECT is asked of, and the web server behind it, in one."""

    def converse(data: bytes) -> bytes:
        if data.startswith(b"CONNECT "):
            return b"HTTP/1.1 200 Connection established\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n"

    return converse


def test_connect(here: Lab, tmp_path: Path) -> None:
    """A way through an HTTP proxy is told of and works: what it carries is what counts."""
    proxy = f"http://{PERMITTED}:{CONNECT}"
    words = ("curl", "-sS", "-m", "60", "-p", "-x", proxy, f"http://{OUTSIDE}/")
    with tcp_server(here.far, PERMITTED, CONNECT, session=proxy_and_origin):
        done = run(here, tmp_path, *words)

    assert done.out == "hello\n", done.err
    assert {(e["dialect"], e["verdict"]) for e in done.found} <= {("http-connect", "allow")}


def test_mining_behind_connect(here: Lab, tmp_path: Path) -> None:
    """What is said behind CONNECT is read as well: only the request for the way gets out."""
    telnet = (
        f"{{ echo {shlex.quote(SUBSCRIBE)}; sleep 1; }} | curl -sS -m 60 -p "
        f"-x http://{PERMITTED}:{CONNECT} telnet://{OUTSIDE}:{V1}"
    )
    with tcp_server(here.far, PERMITTED, CONNECT, session=proxy_and_origin) as proxy:
        cut = run(here, tmp_path, "sh", "-c", telnet)

    assert proxy.received.startswith(b"CONNECT ")
    assert proxy.received.endswith(b"\r\n\r\n")
    assert ("mining", "stratum-v1") in denied(cut), cut.err
