# SPDX-License-Identifier: Apache-2.0
"""Of every kind of process it is said whether its text can be read, and why not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.mapped import executes, file_id
from rig.objects import functions, program, shared_object
from rig.process import wait_until
from rig.silent_fuse import NoFuseError, process_on_silent_fuse

from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.probes.mappings import FileId
from agentwall.probes.survey import Found, survey

MAIN = "int puts(const char *); int pause(void); int fflush(void *);\n"
READY = 'puts("ready"); fflush(0); pause(); return 0;'
OPENSSL, _ = functions(["SSL_write", "SSL_read", "SSL_free"])
GNUTLS, _ = functions(["gnutls_record_send", "gnutls_record_recv"])
NSS_TLS, _ = functions(["SSL_ImportFD"])
NSS_FILES, _ = functions(["PR_Write", "PR_Read"])
OTHER, _ = functions(["something"])
SOURCES = {
    "libssl.so.3": OPENSSL,
    "libssl-1a2b3c.so.1.1": OPENSSL,
    "libgnutls.so.30": GNUTLS,
    "libssl3.so": NSS_TLS,
    "libnspr4.so": NSS_FILES,
    "libssl_of_another_kind.so": OTHER,
    "libjvm.so": OTHER,
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")


@contextmanager
def waiting(*command, **options):
    """Run a command until the block ends; it has printed a line before the block begins."""
    child = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )
    try:
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
    finally:
        child.kill()
        child.communicate()


@contextmanager
def loading(tmp_path, *names, source="", options=()):
    """Run a program that maps libraries of those names, each built from its source."""
    libraries = [f"-L{tmp_path}", f"-Wl,-rpath,{tmp_path}", "-Wl,--no-as-needed"] if names else []
    for name in names:
        if not (path := tmp_path / name).exists():
            shared_object(path, SOURCES[name], f"-Wl,-soname,{name}")
        libraries.append(f"-l:{name}")
    text = f"{source}{MAIN}int main(void) {{ {READY} }}\n"
    made = program(tmp_path / "program", text, *options, *libraries)
    with waiting(made) as pid:
        yield pid


def python(*lines):
    """Return the command of a Python that runs these lines and then waits."""
    text = "; ".join([*lines, "print('ready', flush=True)", "input()"])
    return (sys.executable, "-I", "-S", "-c", text)


def mapped_by(pid, name) -> str:
    """Return the path of what *pid* maps, as another reader of the kernel's table sees it."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if Path(line.split()[-1]).name.startswith(name):
            return line.split()[-1]
    raise AssertionError(f"{name}: not mapped")


class Probes:
    """Has every library probed, or those files alone; remembers what it was asked for."""

    def __init__(self, *files: FileId, but: Unread | None = None) -> None:
        self.asked: list[str] = []
        self._files = files
        self._but = but

    def __call__(self, found: Found) -> Unread | None:
        """Note the library: it is the file that is open, and its functions are in it."""
        status = os.fstat(found.fd)
        assert found.file == FileId(status.st_dev, status.st_ino)
        assert found.offsets
        assert all(0 < each < status.st_size for each in found.offsets.values())
        self.asked.append(found.path)
        return self._but if found.file not in self._files else None


def read(pid, use=None) -> TlsReading:
    """Return the reading, where everything is probed."""
    return survey(pid, use or Probes())[0]


def never_asked(found):
    """Fail: nothing that was mapped is a library."""
    raise AssertionError(f"asked about {found.path}")


def unread(why, path=None):
    """Return the reading of a process that is not read."""
    return TlsReading(library=None, path=None if path is None else str(path), unread=why)


def test_pythons_ssl_is_read_through_openssl():
    """The system's libssl that Python's ssl module maps is the library, known by its file."""
    with waiting(*python("import ssl")) as pid:
        library = mapped_by(pid, "libssl")
        probes = Probes(file_id(library), but=Unread.LATE)
        reading = read(pid, probes)

    assert reading == TlsReading(library=TlsLibrary.OPENSSL, path=library, unread=None)
    assert probes.asked == [library]


def test_gnutls_is_known_by_its_functions():
    """The true library, wherever this machine has it."""
    with waiting(*python("import ctypes", "ctypes.CDLL('libgnutls.so.30')")) as pid:
        library = mapped_by(pid, "libgnutls")
        reading = read(pid, Probes(file_id(library), but=Unread.LATE))

    assert reading == TlsReading(library=TlsLibrary.GNUTLS, path=library, unread=None)


@pytest.mark.parametrize("why", [Unread.LIMIT, Unread.UNREADABLE, Unread.LATE, Unread.OFF])
def test_a_library_that_is_not_probed_is_named(tmp_path, why):
    """The reason is the caller's; the path says which library it is about."""
    with loading(tmp_path, "libssl-1a2b3c.so.1.1") as pid:
        reading = read(pid, Probes(but=why))

    assert reading == unread(why, tmp_path / "libssl-1a2b3c.so.1.1")


