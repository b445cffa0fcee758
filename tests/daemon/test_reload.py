# SPDX-License-Identifier: Apache-2.0
"""Reading in a process of its own, whatever becomes of that process."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from rig.daemon import daemon_ground
from rig.descriptors import descriptors
from rig.keeping import make_edition, owned
from rig.process import wait_until

from agentwall.daemon import reload
from agentwall.daemon.edition import Edition, Rejected, Request
from agentwall.daemon.reload import EditionReader
from agentwall.errors import HostError


@pytest.fixture
def reader(tmp_path):
    """A reader of a good configuration."""
    make_edition(tmp_path, {"web": "allow: []\n"}, owned("/agentwall-test"))
    made = EditionReader(Request(config=str(tmp_path / "agentwall.yaml"), must_exist=True))
    yield made
    if made.is_busy:
        made.expire(time.monotonic() + 2 * reload.TIMEOUT_S)


def finish(reader: EditionReader) -> Edition | Rejected:
    """Go on whenever there is something, as the daemon's loop does."""
    while True:
        assert select.select([reader.fileno()], [], [], 60)[0]
        found = reader.step()
        if found is not None:
            return found


def test_an_edition_comes_in_pieces(reader):
    """The loop waits for nobody; the same reader reads again."""
    reader.start()
    busy = reader.is_busy
    first = finish(reader)
    second = reader.wait()

    assert (busy, reader.is_busy, reader.fileno()) == (True, False, -1)
    assert isinstance(first, Edition)
    assert first == second


def test_a_configuration_that_is_not_there(tmp_path):
    """Lines for people; files are to blame."""
    reader = EditionReader(Request(config=str(tmp_path / "no.yaml"), must_exist=True))
    found = reader.wait()

    assert isinstance(found, Rejected)
    assert found.is_usage
    assert "no.yaml" in found.problems[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed(reader, monkeypatch, number):
    """Memory was short, say: what was in force stays, and the next reading may do better."""
    with monkeypatch.context() as patch:
        patch.setattr(reload, "_SCRIPT", "import time; time.sleep(600)")
        reader.start()
    os.kill(reader._process.pid, number)
    found = finish(reader)
    again = reader.wait()

    assert found.problems == (f"the reading process ended with code {-number}",)
    assert not found.is_usage
    assert isinstance(again, Edition)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("raise SystemExit(3)", "ended with code 3"),
        ("import nosuch", "ended with code 1"),
        ("print('Warning: a library speaks')", "answered what nobody understands"),
        ("pass", "answered what nobody understands"),
        ("import sys; sys.stdout.buffer.write(b'cnosuch\\nX\\n.')", "nobody understands"),
        ("import pickle, sys; sys.stdout.buffer.write(pickle.dumps(7))", "neither an edition nor"),
    ],
)
def test_an_answer_that_is_none(reader, monkeypatch, script, said):
    """A broken installation: it is told as what it is, and the daemon goes on."""
    monkeypatch.setattr(reload, "_SCRIPT", script)
    found = reader.wait()

    assert said in found.problems[0]
    assert not found.is_usage


def test_one_that_takes_too_long(reader, monkeypatch):
    """It is ended, and not before its time; nothing of it is left."""
    monkeypatch.setattr(reload, "_SCRIPT", "import time; time.sleep(60)")
    reader.start()
    pid, now_s = reader._process.pid, time.monotonic()
    early = reader.expire(now_s)
    late = reader.expire(now_s + reload.TIMEOUT_S + 1)

    assert early is None
    assert late.problems == ("reading took longer than 120 s",)
    assert not reader.is_busy
    assert reader.expire(now_s + 10 * reload.TIMEOUT_S) is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_cannot_be_started(reader, monkeypatch):
    """Too many processes, say: an error, and no descriptor is left open."""
    before = descriptors()
    monkeypatch.setattr(reload.sys, "executable", "/nonexistent/python")
    with pytest.raises(HostError, match="reading process: No such file"):
        reader.start()

    assert (reader.is_busy, reader.fileno()) == (False, -1)
    assert descriptors() <= before


