# SPDX-License-Identifier: Apache-2.0
"""The probes are compiled in a child whose memory goes with it; what is wrong is said in a line."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rig import wait_until
from rig.descriptors import descriptors
from rig.probing import PATIENCE_S
from rig.tree import ROOT

from agentwall.errors import ProbesRefusedError
from agentwall.probes import compiling
from agentwall.probes.code import MAPS, Code, map_loads
from agentwall.probes.compiling import INTERPRETERS, SOURCES, Compilation, digest, why_not
from agentwall.probes.libraries import PROGRAMS

WHY_NOT = why_not()
needs_bcc = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
pytestmark = pytest.mark.kernel

MAP_OF_ITS_OWN = """
#include <uapi/linux/ptrace.h>
BPF_TABLE("hash", u64, u64, numbers, 8);
int aw_bad(struct pt_regs *ctx)
{
	u64 key = 1;

	return numbers.lookup(&key) != 0;
}
"""
DIES_EARLY = """
import os, sys
sys.path.insert(0, {root!r})
from agentwall.probes.compiling import Compilation
compilation = Compilation()
compilation.start()
print(compilation._process.pid, flush=True)
os._exit(0)
"""


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Whatever ends or answers may take its time on a machine that is busy with other tests."""
    monkeypatch.setattr(compiling, "_END_S", PATIENCE_S)
    monkeypatch.setattr(compiling, "_FIND_TIMEOUT_S", PATIENCE_S)


def compiled(**options: object) -> Code:
    options.setdefault("timeout_s", PATIENCE_S)
    with Compilation(**options) as compilation:
        compilation.start()
        return compilation.wait()


def refusal(**options: object) -> ProbesRefusedError:
    with pytest.raises(ProbesRefusedError) as caught:
        compiled(**options)
    assert "\n" not in str(caught.value)
    return caught.value


def sources_with(directory: Path, text: str) -> Path:
    shutil.copytree(SOURCES, directory / "sources")
    (directory / "sources" / "tls.c").write_text(text)
    return directory / "sources"


def interpreter_that(directory: Path, script: str) -> tuple[str]:
    path = directory / "interpreter"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return (str(path),)


def rss_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status: expected VmRSS")


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@needs_bcc
def test_code():
    """Every program is handed over, with its maps by their names, and what it took."""
    code = compiled()
    taken = [place for each in code.programs.values() for _, place in map_loads(each)]

    assert tuple(code.programs) == PROGRAMS
    assert {code.maps[place] for place in taken} == set(MAPS)
    assert code.bcc[0].isdigit()
    assert code.has_cookies
    assert code.seconds > 0
    assert Code.decode(*code.encode(), PROGRAMS) == code


@needs_bcc
def test_nothing_stays():
    """The compiler's memory and process are gone with the answer; bcc never was in this process."""
    before = rss_kib(), children(), descriptors()
    code = compiled()
    after = rss_kib(), children(), descriptors()

    assert code.peak_kib > 50_000
    # Some KiB are this process's own to keep; what it takes for that may be huge pages of 2 MiB.
    assert after[0] - before[0] < 20_000
    assert after[1] <= before[1]
    assert after[2] <= before[2]
    assert "bcc" not in sys.modules


@needs_bcc
def test_nobody_waits(tmp_path):
    """A loop that polls the descriptor gets the result when it is there, and nothing before."""
    go = tmp_path / "go"
    os.mkfifo(go)
    held = interpreter_that(tmp_path, f'read x <{go}; exec {INTERPRETERS[0]} "$@"')
    with Compilation(interpreters=held, timeout_s=PATIENCE_S) as compilation:
        compilation.start()
        assert compilation.result() is None
        go.write_text("\n")
        code = None
        while code is None:
            ready, _, _ = select.select([compilation], [], [], PATIENCE_S)
            assert ready
            code = compilation.result()

    assert tuple(code.programs) == PROGRAMS


@needs_bcc
def test_without_header_files(tmp_path):
    """It compiles where neither the kernel's headers nor libc's are installed."""
    hidden = (
        "exec unshare -m --propagation private sh -c 'mount -t tmpfs none /usr/include && "
        "for each in /lib/modules /usr/src; do [ ! -d $each ] || mount -t tmpfs none $each; done; "
        f'exec {INTERPRETERS[0]} "$@"\' sh "$@"'
    )
    code = compiled(interpreters=interpreter_that(tmp_path, hidden))

    assert len(code.programs) == len(PROGRAMS)


@pytest.mark.parametrize(
    ("target", "assertion"),
    [
        (
            "x86_64-linux-gnu",
            "offsetof(struct pt_regs, sp) == 152 && sizeof(struct pt_regs) == 168",
        ),
        (
            "aarch64-linux-gnu",
            "offsetof(struct pt_regs, sp) == 248 && sizeof(struct pt_regs) == 272",
        ),
    ],
)
def test_registers(target, assertion):
    """The stand-in registers lie where the kernel has them, on each processor."""
    text = f'#include <uapi/linux/ptrace.h>\n_Static_assert({assertion}, "");\n'
    clang = ["clang", f"--target={target}", "-fsyntax-only", "-Werror", "-x", "c", "-"]
    offset = "-Doffsetof(type, member)=__builtin_offsetof(type, member)"
    headers = f"-I{ROOT / 'bpf/probes/headers/include'}"

    subprocess.run([*clang, offset, headers], input=text, text=True, check=True)


def test_no_interpreter():
    """Where none of the interpreters is there they are named."""
    expected = "/nonexistent/python3, /nonexistent/python: expected an interpreter, got none"
    candidates = ("/nonexistent/python3", "/nonexistent/python")

    assert str(refusal(interpreters=candidates)) == expected
    assert why_not(interpreters=candidates) == expected


