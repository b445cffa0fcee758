/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Structs and enums shared by the BPF programs and agentwall/kernel/abi.py.
 *
 * Rules: fixed-width types only; fields in descending size; padding spelled out as _pad; no
 * pointers, no bitfields, no packed; one _Static_assert per struct. Addresses are 16 bytes in
 * network byte order, IPv4 as ::ffff:a.b.c.d. Ports are host byte order. Times are nanoseconds of
 * CLOCK_BOOTTIME.
 */
#ifndef AGENTWALL_ABI_H
#define AGENTWALL_ABI_H

#define AW_COMM_LEN	 16
#define AW_MAX_PROTOCOLS 8 /* IP protocols one policy may name beside TCP and UDP */
#define AW_NO_RULE	 0xffffffffU

enum aw_verdict {
	AW_VERDICT_NONE = 0, /* not judged yet */
	AW_VERDICT_ALLOW = 1,
	AW_VERDICT_DENY = 2,
	AW_VERDICT_WOULD_DENY = 3, /* let through: the mode is audit */
};

enum aw_mode {
	AW_MODE_ENFORCE = 0, /* zeroed memory enforces */
	AW_MODE_AUDIT = 1,
	AW_MODE_OBSERVE = 2,
};

enum aw_loopback {
	AW_LOOPBACK_CLOSED = 0, /* only what rules list; zeroed memory is closed */
	AW_LOOPBACK_OWN_LISTENERS = 1,
	AW_LOOPBACK_FREE = 2,
};

enum aw_direction {
	AW_DIRECTION_OUT = 0,
	AW_DIRECTION_IN = 1,
};

enum aw_hook {
	AW_HOOK_CONNECT4 = 1,
	AW_HOOK_CONNECT6 = 2,
	AW_HOOK_SENDMSG4 = 3,
	AW_HOOK_SENDMSG6 = 4,
	AW_HOOK_SOCK_CREATE = 5,
	AW_HOOK_EGRESS = 6,
	AW_HOOK_INGRESS = 7,
	AW_HOOK_SOCK_RELEASE = 8,
};

/* Why a verdict is what it is; agentwall/flow/verdict.py explains each. */
enum aw_reason {
	AW_REASON_RULE = 1,
	AW_REASON_NO_RULE = 2,
	AW_REASON_LOOPBACK = 3,
	AW_REASON_SOCKET_TYPE = 4,
	AW_REASON_FRAGMENT = 5,
	AW_REASON_IP_OPTIONS = 6,
	AW_REASON_ROUTING_HEADER = 7,
	AW_REASON_EXTENSION_HEADERS = 8,
	AW_REASON_MALFORMED = 9,
	AW_REASON_TRANSLATED = 10,
	AW_REASON_NO_STORAGE = 11,
	AW_REASON_NO_SANDBOX = 12,
	AW_REASON_OBSERVED = 13,
};

/*
 * Value of aw_sandboxes: the one entry that decides how a sandbox is judged. Switching policy or
 * mode is one update of it. Key: the u64 sandbox id; 0 is never a sandbox.
 */
struct aw_sandbox {
	__u32 generation; /* which rules in aw_rules; never reused, so an old verdict cannot match */
	__u16 refuse_errno; /* positive; what a refused system call returns; 0 means EPERM */
	__u8 mode; /* enum aw_mode */
	__u8 loopback; /* enum aw_loopback */
	__u8 protocols[AW_MAX_PROTOCOLS]; /* beside TCP and UDP; 0 ends the list */
};
_Static_assert(sizeof(struct aw_sandbox) == 16, "aw_sandbox changed size");

/* Key of aw_rules, a longest-prefix trie. prefixlen counts table's 32 bits too. */
struct aw_rule_key {
	__u32 prefixlen;
	__u32 table; /* generation << 1 | enum aw_direction, host byte order */
	__u8 address[16];
};
_Static_assert(sizeof(struct aw_rule_key) == 24, "aw_rule_key changed size");

