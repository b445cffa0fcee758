# SPDX-License-Identifier: Apache-2.0
"""What is generated from the document model is up to date, and says what the loader does."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from rig.tree import ROOT

from agentwall.errors import PolicyError
from agentwall.flow.verdict import Direction
from agentwall.net.endpoint import NamedEndpoint
from agentwall.net.reserved import ALL_BLOCKS
from agentwall.policy.evaluate import evaluate, evaluate_name, loopback_scope
from agentwall.policy.load import load_policy
from agentwall.policy.phases import in_phase
from agentwall.policy.schema import json_schema, keys_markdown

DOCS = ROOT / "docs"
SCHEMA = json.loads(json_schema())
LEAST = {
    "AllowRule": {"cidr": "any", "ports": [443]},
    "DnsDocument": {"servers": ["10.20.0.2"]},
    "DenyRule": {"cidr": "any"},
    "MatchDocument": {},
    "PhaseDocument": {},
    "InboundRule": {"cidr": "any", "ports": [443]},
    "TestRow": {"to": "1.1.1.1:1", "expect": "deny"},
}
SECTION = {
    "AllowRule": "allow",
    "DenyRule": "deny",
    "InboundRule": "inbound",
    "MatchDocument": "match",
    "TestRow": "tests",
}
UNDER_DETECT = {
    "DetectDocument": (),
    "ScanDocument": ("scan",),
    "DnsExfilDocument": ("dns_exfil",),
}
ORIGINS = {"cidr", "cidr_file", "host", "host_file", "proxy"}
NAME_TERMS = {"shared_suffix", "sni", "ech", "quic"}


def _generator():
    spec = spec_from_file_location("generator", DOCS / "generate_references.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_up_to_date():
    """docs/generate_references.py has been run since the model changed."""
    reference = (DOCS / "policy-reference.md").read_text()

    assert (DOCS / "policy.schema.json").read_text() == json_schema()
    assert _generator().with_keys(reference, keys_markdown()) == reference


def test_generator_replaces_old_tables():
    """Whatever stood between the marks is replaced, what stands around them is kept."""
    generator = _generator()
    text = f"head\n{generator.BEGIN}old\n{generator.END}tail\n"
    found = generator.with_keys(text, keys_markdown())

    assert found.startswith(f"head\n{generator.BEGIN}### A policy\n")
    assert found.endswith(f"|\n{generator.END}tail\n")
    assert "old\n" not in found


def _examples():
    for name, model in {"": SCHEMA, **SCHEMA["$defs"]}.items():
        for key, field in model.get("properties", {}).items():
            yield from ((name, key, example) for example in field["examples"])


@pytest.mark.parametrize(("model", "key", "example"), [*_examples()])
def test_examples_load(tmp_path, model, key, example):
    """Every example of the reference is what the loader takes."""
    document = {"version": 1, "dns": LEAST["DnsDocument"]}
    if model in UNDER_DETECT:
        here = document.setdefault("detect", {})
        for step in UNDER_DETECT[model]:
            here = here.setdefault(step, {})
        here[key] = example
    elif model == "PhaseDocument":
        document["phases"] = {"setup": {key: example}}
    elif model == "DnsDocument":
        document["dns"] = LEAST[model] | {key: example}
    elif model:
        rule = dict(LEAST[model])
        if key in ORIGINS:
            del rule["cidr"]
        elif key in NAME_TERMS:
            rule = {"host": "hub.example.com"}
        if key.endswith("_file"):
            (tmp_path / "lists").mkdir()
            (tmp_path / example).write_text("1.1.1.1\n" if key == "cidr_file" else "a.example\n")
        document[SECTION[model]] = [rule | {key: example}]
    else:
        document[key] = example
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps(document))

    assert load_policy(path).files[-1] == str(path)


def test_every_key_is_explained():
    """Every key has a description and an example."""
    for model in (SCHEMA, *(m for m in SCHEMA["$defs"].values() if "properties" in m)):
        for key, field in model["properties"].items():
            assert field["description"], key
            assert field["examples"], key


@pytest.mark.parametrize("name", ["setup", "after-care-2", "", "Setup", "a_b", "-a", "a" * 64])
def test_phase_schema_agrees_with_the_loader(tmp_path, name):
    """An editor takes the same names of phases as the loader."""
    pattern = SCHEMA["properties"]["phases"]["propertyNames"]["pattern"]
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps({"version": 1, "phases": {name: {}}}))
    try:
        loads = bool(load_policy(path).phases)
    except PolicyError:
        loads = False

    assert (re.search(pattern, name) is not None) == loads


TAKEN = ("443", 443, "8000-8010", "udp/*", "icmp", "ip/132", "any")
REFUSED = ("0x1", 0, "tcp/", "ip/", "udp/1-", True)


@pytest.mark.parametrize("entry", [*TAKEN, *REFUSED])
def test_port_schema_agrees_with_the_loader(tmp_path, entry):
    """An editor takes the same port entries as the loader, as far as a pattern can tell."""
    number, text = SCHEMA["$defs"]["AllowRule"]["properties"]["ports"]["items"]["anyOf"]
    if isinstance(entry, str):
        taken = re.fullmatch(text["pattern"], entry) is not None
    else:
        taken = entry is not True and number["minimum"] <= entry <= number["maximum"]
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps({"version": 1, "allow": [{"cidr": "any", "ports": [entry]}]}))
    try:
        loads = bool(load_policy(path).allow)
    except PolicyError:
        loads = False

    assert taken == loads


def test_reference_lists_the_blocks():
    """The reference names every reserved block and metadata service."""
    reference = (DOCS / "policy-reference.md").read_text()

    for block in ALL_BLOCKS:
        host = block.prefixlen == block.max_prefixlen and block.version == 4
        assert (
            str(block.network_address) if host else str(block).removesuffix("/128")
        ) in reference


RULES = [
    {"cidr": "any"},
    {"cidr": "any", "ports": [443]},
    {"cidr": "any", "host": "a.example", "ports": [443]},
    {"cidr": "any", "ports": [443], "sni": "optional"},
    {"cidr_file": "l.txt", "ports": [443], "quic": "refuse"},
    {"host": "a.example"},
    {"host": "a.example", "ports": [5432], "sni": "optional", "shared_suffix": False},
    {"host_file": "l.txt", "ech": "outer"},
    {"host": "a.example", "host_file": "l.txt"},
    {"proxy": "10.0.0.5"},
    {"proxy": "10.0.0.5", "ports": [3128]},
    {"proxy": "10.0.0.5", "ports": [3128], "ech": "outer"},
    {"ports": [443]},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rule_schema_agrees_with_the_loader(tmp_path, rule):
    """An editor takes the same combinations of keys as the loader."""
    schema = SCHEMA["$defs"]["AllowRule"]
    fitting = [
        way
        for way in schema["oneOf"]
        if set(way["required"]) <= set(rule)
        and not any(rule.keys() & {key} for key in way.get("properties", {}))
    ]
    (tmp_path / "l.txt").write_text("# nothing\n")
    path = tmp_path / "p.yaml"
    document = {"version": 1, "dns": LEAST["DnsDocument"], "allow": [rule]}
    path.write_text(json.dumps(document))
    try:
        loads = bool(load_policy(path).allow)
    except PolicyError:
        loads = False

    assert (len(fitting) == 1) == loads


def _reference_examples():
    reference = (DOCS / "policy-reference.md").read_text()
    return re.findall(r"```yaml\n(.*?)```", reference, re.DOTALL)


@pytest.mark.parametrize("number", range(len(_reference_examples())))
def test_examples_of_the_reference_hold(tmp_path, number):
    """Every policy that the reference shows loads, and passes its tests."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mirrors.txt").write_text("10.30.0.10\n")
    (tmp_path / "lists" / "hosts.txt").write_text("db.example.com\n")
    path = tmp_path / "rl-rollout.yaml"
    path.write_text(_reference_examples()[number])
    policy = in_phase(load_policy(path))

    assert policy.tests
    for row in policy.tests:
        remote = row.remote
        if isinstance(remote, NamedEndpoint):
            decision = evaluate_name(policy, remote.name, remote.protocol, remote.port)
        else:
            scope = loopback_scope(policy, own_netns=False)
            decision = evaluate(policy, direction=Direction.OUT, remote=remote, loopback=scope)

        assert decision.verdict is row.expect, str(row.where)
