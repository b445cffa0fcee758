# SPDX-License-Identifier: Apache-2.0
"""Write what is generated in docs/: JSON Schemas, and the tables of keys in the references.

Run it after changing agentwall/policy/document.py, agentwall/detect/signature_document.py or
agentwall/daemon/config_document.py; tests fail until that is done.
"""

from __future__ import annotations

from pathlib import Path

from agentwall.daemon.config_document import MODELS as CONFIG_MODELS
from agentwall.daemon.config_document import ConfigDocument
from agentwall.detect.signature_document import MODELS, SignatureFile
from agentwall.policy.schema import json_schema, keys_markdown

DOCS = Path(__file__).parent
BEGIN = "<!-- generated: keys -->\n"
END = "<!-- end -->\n"
REFERENCES = {
    "policy-reference.md": keys_markdown(),
    "signatures.md": keys_markdown(MODELS),
    "configuration.md": keys_markdown(CONFIG_MODELS),
}
SCHEMAS = {
    "policy.schema.json": json_schema(),
    "signature.schema.json": json_schema(SignatureFile),
    "config.schema.json": json_schema(ConfigDocument),
}


def with_keys(text: str, tables: str) -> str:
    """Return the reference *text* with *tables* in place of those it has."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{tables}{END}{after}"


def main() -> None:
    """Write all of them."""
    for name, tables in REFERENCES.items():
        reference = DOCS / name
        reference.write_text(with_keys(reference.read_text("utf-8"), tables), encoding="utf-8")
    for name, schema in SCHEMAS.items():
        (DOCS / name).write_text(schema, encoding="utf-8")


if __name__ == "__main__":
    main()
