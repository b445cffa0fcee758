// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* socket(2) and the end of a socket. */
#include "decide.bpf.h"
#include "socket.bpf.h"

/* Only TCP, UDP and MPTCP, and what the policy names; raw sockets never. */
static __always_inline bool aw_is_permitted_type(const struct aw_sandbox *sandbox, __u32 type,
						 __u32 protocol)
{
	if (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP))
		return true;
	if (type == SOCK_DGRAM && protocol == IPPROTO_UDP)
		return true;
	if (type == SOCK_RAW || protocol == 0)
		return false;
	for (int i = 0; i < AW_MAX_PROTOCOLS; i++)
		if (sandbox->protocols[i] == protocol)
			return true;
	return false;
}

SEC("cgroup/sock_create")
int aw_sock_create(struct bpf_sock *ctx)
{
	struct aw_case c = { .hook = AW_HOOK_SOCK_CREATE, .id = aw_self() };
	struct aw_sandbox *sandbox = aw_sandbox_of(c.id);
	struct aw_socket *socket;
	int action = AW_ACTION_DENY;

	c.protocol = ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol;
	c.socket_type = ctx->type;
	/* Now, so that no packet leaves a socket for which there is no memory. */
	socket = bpf_sk_storage_get(&aw_sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!sandbox) {
		aw_rule_out(&c, AW_VERDICT_DENY, AW_REASON_NO_SANDBOX);
	} else if (!socket) {
		aw_rule_out(&c, AW_VERDICT_DENY, AW_REASON_NO_STORAGE);
	} else if (aw_is_anothers(socket, c.id)) {
		return AW_ACTION_ALLOW;
	} else {
		c.mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
		socket->sandbox = c.id;
		socket->netns = bpf_get_netns_cookie(ctx);
		socket->flags = AW_SOCKET_USER;
		aw_note_task(socket);
		if (c.mode == AW_MODE_OBSERVE ||
		    aw_is_permitted_type(sandbox, ctx->type, ctx->protocol))
			return AW_ACTION_ALLOW;
		aw_rule_out(&c, AW_VERDICT_DENY, AW_REASON_SOCKET_TYPE);
		action = aw_settle(&c);
	}
	if (c.reason != AW_REASON_SOCKET_TYPE)
		AW_COUNT(c.id, denied);
	c.errno_ = action == AW_ACTION_DENY ? EPERM : 0;
	aw_report(&c, sandbox ? sandbox->generation : 0, socket);
	return action;
}

SEC("cgroup/sock_release")
int aw_sock_release(struct bpf_sock *ctx)
{
	struct aw_socket *socket = bpf_sk_storage_get(&aw_sockets, ctx, 0, 0);

	/* Another sandbox's is told of by that one's own program. */
	if (!socket || socket->sandbox != aw_self())
		return AW_ACTION_ALLOW;
	socket->flags |= AW_SOCKET_RELEASED;
	/* Of a TCP flow in full swing egress will see the last packet, and flush then. */
	if (socket->protocol != IPPROTO_TCP ||
	    (ctx->state != AW_TCP_ESTABLISHED && ctx->state != AW_TCP_CLOSE_WAIT))
		aw_flush(socket, bpf_ktime_get_boot_ns());
	return AW_ACTION_ALLOW;
}
