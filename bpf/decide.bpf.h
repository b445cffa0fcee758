/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * decide(): what the rules say of one remote. agentwall/policy/evaluate.py says the same, and
 * tests/agree holds the two together.
 */
#ifndef AGENTWALL_DECIDE_H
#define AGENTWALL_DECIDE_H

#include "case.bpf.h"

#define AW_SEARCH_STEPS 18 /* binary search over at most 2^17 intervals */

static __always_inline struct aw_interval_set *aw_find_set(__u32 generation, __u8 direction,
							   const union aw_address *remote)
{
	struct aw_rule_key key = {
		.prefixlen = 160,
		.table = generation << 1 | direction,
	};

	__builtin_memcpy(key.address, remote, sizeof(key.address));
	return bpf_map_lookup_elem(&aw_rules, &key);
}

/* Writes the verdict of the interval that holds *selector*; leaves *c* as it is if none does. */
static __attribute__((noinline, unused)) int aw_search(const struct aw_interval_set *set,
						       __u32 selector, struct aw_case *c)
{
	__u32 low = set->start;
	__u32 left = set->count & ~AW_SET_PERMITS;

	for (int i = 0; i < AW_SEARCH_STEPS && left; i++) {
		__u32 middle = low + left / 2;
		struct aw_interval *interval = bpf_map_lookup_elem(&aw_intervals, &middle);

		if (!interval)
			return 0;
		if (selector < interval->first) {
			left = left / 2;
		} else if (selector > interval->last) {
			left -= left / 2 + 1;
			low = middle + 1;
		} else {
			c->verdict = interval->verdict;
			c->reason = AW_REASON_RULE;
			c->rule = interval->rule;
			return 1;
		}
	}
	return 0;
}

static __always_inline void aw_apply_rules(const struct aw_sandbox *sandbox, __u8 direction,
					   __u16 port, struct aw_case *c)
{
	struct aw_interval_set *set = aw_find_set(sandbox->generation, direction, &c->remote);

	aw_rule_out(c, AW_VERDICT_DENY, AW_REASON_NO_RULE);
	if (set)
		aw_search(set, (__u32)c->protocol << 16 | port, c);
}

enum aw_receiver {
	AW_RECEIVER_FOREIGN, /* or none */
	AW_RECEIVER_OWN, /* made in this sandbox */
	AW_RECEIVER_CALLER, /* a foreign UDP socket that connected to c->local and c->local_port */
};

/*
 * Says whose socket a packet of this case would reach on this host. With the packet's own local
 * address and port that holds for SO_REUSEPORT groups too, unless a program of the group chooses;
 * only processes of one user share a group.
 */
static __attribute__((noinline, unused)) int aw_receiver_of(void *ctx, const struct aw_case *c)
{
	enum aw_receiver receiver = AW_RECEIVER_FOREIGN;
	struct bpf_sock_tuple tuple = {};
	struct aw_socket *socket;
	const union aw_address *local;
	struct bpf_sock *listener;
	__u32 size;

	if (aw_is_v4(&c->remote)) {
		tuple.ipv4.saddr = aw_is_v4(&c->local) ? c->local.words[3] : c->remote.words[3];
		tuple.ipv4.daddr = c->remote.words[3];
		tuple.ipv4.sport = bpf_htons(c->local_port);
		tuple.ipv4.dport = bpf_htons(c->remote_port);
		size = sizeof(tuple.ipv4);
	} else {
		local = c->local.halves[0] | c->local.halves[1] ? &c->local : &c->remote;
		__builtin_memcpy(tuple.ipv6.saddr, local, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &c->remote, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = bpf_htons(c->local_port);
		tuple.ipv6.dport = bpf_htons(c->remote_port);
		size = sizeof(tuple.ipv6);
	}
	if (c->protocol == IPPROTO_TCP)
		listener = bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (c->protocol == IPPROTO_UDP)
		listener = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return receiver;
	if (!listener)
		return receiver;
	socket = bpf_sk_storage_get(&aw_sockets, listener, 0, 0);
	if (socket && socket->sandbox == c->id)
		receiver = AW_RECEIVER_OWN;
	else if (c->protocol == IPPROTO_UDP && listener->state == AW_TCP_ESTABLISHED)
		receiver = AW_RECEIVER_CALLER;
	bpf_sk_release(listener);
	return receiver;
}

/* Judges a flow that the sandbox opens: to c->remote, c->remote_port. */
static __always_inline void aw_judge_out(void *ctx, const struct aw_sandbox *sandbox,
					 struct aw_case *c)
{
	c->direction = AW_DIRECTION_OUT;
	aw_apply_rules(sandbox, AW_DIRECTION_OUT, c->remote_port, c);
	if (c->reason != AW_REASON_NO_RULE || !aw_is_loopback(&c->remote))
		return;
	if (sandbox->loopback == AW_LOOPBACK_FREE ||
	    (sandbox->loopback == AW_LOOPBACK_OWN_LISTENERS &&
	     aw_receiver_of(ctx, c) == AW_RECEIVER_OWN))
		aw_rule_out(c, AW_VERDICT_ALLOW, AW_REASON_LOOPBACK);
}

/*
 * Says whether the verdict holds for the following packets of the flow. Which socket a packet on
 * the host's loopback reaches is known only where its own port is, and anew for each datagram and
 * each SYN: by the time it is sent again another may listen there.
 */
static __always_inline bool aw_is_lasting(const struct aw_sandbox *sandbox, const struct aw_case *c)
{
	if (sandbox->loopback != AW_LOOPBACK_OWN_LISTENERS || !aw_is_loopback(&c->remote) ||
	    c->reason == AW_REASON_RULE || c->reason == AW_REASON_OBSERVED)
		return true;
	return c->verdict == AW_VERDICT_ALLOW && c->protocol == IPPROTO_TCP &&
	       c->hook == AW_HOOK_EGRESS && !(c->tcp_flags & AW_TCP_SYN);
}

/* Judges a flow that c->remote opens to c->local_port of the sandbox. Loopback is not inbound. */
static __always_inline void aw_judge_in(const struct aw_sandbox *sandbox, struct aw_case *c)
{
	c->direction = AW_DIRECTION_IN;
	if (aw_is_loopback(&c->remote))
		aw_rule_out(c, AW_VERDICT_ALLOW, AW_REASON_LOOPBACK);
	else
		aw_apply_rules(sandbox, AW_DIRECTION_IN, c->local_port, c);
}

/*
 * Says whether some port of c->remote is permitted. connect() on a UDP socket sends nothing, and
 * getaddrinfo() does one to every address it found, so it succeeds there and egress judges. Not
 * for many hosts at once over IPv4: the copy for members on this host leaves without a socket, and
 * egress never sees it. There the port has to be the permitted one.
 */
static __always_inline bool aw_permits_some_port(const struct aw_sandbox *sandbox,
						 const struct aw_case *c)
{
	struct aw_interval_set *set =
		aw_find_set(sandbox->generation, AW_DIRECTION_OUT, &c->remote);

	if (set && aw_is_many_v4(&c->remote)) {
		struct aw_case exact = { .protocol = c->protocol };

		aw_search(set, (__u32)c->protocol << 16 | c->remote_port, &exact);
		return exact.verdict == AW_VERDICT_ALLOW;
	}
	if (aw_is_loopback(&c->remote) && sandbox->loopback != AW_LOOPBACK_CLOSED)
		return true;
	return set && set->count & AW_SET_PERMITS;
}

#endif /* AGENTWALL_DECIDE_H */
