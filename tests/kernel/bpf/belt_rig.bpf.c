/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The shipped belt beside an egress program that knows no policy: a name whose first or second label
 * begins with an x is refused, in the way that "refusal" says. The name follows 12 bytes of header.
 */
#include <stdbool.h>

#define AW_DEFINE_MAPS
#include "../../../bpf/belt.bpf.c"

#define MARK	     0
#define DROP	     1 /* EPERM */
#define TELL	     2 /* dropped with ENOBUFS: NET_XMIT_DROP */

#define NO_INTERFACE 0x7fffffff

const volatile __u16 refused_port = 53;
const volatile __u8 refusal;

SEC("cgroup_skb/egress")
int refuse_x(struct __sk_buff *skb)
{
	bool is_v4 = skb->protocol == bpf_htons(ETH_P_IP);
	__u32 at = is_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u32 protocol_at = is_v4 ? 9 : 6;
	__u32 name_at = at + 8 + 12;
	__be16 port;
	__u8 protocol, label[2], next[2];

	if (bpf_skb_load_bytes(skb, protocol_at, &protocol, 1) || protocol != IPPROTO_UDP ||
	    bpf_skb_load_bytes(skb, at + 2, &port, 2) || bpf_ntohs(port) != refused_port ||
	    bpf_skb_load_bytes(skb, name_at, label, 2) || label[0] > 63 ||
	    bpf_skb_load_bytes(skb, name_at + 1 + label[0], next, 2) ||
	    (label[1] != 'x' && next[1] != 'x'))
		return 1;
	if (refusal == DROP)
		return 0;
	if (refusal == TELL)
		return 2;
	skb->mark = aw_belt_mark;
	return 1;
}

/* In the belt's place: what is marked is lost without a word. tcx takes TC_ACT_STOLEN for "go on". */
SEC("tc")
int lose(struct __sk_buff *skb)
{
	return skb->mark == aw_belt_mark ? bpf_redirect(NO_INTERFACE, 0) : TC_ACT_UNSPEC;
}

/* In the belt's place: what is marked is dropped, which is what the belt does with what it cannot read. */
SEC("tc")
int shoot(struct __sk_buff *skb)
{
	return skb->mark == aw_belt_mark ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Of somebody else: what comes here leaves, and no program behind it is asked. */
SEC("tc")
int let_pass(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
