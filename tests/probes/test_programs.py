# SPDX-License-Identifier: Apache-2.0
"""What the programs of ``bpf/probes/tls.c`` make of calls, of real libraries and of a stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from rig import in_cgroup, temp_cgroup
from rig.probing import END, HEAR, SAY, SHAKE, Probing, Seen, build_stand_in, probing

from agentwall.flow.tls import TlsLibrary
from agentwall.probes import compiling
from agentwall.probes.libraries import NEEDED, WANTED

WHY_NOT = compiling.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

PYTHON = "/usr/bin/python3"
CONNECTION, OUTER, INNER = 0x1000, 0x2000, 0x3000
OPENSSL, GNUTLS, NSS = 1, 2, 3
COMING = b"what the peer said"

# Client and server in one process, joined by memory, without a certificate.
OPENSSL_CLIENT = """
import ssl
there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
def context(side):
    made = ssl.SSLContext(side)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("AECDH-AES256-SHA@SECLEVEL=0")
    return made
client = context(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(back, there)
server = context(ssl.PROTOCOL_TLS_SERVER).wrap_bio(there, back, server_side=True)
done = set()
while len(done) < 2:
    for side in (client, server):
        try:
            side.do_handshake()
            done.add(side)
        except ssl.SSLWantReadError:
            pass
client.write(b"GET / HTTP/1.1")
assert server.read(1000) == b"GET / HTTP/1.1"
server.write(b"HTTP/1.1 200 OK")
assert client.read(1000) == b"HTTP/1.1 200 OK"
"""
GNUTLS_CLIENT = """
import ctypes, socket, threading
lib = ctypes.CDLL("libgnutls.so.30")
lib.gnutls_record_send.restype = lib.gnutls_record_recv.restype = ctypes.c_ssize_t
PRIORITY = b"NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ANON-ECDH"
CLIENT, SERVER, ANONYMOUS = 2, 1, 2
sockets = socket.socketpair()
def checked(code):
    assert code >= 0, code
    return code
def side(flags, fd, kind):
    session, credentials = ctypes.c_void_p(), ctypes.c_void_p()
    checked(lib.gnutls_init(ctypes.byref(session), flags))
    checked(getattr(lib, f"gnutls_anon_allocate_{kind}_credentials")(ctypes.byref(credentials)))
    checked(lib.gnutls_credentials_set(session, ANONYMOUS, credentials))
    checked(lib.gnutls_priority_set_direct(session, PRIORITY, None))
    lib.gnutls_transport_set_int2(session, fd, fd)
    return session
def serve(session):
    checked(lib.gnutls_handshake(session))
    room = ctypes.create_string_buffer(100)
    assert checked(lib.gnutls_record_recv(session, room, ctypes.c_size_t(100))) == 14
    checked(lib.gnutls_record_send(session, b"HTTP/1.1 200 OK", ctypes.c_size_t(15)))
server = side(SERVER, sockets[0].fileno(), "server")
thread = threading.Thread(target=serve, args=(server,))
thread.start()
client = side(CLIENT, sockets[1].fileno(), "client")
checked(lib.gnutls_handshake(client))
checked(lib.gnutls_record_send(client, b"GET / HTTP/1.1", ctypes.c_size_t(14)))
room = ctypes.create_string_buffer(100)
checked(lib.gnutls_record_recv(client, room, ctypes.c_size_t(100)))
thread.join()
lib.gnutls_deinit(client)
"""
BEGUN = (SHAKE, CONNECTION, b"")


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Iterator[Probing]:
    """Compiled programs, with the stand-in library built beside their maps."""
    with probing(tmp_path_factory.mktemp("probing")) as made:
        yield made


@pytest.fixture(scope="module")
def caller(ground, tmp_path_factory) -> Iterator[Path]:
    """The program that calls the stand-in library, each of whose functions is probed once."""
    library, caller = build_stand_in(tmp_path_factory.mktemp("standin"))
    with ExitStack() as stack:
        for each in TlsLibrary:
            stack.enter_context(ground.attached(library, each))
        yield caller


@pytest.fixture
def sandbox(ground) -> Iterator[Path]:
    """A cgroup whose processes are in sandbox 7; nothing seen yet."""
    with temp_cgroup() as cgroup:
        ground.admit(cgroup, 7)
        ground.take()
        yield cgroup
        ground.dismiss(cgroup)
        ground.clear_calls()


def run_in(cgroup: Path, *command: str | Path, library: Path | None = None) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)} if library else None
    subprocess.run(in_cgroup(cgroup, *command), check=True, env=environment)


@contextmanager
def counted(ground: Probing) -> Iterator[dict[str, int]]:
    """Fill the dictionary, at the end, with what the counters have grown by."""
    grown: dict[str, int] = {}
    before = ground.counters()
    yield grown
    grown.update({name: value - before[name] for name, value in ground.counters().items()})


def essence(calls: list[Seen]) -> list[tuple[int, int, bytes]]:
    return [(call.act, call.connection, call.text) for call in calls]


def copy_of(name: str, directory: Path) -> Path:
    """Copy the machine's library, which others use too, into *directory*."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    (path, *_) = (
        line.split()[-1] for line in listed.stdout.splitlines() if line.split()[0] == name
    )
    return Path(shutil.copy(path, directory / name))


