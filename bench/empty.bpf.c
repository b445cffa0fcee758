/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that permit everything, at the hooks agentwall uses: the price of the hooks alone. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define PERMIT(section, name, context)      \
	SEC(section) int name(context *ctx) \
	{                                   \
		return 1;                   \
	}

PERMIT("cgroup/connect4", empty_connect4, struct bpf_sock_addr)
PERMIT("cgroup/connect6", empty_connect6, struct bpf_sock_addr)
PERMIT("cgroup/sendmsg4", empty_sendmsg4, struct bpf_sock_addr)
PERMIT("cgroup/sendmsg6", empty_sendmsg6, struct bpf_sock_addr)
PERMIT("cgroup/sock_create", empty_sock_create, struct bpf_sock)
PERMIT("cgroup/sock_release", empty_sock_release, struct bpf_sock)
PERMIT("cgroup_skb/egress", empty_egress, struct __sk_buff)
PERMIT("cgroup_skb/ingress", empty_ingress, struct __sk_buff)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
