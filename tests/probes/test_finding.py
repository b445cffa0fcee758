# SPDX-License-Identifier: Apache-2.0
"""Libraries that processes map are found and probed, and so are those that they may map later."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.descriptors import descriptors
from rig.objects import functions, shared_object
from rig.places import ALL, Places
from rig.probed import build, calling, file_id
from rig.process import wait_until
from rig.silent_fuse import NoFuseError, process_on_silent_fuse

from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes import finding as module
from agentwall.probes import uprobes, walking
from agentwall.probes.attached import Attached
from agentwall.probes.finding import Finder
from agentwall.probes.mappings import FileId

OPENSSL, _ = functions(["SSL_write", "SSL_read", "SSL_free"])
GNUTLS, _ = functions(["gnutls_record_send", "gnutls_record_recv"])

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot, mounts")


@pytest.fixture
def places():
    """Where probes would be."""
    return Places()


@pytest.fixture
def finder(places):
    """A finder that may probe four files."""
    attached = Attached(ALL, max_libraries=4, pins=None, attach=places.attach)
    yield Finder(attached)
    attached.close()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A library and a program that maps it."""
    return build(tmp_path_factory.mktemp("parts"))


@contextmanager
def rooted(root: Path):
    """Run a process that has *root* as its root directory."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chroot(root)
            os.write(writer, b"x")
            time.sleep(1000)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"x"
        yield child
    finally:
        os.close(reader)
        os.kill(child, 9)
        os.waitpid(child, 0)


def prepare(finder: Finder, pid: int, sandbox: str = "a") -> list[str]:
    """Probe what is installed where *pid* is; return the paths."""
    return list(finder.prepare(sandbox, pid, lambda: 0.0))


def probed(finder: Finder) -> dict[str, frozenset[object]]:
    """Return what is probed, by path, and for whom."""
    return {each.path: each.users for each in finder.attached.libraries()}


def test_mapped_library(finder, places, parts, tmp_path):
    """It is probed at the first look, once however many follow, until its last user is dropped."""
    library = parts.copy(tmp_path / "libssl.so")
    with calling(parts, library) as one, calling(parts, library) as two:
        look = finder.look("a", one.pid, 1.0)
        finder.look("a", one.pid, 2.0)
        finder.look("b", two.pid, 3.0)
        asked, users = len(places.asked), probed(finder)
        finder.drop("a", [one.pid, 5], 4.0)
        dropped = probed(finder)
    [found] = finder.attached.libraries()

    assert (look.pid, look.comm, look.exe) == (one.pid, "caller", str(parts.caller))
    assert look.is_user
    assert (look.reading.library, look.reading.path) == (TlsLibrary.OPENSSL, str(library))
    assert (found.file, found.since_s) == (file_id(library), 1.0)
    assert asked == len(places.asked)
    assert users == {str(library): {("a", one.pid), ("b", two.pid)}}
    assert dropped == {str(library): {("b", two.pid)}}
    assert finder.unreadable == 0


def test_replaced_and_deleted(finder, parts, tmp_path):
    """A library that was replaced or deleted is probed where it is mapped; so is the new one."""
    library = parts.copy(tmp_path / "libssl.so")
    old_file = file_id(library)
    with calling(parts, library) as old:
        parts.copy(library)
        new_file = file_id(library)
        with calling(parts, library) as new:
            library.unlink()
            looks = [finder.look("a", each.pid, 0.0) for each in (old, new)]
    files = {each.file: each.users for each in finder.attached.libraries()}

    assert old_file != new_file
    assert files == {old_file: {("a", old.pid)}, new_file: {("a", new.pid)}}
    assert [each.reading.unread for each in looks] == [None, None]


def test_more_than_may_be(finder, parts, tmp_path):
    """Beyond the limit a library is not probed, and its process is said not to be read."""
    finder.attached.max_libraries = 1
    readings = []
    for number in range(3):
        library = parts.copy(tmp_path / f"libssl{number}.so")
        with calling(parts, library) as caller:
            readings.append(finder.look("a", caller.pid, 0.0).reading.unread)

    assert readings == [None, Unread.LIMIT, Unread.LIMIT]
    assert finder.attached.refused_limit == 2
    assert len(probed(finder)) == 1


def test_nothing_that_can_be_probed(finder, tmp_path):
    """A file that is only called so counts for nothing; its process is nobody's user."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE
    ) as child:
        wait_until(lambda: finder.look("a", child.pid, 0.0).exe, what="the program")
        look = finder.look("a", child.pid, 0.0)
        child.communicate()

    assert not look.is_user
    assert probed(finder) == {}


