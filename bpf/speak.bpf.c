// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The content of packets whose destination is permitted: DNS questions, and what flows say. */
#include "say.bpf.h"

static __always_inline int aw_speak_with(struct __sk_buff *skb, __u64 sandbox_id, __u32 terms,
					 struct aw_work *work, __u32 index)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(sandbox_id);
	struct bpf_sock *sk = skb->sk;
	struct aw_socket *socket;
	struct aw_case *c;
	int refused;

	if (!sandbox || !sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	if (!socket)
		return AW_ACTION_DENY;
	work->length = 0;
	c = (void *)work->about;
	__builtin_memset(c, 0, sizeof(*c));
	c->hook = AW_HOOK_EGRESS;
	c->id = sandbox_id;
	c->mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
	c->socket_type = sk->type;
	refused = aw_parse(skb, true, c);
	AW_BLUR(refused, skb->len);
	if (refused)
		return AW_ACTION_DENY;
	c->verdict = AW_VERDICT_ALLOW;
	c->rule = AW_NO_RULE;
	c->terms = terms;
	if (terms & AW_TERM_RESOLVER >> AW_TERM_SHIFT)
		return aw_ask(skb, sandbox, socket, c, index);
	c->name = socket->name;
	return aw_hear_out(skb, sandbox, socket, c, index);
}

AW_GLOBAL int aw_speak(struct __sk_buff *skb, __u64 sandbox, __u32 terms)
{
	__u32 index = aw_claim_work();
	struct aw_work *work = aw_work_at(index);
	int action = AW_ACTION_DENY;

	if (work)
		action = aw_speak_with(skb, sandbox, terms, work, index);
	aw_release_work(index);
	return action;
}
