# SPDX-License-Identifier: Apache-2.0
"""Reading inside TLS outlives the daemon: killed, stopped or taken over, nothing is let through."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from rig.cli import agentwall, environment
from rig.daemon import daemon_ground
from rig.namespace import temp_netns
from rig.process import wait_until
from rig.tls_clients import PYTHON
from rig.tls_programs import copy_libraries
from rig.tls_service import tls_service
from rig.tls_talker import CHAT, MINING, SILENCE_S, is_probed, talking

from agentwall.daemon.leftovers import clear_leftover, find_leftovers
from agentwall.host.kept_files import SYSTEM_CACHE
from agentwall.kernel import pins
from agentwall.probes import compiling, uprobes
from agentwall.probes.mappings import executable_mappings

pytestmark = pytest.mark.kernel

HIDING = ("unshare", "--mount", "--propagation", "slave", "sh", "-c")
"""Runs a shell with mounts of its own, which still sees what others mount."""
HIDE = (
    f"mount -t tmpfs none /usr/lib/python3/dist-packages && mkdir -p {SYSTEM_CACHE} && "
    f'mount -t tmpfs none {SYSTEM_CACHE} && exec "$0" "$@"'
)
"""What that shell does, that no bcc be there, and nothing that one compiled before."""
WAIT_S = 300.0
"""For what comes, sooner or later: the machine may be busy."""
MAPS_SSL = "import ssl, time; print('ready', flush=True); time.sleep(1000)"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Path:
    """Libraries of the test's own."""
    if reason := compiling.why_not():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("libraries")
    copy_libraries(directory)
    return directory


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
def stage(tmp_path_factory, libraries):
    """A daemon's surroundings."""
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.policy("work", "allow: [{cidr: 127.0.0.1, ports: [any]}]\n")
        daemon.configure(default="work", tls="auto")
        yield daemon


@pytest.fixture
def daemon(stage):
    """The daemon, running and reading."""
    if stage.process is None:
        stage.start()
    wait_until(lambda: tls_of(stage)["state"] == "on", what="reading inside TLS", timeout_s=WAIT_S)
    return stage


def tls_of(daemon) -> dict[str, object]:
    """Return what status says of it."""
    with daemon.client() as client:
        return client.status()["tls"]


def wait_until_met(daemon, talker, pool) -> None:
    """Have *talker* call the pool, and wait until it is read: from its next session on.

    On a busy machine the daemon may not have seen what it has mapped, but hears who speaks TLS.
    """
    assert talker.connect(pool.port) == "connected"
    wait_until_read(daemon, talker)


def wait_until_read(daemon, talker) -> None:
    """Wait until the library of *talker* is probed by the running daemon, and listed."""
    inode = talker.library().file.inode
    wait_until(
        lambda: inode in {each["inode"] for each in tls_of(daemon)["libraries"]},
        what="the library's probes",
        timeout_s=WAIT_S,
    )


def wait_until_unread(talker) -> None:
    """Wait until no probe is left in the library of *talker*."""
    wait_until(lambda: not talker.is_probed(), what="the end of the probes", timeout_s=WAIT_S)


def pinned(daemon) -> dict[str, int]:
    """Return how many probes are pinned, for each daemon that has pinned any."""
    place = pins.BPFFS / daemon.state.name / "probes"
    found = sorted(place.iterdir()) if place.is_dir() else []
    return {each.name: len(uprobes.pinned(each)) for each in found}


def delivered(pool) -> str:
    """Return the text that the pool got from all."""
    return b"".join(talk.text for talk in pool.talks).decode()


def dialects(daemon) -> list[tuple[str, int]]:
    """Return what was found, and how many octets of text had left by then."""
    return [(each["dialect"], each["bytes_left"]) for each in daemon.events("detection")]


def await_dialects(daemon, count: int) -> list[tuple[str, int]]:
    """Return what was found once there are so many."""
    wait_until(lambda: len(dialects(daemon)) >= count, what="what was found", timeout_s=WAIT_S)
    return dialects(daemon)


