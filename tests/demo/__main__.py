# SPDX-License-Identifier: Apache-2.0
"""``python -m demo``: both acts, their reports, and a verdict. Exit 1 if any check fails."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from demo.act import Act, play
from demo.checks import Check, judge_audit, judge_control, judge_enforce, judge_report
from demo.screen import Screen
from demo.stage import set_stage

CANNOT_RUN = 77
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TOOLS = ("ip", "nginx", "openssl", "sshd", "ssh", "dnsmasq", "curl", "nsenter", "unshare")


def main() -> int:
    """Play the day twice and return the exit code."""
    arguments = _parse_arguments()
    missing = [tool for tool in _TOOLS if not shutil.which(tool, path=_search_path())]
    if os.geteuid() != 0 or missing:
        wanted = f"these tools: {', '.join(missing)}" if missing else "root"
        print(f"demo: needs {wanted}", file=sys.stderr)
        return CANNOT_RUN
    os.environ["PATH"] = _search_path()
    for number in _ENDING:
        signal.signal(number, _leave)
    with _directory(keep=arguments.keep) as directory:
        return _perform(Screen(), directory, arguments.svg)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="Play the ROME day on real parts.")
    parser.add_argument("--keep", action="store_true", help="keep the event files, and say where")
    parser.add_argument("--svg", type=Path, help="draw the report of the enforce act to this file")
    return parser.parse_args()


def _search_path() -> str:
    # sudo and cron leave the sbin directories out.
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _leave(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that everything that was made is taken down; and only once.
    for ending in _ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


@contextmanager
def _directory(*, keep: bool) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="agentwall-demo-"))
    try:
        yield directory
    finally:
        if keep:
            print(f"event files kept in {directory}")
        else:
            shutil.rmtree(directory)


def _perform(screen: Screen, directory: Path, svg: Path | None) -> int:
    began = time.monotonic()
    screen.title()
    try:
        checks, acts = _play_both(screen, directory, svg)
    except NoPerformance as failure:
        screen.messages(failure.act)
        return 1
    screen.verdict(checks, time.monotonic() - began)
    for act in acts:
        if any(check.act == act.mode and not check.passed for check in checks):
            screen.messages(act)
    return 0 if all(check.passed for check in checks) else 1


class NoPerformance(Exception):
    """The agent never got to its day: ``agentwall run`` did not start it."""

    def __init__(self, act: Act) -> None:
        super().__init__(act.mode)
        self.act = act


def _play_both(
    screen: Screen, directory: Path, svg: Path | None
) -> tuple[list[Check], tuple[Act, Act]]:
    with ExitStack() as stack:
        with screen.busy("setting the stage"):
            stage = stack.enter_context(set_stage())
        with screen.busy("the agent's day, watched"):
            # Kept here only: without it the kernel refuses the raw socket before the wall is asked.
            audit = _check_played(play(stage, "audit", directory, "--keep-cap", "NET_RAW"))
        checks = [*judge_audit(audit), _report(screen, audit)]
        with screen.busy("the agent's day, behind the wall"):
            enforce = _check_played(play(stage, "enforce", directory))
        checks += [*judge_enforce(enforce), _report(screen, enforce, svg)]
        checks.append(judge_control(*stage.answers_outside_the_wall()))
    return checks, (audit, enforce)


def _check_played(act: Act) -> Act:
    if not act.claims:
        raise NoPerformance(act)
    return act


def _report(screen: Screen, act: Act, svg: Path | None = None) -> Check:
    """Show ``agentwall audit``'s report of *act*, and judge what it says as JSON."""
    screen.act(act)
    command = [sys.executable, "-m", "agentwall", "audit", str(act.events_file)]
    shown = subprocess.run(command + (["--svg", str(svg)] if svg else []), check=False)
    told = subprocess.run(
        [*command, "--format", "json"], stdout=subprocess.PIPE, text=True, check=False
    )
    report = json.loads(told.stdout) if told.stdout else {}
    return judge_report(act.mode, shown.returncode, report)


if __name__ == "__main__":
    sys.exit(main())