def test_no_bcc(tmp_path):
    """An interpreter without bcc is named, with the package to install."""
    bare = interpreter_that(tmp_path, f'exec {INTERPRETERS[0]} -S "$@"')
    error = refusal(interpreters=bare)

    assert str(error).endswith(": no bcc (python3-bpfcc): no module named 'bcc'")
    assert why_not(interpreters=bare) == (
        f"{bare[0]}: expected bcc (package python3-bpfcc), got none"
    )


@needs_bcc
def test_broken_source(tmp_path):
    """An error of the compiler is quoted with its place in the file; the log has all of it."""
    text = (
        (SOURCES / "tls.c").read_text().replace("int aw_say(struct pt_regs", "int aw_say(strct", 1)
    )
    line = next(n for n, each in enumerate(text.splitlines(), 1) if "(strct" in each)
    error = refusal(sources=sources_with(tmp_path, text))

    assert str(error).startswith(f"compile tls.c: tls.c:{line}:12: error: ")
    assert "strct" in error.log


@needs_bcc
def test_map_of_its_own(tmp_path):
    """A source that uses a map which the wall has not is refused: nobody would have its entries."""
    error = refusal(sources=sources_with(tmp_path, MAP_OF_ITS_OWN), programs=("aw_bad",))

    assert str(error) == "compile aw_bad: expected maps of the wall, got another"


@needs_bcc
def test_program_that_is_not_there():
    """A program that the source lacks is named."""
    error = refusal(programs=("aw_say", "aw_whisper"))

    assert str(error).startswith("compile aw_whisper: ")


@needs_bcc
def test_odd_path(tmp_path):
    """A directory whose name is no plain text is not handed to the compiler."""
    odd = tmp_path / 'x"y'
    shutil.copytree(SOURCES, odd)

    assert str(refusal(sources=odd)).startswith(f"'{odd}': expected letters")


def test_no_source(tmp_path):
    """Where the source is missing its path is said."""
    expected = f"{tmp_path}/tls.c: "

    assert (why_not(sources=tmp_path) or "").startswith(WHY_NOT or expected)
    if WHY_NOT is None:
        assert str(refusal(sources=tmp_path)).startswith(expected)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("kill -9 $$", "the compiling process was ended by signal 9 without an answer"),
        (
            "echo 'not for this processor' >&2; exit 3",
            "the compiling process ended with code 3 without an answer: not for this processor",
        ),
        (
            "exec python3 -c 'import os, sys; os.write(int(sys.argv[1]), b\"no answer\")' $4",
            "the compiling process ended with code 0 with an answer of Expecting value: line 1 "
            "column 1 (char 0)",
        ),
    ],
)
def test_child_that_dies(tmp_path, script, expected):
    """A child that ends without an answer, such as one killed for its memory, is a refusal."""
    assert str(refusal(interpreters=interpreter_that(tmp_path, script))) == expected


def test_timeout(tmp_path):
    """A child that takes too long is killed."""
    slow = interpreter_that(tmp_path, "exec sleep infinity")
    before = children()
    error = refusal(interpreters=slow, timeout_s=0.2)

    assert str(error) == "compiling took longer than 0.2 s"
    assert children() <= before


@needs_bcc
def test_expendable():
    """Where memory is short the child goes first, though the daemon is spared."""
    before = children()
    with Compilation(timeout_s=PATIENCE_S) as compilation:
        compilation.start()
        (child,) = children() - before
        score = Path("/proc") / child / "oom_score_adj"

        wait_until(lambda: score.read_text() == "1000\n", what="the score", timeout_s=PATIENCE_S)


@needs_bcc
def test_closed_early():
    """Closing ends the child at whatever point it is."""
    before = children()
    compilation = Compilation()
    compilation.start()
    compilation.close()
    compilation.close()

    assert children() <= before


@needs_bcc
def test_parent_that_dies():
    """The child ends by itself when nobody is left to ask it for anything."""
    script = DIES_EARLY.format(root=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    child = Path("/proc") / done.stdout.strip()

    wait_until(
        lambda: b"compile_child" not in _command(child),
        what="the child's end",
        timeout_s=PATIENCE_S,
    )


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@needs_bcc
def test_why_not_where_all_is_there():
    """Where nothing is missing nothing is said."""
    assert why_not() is None


def test_why_not_without_uprobes(monkeypatch, tmp_path):
    """A kernel without uprobes is named by the file it lacks."""
    monkeypatch.setattr(compiling, "_UPROBES", tmp_path / "type")
    expected = f"{tmp_path / 'type'}: expected uprobes in this kernel, got none"

    assert (why_not() or "").startswith(WHY_NOT or expected)


def test_group_of_its_own(tmp_path):
    """A signal for the parent's process group, such as ctrl-C, does not reach the child."""
    out = tmp_path / "group"
    script = f"ps -o pgid= -p $$ > {out}; echo $$ >> {out}"
    refusal(interpreters=interpreter_that(tmp_path, script))
    group, pid = out.read_text().split()

    assert group == pid


def test_digest(tmp_path, monkeypatch):
    """It changes with a source, wherever the sources lie, and with the kernel."""
    here = digest()
    shutil.copytree(SOURCES, tmp_path / "probes")
    same = digest(sources=tmp_path / "probes")
    with (tmp_path / "probes" / "headers" / "include" / "linux" / "types.h").open("a") as file:
        file.write("/* */\n")
    changed = digest(sources=tmp_path / "probes")
    kernel = os.uname()
    other = os.uname_result((kernel[0], kernel[1], "9.9", kernel[3], kernel[4]))
    monkeypatch.setattr(os, "uname", lambda: other)

    assert here == same
    assert len({here, changed, digest()}) == 3
