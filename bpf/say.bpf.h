/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a flow that is permitted by name, or to a proxy, says of itself, at egress: judged by the rules
 * before the segment that completes it leaves.
 */
#ifndef AGENTWALL_SAY_H
#define AGENTWALL_SAY_H

#include "ask.bpf.h"
#include "hello.bpf.h"

#define AW_SAYINGS_OF_SEGMENT 4 /* pipelined requests in one segment; more are refused */
#define AW_HTTP_PORT	      80 /* of an http: URL that gives none */
#define AW_TCP_OPTION_END     0
#define AW_TCP_OPTION_NOP     1
#define AW_TCP_OPTION_MPTCP   30
#define AW_TCP_OPTIONS	      20 /* of one SYN, at most: 40 bytes, two each */
#define AW_MP_JOIN	      1 /* RFC 8684 section 3.2 */
#define AW_REASON_SILENT      0xff /* refused before, or out of order */

#define AW_HAS_TERM(c, term)  ((c)->terms & (term) >> AW_TERM_SHIFT)

/* Judges the name in aw_works[index] at *port*. Returns 0 or the reason to refuse it. */
static __always_inline int aw_judge_said(const struct aw_sandbox *sandbox, __u32 index, __u16 port)
{
	__u64 saying = aw_saying_of(index, sandbox->names, (__u32)IPPROTO_TCP << 16 | port);

	return (saying & 0xff) == AW_VERDICT_ALLOW ? 0 : AW_REASON_SERVER_NAME;
}

/* At a proxy: the targets it is asked for count, and nothing else may be said. */
static __always_inline int aw_judge_target(const struct aw_sandbox *sandbox,
					   const struct aw_hello *hello, __u32 index, int said)
{
	if (said != AW_SAID_NAME)
		return AW_REASON_PROXY_TARGET;
	/* Behind CONNECT aw_inspect() has found the name to be the target's. */
	if (hello->tunnel && hello->kind != AW_KIND_CONNECT)
		return 0;
	if (hello->kind != AW_KIND_CONNECT && hello->kind != AW_KIND_ABSOLUTE)
		return AW_REASON_PROXY_TARGET;
	return aw_judge_said(sandbox, index, hello->port ? hello->port : AW_HTTP_PORT) ?
		       AW_REASON_PROXY_TARGET :
		       0;
}

/* Elsewhere. Returns 0 or the reason for which what was said is refused. */
static __always_inline int aw_judge_saying(const struct aw_sandbox *sandbox,
					   const struct aw_case *c, const struct aw_hello *hello,
					   __u32 index, int said)
{
	struct aw_work *work = aw_work_at(index);

	if (!work)
		return AW_REASON_NO_STORAGE;
	if (said == AW_SAID_ECH && !AW_HAS_TERM(c, AW_TERM_ECH_OUTER))
		return AW_REASON_ECH;
	if (said == AW_SAID_OTHER)
		return 0;
	if (said == AW_SAID_NO_NAME || (said == AW_SAID_ECH && !work->length))
		return AW_HAS_TERM(c, AW_TERM_SNI_OPTIONAL) ? 0 : AW_REASON_NO_SERVER_NAME;
	if (said != AW_SAID_NAME && said != AW_SAID_ECH)
		return AW_REASON_SERVER_NAME;
	if (hello->kind == AW_KIND_CONNECT)
		return AW_REASON_PROXY_TARGET;
	if (hello->kind == AW_KIND_ABSOLUTE && hello->port && hello->port != c->remote_port)
		return AW_REASON_SERVER_NAME;
	return aw_judge_said(sandbox, index, c->remote_port);
}

/*
 * Says whether a SYN, its payload at *start*, joins another connection of MPTCP: what is said could then
 * be spread over both, and no segment would hold it.
 */
int aw_joins(struct __sk_buff *skb, __u32 start, __u32 options);

/* Keeps the name that was said: by it the flow is judged anew when the policy changes. */
static __always_inline void aw_keep_said(struct aw_socket *socket, const struct aw_case *c,
					 __u32 index, int said)
{
	struct aw_work *work = aw_work_at(index);

	if (!work || said == AW_SAID_OTHER || said == AW_SAID_NO_NAME ||
	    !(c->terms & AW_CASE_BY_NAME) || !aw_know(c->id, index))
		return;
	socket->name = work->hash;
	socket->flags |= AW_SOCKET_SAID;
}

/*
 * Says whether the application may still write to what of the segment is to be read: what is read would
 * not be what leaves. A body that is passed over may be lent, as by sendfile().
 */
static __always_inline bool aw_may_change(struct __sk_buff *skb, const struct aw_hello *hello,
					  const struct aw_segment *segment)
{
	__u32 seen = hello->begun ? hello->expected - segment->sequence : 0;

	/* What a SYN carries was copied. */
	if (segment->flags & AW_TCP_SYN || hello->phase == AW_PHASE_DONE || seen >= segment->length)
		return false;
	if (hello->phase < AW_PHASE_TYPE && hello->skip >= segment->length - seen)
		return false;
	return aw_is_lent(skb);
}

