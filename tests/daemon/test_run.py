# SPDX-License-Identifier: Apache-2.0
"""A command from its request to its outcome, behind a real wall."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from rig.process import wait_until

from agentwall.daemon import run
from agentwall.daemon.inside_state import TlsUse
from agentwall.daemon.run import run_sandbox
from agentwall.errors import HostError
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Mode
from agentwall.host import kept_files, state
from agentwall.kernel import pins
from agentwall.probes.compiling import Compilation
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import read_log

pytestmark = pytest.mark.kernel

KNOCK = "exec python3 -c 'import socket; print(socket.socket().connect_ex((\"{}\", {})))' >{}"


def records(path: Path) -> list[object]:
    """The records of an event file, whose chain must hold."""
    with path.open("rb") as file:
        items = list(read_log(file, str(path)))

    assert all(isinstance(item, LoggedEvent) for item in items)
    return [item.record for item in items]


def until_told(events: Path) -> str:
    """Python that goes on once *events* tell of a flow, or after a minute.

    /proc has no arguments of a process that has ended.
    """
    return (
        "\nimport time"
        "\nfor _ in range(600):"
        f'\n    if "\\"verdict\\":" in open("{events}").read(): break'
        "\n    time.sleep(0.1)\n"
    )


def test_denied(make_request, console, tmp_path):
    """A refused connect() is EPERM at once, in the log with its process, and a finding."""
    script = KNOCK.format("192.0.2.1", 4444, tmp_path / "out").removeprefix("exec ")
    request = make_request(script.replace("))'", f")){until_told(tmp_path / 'events.jsonl')}'"))

    outcome = run_sandbox(request, console)

    assert (tmp_path / "out").read_text() == "1\n"
    [denial] = [each for each in records(outcome.events) if getattr(each, "verdict", None)]
    assert str(denial.remote.address) == "192.0.2.1"
    assert denial.process.argv[1] == "-c"
    assert denial.sandbox.labels == {"role": "test"}
    assert outcome.ending.worst is Severity.LOW
    assert console.denied == 1


def test_permitted(make_request, console, tmp_path, listener):
    """A permitted flow gets through and is in the log with what it moved."""
    port = listener.getsockname()[1]
    policy = f"version: 1\nloopback: deny\nallow: [{{cidr: 127.0.0.1, ports: [{port}]}}]\n"

    outcome = run_sandbox(
        make_request(KNOCK.format("127.0.0.1", port, tmp_path / "out"), policy), console
    )

    assert (tmp_path / "out").read_text() == "0\n"
    assert console.permitted == 1
    assert outcome.ending.worst is Severity.INFO


def test_audit_mode(make_request, console, tmp_path, listener):
    """In audit mode everything gets through, and what would be denied is told."""
    port = listener.getsockname()[1]
    request = make_request(
        KNOCK.format("127.0.0.1", port, tmp_path / "out"),
        "version: 1\nloopback: deny\n",
        mode=Mode.AUDIT,
    )

    run_sandbox(request, console)

    assert (tmp_path / "out").read_text() == "0\n"
    assert (console.denied, console.would_denied) == (0, 1)


def test_log_begins_and_ends(make_request, console):
    """The log starts with how the sandbox was set up and ends with the command's exit code."""
    outcome = run_sandbox(make_request("exit 5"), console)

    found = records(outcome.events)
    assert [each.state for each in found] == ["started", "rules-applied", "finished"]
    assert found[0].detail["command"] == ["/bin/sh", "-c", "exit 5"]
    assert found[0].detail["coverage"] == outcome.coverage.level.value
    assert found[-1].detail["exit_code"] == 5
    assert outcome.ending.exit_code == 5
    assert outcome.problems == ()


def test_nothing_left(make_request, console):
    """After a run there is no cgroup, no pin, of probes neither, and no record of it."""
    request = make_request("sleep 60 & exit 0", tls=TlsUse.AUTO)
    outcome = run_sandbox(request, console)

    cgroup = records(outcome.events)[0].sandbox.cgroup
    run_id = cgroup.rsplit("agentwall-", 1)[-1]
    assert run_id not in [path.name for path in pins.pin_dirs()]
    assert run_id not in [each.id for each in [*state.live_runs(), *state.leftovers()]]
    # Not by rglob(): others' cgroups go meanwhile, which os.walk() takes for what it is.
    found = [where for where, _, _ in os.walk("/sys/fs/cgroup") if where.endswith(run_id)]
    assert found == []
    assert len(outcome.ending.left_behind) == 1


def test_default_event_file(make_request, console):
    """Without a name the events are in /var/log/agentwall/runs, by the run's id."""
    outcome = run_sandbox(make_request(events=None), console)
    outcome.events.unlink()

    assert outcome.events.parent == Path("/var/log/agentwall/runs")


