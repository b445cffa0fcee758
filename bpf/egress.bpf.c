// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The enforcer: the true destination of every packet of a socket made in the sandbox, whichever
 * system call, thread or timer sends it.
 */
#include "say.bpf.h"
#include "scan.bpf.h"
#include "join.bpf.h"

#define AW_ICMP_ECHO   8
#define AW_ICMPV6_ECHO 128

/* A bare RST carries nothing and frees the peer of a flow that was cut. */
static __always_inline bool aw_is_parting_rst(const struct aw_socket *socket,
					      const struct aw_case *c)
{
	return c->protocol == IPPROTO_TCP && c->tcp_flags & AW_TCP_RST && !c->payload &&
	       socket->flags & AW_SOCKET_PERMITTED;
}

/* The socket's own request went to another remote than this packet does. */
static __always_inline bool aw_is_translated(const struct aw_socket *socket,
					     const struct aw_case *c)
{
	return c->direction == AW_DIRECTION_OUT && socket->claimed_port &&
	       (socket->claimed_port != c->remote_port ||
		!aw_same_address(socket->claimed, &c->remote));
}

/*
 * An answer from a UDP socket to a peer that called, and still may: c->direction is IN where it is
 * one, else *c* is refused as it was.
 */
static __attribute__((noinline)) bool aw_judge_answer(struct __sk_buff *skb,
						      const struct aw_sandbox *sandbox,
						      struct aw_socket *socket, struct aw_case *c)
{
	__u32 rule = c->rule;
	__u8 reason = c->reason;

	if (c->protocol != IPPROTO_UDP || !aw_has_called(skb, c))
		return false;
	if (sandbox->dns & AW_DNS_DECLARED && c->remote_port == AW_DNS_PORT &&
	    aw_is_server(sandbox, c, &c->remote))
		return false; /* it called under another policy */
	c->direction = AW_DIRECTION_IN;
	if (!aw_recall(socket, sandbox, c))
		aw_judge_in(sandbox, c);
	if (c->verdict == AW_VERDICT_ALLOW)
		return true;
	c->direction = AW_DIRECTION_OUT;
	c->verdict = AW_VERDICT_DENY;
	c->reason = reason;
	c->rule = rule;
	return false;
}

/*
 * A DNS server on loopback whose port was rewritten after the request, as Docker does for
 * 127.0.0.11: it stays a DNS server.
 */
static __attribute__((noinline)) int aw_judge_moved_server(const struct aw_sandbox *sandbox,
							   const struct aw_socket *socket,
							   struct aw_case *c)
{
	struct aw_interval_set *set;
	__u64 saying;

	if (socket->claimed_port != AW_DNS_PORT || c->remote_port == AW_DNS_PORT ||
	    !aw_is_movable(&c->remote) || !aw_same_address(socket->claimed, &c->remote))
		return 0;
	if (c->verdict == AW_VERDICT_DENY && c->reason == AW_REASON_RULE)
		return 0;
	set = aw_find_set(sandbox->generation, AW_DIRECTION_OUT, &c->remote);
	saying = set ? aw_search(set->start, set->count, aw_selector(c, AW_DNS_PORT)) : 0;
	if (saying & AW_TERM_RESOLVER)
		aw_take(c, saying);
	return 0;
}

/* The rules decide, for the flow's direction. */
static __always_inline void aw_judge(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
				     const struct aw_socket *socket, struct aw_case *c)
{
	if (c->direction == AW_DIRECTION_IN) {
		if (c->mode == AW_MODE_OBSERVE)
			aw_rule_out(c, AW_VERDICT_ALLOW, AW_REASON_OBSERVED);
		else
			aw_judge_in(sandbox, c);
		return;
	}
	if (c->mode == AW_MODE_OBSERVE)
		aw_observe_out(sandbox, aw_kept_name(socket, c), c);
	else
		aw_judge_out(skb, sandbox, aw_kept_name(socket, c), c);
	if (sandbox->dns & AW_DNS_DECLARED && aw_is_loopback(&c->remote))
		aw_judge_moved_server(sandbox, socket, c);
}

