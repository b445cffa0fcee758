# SPDX-License-Identifier: Apache-2.0
"""resolv.conf(5): the one a sandbox sees is made from its policy; the host's is read for advice.

Pure, but for :func:`read_resolv_conf`.
"""

from __future__ import annotations

import re
from pathlib import Path

from agentwall.policy.model import DnsSettings

RESOLV_CONF = Path("/etc/resolv.conf")
_MAX_SERVERS = 3
"""glibc and musl read that many (MAXNS)."""
_NDOTS = re.compile(r"^options\b.*\b(ndots:[0-9]+)\b", re.MULTILINE)
_KNOWN = {
    "127.0.0.53": "systemd-resolved's stub",
    "127.0.0.54": "systemd-resolved's proxy",
    "127.0.0.11": "Docker's",
}


def make_resolv_conf(dns: DnsSettings, of_host: str) -> str:
    """Return the content for a sandbox with *dns*.

    Args:
        dns: The policy's servers and search list.
        of_host: The host's content. Its ``ndots`` stays, for it decides which names programs ask
            for; its other options are of servers that are not asked.
    """
    servers = [str(prefix.network.network_address) for prefix in dns.servers]
    lines = ["# made by agentwall from the policy"]
    lines += [f"nameserver {address}" for address in servers[:_MAX_SERVERS]]
    # Without a list glibc would make one from the host's name; a dot is the empty one.
    lines.append(f"search {' '.join(dns.search) or '.'}")
    if ndots := _NDOTS.findall(of_host):
        lines.append(f"options {ndots[-1]}")
    return "\n".join(lines) + "\n"


def read_resolv_conf(path: Path = RESOLV_CONF) -> str:
    """Return the host's content, empty where there is none."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def nameservers(text: str) -> tuple[str, ...]:
    """Return the addresses that *text* of a resolv.conf names, as they are written."""
    rows = (line.split() for line in text.splitlines())
    return tuple(row[1] for row in rows if len(row) > 1 and row[0] == "nameserver")


def advise_servers(text: str) -> str:
    """Say what a policy with names has to declare on a host with *text* as its resolv.conf."""
    found = nameservers(text)[:_MAX_SERVERS]
    if not found:
        return "/etc/resolv.conf names no server: declare those that a policy with names may ask"
    described = [f"{each} ({_KNOWN[each]})" if each in _KNOWN else each for each in found]
    # What has a zone cannot be declared: a rule's address is the same on every link.
    declared = ", ".join(f'"{x}"' if ":" in x else x for x in found if "%" not in x)
    if not declared:
        return f"asks {', '.join(described)}: no policy can declare an address with a zone"
    return f"asks {', '.join(described)}: declare dns: {{servers: [{declared}]}}"
