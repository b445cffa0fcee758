/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which flow carries which connection of a TLS library: the first record of a flow mostly leaves while
 * the thread that asked its library for it is at the processor.
 */
#ifndef AGENTWALL_JOIN_H
#define AGENTWALL_JOIN_H

#include "skb.bpf.h"

/* A bit of what aw_judge_destination() returns, above enum aw_action. */
#define AW_JOIN_DUE   0x20000
#define AW_JOIN_TRIES 64 /* segments of a flow that are looked at */

/*
 * Finds the connection whose record the segment is, and tells user space of a ClientHello. Where the
 * connection is dead the segment does not pass. Global, so that the verifier looks at it once. Returns
 * enum aw_action.
 */
int aw_join(struct __sk_buff *skb, __u64 sandbox);

static __always_inline bool aw_is_join_due(const struct aw_sandbox *sandbox,
					   const struct aw_socket *socket, const struct aw_case *c)
{
	return sandbox->plain && c->payload && !c->listening && !socket->scan.dead &&
	       (socket->spoken.connection || socket->spoken.told ||
		socket->spoken.tries < AW_JOIN_TRIES);
}

#endif /* AGENTWALL_JOIN_H */
