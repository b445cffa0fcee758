/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space gets of a flow that is read: the octets of a match, and octets for the decoders. */
#ifndef AGENTWALL_EVIDENCE_H
#define AGENTWALL_EVIDENCE_H

#include "scan.bpf.h"

/* Sends an event with the last octets up to the end of the match: where the reading stands. */
static __always_inline void aw_report_match(struct __sk_buff *skb, struct aw_case *c,
					    const struct aw_sandbox *sandbox,
					    struct aw_socket *socket, const struct aw_work *work,
					    __u32 table)
{
	const struct aw_reading *r = &work->reading;
	struct aw_match_event *event;
	__u32 end = r->offset, have = 0, count;
	struct bpf_sock *sk = skb->sk;
	struct aw_tail *tail = 0;

	if (!aw_may_report(c->id, aw_now(c), true))
		return;
	event = bpf_ringbuf_reserve(&aw_denials, sizeof(*event), 0);
	if (!event) {
		AW_COUNT(c->id, lost_denials);
		return;
	}
	aw_fill_event(&event->event, c, sandbox->generation, socket);
	event->table = table;
	count = end - r->first;
	/* Of several datagrams in one packet: the last. */
	if (!r->is_stream && count && r->unit)
		count = (count - 1) % r->unit + 1;
	event->position = r->before + count;
	event->left = r->before;
	event->accept = work->cursor.accept;
	event->side = c->direction == AW_DIRECTION_OUT ? r->way : !r->way;
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	__builtin_memset(event->text, 0, sizeof(event->text));
	if (r->is_stream && sk && (sk = bpf_sk_fullsock(sk)))
		tail = bpf_sk_storage_get(&aw_tails, sk, 0, 0);
	if (tail) {
		have = tail->have[r->way & 1];
		__builtin_memcpy(event->text, tail->text[r->way & 1], AW_TAIL_BYTES);
		have = r->before ? have & (AW_TAIL_BYTES - 1) : 0;
	}
	if (count > AW_TAIL_BYTES)
		count = AW_TAIL_BYTES;
	event->length = have + count;
	if (count) {
		asm volatile("" : "+r"(count));
		count = ((count - 1) & (AW_TAIL_BYTES - 1)) + 1;
		if (bpf_skb_load_bytes(skb, end - count, &event->text[have], count))
			event->length = have;
	}
	bpf_ringbuf_submit(event, 0);
}

/* Keeps the last octets of a packet that passes in a live state. */
static __always_inline void aw_keep_tail(struct __sk_buff *skb, const struct aw_reading *r)
{
	__u32 count = r->offset - r->first, have, way = r->way & 1;
	struct bpf_sock *sk = skb->sk;
	struct aw_tail *tail;

	if (!r->is_stream || !count || !sk || !(sk = bpf_sk_fullsock(sk)))
		return;
	tail = bpf_sk_storage_get(&aw_tails, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!tail)
		return; /* only evidence */
	if (count > AW_TAIL_BYTES - 1)
		count = AW_TAIL_BYTES - 1;
	have = tail->have[way];
	if (!r->before || have + count >= AW_TAIL_BYTES)
		have = 0;
	have &= AW_TAIL_BYTES - 1;
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_TAIL_BYTES - 1)) + 1;
	if (!bpf_skb_load_bytes(skb, r->offset - count, &tail->text[way][have], count))
		tail->have[way] = have + count;
}

/* Gives user space the packet's new octets. */
static __always_inline void aw_hand_over(struct __sk_buff *skb, struct aw_case *c,
					 const struct aw_sandbox *sandbox, struct aw_socket *socket,
					 const struct aw_reading *r)
{
	__u32 count = r->offset + r->left - r->first, way = r->way & 1;
	struct aw_excerpt_event *event;

	if (!count || socket->scan.handed[way] >= AW_HANDED_BYTES)
		return;
	if (count > AW_EXCERPT_BYTES)
		count = AW_EXCERPT_BYTES;
	event = bpf_ringbuf_reserve(&aw_excerpts, sizeof(*event), 0);
	if (!event) {
		AW_COUNT(c->id, lost_excerpts);
		return;
	}
	c->verdict = AW_VERDICT_ALLOW;
	aw_name_socket(skb, c);
	aw_fill_event(&event->event, c, sandbox->generation, socket);
	event->position = r->before;
	event->side = c->direction == AW_DIRECTION_OUT ? way : !way;
	event->_pad = 0;
	__builtin_memset(event->text, 0, AW_EXCERPT_BYTES / 2);
	asm volatile("" ::: "memory"); /* as one it is more than clang unrolls */
	__builtin_memset(event->text + AW_EXCERPT_BYTES / 2, 0, AW_EXCERPT_BYTES / 2);
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_EXCERPT_BYTES - 1)) + 1;
	event->length = bpf_skb_load_bytes(skb, r->first, event->text, count) ? 0 : count;
	bpf_ringbuf_submit(event, 0);
	socket->scan.handed[way] += count;
}

/* Refuses the packet, and with it the flow, unless the mode is not to. Returns enum aw_action. */
static __always_inline int aw_end_flow(struct aw_socket *socket, struct aw_case *c)
{
	int action;

	c->verdict = c->mode == AW_MODE_OBSERVE ? AW_VERDICT_ALLOW : AW_VERDICT_DENY;
	action = aw_settle(c);
	if (action == AW_ACTION_DENY)
		socket->scan.dead = 1;
	return action;
}

#endif /* AGENTWALL_EVIDENCE_H */