def test_openssl(ground, sandbox, tmp_path):
    """Text that Python hands to OpenSSL is seen before it is encrypted, answers when decrypted."""
    library = copy_of("libssl.so.3", tmp_path)
    with ground.attached(library, TlsLibrary.OPENSSL):
        run_in(sandbox, PYTHON, "-c", OPENSSL_CLIENT, library=library)
    calls = ground.take()

    client = calls[0].connection
    (server,) = {call.connection for call in calls} - {client}
    asked, told = b"GET / HTTP/1.1", b"HTTP/1.1 200 OK"
    assert {(call.sandbox, call.library) for call in calls} == {(7, OPENSSL)}
    assert len({call.process for call in calls}) == 1
    assert [each for each in essence(calls) if each[0] != SHAKE] == [
        (SAY, client, asked),
        (HEAR, server, asked),
        (SAY, server, told),
        (HEAR, client, told),
        *[(END, call.connection, b"") for call in calls[-2:]],
    ]
    assert [call.size for call in calls if call.act == HEAR] == [len(asked), len(told)]


def test_gnutls(ground, sandbox, tmp_path):
    """Text that GnuTLS gets is seen once, though sending is a function that calls another."""
    library = copy_of("libgnutls.so.30", tmp_path)
    with ground.attached(library, TlsLibrary.GNUTLS), counted(ground) as grown:
        run_in(sandbox, PYTHON, "-c", GNUTLS_CLIENT, library=library)
    calls = ground.take()

    (client,) = {call.connection for call in calls if call.act == END}
    (server,) = {call.connection for call in calls} - {client}
    asked, told = b"GET / HTTP/1.1", b"HTTP/1.1 200 OK"
    assert {(call.sandbox, call.library) for call in calls} == {(7, GNUTLS)}
    assert sorted(each for each in essence(calls) if each[0] in (SAY, HEAR)) == sorted(
        [(SAY, client, asked), (HEAR, server, asked), (SAY, server, told), (HEAR, client, told)]
    )
    assert grown["doubled"] == 2
    assert grown["calls"] == len(calls)


def test_sizes(ground, caller, sandbox):
    """A size is an int in SSL_write, whatever is above it, and a size_t in SSL_write_ex; with 0 it
    is only a handshake that may begin."""
    run_in(sandbox, caller, "sizes")

    calls = ground.take()
    assert [(call.act, call.size) for call in calls] == [(SHAKE, 0), (SAY, 4), (SAY, 0x1_0000_0005)]
    assert calls[1].text == b"wide"


def test_loop_over_one_buffer(ground, caller, sandbox):
    """A loop that hands over the same buffer again and again makes as many calls."""
    with counted(ground) as grown:
        run_in(sandbox, caller, "loop", "3")

    assert essence(ground.take()) == [(SAY, CONNECTION, b"round %d" % i) for i in range(3)]
    assert (grown["calls"], grown["doubled"]) == (3, 0)


def test_library_probed_twice(ground, caller, sandbox, tmp_path):
    """Two files that are one inode are probed twice; each call still is seen once."""
    again = tmp_path / "again.so"
    os.link(caller.with_name("libstandin.so"), again)
    with ground.attached(again, TlsLibrary.OPENSSL, "SSL_write", "SSL_read"):
        with counted(ground) as said:
            run_in(sandbox, caller, "loop", "3")
        told = ground.take()
        with counted(ground) as read:
            run_in(sandbox, caller, "hear")
        heard = ground.take()

    assert essence(told) == [(SAY, CONNECTION, b"round %d" % i) for i in range(3)]
    assert (said["calls"], said["doubled"]) == (3, 3)
    assert essence(heard) == [BEGUN, *[(HEAR, CONNECTION, COMING)] * 2]
    assert (read["calls"], read["doubled"]) == (3, 2)


