# SPDX-License-Identifier: Apache-2.0
"""Runs of packets added to their flows, one step a run; payload only where it is still wanted."""

from __future__ import annotations

from array import array

from agentwall.capture.flows import MAX_DATAGRAM, MAX_DATAGRAMS, MAX_MESSAGES, Flow, FlowTable, Key
from agentwall.capture.grouping import Grouped, Payloads
from agentwall.capture.headers import Packets
from agentwall.capture.network import ACK, ECHOES, SYN, TCP, UDP

_CLOSES = 1 | 4  # FIN, RST
_SYN_ACK = SYN | ACK
_MESSAGE = 16


class Adder:
    """Takes batches to the flows of one table."""

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self.grown: list[Flow] = []
        """Flows whose TCP streams grew in the last batch, maybe more than once."""

    def add(self, packets: Packets, data: bytes) -> None:
        """Add a batch.

        Args:
            packets: In the order of the capture.
            data: What their payloads lie in.
        """
        self.grown = []
        if not len(packets.order):
            return
        grouped = Grouped(packets)
        payloads = grouped.payloads()
        table = self._table
        flows = table.flows
        for (
            key, protocol, count, begin_ns, end_ns, side, flags, sequence, all_flags, answer,
            first, last, payload_a, low_a, high_a, payload_b, low_b, high_b,
        ) in grouped.runs():  # fmt: skip
            flow = flows.get(key)
            if protocol == TCP and flow is not None and flags & SYN:
                is_answer = flags & ACK != 0
                if flow.opens_anew(side, sequence, is_answer=is_answer):
                    table.end(flow)
                    flow = None
            if flow is None:
                flow = self._begin(key, protocol, begin_ns, side)
            flow.packets += count
            if begin_ns < flow.begin_ns:
                flow.begin_ns = begin_ns
            if end_ns > flow.end_ns:
                flow.end_ns = end_ns
            a, b = flow.sides
            a.payload += payload_a
            b.payload += payload_b
            if protocol == TCP:
                if flags & _SYN_ACK == SYN:
                    flow.open(side, sequence, is_client=True)
                if answer >= 0:
                    self._answer(flow, *grouped.answer(answer))
                if all_flags & _CLOSES:
                    flow.is_closed = True
                if payload_a:
                    a.advance(low_a, high_a)
                if payload_b:
                    b.advance(low_b, high_b)
            elif flow.client is None and all_flags & SYN:
                flow.client = side if flags & SYN else 1 - side
            if first != last:
                self._add_payload(flow, payloads, data, first, last)
        table.make_room()

    def _begin(self, key: Key, protocol: int, begin_ns: int, side: int) -> Flow:
        table = self._table
        table.make_room_for_more()
        flow = table.flows[key] = Flow(key, protocol, begin_ns, begin_ns, side)
        return flow

    @staticmethod
    def _answer(flow: Flow, side: int, sequence: int, acknowledged: int) -> None:
        flow.open(side, sequence, is_client=False)
        if flow.sides[1 - side].isn is None:  # its SYN was not seen
            flow.open(1 - side, (acknowledged - 1) & 0xFFFFFFFF, is_client=True)

    def _add_payload(
        self, flow: Flow, payloads: Payloads, data: bytes, first: int, last: int
    ) -> None:
        if flow.protocol == TCP:
            held = self._add_segments(flow, payloads, data, first, last)
        elif flow.protocol == UDP or flow.protocol in ECHOES:
            held = self._add_datagrams(flow, payloads, data, first, last)
        else:
            held = 0
        held += self._add_messages(flow, payloads, first, last)
        self._table.hold(flow, held)

    def _add_segments(
        self, flow: Flow, payloads: Payloads, data: bytes, first: int, last: int
    ) -> int:
        streams = [flow.sides[0].stream, flow.sides[1].stream]
        if all(stream is not None and stream.is_full for stream in streams):
            return 0
        held = 0
        sides, sequences = payloads.sides, payloads.sequences
        begins, ends = payloads.begins, payloads.ends
        for place in range(first, last):
            side = sides[place]
            stream = streams[side]
            if stream is None:
                stream = streams[side] = flow.begin_stream(side)
            if not stream.is_full and (payload := data[begins[place] : ends[place]]):
                held += stream.add(sequences[place], payload)
        if held:
            self.grown.append(flow)
        return held

    @staticmethod
    def _add_datagrams(flow: Flow, payloads: Payloads, data: bytes, first: int, last: int) -> int:
        if flow.datagrams is None:
            flow.datagrams = []
        datagrams = flow.datagrams
        last = min(last, first + MAX_DATAGRAMS - len(datagrams))
        held = 0
        for place in range(first, last):
            begin = payloads.begins[place]
            kept = data[begin : min(payloads.ends[place], begin + MAX_DATAGRAM)]
            datagrams.append((kept, payloads.sizes[place], payloads.sides[place]))
            held += len(kept)
        return held

    @staticmethod
    def _add_messages(flow: Flow, payloads: Payloads, first: int, last: int) -> int:
        if flow.messages is None:
            flow.messages = array("q")
        last = min(last, first + MAX_MESSAGES - len(flow.messages) // 2)
        if last <= first:
            return 0
        flow.messages.frombytes(payloads.messages[first * _MESSAGE : last * _MESSAGE])
        return (last - first) * _MESSAGE
