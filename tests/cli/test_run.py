# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` as a user starts it: exit codes, streams, signals and a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rig.cli import agentwall, environment, run_agentwall
from rig.process import wait_until

pytestmark = pytest.mark.kernel

CONNECT = "import socket; socket.socket().connect_ex(('192.0.2.1', 4444))"


@pytest.fixture(autouse=True)
def events_here(tmp_path, monkeypatch):
    """Every run of these tests names its event file, so that none stays in /var/log."""
    monkeypatch.chdir(tmp_path)


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``agentwall run`` with an event file of its own."""
    events = f"events-{time.monotonic_ns()}.jsonl"
    return run_agentwall("run", "--events", events, *words, cwd=Path.cwd(), **options)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_commands_own_code(command, code):
    """The exit code is the command's own, or what a shell would say."""
    assert run("--", *command).returncode == code


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--fail-on", "low"], 86),
        (["--fail-on", "info"], 86),
        (["--fail-on", "medium"], 0),
        (["--fail-on", "never"], 0),
        ([], 0),
    ],
)
def test_fail_on(words, code):
    """--fail-on turns a denial of at least that severity into 86."""
    assert run(*words, "--", "python3", "-c", CONNECT).returncode == code


@pytest.mark.parametrize("severity", ["info", "low"])
def test_fail_on_clean(severity):
    """A run in which nothing was refused is clean, whatever the threshold."""
    assert run("--fail-on", severity, "--", "true").returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--no-such-option", "--", "true"], "no-such-option"),
        (["--label", "x", "--", "true"], "KEY=VALUE"),
        ([], "CMD"),
        (["-p", "gone.yaml", "--", "true"], "agentwall: gone.yaml:1:1"),
        (["-p", "bad.yaml", "--", "true"], "agentwall: bad.yaml:2:1"),
        (["-p", ".", "--", "true"], "agentwall: "),
        (["--user", "no-such-user", "--", "true"], "no such user"),
        (["--keep-cap", "CHOWN", "--", "true"], "CHOWN"),
        (["--keep-fd", "99", "--", "true"], "descriptor 99"),
        (["--tls", "on", "--", "true"], "--tls"),
        (["--events", "bad.yaml", "--", "true"], "bad.yaml"),
        (["--keep-cap", "BPF", "--require-full", "--", "true"], "expected full"),
        (["--report", "no/such/dir/r.md", "--", "true"], "no/such/dir"),
    ],
)
def test_agentwalls_own_failure(words, says):
    """Every failure of agentwall is 125, says why without a traceback, and leaves no file."""
    Path("bad.yaml").write_text("version: 1\nnonsense: true\n")
    before = set(Path.cwd().iterdir())

    done = run(*words)

    assert done.returncode == 125
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert set(Path.cwd().iterdir()) == before


def test_streams():
    """stdout is the command's alone; stderr has a line for the denial and the sums."""
    done = run("--", "sh", "-c", f'echo out; echo err >&2; cat; python3 -c "{CONNECT}"', stdin="in")

    lines = done.stderr.splitlines()
    assert done.stdout == "out\nin"
    assert lines[0] == "err"
    assert all(line.startswith("agentwall: ") for line in lines[1:])
    assert re.search(r"denied tcp 192\.0\.2\.1:4444 .*EPERM", lines[1])
    assert any("1 denied" in line for line in lines)
    assert any("coverage: " in line for line in lines)
    assert any("events: " in line and ".jsonl" in line for line in lines)


def test_quiet():
    """With --quiet stderr is the command's alone too."""
    done = run("--quiet", "--", "sh", "-c", f'echo err >&2; python3 -c "{CONNECT}"')

    assert done.stderr == "err\n"


@pytest.mark.parametrize(
    ("use", "mining", "state"),
    [
        ("off", "block", {"state": "off", "reason": "--tls off"}),
        ("auto", "off", {"state": "off", "reason": "nothing is looked for"}),
        ("require", "block", {"state": "on", "reason": None}),
    ],
)
def test_tls(use, mining, state):
    """Whether anything is read inside TLS is said in the log; what was asked for needs no word."""
    off = "tunnel: off, p2p: off, dns_exfil: off"
    Path("p.yaml").write_text(f"version: 1\nname: p\ndetect: {{mining: {mining}, {off}}}\n")
    done = run("--tls", use, "-p", "p.yaml", "--", "true")

    assert done.returncode == 0
    assert "inside TLS" not in done.stderr
    started = json.loads(next(Path().glob("events-*.jsonl")).read_text().splitlines()[0])
    assert started["detail"]["tls"] == state