def test_hear(ground, caller, sandbox):
    """Only a read that got something is one; SSL_read_ex says by reference how much.

    A thread's first read of a connection is told of at once: it may begin the handshake.
    """
    run_in(sandbox, caller, "hear")

    begun, *calls = ground.take()
    assert essence([begun]) == [BEGUN]
    assert essence(calls) == [(HEAR, CONNECTION, COMING)] * 2
    assert {(call.size, call.library, call.sandbox) for call in calls} == {(18, OPENSSL, 7)}


def test_nested_reads(ground, caller, sandbox):
    """A read in the course of a read, as of TLS inside TLS, is told from it."""
    run_in(sandbox, caller, "nested")

    begun = [(SHAKE, OUTER, b""), (SHAKE, INNER, b"")]
    inner = (HEAR, INNER, b"what came for the inner connection")
    assert essence(ground.take()) == [*begun, inner, (HEAR, OUTER, COMING)]


def test_handshake_and_end(ground, caller, sandbox):
    """SSL_connect calls SSL_do_handshake, which is one step; SSL_free(NULL) frees nothing."""
    with counted(ground) as grown:
        run_in(sandbox, caller, "shake")

    assert essence(ground.take()) == [(SHAKE, CONNECTION, b""), (END, CONNECTION, b"")]
    assert grown["doubled"] == 1


def test_gnutls_calls(ground, caller, sandbox):
    """gnutls_record_send without text goes on with what it kept: nothing new is said."""
    run_in(sandbox, caller, "gnutls")

    calls = ground.take()
    assert {call.library for call in calls} == {GNUTLS}
    assert essence(calls) == [
        (SHAKE, CONNECTION, b""),
        (SAY, CONNECTION, b"through another"),
        (SHAKE, CONNECTION, b""),
        (SAY, CONNECTION, b"directly"),
        (HEAR, CONNECTION, COMING),
        (END, CONNECTION, b""),
    ]


def test_nss_calls(ground, caller, sandbox):
    """Of NSPR's descriptors those count that SSL_ImportFD returned, until they are closed."""
    run_in(sandbox, caller, "nss")

    calls = ground.take()
    assert {call.library for call in calls} == {NSS}
    assert essence(calls) == [
        (SHAKE, CONNECTION, b""),
        (SAY, CONNECTION, b"to a peer"),
        (HEAR, CONNECTION, COMING),
        (END, CONNECTION, b""),
    ]


def test_innermost_sandbox(ground, caller, sandbox):
    """A process in a cgroup below is in its parent's sandbox, or in that cgroup's own."""
    deep = sandbox / "a" / "b" / "c"
    deep.mkdir(parents=True)
    run_in(deep, caller, "loop", "1")
    ground.admit(deep.parent, 8)
    run_in(deep, caller, "loop", "1")
    run_in(sandbox / "a", caller, "loop", "1")
    ground.dismiss(deep.parent)

    assert [call.sandbox for call in ground.take()] == [7, 8, 7]


def test_foreign_processes(ground, caller, sandbox):
    """Calls of processes in no sandbox are counted, and nothing of them is kept."""
    with temp_cgroup() as elsewhere, counted(ground) as grown:
        run_in(elsewhere, caller, "loop", "5")
        run_in(elsewhere, caller, "hear")

    assert ground.take() == []
    assert (grown["calls"], grown["lost"]) == (0, 0)
    assert grown["foreign"] >= 9


def test_no_room_for_the_call(ground, caller, sandbox):
    """A thread whose call finds no room goes on, and the call counts as lost."""
    ground.fill_calls()
    with counted(ground) as grown:
        run_in(sandbox, caller, "loop", "4")

    assert ground.take() == []
    assert (grown["calls"], grown["lost"]) == (4, 4)


def test_nobody_to_go_on_to(ground, caller, sandbox):
    """While no program is at aw_plain_next calls count as lost, and nothing is left of them."""
    with ground.without_next(), counted(ground) as grown:
        run_in(sandbox, caller, "loop", "4")
        left = ground.threads()
    run_in(sandbox, caller, "shake")

    assert (grown["lost"], left) == (4, 0)
    assert [call.act for call in ground.take()] == [SHAKE, END]


def test_stand_in_has_the_needed_calls(caller):
    """The stand-in has all that makes a file one of the libraries, and only functions probed."""
    named = subprocess.run(
        ["nm", "-D", "--defined-only", caller.with_name("libstandin.so")],
        capture_output=True,
        text=True,
        check=True,
    )
    functions = {line.split()[2] for line in named.stdout.splitlines() if line.split()[1] == "T"}
    needed = [one for each in NEEDED.values() for alternative in each for one in alternative]

    assert all(one & functions for one in needed)
    assert functions <= WANTED
