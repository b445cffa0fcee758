# SPDX-License-Identifier: Apache-2.0
"""``agentwall doctor`` says what there is, and its exit code says what that comes to."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rig import own_cgroup, temp_cgroup
from rig.scratch import scratch

from agentwall.cli import doctor
from agentwall.cli.main import main
from agentwall.daemon.leftovers import CGROUP_PREFIX, Leftover
from agentwall.daemon.plan import new_run_id
from agentwall.detect.budget import BudgetError
from agentwall.host import state
from agentwall.host.cgroup import parse_membership
from agentwall.kernel import pins
from agentwall.kernel.cgroup2 import attachable
from agentwall.kernel.features import Feature, Group, State
from agentwall.kernel.libbpf import AttachType, ProgramType
from agentwall.kernel.links import Link
from agentwall.kernel.probe import loaded

ROOT = Path(__file__).parents[2]
RUN_ID = "doctor-test"
FEATURE = Feature(name="x", group=Group.HOOK, state=State.SUPPORTED, detail="there", required=True)
HEALTHY = doctor.Checkup(features=[FEATURE], translators=[], roads=[], leftovers=[], orphans=[])


def found(capsys, *arguments: str) -> tuple[int, dict]:
    """Run doctor in JSON; return its exit code and what it says."""
    code = main(["doctor", "--format", "json", *arguments])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Records of runs and pins in places of the test's own, with a bpffs mounted."""
    point = tmp_path / "bpf"
    monkeypatch.setattr(pins, "BPFFS", point)
    for function in (pins.pin_dirs, pins.unmount_bpffs, pins.mount_bpffs):
        monkeypatch.setattr(function, "__defaults__", (point,))
    for function in (state.leftovers, state.live_runs, state.exclusive.__wrapped__):
        monkeypatch.setattr(function, "__defaults__", (tmp_path,))
    monkeypatch.setattr(state.forget, "__defaults__", (tmp_path,))
    yield tmp_path
    for path in pins.pin_dirs():
        pins.clear_pins(path)

    assert pins.unmount_bpffs()


def record(cgroup: str = "/") -> state.RunRecord:
    return state.RunRecord(
        id=RUN_ID,
        cgroup=cgroup,
        pin_dir=str(pins.BPFFS / RUN_ID),
        policy="p",
        pid=1,
        start_time="2026-01-01T00:00:00Z",
        events="/none",
        argv=("true",),
    )


@pytest.fixture
def dead_run(runs):
    """What is left of a killed run: its record, its pins, and a process in its cgroup."""
    with temp_cgroup() as parent:
        cgroup = parent / f"{CGROUP_PREFIX}{RUN_ID}"
        cgroup.mkdir()
        pins.make_pin_dir(pins.BPFFS / RUN_ID)
        with (
            loaded(ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT4) as program,
            attachable(cgroup) as fd,
        ):
            link = Link.attach(program, fd, AttachType.CONNECT4)
            link.pin(pins.BPFFS / RUN_ID / pins.LINKS / "one")
            link.close()
        with subprocess.Popen(["sleep", "600"]) as child:
            (cgroup / "cgroup.procs").write_text(str(child.pid))
            path = parse_membership(Path(f"/proc/{child.pid}/cgroup").read_text())
            state.hold(record(path), runs).close()
            yield child
            child.kill()


@pytest.mark.kernel
def test_healthy_host(capsys):
    """On a host that runs these tests the exit code is 0 and the wall itself was tried."""
    code, said = found(capsys)
    wall = next(f for f in said["features"] if f["name"] == "the wall itself")

    assert (code, said["exit"], said["schema"]) == (0, 0, "agentwall.doctor/1")
    assert wall["state"] == "supported"
    assert wall["detail"].startswith("8 programs loaded and attached in ")


@pytest.mark.kernel
def test_detections(capsys):
    """It is tried whether sockets can be ended, and said how much the signatures take up."""
    _, said = found(capsys)
    features = {each["name"]: each for each in said["features"]}

    assert features["ending sockets"]["state"] == "supported"
    assert features["signatures"]["state"] == "supported"
    assert re.fullmatch(r"\d+, in \d+ of [0-9]+ states", features["signatures"]["detail"])


@pytest.mark.kernel
def test_signatures_that_do_not_fit(capsys, monkeypatch):
    """Why no run would start is said, before one is tried."""

    def refuse() -> None:
        raise BudgetError("too many")

    monkeypatch.setattr(doctor, "read_signatures", refuse)
    _, said = found(capsys)
    [signatures] = [each for each in said["features"] if each["name"] == "signatures"]

    assert (signatures["state"], signatures["detail"]) == ("missing", "too many")