def test_gone(finder):
    """A process that has ended is said to be gone, whether or not it is a zombie yet."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = finder.look("a", child.pid, 0.0)
    child.wait()
    gone = finder.look("a", child.pid, 0.0)

    assert [each.reading.unread for each in (zombie, gone)] == [Unread.GONE, Unread.GONE]
    assert not zombie.is_user
    assert (gone.comm, gone.exe) == ("", None)
    assert prepare(finder, child.pid) == []
    assert finder.unreadable == 0


def test_ends_while_it_is_looked_at(finder, places, parts, tmp_path):
    """A process that ends between the two is nobody's user: its end would not be told any more."""
    library = parts.copy(tmp_path / "libssl.so")
    attach = places.attach
    with calling(parts, library) as caller:

        def attach_and_end(*arguments, **options):
            os.kill(caller.pid, signal.SIGKILL)
            os.waitid(os.P_PID, caller.pid, os.WEXITED | os.WNOWAIT)
            return attach(*arguments, **options)

        finder.attached._attach = attach_and_end
        look = finder.look("a", caller.pid, 0.0)

    assert look.reading.unread is Unread.GONE
    assert not look.is_user
    assert finder.attached.users() == []
    assert probed(finder) == {str(library): frozenset()}


def test_sandbox_that_ends(finder, parts, tmp_path):
    """With a sandbox all its users go, whoever they are, and no others."""
    library = parts.copy(tmp_path / "libssl.so")
    with calling(parts, library) as one, calling(parts, library) as two:
        for sandbox, pid in (("a", one.pid), ("a", two.pid), ("b", two.pid)):
            finder.look(sandbox, pid, 0.0)
        finder.release("a", 1.0)

        assert probed(finder) == {str(library): {("b", two.pid)}}


@needs_root
def test_library_that_may_hang(finder, tmp_path):
    """What a process serves itself is not opened; it is counted, once."""
    try:
        with process_on_silent_fuse(tmp_path, "libssl.so.3") as pid:
            looks = [finder.look("a", pid, 0.0) for _ in range(3)]
    except NoFuseError as err:
        pytest.skip(str(err))

    assert [each.reading.unread for each in looks] == [Unread.UNREADABLE] * 3
    assert finder.unreadable == 1
    assert probed(finder) == {}


def test_unreadable_files_are_counted_on(finder, monkeypatch, tmp_path):
    """However many there are, none is forgotten, and only so many are remembered."""
    monkeypatch.setattr(module, "MAX_UNREADABLE", 2)
    mapping = module.Mapping(
        file=module.FileId(1, 1), path=b"/libssl.so", is_deleted=False, start=0, end=0
    )
    for number in range(7):
        finder._note_unreadable(number, mapping)

    assert finder.unreadable == 7
    assert len(finder._unreadable) <= 2


@needs_root
def test_other_user_namespace(finder, parts, tmp_path):
    """A process in a user namespace of its own is looked at as any other."""
    library = parts.copy(tmp_path / "libssl.so")
    with calling(parts, library, "unshare", "--user", "--map-root-user", "--mount") as caller:
        look = finder.look("a", caller.pid, 0.0)

    assert look.reading.library is TlsLibrary.OPENSSL
    assert probed(finder) == {str(library): {("a", caller.pid)}}


@pytest.fixture
def root(tmp_path):
    """A root directory in which OpenSSL and GnuTLS are installed."""
    libraries = tmp_path / "root" / "usr" / "lib64"
    libraries.mkdir(parents=True)
    shared_object(libraries / "libssl.so.3", OPENSSL)
    shared_object(libraries / "libgnutls.so.30", GNUTLS)
    (tmp_path / "root" / "lib64").symlink_to("usr/lib64")
    return tmp_path / "root"


@needs_root
def test_installed(finder, root):
    """What is where distributions put it is probed, by whatever name it is reached first."""
    (root / "usr" / "lib64" / "libssl.so").symlink_to("libssl.so.3")
    (root / "usr" / "lib64" / "libssl.txt").write_text("not ELF")
    shared_object(root / "usr" / "libssl.so", OPENSSL)
    with rooted(root) as pid:
        found = prepare(finder, pid)

    assert found == ["/usr/lib64/libgnutls.so.30", "/usr/lib64/libssl.so"]
    assert probed(finder) == dict.fromkeys(found, frozenset({("a", 0)}))


@needs_root
def test_links_lead_nowhere_else(finder, root, tmp_path):
    """A link is followed as the process would, so that it leads to nothing outside its root."""
    outside = shared_object(tmp_path / "libssl_outside.so", OPENSSL)
    (root / "usr" / "lib64" / "libssl_a.so").symlink_to(outside)
    (root / "usr" / "lib64" / "libssl_b.so").symlink_to("../../../libssl_outside.so")
    (root / "usr" / "lib").symlink_to("../..")
    (root / "usr" / "bin").symlink_to("/proc/self/cwd")
    with rooted(root) as pid:
        found = prepare(finder, pid)

    assert found == ["/usr/lib64/libgnutls.so.30", "/usr/lib64/libssl.so.3"]


