# SPDX-License-Identifier: Apache-2.0
"""What is generated from the document model: the JSON Schema and the reference's tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentwall.policy.detect_document import DetectDocument, DnsExfilDocument, ScanDocument
from agentwall.policy.dns_document import DnsDocument
from agentwall.policy.document import (
    AllowRule,
    DenyRule,
    InboundRule,
    PhaseDocument,
    PolicyDocument,
    TestRow,
)
from agentwall.policy.match_document import MatchDocument

_SECTIONS: Mapping[str, type[BaseModel]] = {
    "A policy": PolicyDocument,
    "A rule under `allow`": AllowRule,
    "A rule under `deny`": DenyRule,
    "A rule under `inbound`": InboundRule,
    "The map under `dns`": DnsDocument,
    "The map under `detect`": DetectDocument,
    "The map under `detect.scan`": ScanDocument,
    "The map under `detect.dns_exfil`": DnsExfilDocument,
    "An entry under `match`": MatchDocument,
    "A map under `phases`": PhaseDocument,
    "A row under `tests`": TestRow,
}


def json_schema(model: type[BaseModel] = PolicyDocument) -> str:
    """Return the JSON Schema (2020-12) of policy files, or of *model*, as its own document."""
    schema = _tidied(model.model_json_schema())
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": model.model_config["title"],
    }
    return json.dumps(head | schema, indent=2, ensure_ascii=True) + "\n"


def _tidied(node: Any) -> Any:  # noqa: ANN401 - JSON
    """Return *node* without the titles pydantic makes up, and defaults that are no YAML."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _tidied(value)
        for key, value in node.items()
        if key != "title" and (key != "default" or (isinstance(value, str) and value))
    }


def keys_markdown(sections: Mapping[str, type[BaseModel]] = _SECTIONS) -> str:
    """Return a table of keys for each kind of map in a policy, or of *sections*, in markdown."""
    return "\n".join(line for title, model in sections.items() for line in _table(title, model))


def _table(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield from (f"### {title}", "", "| key | example | default | meaning |", "|---|---|---|---|")
    # What decides comes before the note, which subclasses inherit ahead of their own keys.
    for key, field in sorted(model.model_fields.items(), key=lambda item: item[0] == "note"):
        examples = "<br>".join(f"`{_flow(example)}`" for example in field.examples or ())
        cells = (f"`{field.alias or key}`", examples, _default(key, field), field.description or "")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _default(key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, ScanDocument | DnsExfilDocument):
        value = value.response
    if key == "ports" and isinstance(value, tuple):
        return "everything" if value else "beside names `[443]`, else required"
    # Enumerations stand for their value; what is empty is simply absent.
    if value in ("", (), {}, None) or isinstance(value, BaseModel):
        return ""
    return f"`{_flow(getattr(value, 'value', value))}`"


def _flow(value: object) -> str:
    """Return *value* as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f'"{text}"' if ":" in text or "[" in text or text.startswith("*") else text
