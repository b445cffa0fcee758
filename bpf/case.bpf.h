/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One case: what a program run is asked about, and what was decided. Lives on the stack. */
#ifndef AGENTWALL_CASE_H
#define AGENTWALL_CASE_H

#include "maps.bpf.h"
#include "address.bpf.h"

/* Not in the UAPI headers that BPF programs may include. */
#define SOCK_STREAM 1
#define SOCK_DGRAM  2
#define SOCK_RAW    3
#define EPERM	    1
#define EEXIST	    17

#define AW_TCP_FIN  0x01
#define AW_TCP_SYN  0x02
#define AW_TCP_RST  0x04
#define AW_TCP_URG  0x20

/* enum tcp_state, include/net/tcp_states.h; a connected UDP socket is established. */
#define AW_TCP_ESTABLISHED 1
#define AW_TCP_CLOSE_WAIT  8
#define AW_TCP_LISTEN	   10

#define IPPROTO_ICMP	   1
#define IPPROTO_TCP	   6
#define IPPROTO_UDP	   17
#define IPPROTO_ICMPV6	   58
#define IPPROTO_MPTCP	   262

/* Bits of terms that no rule sets. */
#define AW_CASE_BY_NAME 0x80 /* a name allows it, no address rule */

/* Return values of every program here. */
enum aw_action {
	AW_ACTION_DENY = 0,
	AW_ACTION_ALLOW = 1,
};

struct aw_case {
	union aw_address remote;
	union aw_address local; /* all zero: not known */
	__u64 id; /* of the sandbox */
	__u64 cookie; /* 0: not asked for yet */
	__u64 now_ns; /* 0: not asked for yet */
	__u64 name; /* of aw_known_key: what the remote was learned under; 0: none */
	__u32 size; /* bytes of the packet; 0: none */
	__u32 rule;
	__u32 sequence; /* of a TCP segment */
	__u16 start; /* where the payload of the packet begins */
	__u16 options; /* bytes of TCP options before it */
	__u16 remote_port;
	__u16 local_port;
	__u16 errno_;
	__u8 protocol;
	__u8 direction;
	__u8 verdict;
	__u8 reason;
	__u8 hook;
	__u8 socket_type;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 payload; /* 1: a TCP segment that carries data */
	__u8 listening; /* 1: the packet belongs to a listener */
	__u8 terms; /* AW_TERM_* >> AW_TERM_SHIFT, and AW_CASE_* */
	__u8 said; /* 1: the name kept of the flow is what it said of itself */
	__u8 closed; /* 1: a reserved block, where names open nothing */
	__u8 mode; /* enum aw_mode that holds now: see aw_mode_of() */
	__u8 _pad[4]; /* a word is read as a whole: see aw_blur_case() */
};

_Static_assert(sizeof(struct aw_case) <= sizeof(((struct aw_work *)0)->about),
	       "about is too small");

/*
 * Returns the enum aw_mode that counts now, of aw_sandbox.mode and aw_sandbox.until_ns: what lets more
 * through than the rules ends by itself, whoever is there to end it.
 */
__u32 aw_mode_of(__u32 mode, __u64 until_ns);

/*
 * Says whether *sandbox* may still put an event into aw_denials at *now_ns*, and counts the event, or
 * its loss. Each sandbox has aw_event_budget events within AW_BUDGET_NS, a match of a signature twice
 * as many, so that a flood hides neither another sandbox's denials nor the sandbox's own matches.
 */
int aw_may_report(__u64 sandbox, __u64 now_ns, __u32 is_match);

/* The sandbox by the attach point, never by current: 0 means deny (see aw_sandbox_id). */
static __always_inline __u64 aw_self(void)
{
	__u64 *id = bpf_get_local_storage(&aw_sandbox_id, 0);

	return aw_test_sandbox ? aw_test_sandbox : *id;
}

/*
 * Returns the settings of sandbox *id*, or 0 where it has none.
 *
 * The kernel writes an update of aw_slots into memory that an earlier one took out of the map, though a
 * program may hold it still: what is read there can be the slot of another sandbox. So the slot says
 * whose it is, and who is caught between two entries is refused. The slot itself does not change while
 * a program holds it: user space writes new settings to another one, and comes back to this one only
 * when every program that can have seen it has ended (agentwall/kernel/slots.py). So all that is read
 * there is of one write, however late.
 */
static __always_inline struct aw_sandbox *aw_sandbox_of(__u64 id)
{
	/* Given as the key, it is read once. */
	__u32 *slot = bpf_map_lookup_elem(&aw_slots, &id);
	struct aw_sandbox *sandbox = slot ? bpf_map_lookup_elem(&aw_sandboxes, slot) : 0;

	return sandbox && sandbox->id == id ? sandbox : 0;
}

static __always_inline void aw_rule_out(struct aw_case *c, __u8 verdict, __u8 reason)
{
	c->verdict = verdict;
	c->reason = reason;
	c->rule = AW_NO_RULE;
	c->terms = 0;
}

/* Each clock and cookie is asked for once, and only where it is needed. */
static __always_inline __u64 aw_now(struct aw_case *c)
{
	if (!c->now_ns)
		c->now_ns = bpf_ktime_get_boot_ns();
	return c->now_ns;
}

static __always_inline void aw_name_socket(void *ctx, struct aw_case *c)
{
	if (!c->cookie)
		c->cookie = bpf_get_socket_cookie(ctx);
}

/*
 * Makes the verifier forget what it knows of *number*; the program sees no difference. It follows a
 * path for each value that it knows, whether the program cares or not, which is most of the time that
 * loading takes: without this it looks at more than twice as many instructions. *noise* is any number that
 * it does not know.
 */
#define AW_BLUR(number, noise)                                                      \
	do {                                                                        \
		__u64 _number = (number);                                           \
		__u64 _noise = (noise);                                             \
                                                                                    \
		asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(_number) : "r"(_noise)); \
		(number) = _number;                                                 \
	} while (0)

#define AW_CASE_WORDS	(sizeof(struct aw_case) / 8)
#define AW_CASE_ADDRESS (offsetof(struct aw_case, id) / 8) /* words of both addresses */
#define AW_CASE_FINDINGS \
	(offsetof(struct aw_case, remote_port) / 8) /* the first word of the rest */

/* Blurs the addresses of *c*, and all that was found out or decided in numbers of few values. */
static __always_inline void aw_blur_case(struct aw_case *c, __u64 noise)
{
	__u64 *words = (void *)c;

	for (int i = 0; i < AW_CASE_WORDS; i++)
		if (i < AW_CASE_ADDRESS || i >= AW_CASE_FINDINGS)
			AW_BLUR(words[i], noise);
}

#define AW_COUNT(sandbox_id, field)                                                      \
	do {                                                                             \
		__u64 _id = (sandbox_id);                                                \
		struct aw_counters *_counters = bpf_map_lookup_elem(&aw_counters, &_id); \
                                                                                         \
		if (_counters)                                                           \
			__sync_fetch_and_add(&_counters->field, 1);                      \
	} while (0)

#endif /* AGENTWALL_CASE_H */
