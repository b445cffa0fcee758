/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a TCP flow says of itself: the server name of a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066
 * section 3), and whom an HTTP/1 request is for (RFC 9112). Octets are read once, in the order of their
 * sequence numbers, however they are cut into segments. agentwall/detect/sayings.py reads the same, and
 * tests/agree holds the two together.
 *
 * Order of use, in egress, for a TCP flow that is permitted by name only: aw_find_payload(), then
 * aw_inspect() also for a SYN, which starts it anew. What it says is judged; aw_accept_said() where
 * that is permitted: without it nothing of the flow passes any more. Once more while aw_says_more().
 */
#ifndef AGENTWALL_HELLO_H
#define AGENTWALL_HELLO_H

#include "packet.bpf.h"
#include "work.bpf.h"

#define AW_LISTEN_PIECES 288 /* two for 4 kB: enough for the largest segment, of 512 kB */

#define AW_QUIC_LEAST	 1200 /* octets of a datagram that opens a connection: RFC 9000 section 14.1 */
#define AW_QUIC_ID	 20 /* octets of a connection id, at most */
#define AW_QUIC_2	 0x6b3343cf /* RFC 9369 */
#define AW_QUIC_DRAFTS	 0xff0000

enum aw_said {
	AW_SAID_NOTHING_YET = 0, /* let the segment pass and look at the next */
	AW_SAID_NAME = 1, /* in key, length and hash of the work */
	AW_SAID_NO_NAME = 2, /* no server name, no Host, or an IP address there */
	AW_SAID_ECH = 3, /* the outer name in key; length 0: none */
	AW_SAID_OTHER = 4, /* neither TLS nor HTTP */
	AW_SAID_BROKEN = 5, /* neither can be told; refuse */
	AW_SAID_GAP = 6, /* octets before these are missing: drop it, TCP sends it again in order */
	AW_SAID_REFUSED = 7, /* what was said before was not accepted */
	AW_SAID_ALL_READ = 8, /* this and the following pass between the parts only */
	AW_TASK_SERVER_NAME = 9, /* the host in hello.text has to be read */
	AW_TASK_TLS_END = 10,
	AW_TASK_TARGET = 11,
	AW_TASK_HOST = 12,
	AW_TASK_HEAD = 13,
};

/* Which protocol said it: aw_hello.kind. */
enum aw_kind {
	AW_KIND_TLS = 1,
	AW_KIND_ORIGIN = 2, /* an HTTP request for the server itself */
	AW_KIND_ABSOLUTE = 3, /* an HTTP request with a whole URL; the port is in aw_hello.port */
	AW_KIND_CONNECT = 4, /* the port is in aw_hello.port */
	AW_KIND_OTHER = 5,
};

enum aw_phase {
	AW_PHASE_START = 0, /* the first octet, or the first behind a request */
	AW_PHASE_METHOD,
	AW_PHASE_TARGET,
	AW_PHASE_VERSION,
	AW_PHASE_LINE_END,
	AW_PHASE_JUNK, /* the rest of a line that is no request line */
	AW_PHASE_FIELD,
	AW_PHASE_VALUE,
	AW_PHASE_VALUE_END,
	AW_PHASE_HEAD_END,
	AW_PHASE_CHUNK_SIZE,
	AW_PHASE_CHUNK_LF,
	AW_PHASE_CHUNK_CR,
	AW_PHASE_CHUNK_CRLF,
	AW_PHASE_LAST_CR,
	AW_PHASE_LAST_LF,
	AW_PHASE_SSL2,
	AW_PHASE_TYPE, /* from here on TLS */
	AW_PHASE_LENGTH,
	AW_PHASE_HELLO_VERSION,
	AW_PHASE_SESSION,
	AW_PHASE_SUITES,
	AW_PHASE_COMPRESSION,
	AW_PHASE_EXTENSIONS,
	AW_PHASE_EXTENSION,
	AW_PHASE_LIST,
	AW_PHASE_NAME_TYPE,
	AW_PHASE_NAME_LENGTH,
	AW_PHASE_NAME,
	AW_PHASE_DONE, /* nothing more is looked at */
};

/* enum of aw_hello.marks */
#define AW_MARK_KNOWN	0x01 /* a method that HTTP servers know */
#define AW_MARK_CONNECT 0x02
#define AW_MARK_LENGTH	0x04 /* Content-Length */
#define AW_MARK_CHUNKED 0x08
#define AW_MARK_HTTP11	0x10
#define AW_MARK_GAP	0x20 /* white space behind a value: no more may follow */
#define AW_MARK_SNI	0x40
#define AW_MARK_ECH	0x80

/* One TCP segment. */
struct aw_segment {
	__u32 offset; /* of the payload, in the packet */
	__u32 length; /* of the payload */
	__u32 sequence; /* of its first octet, host byte order */
	__u32 flags; /* AW_TCP_* */
};

/* Parts, each verified once. They return an enum aw_said. */
AW_GLOBAL int aw_do_http_task(__u32 index, __u32 task);
AW_GLOBAL int aw_read_http_octet(__u32 index, __u32 octet);
AW_GLOBAL int aw_read_block(__u32 index);
AW_GLOBAL int aw_listen(struct __sk_buff *skb, __u32 index, __u32 offset, __u32 length);

/*
 * Reads aw_works[index].hello.text, of .length bytes, as a host: puts it into its one form there, and
 * for an authority the port into .value, 0 if there is none. Returns NAME, NO_NAME or BROKEN.
 */
AW_GLOBAL int aw_read_host(__u32 index, __u32 is_authority);

