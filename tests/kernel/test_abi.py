# SPDX-License-Identifier: Apache-2.0
"""The ctypes mirrors in agentwall/kernel/abi.py match the compiled bpf/abi.h."""

import ctypes
import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agentwall.detect import packing
from agentwall.flow import verdict
from agentwall.kernel import abi, abi_plain, abi_scan

BPF_DIR = Path(__file__).parents[2] / "bpf"
BPFTOOL = shutil.which("bpftool", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

STRUCTS = {
    "aw_sandbox": abi.Sandbox,
    "aw_rule_key": abi.RuleKey,
    "aw_interval_set": abi.IntervalSet,
    "aw_interval": abi.Interval,
    "aw_name_key": abi.NameKey,
    "aw_name_rules": abi.NameRules,
    "aw_known_key": abi.KnownKey,
    "aw_known": abi.Known,
    "aw_bound_key": abi.BoundKey,
    "aw_binding": abi.Binding,
    "aw_bound": abi.Bound,
    "aw_event": abi.Event,
    "aw_name_event": abi.NameEvent,
    "aw_flow_key": abi.FlowKey,
    "aw_flow": abi.Flow,
    "aw_counters": abi.Counters,
    "aw_belt_key": abi.BeltKey,
    "aw_accept": abi_scan.Accept,
    "aw_signatures": abi_scan.Signatures,
    "aw_except_key": abi_scan.ExceptKey,
    "aw_match_event": abi_scan.MatchEvent,
    "aw_excerpt_event": abi_scan.ExcerptEvent,
    "aw_hello_event": abi_scan.HelloEvent,
    "aw_plain_call": abi_plain.PlainCall,
    "aw_plain_key": abi_plain.PlainKey,
    "aw_plain_counters": abi_plain.PlainCounters,
}
ENUMS = {
    "aw_verdict": ("AW_VERDICT_", abi.Verdict),
    "aw_mode": ("AW_MODE_", abi.Mode),
    "aw_loopback": ("AW_LOOPBACK_", abi.Loopback),
    "aw_direction": ("AW_DIRECTION_", abi.Direction),
    "aw_hook": ("AW_HOOK_", abi.Hook),
    "aw_reason": ("AW_REASON_", abi.Reason),
    "aw_name_depth": ("AW_NAME_", abi.NameDepth),
    "aw_plain": ("AW_PLAIN_", abi.Plain),
    "aw_plain_act": ("AW_PLAIN_", abi_plain.PlainAct),
    "aw_plain_library": ("AW_PLAIN_", abi_plain.PlainLibrary),
    "aw_transport": ("AW_TRANSPORT_", abi_scan.Transport),
    "aw_side": ("AW_SIDE_", abi_scan.Side),
}


@pytest.fixture(scope="module")
def btf(tmp_path_factory) -> dict:
    """BTF types of bpf/layout.bpf.c by C name; -Wpadded rejects hidden padding."""
    made = tmp_path_factory.mktemp("btf") / "layout.bpf.o"
    clang = ["clang", "-g", "-O2", "-target", "bpf", "-Wall", "-Wpadded", "-Werror"]
    include = ["-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"]
    subprocess.run([*clang, *include, "-c", BPF_DIR / "layout.bpf.c", "-o", made], check=True)
    dump = subprocess.run(
        [BPFTOOL, "btf", "dump", "file", made, "-j"], check=True, capture_output=True
    )
    kinds = {"STRUCT", "ENUM"}
    return {t["name"]: t for t in json.loads(dump.stdout)["types"] if t["kind"] in kinds}


@pytest.mark.parametrize("c_name", STRUCTS)
def test_struct(btf, c_name):
    """Every field has the offset clang gave it, and the sizes agree."""
    mirror, c_struct = STRUCTS[c_name], btf[c_name]

    assert {name: getattr(mirror, name).offset for name, *_ in mirror._fields_} == {
        member["name"]: member["bits_offset"] // 8 for member in c_struct["members"]
    }
    assert ctypes.sizeof(mirror) == c_struct["size"]


@pytest.mark.parametrize("c_name", ENUMS)
def test_enum(btf, c_name):
    """Every enumerator has the value it has in C."""
    prefix, mirror = ENUMS[c_name]

    assert {member.name: member.value for member in mirror} == {
        value["name"].removeprefix(prefix): value["val"] for value in btf[c_name]["values"]
    }


def test_nothing_of_the_header_is_left_out(btf):
    """Each struct and enum that bpf/abi.h shares with Python is compared above."""
    assert {name for name in btf if name.startswith("aw_")} == STRUCTS.keys() | ENUMS.keys()


@pytest.mark.parametrize(
    ("macro", "value"),
    [
        ("AW_COMM_LEN", abi.COMM_LEN),
        ("AW_MAX_PROTOCOLS", abi.MAX_PROTOCOLS),
        ("AW_NO_RULE", abi.NO_RULE),
        ("AW_NAME_LEN", abi.NAME_LEN),
        ("AW_NAMES_OF_ADDRESS", abi.NAMES_OF_ADDRESS),
        ("AW_SET_PERMITS", abi.SET_PERMITS),
        ("AW_SET_CLOSED", abi.SET_CLOSED),
        ("AW_SET_COUNT", abi.SET_COUNT),
        ("AW_TERM_RESOLVER", abi.TERM_RESOLVER),
        ("AW_TERM_SNI_OPTIONAL", abi.TERM_SNI_OPTIONAL),
        ("AW_TERM_ECH_OUTER", abi.TERM_ECH_OUTER),
        ("AW_TERM_QUIC", abi.TERM_QUIC),
        ("AW_TERM_PROXY", abi.TERM_PROXY),
        ("AW_TERM_UNREAD", abi.TERM_UNREAD),
        ("AW_DNS_DECLARED", abi.DNS_DECLARED),
        ("AW_DNS_ASK_ANY", abi.DNS_ASK_ANY),
        ("AW_DNS_SEARCH", abi.DNS_SEARCH),
        ("AW_DNS_NAMES", abi.DNS_NAMES),
        ("AW_DNS_LOCAL", abi.DNS_LOCAL),
        ("AW_DNS_BELT", abi.DNS_BELT),
        ("AW_BELT_STANDS", abi.BELT_STANDS),
        ("AW_BELT_TRANSLATED", abi.BELT_TRANSLATED),
        ("AW_SIGNATURE_TABLES", abi_scan.SIGNATURE_TABLES),
        ("AW_STATES", abi_scan.STATES),
        ("AW_CELLS", abi_scan.CELLS),
        ("AW_GROUPS", abi_scan.GROUPS),
        ("AW_CELLS", packing.CELLS),
        ("AW_GROUPS", packing.GROUPS),
        ("AW_ACCEPTS", abi_scan.ACCEPTS),
        ("AW_MATCH_BYTES", abi_scan.MATCH_BYTES),
        ("AW_HELLO_BYTES", abi_scan.HELLO_BYTES),
        ("AW_EXCERPT_BYTES", abi_scan.EXCERPT_BYTES),
    ],
)
def test_constant(macro, value):
    """Constants that are macros, which BTF does not know, are what the header says."""
    header = (BPF_DIR / "abi.h").read_text() + (BPF_DIR / "signatures.h").read_text()
    found = re.search(rf"^#define {macro}\s+(\w+?)U?\b", header, re.MULTILINE)

    assert found
    assert int(found[1], 0) == value


@pytest.mark.parametrize(
    ("mirror", "meaning", "without"),
    [
        (abi.Verdict, verdict.Verdict, {"NONE"}),
        (abi.Mode, verdict.Mode, set()),
        (abi.Direction, verdict.Direction, set()),
        (abi.Hook, verdict.Hook, set()),
        (abi.Reason, verdict.ReasonCode, set()),
    ],
)
def test_every_number_has_a_meaning(mirror, meaning, without):
    """The kernel's enums and those that events speak have the same members."""
    assert set(mirror.__members__) - without == set(meaning.__members__)
