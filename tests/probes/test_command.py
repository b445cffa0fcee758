# SPDX-License-Identifier: Apache-2.0
"""Of a command that is about to be executed, the libraries are found that it would map."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.descriptors import descriptors
from rig.process import run_checked

from agentwall.probes import command as module
from agentwall.probes import walking
from agentwall.probes.command import Command, files_of
from agentwall.probes.mounts import Mounts


@pytest.fixture
def top(tmp_path):
    """A root directory with a library in each of some places, and programs."""
    for place in ("opt/a/lib", "opt/b", "env/lib", "named", "work/rel"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "libssl.so.3").write_text(place)
    (tmp_path / "env" / "bin").mkdir()
    (tmp_path / "env" / "bin" / "python3").write_text("")
    (tmp_path / "env" / "bin" / "tool").write_text("#!/usr/bin/env -S python3 -I\n")
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "env").write_text("")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "py").symlink_to("/env/bin/python3")
    return tmp_path


def found(top, **words: str) -> list[str]:
    """Return the paths of what is found for a command."""
    root = os.open(top, os.O_PATH)
    paths = []
    for fd, path in files_of(Mounts(os.getpid()), root, Command(**words)):
        os.close(fd)
        paths.append(path)
    os.close(root)
    return paths


def test_library_path(top):
    """What ``LD_LIBRARY_PATH`` names comes first; relative to where the command is started."""
    paths = found(top, program="x", library_path="/opt/a/lib:rel;/opt/b::/none", directory="/work")

    assert paths == [f"/{each}/libssl.so.3" for each in ("opt/a/lib", "work/rel", "opt/b")]


@pytest.mark.parametrize(
    ("program", "path", "programs"),
    [
        ("/env/bin/python3", "", ["python3"]),
        ("python3", "/nothing:/env/bin", ["python3"]),
        ("/home/py", "", ["python3"]),
        ("env/bin/python3", "", ["python3"]),
        ("/env/bin/tool", "/env/bin", ["tool", "python3"]),
    ],
)
def test_beside_its_programs(top, program, path, programs):
    """``../lib`` of where the program is, through links, or what interprets it; that comes too."""
    paths = found(top, program=program, path=path)

    assert paths == [*(f"/env/bin/{each}" for each in programs), "/env/lib/libssl.so.3"]


def test_activated_environment(top):
    """``../lib`` of the directories in ``PATH``: whatever is called in them by a shell."""
    assert found(top, program="sh", path="/usr/bin:/env/bin") == ["/env/lib/libssl.so.3"]


def test_what_the_program_names(top):
    """DT_RUNPATH counts, its ``$ORIGIN`` for the directory of the program in truth."""
    source, program = top / "main.c", top / "env" / "bin" / "main"
    source.write_text("int main(void) { return 0; }")
    paths = "$ORIGIN/../../opt/b:/named:${ORIGIN}/../../work/rel"
    run_checked("gcc", str(source), "-o", str(program), f"-Wl,--enable-new-dtags,-rpath,{paths}")
    (top / "home" / "main").symlink_to("../env/bin/main")

    assert found(top, program="/home/main") == [
        "/env/bin/main",
        *(f"/{each}/libssl.so.3" for each in ("opt/b", "named", "work/rel", "env/lib")),
    ]


def test_bounds(top, monkeypatch):
    """Scripts that interpret each other end; so do directories, and what is in them."""
    (top / "home" / "loop").write_text("#!/home/loop\n")
    loop = found(top, program="/home/loop")
    monkeypatch.setattr(module, "MAX_PLACES", 1)
    one = found(top, program="x", library_path="/opt/a/lib:/opt/b")
    monkeypatch.setattr(walking, "MAX_ENTRIES", 0)
    none = found(top, program="x", library_path="/opt/a/lib")

    assert loop == ["/home/loop"] * module.MAX_INTERPRETERS
    assert one == ["/opt/a/lib/libssl.so.3"]
    assert none == []


def test_only_regular_files(top):
    """What else has such a name is not opened: a pipe could wait."""
    os.mkfifo(top / "opt" / "b" / "libssl_pipe.so")
    os.mkfifo(top / "home" / "pipe")

    assert found(top, program="/home/pipe", library_path="/opt/b") == ["/opt/b/libssl.so.3"]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_any_command(top, program, path, library_path, directory):
    """Whatever the words are, it ends without an error, and nothing stays open."""
    before = descriptors()
    found(top, program=program, path=path, library_path=library_path, directory=directory)

    assert descriptors() <= before


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
)
@given(st.binary(max_size=300))
def test_any_program(top, content):
    """Whatever is in the program's file, it is taken as one that says nothing, or as a script."""
    (top / "home" / "any").write_bytes(content)

    assert found(top, program="/home/any")[0] == "/home/any"
