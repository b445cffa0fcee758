/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* An object that takes every cgroup for sandbox 5: what must never be loaded as the shipped one. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u64 aw_test_sandbox = 5;

SEC("cgroup_skb/egress")
int aw_egress(struct __sk_buff *skb)
{
	return aw_test_sandbox ? 1 : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
