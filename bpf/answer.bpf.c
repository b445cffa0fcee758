// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* DNS answers; see dns.bpf.h and message.bpf.h. */
#include "address.bpf.h"
#include "message.bpf.h"

#define AW_DNS_POINTER	 0xc0
#define AW_DNS_JUMPS	 16 /* pointers followed for one name */
#define AW_DNS_OCTETS	 254 /* of a name without the root's, at most */
#define AW_DNS_STEPS	 144 /* 127 labels, 16 pointers, the root */
#define AW_DNS_A	 1
#define AW_DNS_CNAME	 5
#define AW_DNS_AAAA	 28
#define AW_DNS_TRUNCATED 0x02 /* of the third octet */
#define AW_DNS_RCODE	 0x0f /* of the fourth */

/* enum of aw_record.kind */
#define AW_KIND_V4    1
#define AW_KIND_V6    2
#define AW_KIND_CNAME 3

/* Hashes one label, of *size* octets after work->at. A dot inside one would look like its end. */
AW_GLOBAL int aw_hash_label(__u32 index, __u32 size)
{
	struct aw_work *work = aw_work_of(index);
	__u64 hash;

	if (!work)
		return AW_MALFORMED;
	hash = work->name;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_DNS_LABEL; i++) {
		__u32 octet;

		if (i >= size)
			break;
		octet = aw_octet(work, work->at + 1 + i);
		if (octet == '.')
			work->dotted = 1;
		hash = aw_hash_octet(hash, aw_lower(octet));
	}
	work->name = aw_hash_octet(hash, '.');
	return AW_READ;
}

/* Follows a pointer (RFC 1035 section 4.1.4). They only lead backwards, so no two make a circle. */
static __always_inline int aw_jump(struct aw_work *work, __u32 at)
{
	__u32 target = aw_short(work, at) & 0x3fff;

	if (at + 2 > work->size)
		return AW_ENDED;
	if (target < AW_DNS_HEADER || target >= work->floor || work->jumps >= AW_DNS_JUMPS)
		return AW_MALFORMED;
	if (!work->jumps)
		work->after = at + 2;
	work->jumps++;
	work->floor = target;
	work->at = target;
	return AW_MORE;
}

/* The root, and a name with a dot inside a label, are none that a question could have led to. */
static __always_inline int aw_end_name(struct aw_work *work, __u32 at)
{
	work->at = work->jumps ? work->after : at + 1;
	work->name = work->octets && !work->dotted ? aw_hash_end(work->name) : 0;
	return AW_READ;
}

AW_GLOBAL int aw_step_in_name(__u32 index)
{
	struct aw_work *work = aw_work_of(index);
	__u32 at, octet;

	if (!work)
		return AW_MALFORMED;
	at = work->at;
	if (at >= work->size)
		return AW_ENDED;
	octet = aw_octet(work, at);
	if (!octet)
		return aw_end_name(work, at);
	if (octet >= AW_DNS_POINTER)
		return aw_jump(work, at);
	work->octets += octet + 1;
	if (octet > AW_DNS_LABEL || work->octets > AW_DNS_OCTETS)
		return AW_MALFORMED;
	if (at + 1 + octet > work->size)
		return AW_ENDED;
	if (aw_hash_label(index, octet))
		return AW_MALFORMED;
	work->at = at + 1 + octet;
	return AW_MORE;
}

/* Hashes the name at work->at, of any octets, and leaves work->at behind it. */
AW_GLOBAL int aw_read_name(__u32 index)
{
	struct aw_work *work = aw_work_of(index);

	if (!work)
		return AW_MALFORMED;
	work->name = aw_hash_start();
	work->octets = 0;
	work->dotted = 0;
	work->jumps = 0;
	work->floor = work->at;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_DNS_STEPS; i++) {
		int step = aw_step_in_name(index);

		if (step != AW_MORE)
			return step;
	}
	return AW_MALFORMED;
}

static __always_inline __u8 aw_kind(__u32 type, __u32 class, __u32 size)
{
	if (class != AW_DNS_IN)
		return 0;
	if (type == AW_DNS_A && size == 4)
		return AW_KIND_V4;
	if (type == AW_DNS_AAAA && size == 16)
		return AW_KIND_V6;
	return type == AW_DNS_CNAME ? AW_KIND_CNAME : 0;
}

