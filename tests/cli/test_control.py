# SPDX-License-Identifier: Apache-2.0
"""What the commands that ask the daemon share: durations, and tables that fit or are whole."""

from __future__ import annotations

import io

import click
import pytest
from rich.text import Text

from agentwall.cli.control import console, is_narrow, print_json, read_duration, show
from agentwall.sinks.status_pretty import plain_table


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("90s", 90.0), ("30m", 1800.0), ("1h30m", 5400.0), ("24h", 86_400.0)],
)
def test_duration(text, seconds):
    """Hours, minutes and seconds, in this order."""
    assert read_duration(*_nowhere(), text) == seconds


@pytest.mark.parametrize("text", ["", "90", "-5m", "5m1h", "1.5h", "soon\x1b", "٣m", "9999999s"])
def test_no_duration(text):
    """Anything else is wrong usage, escaped where it is told."""
    with pytest.raises(click.BadParameter, match="expected a duration such as 90s") as caught:
        read_duration(*_nowhere(), text)

    assert "\x1b" not in caught.value.message


def _nowhere():
    return click.Context(click.Command("x")), click.Option(["--for"])


def test_pipe(capsys):
    """In a pipe a row is one line, as wide as it has to be, without blanks at its end."""
    table = plain_table("a", "b", folded=("b",))
    table.add_row("x", Text("word " * 200))
    show([table])
    lines = capsys.readouterr().out.splitlines()

    assert lines[-1] == f"x   {('word ' * 200).rstrip()}"
    assert not is_narrow()
    assert console().width > 1000


def test_characters_that_stdout_has_not(monkeypatch):
    """What cannot be written there is spelled out."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    show([Text("role=é")])
    stream.flush()

    assert stream.buffer.getvalue() == b"role=\\xe9\n"


def test_json(capsys):
    """Machines get JSON."""
    print_json({"a": "é"})

    assert capsys.readouterr().out == '{\n  "a": "\\u00e9"\n}\n'
