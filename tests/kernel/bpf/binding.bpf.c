/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What tests of the libbpf binding load: one of each thing that the binding handles. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

const volatile __u64 first_constant;
const volatile __u8 second_constant;
const volatile __u16 refused_port;

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, __u64);
} owner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

/* Reports the owner of the cgroup and the port, and refuses one port. */
SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	__u64 *id = bpf_get_local_storage(&owner, 0);
	__u16 port = bpf_ntohs(ctx->user_port);
	__u64 *record = bpf_ringbuf_reserve(&records, 2 * sizeof(*record), 0);

	if (record) {
		record[0] = *id;
		record[1] = port;
		bpf_ringbuf_submit(record, 0);
	}
	return port != refused_port;
}

/* Puts what it sees into numbers: the constants under 0 and 1, the packet's length under 2. */
SEC("cgroup_skb/egress")
int on_egress(struct __sk_buff *skb)
{
	__u64 value = first_constant;
	__u32 key = 0;

	bpf_map_update_elem(&numbers, &key, &value, BPF_ANY);
	key = 1;
	value = second_constant;
	bpf_map_update_elem(&numbers, &key, &value, BPF_ANY);
	key = 2;
	value = skb->len;
	bpf_map_update_elem(&numbers, &key, &value, BPF_ANY);
	return skb->len < 100;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
