# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS at work behind a real wall: whoever maps a library, however shortly."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time

import pytest
from rig.cgroup import in_cgroup
from rig.inside_ground import Ground, inside_ground, reading_inside
from rig.namespace import temp_netns
from rig.objects import program
from rig.probed import build
from rig.process import wait_until
from rig.tls_programs import copy_libraries
from rig.tls_service import tls_service
from rig.tls_talker import CHAT, MINING, talking

from agentwall.daemon.config import TlsSettings
from agentwall.daemon.inside_state import TlsUse
from agentwall.errors import ProbesRefusedError
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.host.process import living
from agentwall.kernel.pins import list_pins
from agentwall.probes import compiling
from agentwall.probes.compiling import Compilation

pytestmark = pytest.mark.kernel

# Starts so many processes one after another; each maps the library and ends at once.
CROWD = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	for (int i = atoi(argv[1]); i > 0; i--) {
		if (!fork())
			_exit(!dlopen(argv[2], RTLD_NOW));
		wait(0);
	}
	return argc != 3;
}
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A sandbox whose TLS is read."""
    if reason := compiling.why_not():
        pytest.skip(reason)
    with inside_ground(tmp_path_factory.mktemp("inside")) as made:
        made.inside.start()
        made.inside.wait()
        yield made


@pytest.fixture(scope="module")
def here():
    """A namespace of the test's own."""
    with temp_netns("inside") as namespace:
        yield namespace


