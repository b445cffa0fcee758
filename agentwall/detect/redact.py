# SPDX-License-Identifier: Apache-2.0
"""What of the evidence may be shown: wallets only at their ends, passwords and keys not at all.

Two ways in: a parsed message (:func:`redact_message`), and raw bytes of a packet that may begin in
the middle of a line (:func:`redact_excerpt`). Text out: printable ASCII, at most
:data:`MAX_EXCERPT` characters.
"""

from __future__ import annotations

import json
import re

from agentwall.detect.wallets import mask, mask_login, mask_wallets, wallet_in

MAX_EXCERPT = 200
WINDOW = 192
"""Bytes that the kernel hands over with a match; so many may begin anywhere in a line."""
HIDDEN = "***"
_MOST = 4096
_MAX_STRING = 80
_MAX_ITEMS = 16
_MAX_DEPTH = 8

_SECRET = {
    *("pass", "password", "passwd", "pwd", "passphrase", "secret", "token", "api_key", "apikey"),
    *("key", "site_key", "access_token", "auth", "authorization", "privilege_key", "cookie"),
    *("session", "email", "mail"),
}
"""Keys whose values are never shown."""
_NAMING = {
    *("login", "worker", "user", "username", "rigid", "rig", "wallet", "wallet_address", "address"),
    *("account", "workername", "worker_name"),
}
"""Keys whose values are shown at their ends, if they are long."""
_PLACES = ("login", "pass")
_SIGNS_IN = re.compile(r"authorize|login|submit", re.IGNORECASE)

_QUOTED = r"[^\"\\]*(?:\\.[^\"\\]*)*"
_MEMBER = re.compile(rf'"([A-Za-z_.-]{{1,24}})"(\s{{0,8}}:\s{{0,8}})"({_QUOTED})("|\Z)')
_STRING = re.compile(rf'(:\s{{0,8}})?"({_QUOTED})("|\Z)((?=\s{{0,8}}:))?')
_VERB = re.compile(r'"method"\s{0,8}:\s{0,8}"[^"]*"')
_KEY = re.compile(r'"[A-Za-z_.-]{1,24}"\s{0,8}:')
_HEADER = re.compile(
    r"(?im)^((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]{0,20}(?:key|token))([ \t]*:)[^\r\n]*"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)([ .]+)[A-Za-z0-9+/=._~-]+")
_USERINFO = re.compile(r"://[^\s/@\"']{1,256}@")
_QUERY = re.compile(r"(?i)\b(pass(?:word)?|pwd|token|key|secret|api_?key)=[^\s&\"']{1,256}")
_ESCAPE = re.compile(r"\\u00([2-7][0-9A-Fa-f])")


def redact_excerpt(data: bytes) -> str:
    """Make bytes of a flow fit to be shown.

    Args:
        data: Bytes that end at a match. Where there are :data:`WINDOW` of them or more, the first
            line may lack its beginning: what stands before its first key is left out, since it may
            be the end of a password.
    """
    text = _ESCAPE.sub(_plain, data[-_MOST:].decode("latin-1"))
    if len(data) >= WINDOW:
        text = _without_beginning(text)
    return _printable(_redact_text(text))


def redact_message(message: dict[str, object]) -> str:
    """Write a parsed message in one line, fit to be shown."""
    method = message.get("method")
    signs_in = isinstance(method, str) and bool(_SIGNS_IN.search(method))
    shown = {
        str(key)[:_MAX_STRING]: _value(str(key), item, signs_in and key == "params", 0)
        for key, item in list(message.items())[:_MAX_ITEMS]
    }
    return _printable(json.dumps(shown, ensure_ascii=True))


def redact_name(text: str) -> str:
    """Show a wallet, login or worker at its ends only."""
    return _printable(mask(text))


def printable(text: str) -> str:
    """Cut *text* to :data:`MAX_EXCERPT` characters of printable ASCII; wallets in it are masked."""
    return _printable(mask_wallets(text))


def _value(key: str, item: object, positional: bool, depth: int) -> object:
    if depth > _MAX_DEPTH:
        return "..."
    match item:
        case dict():
            some = list(item.items())[:_MAX_ITEMS]
            return {str(k)[:_MAX_STRING]: _value(str(k), v, False, depth + 1) for k, v in some}
        case list():
            # The first is who, what follows the password and more, for whatever verb signs in.
            return [
                _value(_PLACES[min(place, 1)] if positional else "", one, False, depth + 1)
                for place, one in enumerate(item[:_MAX_ITEMS])
            ]
        case str():
            return _string(key.lower(), item)
        case _:
            return HIDDEN if key.lower() in _SECRET and item is not None else item


def _string(key: str, text: str) -> str:
    if key in _SECRET:
        return HIDDEN
    if key in _NAMING:
        return mask_login(text)
    text = _BEARER.sub(r"\1\2***", mask_wallets(text[:4096]))
    return text if len(text) <= _MAX_STRING else text[: _MAX_STRING - 3] + "..."


def _redact_text(text: str) -> str:
    text = _HEADER.sub(rf"\1\2 {HIDDEN}", text)
    text = _BEARER.sub(rf"\1\2{HIDDEN}", text)
    text = _USERINFO.sub(f"://{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1={HIDDEN}", text)
    text = _MEMBER.sub(_member, text)
    return mask_wallets("\n".join(_positional(line) for line in text.split("\n")))


def _member(match: re.Match[str]) -> str:
    key, colon, value, end = match.groups()
    if key.lower() in _SECRET:
        value = HIDDEN
    elif key.lower() in _NAMING:
        value = mask_login(value)
    return f'"{key}"{colon}"{value}{end}'


# Verbs that sign in have the password in a list, which may stand before the verb, or before a verb
# that is not to be seen. Values with a key have been dealt with.
def _positional(line: str) -> str:
    if not _SIGNS_IN.search(line) and ('"params"' not in line or _VERB.search(line)):
        return line

    def hide(match: re.Match[str]) -> str:
        colon, inside, end, is_key = match.groups()
        shown = mask_login(inside) if wallet_in(inside) else HIDDEN
        return match[0] if colon or is_key is not None else f'"{shown}{end}'

    return _STRING.sub(hide, line)


def _without_beginning(text: str) -> str:
    first, newline, rest = text.partition("\n")
    if first.lstrip().startswith("{"):
        return text
    key = _KEY.search(first)
    if key:
        return "..." + first[key.start() :] + newline + rest
    if newline:
        return "..." + newline + rest
    return "..." if '"' in first else text


def _plain(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character not in '"\\\x7f' else match[0]


def _printable(text: str) -> str:
    text = text.strip()
    shown = "".join(c if " " <= c <= "~" else " " if c in "\r\n\t" else "." for c in text)
    return shown if len(shown) <= MAX_EXCERPT else shown[: MAX_EXCERPT - 3] + "..."
