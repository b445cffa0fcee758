# SPDX-License-Identifier: Apache-2.0
"""Run one technique: ``attempt.py MODULE.FUNCTION ARGUMENTS``, the plan as JSON on stdin.

Joins the sandbox's cgroup first, then lets the technique try, and prints what the application
saw: ``{"errno": "EPERM" | "TIMEOUT" | null}``. Whether a byte arrived is not ours to say.
"""

from __future__ import annotations

import errno
import importlib
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from techniques.plan import Place, Plan


def read_plan(line: str) -> Plan:
    """Return the plan that the JSON *line* describes."""
    fields = json.loads(line)
    places = {role: Place(family, tuple(to)) for role, (family, to) in fields["places"].items()}
    return Plan(**{**fields, "places": places, "marker": fields["marker"].encode()})


def join_cgroup(directory: str) -> None:
    """Move this process into the cgroup at *directory*."""
    (Path(directory) / "cgroup.procs").write_text("0")


def give_up(*_: object) -> None:
    """End what waits for what the wall, as the harness knows, has refused."""
    raise TimeoutError


def main(name: str, arguments: str) -> None:
    """Run the technique *name* with keyword *arguments* (JSON) and print its outcome."""
    signal.signal(signal.SIGALRM, give_up)
    plan = read_plan(sys.stdin.readline())
    module, function = name.split(".")
    technique = getattr(importlib.import_module(f"techniques.{module}"), function)
    join_cgroup(plan.cgroup)
    seen = None
    try:
        technique(plan, **json.loads(arguments))
    except (TimeoutError, BlockingIOError):
        seen = "TIMEOUT"
    except OSError as err:
        if err.errno is None:
            raise
        seen = errno.errorcode.get(err.errno, str(err.errno))
    print(json.dumps({"errno": seen}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
