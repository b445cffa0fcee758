# SPDX-License-Identifier: Apache-2.0
"""Which files hold signatures, and which are not read."""

from __future__ import annotations

import pytest

from agentwall.errors import PolicyError
from agentwall.host.signature_text import MAX_FILE_BYTES, is_signature_file, read_text


def test_too_large(tmp_path):
    """A file beyond the limit is refused and not read to its end."""
    path = tmp_path / "a.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    with pytest.raises(PolicyError, match="larger than 16 MiB"):
        read_text(str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 1\nsignatures: []\n", True),
        ("version: 1\nindicators: []\n", True),
        ("version: 1\nfragments: {a: b}\nsignatures: 7\n", True),
        ("version: 1\nallow: []\n", False),
        ("signatures\n", False),
        ("{", False),
        ("", False),
    ],
)
def test_is_signature_file(tmp_path, text, expected):
    """A file is one of signatures by its keys, valid or not."""
    (tmp_path / "f").write_text(text)

    assert is_signature_file(str(tmp_path / "f")) is expected
    assert not is_signature_file(str(tmp_path))
