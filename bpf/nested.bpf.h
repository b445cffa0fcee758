/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TLS inside TLS, as through an HTTPS proxy: what the inner connection has encrypted, its thread hands to
 * the outer one at once. So the outer one's flow is the inner one's too, and they die together.
 */
#ifndef AGENTWALL_NESTED_H
#define AGENTWALL_NESTED_H

#include "plain.bpf.h"
#include "record.bpf.h"

/* What is known of the outer connection's flow holds for the inner one. */
static __always_inline void aw_share_flow(struct aw_plain_connection *inner,
					  const struct aw_plain_connection *outer)
{
	inner->name = outer->name;
	inner->excepted = outer->excepted;
	__builtin_memcpy(inner->remote, outer->remote, sizeof(inner->remote));
	__builtin_memcpy(inner->local, outer->local, sizeof(inner->local));
	inner->rule = outer->rule;
	inner->remote_port = outer->remote_port;
	inner->local_port = outer->local_port;
	inner->direction = outer->direction;
	inner->unread = outer->unread;
	inner->generation = outer->generation;
	if (!inner->cookie)
		AW_PLAIN_COUNT(joined, 1);
	/* As in aw_tie(). */
	if (!inner->cookie && !(inner->judged & ~inner->excepted))
		inner->dead = 0;
	inner->cookie = outer->cookie;
}

/*
 * Looks whether *outer* is handed a record that the thread's last other connection has made. An
 * application that only looks like that loses nothing but what its own miner's connection lost already.
 */
static __always_inline void aw_carry_inner(struct aw_plain_connection *outer,
					   const struct aw_plain_key *key,
					   const struct aw_plain_call *call)
{
	struct aw_plain_key inside = *key;
	struct aw_plain_connection *inner;
	__u8 head[AW_RECORD_HEADER];

	if (!call->before || call->size < sizeof(head) ||
	    bpf_probe_read_user(head, sizeof(head), (void *)(unsigned long)call->text) ||
	    !aw_is_record(head))
		return;
	inside.connection = call->before;
	inner = bpf_map_lookup_elem(&aw_plain_connections, &inside);
	if (!inner || (inner->cookie && inner->cookie != outer->cookie))
		return;
	if (outer->cookie && (!inner->cookie || inner->generation != outer->generation))
		aw_share_flow(inner, outer);
	if (!inner->dead || outer->dead)
		return;
	outer->dead = 1;
	if (outer->cookie)
		aw_mark_dead(key->sandbox, outer->cookie);
}

#endif /* AGENTWALL_NESTED_H */
