# SPDX-License-Identifier: Apache-2.0
"""Addresses that miners are paid to: their shapes, and how they are shown.

Shapes only, no checksums: a miner's wallet that lacks a letter is still a miner's. Sources: the
Monero address format (monero-project ``src/cryptonote_config.h``), BIP 173, BIP 350, EIP-55, and
the address prefixes of the other chains' parameters.
"""

from __future__ import annotations

import re

_BASE58 = "[1-9A-HJ-NP-Za-km-z]"
_BECH32 = "[0-9a-z]"
_SHAPES = {
    "monero": rf"(?:4[0-9AB]|8[0-9A-C]){_BASE58}{{93}}(?:{_BASE58}{{11}})?",
    "ethereum": r"0x[0-9A-Fa-f]{40}",
    "kaspa": r"kaspa(?:test|dev)?:[0-9a-z]{54,64}",
    "bitcoin-segwit": rf"(?:bc1|tb1|ltc1|ckb1|ckt1|vtc1){_BECH32}{{38,96}}",
    "bitcoin-cash": rf"bitcoincash:{_BECH32}{{42}}",
    "zcash-shielded": rf"zs1{_BECH32}{{75}}|u1{_BECH32}{{100,200}}",
    "base58": rf"(?:[13LMXDRkrtq]|t[13])?{_BASE58}{{33,34}}",
    "ergo": rf"9{_BASE58}{{50}}",
    "cryptonote": rf"{_BASE58}{{95,110}}",
    "nimiq": r"NQ[0-9]{2}(?: ?[0-9A-Z]{4}){8}",
}
_ANY = "|".join(f"(?:{shape})" for shape in _SHAPES.values())
# A longer run of letters is something else: base64, a hash, a key. All repetitions are bounded.
_WALLET = re.compile(rf"(?<![0-9A-Za-z])(?:{_ANY})(?![0-9A-Za-z])")
_NAMED = re.compile(
    "|".join(f"(?P<{n.replace('-', '_')}>(?:{s})(?![0-9A-Za-z]))" for n, s in _SHAPES.items())
)
_AMBIGUOUS = {"base58"}
_KEPT = 4


def wallet_kind(text: str) -> str | None:
    """Name the kind of address that *text* begins with, as miners write it, or None.

    ``.rig``, ``/rig``, ``+difficulty`` may follow. ``base58`` is the shape of Bitcoin's own and of
    those that were copied from it: other words have it too, so it proves nothing.
    """
    match = _NAMED.match(text)
    return (match.lastgroup or "").replace("_", "-") if match else None


def is_wallet(text: str) -> bool:
    """Say whether *text* begins with an address whose shape is like nothing else's."""
    kind = wallet_kind(text)
    return kind is not None and kind not in _AMBIGUOUS


def wallet_in(login: str) -> str | None:
    """Return the address that a miner's login or user name begins with, or None."""
    match = _NAMED.match(login)
    return match[0] if match else None


def mask(text: str) -> str:
    """Show the first and the last four characters of something long; of a short one, nothing."""
    if len(text) < 4 * _KEPT:
        return "***"
    return f"{text[:_KEPT]}...{text[-_KEPT:]}"


def mask_login(text: str) -> str:
    """Show of a login the ends of the wallet that it begins with; else as :func:`mask`."""
    wallet = wallet_in(text)
    if wallet is None or wallet == text:
        return mask(text)
    return f"{mask(wallet)}{text[len(wallet)]}***"


def mask_wallets(text: str) -> str:
    """Mask whatever in *text* has the shape of an address."""
    return _WALLET.sub(lambda match: mask(match[0]), text)