@pytest.fixture(scope="module")
def pool(here):
    """A pool that speaks TLS."""
    with tls_service(here, "127.0.0.1") as service:
        yield service


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A library and a program that maps it."""
    return build(tmp_path_factory.mktemp("parts"))


def libraries(ground: Ground, path) -> list[dict[str, int]]:
    """Return, of each file that is probed as *path*, its processes and inode."""
    return [
        {"processes": each.processes, "inode": each.inode}
        for each in ground.inside.state().libraries
        if each.path == str(path)
    ]


def test_a_session(ground, here, pool, tmp_path):
    """A process is read from when it maps its library until it ends; its hello is told joined."""
    copy_libraries(tmp_path)
    ground.told.clear()
    with talking(ground.cgroup, here, tmp_path) as one:
        ground.go_on(lambda: ground.reading_of(one.pid))
        reading, is_read = ground.reading_of(one.pid), one.is_probed()
        pool.clear()
        said = one.connect(pool.port), one.say(CHAT)
        ground.hear()
        ground.inside.settle()
        mined = one.say(MINING)
        delivered = pool.talks[0].text.decode()
    ground.go_on(lambda: ground.reading_of(one.pid) is None)
    [(hello, told)] = ground.told

    path = str(tmp_path / "libssl.so.3")
    assert reading == TlsReading(library=TlsLibrary.OPENSSL, path=path, unread=None)
    assert is_read
    assert said == ("connected", "answered")
    assert (hello.library, told) == (TlsLibrary.OPENSSL, reading)
    # Nobody destroys the socket here: it is the kernel alone that lets nothing out.
    assert (mined, delivered) == ("silence", CHAT)
    assert ground.inside.readings(ground.key).joined >= 1


def test_it_began_before(ground, here, pool, tmp_path):
    """A session of before is not read, and its process is, from its next session on."""
    copy_libraries(tmp_path)
    ground.told.clear()
    with talking(ground.cgroup, here, tmp_path) as one:
        ground.go_on(lambda: ground.reading_of(one.pid))
        before = one.connect(pool.port)
        ground.hear()
        ground.inside.settle()

    assert before == "connected"
    assert [reading.unread for _, reading in ground.told] == [None]


def test_replaced_and_deleted(ground, parts, tmp_path):
    """A library that is replaced under its users, then deleted: each is read where it is mapped."""
    library = parts.copy(tmp_path / "libssl.so")
    with ground.running(parts.caller, library) as old:
        ground.go_on(lambda: ground.reading_of(old.pid))
        parts.copy(library)
        with ground.running(parts.caller, library) as new:
            library.unlink()
            ground.go_on(lambda: ground.reading_of(new.pid))
            ground.go_on(lambda: len(libraries(ground, library)) == 2)
            found = libraries(ground, library)
            readings = [ground.reading_of(each.pid).unread for each in (old, new)]

    assert [each["processes"] for each in found] == [1, 1]
    assert len({each["inode"] for each in found}) == 2
    assert readings == [None, None]


def test_written_over_in_place(ground, parts, tmp_path):
    """A library that is written over goes on to be read once all probes of before are off."""
    library = parts.copy(tmp_path / "libssl.so")
    with ground.running(parts.caller, library) as one:
        ground.go_on(lambda: ground.reading_of(one.pid))
    data = library.read_bytes()
    with library.open("r+b") as file:
        file.write(data)
    os.utime(library, (1, 1))
    with ground.running(parts.caller, library) as two:
        ground.go_on(lambda: ground.reading_of(two.pid))
        first = ground.reading_of(two.pid).unread
        ground.go_on(lambda: not libraries(ground, library) or first is None, timeout_s=30)
        ground.go_on(lambda: libraries(ground, library), timeout_s=30)
        with ground.running(parts.caller, library) as three:
            ground.go_on(lambda: ground.reading_of(three.pid))
            last = ground.reading_of(three.pid).unread

    assert first in (None, Unread.LIMIT)
    assert last is None


def test_crowd(ground, parts, tmp_path):
    """1 000 processes that end at once: attached once, and nothing is left of them."""
    library = parts.copy(tmp_path / "libssl.so")
    crowd = program(tmp_path / "crowd", CROWD, "-ldl")
    with ground.running(parts.caller, library) as one:
        ground.go_on(lambda: ground.reading_of(one.pid))
        ground.inside.settle()
        finder = ground.inside._finder
        before = finder.attached.attached_total, len(os.listdir("/proc/self/fd"))
        done: list[int] = []
        words = in_cgroup(ground.cgroup, str(crowd), "1000", str(library))
        thread = threading.Thread(
            target=lambda: done.append(subprocess.run(words, check=False).returncode)
        )
        thread.start()
        ground.go_on(lambda: done, timeout_s=60)
        thread.join()
        ground.inside.settle()
        ground.inside._speakers.see_who_is_gone(living())
        ground.inside.settle()
        after = finder.attached.attached_total, len(os.listdir("/proc/self/fd"))
        users = [user for user in finder.attached.users() if user[1] not in (0, one.pid)]
        pids = dict(ground.inside._speakers.readings.pids)

    assert done == [0]
    assert after == before
    assert users == []
    assert pids == {one.pid: ground.key}


def test_ends_at_once(ground, here, pool, tmp_path):
    """50 real clients, each with one session that ends with it: all told once, and read."""
    copy_libraries(tmp_path)
    with talking(ground.cgroup, here, tmp_path) as one:
        ground.go_on(lambda: ground.reading_of(one.pid))
    ground.told.clear()
    url = f"https://127.0.0.1:{pool.port}/"
    script = f"for i in $(seq 50); do /usr/bin/curl -ks -o /dev/null {url}; done"
    command = ["/usr/bin/env", f"LD_LIBRARY_PATH={tmp_path}", "/bin/sh", "-c", script]
    before = ground.inside.readings(ground.key)
    child = subprocess.Popen(in_cgroup(ground.cgroup, *here.command(*command)))

    def has_ended() -> bool:
        ground.hear()
        return child.poll() is not None

    ground.go_on(has_ended, timeout_s=60)
    ground.hear()
    ground.inside.settle()
    after = ground.inside.readings(ground.key)

    assert len(ground.told) == 50
    assert len({hello.attempt.cookie for hello, _ in ground.told}) == 50
    assert after.sessions - (before.sessions if before else 0) == 50
    assert all(hello.is_joined for hello, _ in ground.told)


def test_connections_of_the_dead(ground, here, pool, tmp_path):
    """Upkeep forgets connections of processes that have ended without a word."""
    copy_libraries(tmp_path)
    connections = ground.enclosure.wall.plain._connections
    with talking(ground.cgroup, here, tmp_path) as one:
        ground.go_on(lambda: ground.reading_of(one.pid))
        one.connect(pool.port)
        held = len(list(connections.keys()))
        os.kill(one.pid, 9)
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    ground.go_on(lambda: not list(connections.keys()))

    assert held >= 1


def test_a_file_that_hangs(ground, parts, tmp_path):
    """What waits for a sandbox holds up nothing: state, hellos and upkeep go on, and it is said."""
    gate = threading.Event()
    thread = ground.inside._thread
    try:
        thread.run(gate.wait)
        wait_until(lambda: thread.busy_s() > 0, what="a thread that hangs")
        begun_s = time.monotonic()
        library = parts.copy(tmp_path / "libssl.so")
        with ground.running(parts.caller, library) as one:
            ground.go_on(lambda: thread.waiting)
            state = ground.inside.state()
            ground.inside.settle()
            took_s = time.monotonic() - begun_s
            gate.set()
            ground.go_on(lambda: ground.reading_of(one.pid))
    finally:
        gate.set()

    assert state.state == "on"
    assert took_s < 20


def test_it_says_that_it_hangs(ground, monkeypatch):
    """After a while the state says that nothing new is read, and takes it back."""
    monkeypatch.setattr("agentwall.daemon.inside._HANGS_S", 0.02)
    gate = threading.Event()
    thread = ground.inside._thread
    try:
        thread.run(gate.wait)
        wait_until(lambda: thread.busy_s() > 0.05, what="a thread that hangs")
        hangs = ground.inside.state()
        gate.set()
        ground.go_on(lambda: thread.busy_s() == 0.0)
        goes_on = ground.inside.state()
    finally:
        gate.set()

    assert hangs.state == goes_on.state == "on"
    assert hangs.reason.startswith("nothing new is read: a file or process of a sandbox")
    assert goes_on.reason is None


@pytest.fixture
def nobody_compiles(tmp_path, monkeypatch):
    """Have no interpreter with bcc, and nothing that one compiled before."""
    monkeypatch.setattr("agentwall.host.kept_files.SYSTEM_CACHE", tmp_path / "cache")
    monkeypatch.setattr(
        "agentwall.daemon.provision.Compilation",
        lambda: Compilation(interpreters=("/nowhere/python3",)),
    )


@pytest.mark.usefixtures("nobody_compiles")
@pytest.mark.parametrize("use", [TlsUse.AUTO, TlsUse.REQUIRE])
def test_refused(ground, tmp_path, use):
    """Without an interpreter that has bcc it says why; only who requires it is refused."""
    with reading_inside(ground.enclosure, tmp_path, TlsSettings(inspect=use)) as made:
        made.inside.start()
        made.inside.wait()
        state = made.inside.state()
        if use is TlsUse.REQUIRE:
            with pytest.raises(ProbesRefusedError, match="inside TLS: /nowhere/python3: expected"):
                made.inside.require()
        else:
            made.inside.require()
        made.inside.tick()
        made.inside.settle()

    assert state.state == "refused"
    assert state.reason == "/nowhere/python3: expected an interpreter, got none"


@pytest.mark.usefixtures("nobody_compiles")
def test_refused_after_another(ground, tmp_path):
    """What an earlier daemon has pinned stays where it is, and that is said."""
    former = tmp_path / "probes" / "17"
    former.mkdir(parents=True)
    with reading_inside(ground.enclosure, tmp_path, TlsSettings()) as made:
        made.inside.start()
        reason = made.inside.state().reason
        stands = former.exists()

    assert stands
    assert reason.endswith("got none; what an earlier daemon probed is read on")


def test_off(ground, tmp_path):
    """Where it is off nothing is compiled, and what an earlier daemon has pinned is removed."""
    former = tmp_path / "probes" / "17"
    former.mkdir(parents=True)
    settings = TlsSettings(inspect=TlsUse.OFF)
    with reading_inside(ground.enclosure, tmp_path, settings) as made:
        made.inside.start()
        made.go_on(lambda: not former.exists())
        made.inside.tick()
        state = made.inside.state()

    assert (state.state, state.reason) == ("off", "tls.inspect: off")


def test_limit(ground, parts, tmp_path):
    """Where as many are probed as may be, the rest is counted and its users are not read."""
    attached = ground.inside._finder.attached
    before = ground.inside.state().over_limit
    readings = []
    attached.max_libraries = 0
    try:
        with contextlib.ExitStack() as stack:
            # What nobody uses any more makes room first.
            while Unread.LIMIT not in readings and len(readings) < 20:
                path = parts.copy(tmp_path / f"libssl{len(readings)}.so")
                child = stack.enter_context(ground.running(parts.caller, path))
                ground.go_on(lambda child=child: ground.reading_of(child.pid))
                readings.append(ground.reading_of(child.pid).unread)
            ground.go_on(lambda: ground.inside.state().over_limit > before)
    finally:
        attached.max_libraries = 64

    assert readings[-1] is Unread.LIMIT
    assert set(readings[:-1]) <= {None}


def test_closed_while_it_hangs(ground, parts, tmp_path):
    """It ends within seconds, and takes its probes off though the thread never comes back."""
    gate = threading.Event()
    library = parts.copy(tmp_path / "libssl.so")
    place = ground.enclosure.pin_dir
    try:
        # The last that is done here: the other one's probes go when this one's are there.
        with reading_inside(ground.enclosure, place, TlsSettings()) as made:
            made.inside.start()
            made.inside.wait()
            with made.running(parts.caller, library) as one:
                made.go_on(lambda: made.reading_of(one.pid))
                made.inside.settle()
                pinned = len(list_pins(place / "probes"))
                made.inside._thread.run(gate.wait)
                wait_until(lambda: made.inside._thread.busy_s() > 0, what="a thread that hangs")
                begun_s = time.monotonic()
                made.inside.close(keep=False)
                took_s = time.monotonic() - begun_s
                left = list_pins(place / "probes")
    finally:
        gate.set()

    assert pinned > 0
    assert left == []
    assert took_s < 10
