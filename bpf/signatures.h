/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The part of abi.h that is about signatures: see agentwall/detect/automaton.py. */
#ifndef AGENTWALL_SIGNATURES_H
#define AGENTWALL_SIGNATURES_H

#define AW_SIGNATURE_TABLES 2 /* one in force, one being written */
#define AW_STATES	    65536 /* powers of two */
#define AW_GROUPS	    256
#define AW_CELLS	    1048576
#define AW_ACCEPTS	    2048
#define AW_MATCH_BYTES	    512
#define AW_EXCERPT_BYTES    1024
#define AW_GROUP_HAND_OVER  (1ULL << 63) /* decoders are to see the flow */

enum aw_transport {
	AW_TRANSPORT_TCP = 0,
	AW_TRANSPORT_UDP = 1,
	AW_TRANSPORT_ICMP = 2,
};

enum aw_side {
	AW_SIDE_CLIENT = 0, /* who opened the flow */
	AW_SIDE_SERVER = 1,
};

/* What a state stands for. Groups are classes and dialects, one bit each. */
struct aw_accept {
	__u64 groups; /* that matched, and AW_GROUP_HAND_OVER */
	__u64 certain; /* those that may be blocked */
};
_Static_assert(sizeof(struct aw_accept) == 16, "aw_accept changed size");

/*
 * Value of aw_signatures: an automaton. Most states tell only few octets apart, so each belongs to a
 * group that has its own classes of octets. One step:
 *
 *     state = next[base[state] + classes[group_of[state]][octet]]
 *
 * State 0 is dead. User space writes it through a mapping, generation last.
 */
struct aw_signatures {
	__u32 generation; /* 0: not complete */
	__u32 first_accepting; /* states from here on have matched */
	__u16 starts[6]; /* enum aw_transport << 1 | enum aw_side */
	__u8 _pad[4];
	struct aw_accept accepts[AW_ACCEPTS]; /* 0: nothing */
	__u32 base[AW_STATES]; /* index into next */
	__u16 accept_of[AW_STATES]; /* index into accepts */
	__u16 end_of[AW_STATES]; /* index into accepts, where a datagram ends in the state */
	__u16 next[AW_CELLS];
	__u8 group_of[AW_STATES];
	__u8 classes[AW_GROUPS][256];
};
_Static_assert(sizeof(struct aw_signatures) ==
		       24 + 32768 + 4 * 65536 + 4 * 65536 + 2097152 + 65536 + 65536,
	       "aw_signatures changed size");

/* Key of aw_excepts: a rule that some groups are not looked for behind. Value: u64, those groups. */
struct aw_except_key {
	__u32 generation;
	__u32 rule;
};
_Static_assert(sizeof(struct aw_except_key) == 8, "aw_except_key changed size");

/* In aw_denials: what a flow said matches a signature. Its verdict is ALLOW where that only alerts. */
struct aw_match_event {
	struct aw_event event;
	__u32 table; /* aw_signatures.generation */
	__u32 position; /* octets of this side's stream, or of the datagram, up to the match's end */
	__u32 left; /* octets of the stream that had passed in earlier packets */
	__u16 accept; /* index into aw_signatures.accepts */
	__u16 length; /* of text */
	__u8 side; /* enum aw_side */
	__u8 _pad[7];
	__u8 text[AW_MATCH_BYTES]; /* the last octets up to the match's end */
};
_Static_assert(sizeof(struct aw_match_event) == 672, "aw_match_event changed size");

/* Payload of the ring aw_excerpts: octets of a flow for the decoders. */
struct aw_excerpt_event {
	struct aw_event event;
	__u32 position; /* of text in this side's stream */
	__u16 length; /* of text */
	__u8 side; /* enum aw_side */
	__u8 _pad;
	__u8 text[AW_EXCERPT_BYTES];
};
_Static_assert(sizeof(struct aw_excerpt_event) == 1168, "aw_excerpt_event changed size");

#define AW_HELLO_BYTES 2048

/* Also in aw_excerpts: a flow begins with a ClientHello. */
struct aw_hello_event {
	struct aw_event event;
	__u16 length; /* of text */
	__u8 library; /* enum aw_plain_library: whose text is read; 0: of none that is known */
	__u8 _pad[5];
	__u8 text[AW_HELLO_BYTES]; /* the first segment's */
};
_Static_assert(sizeof(struct aw_hello_event) == 2192, "aw_hello_event changed size");

#endif /* AGENTWALL_SIGNATURES_H */