@pytest.mark.kernel
def test_pretty(capsys):
    """The pretty form has a line for each hook, without colour in a pipe, and a conclusion."""
    code = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()

    assert code == 0
    assert [line.split()[:2] for line in lines if "connect4" in line] == [["ok", "connect4"]]
    assert lines[-1] == "agentwall can run here: every required hook is there"
    assert "\x1b" not in "".join(lines)


@pytest.mark.kernel
def test_nothing_is_left_behind(capsys):
    """Trying leaves neither cgroups nor programs."""
    found(capsys)

    assert list(own_cgroup().glob(f"agentwall-probe-{os.getpid()}-*")) == []


@pytest.mark.kernel
def test_translation(capsys):
    """A sock_addr program above the own cgroup is named: it may rewrite destinations."""
    script = "import sys; from agentwall.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "doctor", "--format", "json"]
    with (
        temp_cgroup() as cgroup,
        loaded(ProgramType.CGROUP_SOCK_ADDR, AttachType.CONNECT4) as program,
        attachable(cgroup) as fd,
    ):
        link = Link.attach(program, fd, AttachType.CONNECT4)
        child = subprocess.Popen(
            ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(cgroup), *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        said = json.loads(child.communicate(timeout=300)[0])
        link.close()

    assert [p["name"] for p in said["translators"]] == ["aw_probe"]


@pytest.mark.parametrize(
    ("group", "state_", "required", "code"),
    [
        (Group.HOST, State.MISSING, True, 77),
        (Group.HOOK, State.MISSING, True, 4),
        (Group.HOOK, State.MISSING, False, 0),
        (Group.KERNEL, State.MISSING, True, 77),
        (Group.KERNEL, State.MISSING, False, 0),
        (Group.HOOK, State.UNKNOWN, True, 4),
    ],
)
def test_exit_codes(group, state_, required, code):
    """What cannot run at all is 77, a wall with a hole is 4, and what is optional is 0."""
    feature = replace(FEATURE, group=group, state=state_, required=required)

    assert replace(HEALTHY, features=[FEATURE, feature]).exit_code == code


def test_without_rights():
    """A user without rights is told what is missing, and the exit code is 77."""
    script = "import sys; from agentwall.cli.main import main; sys.exit(main(['doctor']))"
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 77, done.stderr
    assert "lacking NET_ADMIN, SYS_ADMIN, BPF" in done.stdout
    assert "needs: run as root, or with sudo" in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines if "all" in line.split()] == [
        ["not", "tried", "all", "12", "because", "of:", "capabilities"],
        ["not", "tried", "all", "19", "because", "of:", "capabilities"],
    ]
    assert lines[-1] == "agentwall cannot run here: capabilities"


@pytest.mark.kernel
@pytest.mark.parametrize(("options", "told"), [((), ""), (("--clean",), "expected root, to clear")])
def test_another_user_beside_a_wall(options, told):
    """Pins that only root may see are no failure of those lines that need no rights."""
    script = (
        "import pathlib, sys;from agentwall.cli.main import main;from agentwall.kernel import pins;"
        "pins.pin_dirs.__defaults__ = (pathlib.Path(sys.argv[1]),); sys.exit(main(sys.argv[2:]))"
    )
    with scratch("doctor") as directory:
        point = pins.mount_bpffs(directory / "bpf")
        try:
            done = subprocess.run(
                [sys.executable, "-c", script, str(point), "doctor", *options],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                user=65534,
                group=65534,
                extra_groups=[],
            )
        finally:
            pins.unmount_bpffs(point)

    assert done.returncode == 77, done.stderr
    assert done.stdout.splitlines()[-1] == "agentwall cannot run here: capabilities"
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kernel
def test_live_run_is_no_leftover(capsys, runs):
    """A run that lives is neither named nor cleared."""
    held = state.hold(record(), runs)
    pins.make_pin_dir(pins.BPFFS / RUN_ID)
    code, said = found(capsys, "--clean")

    assert (code, said["leftovers"], said["orphans"]) == (0, [], [])
    assert pins.pin_dirs() == [pins.BPFFS / RUN_ID]
    held.remove()


@pytest.mark.kernel
def test_leftover_is_named(capsys, dead_run):
    """What a killed run left is named with the processes behind its wall, and stays."""
    code, said = found(capsys)

    assert code == 0
    assert [(left["run"], left["pids"]) for left in said["leftovers"]] == [(RUN_ID, [dead_run.pid])]
    assert pins.list_pins(pins.BPFFS / RUN_ID) != []


