# SPDX-License-Identifier: Apache-2.0
"""Write what is generated in docs/: signature.schema.json, and the tables of signatures.md.

Run it after changing agentwall/detect/signature_document.py; a test fails until that is done.
"""

from __future__ import annotations

from pathlib import Path

from agentwall.detect.signature_document import MODELS, SignatureFile
from agentwall.policy.schema import json_schema, keys_markdown

DOCS = Path(__file__).parent
BEGIN = "<!-- generated: keys -->\n"
END = "<!-- end -->\n"


def with_keys(text: str) -> str:
    """Return the reference *text* with its tables as the model has them now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{keys_markdown(MODELS)}{END}{after}"


def main() -> None:
    """Write both files."""
    reference = DOCS / "signatures.md"
    reference.write_text(with_keys(reference.read_text(encoding="utf-8")), encoding="utf-8")
    schema = json_schema(SignatureFile)
    (DOCS / "signature.schema.json").write_text(schema, encoding="utf-8")


if __name__ == "__main__":
    main()
