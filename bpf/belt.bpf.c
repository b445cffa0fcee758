// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The belt. Egress lets a DNS question that it refuses pass with a mark, where aw_belts says that this
 * program stands at the interface. Here, before it leaves, the question becomes its own answer: there
 * is no such name. cgroup_skb can only drop, and what an application makes of that ends its lookup
 * (docs/names.md). What is marked never leaves, whatever is wrong with it.
 */
#include <stddef.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include "maps.bpf.h"

/* RFC 1035 section 4.1.1, RFC 4035 section 3.2.2 */
#define AW_DNS_QR	0x8000 /* an answer */
#define AW_DNS_OPCODE	0x7800
#define AW_DNS_RD	0x0100
#define AW_DNS_RA	0x0080
#define AW_DNS_CD	0x0010
#define AW_DNS_NXDOMAIN 3

struct aw_dns_header {
	__be16 id;
	__be16 flags;
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additionals;
};

/* Swaps the addresses. Returns where UDP begins, or 0 if it is not plain UDP. */
static __always_inline __u32 aw_turn_v4(struct __sk_buff *skb)
{
	__u32 at = ETH_HLEN + offsetof(struct iphdr, saddr);
	struct iphdr ip;
	__be32 ends[2];

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl != 5 ||
	    ip.protocol != IPPROTO_UDP || ip.frag_off & bpf_htons(0x3fff))
		return 0;
	ends[0] = ip.daddr;
	ends[1] = ip.saddr;
	/* The sums, IP's and UDP's, stay right: they do not depend on the order. */
	if (bpf_skb_store_bytes(skb, at, ends, sizeof(ends), 0))
		return 0;
	return ETH_HLEN + sizeof(ip);
}

static __always_inline __u32 aw_turn_v6(struct __sk_buff *skb)
{
	__u32 at = ETH_HLEN + offsetof(struct ipv6hdr, saddr);
	struct in6_addr ends[2];
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 6 ||
	    ip.nexthdr != IPPROTO_UDP)
		return 0;
	ends[0] = ip.daddr;
	ends[1] = ip.saddr;
	if (bpf_skb_store_bytes(skb, at, ends, sizeof(ends), 0))
		return 0;
	return ETH_HLEN + sizeof(ip);
}

static __always_inline int aw_turn_ethernet(struct __sk_buff *skb)
{
	__u8 ends[2 * ETH_ALEN], turned[2 * ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, ends, sizeof(ends)))
		return -1;
	__builtin_memcpy(turned, ends + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, ends, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0);
}

/* Swaps the ports and makes the question, whose UDP header lies at *at*, an answer. */
static __always_inline int aw_turn_message(struct __sk_buff *skb, __u32 at,
					   const struct udphdr *udp)
{
	__u32 dns_at = at + sizeof(*udp);
	__be16 ends[2] = { udp->dest, udp->source };
	struct aw_dns_header dns;
	__be16 flags;

	if (bpf_skb_load_bytes(skb, dns_at, &dns, sizeof(dns)) || dns.flags & bpf_htons(AW_DNS_QR))
		return -1;
	flags = dns.flags & bpf_htons(AW_DNS_OPCODE | AW_DNS_RD | AW_DNS_CD);
	flags |= bpf_htons(AW_DNS_QR | AW_DNS_RA | AW_DNS_NXDOMAIN);
	/* Leaves alone a sum that is none, and one that a device would have completed. */
	if (bpf_l4_csum_replace(skb, at + offsetof(struct udphdr, check), dns.flags, flags,
				BPF_F_MARK_MANGLED_0 | sizeof(flags)))
		return -1;
	return bpf_skb_store_bytes(skb, at, ends, sizeof(ends), 0) ||
	       bpf_skb_store_bytes(skb, dns_at + offsetof(struct aw_dns_header, flags), &flags,
				   sizeof(flags), 0);
}

/* tcx knows OK, SHOT, REDIRECT and UNSPEC, and takes any other for UNSPEC: go on. */
SEC("tc")
int aw_belt(struct __sk_buff *skb)
{
	struct udphdr udp;
	__u32 at = 0;

	if (!aw_belt_mark || skb->mark != aw_belt_mark)
		return TC_ACT_UNSPEC;
	/* Dropped: the application sees ENOBUFS, or waits. Egress marks nothing that comes here so. */
	if (skb->vlan_present || skb->gso_size)
		return TC_ACT_SHOT;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		at = aw_turn_v4(skb);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		at = aw_turn_v6(skb);
	if (!at || bpf_skb_load_bytes(skb, at, &udp, sizeof(udp)) ||
	    aw_turn_message(skb, at, &udp) || aw_turn_ethernet(skb))
		return TC_ACT_SHOT;
	skb->mark = 0;
	/*
	 * What leaves through lo arrives there, by the route it has: looked up again, one from 127.0.0.1
	 * would be refused. But what was translated must lose its connection on the way, to be
	 * translated back: AW_BELT_TRANSLATED says where that works.
	 */
	if (skb->ifindex == AW_LOOPBACK_IFINDEX && udp.dest == bpf_htons(AW_DNS_PORT))
		return TC_ACT_OK;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}
