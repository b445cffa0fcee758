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

/* A read of one thread; reads nest where TLS goes through TLS, and their stacks differ. */
struct aw_pending_key {
	u64 task;
	u64 stack; /* as it will be at the return */
};

struct aw_pending {
	u64 task; /* an entry may get another owner while it is read, see aw_take_pending() */
	u64 stack;
	u64 sandbox;
	u64 connection;
	u64 text;
	u64 size_at; /* address of a size_t that will have the size; 0: it is what is returned */
	u64 cookie;
	u32 place;
	u32 _pad;
};

#endif /* AGENTWALL_PENDING_H */
