# SPDX-License-Identifier: Apache-2.0
"""The ``agentwall`` command finds its subcommands and ends with the documented codes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import click
import pytest

from agentwall import __version__
from agentwall.cli.main import SUBCOMMANDS, cli, main
from agentwall.errors import HostError, KernelError, PolicyError, SourceLocation

HEAVY = {"pydantic", "yaml", "rich", "ctypes", "agentwall.kernel", "agentwall.policy"}


def python(*args: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture
def probe(monkeypatch):
    """Install a subcommand ``probe`` that calls a function, and return how to run it."""

    def run(action) -> int:
        command = click.Command("probe", callback=action)
        monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: command)
        return main(["probe"])

    return run


def raiser(error: BaseException):
    def action():
        raise error

    return action


def test_version():
    """The module runs as a program and prints its version."""
    done = python("-m", "agentwall", "--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"agentwall {__version__}\n", "")


def test_version_imports_nothing_heavy():
    """What only a subcommand needs is not paid for at every start."""
    code = (
        "import sys; from agentwall.cli.main import main; main(['--version']); print(*sys.modules)"
    )

    loaded = set(python("-c", code).stdout.split())
    assert "agentwall.cli.main" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_subcommand(name, capsys):
    """Every subcommand is found, is listed and explains itself."""
    assert main([name, "--help"]) == 0
    assert f"Usage: agentwall {name}" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["no-such"], ["--no-such"], []])
def test_wrong_usage(argv, capsys):
    """Wrong usage ends with 2 and says how to use it, on stderr."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: agentwall" in err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (86, 86)])
def test_returned_code(probe, returned, code):
    """What a subcommand returns is the exit code, nothing is 0."""
    assert probe(lambda: returned) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyError(SourceLocation("p.yaml", 1, 1), "", "not YAML"), 2),
        (click.UsageError("no"), 2),
        (click.FileError("p.yaml"), 2),
        (HostError("not root"), 77),
        (KernelError(errno.EPIPE, "ring buffer: gone"), 77),
        (click.exceptions.Exit(4), 4),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_error_ends_with_its_code(probe, error, code):
    """Each way of failing has its exit code and no traceback."""
    assert probe(raiser(error)) == code


def test_unexpected_error_is_not_hidden(probe):
    """An error that nobody foresaw keeps its traceback."""
    with pytest.raises(OSError, match="bad descriptor"):
        probe(raiser(OSError(errno.EBADF, "bad descriptor")))


def test_reader_that_left():
    """A pipe closed by its reader (``agentwall ... | head``) ends the command quietly with 141."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "agentwall", "--help"]
    with os.fdopen(write_end, "wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=False)

    assert (done.returncode, done.stderr) == (141, b"")


def test_full_disk_behind_stdout():
    """Output that finds no place is one line on stderr, and the command ends with 77."""
    with open("/dev/full", "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "agentwall", "--help"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stderr) == (77, "agentwall: stdout: no space left on device\n")