def test_same_denial_once():
    """A denial that repeats has one line, and is counted every time."""
    done = run("--", "python3", "-c", f"{CONNECT.replace('; ', '; [', 1)} for _ in range(20)]")

    assert len(re.findall(r"denied tcp 192", done.stderr)) == 1
    assert "20 denied (1 distinct)" in done.stderr


def test_sudo():
    """Under sudo the command runs as the caller, with the caller's HOME."""
    variables = {"SUDO_UID": "65534", "SUDO_GID": "65534", "SUDO_USER": "nobody"}

    done = run("--", "sh", "-c", "id -un; echo $HOME $USER", variables=variables)

    assert done.stdout.splitlines() == ["nobody", "/nonexistent nobody"]


def test_user_cannot_touch_events(tmp_path):
    """The event file is root's, with the group of the command's user."""
    done = run("--user", "nobody", "--events", "e.jsonl", "--", "true")

    found = Path("e.jsonl").stat()
    assert done.returncode == 0
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 65534, 0o640)


@pytest.mark.parametrize("kept", [[], ["--keep-fd", "0"]])
def test_socket_as_stdin(kept):
    """A TCP socket as stdin is refused, but for --keep-fd, which opens a road."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        done = subprocess.run(
            agentwall("run", "--events", f"e{len(kept)}", *kept, "--", "true"),
            stdin=client,
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        client.close()

    if kept:
        assert done.returncode == 0
        assert "descriptors kept: 0 (inet socket)" in done.stderr
    else:
        assert done.returncode == 125
        assert "descriptor 0: inet socket" in done.stderr


def test_unix_socket_as_stdin():
    """A unix socket as stdin, as Node gives its children, is normal."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello")
        ours.shutdown(socket.SHUT_WR)
        done = subprocess.run(
            agentwall("run", "--events", "e", "--", "cat"),
            stdin=theirs,
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )

    assert (done.returncode, done.stdout) == (0, "hello")


class Terminal:
    """``agentwall run`` at a real pseudoterminal, in a session of its own."""

    def __init__(self, *command: str) -> None:
        self.pid, self.master = pty.fork()
        if not self.pid:
            words = agentwall("run", "--events", "terminal.jsonl", "--", *command)
            os.execve(sys.executable, words, environment())
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Read until *text* has been seen."""
        wait_until(lambda: text in self._read(), what=f"{text!r} on the terminal")

    def _read(self) -> str:
        while select.select([self.master], [], [], 0.05)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # The other end has been closed.
                break
            if not data:
                break
            self.seen += data.decode(errors="replace")
        return self.seen

    def foreground(self) -> str:
        """Return the name of what leads the foreground's processes; empty if it has just ended."""
        with suppress(OSError):
            return Path(f"/proc/{os.tcgetpgrp(self.master)}/comm").read_text().strip()
        return ""

    def type(self, text: str) -> None:
        """Type *text*."""
        os.write(self.master, text.encode())

    def finish(self) -> int:
        """Wait for the end, and return the exit code."""
        code: list[int] = []

        def has_ended() -> bool:
            self._read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            code.extend([os.waitstatus_to_exitcode(status)] if pid else [])
            return bool(code)

        wait_until(has_ended, what="the end of agentwall")
        os.close(self.master)
        return code[0]


# Without a buffer: print() must not be called in a handler that interrupts print().
LOOP = (
    "import os, signal, sys\n"
    "say = lambda text: os.write(1, f'{text}\\n'.encode())\n"
    "for name in ('INT', 'QUIT', 'TERM', 'WINCH', 'HUP'):\n"
    "    signal.signal(getattr(signal, 'SIG' + name),\n"
    "        lambda n, f: say('GOT-' + signal.Signals(n).name[3:]))\n"
    "say('READY')\nfor line in sys.stdin:\n"
    "    say('READ-' + line.strip())\n"
    "    if line.strip() == 'end': sys.exit(6)\n"
)


def test_terminal_is_the_commands():
    """The command is in the foreground: it reads what is typed and has the terminal's size."""
    terminal = Terminal("python3", "-c", LOOP)
    terminal.wait_for("READY")
    terminal.type("hello\n")
    terminal.wait_for("READ-hello")
    terminal.type("end\n")

    assert terminal.finish() == 6
    assert "0 denied" in terminal.seen


