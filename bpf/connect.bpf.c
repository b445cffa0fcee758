// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * connect(2) and sendmsg(2): the fast, clear errno and the attribution. They see what the
 * application claims; egress judges where the packet really goes.
 */
#include "decide.bpf.h"
#include "peer.bpf.h"
#include "socket.bpf.h"

static __always_inline void aw_read_v4(struct bpf_sock_addr *ctx, struct aw_case *c)
{
	aw_set_v4(&c->remote, ctx->user_ip4);
}

static __always_inline void aw_read_v6(struct bpf_sock_addr *ctx, struct aw_case *c)
{
	c->remote.words[0] = ctx->user_ip6[0];
	c->remote.words[1] = ctx->user_ip6[1];
	c->remote.words[2] = ctx->user_ip6[2];
	c->remote.words[3] = ctx->user_ip6[3];
}

/* Where the socket is bound; a wildcard address stays unknown. */
static __always_inline void aw_read_local(const struct bpf_sock *sk, struct aw_case *c)
{
	c->local_port = sk->src_port;
	if (!aw_is_v4(&c->remote)) {
		c->local.words[0] = sk->src_ip6[0];
		c->local.words[1] = sk->src_ip6[1];
		c->local.words[2] = sk->src_ip6[2];
		c->local.words[3] = sk->src_ip6[3];
	} else if (sk->src_ip4) {
		aw_set_v4(&c->local, sk->src_ip4);
	}
}

/* Returns AW_ACTION_DENY with the errno that the policy chose. */
static __always_inline int aw_refuse(const struct aw_sandbox *sandbox)
{
	/* The verifier of Linux 7.3 wants to see that it lies in [-4095, 0]. */
	__s64 number = sandbox->refuse_errno & 0xfff;

	if (aw_have_set_retval && number)
		bpf_set_retval(-number);
	return AW_ACTION_DENY;
}

/* UDP connect() sends nothing: where it is refused that is a probe, not an attempt. */
static __always_inline int aw_connect_udp(struct bpf_sock_addr *ctx,
					  const struct aw_sandbox *sandbox,
					  struct aw_socket *socket, struct aw_case *c)
{
	aw_forget(socket, c);
	aw_claim(socket, c);
	/* socket() noted the task; getaddrinfo connects one socket many times. */
	if (socket->pid != bpf_get_current_pid_tgid() >> 32)
		aw_note_task(socket);
	if (c->mode == AW_MODE_OBSERVE)
		return AW_ACTION_ALLOW;
	/* A server that connects back to the peer it heard, as DTLS does, answers it. */
	if (aw_permits_some_port(sandbox, c) || aw_has_called(ctx, c))
		return AW_ACTION_ALLOW;
	AW_COUNT(c->id, probes);
	return c->mode == AW_MODE_ENFORCE ? aw_refuse(sandbox) : AW_ACTION_ALLOW;
}

/* Judges connect() or sendmsg() to c->remote, and answers the application. */
static __always_inline int aw_decide(struct bpf_sock_addr *ctx, const struct aw_sandbox *sandbox,
				     struct aw_socket *socket, struct aw_case *c)
{
	bool keep;
	int action;

	if (c->mode == AW_MODE_OBSERVE)
		aw_observe_out(sandbox, aw_kept_name(socket, c), c);
	else
		aw_judge_out(ctx, sandbox, aw_kept_name(socket, c), c);
	aw_blur_case(c, ctx->user_port);
	if (c->verdict == AW_VERDICT_DENY && c->protocol == IPPROTO_UDP && aw_has_called(ctx, c))
		return AW_ACTION_ALLOW; /* egress accounts for it */
	aw_note_contact(ctx, c);
	aw_claim(socket, c);
	keep = aw_is_lasting(sandbox, c) &&
	       (c->verdict == AW_VERDICT_ALLOW || c->mode != AW_MODE_ENFORCE);
	if (keep)
		aw_remember(socket, sandbox, c);
	action = aw_settle(c);
	aw_name_socket(ctx, c);
	if (action == AW_ACTION_DENY)
		c->errno_ = sandbox->refuse_errno && aw_have_set_retval ? sandbox->refuse_errno :
									  EPERM;
	if (keep && action == AW_ACTION_ALLOW)
		aw_account(socket, sandbox->generation, c);
	else if (c->verdict != AW_VERDICT_ALLOW)
		aw_report(c, sandbox->generation, socket);
	return action == AW_ACTION_DENY ? aw_refuse(sandbox) : AW_ACTION_ALLOW;
}

