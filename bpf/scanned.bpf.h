/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How far the automaton of the signatures has read a socket's traffic. */
#ifndef AGENTWALL_SCANNED_H
#define AGENTWALL_SCANNED_H

#define AW_WAY_OUT 0 /* at egress */
#define AW_WAY_IN  1 /* at ingress */

/* In struct aw_socket; arrays are by AW_WAY_*. A byte each, for egress and ingress run side by side. */
struct aw_scan {
	__u64 reported; /* groups that were reported of this flow */
	__u64 judged; /* of them, those that a match was certain of */
	__u32 table; /* aw_signatures.generation that state belongs to; 0: nothing was read */
	__u32 expected[2]; /* TCP sequence number of the next octet to read */
	__u32 position[2]; /* octets read */
	__u16 state[2];
	__u16 handed[2]; /* octets that user space got */
	__u8 settled[2]; /* 1: nothing more is read */
	__u8 begun[2]; /* 1: expected is known */
	__u8 busy[2]; /* 1: a packet is being read */
	__u8 datagrams[2]; /* read: AW_SCAN_DATAGRAMS at most */
	__u8 hands_over; /* 1: user space gets what follows */
	__u8 dead; /* 1: nothing passes any more */
};

/* Where the automaton stands in a message. */
struct aw_cursor {
	__u64 ignored; /* groups of signatures that are not looked for */
	__u64 spared; /* groups whose certain matches need not be looked for */
	__u32 table; /* index into aw_signatures */
	__u32 state;
	__u32 accept; /* what matched: index into aw_signatures.accepts */
	__u32 at; /* the next octet of the message */
	__u32 size; /* octets of the message */
	__u32 _pad;
};

/* One packet while it is read. */
struct aw_reading {
	__u32 offset; /* of the next octet, in the packet */
	__u32 left; /* octets to read */
	__u32 due; /* octets to read before the next look: of left */
	__u32 unit; /* octets of one datagram; of a stream: left */
	__u32 before; /* octets of the stream that passed before this packet's */
	__u32 first; /* offset of the first octet that is new */
	__u32 beyond; /* octets behind what is read: deeper than the policy looks */
	__u16 start; /* state in which a stream or datagram begins */
	__u8 way;
	__u8 is_stream;
};

#define AW_TAIL_BYTES 256

/* The last octets that passed: evidence, should a match end in another packet than it began in. */
struct aw_tail {
	__u16 have[2];
	__u8 _pad[4];
	/* Half of it is used: the verifier adds the most that place and length can each be. */
	__u8 text[2][2 * AW_TAIL_BYTES];
};

#endif /* AGENTWALL_SCANNED_H */
