/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What egress and ingress share: opening a case, accepted sockets, closing a case. */
#ifndef AGENTWALL_SKB_H
#define AGENTWALL_SKB_H

#include "decide.bpf.h"
#include "packet.bpf.h"
#include "peer.bpf.h"
#include "socket.bpf.h"

/*
 * Notes a listener, and turns the socket that accept() will return, a clone of the
 * listener's entry, into a flow of its own: that is how the direction comes from the socket.
 */
static __always_inline void aw_note_socket(struct aw_socket *socket, __u32 state, struct aw_case *c)
{
	if (c->protocol != IPPROTO_TCP)
		return;
	if (state == AW_TCP_LISTEN) {
		c->listening = 1;
		socket->flags |= AW_SOCKET_LISTENER;
	} else if (socket->flags & AW_SOCKET_LISTENER) {
		aw_reset(socket, c, AW_DIRECTION_IN);
	}
}

/* Reports and settles what is refused for its shape, before any rule is asked. */
static __always_inline int aw_refuse(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
				     struct aw_socket *socket, struct aw_case *c, __u8 reason)
{
	int action;

	if (c->mode == AW_MODE_OBSERVE)
		return AW_ACTION_ALLOW;
	aw_rule_out(c, AW_VERDICT_DENY, reason);
	aw_name_socket(skb, c);
	action = aw_settle(c);
	if (action == AW_ACTION_ALLOW)
		aw_account(socket, sandbox->generation, c);
	else
		aw_report(c, sandbox->generation, socket);
	return action;
}

/* What cannot be told from other flows is refused in every mode. */
static __attribute__((noinline, unused)) int aw_refuse_unstored(struct __sk_buff *skb, __u64 id,
								__u8 hook)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(id);
	struct aw_case c = { .hook = hook, .id = id };
	struct bpf_sock *sk = skb->sk;

	if (!sandbox || !sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	c.socket_type = sk->type;
	if (hook == AW_HOOK_EGRESS) {
		aw_parse(skb, true, &c);
	} else {
		aw_parse(skb, false, &c);
		c.direction = AW_DIRECTION_IN;
	}
	aw_rule_out(&c, AW_VERDICT_DENY, AW_REASON_NO_STORAGE);
	aw_name_socket(skb, &c);
	AW_COUNT(id, denied);
	aw_report(&c, sandbox->generation, 0);
	return AW_ACTION_DENY;
}

/* Keeps, reports and settles a verdict that was just made. */
static __attribute__((noinline, unused)) int aw_conclude(struct __sk_buff *skb,
							 const struct aw_sandbox *sandbox,
							 struct aw_socket *socket,
							 struct aw_case *c)
{
	bool keep = aw_is_lasting(sandbox, c);
	int action;

	aw_name_socket(skb, c);
	if (keep)
		aw_remember(socket, sandbox, c);
	action = aw_settle(c);
	if (keep && action == AW_ACTION_ALLOW)
		aw_account(socket, sandbox->generation, c);
	else if (c->verdict != AW_VERDICT_ALLOW)
		aw_report(c, sandbox->generation, socket);
	return action;
}

#endif /* AGENTWALL_SKB_H */