/* Fills in key, length and hash of the work from hello.text. Returns 0. */
AW_GLOBAL int aw_make_key(__u32 index);

static __always_inline bool aw_is_same_name(const struct aw_hello *hello)
{
	const __u64 *text = (const __u64 *)hello->text;
	const __u64 *name = (const __u64 *)hello->name;
	__u64 differ = hello->length ^ hello->kept;

	for (int i = 0; i < 32; i++)
		differ |= text[i] ^ name[i];
	return !differ;
}

/* Finds the payload of a TCP packet that aw_parse() has passed. Returns 0, or an enum aw_reason. */
static __always_inline int aw_find_payload(struct __sk_buff *skb, struct aw_segment *segment)
{
	struct tcphdr tcp;
	__u32 offset = sizeof(struct ipv6hdr);
	__u8 first, next;

	if (bpf_skb_load_bytes(skb, 0, &first, sizeof(first)))
		return AW_REASON_MALFORMED;
	if (first >> 4 == 4) {
		offset = (first & 0xf) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, 6, &next, sizeof(next)))
			return AW_REASON_MALFORMED;
		for (int i = 0; i < AW_EXTENSION_HEADERS; i++) {
			struct ipv6_opt_hdr option;

			if (next == IPPROTO_TCP)
				break;
			if (bpf_skb_load_bytes(skb, offset, &option, sizeof(option)))
				return AW_REASON_MALFORMED;
			next = option.nexthdr;
			offset += (option.hdrlen + 1) * 8;
		}
	}
	if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
		return AW_REASON_MALFORMED;
	offset += tcp.doff * 4;
	segment->offset = offset;
	segment->length = skb->len > offset ? skb->len - offset : 0;
	segment->sequence = bpf_ntohl(tcp.seq);
	segment->flags = ((__u8 *)&tcp)[13];
	return 0;
}

/*
 * Reads a segment on. *hello* is the socket's entry of aw_hellos, zeroed when it is made; *index* is a
 * claimed work. Returns an enum aw_said; whatever else than NOTHING_YET and GAP ends the flow unless
 * it is accepted.
 */
static __always_inline int aw_inspect(struct __sk_buff *skb, struct aw_hello *hello, __u32 index,
				      const struct aw_segment *segment)
{
	__u32 sequence = segment->sequence;
	struct aw_work *work;
	__u32 seen, left;
	int said;

	if (segment->flags & AW_TCP_SYN) {
		sequence++;
		__builtin_memset(hello, 0, sizeof(*hello));
	}
	if (!hello->begun) {
		hello->begun = 1;
		hello->expected = sequence;
	}
	if (!segment->length || hello->phase == AW_PHASE_DONE)
		return AW_SAID_NOTHING_YET;
	if (hello->refused)
		return AW_SAID_REFUSED;
	/* The receiver may take an urgent octet out of the stream, and read something else than this. */
	if (segment->flags & AW_TCP_URG) {
		hello->refused = 1;
		return AW_SAID_BROKEN;
	}
	seen = hello->expected - sequence;
	if ((__s32)seen < 0)
		return AW_SAID_GAP;
	if (seen >= segment->length)
		return AW_SAID_NOTHING_YET;
	left = segment->length - seen;
	if (hello->phase < AW_PHASE_TYPE && hello->skip >= left) {
		hello->skip -= left;
		hello->expected += left;
		return AW_SAID_NOTHING_YET;
	}
	work = aw_work_at(index);
	if (!work)
		return AW_SAID_BROKEN;
	work->hello = *hello;
	said = aw_listen(skb, index, segment->offset + seen, left);
	*hello = work->hello;
	hello->refused = said != AW_SAID_NOTHING_YET;
	return said;
}

/* Lets the flow go on after what it said. A TLS flow has no more to say, nor has another protocol. */
static __always_inline void aw_accept_said(struct aw_hello *hello)
{
	hello->refused = 0;
	if (hello->kind == AW_KIND_CONNECT)
		hello->tunnel = 1;
	if (hello->kind == AW_KIND_TLS || hello->kind == AW_KIND_OTHER)
		hello->phase = AW_PHASE_DONE;
}

/* Says whether the segment holds more than what was accepted: another request. */
static __always_inline bool aw_says_more(const struct aw_hello *hello,
					 const struct aw_segment *segment)
{
	return hello->phase != AW_PHASE_DONE &&
	       hello->expected !=
		       segment->sequence + segment->length + (segment->flags & AW_TCP_SYN ? 1 : 0);
}

/*
 * Says whether a UDP payload can open a QUIC connection: it has the long header (RFC 8999 section 5.1) of
 * whatever version and type, and the size below which servers discard it. Without the fixed bit, which is RTP's place (RFC 9443), the version has to be one in use.
 * agentwall/detect/quic.py says the same.
 */
static __always_inline bool aw_is_quic(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	__u8 head[6], second;
	__u32 version;

	if (length < AW_QUIC_LEAST || bpf_skb_load_bytes(skb, offset, head, sizeof(head)) ||
	    !(head[0] & 0x80))
		return false;
	version = (__u32)head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4];
	if (!(head[0] & 0x40) && version > 1 && version != AW_QUIC_2 &&
	    version >> 8 != AW_QUIC_DRAFTS)
		return false;
	if (head[5] > AW_QUIC_ID ||
	    bpf_skb_load_bytes(skb, offset + 6 + head[5], &second, sizeof(second)))
		return false;
	return second <= AW_QUIC_ID;
}

#endif /* AGENTWALL_HELLO_H */
