/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * decide(): what the rules say of one remote. agentwall/policy/evaluate.py says the same, and
 * tests/agree holds the two together.
 */
#ifndef AGENTWALL_DECIDE_H
#define AGENTWALL_DECIDE_H

#include "names.bpf.h"

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

static __always_inline __u32 aw_selector(const struct aw_case *c, __u16 port)
{
	return (__u32)c->protocol << 16 | port;
}

static __always_inline void aw_take(struct aw_case *c, __u64 saying)
{
	c->verdict = saying & 0xff;
	c->terms = (__u32)saying >> AW_TERM_SHIFT;
	c->rule = saying >> 32;
	c->reason = c->terms & AW_TERM_RESOLVER >> AW_TERM_SHIFT ? AW_REASON_RESOLVER :
								   AW_REASON_RULE;
}

static __always_inline void aw_apply_rules(const struct aw_sandbox *sandbox, __u8 direction,
					   __u16 port, struct aw_case *c)
{
	struct aw_interval_set *set = aw_find_set(sandbox->generation, direction, &c->remote);
	__u64 saying = set ? aw_search(set->start, set->count, aw_selector(c, port)) : 0;

	aw_rule_out(c, AW_VERDICT_DENY, AW_REASON_NO_RULE);
	c->closed = set && set->count & AW_SET_CLOSED;
	if (saying)
		aw_take(c, saying);
}

/*
 * Lays what is said of a name of the remote over *c*. A deny in either denies; an allow by address
 * needs no name; of several rules of one kind the first one is named.
 */
static __always_inline void aw_take_name(struct aw_case *c, __u64 name, __u64 saying)
{
	bool allows = (saying & 0xff) == AW_VERDICT_ALLOW;

	if (!saying || saying >> 32 >= c->rule || (allows && c->closed))
		return;
	if (allows && c->reason != AW_REASON_NO_RULE && !(c->terms & AW_CASE_BY_NAME))
		return;
	aw_take(c, saying);
	c->name = name;
	if (allows)
		c->terms |= AW_CASE_BY_NAME;
}

/* Asks the rules for one name of the remote. Returns false if there was no memory to look. */
static __always_inline bool aw_judge_name(const struct aw_sandbox *sandbox, struct aw_case *c,
					  __u64 name)
{
	__u64 rules;

	if (!c->name)
		c->name = name;
	if (!(sandbox->dns & AW_DNS_NAMES))
		return true;
	rules = aw_rules_of(c->id, name, sandbox->generation, sandbox->names);
	if (rules == AW_NO_MEMORY)
		return false;
	aw_take_name(c, name, aw_search(rules, rules >> 32, aw_selector(c, c->remote_port)));
	return true;
}

/*
 * Asks the rules for the names under which the remote was learned. *kept* is the name by which the
 * flow was opened: it counts as long as the flow lives, and alone where the flow said it. Returns
 * false if a name had to be passed over for lack of memory.
 */