def test_killed_and_taken_over(daemon, here, pool, libraries):
    """With nobody alive mining is cut with nothing sent; the next daemon tells, and goes on.

    It puts probes of its own in the place of those that stood, and counts no call twice.
    """
    pool.clear()
    earlier = len(dialects(daemon))
    with ExitStack() as stack:
        cgroup = stack.enter_context(daemon.sandbox("tls-1"))
        daemon.wait_for_sandbox(cgroup)
        one, other = (stack.enter_context(talking(cgroup, here, libraries)) for _ in "ab")
        wait_until_met(daemon, one, pool)
        for each in (one, other):
            assert each.connect(pool.port) == "connected"
        said = [one.say(CHAT), other.say(CHAT)]
        daemon.kill()
        former, stands = pinned(daemon), one.is_probed()
        cut, text = one.say(MINING, SILENCE_S), delivered(pool)
        daemon.start()
        wait_until_read(daemon, one)
        wait_until(
            lambda: former.keys().isdisjoint(pinned(daemon)),
            what="the end of old probes",
            timeout_s=WAIT_S,
        )
        own, goes_on = pinned(daemon), one.is_probed()
        told = await_dialects(daemon, earlier + 1)[earlier:]
        before = tls_of(daemon)
        said.append(other.say(CHAT))
        after = tls_of(daemon)
        destroyed, last = other.say(MINING), delivered(pool)
        told_last = await_dialects(daemon, earlier + 2)[earlier:]

    assert said == ["answered"] * 3
    assert (len(former), stands) == (1, True)
    assert (cut, text) == ("silence", CHAT * 2)
    assert (len(own), goes_on) == (1, True)
    assert told == [("stratum-v1", len(CHAT))]
    # One write, and one read of the answer.
    assert after["calls"] - before["calls"] == 2
    assert after["octets"] > before["octets"]
    # Where the socket is destroyed before the library writes to it, it is the write that fails.
    assert (destroyed.partition(" ")[0] in ("ended", "broken"), last) == (True, CHAT * 3)
    assert told_last == [("stratum-v1", len(CHAT)), ("stratum-v1", 2 * len(CHAT))]


def test_reload(daemon, here, pool, libraries):
    """A session goes on to be read over a reload, by what is looked for then."""
    pool.clear()
    with daemon.sandbox("tls-2") as cgroup:
        daemon.wait_for_sandbox(cgroup)
        with talking(cgroup, here, libraries) as one:
            wait_until_met(daemon, one, pool)
            one.connect(pool.port)
            before = [one.say(CHAT)]
            daemon.policy(
                "work", "allow: [{cidr: 127.0.0.1, ports: [any]}]\ndetect: {mining: alert}\n"
            )
            daemon.reload()
            alerted = one.say(MINING)
            daemon.policy("work", "allow: [{cidr: 127.0.0.1, ports: [any]}]\n")
            daemon.reload()
            one.connect(pool.port)
            cut = one.say(MINING, SILENCE_S)
            state = tls_of(daemon)["state"]

    assert before == ["answered"]
    assert alerted == "answered"
    assert cut != "answered"
    assert delivered(pool) == CHAT + MINING
    assert state == "on"


def test_the_ways_to_end_it(daemon, here, pool, libraries):
    """Stopped, it leaves the probes; off, the next takes them away; detached, it does itself."""
    pool.clear()
    with daemon.sandbox("tls-3") as cgroup:
        daemon.wait_for_sandbox(cgroup)
        with talking(cgroup, here, libraries) as one:
            wait_until_met(daemon, one, pool)
            one.connect(pool.port)
            daemon.stop()
            stopped, cut = (len(pinned(daemon)), one.is_probed()), one.say(MINING, SILENCE_S)
            daemon.configure(default="work", tls="off")
            daemon.start()
            off = tls_of(daemon)
            wait_until_unread(one)
            one.connect(pool.port)
            unread = one.say(MINING)
            daemon.stop()
            daemon.configure(default="work", tls="auto")
            daemon.start()
            wait_until_read(daemon, one)
            again = one.is_probed()
            words = ["daemon", "--config", daemon.config, "--socket", daemon.socket, "--detach"]
            detached = subprocess.run(agentwall(*words), timeout=WAIT_S, check=False).returncode
            daemon.process.wait(WAIT_S)
            daemon.process = None
            wait_until_unread(one)
            left = (pins.BPFFS / daemon.state.name).exists()

    assert (stopped, cut) == ((1, True), "silence")
    assert (off["state"], off["reason"]) == ("off", "tls.inspect: off")
    assert unread == "answered"
    assert again
    assert (detached, left) == (0, False)