def test_one_probed_library_does_not_hide_another(tmp_path):
    """A process with two known libraries is read only if both are probed."""
    with loading(tmp_path, "libssl.so.3", "libgnutls.so.30") as pid:
        one, other = (file_id(tmp_path / each) for each in ("libssl.so.3", "libgnutls.so.30"))
        reading = read(pid, Probes(one, but=Unread.LATE))
        later = read(pid, Probes(one, other, but=Unread.LATE))

    assert reading == unread(Unread.LATE, tmp_path / "libgnutls.so.30")
    assert later.unread is None


def test_nss_is_two_files(tmp_path):
    """Both have to be probed, and the one without the other does no TLS."""
    with loading(tmp_path, "libssl3.so", "libnspr4.so") as pid:
        probes = Probes()
        both = read(pid, probes)
        half = read(pid, Probes(file_id(tmp_path / "libssl3.so"), but=Unread.LATE))
        asked = {Path(each).name for each in probes.asked}
    with loading(tmp_path, "libnspr4.so") as pid:
        alone = read(pid)

    assert both.library is TlsLibrary.NSS
    assert half == unread(Unread.LATE, tmp_path / "libnspr4.so")
    assert asked == {"libssl3.so", "libnspr4.so"}
    assert alone == unread(Unread.OWN_TLS)


def test_a_name_alone_makes_no_library(tmp_path):
    """A file that is called like one, but has none of its functions, is nobody's library."""
    with loading(tmp_path, "libssl_of_another_kind.so") as pid:
        assert read(pid, never_asked) == unread(Unread.OWN_TLS)


def test_a_library_that_makes_no_sense_is_unreadable(tmp_path):
    """A file that is called like one and is no ELF file that can be read, is said to be so."""
    path = tmp_path / "libssl.so.9"
    path.write_bytes(b"\x7fELF\1\1\1" + bytes(4089))
    lines = (
        "import mmap, os",
        f"m = mmap.mmap(os.open({str(path)!r}, 0), 4096, mmap.MAP_PRIVATE, 5)",
    )
    with waiting(*python(*lines)) as pid:
        assert read(pid, never_asked) == unread(Unread.UNREADABLE, path)


def test_a_program_that_exports_the_functions_is_the_library(tmp_path):
    """As Node.js is, with the OpenSSL inside it."""
    with loading(tmp_path, source=OPENSSL, options=("-rdynamic",)) as pid:
        itself = tmp_path / "program"
        probes = Probes(file_id(itself), but=Unread.LATE)
        reading = read(pid, probes)

    assert probes.asked == [str(itself)]
    assert reading == TlsReading(library=TlsLibrary.OPENSSL, path=str(itself), unread=None)


def test_node_is_the_library_or_maps_one():
    """Node.js is read, be OpenSSL inside it or beside it."""
    if (node := shutil.which("node")) is None:
        pytest.skip("node: not installed")
    script = "console.log('ready'); require('tls'); setTimeout(() => 0, 1e6)"
    with waiting(node, "-e", script) as pid:
        probes = Probes()
        reading = read(pid, probes)

    assert len(probes.asked) == 1
    assert reading.library is TlsLibrary.OPENSSL


_SIGNED = (
    '__asm__(".section .comment,\\"MS\\",@progbits,1\\n.asciz \\"rustc version 1\\"\\n.text");'
)
_GO = 'char info[] __attribute__((section(".go.buildinfo"))) = "\\xff Go buildinf:";'


@pytest.mark.parametrize(
    ("source", "options", "libraries", "why"),
    [
        ("", (), (), Unread.OWN_TLS),
        ("", ("-static",), (), Unread.STATIC),
        ("", ("-static-pie",), (), Unread.STATIC),
        (_SIGNED, (), (), Unread.RUST),
        (_SIGNED, ("-static",), (), Unread.RUST),
        (_GO, (), (), Unread.GO),
        (_GO, ("-static",), (), Unread.GO),
        (_GO, (), ("libssl.so.3",), Unread.GO),
        ("", (), ("libjvm.so",), Unread.JAVA),
    ],
)
def test_what_has_its_own_tls_is_told_by_its_making(tmp_path, source, options, libraries, why):
    """Static, Go, Rust, Java, or something else that is linked with no known library.

    What Go has built may map one that others use: that is probed, and Go is not read all the same.
    """
    probes = Probes()
    with loading(tmp_path, *libraries, source=source, options=options) as pid:
        assert read(pid, probes) == unread(why)
    assert [Path(each).name for each in probes.asked] == [
        each for each in libraries if each.startswith("libssl")
    ]


@pytest.mark.parametrize("source", ["", _SIGNED])
def test_rust_and_java_are_read_where_they_map_a_library(tmp_path, source):
    """Most of what Rust has built for Debian calls OpenSSL; Java may be told to."""
    with loading(tmp_path, "libjvm.so", "libssl.so.3", source=source) as pid:
        assert read(pid).library is TlsLibrary.OPENSSL


