# SPDX-License-Identifier: Apache-2.0
"""Settings become the one entry by which programs judge a sandbox."""

import ctypes
import errno
from dataclasses import replace

import pytest

from agentwall.detect.judging import Masks
from agentwall.errors import KernelError, SourceLocation
from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Mode
from agentwall.kernel import abi
from agentwall.kernel.maps import SandboxSettings, pack_settings
from agentwall.kernel.signatures import Inspection
from agentwall.policy.model import AskScope, DnsSettings, LoopbackScope

WHERE = SourceLocation("p.yaml", 1, 1)
KEY = SandboxKey((1 << 64) - 5)
SETTINGS = {
    "generation": 9,
    "mode": Mode.AUDIT,
    "loopback": LoopbackScope.OWN_LISTENERS,
    "refuse_errno": errno.ECONNREFUSED,
    "protocols": (1, 58),
}


def test_settings():
    """Settings become the struct that the programs read, and say whose they are."""
    raw = pack_settings(KEY, SandboxSettings(**SETTINGS))
    found = abi.Sandbox.from_buffer_copy(raw)

    assert len(raw) == ctypes.sizeof(abi.Sandbox)
    assert found.id == KEY
    assert (found.generation, found.refuse_errno) == (9, errno.ECONNREFUSED)
    assert (found.mode, found.loopback) == (abi.Mode.AUDIT, abi.Loopback.OWN_LISTENERS)
    assert bytes(found.protocols) == bytes([1, 58, 0, 0, 0, 0, 0, 0])


def test_settings_of_a_scope():
    """A scope is told from other sandboxes, and a mode from one that ends."""
    given = {"is_scope": True, "until_ns": (1 << 64) - 1}
    found = abi.Sandbox.from_buffer_copy(pack_settings(KEY, SandboxSettings(**(SETTINGS | given))))
    plain = abi.Sandbox.from_buffer_copy(pack_settings(KEY, SandboxSettings(**SETTINGS)))

    assert (found.scope, found.until_ns) == (1, (1 << 64) - 1)
    assert (plain.scope, plain.until_ns) == (0, 0)


DNS = DnsSettings(servers=(), min_ttl_s=30, max_addresses=40, where=WHERE)


def test_settings_of_dns():
    """DNS settings become numbers and flags, beside the part of the name table."""
    dns = replace(DNS, search=("example",), names=AskScope.ANY)
    given = {"dns": dns, "netns_cookie": 1 << 40, "has_names": True}
    raw = pack_settings(KEY, SandboxSettings(**(SETTINGS | given)), 0x7FFF)
    found = abi.Sandbox.from_buffer_copy(raw)

    assert (found.netns, found.names) == (1 << 40, 0x7FFF)
    assert (found.min_ttl_s, found.max_addresses) == (30, 40)
    assert found.dns == abi.DNS_DECLARED | abi.DNS_ASK_ANY | abi.DNS_SEARCH | abi.DNS_NAMES


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({}, 0),
        ({"has_names": True}, abi.DNS_NAMES),
        ({"answers_through_lo": True}, abi.DNS_LOCAL),
        ({"belt": True}, abi.DNS_BELT),
    ],
)
def test_flags_of_dns(given, flag):
    """Each flag has its bit, and without declared servers none counts."""
    cookie = {"netns_cookie": 5}
    declared = pack_settings(KEY, SandboxSettings(**(SETTINGS | given | cookie), dns=DNS))
    without = pack_settings(KEY, SandboxSettings(**(SETTINGS | given | cookie)))

    assert abi.Sandbox.from_buffer_copy(declared).dns == abi.DNS_DECLARED | flag
    assert abi.Sandbox.from_buffer_copy(without).dns == 0
    assert abi.Sandbox.from_buffer_copy(without).netns == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dns": DNS}, "dns: expected the cookie of a network namespace"),
        (
            {"dns": replace(DNS, min_ttl_s=1 << 32), "netns_cookie": 1},
            "dns.min_ttl: expected 0-4294967295, got 4294967296",
        ),
        (
            {"dns": replace(DNS, max_addresses=-1), "netns_cookie": 1},
            "dns.max_addresses: expected 0-4294967295, got -1",
        ),
        ({"protocols": tuple(range(100, 109))}, "expected at most 8 beside tcp and udp, got 9"),
        ({"refuse_errno": 4096}, "refuse_errno: expected 0-4095, got 4096"),
        (
            {"until_ns": 1 << 64},
            "until_ns: expected 0-18446744073709551615, got 18446744073709551616",
        ),
        ({"refuse_errno": -1}, "refuse_errno: expected 0-4095, got -1"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    """Settings that the struct cannot hold are refused, never cut."""
    with pytest.raises(KernelError, match=message):
        pack_settings(KEY, SandboxSettings(**(SETTINGS | changes)))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("scope", LoopbackScope)
def test_every_setting(mode, scope):
    """Every mode and loopback scope has its number."""
    raw = pack_settings(KEY, SandboxSettings(**(SETTINGS | {"mode": mode, "loopback": scope})))
    found = abi.Sandbox.from_buffer_copy(raw)

    assert (found.mode, found.loopback) == (abi.Mode[mode.name], abi.Loopback[scope.name])


@pytest.mark.parametrize("inside", abi.Plain)
def test_settings_of_reading_inside_tls(inside):
    """Whether what is said inside TLS is read is a setting, and off where nothing is looked for."""
    masks = Masks(blocks=1, alerts=2, excepts={})
    look = Inspection(slot=0, masks=masks, depth_bytes=4096, inside=inside)
    raw = pack_settings(KEY, SandboxSettings(**(SETTINGS | {"inspection": look})))

    assert abi.Sandbox.from_buffer_copy(raw).plain == inside
    none = abi.Sandbox.from_buffer_copy(pack_settings(KEY, SandboxSettings(**SETTINGS)))
    assert (none.plain, none.signatures) == (abi.Plain.OFF, 0)
