// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Reads the message that a test put into aw_works[0]; each program returns what the reader did. */
#include "../../../bpf/maps.bpf.c"
#include "../../../bpf/dns.bpf.c"
#include "../../../bpf/answer.bpf.c"

#define AT(field) __builtin_offsetof(struct aw_work, field)

/* Where a test finds what in a value of aw_works. */
const volatile __u32 lock_at = AT(lock);
const volatile __u32 hash_at = AT(hash);
const volatile __u32 size_at = AT(size);
const volatile __u32 id_at = AT(id);
const volatile __u32 type_at = AT(type);
const volatile __u32 length_at = AT(length);
const volatile __u32 answers_at = AT(answers);
const volatile __u32 key_at = AT(key);
const volatile __u32 answer_at = AT(answer);
const volatile __u32 message_at = AT(message);

SEC("cgroup_skb/egress")
int read_question(struct __sk_buff *skb)
{
	return aw_read_question(0) != 0;
}

SEC("cgroup_skb/ingress")
int read_answer(struct __sk_buff *skb)
{
	return aw_read_answer(0) != 0;
}
