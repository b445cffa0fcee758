# SPDX-License-Identifier: Apache-2.0
"""Clients and servers that speak TLS work without agentwall, so that a failure behind it tells."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.cgroup import members, temp_cgroup
from rig.containers import Container, spelled
from rig.dialogues import http
from rig.listeners import sink
from rig.namespace import Namespace, temp_netns
from rig.process import stop, wait_until
from rig.tls_benign import benign_files, benign_requests
from rig.tls_clients import TLS_CLIENTS, TlsClient, client
from rig.tls_containers import container_clients, library_in, tls_container, tls_engine
from rig.tls_pool import CHAT, MINING, Form, PoolSession
from rig.tls_programs import copy_libraries, with_libraries
from rig.tls_service import NAME, TlsService, tls_service
from rig.tls_web import QUICK, ask_all, benign_server
from rig.tree import ROOT

from agentwall.detect.dfa import compile_automaton
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Transport
from agentwall.detect.signature_load import load_signatures

pytestmark = pytest.mark.kernel

V4, V6 = "127.0.0.1", "::1"
LIBRARIES = {"openssl": "/libssl.so.3", "gnutls": "/libgnutls.so.30", "nss": "/libssl3.so"}
SPELLING = (
    *("python", "curl", "curl-gnutls", "wget", "gnutls-cli", "openssl", "tstclnt", "socat"),
    *("node", "c-ex", "git", "docker", "npm-stratum-client", "npm-coin-hive"),
)
"""Clients whose command lines spell an address each in its own way, or whose code differs."""
SIGNATURES = ROOT / "policies" / "signatures" / "mining.yaml"
LOADED = load_signatures([(str(SIGNATURES), SIGNATURES.read_text(encoding="utf-8"))]).signatures
AUTOMATON = compile_automaton(LOADED)
every_client = pytest.mark.parametrize("each", TLS_CLIENTS, ids=lambda each: each.name)


def dialects(text: bytes, side: Side = Side.CLIENT) -> set[str]:
    """Dialects that the shipped signatures find in *text*."""
    hits = scan(AUTOMATON, Transport.TCP, side, text, whole=False)
    found = [LOADED[i] for hit in hits for i in AUTOMATON.accepts[hit.accept]]
    return {each.dialect for each in found if not each.hand_over}


@pytest.fixture(scope="module")
def here() -> Iterator[Namespace]:
    with temp_netns("tls") as namespace:
        yield namespace


@pytest.fixture(scope="module")
def pools(here) -> Iterator[dict[tuple[str, bool], TlsService]]:
    """Pools by address and whether they are of TLS in TLS."""
    with (
        tls_service(here, V4) as four,
        tls_service(here, V6) as six,
        tls_service(here, V4, nested=True) as four_nested,
        tls_service(here, V6, nested=True) as six_nested,
    ):
        yield {
            (V4, False): four,
            (V6, False): six,
            (V4, True): four_nested,
            (V6, True): six_nested,
        }


def skip_without(each: TlsClient) -> None:
    if reason := each.available():
        pytest.skip(f"{each.name}: {reason}")


@pytest.mark.parametrize(
    ("each", "address"),
    [(each, V4) for each in TLS_CLIENTS] + [(client(name), V6) for name in SPELLING],
    ids=lambda value: getattr(value, "name", value),
)
def test_client_mines(here, pools, each, address):
    """Each client says what a miner says and gets its answer; the pool counts exactly that."""
    skip_without(each)
    pool = pools[address, each.nests]
    pool.clear()
    done = here.run(*each.argv(address, pool.port, server_name=NAME if each.names else None))
    *asked, talk = pool.settle()

    assert done.returncode == 0, done.stderr
    # Docker's asks first whether anybody is there, and begins anew where that takes 2 s.
    assert asked == [] or each.name == "docker"
    assert not any(b"GET " in one.text for one in asked)
    assert talk.version == "TLSv1.3"
    assert talk.server_name == (NAME if each.names else None)
    assert talk.wire_bytes > len(talk.text) > 0
    if not each.name.startswith("npm-"):
        assert all(line in talk.messages for line in each.mining())
    if not each.nests:
        assert dialects(talk.text) >= set(list(MINING[each.form])[:1] if each.cuts else [])
        assert dialects(talk.text)
    if each.cuts and not each.nests:
        assert talk.text == "".join(f"{line}\n" for line in each.mining()).encode()


@every_client
def test_client_notices_a_reset(here, each):
    """A client whose connection is reset in the middle exits with a code that says so."""
    skip_without(each)
    with tls_service(here, V4, resets_after_bytes=0, nested=each.nests) as pool:
        done = here.run(*each.argv(V4, pool.port))

    assert done.returncode != 0, done.stdout


@pytest.mark.parametrize(
    "each", [each for each in TLS_CLIENTS if each.cuts], ids=lambda each: each.name
)
def test_client_cuts(here, pools, each):
    """The text arrives whole in however many writes, each in a record of its own at most."""
    skip_without(each)
    pool = pools[V4, each.nests]
    counts = []
    for pieces in (1, 5):
        pool.clear()
        done = here.run(*each.argv(V4, pool.port, pieces=pieces))
        (talk,) = pool.settle()
        counts.append(talk.text_records)

        assert done.returncode == 0, done.stderr
        assert talk.messages == list(each.mining())

    # Node joins what is written in one turn of its loop but for the first.
    assert counts[1] > counts[0]


@every_client
def test_library_is_the_one_named(here, each):
    """A client maps the library that the table names, unless it has it inside or another."""
    skip_without(each)
    maps = mapped_by(here, each)

    for name, library in LIBRARIES.items():
        if name == each.library:
            assert (library in maps) is each.shared
        elif not each.shared:
            assert library not in maps


@pytest.mark.parametrize("name", ["python", "curl-gnutls", "tstclnt", "c-ex", "node-debian"])
def test_library_of_ones_own(here, tmp_path, name):
    """A client can be given a copy of its library that nobody else has."""
    each = client(name)
    skip_without(each)
    copies = copy_libraries(tmp_path)
    maps = mapped_by(here, each, tmp_path)
    name = LIBRARIES[each.library]

    assert f"{tmp_path}{name}" in [str(path) for path in copies]
    assert [line for line in maps.splitlines() if line.endswith(name)]
    assert all(f"{tmp_path}/" in line for line in maps.splitlines() if line.endswith(name))


def mapped_by(here: Namespace, each: TlsClient, libraries: Path | None = None) -> str:
    """The maps of a client that waits for an answer, with the libraries of this directory."""
    with (
        temp_cgroup("client") as cgroup,
        tls_service(here, V4, session=lambda: sink, nested=each.nests) as pool,
    ):
        words = each.argv(V4, pool.port)
        words = with_libraries(libraries, words) if libraries else words
        with running_client(here.command(*words, cgroup=cgroup)):
            wait_until(lambda: any(talk.version for talk in pool.talks), what="a handshake")
            return "".join(Path(f"/proc/{pid}/maps").read_text() for pid in members(cgroup))


@contextmanager
def running_client(command: list[str]) -> Iterator[None]:
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        stop(child)


@pytest.mark.parametrize("name", ["python", "gnutls-cli", "tstclnt", "c-ex", "curl"])
def test_older_tls(here, name):
    """A pool of TLS 1.2 alone is spoken to in that."""
    each = client(name)
    skip_without(each)
    only = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
    with tls_service(here, V4, versions=only) as pool:
        done = here.run(*each.argv(V4, pool.port))
        (talk,) = pool.settle()

    assert done.returncode == 0, done.stderr
    assert talk.version == "TLSv1.2"
    assert talk.text_records >= 1


def test_application_protocol(here):
    """What a client offers and the server takes is known (ALPN)."""
    with tls_service(here, V4, alpn=["http/1.1"]) as pool:
        done = here.run(*client("curl").argv(V4, pool.port))
        (talk,) = pool.settle()

    assert (done.returncode, talk.alpn) == (0, "http/1.1")


@pytest.mark.parametrize("resets_after_bytes", [0, 100])
def test_bytes_before_a_reset(here, resets_after_bytes):
    """A server that resets after so many bytes has counted at least these."""
    lines = [f'{{"id": {i}, "method": "mining.ping", "params": []}}' for i in range(40)]
    with tls_service(here, V4, resets_after_bytes=resets_after_bytes) as pool:
        each = client("openssl")
        done = here.run(*each.argv(V4, pool.port, lines, pieces=20))
        (talk,) = pool.settle()

    assert done.returncode == 1
    assert len(talk.text) >= resets_after_bytes


def test_no_tls(here):
    """A client that speaks clear text is no talk: its handshake failed, and nothing was read."""
    with tls_service(here, V4) as pool:
        here.run("curl", "--max-time", "60", f"http://{V4}:{pool.port}/")
        (talk,) = pool.settle()

    assert talk.end is not None
    assert talk.end.startswith("refused: ")
    assert (talk.version, talk.text) == (None, b"")


@pytest.mark.parametrize(
    ("form", "dialect"), [(form, dialect) for form, said in MINING.items() for dialect in said]
)
def test_pool_speaks(form, dialect):
    """Each dialect is found by the shipped signatures, and answered in its own terms."""
    lines = MINING[form][dialect]
    text = "".join(f"{line}\n" for line in lines).encode()
    if form is Form.POST:
        text = http(text)
    if form is Form.HEADERS:
        text = "\r\n".join(("GET / HTTP/1.1", *lines, "", "")).encode()
    whole = PoolSession()(text)
    session = PoolSession()

    assert dialect in dialects(text)
    assert b'"error": [20' not in whole
    assert b"".join(session(bytes([octet])) for octet in text) == whole
    assert all(line in session.messages for line in lines)


@pytest.mark.parametrize("form", Form)
def test_chat_is_no_mining(form):
    """What no miner says is not taken for mining."""
    said = CHAT[form]
    text = "".join(f"{line}\n" for line in said).encode()
    if form is Form.POST:
        text = http(text)
    if form is Form.HEADERS:
        text = "\r\n".join(("GET / HTTP/1.1", *said, "", "")).encode()

    assert dialects(text) == set()


@pytest.fixture(scope="module")
def container(here) -> Iterator[Container]:
    with (
        temp_cgroup("tls") as parent,
        tls_engine() as engine,
        tls_container(engine, parent, here.path) as made,
    ):
        assert made.cgroup.startswith(spelled(parent))
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("each", container_clients(), ids=lambda each: each.name)
def test_container_mines(container, pools, each):
    """Clients run inside a container as outside."""
    skip_without(each)
    pool = pools[V4, each.nests]
    pool.clear()
    done = container.run(*each.argv(V4, pool.port))
    (talk,) = pool.settle()

    assert done.returncode == 0, done.stderr
    assert all(line in talk.messages for line in each.mining())


@pytest.mark.slow
def test_container_has_its_own_library(container):
    """The container's library is another file than this machine's, of the same content."""
    inside = library_in(container)
    outside = next(Path("/usr/lib").glob("*/libssl.so.3"))

    assert not inside.samefile(outside)
    assert inside.read_bytes() == outside.read_bytes()


def test_benign_load(here):
    """Several clients ask for hundreds of things over TLS and get them all."""
    with benign_server(here, V4) as server:
        load = ask_all(server, benign_requests(1, QUICK), lambda words: here.run(*words))

        # It writes its log after it has answered.
        wait_until(lambda: server.requests() >= QUICK, what="a log of all requests")

        assert load.is_complete, load.errors
        assert sum(load.answered.values()) == server.requests() == QUICK
        assert all(load.answered.values())


def test_benign_is_no_mining():
    """Nothing that is asked for or answered is taken for mining, however much it quotes miners."""
    asked = {each.text(NAME) for each in benign_requests(2, 2 * QUICK)}
    answered = [http(body, first="HTTP/1.1 200 OK") for body in benign_files(2).values()]

    assert sum(b"mining.subscribe" in text for text in asked) > 50
    assert [text for text in asked if dialects(text)] == []
    assert [text for text in answered if dialects(text[:4096], Side.SERVER)] == []


def test_benign_is_the_same_each_time():
    """A seed stands for its requests and files; another seed for others."""
    first, other = benign_requests(3, 50), benign_requests(4, 50)

    assert first == benign_requests(3, 80)[:50] != other
    assert benign_files(3) == benign_files(3) != benign_files(4)