static __attribute__((noinline, unused)) bool aw_judge_names(const struct aw_sandbox *sandbox,
							     __u64 kept, struct aw_case *c)
{
	struct aw_bound *bound;
	__u64 said;

	c->name = 0;
	if (kept && !aw_judge_name(sandbox, c, kept))
		return false;
	if (kept && c->said)
		return true;
	said = aw_names_say(c->id, c->remote.halves[0], c->remote.halves[1],
			    (__u64)sandbox->generation << 32 | aw_selector(c, c->remote_port),
			    sandbox->names << 8 | sandbox->dns);
	if (said == AW_NO_MEMORY)
		return false;
	bound = said ? aw_find_bound(c) : 0;
	if (!bound)
		return true;
	kept = bound->names[AW_NAMED_PLACE(said)].name;
	if (!c->name)
		c->name = kept;
	if (said & AW_NAMED_SAYING)
		aw_take_name(c, kept, said >> 32 << 32 | (said & AW_NAMED_SAYING));
	return true;
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

/* Judges a flow that the sandbox opens to c->remote, c->remote_port; *kept*: see aw_judge_names(). */
static __always_inline void aw_judge_out(void *ctx, const struct aw_sandbox *sandbox, __u64 kept,
					 struct aw_case *c)
{
	c->direction = AW_DIRECTION_OUT;
	c->name = 0;
	aw_apply_rules(sandbox, AW_DIRECTION_OUT, c->remote_port, c);
	if (sandbox->dns & AW_DNS_DECLARED && !aw_judge_names(sandbox, kept, c))
		aw_rule_out(c, AW_VERDICT_DENY, AW_REASON_NO_STORAGE);
	if (c->reason != AW_REASON_NO_RULE || !aw_is_loopback(&c->remote))
		return;
	if (sandbox->loopback == AW_LOOPBACK_FREE ||
	    (sandbox->loopback == AW_LOOPBACK_OWN_LISTENERS &&
	     aw_receiver_of(ctx, c) == AW_RECEIVER_OWN))
		aw_rule_out(c, AW_VERDICT_ALLOW, AW_REASON_LOOPBACK);
}

/* Judges nothing, but knows DNS servers and names: observe mode. */
static __always_inline void aw_observe_out(const struct aw_sandbox *sandbox, __u64 kept,
					   struct aw_case *c)
{
	c->direction = AW_DIRECTION_OUT;
	c->name = 0;
	if (sandbox->dns & AW_DNS_DECLARED) {
		aw_apply_rules(sandbox, AW_DIRECTION_OUT, c->remote_port, c);
		if (c->reason == AW_REASON_RESOLVER)
			return;
		aw_judge_names(sandbox, kept, c);
	}
	aw_rule_out(c, AW_VERDICT_ALLOW, AW_REASON_OBSERVED);
}

/*
 * Says whether the verdict holds for the following packets of the flow. Which socket a packet on
 * the host's loopback reaches is known only where its own port is, and anew for each datagram and
 * each SYN: by the time it is sent again another may listen there.
 */
static __always_inline bool aw_is_lasting(const struct aw_sandbox *sandbox, const struct aw_case *c)
{
	if (sandbox->loopback != AW_LOOPBACK_OWN_LISTENERS || !aw_is_loopback(&c->remote) ||
	    c->reason == AW_REASON_RULE || c->reason == AW_REASON_OBSERVED ||
	    c->reason == AW_REASON_RESOLVER)
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

/* Says whether a name of c->remote permits some port. */
static __attribute__((noinline, unused)) bool aw_names_permit(const struct aw_sandbox *sandbox,
							      struct aw_case *c)
{
	struct aw_bound *bound = aw_find_bound(c);
	__u64 now = aw_now(c);

	if (!bound)
		return false;
	for (int i = 0; i < AW_NAMES_OF_ADDRESS; i++) {
		__u64 rules;

		if (!bound->names[i].name || bound->names[i].until_ns < now)
			continue;
		rules = aw_rules_of(c->id, bound->names[i].name, sandbox->generation,
				    sandbox->names);
		if (rules != AW_NO_MEMORY && rules >> 32 & AW_SET_PERMITS)
			return true;
	}
	return false;
}

/*
 * Says whether some port of c->remote is permitted. connect() on a UDP socket sends nothing, and
 * getaddrinfo() does one to every address it found, so it succeeds there and egress judges. Not
 * for many hosts at once over IPv4: the copy for members on this host leaves without a socket, and
 * egress never sees it. There the port has to be the permitted one.
 */
static __always_inline bool aw_permits_some_port(const struct aw_sandbox *sandbox,
						 struct aw_case *c)
{
	struct aw_interval_set *set =
		aw_find_set(sandbox->generation, AW_DIRECTION_OUT, &c->remote);

	if (set && aw_is_many_v4(&c->remote)) {
		__u64 exact = aw_search(set->start, set->count, aw_selector(c, c->remote_port));

		return (exact & 0xff) == AW_VERDICT_ALLOW;
	}
	if (aw_is_loopback(&c->remote) && sandbox->loopback != AW_LOOPBACK_CLOSED)
		return true;
	if (set && set->count & AW_SET_PERMITS)
		return true;
	return sandbox->dns & AW_DNS_NAMES && !(set && set->count & AW_SET_CLOSED) &&
	       aw_names_permit(sandbox, c);
}

#endif /* AGENTWALL_DECIDE_H */
