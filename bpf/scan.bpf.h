/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Signatures: one automaton reads the first octets of each flow, both ways, wherever they are cut. A
 * packet with which a signature is complete does not pass, and nothing after it.
 */
#ifndef AGENTWALL_SCAN_H
#define AGENTWALL_SCAN_H

#include "skb.bpf.h"

#define AW_SYN_OPTIONS	  20 /* octets that a SYN of Linux has */
#define AW_SYN_USUAL	  0x0402080a /* from the fifth on: SACK and the head of timestamps */
#define AW_JOIN_OPTION	  12 /* of the option by which MPTCP joins a connection */
#define AW_SCAN_DATAGRAMS 16 /* that are read of one peer, each way */
#define AW_HANDED_BYTES	  4096 /* that user space gets of one flow, each way */

/* A bit of what aw_judge_destination() and aw_judge_arrival() return, above enum aw_action. */
#define AW_SCAN_DUE 0x10000

/*
 * Reads the packet's payload on. It is at egress if *way* is AW_WAY_OUT, else at ingress. Global, so that
 * the verifier looks at it once. Returns enum aw_action.
 */
int aw_scan(struct __sk_buff *skb, __u64 sandbox, __u32 way);

/*
 * Reads what aw_works[index].reading says of the packet, and reports what matches. Returns enum
 * aw_action.
 */
int aw_read_packet(struct __sk_buff *skb, __u32 index);

/*
 * Says whether a SYN has to be read. *place* is where its payload begins, and above it, by 16 bits, how
 * many octets of options it has.
 */
int aw_is_syn_due(struct __sk_buff *skb, __u32 way, __u32 sequence, __u32 place);

/*
 * Says whether a packet that may pass has to be read. Few branches: the verifier comes here from each
 * way to judge a packet.
 */
static __always_inline bool aw_is_scan_due(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					   struct aw_socket *socket, const struct aw_case *c,
					   __u8 reason, __u32 way)
{
	struct aw_scan *scan = &socket->scan;
	__u64 differs = (socket->remote[0] ^ c->remote.halves[0]) |
			(socket->remote[1] ^ c->remote.halves[1]) |
			(socket->remote_port ^ c->remote_port);

	if (!sandbox->signatures || c->listening || reason == AW_REASON_LOOPBACK ||
	    reason == AW_REASON_RESOLVER)
		return false;
	if (c->protocol == IPPROTO_TCP && c->tcp_flags & AW_TCP_SYN)
		return aw_is_syn_due(skb, way, c->sequence, c->start | (__u32)c->options << 16);
	/* Settled, and alive, and still with the peer that was read. */
	if (!((scan->settled[way] ^ 1) | scan->dead | differs))
		return false;
	return c->payload || (c->protocol != IPPROTO_TCP && c->start);
}

#endif /* AGENTWALL_SCAN_H */