def test_real_programs_are_told_apart():
    """Podman is Go with C in it, busybox is static."""
    for path, why in (("/usr/bin/podman", Unread.GO), ("/usr/bin/busybox", Unread.STATIC)):
        if not Path(path).exists():
            pytest.skip(f"{path}: not installed")
        # It waits for its input, or for the pipe that it writes to; and stands, lest it come to
        # find a fault before that.
        words = {"podman": ("load",), "busybox": ("cat",)}[Path(path).name]
        child = subprocess.Popen(
            [path, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        child.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: executes(child.pid, path), what="exec")  # noqa: B023 - called at once
            reading = read(child.pid, never_asked)
        finally:
            child.kill()
            child.communicate()

        assert reading == unread(why)


def test_a_program_that_the_linker_was_told_to_start_is_dynamic(tmp_path):
    """The program is then the dynamic linker, which is static itself; what it maps is not."""
    with loading(tmp_path, "libssl.so.3") as pid:
        linker = mapped_by(pid, "ld-linux")
    with waiting(linker, tmp_path / "program") as pid:
        assert read(pid).library is TlsLibrary.OPENSSL
    with loading(tmp_path):
        pass
    with waiting(linker, tmp_path / "program") as pid:
        assert read(pid, never_asked) == unread(Unread.OWN_TLS)


def test_a_process_that_has_ended_is_gone(tmp_path):
    """While it is a zombie, and after."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = survey(child.pid, never_asked)
    child.wait()

    assert zombie == (unread(Unread.GONE), [])
    assert survey(child.pid, never_asked) == zombie


def test_processes_that_end_while_they_are_looked_at_are_survived():
    """Whatever moment it ends at, there is an answer: gone, or what it was."""
    answers = set()
    for _ in range(100):
        child = subprocess.Popen(["true"])
        while child.poll() is None:
            answers.add(read(child.pid, never_asked).unread)
        answers.add(read(child.pid, never_asked).unread)

    # In the midst of execve(2) there is a moment at which nothing is mapped, as in what has
    # unpacked itself; or what was to be opened is no longer mapped.
    assert Unread.GONE in answers
    assert answers <= {Unread.GONE, Unread.OWN_TLS, Unread.STATIC, Unread.UNREADABLE}


@needs_root
def test_a_library_of_another_mount_namespace_is_found(tmp_path):
    """Its path means something else here, or nothing; the file is known all the same."""
    inside = tmp_path / "inside"
    inside.mkdir()
    with loading(tmp_path, "libssl.so.3"):
        pass
    names = ("program", "libssl.so.3")
    script = (
        f"mount -t tmpfs tmpfs {inside} && cp {' '.join(str(tmp_path / n) for n in names)} {inside}"
        f" && LD_LIBRARY_PATH={inside} exec {inside}/program"
    )
    with waiting("unshare", "-m", "--propagation", "private", "sh", "-c", script) as pid:
        library = inside / "libssl.so.3"
        there = file_id(f"/proc/{pid}/root{library}")
        probes = Probes(there, but=Unread.LATE)
        reading = read(pid, probes)

        assert not library.exists()
    assert probes.asked == [str(library)]
    assert reading == TlsReading(library=TlsLibrary.OPENSSL, path=str(library), unread=None)


def test_a_deleted_library_is_still_the_one_that_is_probed(tmp_path):
    """An upgrade replaces the file; the process goes on with the old one."""
    with loading(tmp_path, "libssl.so.3") as pid:
        library = tmp_path / "libssl.so.3"
        probes = Probes(file_id(library), but=Unread.LATE)
        library.unlink()
        shared_object(library, GNUTLS)
        reading = read(pid, probes)

    assert reading == TlsReading(library=TlsLibrary.OPENSSL, path=str(library), unread=None)


def test_a_process_that_may_not_be_read_is_unreadable():
    """Without rights over the process there is a reason, not an exception."""
    if os.geteuid() != 0:
        pytest.skip("needs root: becomes another user")
    with waiting(*python()) as pid:
        other = os.fork()
        if other == 0:
            is_said = False
            try:
                os.setresuid(65534, 65534, 65534)
                is_said = survey(pid, never_asked) == (unread(Unread.UNREADABLE), [])
            finally:
                os._exit(0 if is_said else 1)
        _, status = os.waitpid(other, 0)

    assert os.waitstatus_to_exitcode(status) == 0


@needs_root
def test_a_library_that_the_sandbox_serves_itself_is_not_opened(tmp_path):
    """On FUSE, whoever opens a file waits for as long as the sandbox likes: we do not."""
    try:
        with process_on_silent_fuse(tmp_path, "libssl.so.3") as pid:
            reading, unopened = survey(pid, never_asked)
    except NoFuseError as err:
        pytest.skip(f"no FUSE here: {err}")

    assert reading == unread(Unread.UNREADABLE, tmp_path / "libssl.so.3")
    assert [os.fsdecode(each.path) for each in unopened] == [str(tmp_path / "libssl.so.3")]
