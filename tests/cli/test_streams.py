# SPDX-License-Identifier: Apache-2.0
"""Closed descriptors become /dev/null, and logged warnings are lines like agentwall's others."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentwall.cli.main import main
from agentwall.cli.streams import show_warnings

WHAT_IS_OPEN = """
import os, sys
from agentwall.cli.streams import open_missing_streams

open_missing_streams()
print("to stdout", flush=True)
print("to stderr", file=sys.stderr, flush=True)
wanted = int(sys.argv[1])
assert os.get_inheritable(wanted)
os.write(int(sys.argv[2]), os.readlink(f"/proc/self/fd/{wanted}").encode())
"""


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_descriptor(closed):
    """A closed descriptor leads to /dev/null, is inherited, and can be printed to."""
    reader, writer = os.pipe()
    done = subprocess.run(
        [
            *("sh", "-c", f'exec "$@" {closed}>&-', "sh"),
            *(sys.executable, "-c", WHAT_IS_OPEN, str(closed), str(writer)),
        ],
        pass_fds=(writer,),
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(writer)
    with os.fdopen(reader) as said:
        assert said.read() == os.devnull

    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if closed == 1 else "to stdout\n")
    assert done.stderr == ("" if closed == 2 else "to stderr\n")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_command_without_a_stream(closed):
    """Started with any of the three closed, a command still ends with its code and quietly."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m agentwall --version {closed}>&-', sys.executable],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_open_descriptors_are_left_alone():
    """Streams that are there stay what they are."""
    before = [os.fstat(number).st_ino for number in range(3)]
    main(["--version"])

    assert [os.fstat(number).st_ino for number in range(3)] == before


def test_logged_warning(capsys):
    """A warning is one escaped line that begins as agentwall's lines do."""
    show_warnings()
    show_warnings()
    logging.getLogger("agentwall.sinks.jsonl").warning("event file: %s", "\x1b[2Jfull")

    assert capsys.readouterr().err == "agentwall: event file: \\x1b[2Jfull\n"


def test_warning_that_finds_no_place(monkeypatch):
    """A warning that cannot be printed is let go: what is behind the wall goes on."""
    show_warnings()
    with open("/dev/full", "w", buffering=1, encoding="ascii") as full:
        monkeypatch.setattr(sys, "stderr", full)
        logging.getLogger("agentwall.sinks.jsonl").warning("event file: full")
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