static __always_inline int aw_judge_packet(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					   struct aw_socket *socket, struct aw_case *c)
{
	if (c->listening) {
		/* A SYN-ACK; ingress has reported the SYN. */
		c->direction = AW_DIRECTION_IN;
		aw_judge(skb, sandbox, socket, c);
		return aw_settle(c);
	}
	if (c->protocol == IPPROTO_UDP && socket->direction == AW_DIRECTION_IN &&
	    aw_judge_answer(skb, sandbox, socket, c))
		return AW_ACTION_ALLOW;
	c->direction = c->protocol == IPPROTO_TCP ? socket->direction : AW_DIRECTION_OUT;
	if (aw_recall(socket, sandbox, c)) {
		aw_flush_when_due(socket, c);
		if (c->verdict == AW_VERDICT_ALLOW)
			return AW_ACTION_ALLOW;
		if (aw_is_parting_rst(socket, c) || aw_judge_answer(skb, sandbox, socket, c))
			return AW_ACTION_ALLOW;
		return aw_settle(c); /* reported when it was remembered */
	}
	aw_judge(skb, sandbox, socket, c);
	aw_blur_case(c, skb->len);
	if (c->verdict == AW_VERDICT_ALLOW)
		return aw_conclude(skb, sandbox, socket, c);
	if (aw_is_parting_rst(socket, c) || aw_judge_answer(skb, sandbox, socket, c))
		return AW_ACTION_ALLOW;
	if (aw_is_translated(socket, c))
		c->reason = AW_REASON_TRANSLATED;
	aw_note_contact(skb, c);
	return aw_conclude(skb, sandbox, socket, c);
}

/* Says whether the content of the packet is judged as well. */
static __always_inline bool aw_has_content(const struct aw_socket *socket, const struct aw_case *c)
{
	const __u8 judged = AW_CASE_BY_NAME | AW_TERM_RESOLVER >> AW_TERM_SHIFT |
			    AW_TERM_PROXY >> AW_TERM_SHIFT;

	if (c->verdict != AW_VERDICT_ALLOW || !(c->terms & judged) ||
	    c->direction != AW_DIRECTION_OUT)
		return false;
	return c->protocol == IPPROTO_UDP ||
	       (c->protocol == IPPROTO_TCP && (!(socket->flags & AW_SOCKET_ALL_SAID) ||
					       c->terms & AW_TERM_RESOLVER >> AW_TERM_SHIFT));
}

#define AW_CONTENT_SHIFT 1 /* the terms on which it passes, where its content is judged as well */

/*
 * Judges where a packet goes. Returns enum aw_action, and above it the terms, see AW_CONTENT_SHIFT,
 * AW_SCAN_DUE and AW_JOIN_DUE.
 */
AW_GLOBAL int aw_judge_destination(struct __sk_buff *skb)
{
	struct aw_case c = { .hook = AW_HOOK_EGRESS, .id = aw_self() };
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
	refused = aw_parse(skb, true, &c);
	AW_BLUR(refused, skb->len);
	aw_blur_case(&c, skb->len);
	aw_adopt(socket, &c);
	if (refused)
		return aw_refuse(skb, sandbox, socket, &c, refused);
	/* Made before the wall stood, or sock_create had refused it: it can write any header. */
	if (c.socket_type == SOCK_RAW)
		return aw_refuse(skb, sandbox, socket, &c, AW_REASON_SOCKET_TYPE);
	if ((c.protocol == IPPROTO_ICMP && c.icmp_type != AW_ICMP_ECHO) ||
	    (c.protocol == IPPROTO_ICMPV6 && c.icmp_type != AW_ICMPV6_ECHO))
		return aw_refuse(skb, sandbox, socket, &c, AW_REASON_SOCKET_TYPE);
	aw_note_socket(socket, sk->state, &c);
	if (aw_is_forged(sandbox, &c) && c.mode != AW_MODE_OBSERVE)
		return aw_refuse(skb, sandbox, socket, &c, AW_REASON_FORGED);
	action = aw_judge_packet(skb, sandbox, socket, &c);
	AW_BLUR(action, skb->len);
	if (action == AW_ACTION_ALLOW && aw_has_content(socket, &c))
		action |= c.terms << AW_CONTENT_SHIFT;
	if (action & AW_ACTION_ALLOW &&
	    aw_is_scan_due(skb, sandbox, socket, &c, c.reason, AW_WAY_OUT))
		action |= AW_SCAN_DUE;
	if (action & AW_ACTION_ALLOW && aw_is_join_due(sandbox, socket, &c))
		action |= AW_JOIN_DUE;
	return action;
}

/* Its own frame is small: what is judged of the content needs nearly all of the stack. */
SEC("cgroup_skb/egress")
int aw_egress(struct __sk_buff *skb)
{
	int passes = aw_judge_destination(skb);
	__u32 due = passes & (AW_SCAN_DUE | AW_JOIN_DUE);

	passes &= ~(AW_SCAN_DUE | AW_JOIN_DUE);
	if (passes >> AW_CONTENT_SHIFT)
		passes = aw_speak(skb, aw_self(), passes >> AW_CONTENT_SHIFT);
	if (passes & AW_ACTION_ALLOW && due & AW_JOIN_DUE)
		passes = aw_join(skb, aw_self());
	if (passes & AW_ACTION_ALLOW && due & AW_SCAN_DUE)
		passes = aw_scan(skb, aw_self(), AW_WAY_OUT);
	return passes & AW_ACTION_ALLOW;
}