static __always_inline int aw_refuse_unbound(struct bpf_sock_addr *ctx, struct aw_case *c,
					     __u8 reason)
{
	aw_name_socket(ctx, c);
	aw_rule_out(c, AW_VERDICT_DENY, reason);
	c->errno_ = EPERM;
	AW_COUNT(c->id, denied);
	aw_report(c, 0, 0);
	return AW_ACTION_DENY;
}

static __always_inline int aw_sock_addr(struct bpf_sock_addr *ctx, struct aw_case *c, bool connect)
{
	struct aw_sandbox *sandbox;
	struct aw_socket *socket = 0;

	c->id = aw_self();
	if (ctx->sk)
		socket = bpf_sk_storage_get(&aw_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (socket && aw_is_anothers(socket, c->id))
		return AW_ACTION_ALLOW;
	c->protocol = ctx->protocol;
	if (c->protocol == IPPROTO_TCP || c->protocol == IPPROTO_UDP)
		c->remote_port = bpf_ntohs(ctx->user_port);
	c->socket_type = ctx->type;
	aw_destination(&c->remote);
	sandbox = aw_sandbox_of(c->id);
	if (!sandbox)
		return aw_refuse_unbound(ctx, c, AW_REASON_NO_SANDBOX);
	if (!socket || !ctx->sk)
		return aw_refuse_unbound(ctx, c, AW_REASON_NO_STORAGE);
	c->mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
	aw_adopt(socket, c);
	if (!socket->netns)
		socket->netns = bpf_get_netns_cookie(ctx);
	if (c->protocol == IPPROTO_UDP && aw_is_loopback(&c->remote))
		aw_read_local(ctx->sk, c);
	if (connect && c->protocol == IPPROTO_UDP)
		return aw_connect_udp(ctx, sandbox, socket, c);
	if (connect) {
		aw_reset(socket, c, AW_DIRECTION_OUT);
		aw_note_task(socket);
	} else {
		c->direction = AW_DIRECTION_OUT;
		/* No lock: if another send tears this, egress still judges the packet. */
		if (aw_match(socket, sandbox, c) &&
		    (c->verdict == AW_VERDICT_ALLOW || c->mode != AW_MODE_ENFORCE))
			return AW_ACTION_ALLOW; /* egress counts it */
		aw_note_task(socket);
	}
	return aw_decide(ctx, sandbox, socket, c);
}

SEC("cgroup/connect4")
int aw_connect4(struct bpf_sock_addr *ctx)
{
	struct aw_case c = { .hook = AW_HOOK_CONNECT4 };

	aw_read_v4(ctx, &c);
	return aw_sock_addr(ctx, &c, true);
}

SEC("cgroup/connect6")
int aw_connect6(struct bpf_sock_addr *ctx)
{
	struct aw_case c = { .hook = AW_HOOK_CONNECT6 };

	aw_read_v6(ctx, &c);
	return aw_sock_addr(ctx, &c, true);
}

SEC("cgroup/sendmsg4")
int aw_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct aw_case c = { .hook = AW_HOOK_SENDMSG4 };

	aw_read_v4(ctx, &c);
	return aw_sock_addr(ctx, &c, false);
}

SEC("cgroup/sendmsg6")
int aw_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct aw_case c = { .hook = AW_HOOK_SENDMSG6 };

	aw_read_v6(ctx, &c);
	return aw_sock_addr(ctx, &c, false);
}
