# SPDX-License-Identifier: Apache-2.0
"""``agentwall audit`` on real files, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rig.records import (
    FINISHED,
    SECOND,
    STARTED,
    endpoint,
    flow,
    many,
    permitted,
    process,
    rome_day,
    write_log,
)
from rig.scratch import scratch

from agentwall.cli.main import main


@pytest.fixture
def day(tmp_path):
    return str(write_log(tmp_path / "day.jsonl", rome_day()))


@pytest.fixture
def clean(tmp_path):
    return str(write_log(tmp_path / "clean.jsonl", [STARTED, permitted(), FINISHED]))


def audit(*arguments: str) -> int:
    return main(["audit", *arguments])


def audit_json(capsys, *arguments: str):
    audit(*arguments, "--format", "json")
    return json.loads(capsys.readouterr().out)


def test_a_report_for_people(day, capsys):
    """The default is the readable report, and denials make exit code 1."""
    code = audit(day)

    out = capsys.readouterr().out
    assert code == 1
    assert "51 denied" in out
    assert "allow: - {cidr: 203.0.113.99, ports: [3333]}" in out


def test_json_and_markdown(day, capsys):
    """The other formats tell the same."""
    document = audit_json(capsys, day)
    audit(day, "--format", "md")
    markdown = capsys.readouterr().out

    assert document["schema"] == "agentwall.audit/1"
    assert document["totals"]["denied"] == 51
    assert document["events"] == len(rome_day())
    assert markdown.startswith("# agentwall audit\n")


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [
        *(("info", 1), ("low", 1), ("medium", 1), ("high", 1), ("critical", 0)),
        ("never", 0),
    ],
)
def test_fail_on(day, fail_on, code):
    """The exit code is 1 from the named severity on."""
    assert audit(day, "--fail-on", fail_on) == code


@pytest.mark.parametrize("fail_on", ["info", "low", "never"])
def test_a_clean_log_passes(clean, fail_on):
    """Without a denial or damage the exit code is 0, whatever would fail."""
    assert audit(clean, "--fail-on", fail_on) == 0


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (("--process", "xmrig"), 12),
        (("--process", "5100"), 4),
        (("--process", "/tmp/*"), 13),
        (("--verdict", "allow"), 0),
        (("--verdict", "deny"), 51),
        (("--verdict", "would-deny"), 0),
        (("--since", "2026-09-21T14:14:04Z"), 6),
        (("--since", "2026-09-21T16:14:04+02:00"), 6),
    ],
)
def test_filters(day, filters, count, capsys):
    """Each filter leaves the denials it names."""
    assert audit_json(capsys, day, *filters)["totals"]["denied"] == count


@pytest.mark.parametrize(("ago", "count"), [("10m", 1), ("2h", 2), ("1d", 2), ("5s", 0)])
def test_since_counts_back_from_now(tmp_path, ago, count, capsys):
    """A span means so long ago."""
    now = time.time_ns()
    records = [
        STARTED,
        replace(flow(), time_ns=now - 3600 * SECOND),
        replace(flow(), time_ns=now - 60 * SECOND),
        FINISHED,
    ]
    path = write_log(tmp_path / "e.jsonl", records)

    assert audit_json(capsys, str(path), "--since", ago)["totals"]["denied"] == count


def test_filters_decide_the_exit_code(day):
    """What the filters leave out does not fail."""
    assert audit(day, "--process", "nobody") == 0


def test_a_directory_is_every_log_in_it(tmp_path, day, clean, capsys):
    """A directory stands for its *.jsonl files; others are left alone."""
    (tmp_path / "notes.txt").write_text("not events", encoding="ascii")

    document = audit_json(capsys, str(tmp_path))

    assert document["events"] == len(rome_day()) + 3
    assert document["errors"] == []


def run(*arguments: str, **options):
    command = [sys.executable, "-m", "agentwall", "audit", *arguments]
    return subprocess.run(command, capture_output=True, timeout=300, check=False, **options)


def test_stdin(day):
    """A dash reads stdin, a pipe included."""
    done = run("-", "--format", "json", input=Path(day).read_bytes())

    assert done.returncode == 1
    assert json.loads(done.stdout)["totals"]["denied"] == 51
    assert done.stderr == b""


def test_a_broken_chain_is_told_and_fails(tmp_path, day, capsys):
    """An altered log names the place, judges the rest, and is critical."""
    lines = Path(day).read_bytes().splitlines(keepends=True)
    lines[5] = lines[5].replace(b"nmap", b"curl")
    path = tmp_path / "altered.jsonl"
    path.write_bytes(b"".join(lines))

    code = audit(str(path), "--fail-on", "critical", "--format", "json")

    document = json.loads(capsys.readouterr().out)
    assert code == 1
    (error,) = document["errors"]
    assert (error["line"], error["offset"]) == (7, sum(map(len, lines[:6])))
    assert error["damage"] == "chain-broken"
    assert document["totals"]["denied"] == 51


def test_a_cut_log_is_told(tmp_path, day, capsys):
    """A log that stops in a line says so in the readable report."""
    path = tmp_path / "cut.jsonl"
    path.write_bytes(Path(day).read_bytes()[:-200])

    code = audit(str(path))

    out = " ".join(capsys.readouterr().out.split())
    assert code == 1
    assert f"{path}:57: byte" in out
    assert "cut short in the middle of a line" in out
    assert "no finish record" in out


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected events of agentwall run, got none"),
        (b"hello\nworld\n", "expected events of agentwall run, got none"),
    ],
)
def test_what_is_no_event_log(tmp_path, content, problem, capsys):
    """A file without events is wrong input: exit code 2 and one line why."""
    path = tmp_path / "x"
    path.write_bytes(content)

    code = audit(str(path))

    assert code == 2
    assert capsys.readouterr().err == f"agentwall: {path}: {problem}\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "Missing argument"),
        (("/nonexistent",), "agentwall: /nonexistent: No such file or directory\n"),
        (("{dir}",), "expected event files (*.jsonl) or captures in the directory, got none\n"),
        (("{day}", "--since", "yesterday"), "expected a time such as"),
        (("{day}", "--fail-on", "sometimes"), "'sometimes' is not one of"),
        (("{day}", "--verdict", "deny!"), "'deny!' is not one of"),
        (("{day}", "--svg", "/nonexistent/x.svg"), "/nonexistent/x.svg: No such file"),
    ],
)
def test_wrong_usage(tmp_path, day, arguments, problem, capsys):
    """Wrong usage and unreadable input are exit code 2, told on stderr, without a traceback."""
    empty = tmp_path / "empty"
    empty.mkdir()
    names = {"{dir}": str(empty), "{day}": day}

    code = audit(*(names.get(argument, argument) for argument in arguments))

    assert code == 2
    assert problem in capsys.readouterr().err


def test_one_bad_input_does_not_hide_the_others(day, capsys):
    """What can be read is reported; the exit code still says that something could not."""
    code = audit("/nonexistent", day)

    captured = capsys.readouterr()
    assert code == 2
    assert "51 denied" in captured.out
    assert captured.err == "agentwall: /nonexistent: No such file or directory\n"


def test_a_picture(tmp_path, day):
    """The report can be drawn to a file."""
    audit(day, "--svg", str(tmp_path / "report.svg"))

    assert (tmp_path / "report.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_poor_locale(tmp_path):
    """Where the terminal knows only ASCII the report is ASCII."""
    path = write_log(tmp_path / "e.jsonl", [STARTED, flow(process=process("naïve", 7)), FINISHED])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    for format_ in ("pretty", "md", "json"):
        done = run(str(path), "--format", format_, env=environment)

        assert done.returncode == 1
        assert done.stdout.isascii()
        assert done.stderr == b""


def test_no_root_is_needed():
    """A user who can read the file can audit it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    # Not below pytest's own directory, which each session of it closes to others anew.
    with scratch("audit") as directory:
        day = write_log(directory / "day.jsonl", rome_day())
        day.chmod(0o644)
        done = run(str(day), "--format", "json", user=65534, group=65534, extra_groups=[])

    assert done.returncode == 1
    assert json.loads(done.stdout)["totals"]["denied"] == 51


