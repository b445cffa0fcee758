# SPDX-License-Identifier: Apache-2.0
"""``agentwall status``: what the daemon has in force, and what somebody should look at.

Exits with 3 where no daemon runs, and with 4 where a required hook or a scope is not in force.
"""

from __future__ import annotations

import click

from agentwall.cli.control import format_option, is_narrow, print_json, show, socket_option
from agentwall.cli.failures import EXIT_HOOK_MISSING
from agentwall.client import Client
from agentwall.sinks.status_pretty import is_in_force, status_parts


@click.command(short_help="Say what the daemon has in force.")
@format_option
@socket_option
def status(style: str, path: str) -> int:
    """Say what the daemon has in force: modes, coverage, scopes, policies, hooks, and problems.

    Exits with 4 where a required hook or a scope is not in force, with 3 where no daemon runs.
    """
    with Client(path) as wall:
        found = wall.status()
    if style == "json":
        print_json(found)
    else:
        show(status_parts(found, is_narrow=is_narrow()))
    return 0 if is_in_force(found) else EXIT_HOOK_MISSING
