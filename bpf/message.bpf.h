/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What dns.bpf.c and answer.bpf.c share. agentwall/detect/dns.py says in Python what they do, and is
 * the place to read the rules.
 *
 * What a loop changes lives in struct aw_work, not in registers: the verifier does not follow the
 * contents of map values, so one turn of a loop looks to it like any other. The parts are functions
 * of their own, global so that each is verified once and not once a call. Linux 5.10 needs that: in a
 * program with functions it tells apart every value that a register can hold, and gave up on the loop
 * over a name, written out, after a million instructions.
 */
#ifndef AGENTWALL_MESSAGE_H
#define AGENTWALL_MESSAGE_H

#include <stdbool.h>
#include "dns.bpf.h"

#define AW_DNS_HEADER 12
#define AW_DNS_LABEL  63 /* octets of one, at most */
#define AW_DNS_IN     1

/* What the parts return. */
#define AW_READ	     0
#define AW_MALFORMED 1
#define AW_ENDED     2 /* it lies beyond the end of the message */
#define AW_MORE	     3 /* of the steps of a name */

#define AW_FNV_BASIS 0xcbf29ce484222325ULL
#define AW_FNV_PRIME 0x100000001b3ULL

/* Reads what a question and the answer to it have in common; leaves work->at behind it. */
int aw_read_asked(__u32 index);

static __always_inline struct aw_work *aw_work_of(__u32 index)
{
	index &= AW_WORKS - 1;
	return bpf_map_lookup_elem(&aw_works, &index);
}

/* The compiler must not leave out the mask: the verifier has forgotten what was checked before. */
static __always_inline __u32 aw_octet(const struct aw_work *work, __u32 at)
{
	__u64 place = at;

	asm volatile("" : "+r"(place));
	return work->message[place & (AW_MESSAGE_LEN - 1)];
}

static __always_inline __u32 aw_short(const struct aw_work *work, __u32 at)
{
	return aw_octet(work, at) << 8 | aw_octet(work, at + 1);
}

static __always_inline __u32 aw_lower(__u32 octet)
{
	return octet - 'A' < 26 ? octet | 0x20 : octet;
}

/* FNV-1a. Two names can be alike by it: their text, in aw_known, tells them apart. */
static __always_inline __u64 aw_hash_octet(__u64 hash, __u32 octet)
{
	return (hash ^ octet) * AW_FNV_PRIME;
}

static __always_inline __u64 aw_hash_start(void)
{
	return AW_FNV_BASIS ^ aw_hash_seed;
}

/* 0 stands for no name. */
static __always_inline __u64 aw_hash_end(__u64 hash)
{
	return hash ? hash : 1;
}

#endif /* AGENTWALL_MESSAGE_H */