def test_refused_before_start(make_request, console, tmp_path):
    """A run that is refused starts nothing and leaves no file."""
    trace = tmp_path / "trace"
    request = make_request(f"touch {trace}", requires_full=True, kept_capabilities=("NET_RAW",))

    with pytest.raises(HostError, match="expected full"):
        run_sandbox(request, console)
    assert not trace.exists()
    assert not Path(request.events).exists()


def test_events_cannot_be_forged(make_request, console, tmp_path):
    """uid 0 inside can neither write, remove nor replace the event file and the report."""
    events, report = tmp_path / "e.jsonl", tmp_path / "r.md"
    script = "; ".join(
        f"echo forged >>{path}; rm -f {path}; mv {path} {path}.old; ln -sf /dev/null {path}"
        for path in (events, report)
    )

    outcome = run_sandbox(make_request(script, events=str(events), report=str(report)), console)

    assert [each.state for each in records(events)][-1] == "finished"
    assert report.read_text().startswith("# agentwall audit")
    assert outcome.problems == ()


def newest_link() -> int:
    """Return the highest id of a link; bpftool fails where one of others' goes as it lists them."""
    listed: list[str] = []

    def is_listed() -> bool:
        done = subprocess.run(["bpftool", "-j", "link"], capture_output=True, text=True)
        listed.append(done.stdout)
        return done.returncode == 0

    wait_until(is_listed, what="a list of all links")
    return max((link["id"] for link in json.loads(listed[-1] or "[]")), default=0)


def test_pins_and_records_out_of_reach(make_request, console, tmp_path):
    """uid 0 inside sees neither pins nor records, on any bpffs, and cannot detach a link."""
    last = newest_link()
    script = (
        "find /run/agentwall /sys/fs/bpf /var/lib/agentwall -mindepth 1 2>/dev/null; "
        # The wall's links have the next ids that the kernel gives out.
        f"for id in $(seq {last - 20} {last + 60}); do "
        "bpftool link detach id $id 2>/dev/null && echo DETACHED; done; "
        "bpftool link show 2>/dev/null; bpftool map show 2>/dev/null; true"
    )
    request = make_request(f"exec >{tmp_path}/out\n{script}")

    outcome = run_sandbox(request, console)

    assert (tmp_path / "out").read_text() == ""
    assert outcome.ending.exit_code == 0


def test_full_disk(make_request, console, tmp_path):
    """When the events cannot be written the command goes on, the wall stands, losses count."""
    script = "\n".join(
        KNOCK.format("192.0.2.1", port, f"{tmp_path}/out{port}").removeprefix("exec ")
        for port in (1, 2)
    )

    outcome = run_sandbox(make_request(script, events="/dev/full"), console)

    assert (tmp_path / "out2").read_text() == "1\n"
    assert outcome.ending.exit_code == 0
    assert outcome.events_failed == 5
    assert console.denied == 2


@pytest.mark.parametrize(("tls", "expected"), [(TlsUse.AUTO, 1), (TlsUse.OFF, 0)])
def test_probes_are_compiled_while_the_wall_is_loaded(
    make_request, console, monkeypatch, tmp_path, tls, expected
):
    """Where anything is to be read inside TLS; and where no wall comes of it, the child is gone."""
    begun, at_the_wall = [], []
    start = Compilation.start

    def watched(self: Compilation) -> None:
        start(self)
        begun.append(self._process.pid)

    def refuse(_: object) -> None:
        at_the_wall.extend(begun)
        raise HostError("no wall")

    monkeypatch.setattr(kept_files, "SYSTEM_CACHE", tmp_path / "cache")
    monkeypatch.setattr(Compilation, "start", watched)
    monkeypatch.setattr(run, "Enclosure", refuse)
    with pytest.raises(HostError, match="no wall"):
        run_sandbox(make_request(tls=tls), console)

    assert len(at_the_wall) == expected
    assert not any(Path(f"/proc/{pid}").exists() for pid in begun)


def test_not_root(make_request, console):
    """Without root nothing is tried, and the error says what to do."""
    request = make_request()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            run_sandbox(request, console)
        except HostError as err:
            code = 0 if "sudo" in str(err) else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_report_as_json(make_request, console, tmp_path):
    """A report by the name of .json is audit's document."""
    report = tmp_path / "r.json"
    script = KNOCK.format("192.0.2.1", 4444, "/dev/null")

    run_sandbox(make_request(script, report=str(report)), console)

    document = json.loads(report.read_text())
    assert document["errors"] == []
    assert len(document["denials"]) == 1
