// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Who may reach a socket of the sandbox, and the state that lets answers out. Never an egress
 * control: data in a Fast Open SYN has left by then.
 */
#include "learn.bpf.h"
#include "scan.bpf.h"

/* Segments of a flow: the SYN was judged at its listener, the flow itself at egress. */
static __always_inline int aw_take_segment(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					   struct aw_socket *socket, struct aw_case *c)
{
	c->direction = socket->direction;
	if (c->direction == AW_DIRECTION_OUT || aw_recall(socket, sandbox, c)) {
		if (c->direction == AW_DIRECTION_OUT)
			__sync_fetch_and_add(&socket->bytes_in, c->size);
		else if (c->verdict != AW_VERDICT_ALLOW)
			return aw_settle(c);
		aw_flush_when_due(socket, c);
		if (c->direction == AW_DIRECTION_OUT && socket->reason == AW_REASON_RESOLVER)
			return aw_hear(skb, sandbox, socket, c);
		return AW_ACTION_ALLOW;
	}
	if (c->mode == AW_MODE_OBSERVE)
		aw_rule_out(c, AW_VERDICT_ALLOW, AW_REASON_OBSERVED);
	else
		aw_judge_in(sandbox, c);
	return aw_conclude(skb, sandbox, socket, c);
}

static __always_inline int aw_take_syn(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
				       struct aw_socket *socket, struct aw_case *c)
{
	int action;

	if (c->mode == AW_MODE_OBSERVE)
		return AW_ACTION_ALLOW;
	aw_judge_in(sandbox, c);
	if (c->verdict == AW_VERDICT_ALLOW)
		return AW_ACTION_ALLOW; /* reported once there is a flow */
	action = aw_settle(c);
	aw_name_socket(skb, c);
	if (action == AW_ACTION_DENY)
		aw_report(c, sandbox->generation, socket);
	return action;
}

/* What neither an inbound rule lets in nor an outward one would have asked for. */
static __always_inline int aw_turn_away(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					struct aw_socket *socket, struct aw_case *c)
{
	if (c->mode == AW_MODE_AUDIT && aw_knows_peer(skb, c, AW_PEER_CONTACTED))
		return AW_ACTION_ALLOW;
	c->direction = AW_DIRECTION_IN;
	aw_rule_out(c, AW_VERDICT_DENY, AW_REASON_NO_RULE);
	return aw_conclude(skb, sandbox, socket, c);
}

/* A datagram: the answer to one of ours, or a peer that an inbound rule lets in. */
static __always_inline int aw_take_datagram(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					    struct aw_socket *socket, struct aw_case *c)
{
	c->direction = AW_DIRECTION_OUT;
	if (aw_recall(socket, sandbox, c) &&
	    (c->verdict == AW_VERDICT_ALLOW || c->mode != AW_MODE_ENFORCE))
		return c->reason == AW_REASON_RESOLVER ? aw_hear(skb, sandbox, socket, c) :
							 AW_ACTION_ALLOW;
	/* Never a caller, though a rule lets in anyone: it could be sent what is no question. */
	if (sandbox->dns & AW_DNS_DECLARED && c->remote_port == AW_DNS_PORT &&
	    aw_is_server(sandbox, c, &c->remote))
		return aw_hear(skb, sandbox, socket, c);
	c->direction = AW_DIRECTION_IN;
	if (aw_recall(socket, sandbox, c)) {
		if (c->verdict != AW_VERDICT_ALLOW)
			return aw_settle(c);
		aw_note_caller(skb, c);
		aw_flush_when_due(socket, c);
		return AW_ACTION_ALLOW;
	}
	if (c->mode == AW_MODE_OBSERVE) {
		aw_observe_out(sandbox, 0, c);
	} else {
		aw_judge_in(sandbox, c);
		if (c->verdict == AW_VERDICT_ALLOW) {
			aw_note_caller(skb, c);
			return aw_conclude(skb, sandbox, socket, c);
		}
		aw_judge_out(skb, sandbox, aw_kept_name(socket, c), c);
	}
	if (c->reason == AW_REASON_RESOLVER)
		return aw_hear(skb, sandbox, socket, c);
	if (c->verdict == AW_VERDICT_ALLOW)
		return AW_ACTION_ALLOW;
	return aw_turn_away(skb, sandbox, socket, c);
}

/* Echo replies, and protocols that a rule names: welcome from where the rule lets requests go. */
static __always_inline int aw_take_other(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					 struct aw_socket *socket, struct aw_case *c)
{
	if (c->mode == AW_MODE_OBSERVE)
		return AW_ACTION_ALLOW;
	aw_judge_out(skb, sandbox, 0, c);
	if (c->verdict == AW_VERDICT_ALLOW)
		return AW_ACTION_ALLOW;
	return aw_turn_away(skb, sandbox, socket, c);
}

static __always_inline int aw_take_packet(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					  struct aw_socket *socket, struct aw_case *c)
{
	if (c->listening)
		return aw_take_syn(skb, sandbox, socket, c);
	if (c->protocol == IPPROTO_TCP)
		return aw_take_segment(skb, sandbox, socket, c);
	if (c->protocol == IPPROTO_UDP)
		return aw_take_datagram(skb, sandbox, socket, c);
	return aw_take_other(skb, sandbox, socket, c);
}

/* Judges where a packet comes from. Returns enum aw_action, and AW_SCAN_DUE. */
AW_GLOBAL int aw_judge_arrival(struct __sk_buff *skb)
{
	struct aw_case c = { .hook = AW_HOOK_INGRESS, .id = aw_self() };
	struct bpf_sock *sk = skb->sk;
	struct aw_sandbox *sandbox;
	struct aw_socket *socket;
	int refused, action;

	if (!sk || !(sk = bpf_sk_fullsock(sk))) {
		AW_COUNT(c.id, denied);
		return AW_ACTION_DENY;
	}
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (socket && aw_is_anothers(socket, c.id))
		return AW_ACTION_ALLOW;
	sandbox = aw_sandbox_of(c.id);
	if (!sandbox) {
		AW_COUNT(c.id, denied);
		return AW_ACTION_DENY;
	}
	if (!socket)
		return aw_refuse_unstored(skb, c.id, c.hook);
	c.mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
	c.socket_type = sk->type;
	refused = aw_parse(skb, false, &c);
	AW_BLUR(refused, skb->len);
	aw_blur_case(&c, skb->len);
	c.direction = AW_DIRECTION_IN;
	aw_adopt(socket, &c);
	if (refused)
		return aw_refuse(skb, sandbox, socket, &c, refused);
	aw_note_socket(socket, sk->state, &c);
	action = aw_take_packet(skb, sandbox, socket, &c);
	AW_BLUR(action, skb->len);
	if (action == AW_ACTION_ALLOW &&
	    aw_is_scan_due(skb, sandbox, socket, &c,
			   c.protocol == IPPROTO_TCP ? socket->reason : c.reason, AW_WAY_IN))
		action |= AW_SCAN_DUE;
	return action;
}

SEC("cgroup_skb/ingress")
int aw_ingress(struct __sk_buff *skb)
{
	int passes = aw_judge_arrival(skb);

	if (passes & AW_SCAN_DUE)
		passes = aw_scan(skb, aw_self(), AW_WAY_IN);
	return passes & AW_ACTION_ALLOW;
}
