/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Looks like the shipped object, but for the size of one map's value. */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u64 aw_test_sandbox;
const volatile __u8 aw_have_set_retval;
const volatile __u64 aw_hash_seed;
const volatile __u32 aw_belt_mark;

#define MAP(name, kind, flags, key_type, value_bytes) \
	struct {                                      \
		__uint(type, kind);                   \
		__uint(max_entries, 1);               \
		__uint(map_flags, flags);             \
		__uint(key_size, sizeof(key_type));   \
		__uint(value_size, value_bytes);      \
	} name SEC(".maps")

MAP(aw_slots, BPF_MAP_TYPE_HASH, 0, __u64, 4);
MAP(aw_sandboxes, BPF_MAP_TYPE_ARRAY, 0, __u32, 41);
MAP(aw_rules, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, __u64[3], 8);
MAP(aw_intervals, BPF_MAP_TYPE_ARRAY, 0, __u32, 16);
MAP(aw_names, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, __u32[65], 32);
MAP(aw_known, BPF_MAP_TYPE_HASH, 0, __u64[2], 288);
MAP(aw_bound, BPF_MAP_TYPE_HASH, 0, __u64[3], 136);
MAP(aw_flow_table, BPF_MAP_TYPE_HASH, 0, __u64[7], 72);
MAP(aw_counters, BPF_MAP_TYPE_HASH, 0, __u64, 64);

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, __u64);
} aw_sandbox_id SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} aw_denials SEC(".maps"), aw_flows SEC(".maps");

#define PROGRAM(section, name)                                                                     \
	SEC(section)                                                                               \
	int name(void *ctx)                                                                        \
	{                                                                                          \
		return aw_test_sandbox + aw_have_set_retval + aw_belt_mark + aw_hash_seed ? 1 : 0; \
	}

PROGRAM("cgroup/connect4", aw_connect4)
PROGRAM("cgroup/connect6", aw_connect6)
PROGRAM("cgroup/sendmsg4", aw_sendmsg4)
PROGRAM("cgroup/sendmsg6", aw_sendmsg6)
PROGRAM("cgroup/sock_create", aw_sock_create)
PROGRAM("cgroup/sock_release", aw_sock_release)
PROGRAM("cgroup_skb/egress", aw_egress)
PROGRAM("cgroup_skb/ingress", aw_ingress)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
