/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads of TLS libraries that have not returned: what tls.c keeps of them. bcc's dialect. */
#ifndef AGENTWALL_PENDING_H
#define AGENTWALL_PENDING_H

/* What a return finds on the stack of x86-64 is one word above what the call found. */
#if defined(__x86_64__)
#define AW_RETURN_ADDRESS 8
#else
#define AW_RETURN_ADDRESS 0
#endif

/*
 * The place for a read: that of one that was at the same place of the stack, or a free one; else that of one
 * that was left by longjmp(3) or the like.
 */
static __always_inline struct aw_plain_read *aw_place_for(struct aw_plain_reads *reads, u64 stack)
{
	struct aw_plain_read *free = 0;

#pragma unroll
	for (int i = 0; i < AW_PLAIN_READS; i++) {
		if (reads->reads[i].stack == stack)
			return &reads->reads[i];
		if (!reads->reads[i].stack)
			free = &reads->reads[i];
	}
	if (free)
		return free;
	return &reads->reads[reads->given_up++ & (AW_PLAIN_READS - 1)];
}

#endif /* AGENTWALL_PENDING_H */
