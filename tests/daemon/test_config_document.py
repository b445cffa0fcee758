# SPDX-License-Identifier: Apache-2.0
"""What is generated from the configuration's models is up to date; it says what the loader does."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from rig.tree import ROOT

from agentwall.daemon.config_document import MODELS, ConfigDocument
from agentwall.daemon.config_load import parse_config
from agentwall.errors import PolicyError
from agentwall.policy.schema import json_schema, keys_markdown

DOCS = ROOT / "docs"
SCHEMA = json.loads(json_schema(ConfigDocument))
SECTIONS = {
    "RuntimesDocument": "runtimes",
    "LogDocument": "log",
    "ControlDocument": "control",
    "MetricsDocument": "metrics",
    "ResponseDocument": "response",
    "TlsDocument": "tls",
}


def load(document: object) -> None:
    parse_config(json.dumps(document).encode(), "c.yaml")


def loads(document: object) -> bool:
    try:
        load(document)
    except PolicyError:
        return False
    return True


def resolved(node: dict) -> dict:
    """The node itself, or what its $ref leads to."""
    return SCHEMA["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def test_files_are_up_to_date():
    """docs/generate_references.py has been run since the models changed."""
    spec = spec_from_file_location("generator", DOCS / "generate_references.py")
    generator = module_from_spec(spec)
    spec.loader.exec_module(generator)
    reference = (DOCS / "configuration.md").read_text()

    assert (DOCS / "config.schema.json").read_text() == json_schema(ConfigDocument)
    assert generator.with_keys(reference, keys_markdown(MODELS)) == reference


def test_every_map_is_in_the_reference():
    """Each map of the schema has its table."""
    assert {model.__name__ for model in MODELS.values()} == {"ConfigDocument", *SCHEMA["$defs"]}


def _examples():
    for name, model in {"": SCHEMA, **SCHEMA["$defs"]}.items():
        for key, field in model["properties"].items():
            # Of a map that the key says nothing more about, the map's own stands.
            assert field.get("description") or resolved(field)["description"], key
            yield from ((name, key, example) for example in field["examples"])


@pytest.mark.parametrize(("model", "key", "example"), [*_examples()])
def test_examples_load(model, key, example):
    """Every key is explained, and every example of the reference is what the loader takes."""
    document = {"version": 1}
    if model == "ScopeDocument":
        cgroup = "/system.slice" if key in ("include", "exclude") else "/a"
        kind = "owned" if key == "default" else "shared"
        document["scopes"] = [{"cgroup": cgroup, "kind": kind, key: example}]
    elif model == "MetricsDocument":
        document["metrics"] = {"listen": "127.0.0.1:9477", key: example}
    elif model:
        document[SECTIONS[model]] = {key: example}
    else:
        document[key] = example

    load(document)


def test_examples_of_the_documents():
    """Every configuration that the document shows loads."""
    shown = re.findall(r"```yaml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.DOTALL)

    assert shown
    for text in shown:
        assert parse_config(text.encode(), "c.yaml").scopes


@pytest.mark.parametrize("model", SECTIONS)
def test_schema_refuses_unknown_keys(model):
    """An editor refuses what the loader refuses: keys that there are not, and other kinds."""
    schema = SCHEMA["$defs"][model]
    least = {"listen": "127.0.0.1:1"} if model == "MetricsDocument" else {}

    assert schema["additionalProperties"] is False
    assert loads({"version": 1, SECTIONS[model]: least})
    assert not loads({"version": 1, SECTIONS[model]: {**least, "nope": 1}})
    assert resolved(SCHEMA["properties"][SECTIONS[model]]) == schema


def fits(schema: dict, value: object) -> bool:
    """Whether a plain value fits: kinds, bounds, patterns and alternatives, nothing more."""
    if "anyOf" in schema:
        return any(fits(option, value) for option in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {"string": str, "integer": int, "boolean": bool, "array": list}
    if type(value) is not kinds[schema["type"]]:
        return False
    if isinstance(value, int):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None
    return all(fits(schema["items"], item) for item in value)


VALUES = [
    *(0, 1, 8, 600, 601, 1000, 1001, 65_535, 65_536, 1 << 40, (1 << 40) + 1, True, False),
    *("256MiB", "64KiB", "256MB", "0GiB", "adm", "a:b", "/x", "x"),
    *([], ["/x"], ["/x", "y"], [1]),
]
KEYS = [
    *(("log", key) for key in ("path", "max_bytes", "keep", "group", "journal", "flows")),
    *(("control", key) for key in ("socket", "readers", "operators")),
    *(("response", key) for key in ("command", "command_timeout_s", "per_minute", "snapshots")),
    ("tls", "max_libraries"),
    *((None, key) for key in ("policies", "signatures", "watch", "state")),
]


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_schema_agrees_with_the_loader(section, key):
    """An editor takes the same values as the loader."""
    model = resolved(SCHEMA["properties"][section]) if section else SCHEMA
    for value in VALUES:
        content = {section: {key: value}} if section else {key: value}

        assert fits(model["properties"][key], value) == loads({"version": 1, **content}), value