#define AW_SET_PERMITS 0x80000000U /* bit of count: some interval of the set allows */

/* Value of aw_rules: a slice of aw_intervals. */
struct aw_interval_set {
	__u32 start;
	__u32 count; /* low 31 bits; 0: no rule matches */
};
_Static_assert(sizeof(struct aw_interval_set) == 8, "aw_interval_set changed size");

/* Value of aw_intervals. A set is sorted by first and disjoint. */
struct aw_interval {
	__u32 first; /* protocol << 16 | port, inclusive */
	__u32 last; /* inclusive */
	__u32 rule; /* index into the generation's rules */
	__u32 verdict; /* enum aw_verdict: ALLOW or DENY */
};
_Static_assert(sizeof(struct aw_interval) == 16, "aw_interval changed size");

/* Payload of the rings aw_denials and aw_flows. */
struct aw_event {
	__u64 time_ns;
	__u64 sandbox;
	__u64 cookie; /* of the socket; 0 in sock_create */
	__u8 remote[16]; /* all zero with protocol and port 0: no remote (sock_create) */
	__u8 claimed[16]; /* what connect was asked for; used when claimed_port is not 0 */
	__u8 local[16]; /* all zero: not known */
	__u32 generation;
	__u32 rule; /* AW_NO_RULE: none */
	__u32 pid; /* thread group id, initial PID namespace; 0: not known */
	__u32 uid; /* initial user namespace */
	__u32 size; /* bytes of the packet from the IP header on; 0: no packet */
	__u16 remote_port;
	__u16 claimed_port;
	__u16 local_port;
	__u16 errno_; /* returned to the application; 0: none */
	__u8 protocol; /* IANA number; for sock_create what socket() was asked for */
	__u8 hook; /* enum aw_hook */
	__u8 verdict; /* enum aw_verdict */
	__u8 reason; /* enum aw_reason */
	__u8 direction; /* enum aw_direction */
	__u8 socket_type; /* SOCK_STREAM, ... */
	__u8 _pad[6];
	char comm[AW_COMM_LEN];
};
_Static_assert(sizeof(struct aw_event) == 128, "aw_event changed size");

/* Key of aw_flow_table: traffic that passed, one entry a process and destination. */
struct aw_flow_key {
	__u64 sandbox;
	__u8 remote[16];
	__u32 generation;
	__u32 rule;
	__u32 pid;
	__u16 port; /* the judged one: the remote's outward, the sandbox's own inward */
	__u8 protocol;
	__u8 direction;
	__u8 verdict; /* ALLOW or WOULD_DENY */
	__u8 reason;
	__u8 _pad[6];
};
_Static_assert(sizeof(struct aw_flow_key) == 48, "aw_flow_key changed size");

struct aw_flow {
	__u64 first_ns;
	__u64 last_ns;
	__u64 bytes_out; /* IP bytes */
	__u64 bytes_in;
	__u64 duration_ns; /* sum over ended sockets */
	__u64 sockets;
	__u32 uid;
	__u32 _pad;
	char comm[AW_COMM_LEN];
};
_Static_assert(sizeof(struct aw_flow) == 72, "aw_flow changed size");

/* Value of aw_counters, one a sandbox; entry 0 counts what has no sandbox. */
struct aw_counters {
	__u64 denied; /* every refusal, reported or not */
	__u64 would_denied;
	__u64 probes; /* UDP connect() refused: it sends nothing, getaddrinfo does it */
	__u64 lost_denials; /* events that found aw_denials full */
	__u64 lost_flows; /* events that found aw_flows full */
	__u64 lost_totals; /* flows that found aw_flow_table full: their bytes are not counted */
};
_Static_assert(sizeof(struct aw_counters) == 48, "aw_counters changed size");

#endif /* AGENTWALL_ABI_H */
