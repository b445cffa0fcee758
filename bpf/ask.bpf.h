/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Questions to declared DNS servers, at egress. The global functions are verified on their own. */
#ifndef AGENTWALL_ASK_H
#define AGENTWALL_ASK_H

#include "dns.bpf.h"
#include "skb.bpf.h"

#define AW_QUESTIONS_OF_SEGMENT 4 /* over TCP; the A and the AAAA question come as one */
#define AW_PREFIX		2 /* bytes that give a message's length over TCP (RFC 1035 section 4.2.2) */

#define AW_REASON_INCOMPLETE	0xff /* never reported: TCP sends it again, joined with what follows */

/* Says whether the name in aw_works[index] may be asked for by the rules, whatever the mode. */
int aw_may_ask(__u64 sandbox_id, __u32 index);

/*
 * Judges the question of *size* bytes at *start* of the packet, and notes it if it leaves. Returns 0 or
 * the enum aw_reason for which it is, or in audit mode would be, refused; aw_works[index] then holds
 * its name, if it has one.
 */
int aw_judge_question(struct __sk_buff *skb, __u64 sandbox_id, __u32 index, __u32 start,
		      __u32 size);

/* Says whether the application may still write to what the packet holds; true where nobody can tell. */
int aw_is_lent(struct __sk_buff *skb);

/* Loads *size* bytes of the packet at *start* into the message of *index*. */
static __always_inline bool aw_load_message(struct __sk_buff *skb, __u32 index, __u32 start,
					    __u32 size)
{
	struct aw_work *work = aw_work_at(index);

	if (!work || !size || size > AW_MESSAGE_LEN)
		return false;
	work->size = size--;
	/* In terms that the verifier of Linux 6.1 follows: it learns nothing from what is not 0. */
	asm volatile("" : "+r"(size));
	size &= AW_MESSAGE_LEN - 1;
	return !bpf_skb_load_bytes(skb, start, work->message, size + 1);
}

/* Judges the messages from *at* on; see aw_judge_segment(). */
static __always_inline int aw_judge_messages(struct __sk_buff *skb, __u64 sandbox, __u32 index,
					     __u32 at, bool enforce)
{
	int worst = 0;

	for (int i = 0; i < AW_QUESTIONS_OF_SEGMENT; i++) {
		__be16 size;
		int reason;

		if (at == skb->len)
			return worst;
		if (bpf_skb_load_bytes(skb, at, &size, sizeof(size)) ||
		    at + AW_PREFIX + bpf_ntohs(size) > skb->len)
			return AW_REASON_INCOMPLETE;
		reason = aw_judge_question(skb, sandbox, index, at + AW_PREFIX, bpf_ntohs(size));
		if (reason && enforce)
			return reason;
		if (reason)
			worst = reason;
		at += AW_PREFIX + bpf_ntohs(size);
	}
	return at == skb->len ? worst : AW_REASON_NOT_A_QUESTION;
}

/*
 * Judges a segment to a DNS server. It must hold whole messages: TCP keeps what is refused as
 * AW_REASON_INCOMPLETE, and joins it with what the application writes next.
 */
