# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS at work behind a real wall: whoever maps a library, however shortly."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading

import pytest
from rig.cgroup import in_cgroup
from rig.descriptors import descriptors
from rig.inside_ground import (
    LONG_S,
    Ground,
    ground_that_reads,
    hanging,
    reading_inside,
)
from rig.namespace import temp_netns
from rig.objects import program
from rig.probed import build
from rig.process import wait_until
from rig.tls_programs import copy_libraries
from rig.tls_service import tls_service
from rig.tls_talker import CHAT, MINING, SILENCE_S, talking

from agentwall.daemon.config import TlsSettings
from agentwall.daemon.inside_state import TlsUse
from agentwall.errors import ProbesRefusedError
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.kernel.pins import list_pins
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
    with ground_that_reads(tmp_path_factory.mktemp("inside")) as made:
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
        ground.settle()
        mined = one.say(MINING, SILENCE_S)
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
        ground.settle()

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
            ground.keep_up(lambda: len(libraries(ground, library)) == 2)
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
        ground.keep_up(lambda: ground.reading_of(two.pid).unread is None)
        with ground.running(parts.caller, library) as three:
            ground.go_on(lambda: ground.reading_of(three.pid))
            last = ground.reading_of(three.pid).unread

    assert first in (None, Unread.LIMIT)
    assert last is None


def standing(ground: Ground) -> tuple[object, ...]:
    """Return how often was attached, for whom, and whose end is waited for."""
    attached, readings = ground.inside._finder.attached, ground.inside._speakers.readings
    return attached.attached_total, set(attached.users()), dict(readings.pids)


def test_crowd(ground, parts, tmp_path, monkeypatch):
    """1 000 processes that end at once: attached once, and nothing is left of them."""
    # What tests of before have used stays as it is.
    monkeypatch.setattr("agentwall.probes.attached.LINGER_S", 3600.0)
    attached = ground.inside._finder.attached
    ground.go_on(lambda: not attached.close_some(0))
    library = parts.copy(tmp_path / "libssl.so")
    crowd = program(tmp_path / "crowd", CROWD, "-ldl")
    with ground.running(parts.caller, library) as one:
        ground.go_on(lambda: ground.reading_of(one.pid))
        ground.see_who_is_gone()
        before, opened = standing(ground), descriptors()
        done: list[int] = []
        words = in_cgroup(ground.cgroup, str(crowd), "1000", str(library))
        thread = threading.Thread(
            target=lambda: done.append(subprocess.run(words, check=False).returncode)
        )
        thread.start()
        ground.go_on(lambda: done, timeout_s=LONG_S)
        thread.join()
        ground.see_who_is_gone()
        # Of the last of them it may be told only now that they mapped it.
        ground.go_on(lambda: standing(ground) == before and descriptors() <= opened)

    assert done == [0]
    assert before[2] == {one.pid: ground.key}


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

    ground.go_on(has_ended, timeout_s=LONG_S)
    ground.hear()
    ground.settle()
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
    ground.keep_up(lambda: not list(connections.keys()))

    assert held >= 1


def test_a_file_that_hangs(ground, parts, tmp_path, monkeypatch):
    """What waits for a sandbox holds up nothing: state, hellos and upkeep go on, and it is said."""
    monkeypatch.setattr("agentwall.daemon.inside._SETTLED_S", 3600.0)
    thread = ground.inside._thread
    library = parts.copy(tmp_path / "libssl.so")
    with hanging(thread) as gate, ground.running(parts.caller, library) as one:
        ground.go_on(lambda: thread.waiting)
        state = ground.inside.state()
        ground.inside.settle()
        still_hangs = thread.busy_s() > 0
        gate.set()
        ground.go_on(lambda: ground.reading_of(one.pid))

    assert state.state == "on"
    assert still_hangs


def test_it_says_that_it_hangs(ground, monkeypatch):
    """After a while the state says that nothing new is read, and takes it back."""
    monkeypatch.setattr("agentwall.daemon.inside._HANGS_S", 0.02)
    thread = ground.inside._thread
    with hanging(thread) as gate:
        wait_until(lambda: thread.busy_s() > 0.05, what="a thread that hangs")
        hangs = ground.inside.state()
        gate.set()
        states = []
        # Upkeep may take as long on a busy machine.
        ground.go_on(lambda: states.append(ground.inside.state()) or states[-1].reason is None)
        goes_on = states[-1]

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
            ground.keep_up(lambda: ground.inside.state().over_limit > before)
    finally:
        attached.max_libraries = 64

    assert readings[-1] is Unread.LIMIT
    assert set(readings[:-1]) <= {None}


def test_closed_while_it_hangs(parts, tmp_path):
    """It ends, and takes its probes off, though the thread does not come back."""
    library = parts.copy(tmp_path / "libssl.so")
    # Of its own: what hangs keeps what it uses.
    with ground_that_reads(tmp_path) as made:
        place = made.enclosure.pin_dir
        with made.running(parts.caller, library) as one:
            made.go_on(lambda: made.reading_of(one.pid))
            made.settle()
            pinned = len(list_pins(place / "probes"))
            thread = made.inside._thread
            with hanging(thread):
                made.inside.close(keep=False)
                still_hangs = thread.busy_s() > 0
                left = list_pins(place / "probes")

    assert pinned > 0
    assert left == []
    assert still_hangs
