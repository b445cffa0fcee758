# SPDX-License-Identifier: Apache-2.0
"""Mappings of TLS libraries are told with process and file, by whomever, and nothing else is."""

import os
import select
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.descriptors import descriptors
from rig.overlay import NoOverlayError, overlay
from rig.probed import build, calling, file_id
from rig.process import wait_until

from agentwall.probes import mapped
from agentwall.probes.mapped import Mapped, MappedFiles
from agentwall.probes.mappings import FileId, executable_mappings

pytestmark = pytest.mark.kernel

MANY = 10_000
ROOMY = 1 << 20
"""For what the whole machine maps until a test reads it, however busy both are."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The library and its caller, compiled."""
    if reason := mapped.why_not():
        pytest.skip(reason)
    return build(tmp_path_factory.mktemp("probed"))


@pytest.fixture
def watch():
    """A watch on mappings."""
    made = MappedFiles(ring_bytes=ROOMY)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reader(parts):
    """A watch that is given records."""
    made = MappedFiles()
    yield made
    made.close()


def until(watch: MappedFiles, *pids: int, limit: int = MANY) -> list[Mapped]:
    """What is told until something is of each process, as the daemon would ask."""
    found: list[Mapped] = []
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)

    def is_there() -> bool:
        if poll.poll(200):
            found.extend(watch.read(limit))
        return {each.pid for each in found}.issuperset(pids)

    wait_until(is_there, what="a mapping that was made")
    return found


def test_dlopen(parts, watch, tmp_path):
    """A process that maps a library is told once, with its id, the file's inode and its path."""
    library = parts.copy(tmp_path / "libssl.so.7")
    with calling(parts, library) as caller:
        found = until(watch, caller.pid)

    ours = [(each.file.inode, each.path) for each in found if each.pid == caller.pid]

    assert ours == [(library.stat().st_ino, os.fsencode(library))]


@pytest.mark.parametrize("name", ["libfoo.so", "xlibssl.so", "libss.so"])
def test_other_names(parts, watch, tmp_path, name):
    """A file of another name is not told, though its directory's name were a library's."""
    other = tmp_path / "libssl.so"
    other.mkdir()
    with (
        calling(parts, parts.copy(other / name)) as caller,
        calling(parts, parts.copy(tmp_path / "libgnutls.so.30")) as last,
    ):
        found = until(watch, last.pid)

    assert caller.pid not in {each.pid for each in found}


def test_other_mount_namespace(parts, watch, tmp_path):
    """Of a process with mounts of its own, file and path are those that it sees."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    script = 'mount -t tmpfs tmpfs "$1" && cp "$2" "$1/libssl.so" && exec "$3" "$1/libssl.so"'
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    inside = (*words, str(hidden), str(parts.library))
    with calling(parts, hidden / "libssl.so", *inside) as caller:
        theirs = file_id(tmp_path / f"/proc/{caller.pid}/root{hidden}/libssl.so")
        found = until(watch, caller.pid)

    assert not (hidden / "libssl.so").exists()
    assert [each for each in found if each.pid == caller.pid] == [
        Mapped(caller.pid, theirs, os.fsencode(hidden / "libssl.so"))
    ]


def test_own_root_and_overlay(parts, watch):
    """In a container's root the path begins there, and the process's maps have the same file."""
    try:
        with overlay() as root:
            root.write("/libssl.so", parts.library.read_bytes())
            with calling(parts, "/libssl.so", *root.command()) as caller:
                found = until(watch, caller.pid)
                maps = {os.path.basename(e.path): e.file for e in executable_mappings(caller.pid)}
    except NoOverlayError as err:
        pytest.skip(str(err))

    assert [each.path for each in found if each.pid == caller.pid] == [b"/libssl.so"]
    assert maps[b"libssl.so"].inode in {each.file.inode for each in found}


def test_limit(parts, watch, tmp_path):
    """What is beyond the limit is told the next time, and the descriptor says that there is."""
    libraries = [parts.copy(tmp_path / f"libssl{number}.so") for number in range(4)]
    pids = []
    for library in libraries:
        with calling(parts, library) as caller:
            pids.append(caller.pid)
    found = until(watch, *pids, limit=1)
    ours = {each.pid: each.path for each in found if each.pid in pids}

    assert [ours[pid] for pid in pids] == list(map(os.fsencode, libraries))


def test_quiet_again(parts, watch, tmp_path):
    """After a burst it is not readable for ever, and it wakes for the next mapping."""
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    for number in range(3):
        with calling(parts, parts.copy(tmp_path / f"libssl{number}.so")) as caller:
            until(watch, caller.pid)

        def is_quiet() -> bool:
            watch.read(MANY)
            return not poll.poll(0)

        wait_until(is_quiet, what="a descriptor that is not readable just after reading")


def test_ends(parts, tmp_path):
    """The end of a process is told if somebody asked for it, once; others' ends are not."""
    users: set[int] = set()
    watch = MappedFiles(users=users, ring_bytes=ROOMY)
    library = parts.copy(tmp_path / "libssl.so")
    ended: set[int] = set()
    try:
        with calling(parts, library) as other, calling(parts, library) as caller:
            users.add(caller.pid)
            until(watch, caller.pid)
            before = watch.ended()

        def is_told() -> bool:
            watch.read(MANY)
            ended.update(watch.ended())
            return bool(ended)

        wait_until(is_told, what="the end of a process")
    finally:
        watch.close()

    assert before == set()
    assert other.pid not in users
    assert ended == {caller.pid}
    assert watch.ended() == set()