@pytest.mark.kernel
def test_clean_spares_the_living(capsys, dead_run):
    """--clean does not free living processes of their wall, says so, and exits with 1."""
    code = main(["doctor", "--clean"])
    err = capsys.readouterr().err

    assert code == 1
    assert f"processes {dead_run.pid} live behind its wall" in err
    assert "--kill ends them" in err
    assert pins.list_pins(pins.BPFFS / RUN_ID) != []
    assert dead_run.poll() is None


@pytest.mark.kernel
def test_clean_and_kill(capsys, dead_run):
    """--clean --kill ends the processes and leaves neither pins, cgroup nor record."""
    code, said = found(capsys, "--clean", "--kill")

    assert (code, said["leftovers"], said["orphans"]) == (0, [], [])
    assert dead_run.wait(10) == -9
    assert pins.pin_dirs() == []


@pytest.mark.kernel
def test_clean_after_the_end(capsys, dead_run):
    """Once the processes have ended, --clean clears what is left."""
    dead_run.kill()
    dead_run.wait()
    code, said = found(capsys, "--clean")

    assert (code, said["leftovers"]) == (0, [])
    assert pins.pin_dirs() == []


@pytest.mark.kernel
@pytest.mark.usefixtures("runs")
def test_orphans(capsys):
    """Pins that no record names are named, and cleared by --clean."""
    orphan = pins.BPFFS / new_run_id()
    pins.make_pin_dir(orphan)
    before = found(capsys)[1]["orphans"]
    after = found(capsys, "--clean")[1]["orphans"]

    assert before == [str(orphan)]
    assert after == []
    assert not orphan.exists()


@pytest.mark.kernel
@pytest.mark.usefixtures("runs")
def test_a_daemons_wall_is_left_alone(capsys):
    """It stands whether the daemon lives or not: --clean once took it down."""
    pins.make_pin_dir(pins.BPFFS / "daemon")
    said = found(capsys, "--clean")[1]

    assert said["orphans"] == []
    assert (pins.BPFFS / "daemon").exists()


def test_kill_alone(capsys):
    """--kill without --clean is wrong usage."""
    code = main(["doctor", "--kill"])

    assert code == 2
    assert "--kill goes with --clean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pids", "advice"),
    [((), "agentwall doctor --clean clears"), ((7,), "agentwall doctor --clean --kill clears")],
)
def test_advice_on_leftovers(pids, advice):
    """What clears a leftover depends on whether something still lives behind its wall."""
    checkup = replace(HEALTHY, leftovers=[Leftover(record(), pids)])
    lines = [line for line, _ in doctor._lines(checkup)]

    assert any(advice in line for line in lines)
    assert sum(RUN_ID in line for line in lines) == 1


@pytest.mark.parametrize("columns", [80, 100])
def test_fits_the_terminal(columns):
    """In a terminal long text is broken, and goes on below where it began."""
    feature = replace(FEATURE, name="sock_create", detail="many words " * 20)
    lines = [line for line, _ in doctor._lines(replace(HEALTHY, features=[feature]), columns)]
    begin = next(line.index("many") for line in lines if "sock_create" in line)
    rest = [line for line in lines if "many" in line and "sock_create" not in line]

    assert max(map(len, lines)) <= columns
    assert rest
    assert {len(line) - len(line.lstrip()) for line in rest} == {begin}


def test_pipe_has_one_line_a_finding():
    """Without a terminal nothing is broken, so that lines can be searched."""
    feature = replace(FEATURE, detail="many words " * 20)
    lines = [line for line, _ in doctor._lines(replace(HEALTHY, features=[feature]))]

    assert sum("many" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_colour(variables, is_coloured):
    """A terminal gets colour unless it is a plain one or NO_COLOR is set."""
    script = "import sys; from agentwall.cli.main import main; sys.exit(main(['doctor']))"
    command = shlex.join([sys.executable, "-c", script])
    environment = {**os.environ, **variables}
    if "NO_COLOR" not in variables:
        environment.pop("NO_COLOR", None)
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )

    assert b"this host" in done.stdout
    assert (b"\x1b[" in done.stdout) is is_coloured


def test_text_of_others_is_escaped():
    """A name that somebody chose cannot steer the terminal."""
    feature = replace(FEATURE, detail="\x1b[2Jgone")
    text = "\n".join(line for line, _ in doctor._lines(replace(HEALTHY, features=[feature])))

    assert "\x1b" not in text
    assert "\\x1b[2Jgone" in text