def test_it_needs_nothing_from_the_environment(reader, monkeypatch):
    """What the daemon's caller has there does not choose what is imported."""
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setenv("PYTHONSTARTUP", "/nonexistent")

    assert isinstance(reader.wait(), Edition)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A daemon that reads when it is asked to.

    It has no patience between SIGUSR1 and SIGUSR2, and no Python between SIGURG and SIGWINCH.
    """
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.policy("web", "allow: []\n")
        daemon.configure("watch: false\n")
        start = (
            "import signal, sys; from agentwall.daemon import reload; "
            "from agentwall.cli.main import main; "
            "signal.signal(signal.SIGUSR1, lambda *_: setattr(reload, 'TIMEOUT_S', 1.0)); "
            "signal.signal(signal.SIGUSR2, lambda *_: setattr(reload, 'TIMEOUT_S', 120.0)); "
            "python = sys.executable; "
            "signal.signal(signal.SIGURG, lambda *_: setattr(sys, 'executable', '/nonexistent')); "
            "signal.signal(signal.SIGWINCH, lambda *_: setattr(sys, 'executable', python)); "
            f"sys.argv[1:] = ['daemon', '--config', {str(daemon.config)!r}]; main()"
        )
        with (daemon.directory / "stderr").open("ab") as stderr:
            daemon.process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        daemon.wait_until_ready()
        yield daemon


def child_of(pid: int) -> int | None:
    """The reading process of a daemon, if there is one."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if b"edition_read" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


@pytest.mark.kernel
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_daemon_outlives_its_readings(ground, is_killed):
    """Killed or too slow: whoever waits is told, what was in force stays, the next one works.

    A reading that took too long took the daemon with it.
    """
    slow = ground.policies / "slow.yaml"
    slow.write_text("version: 1\nname: slow\ndeny: [{cidr_file: slow.txt}]\n")
    os.mkfifo(ground.policies / "slow.txt")
    outcomes: list[Mapping[str, object]] = []
    if not is_killed:
        ground.process.send_signal(signal.SIGUSR1)
    waiting = threading.Thread(target=lambda: outcomes.append(ground.reload()))
    waiting.start()
    if is_killed:
        wait_until(lambda: child_of(ground.process.pid), what="the reading process")
        os.kill(child_of(ground.process.pid), signal.SIGKILL)
    waiting.join()
    if not is_killed:
        ground.process.send_signal(signal.SIGUSR2)
    slow.unlink()
    (ground.policies / "slow.txt").unlink()
    wait_until(lambda: ground.reload()["applied"], what="another reading")
    with ground.client() as client:
        names = {each["name"] for each in client.status()["policies"]}

    assert not outcomes[0]["applied"]
    said = "ended with code -9" if is_killed else "reading took longer than 1 s"
    assert said in outcomes[0]["problems"][0]
    assert "web" in names


@pytest.mark.kernel
def test_no_process_to_read_with(ground):
    """Whoever waits is told why at once, and the daemon goes on."""
    with ground.client() as client:
        ground.process.send_signal(signal.SIGURG)
        outcome = client.reload()
        ground.process.send_signal(signal.SIGWINCH)
        again = client.reload()

    assert outcome == {
        "applied": False,
        "what": outcome["what"],
        "problems": ["reading process: No such file or directory"],
    }
    assert again["applied"]


@pytest.mark.kernel
def test_no_descriptor_to_read_with(ground):
    """A daemon with as many open as it may have keeps what is in force, and reads later."""
    pid = ground.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = next(number for number in range(soft) if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
    try:
        ground.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: "reading process: Too many open files" in ground.said(), what="the refusal"
        )
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

    assert ground.reload()["applied"]


@pytest.mark.kernel
def test_a_daemon_that_ends_ends_its_reading(tmp_path):
    """A reading that nobody waits for any more is not left behind, nor has it a word to say."""
    with daemon_ground(tmp_path) as ground:
        ground.policy("web", "allow: []\n")
        ground.configure("watch: false\n")
        ground.start()
        slow = ground.policies / "slow.yaml"
        slow.write_text("version: 1\nname: slow\ndeny: [{cidr_file: slow.txt}]\n")
        os.mkfifo(ground.policies / "slow.txt")
        with ground.client() as client:
            client.reload(wait=False)
            wait_until(lambda: child_of(ground.process.pid), what="the reading process")
            child = child_of(ground.process.pid)
            client.stop()
        ground.process.wait(60)

        assert child is not None
        assert not Path(f"/proc/{child}").exists()
        assert "Traceback" not in ground.said()