def test_lost_is_counted(parts, tmp_path):
    """Records that find no room are counted, and what comes afterwards is told again."""
    watch = MappedFiles(ring_bytes=4096)
    library = parts.copy(tmp_path / "libssl.so")
    try:
        for _ in range(60 * (os.cpu_count() or 1)):
            subprocess.run(["/bin/true"], check=True)

        def is_counted() -> bool:
            watch.read(MANY)
            subprocess.run(["/bin/true"], check=True)
            return watch.lost > 0

        inode = library.stat().st_ino

        def is_told() -> bool:
            # In so little room, what others map at the same time may take its place again.
            watch.read(MANY)
            with calling(parts, library):
                return inode in {each.file.inode for each in watch.read(MANY)}

        wait_until(is_counted, what="lost records")
        wait_until(is_told, what="a mapping that found room")
    finally:
        watch.close()


def test_nothing_is_left(watch):
    """A watch gives back every descriptor, also when closed twice."""
    before = descriptors()
    other = MappedFiles()
    other.close()
    other.close()

    assert descriptors() <= before


def record(pid: int, path: bytes, inode: int = 5) -> bytes:
    """A PERF_RECORD_MMAP2 as the kernel writes it."""
    name = path + b"\0" * (8 - len(path) % 8)
    fixed = struct.pack("=IIQQQIIQQII", pid, pid, 0, 4096, 0, 8, 1, inode, 0, 5, 2)
    return struct.pack("=IHH", 10, 2, 8 + len(fixed) + len(name)) + fixed + name


def ending(pid: int, thread: int) -> bytes:
    """A PERF_RECORD_EXIT."""
    return struct.pack("=IHHIIIIQ", 4, 0, 32, pid, 1, thread, 1, 0)


PATHS = st.one_of(
    st.binary(max_size=40).map(lambda path: b"/" + path.replace(b"\0", b"")),
    st.sampled_from(
        [b"/a/libssl.so", b"/libssl", b"/libssl/a", b"//anon", b"[vdso]", b"/libnspr4.so"]
    ),
)


@given(
    paths=st.lists(PATHS, max_size=20),
    limit=st.integers(1, 5),
    inode=st.sampled_from([5, 0x0018_0000_0000_0002, 2**64 - 1]),
    has_users=st.booleans(),
)
def test_any_records(reader, paths, limit, inode, has_users):
    """Taken piece by piece, exactly the mappings with a library's name come out, in order."""
    records = b"".join(
        record(number, path, inode) + ending(number, number) for number, path in enumerate(paths, 1)
    )
    users = {2, 4}
    reader._users = users if has_users else None
    found: list[Mapped] = []
    while records:
        some: dict[Mapped, None] = {}
        done = reader._take(records, limit, some)
        found += some
        assert len(some) <= limit
        assert done > 0
        records = records[done:]

    assert found == [
        Mapped(number, FileId(os.makedev(8, 1), inode), path)
        for number, path in enumerate(paths, 1)
        if path.rpartition(b"/")[2].startswith((b"libssl", b"libgnutls", b"libnspr4"))
    ]
    assert reader.ended() == ({n for n in users if n <= len(paths)} if has_users else set())


def test_thread_is_no_process(reader):
    """The end of a thread that is not the first is no end of the process."""
    reader._users = {7}
    reader._take(ending(7, 8), 1, {})
    before = reader.ended()
    reader._take(ending(7, 7), 1, {})

    assert before == set()
    assert reader.ended() == {7}


@pytest.mark.parametrize("pid", [0, 0xFFFF_FFFF])
def test_unknown_process(reader, pid):
    """A process that is outside the reader's PID namespace is nobody's."""
    found: dict[Mapped, None] = {}
    reader._take(record(pid, b"/libssl.so"), 5, found)

    assert found == {}