/* Reads the record at work->at and leaves work->at behind it. */
AW_GLOBAL int aw_read_record(__u32 index)
{
	struct aw_work *work = aw_work_of(index);
	struct aw_record *record;
	__u32 at, size;
	int read;

	if (!work)
		return AW_MALFORMED;
	read = aw_read_name(index);
	if (read)
		return read;
	at = work->at;
	if (at + 10 > work->size)
		return AW_ENDED;
	size = aw_short(work, at + 8);
	work->at = at + 10;
	if (at + 10 + size > work->size)
		return AW_ENDED;
	record = &work->record[work->records & (AW_RECORDS - 1)];
	record->owner = work->name;
	record->ttl_s = aw_short(work, at + 4) << 16 | aw_short(work, at + 6);
	if (record->ttl_s >> 31)
		record->ttl_s = 0; /* RFC 2181 section 8 */
	record->data = at + 10;
	record->kind = aw_kind(aw_short(work, at), aw_short(work, at + 2), size);
	record->taken = 0;
	if (record->kind == AW_KIND_CNAME) {
		read = aw_read_name(index);
		if (read)
			return read;
		if (work->at != at + 10 + size)
			return AW_MALFORMED;
		record->target = work->name;
	}
	if (record->kind)
		work->records++;
	work->at = at + 10 + size;
	return AW_READ;
}

/* Takes the addresses of one name in the chain, and adds to it what that name is an alias of. */
AW_GLOBAL int aw_follow(__u32 index, __u32 link)
{
	struct aw_work *work = aw_work_of(index);
	__u64 name;

	if (!work)
		return AW_MALFORMED;
	name = work->chain[link & (AW_CHAIN - 1)];
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_RECORDS; i++) {
		struct aw_record *record = &work->record[i];

		if (i >= work->records)
			break;
		if (record->owner != name)
			continue;
		record->taken = 1;
		if (record->kind != AW_KIND_CNAME || !record->target || work->links >= AW_CHAIN)
			continue;
		work->chain[work->links & (AW_CHAIN - 1)] = record->target;
		work->links++;
	}
	return AW_READ;
}

/* Appends the address of one record to the answers. */
AW_GLOBAL int aw_take(__u32 index, __u32 number)
{
	struct aw_work *work = aw_work_of(index);
	union aw_address address = {};
	struct aw_answer *answer;
	struct aw_record *record;

	if (!work || work->answers >= AW_ANSWERS)
		return AW_READ;
	record = &work->record[number & (AW_RECORDS - 1)];
	answer = &work->answer[work->answers & (AW_ANSWERS - 1)];
	if (!record->taken || record->kind == AW_KIND_CNAME)
		return AW_READ;
	if (record->kind == AW_KIND_V4) {
		address.words[2] = bpf_htonl(0xffff);
#pragma clang loop unroll(full)
		for (int i = 0; i < 4; i++)
			address.bytes[12 + i] = aw_octet(work, record->data + i);
	} else {
#pragma clang loop unroll(full)
		for (int i = 0; i < 16; i++)
			address.bytes[i] = aw_octet(work, record->data + i);
		aw_canonical(&address);
	}
	__builtin_memcpy(answer->address, &address, sizeof(answer->address));
	answer->ttl_s = record->ttl_s;
	answer->_pad = 0;
	work->answers++;
	return AW_READ;
}

/* Reads the records of the answer section, as many as are there of the first AW_RECORDS. */
static __always_inline int aw_read_records(struct aw_work *work, __u32 index)
{
	work->records = 0;
	work->left = aw_short(work, 6);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_RECORDS; i++) {
		int read;

		if (i >= work->left)
			break;
		read = aw_read_record(index);
		if (read == AW_ENDED)
			break;
		if (read)
			return read;
	}
	return AW_READ;
}

AW_GLOBAL int aw_read_answer(__u32 index)
{
	struct aw_work *work = aw_work_of(index);
	__u32 flags;

	if (!work || aw_read_asked(index))
		return 1;
	flags = aw_octet(work, 2);
	if ((flags & 0xf8) != 0x80)
		return 1;
	if (flags & AW_DNS_TRUNCATED || aw_octet(work, 3) & AW_DNS_RCODE)
		return 0; /* it comes again over TCP; or there is nothing to learn */
	if (aw_read_records(work, index))
		return 1;
	work->chain[0] = work->hash;
	work->links = 1;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_CHAIN; i++) {
		if (i >= work->links)
			break;
		aw_follow(index, i);
	}
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_RECORDS; i++) {
		if (i >= work->records)
			break;
		aw_take(index, i);
	}
	return 0;
}
