/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A program beside one that every verifier rejects: it reads through a pointer that may be NULL. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

SEC("cgroup_skb/ingress")
int careful(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/egress")
int careless(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&numbers, &key);

	return *value ? 1 : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
