/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses in one form: 16 bytes, IPv4 as ::ffff:a.b.c.d. agentwall/net/endpoint.py does the same. */
#ifndef AGENTWALL_ADDRESS_H
#define AGENTWALL_ADDRESS_H

#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>

union aw_address {
	__u8 bytes[16];
	__u32 words[4]; /* network byte order */
	__u64 halves[2];
};

static __always_inline void aw_set_v4(union aw_address *address, __u32 v4)
{
	address->halves[0] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = v4;
}

static __always_inline bool aw_is_v4(const union aw_address *address)
{
	return address->halves[0] == 0 && address->words[2] == bpf_htonl(0xffff);
}

static __always_inline bool aw_is_loopback(const union aw_address *address)
{
	if (aw_is_v4(address))
		return address->bytes[12] == 127;
	return address->halves[0] == 0 && address->halves[1] == bpf_cpu_to_be64(1);
}

static __always_inline bool aw_same_address(const __u64 a[2], const union aw_address *b)
{
	return a[0] == b->halves[0] && a[1] == b->halves[1];
}

/* An IPv4 group or the limited broadcast; the broadcast of a network looks like a host of it. */
static __always_inline bool aw_is_many_v4(const union aw_address *address)
{
	return aw_is_v4(address) &&
	       (address->bytes[12] >> 4 == 0xe || address->words[3] == bpf_htonl(0xffffffff));
}

/*
 * Turns NAT64's well-known prefix (RFC 6052) and 6to4 (RFC 3056) into the IPv4 host inside. Such a
 * packet leaves for a gateway, so 127.0.0.0/8 in it is not this host: it becomes 0.0.0.0, which no
 * packet can reach.
 */
static __always_inline void aw_canonical(union aw_address *address)
{
	__u32 inside;

	if (address->words[0] == bpf_htonl(0x0064ff9b) && address->words[1] == 0 &&
	    address->words[2] == 0)
		inside = address->words[3];
	else if ((address->words[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0x20020000))
		inside = bpf_htonl(bpf_ntohl(address->words[0]) << 16 |
				   bpf_ntohl(address->words[1]) >> 16);
	else
		return;
	if ((inside & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000))
		inside = 0;
	aw_set_v4(address, inside);
}

/*
 * Turns a destination into the host it reaches: canonical, and loopback for the unspecified
 * address, by which Linux means this host. As a source that address is anyone's.
 */
static __always_inline void aw_destination(union aw_address *address)
{
	if (aw_is_v4(address) && address->words[3] == 0)
		address->words[3] = bpf_htonl(0x7f000001);
	else if (address->halves[0] == 0 && address->halves[1] == 0)
		address->words[3] = bpf_htonl(1);
	else
		aw_canonical(address);
}

#endif /* AGENTWALL_ADDRESS_H */
