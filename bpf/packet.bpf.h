/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packet headers -> struct aw_case. cgroup_skb programs see a packet from its IP header on. */
#ifndef AGENTWALL_PACKET_H
#define AGENTWALL_PACKET_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "case.bpf.h"

#define AW_EXTENSION_HEADERS 4 /* walked; BIG TCP puts a hop-by-hop jumbo header there */

#define AW_NEXTHDR_HOP	     0
#define AW_NEXTHDR_ROUTING   43
#define AW_NEXTHDR_FRAGMENT  44
#define AW_NEXTHDR_DEST	     60

/* Reads ports, flags or type. Returns 0 or the reason why the packet cannot be judged. */
static __always_inline int aw_parse_l4(struct __sk_buff *skb, __u32 offset, bool egress,
				       struct aw_case *c)
{
	__u16 near = 0, far = 0;

	if (c->protocol == IPPROTO_TCP) {
		struct tcphdr tcp;

		if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)) || tcp.doff < 5)
			return AW_REASON_MALFORMED;
		c->tcp_flags = ((__u8 *)&tcp)[13];
		c->start = offset + tcp.doff * 4;
		c->options = (tcp.doff - 5) * 4;
		c->payload = skb->len > c->start;
		c->sequence = bpf_ntohl(tcp.seq);
		near = tcp.source;
		far = tcp.dest;
	} else if (c->protocol == IPPROTO_UDP) {
		struct udphdr udp;

		if (bpf_skb_load_bytes(skb, offset, &udp, sizeof(udp)))
			return AW_REASON_MALFORMED;
		c->start = offset + sizeof(udp);
		near = udp.source;
		far = udp.dest;
	} else if (c->protocol == IPPROTO_ICMP || c->protocol == IPPROTO_ICMPV6) {
		if (bpf_skb_load_bytes(skb, offset, &c->icmp_type, sizeof(c->icmp_type)))
			return AW_REASON_MALFORMED;
		c->start = offset + 8; /* behind the header of an echo */
	}
	c->local_port = bpf_ntohs(egress ? near : far);
	c->remote_port = bpf_ntohs(egress ? far : near);
	return 0;
}

static __always_inline int aw_parse_v4(struct __sk_buff *skb, bool egress, struct aw_case *c)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return AW_REASON_MALFORMED;
	aw_set_v4(&c->remote, egress ? ip.daddr : ip.saddr);
	aw_set_v4(&c->local, egress ? ip.saddr : ip.daddr);
	c->protocol = ip.protocol;
	/* A source route makes the packet visit another host than the one it names. */
	if (egress && ip.ihl != 5)
		return AW_REASON_IP_OPTIONS;
	/* More fragments, or an offset: cgroup_skb runs before fragmentation and after reassembly. */
	if (ip.frag_off & bpf_htons(0x3fff))
		return AW_REASON_FRAGMENT;
	return aw_parse_l4(skb, ip.ihl * 4, egress, c);
}

static __always_inline int aw_parse_v6(struct __sk_buff *skb, bool egress, struct aw_case *c)
{
	struct ipv6hdr ip;
	__u32 offset = sizeof(ip);
	__u8 next;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.version != 6)
		return AW_REASON_MALFORMED;
	__builtin_memcpy(&c->remote, egress ? &ip.daddr : &ip.saddr, sizeof(c->remote));
	__builtin_memcpy(&c->local, egress ? &ip.saddr : &ip.daddr, sizeof(c->local));
	next = ip.nexthdr;
	for (int i = 0; i < AW_EXTENSION_HEADERS; i++) {
		struct ipv6_opt_hdr option;

		if (next != AW_NEXTHDR_HOP && next != AW_NEXTHDR_DEST &&
		    (egress || next != AW_NEXTHDR_ROUTING))
			break;
		if (bpf_skb_load_bytes(skb, offset, &option, sizeof(option)))
			return AW_REASON_MALFORMED;
		next = option.nexthdr;
		offset += (option.hdrlen + 1) * 8;
	}
	c->protocol = next;
	if (next == AW_NEXTHDR_ROUTING)
		return AW_REASON_ROUTING_HEADER;
	if (next == AW_NEXTHDR_FRAGMENT)
		return AW_REASON_FRAGMENT;
	if (next == AW_NEXTHDR_HOP || next == AW_NEXTHDR_DEST)
		return AW_REASON_EXTENSION_HEADERS;
	return aw_parse_l4(skb, offset, egress, c);
}

/*
 * The usual packet, a plain TCP or UDP one, read in place. Returns false for all others, and where
 * the headers do not lie in the linear part: those take the long way.
 */
static __always_inline bool aw_parse_plain(struct __sk_buff *skb, bool egress, struct aw_case *c)
{
	void *start = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct iphdr *v4 = start;
	struct ipv6hdr *v6 = start;
	struct tcphdr *tcp;
	__u16 near, far;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		tcp = (void *)(v4 + 1);
		if ((void *)tcp > end || v4->version != 4 || v4->ihl != 5 ||
		    v4->frag_off & bpf_htons(0x3fff))
			return false;
		aw_set_v4(&c->remote, egress ? v4->daddr : v4->saddr);
		aw_set_v4(&c->local, egress ? v4->saddr : v4->daddr);
		c->protocol = v4->protocol;
	} else {
		tcp = (void *)(v6 + 1);
		if ((void *)tcp > end || v6->version != 6)
			return false;
		__builtin_memcpy(&c->remote, egress ? &v6->daddr : &v6->saddr, sizeof(c->remote));
		__builtin_memcpy(&c->local, egress ? &v6->saddr : &v6->daddr, sizeof(c->local));
		c->protocol = v6->nexthdr;
	}
	if (c->protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end || tcp->doff < 5)
			return false;
		c->tcp_flags = ((__u8 *)tcp)[13];
		c->start = ((void *)tcp - start) + tcp->doff * 4;
		c->options = (tcp->doff - 5) * 4;
		c->payload = skb->len > c->start;
		c->sequence = bpf_ntohl(tcp->seq);
	} else if (c->protocol != IPPROTO_UDP || (void *)tcp + sizeof(struct udphdr) > end) {
		return false;
	} else {
		c->start = ((void *)tcp - start) + sizeof(struct udphdr);
	}
	near = tcp->source; /* UDP's ports lie in the same place */
	far = tcp->dest;
	c->local_port = bpf_ntohs(egress ? near : far);
	c->remote_port = bpf_ntohs(egress ? far : near);
	return true;
}

/*
 * Fills in remote, local, ports and protocol. Returns 0, or the enum aw_reason for which a packet
 * of this shape is refused; *c* then holds what could be read.
 */
static __always_inline int aw_parse(struct __sk_buff *skb, bool egress, struct aw_case *c)
{
	int refused;

	c->size = skb->len;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return AW_REASON_MALFORMED;
	if (aw_parse_plain(skb, egress, c))
		refused = 0;
	else if (skb->protocol == bpf_htons(ETH_P_IP))
		refused = aw_parse_v4(skb, egress, c);
	else
		refused = aw_parse_v6(skb, egress, c);
	if (egress)
		aw_destination(&c->remote);
	else
		aw_canonical(&c->remote);
	return refused;
}

#endif /* AGENTWALL_PACKET_H */
