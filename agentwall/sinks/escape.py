# SPDX-License-Identifier: Apache-2.0
"""Make text that a sandbox chose safe to show. Pure.

A program's name may hold anything but NUL: terminal commands, line ends, marks that turn the
reading direction around. What cannot be seen, or changes how its neighbours look, becomes
``\\x1b`` or ``\\u202e``.
"""

from __future__ import annotations

import re
import unicodedata

_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me"))
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = re.compile(r"[ -~]*", re.ASCII)


def printable(text: str) -> str:
    """Return *text* on one line with every character visible and none acting on a terminal."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(character if _is_visible(character) else escape(character) for character in text)


def _is_visible(character: str) -> bool:
    if character == " ":
        return True
    category = unicodedata.category(character)
    return category not in _ESCAPED and category != "Zs"


def escape(character: str) -> str:
    """Return the backslash form of one *character*."""
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shorten(text: str, limit: int) -> str:
    """Return *text* of at most *limit* characters, the end replaced by ``...``."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def without_surrogates(text: str) -> str:
    """Return *text* with lone surrogates spelled out, as strict JSON readers refuse them.

    Python stands U+DC80 to U+DCFF for bytes that are not UTF-8 (PEP 383); they become ``\\xNN``.
    """
    return _SURROGATE.sub(_spell_surrogate, text)


def _spell_surrogate(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
