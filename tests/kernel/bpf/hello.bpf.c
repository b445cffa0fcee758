// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Feeds packets to the readers of hello.bpf.h; its entry lies in an array, which outlives a test run. */
#include "../../../bpf/maps.bpf.c"
#include "../../../bpf/hello.bpf.c"
#include "../../../bpf/host.bpf.c"
#include "../../../bpf/http.bpf.c"

#define AW_SAYINGS 8 /* of one segment */

struct aw_saying {
	__u32 said;
	__u16 length;
	__u16 port;
	__u8 kind;
	__u8 tunnel;
	__u8 more; /* 1: another follows */
	__u8 text[AW_NAME_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aw_hello);
} hellos SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AW_SAYINGS);
	__type(key, __u32);
	__type(value, struct aw_saying);
} sayings SEC(".maps");

/* Accepts all but what is refused. Returns 1 if the segment passes. */
SEC("cgroup_skb/egress")
int listen(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct aw_hello *hello = bpf_map_lookup_elem(&hellos, &zero);
	struct aw_work *work = bpf_map_lookup_elem(&aw_works, &zero);
	struct aw_segment segment;
	__u32 i;

	if (!hello || !work || aw_find_payload(skb, &segment))
		return 0;
	for (i = 0; i < AW_SAYINGS; i++) {
		__u32 key = i; /* the verifier counts in registers only */
		struct aw_saying *saying = bpf_map_lookup_elem(&sayings, &key);
		int said = aw_inspect(skb, hello, 0, &segment);

		if (!saying)
			return 0;
		__builtin_memset(saying, 0, sizeof(*saying));
		saying->said = said;
		if (said == AW_SAID_NOTHING_YET)
			return 1;
		if (said >= AW_SAID_BROKEN)
			return 0;
		saying->length = work->length;
		saying->port = hello->port;
		saying->kind = hello->kind;
		saying->tunnel = hello->tunnel;
		__builtin_memcpy(saying->text, work->key.text, AW_NAME_LEN);
		aw_accept_said(hello);
		saying->more = aw_says_more(hello, &segment);
		if (!saying->more)
			return 1;
	}
	return 0;
}

/* Returns 1 if the payload of an IPv4 datagram is QUIC. */
SEC("cgroup_skb/egress")
int datagram(struct __sk_buff *skb)
{
	return skb->len > 28 && aw_is_quic(skb, 28, skb->len - 28);
}