def test_without_bcc(stage, here, pool, libraries):
    """It runs and says so, and so does the doctor; who requires it does not start."""
    if stage.process is not None:
        stage.stop()
    hidden = [*HIDING, HIDE]
    stage.prefix = hidden
    try:
        stage.start()
        with stage.sandbox("tls-4") as cgroup:
            stage.wait_for_sandbox(cgroup)
            with talking(cgroup, here, libraries, pool.port) as one:
                wait_until(
                    lambda: tls_of(stage)["state"] != "starting",
                    what="the refusal",
                    timeout_s=WAIT_S,
                )
                said, tls = one.say(CHAT), tls_of(stage)
                with stage.client() as client:
                    readings = client.sandbox("tls-4")["tls"]
        doctor = subprocess.run(
            [*hidden, *agentwall("doctor")],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        stage.stop()
        stage.configure(default="work", tls="require")
        code = stage.start(wait=False).wait(WAIT_S)
        stage.process = None
    finally:
        stage.prefix = []
        stage.configure(default="work", tls="auto")

    assert said == "answered"
    assert tls["state"] == "refused"
    assert "bcc" in tls["reason"]
    assert readings["joined"] in (0, None)
    assert "python3-bpfcc" in " ".join(doctor.stdout.split())
    assert code == 77


def clear_leftovers_of(pid: int) -> None:
    """Clear what a run of that agentwall has left."""
    for each in find_leftovers():
        if each.record.pid == pid:
            clear_leftover(each, force=True)


def test_run_that_was_killed(tmp_path):
    """The probes of ``agentwall run`` outlive it as its wall does, and go with what is left."""
    # Copies of its own: what a daemon has probed for others stays so for a while.
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    copy_libraries(libraries)
    policy = tmp_path / "p.yaml"
    policy.write_text("version: 1\nallow: [{cidr: 127.0.0.1, ports: [any]}]\n")
    command = [PYTHON, "-I", "-S", "-c", MAPS_SSL]
    settings = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        # By this they are probed before the command begins.
        "env": environment(LD_LIBRARY_PATH=str(libraries)),
    }
    with ExitStack() as stack:
        # Who has it mapped as well, and lives on.
        bystander = stack.enter_context(subprocess.Popen(command, **settings))
        stack.callback(bystander.kill)
        assert bystander.stdout.readline() == b"ready\n"
        [mapping] = [
            each
            for each in executable_mappings(bystander.pid)
            if each.path.startswith(f"{libraries}/libssl".encode())
        ]

        def is_read() -> bool:
            return is_probed(bystander.pid, mapping)

        child = stack.enter_context(
            subprocess.Popen(
                agentwall("run", "--tls", "require", "-p", policy, "--", *command), **settings
            )
        )
        for action in ((clear_leftovers_of, child.pid), (child.wait,), (child.kill,)):
            stack.callback(*action)  # the last one first
        assert child.stdout.readline() == b"ready\n"
        wait_until(is_read, what="the probes", timeout_s=WAIT_S)
        child.kill()
        child.wait()
        [leftover] = [each for each in find_leftovers() if each.record.pid == child.pid]
        place = pins.BPFFS / leftover.record.id
        stands, held = is_read(), len(uprobes.pinned(next((place / "probes").iterdir())))
        clear_leftover(leftover, force=True)
        wait_until(lambda: not is_read(), what="the end of the probes", timeout_s=WAIT_S)
        Path(leftover.record.events).unlink(missing_ok=True)
        missing = [each.record.id for each in find_leftovers() if each.record.pid == child.pid]

    assert stands
    assert held > 0
    assert missing == []
    assert not place.exists()
