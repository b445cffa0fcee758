# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: colour and a spinner for people, plain lines for pipes."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.text import Text

from agentwall.sinks.escape import printable
from demo.act import Act
from demo.checks import Check

_SCENES = {
    "audit": "Act 1, audit: the wall watches, everything passes",
    "enforce": "Act 2, enforce: the same day behind the wall",
}
_TITLE_WIDTH = 46


class Screen:
    """The terminal, or the pipe."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())

    def title(self) -> None:
        """Say what is about to be played."""
        self._console.print(Text("The ROME day, on real parts", style="bold"))
        self._console.print(
            "An agent in a network namespace of its own; behind the veth nginx with TLS, sshd, "
            "dnsmasq,\na pool that speaks Stratum, and an internal subnet. The far side's "
            "sniffer is the judge.\n"
        )

    def busy(self, what: str) -> AbstractContextManager[object]:
        """Show that *what* is going on, on a terminal."""
        return self._console.status(what) if self._console.is_terminal else nullcontext()

    def act(self, act: Act) -> None:
        """Head the report of *act*."""
        scene = _SCENES[act.mode]
        if self._console.is_terminal:
            self._console.rule(Text(scene, style="bold"))
        else:
            self._console.print(f"== {scene}")
        # What follows is written by another process.
        sys.stdout.flush()

    def messages(self, act: Act) -> None:
        """Show what ``agentwall run`` and the agent said in an act that went wrong."""
        self._console.print(f"\n{act.mode}: the agent said")
        for attempt, (outcome, detail) in act.claims.items():
            self._console.print(Text(f"  {attempt}: {outcome}: {printable(detail)}"))
        self._console.print(f"{act.mode}: agentwall run said")
        for line in act.messages.splitlines()[-40:]:
            self._console.print(Text(f"  {printable(line)}"))

    def verdict(self, checks: list[Check], took_s: float) -> None:
        """Show one line a check, and the sum."""
        self._console.print()
        for check in checks:
            self._console.print(_line(check))
        failed = sum(not check.passed for check in checks)
        total = f"{len(checks)} checks, {failed} failed, {took_s:.1f} s"
        style = "bold red" if failed else "bold green"
        self._console.print(Text(f"\n{total}", style=style))


def _line(check: Check) -> Text:
    mark, style = ("ok  ", "green") if check.passed else ("FAIL", "bold red")
    line = Text.assemble(
        (mark, style), f" {check.act:<8}", f"{check.title:<{_TITLE_WIDTH}} ", printable(check.found)
    )
    for problem in check.problems:
        line.append(f"\n       {printable(problem)}", style="red")
    return line
