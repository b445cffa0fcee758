# SPDX-License-Identifier: Apache-2.0
"""Addresses are known by their shape and shown at their ends."""

from __future__ import annotations

import pytest
from rig.dialogues import ETHEREUM, KASPA, MONERO

from agentwall.detect.wallets import (
    is_wallet,
    mask,
    mask_login,
    mask_wallets,
    wallet_in,
    wallet_kind,
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (MONERO, "monero"),
        (MONERO + ".rig+1000", "monero"),
        (MONERO + "aBcDeFgHiJk", "monero"),
        (ETHEREUM, "ethereum"),
        (ETHEREUM + "/rig", "ethereum"),
        (KASPA + ".rig", "kaspa"),
        ("bc1q" + "w5" * 20, "bitcoin-segwit"),
        ("t1" + "aB2" * 11, "base58"),
        ("9" + "aB2cD" * 10, "ergo"),
        ("0x" + "5f" * 32, None),
        ("alice", None),
        ("4" * 64, None),
        ("", None),
    ],
)
def test_kind(text, kind):
    """A login begins with the address it is paid to, or has none."""
    assert wallet_kind(text) == kind
    assert is_wallet(text) == (kind not in (None, "base58"))
    found = wallet_in(text)
    assert (found is None) == (kind is None)
    assert found is None or text.startswith(found)


def test_masks():
    """Long texts keep four characters at each end, short ones none; what follows a wallet goes."""
    assert mask("abcdefghijklmnop") == "abcd...mnop"
    assert mask("abcdefghijklmno") == "***"
    assert mask_login(ETHEREUM + "/rig") == "0x52...e3b5/***"
    assert mask_login("alice") == "***"
    assert mask_wallets(f"to {MONERO}, {ETHEREUM}!") == "to 48ed...DeFg, 0x52...e3b5!"
    assert mask_wallets("5f" * 32) == "5f" * 32
