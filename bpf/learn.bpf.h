/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers of declared DNS servers, at ingress. The global functions are verified on their own. */
#ifndef AGENTWALL_LEARN_H
#define AGENTWALL_LEARN_H

#include "ask.bpf.h"

/*
 * Learns from the answer that aw_read_answer() read, if this socket asked for it. Not one function with
 * it, because calls can only be nested so deep. Returns 0.
 */
int aw_take_answer(struct __sk_buff *skb, __u64 sandbox, __u32 index);

/*
 * Takes the next bytes of a TCP stream from a DNS server, from *at* up to the end of a message at most.
 * Returns how many; aw_works[index] then holds the message if it is whole, else its size is 0.
 */
int aw_gather(struct __sk_buff *skb, __u32 index, __u32 at);

#define AW_STEPS_OF_SEGMENT 32 /* three a message: its length comes octet by octet */

/*
 * A segment from a DNS server. What comes too early is dropped, and sent again in order: so each
 * answer is learned before its last byte can be read. Returns enum aw_action.
 */
static __always_inline int aw_hear_segment(struct __sk_buff *skb, const struct aw_case *c,
					   __u32 index)
{
	bool syn = c->tcp_flags & AW_TCP_SYN;
	__u32 begin = c->sequence + syn, end = begin + skb->len - c->start, at = c->start;
	struct aw_work *work = aw_work_at(index);
	struct bpf_sock *sk = skb->sk;
	struct aw_stream *stream;

	if (!work || !sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	stream = bpf_sk_storage_get(&aw_streams, sk, 0, 0);
	if (!stream)
		return c->payload ? AW_ACTION_DENY : AW_ACTION_ALLOW;
	if (syn) {
		stream->in_next = begin;
		stream->have = 0;
		return c->payload ? AW_ACTION_DENY : AW_ACTION_ALLOW;
	}
	if ((__s32)(end - stream->in_next) <= 0)
		return AW_ACTION_ALLOW;
	if ((__s32)(begin - stream->in_next) > 0)
		return AW_ACTION_DENY;
	at += stream->in_next - begin;
	for (int i = 0; i < AW_STEPS_OF_SEGMENT; i++) {
		if (at >= skb->len)
			break;
		at += aw_gather(skb, index, at);
		if (work->size && !aw_read_answer(index))
			aw_take_answer(skb, c->id, index);
	}
	stream->in_next = begin + at - c->start;
	return at >= skb->len ? AW_ACTION_ALLOW : AW_ACTION_DENY;
}

/* A packet from a declared DNS server to a socket that may ask it. Returns enum aw_action. */
static __attribute__((noinline, unused)) int aw_hear(struct __sk_buff *skb,
						     const struct aw_sandbox *sandbox,
						     struct aw_socket *socket, struct aw_case *c)
{
	__u32 size = c->size - c->start, index;
	int action = AW_ACTION_ALLOW;
	struct aw_work *work;

	if (!aw_is_home(socket, sandbox))
		return AW_ACTION_ALLOW; /* nothing was asked on it */
	if (skb->ifindex == AW_LOOPBACK_IFINDEX && !aw_is_loopback(&c->remote) &&
	    !(sandbox->dns & AW_DNS_LOCAL)) {
		/* Only who is on this host can have sent that. */
		aw_rule_out(c, AW_VERDICT_DENY, AW_REASON_FORGED);
		aw_name_socket(skb, c);
		action = aw_settle(c);
		aw_report(c, sandbox->generation, socket);
		return action;
	}
	index = aw_claim_work();
	if (index == AW_NO_WORK) {
		AW_COUNT(c->id, lost_names);
		return c->protocol == IPPROTO_UDP ? AW_ACTION_ALLOW : AW_ACTION_DENY;
	}
	work = aw_work_at(index);
	if (work)
		work->protocol = c->protocol;
	if (c->protocol != IPPROTO_UDP)
		action = aw_hear_segment(skb, c, index);
	else if (aw_load_message(skb, index, c->start,
				 size < AW_MESSAGE_LEN ? size : AW_MESSAGE_LEN) &&
		 !aw_read_answer(index))
		aw_take_answer(skb, c->id, index);
	aw_release_work(index);
	return action;
}

#endif /* AGENTWALL_LEARN_H */
