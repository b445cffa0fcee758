# SPDX-License-Identifier: Apache-2.0
"""``agentwall reload``: have the daemon read its files again.

Exits with 2 where what they say is not applied.
"""

from __future__ import annotations

import click

from agentwall.cli.control import socket_option
from agentwall.cli.failures import EXIT_USAGE, print_lines
from agentwall.client import Client
from agentwall.sinks.status_fields import flag, text, texts


@click.command(short_help="Have the daemon read its files again.")
@click.option("--wait", is_flag=True, help="Wait until it is over, and say what came of it.")
@socket_option
def reload(wait: bool, path: str) -> int:
    """Have the daemon read policies, signatures and settings again.

    What is wrong keeps the old ones in force: then --wait ends with 2 and says why.
    """
    with Client(path) as wall:
        result = wall.reload(wait=wait)
    if not wait:
        click.echo("reload: begun")
        return 0
    is_applied = flag(result, "applied")
    words = "applied" if is_applied else "not applied, what was in force stays"
    click.echo(f"reload: {words}: {text(result, 'what')}")
    print_lines(texts(result, "problems"))
    return 0 if is_applied else EXIT_USAGE
