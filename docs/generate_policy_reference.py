# SPDX-License-Identifier: Apache-2.0
"""Write what is generated in docs/: policy.schema.json, and the tables of policy-reference.md.

Run it after changing agentwall/policy/document.py; a test fails until that is done.
"""

from __future__ import annotations

from pathlib import Path

from agentwall.policy.schema import json_schema, keys_markdown

DOCS = Path(__file__).parent
BEGIN = "<!-- generated: keys -->\n"
END = "<!-- end -->\n"


def with_keys(text: str) -> str:
    """Return the reference *text* with its tables as the model has them now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{keys_markdown()}{END}{after}"


def main() -> None:
    """Write both files."""
    reference = DOCS / "policy-reference.md"
    reference.write_text(with_keys(reference.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "policy.schema.json").write_text(json_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
