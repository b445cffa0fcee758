# SPDX-License-Identifier: Apache-2.0
"""The ``detect`` keys of a policy and its bases, merged; a part of :mod:`agentwall.policy.load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from agentwall.errors import SourceLocation
from agentwall.flow.finding import DetectionClass
from agentwall.policy.detect_document import DetectDocument, DnsExfilDocument, ScanDocument
from agentwall.policy.document_map import Map
from agentwall.policy.extends import PolicyFile
from agentwall.policy.model import Detect, DnsLimits, Response, ScanLimits

_Document = TypeVar("_Document", bound=Map)


def merge_detect(files: Sequence[PolicyFile]) -> Detect:
    """Return what the last file that sets each key of ``detect`` says, thresholds one by one.

    Args:
        files: Bases first.
    """
    documents = [file.document.detect for file in files]
    merged = _last(documents, DetectDocument())
    scan = _last([each.scan for each in documents], ScanDocument())
    dns = _last([each.dns_exfil for each in documents], DnsExfilDocument())
    return Detect(
        responses={
            DetectionClass.MINING: merged.mining,
            DetectionClass.TUNNEL: merged.tunnel,
            DetectionClass.P2P: merged.p2p,
            DetectionClass.SCAN: scan.response,
            DetectionClass.DNS_EXFIL: dns.response,
            DetectionClass.BEACON: merged.beacon,
        },
        scan=ScanLimits(targets=scan.targets, ports=scan.ports, seconds=scan.seconds),
        dns=DnsLimits(questions_per_minute=dns.questions_per_minute, labels=dns.labels),
        depth_bytes=merged.depth_bytes,
        places=_places(files),
    )


def _last(documents: Sequence[_Document], defaults: _Document) -> _Document:
    given: dict[str, object] = {}
    for document in documents:
        given |= {key: getattr(document, key) for key in document.model_fields_set}
    return defaults.model_copy(update=given)


def _places(files: Sequence[PolicyFile]) -> Mapping[DetectionClass, SourceLocation]:
    found = {}
    for file in files:
        for cls in DetectionClass:
            if _response_of(file.document.detect, cls) is not None:
                found[cls] = file.source.locate(("detect", cls.value, "response"))
    return found


def _response_of(document: DetectDocument, cls: DetectionClass) -> Response | None:
    """Return what *document* itself says of *cls*; None if it says nothing."""
    if cls.value not in document.model_fields_set:
        return None
    said: Response | ScanDocument | DnsExfilDocument = getattr(document, cls.value)
    if isinstance(said, Response):
        return said
    return said.response if "response" in said.model_fields_set else None
