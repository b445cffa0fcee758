# SPDX-License-Identifier: Apache-2.0
"""What is generated from the document model is up to date, and says what the loader does."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from rig.tree import ROOT

from agentwall.errors import PolicyError
from agentwall.net.reserved import ALL_BLOCKS
from agentwall.policy.document import LATER_KEYS
from agentwall.policy.load import load_policy
from agentwall.policy.schema import json_schema

DOCS = ROOT / "docs"
SCHEMA = json.loads(json_schema())
LEAST = {
    "AllowRule": {"cidr": "any", "ports": [443]},
    "DenyRule": {"cidr": "any"},
    "InboundRule": {"cidr": "any", "ports": [443]},
    "TestRow": {"to": "1.1.1.1:1", "expect": "deny"},
}
SECTION = {"AllowRule": "allow", "DenyRule": "deny", "InboundRule": "inbound", "TestRow": "tests"}


def _generator():
    spec = spec_from_file_location("generator", DOCS / "generate_policy_reference.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_up_to_date():
    """docs/generate_policy_reference.py has been run since the model changed."""
    reference = (DOCS / "policy-reference.md").read_text()

    assert (DOCS / "policy.schema.json").read_text() == json_schema()
    assert _generator().with_keys(reference) == reference


def test_generator_replaces_old_tables():
    """Whatever stood between the marks is replaced, what stands around them is kept."""
    generator = _generator()
    text = f"head\n{generator.BEGIN}old\n{generator.END}tail\n"
    found = generator.with_keys(text)

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
    document = {"version": 1}
    if model:
        rule = dict(LEAST[model])
        if key == "cidr_file":
            del rule["cidr"]
            (tmp_path / "lists").mkdir()
            (tmp_path / example).write_text("1.1.1.1\n")
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


def test_later_keys_are_absent():
    """Keys that this version refuses are in neither schema nor reference."""
    reference = (DOCS / "policy-reference.md").read_text()

    for model in (SCHEMA, *SCHEMA["$defs"].values()):
        assert not LATER_KEYS & set(model.get("properties", ()))
    for key in LATER_KEYS:
        assert f"`{key}`" not in reference


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


def test_first_example_of_the_reference_loads(tmp_path):
    """The policy that the reference opens with loads, and passes its tests."""
    reference = (DOCS / "policy-reference.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", reference, re.DOTALL)[1]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mirrors.txt").write_text("10.30.0.10\n")
    path = tmp_path / "rl-rollout.yaml"
    path.write_text(text)

    assert len(load_policy(path).tests) == 3