@pytest.mark.parametrize(("key", "name"), [("\x03", "INT"), ("\x1c", "QUIT")])
def test_key_arrives_once(key, name):
    """Ctrl-C and Ctrl-\\ reach the command once, and agentwall outlives them."""
    terminal = Terminal("python3", "-c", LOOP)
    terminal.wait_for("READY")
    terminal.type(key)
    terminal.wait_for(f"GOT-{name}")
    terminal.type("end\n")

    assert terminal.finish() == 6
    assert terminal.seen.count(f"GOT-{name}") == 1


def test_resize_arrives_once():
    """A change of the terminal's size reaches the command once."""
    terminal = Terminal("python3", "-c", LOOP)
    terminal.wait_for("READY")
    termios.tcsetwinsize(terminal.master, (50, 100))
    terminal.wait_for("GOT-WINCH")
    terminal.type("end\n")

    assert terminal.finish() == 6
    assert terminal.seen.count("GOT-WINCH") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("to_group", [False, True])
def test_kill_arrives_once(number, to_group):
    """kill(2) of agentwall, or of its whole process group, reaches the command once."""
    terminal = Terminal("python3", "-c", LOOP)
    terminal.wait_for("READY")
    (os.killpg if to_group else os.kill)(terminal.pid, number)
    terminal.wait_for(f"GOT-{number.name[3:]}")
    time.sleep(0.3)
    terminal.type("end\n")

    assert terminal.finish() == 6
    assert terminal.seen.count(f"GOT-{number.name[3:]}") == 1


def test_job_control():
    """Under a shell with job control Ctrl-Z stops the job, and fg continues it."""
    pid, master = pty.fork()
    if not pid:
        os.execve("/bin/bash", ["bash", "--norc", "-i"], environment(PS1="PROMPT> "))
    terminal = Terminal.__new__(Terminal)
    terminal.pid, terminal.master, terminal.seen = pid, master, ""
    terminal.wait_for("PROMPT> ")
    Path("loop.py").write_text(LOOP)
    command = " ".join(agentwall("run", "--events", "job.jsonl", "--", "python3", "loop.py"))
    terminal.type(f"{command}\n")
    terminal.wait_for("READY")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.type("fg\n")
    wait_until(lambda: terminal.foreground() not in ("bash", ""), what="the job in front")
    terminal.type("again\n")
    terminal.wait_for("READ-again")
    terminal.type("end\n")
    terminal.wait_for("0 denied")
    terminal.type("exit $?\n")

    assert terminal.finish() == 6


def test_interactive_shell():
    """A shell inside has job control of its own, and its exit code comes out."""
    terminal = Terminal("/bin/bash", "--norc", "-i")
    # Quoted, so that the echo of what is typed is not taken for the output.
    terminal.type("echo BE'GUN'; sleep 300\n")
    terminal.wait_for("BEGUN")
    wait_until(lambda: terminal.foreground() == "sleep", what="sleep in the foreground")
    terminal.type("\x03")
    terminal.type("echo ALI'VE'; exit 9\n")
    terminal.wait_for("ALIVE")

    assert terminal.finish() == 9
    assert "no job control" not in terminal.seen


PHASED = """\
version: 1
phases:
  setup: {mode: audit}
  agent: {}
"""


@pytest.mark.parametrize(("words", "mode"), [((), "audit"), (("--phase", "agent"), "enforce")])
def test_phases(tmp_path, words, mode):
    """A run begins in the first phase, or in the one that is asked for."""
    (tmp_path / "p.yaml").write_text(PHASED)
    done = run_agentwall(
        "run", "--events", tmp_path / "e.jsonl", "-p", tmp_path / "p.yaml", *words, "--", "true"
    )
    events = map(json.loads, (tmp_path / "e.jsonl").read_text().splitlines())
    [applied] = [each for each in events if each.get("state") == "rules-applied"]

    assert done.returncode == 0
    assert applied["detail"]["mode"] == mode
    assert applied["detail"]["phase"] == (words[1] if words else "setup")


def test_unknown_phase(tmp_path):
    """A phase that the policy does not have is refused before anything runs."""
    (tmp_path / "p.yaml").write_text(PHASED)
    done = run_agentwall("run", "-p", tmp_path / "p.yaml", "--phase", "x", "--", "true")

    assert done.returncode == 125
    assert done.stderr == "agentwall: phase of p: expected one of setup, agent, got 'x'\n"
