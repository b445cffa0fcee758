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

#define AW_READS \
	8 /* of one thread; they nest where TLS goes through TLS, and their stacks differ */

struct aw_pending {
	u64 stack; /* as it will be at the return; 0: none */
	u64 sandbox;
	u64 connection;
	u64 text;
	u64 size_at; /* address of a size_t that will have the size; 0: it is what is returned */
	u64 cookie;
	u32 place;
	u32 _pad;
};

/* What the kernel keeps with a thread, and lets go with it: a thread takes nothing from others. */
struct aw_reads {
	struct aw_pending reads[AW_READS];
	u64 given_up; /* reads that never returned, and made room */
};

/*
 * The place for a read: that of one that was at the same place of the stack, or a free one; else that of one
 * that was left by longjmp(3) or the like.
 */
static __always_inline struct aw_pending *aw_place_for(struct aw_reads *reads, u64 stack)
{
	struct aw_pending *free = 0;

#pragma unroll
	for (int i = 0; i < AW_READS; i++) {
		if (reads->reads[i].stack == stack)
			return &reads->reads[i];
		if (!reads->reads[i].stack)
			free = &reads->reads[i];
	}
	if (free)
		return free;
	return &reads->reads[reads->given_up++ & (AW_READS - 1)];
}

#endif /* AGENTWALL_PENDING_H */
