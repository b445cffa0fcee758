// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The wall's maps that the probes open, and in aw_plain's place a program that keeps what it gets. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "plain.h"

#define CALLS	 8
#define TEXT_LEN 64

struct seen {
	struct aw_plain_call call;
	char text[TEXT_LEN]; /* the first of it */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} aw_plain_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALLS);
	__type(key, __u64);
	__type(value, struct aw_plain_call);
} aw_plain_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct aw_plain_key);
	__type(value, __u64);
} aw_plain_connections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aw_plain_counters);
} aw_plain_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct aw_plain_reads);
} aw_plain_reads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} aw_plain_next SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64); /* when it came */
	__type(value, struct seen);
} seen SEC(".maps");

SEC("kprobe")
int aw_plain(void *ctx)
{
	__u64 task = bpf_get_current_task(), now = bpf_ktime_get_ns();
	struct aw_plain_call *call = bpf_map_lookup_elem(&aw_plain_calls, &task);
	struct aw_plain_key key = {};
	struct seen one = {};
	__u32 size;

	if (!call)
		return 0;
	one.call = *call;
	size = one.call.size < TEXT_LEN ? one.call.size : TEXT_LEN;
	/* The verifier takes the bound from a register that is not worked out anew. */
	asm volatile("" : "+r"(size));
	if (size && size <= TEXT_LEN)
		bpf_probe_read_user(one.text, size, (void *)one.call.text);
	bpf_map_update_elem(&seen, &now, &one, BPF_ANY);
	key.sandbox = one.call.sandbox;
	key.connection = one.call.connection;
	key.process = one.call.process;
	if (one.call.act == AW_PLAIN_END) {
		bpf_map_delete_elem(&aw_plain_calls, &task);
		bpf_map_delete_elem(&aw_plain_connections, &key);
	} else {
		bpf_map_update_elem(&aw_plain_connections, &key, &now, BPF_ANY);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