@needs_root
def test_only_regular_files(finder, root):
    """What else has such a name is not opened: it could be a pipe that nobody writes to."""
    place = root / "usr" / "lib64"
    os.mkfifo(place / "libssl_pipe.so")
    (place / "libssl_directory.so").mkdir()
    os.mknod(place / "libssl_device.so", 0o20600, os.makedev(5, 0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "libssl_socket.so"))
        with rooted(root) as pid:
            found = prepare(finder, pid)

    assert found == ["/usr/lib64/libgnutls.so.30", "/usr/lib64/libssl.so.3"]


@needs_root
def test_many_that_are_called_so(finder, root, monkeypatch):
    """Of a root that is full of them only so many are opened, and of a directory looked at."""
    monkeypatch.setattr(module, "MAX_FOUND", 3)
    for number in range(20):
        (root / "usr" / "lib64" / f"libssl-{number:02}.so").write_bytes(b"x")
    with rooted(root) as pid:
        few = prepare(finder, pid)
        monkeypatch.setattr(module, "MAX_FOUND", 100)
        monkeypatch.setattr(walking, "MAX_ENTRIES", 0)
        monkeypatch.setattr(module, "_listed", {})
        none = prepare(finder, pid, "b")

    assert few == ["/usr/lib64/libgnutls.so.30"]
    assert none == []


@needs_root
def test_installed_in_excess(finder, root):
    """Where that takes more than half of the room, nobody uses it, and who does comes first."""
    finder.attached.max_libraries = 3
    with rooted(root) as pid:
        found = prepare(finder, pid)

    assert probed(finder) == dict.fromkeys(found, frozenset())


@needs_root
def test_given_up_half_way(finder, places, root):
    """It can be left alone after any file; nothing but probes stays open."""
    with rooted(root) as pid:
        before = descriptors()
        steps = finder.prepare("a", pid, lambda: 0.0)
        first = next(steps)
        steps.close()
        held = len(descriptors() - before)

    assert first == "/usr/lib64/libgnutls.so.30"
    assert list(probed(finder)) == [first]
    assert held == places.standing + len(finder.attached)


@needs_root
def test_host_in_truth(places, tmp_path):
    """On this host what its own programs would map is found; this is what the rest is for."""
    attached = Attached(ALL, max_libraries=64, pins=None, attach=places.attach)
    found = prepare(Finder(attached), os.getpid())
    attached.close()

    assert any(Path(each).name.startswith("libssl") for each in found)


@pytest.mark.kernel
def test_written_over_in_place(parts, tmp_path):
    """A library that is written over while it is mapped is probed anew, where its calls are now."""
    if reason := uprobes.why_not():
        pytest.skip(reason)
    library = tmp_path / "libssl.so"
    shared_object(library, OPENSSL)
    places = Places()
    attached = Attached(ALL, max_libraries=4, pins=None, attach=places.attach)
    finder = Finder(attached)
    with calling(parts, library) as caller:
        finder.look("a", caller.pid, 0.0)
        first = {offset for _, offset, *_ in places.asked}
    other, _ = functions(["SSL_more", "SSL_other", "SSL_write", "SSL_read"])
    shared_object(tmp_path / "other.so", other)
    with library.open("r+b") as file, (tmp_path / "other.so").open("rb") as source:
        shutil.copyfileobj(source, file)
    places.asked.clear()
    with calling(parts, library) as caller:
        finder.look("a", caller.pid, 1.0)
        while attached.close_some():
            attached.expire(1.0)
        attached.expire(1.0)
        second = {offset for _, offset, *_ in places.asked}
        users = probed(finder)
    attached.close()

    assert first
    assert second
    assert first != second
    assert ("a", caller.pid) in users[str(library)]


def test_the_hosts_own(finder, tmp_path):
    """What lies among the host's libraries is the system's; a copy, wherever it lies, is not."""
    for place in module.PLACES:
        found = sorted(Path("/", place).glob("libssl.so.3"))
        if found:
            break
    own, status = str(found[0]), found[0].stat()
    copied = shutil.copy(own, tmp_path)

    assert module._is_hosts(FileId(status.st_dev, status.st_ino), own)
    assert not module._is_hosts(file_id(Path(copied)), own)
    assert not module._is_hosts(file_id(Path(copied)), str(copied))
    assert not module._is_hosts(FileId(0, 0), "/usr/lib/not\0there")