def read_terminal(master: int) -> str:
    """Return everything written to the terminal until its other end closes."""
    chunks = []
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # EIO: closed on Linux
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode()


def test_a_terminal_gets_colour_and_progress(tmp_path):
    """On a terminal a long log shows a progress bar, and the report is in colour."""
    path = write_log(tmp_path / "long.jsonl", many(14_000))
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    environment.pop("NO_COLOR", None)

    with subprocess.Popen(
        [sys.executable, "-m", "agentwall", "audit", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env=environment,
    ) as child:
        os.close(slave)
        shown = read_terminal(master)
        code = child.wait(300)
    os.close(master)

    assert code == 1
    assert "long.jsonl" in shown
    assert "MB" in shown
    assert "\x1b[1;31m14000 denied\x1b[0m" in shown


def test_an_early_end_of_the_reader(day):
    """``audit | head`` ends quietly."""
    command = f"{sys.executable} -m agentwall audit {day} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=300, check=False)

    assert done.stdout.startswith(b"57 events")
    assert done.stderr == b""


def test_every_destination_counts(tmp_path, capsys):
    """Many events of many programs add up."""
    records = [
        STARTED,
        *(flow(remote=endpoint(f"203.0.113.{n % 50}", 443)) for n in range(1000)),
        FINISHED,
    ]
    path = write_log(tmp_path / "e.jsonl", records)

    document = audit_json(capsys, str(path))

    assert len(document["denials"]) == 50
    assert {denial["count"] for denial in document["denials"]} == {20}
