# SPDX-License-Identifier: Apache-2.0
"""agentwall: an eBPF egress firewall and monitor for agent sandboxes on training hosts."""

__version__ = "0.1.0"