/*
 * Says whether a flow whose SYN was not seen can be read from this segment on: nothing older is on its
 * way any more, which could be sent again, unread, behind what was read.
 */
static __always_inline bool aw_can_begin(struct bpf_sock *sk, const struct aw_segment *segment)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	return tcp && tcp->snd_una == segment->sequence;
}

/* Listens to a segment. Returns 0 or the reason for which it, and so the flow, is refused. */
static __always_inline int aw_listen_to(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					struct aw_socket *socket, struct aw_case *c, __u32 index)
{
	struct aw_segment segment = {
		.offset = c->start,
		.length = skb->len - c->start,
		.sequence = c->sequence,
		.flags = c->tcp_flags,
	};
	struct bpf_sock *sk = skb->sk;
	struct aw_hello *hello;
	int said, reason;

	if (!sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_REASON_NO_STORAGE;
	hello = bpf_sk_storage_get(&aw_hellos, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!hello)
		return AW_REASON_NO_STORAGE;
	if (c->tcp_flags & AW_TCP_SYN && aw_joins(skb, c->start, c->options))
		return AW_REASON_SERVER_NAME;
	if (!hello->begun && !(c->tcp_flags & AW_TCP_SYN) && !aw_can_begin(sk, &segment))
		return segment.length ? AW_REASON_SILENT : 0;
	if (!hello->refused && aw_may_change(skb, hello, &segment)) {
		hello->refused = 1;
		return AW_HAS_TERM(c, AW_TERM_PROXY) ? AW_REASON_PROXY_TARGET :
						       AW_REASON_SERVER_NAME;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < AW_SAYINGS_OF_SEGMENT; i++) {
		said = aw_inspect(skb, hello, index, &segment);
		if (said == AW_SAID_NOTHING_YET)
			return 0;
		if (said == AW_SAID_GAP || said == AW_SAID_REFUSED)
			return AW_REASON_SILENT;
		reason = AW_HAS_TERM(c, AW_TERM_PROXY) ?
				 aw_judge_target(sandbox, hello, index, said) :
				 aw_judge_saying(sandbox, c, hello, index, said);
		AW_BLUR(reason, skb->len);
		if (reason)
			return reason;
		aw_keep_said(socket, c, index, said);
		aw_accept_said(hello);
		if (hello->phase == AW_PHASE_DONE)
			socket->flags |= AW_SOCKET_ALL_SAID;
		if (!aw_says_more(hello, &segment))
			return 0;
	}
	return AW_REASON_SERVER_NAME;
}

/* Refuses what a flow said, and names it. The flow is dead from here on. Returns enum aw_action. */
static __always_inline int aw_refuse_saying(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					    struct aw_socket *socket, struct aw_case *c,
					    __u32 index, __u8 reason)
{
	struct aw_work *work = aw_work_at(index);
	int action;

	c->verdict = AW_VERDICT_DENY;
	c->reason = reason;
	aw_name_socket(skb, c);
	action = aw_settle(c);
	if (work && work->length && reason != AW_REASON_QUIC) {
		work->type = 0;
		aw_report_name(c, sandbox->generation, socket, work);
	} else {
		aw_report(c, sandbox->generation, socket);
	}
	return action;
}

/* Takes a refusal back in audit mode: the flow has to go on. */
static __always_inline void aw_let_say(struct __sk_buff *skb, struct aw_socket *socket)
{
	struct bpf_sock *sk = skb->sk;

	socket->flags |= AW_SOCKET_ALL_SAID;
	if (sk && (sk = bpf_sk_fullsock(sk)))
		bpf_sk_storage_delete(&aw_hellos, sk);
}

/* Judges what a flow says that a name or a proxy rule permits. Returns enum aw_action. */
static __always_inline int aw_hear_out(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
				       struct aw_socket *socket, struct aw_case *c, __u32 index)
{
	int action, reason = 0;

	if (c->protocol == IPPROTO_TCP)
		reason = aw_listen_to(skb, sandbox, socket, c, index);
	else if (!AW_HAS_TERM(c, AW_TERM_QUIC) && aw_is_quic(skb, c->start, c->size - c->start))
		reason = AW_REASON_QUIC;
	AW_BLUR(reason, skb->len);
	if (!reason)
		return AW_ACTION_ALLOW;
	if (reason == AW_REASON_SILENT)
		action = c->mode == AW_MODE_ENFORCE ? AW_ACTION_DENY : AW_ACTION_ALLOW;
	else
		action = aw_refuse_saying(skb, sandbox, socket, c, index, reason);
	if (action == AW_ACTION_DENY)
		__sync_fetch_and_add(&socket->bytes_out, -(__u64)c->size);
	else if (c->protocol == IPPROTO_TCP)
		aw_let_say(skb, socket);
	return action;
}

/*
 * Judges the content of a packet whose destination is permitted: to a DNS server where *terms* say so,
 * else by name or to a proxy. Global, so that the verifier looks at it once. Returns enum aw_action.
 */
int aw_speak(struct __sk_buff *skb, __u64 sandbox, __u32 terms);

#endif /* AGENTWALL_SAY_H */
