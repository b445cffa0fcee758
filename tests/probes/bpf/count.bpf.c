/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Two programs for uprobes: how often each ran, the second by the cookie it was attached with. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} counts SEC(".maps");

static void add(__u64 key)
{
	__u64 one = 1, *count = bpf_map_lookup_elem(&counts, &key);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
}

SEC("kprobe")
int count(void *context)
{
	add(0);
	return 0;
}

SEC("kprobe")
int count_by_cookie(void *context)
{
	add(bpf_get_attach_cookie(context));
	return 0;
}
