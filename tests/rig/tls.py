# SPDX-License-Identifier: Apache-2.0
"""Certificates made for one test by openssl: an authority and a server's certificate under it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rig.process import run_checked

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Paths of PEM files."""

    authority: Path
    """What a client must trust."""
    chain: Path
    key: Path


def make_certificate(directory: Path, names: list[str], addresses: list[str]) -> Certificate:
    """Make an authority and a certificate of its for *names* and *addresses* in *directory*."""
    authority, authority_key = directory / "authority.pem", directory / "authority.key"
    request, chain, key = (directory / f"server.{end}" for end in ("csr", "pem", "key"))
    run_checked(
        *("openssl", "req", "-x509", *_CURVE, "-days", "2", "-subj", "/CN=agentwall test CA"),
        *("-keyout", authority_key, "-out", authority),
    )
    run_checked(
        *("openssl", "req", "-new", *_CURVE, "-subj", f"/CN={names[0]}"),
        *("-keyout", key, "-out", request),
    )
    alternatives = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    extensions = directory / "server.ext"
    extensions.write_text(f"subjectAltName={','.join(alternatives)}\n")
    run_checked(
        *("openssl", "x509", "-req", "-days", "2", "-in", request, "-extfile", extensions),
        *("-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-out", chain),
    )
    return Certificate(authority=authority, chain=chain, key=key)
