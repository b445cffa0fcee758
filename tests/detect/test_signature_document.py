# SPDX-License-Identifier: Apache-2.0
"""What is generated from the model of signature files is up to date and says what loads."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import yaml
from rig.tree import ROOT

from agentwall.detect.signature_check import check_signatures
from agentwall.detect.signature_document import MODELS, SignatureFile
from agentwall.detect.signature_load import load_files
from agentwall.policy.schema import json_schema, keys_markdown

DOCS = ROOT / "docs"
SCHEMA = json.loads(json_schema(SignatureFile))
SIGNATURE = {
    "id": "tunnel/ssh-banner",
    "class": "tunnel",
    "dialect": "ssh",
    "protocol": "tcp",
    "direction": "client",
    "pattern": "^x",
    "description": "d",
    "examples": ["x"],
    "counterexamples": ["y"],
}
NAMES = {
    "id": "tunnel/names",
    "class": "tunnel",
    "dialect": "x",
    "dated": "2026-11-29",
    "names": ["a.example"],
}


def _generator():
    spec = spec_from_file_location("generator", DOCS / "generate_references.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_up_to_date():
    """docs/generate_references.py has been run since the model changed."""
    reference = (DOCS / "signatures.md").read_text()

    assert (DOCS / "signature.schema.json").read_text() == json_schema(SignatureFile)
    assert _generator().with_keys(reference, keys_markdown(MODELS)) == reference


def _examples():
    for title, model in MODELS.items():
        for key, field in model.model_fields.items():
            for example in field.examples or ():
                yield title, field.alias or key, example


@pytest.mark.parametrize(("title", "key", "example"), [*_examples()])
def test_examples_load(title, key, example):
    """Every example of the reference is what the loader takes."""
    document = {"version": 1, "signatures": [SIGNATURE], "indicators": [NAMES]}
    if "indicators" in title:
        document["indicators"] = [NAMES | {key: example}]
        if key == "id":
            del document["signatures"]
    elif "signatures" in title:
        document["signatures"] = [SIGNATURE | {key: example}]
    else:
        document[key] = example
    loaded = load_files([("f.yaml", yaml.safe_dump(document))])

    assert len(loaded.signatures.indicators) == 1


def test_every_key_is_explained():
    """Every key has a description and, but for the two lists, an example."""
    for model in MODELS.values():
        for key, field in model.model_fields.items():
            assert field.description, key
            assert field.examples or key in ("signatures", "indicators"), key


def test_schema_names_the_keys():
    """The schema has each key under the name that files have it."""
    signature = SCHEMA["$defs"]["SignatureDocument"]

    assert signature["additionalProperties"] is False
    assert {*SIGNATURE, "severity", "hand_over"} <= signature["properties"].keys()
    assert set(SIGNATURE) == set(signature["required"])
    assert "cls" not in signature["properties"]


def test_example_of_the_document():
    """The file that docs/signatures.md shows loads, and its examples are as they should be."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "signatures.md").read_text(), re.DOTALL)
    loaded = load_files([("signatures.md", text)])

    assert [failure for each in check_signatures(loaded) for failure in each.failures] == []