static __always_inline int aw_judge_segment(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					    const struct aw_case *c, __u32 index)
{
	bool syn = c->tcp_flags & AW_TCP_SYN;
	__u32 begin = c->sequence + syn, end = begin + skb->len - c->start;
	struct bpf_sock *sk = skb->sk;
	struct aw_stream *stream;
	bool enforce;
	int reason;

	if (!sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_REASON_NO_STORAGE;
	stream = bpf_sk_storage_get(&aw_streams, sk, 0, syn ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	/* Without a SYN that was seen, nobody knows where a message begins. */
	if (!stream && (syn || begin != end))
		return syn ? AW_REASON_NO_STORAGE : AW_REASON_NOT_A_QUESTION;
	if (!stream)
		return 0;
	if (syn)
		stream->out_next = begin;
	enforce = c->mode == AW_MODE_ENFORCE;
	/* Who reads the stream misses an urgent octet, and with it where messages begin. */
	if (c->tcp_flags & AW_TCP_URG && enforce)
		return AW_REASON_NOT_A_QUESTION;
	if ((__s32)(end - stream->out_next) <= 0)
		return 0; /* judged before, or empty */
	if ((__s32)(begin - stream->out_next) > 0)
		return AW_REASON_INCOMPLETE;
	if (enforce && !syn && aw_is_lent(skb))
		return AW_REASON_NOT_A_QUESTION;
	reason = aw_judge_messages(skb, c->id, index, c->start + stream->out_next - begin, enforce);
	if ((reason == AW_REASON_INCOMPLETE && !enforce) || c->tcp_flags & AW_TCP_URG)
		reason = AW_REASON_NOT_A_QUESTION;
	if (!reason || !enforce)
		stream->out_next = end;
	return reason;
}

/*
 * Has the belt answer a refused question, where one is on the way: the packet passes, marked, and is
 * turned round before it leaves. Returns enum aw_action.
 */
static __always_inline int aw_hand_to_belt(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					   const struct aw_case *c)
{
	struct aw_belt_key key = { .netns = sandbox->netns, .ifindex = skb->ifindex };
	__u32 *belt;

	if (!(sandbox->dns & AW_DNS_BELT) || c->protocol != IPPROTO_UDP)
		return AW_ACTION_DENY;
	belt = bpf_map_lookup_elem(&aw_belts, &key);
	if (!belt || (c->remote_port != AW_DNS_PORT && !(*belt & AW_BELT_TRANSLATED)))
		return AW_ACTION_DENY;
	skb->mark = aw_belt_mark;
	return AW_ACTION_ALLOW;
}

/*
 * Only what lies in the packet itself stays as it was read: a sender can rewrite pages it lent. And of
 * what is cut up later, each part is a message of its own.
 */
static __always_inline bool aw_is_own(const struct __sk_buff *skb)
{
	return (long)skb->data_end - (long)skb->data == skb->len && !skb->gso_size;
}

/* Refuses what goes to a DNS server, and says which name it was about. */
static __always_inline int aw_refuse_question(struct __sk_buff *skb,
					      const struct aw_sandbox *sandbox,
					      struct aw_socket *socket, struct aw_case *c,
					      __u32 index, __u8 reason)
{
	struct aw_work *work = aw_work_at(index);
	int action;

	aw_rule_out(c, AW_VERDICT_DENY, reason);
	aw_name_socket(skb, c);
	action = aw_settle(c);
	if (work && work->length)
		aw_report_name(c, sandbox->generation, socket, work);
	else
		aw_report(c, sandbox->generation, socket);
	if (action == AW_ACTION_ALLOW)
		return action;
	__sync_fetch_and_add(&socket->bytes_out, -(__u64)c->size);
	return reason == AW_REASON_QUESTION ? aw_hand_to_belt(skb, sandbox, c) : action;
}

/* Judges what goes to a declared DNS server. Returns enum aw_action. */
static __always_inline int aw_ask(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
				  struct aw_socket *socket, struct aw_case *c, __u32 index)
{
	bool enforce = c->mode == AW_MODE_ENFORCE;
	int reason;

	if (!aw_is_home(socket, sandbox))
		reason = AW_REASON_NETNS;
	else if (c->protocol == IPPROTO_UDP && enforce && !aw_is_own(skb))
		reason = AW_REASON_NOT_A_QUESTION;
	else if (c->protocol == IPPROTO_UDP)
		reason = aw_judge_question(skb, c->id, index, c->start, c->size - c->start);
	else
		reason = aw_judge_segment(skb, sandbox, c, index);
	if (reason == AW_REASON_INCOMPLETE)
		return AW_ACTION_DENY;
	if (!reason || c->mode == AW_MODE_OBSERVE)
		return AW_ACTION_ALLOW;
	return aw_refuse_question(skb, sandbox, socket, c, index, reason);
}

/* Says whether a declared DNS server is at *address*. */
static __always_inline bool aw_is_server(const struct aw_sandbox *sandbox, const struct aw_case *c,
					 const union aw_address *address)
{
	struct aw_interval_set *set = aw_find_set(sandbox->generation, AW_DIRECTION_OUT, address);

	return set &&
	       aw_search(set->start, set->count, aw_selector(c, AW_DNS_PORT)) & AW_TERM_RESOLVER;
}

/*
 * A DNS server there may be reached at another port than it is asked at: see aw_judge_moved_server().
 * So nothing may leave from its address, whatever the port. Not 127.0.0.1, which is everyone's.
 */
static __always_inline bool aw_is_movable(const union aw_address *address)
{
	return aw_is_v4(address) && address->bytes[12] == 127 &&
	       address->words[3] != bpf_htonl(0x7f000001);
}

/* Says whether a packet leaves in the name of a declared DNS server. */
static __always_inline bool aw_is_forged(const struct aw_sandbox *sandbox, const struct aw_case *c)
{
	union aw_address local = c->local;

	if (!(sandbox->dns & AW_DNS_DECLARED) ||
	    (c->local_port != AW_DNS_PORT && !aw_is_movable(&local)))
		return false;
	aw_canonical(&local);
	return aw_is_server(sandbox, c, &local);
}

#endif /* AGENTWALL_ASK_H */
