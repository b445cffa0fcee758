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

#include <linux/bpf.h>

#define AW_COMM_LEN	    16
#define AW_MAX_PROTOCOLS    8 /* IP protocols one policy may name beside TCP and UDP */
#define AW_NO_RULE	    0xffffffffU
#define AW_NAME_LEN	    254 /* bytes of a name as keys hold it: see struct aw_name_key */
#define AW_NAMES_OF_ADDRESS 8 /* names of one sandbox that one address can be learned under */

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
	AW_HOOK_PLAIN = 9, /* a call of a TLS library */
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
	AW_REASON_RESOLVER = 14, /* a declared DNS server: each question there is judged */
	AW_REASON_QUESTION = 15, /* a DNS question for a name that no rule permits */
	AW_REASON_NOT_A_QUESTION = 16, /* to a declared DNS server, but not one plain question */
	AW_REASON_NETNS = 17, /* DNS in another network namespace than the sandbox's */
	AW_REASON_FORGED = 18, /* sent in the name of a declared DNS server */
	AW_REASON_REBINDING = 19, /* an answer with a reserved address that no rule allows */
	AW_REASON_SERVER_NAME = 20, /* TLS or HTTP names a server that no rule permits there */
	AW_REASON_NO_SERVER_NAME = 21, /* TLS without a server name */
	AW_REASON_ECH = 22, /* TLS with an encrypted hello */
	AW_REASON_QUIC = 23, /* QUIC to an address known by name */
	AW_REASON_PROXY_TARGET = 24, /* a proxy is asked for what no rule permits */
	AW_REASON_SIGNATURE = 25, /* what is said matches a signature */
	AW_REASON_UNREADABLE = 26, /* what is said may still change, or reach the peer in parts */
};

enum aw_plain {
	AW_PLAIN_OFF = 0,
	AW_PLAIN_ALL = 1,
	AW_PLAIN_JOINED =
		2, /* only what goes to a flow that is known: some rule has AW_TERM_UNREAD */
};

/* enum of aw_sandbox.dns */
#define AW_DNS_DECLARED 0x01 /* the policy names DNS servers */
#define AW_DNS_ASK_ANY	0x02 /* names: any */
#define AW_DNS_SEARCH	0x04 /* dns.search is not empty */
#define AW_DNS_NAMES	0x08 /* rules name hosts */
#define AW_DNS_LOCAL	0x10 /* a declared server that is not on loopback may answer through lo */
#define AW_DNS_BELT	0x20 /* what aw_belts lists answers refused questions */

/*
 * Value of aw_sandboxes: the settings that decide how a sandbox is judged. Switching policy or mode is
 * one update of aw_slots, to a slot where other settings were written.
 */
struct aw_sandbox {
	__u64 id; /* of the sandbox; 0: of none. See aw_sandbox_of() */
	__u64 netns; /* cookie of the network namespace it was admitted with; 0: no DNS */
	__u64 blocks; /* groups of signatures that end a flow: see struct aw_accept */
	__u64 alerts; /* groups that are reported, beside those */
	__u64 until_ns; /* a mode other than ENFORCE counts only until then; 0: for ever */
	__u32 generation; /* which rules in aw_rules; never reused, so an old verdict cannot match */
	__u32 min_ttl_s; /* a learned address lives at least that long */
	__u32 max_addresses; /* learned at a time for one name */
	__u32 depth; /* octets of each side of a flow that signatures are looked for in */
	__u16 refuse_errno; /* positive; what a refused system call returns; 0 means EPERM */
	__u16 names; /* which part of aw_names: below 32768 */
	__u8 mode; /* enum aw_mode: see aw_mode_of() */
	__u8 loopback; /* enum aw_loopback */
	__u8 dns; /* AW_DNS_* */
	__u8 protocols[AW_MAX_PROTOCOLS]; /* beside TCP and UDP; 0 ends the list */
	__u8 signatures; /* 1 + index into aw_signatures; 0: none are looked for */
	__u8 scope; /* 1: judges only what belongs to no other sandbox below it: see aw_is_anothers() */
	__u8 plain; /* enum aw_plain: whether what is said inside TLS is read */
	__u8 _pad[6];
};
_Static_assert(sizeof(struct aw_sandbox) == 80, "aw_sandbox changed size");

/* Key of aw_rules, a longest-prefix trie. prefixlen counts table's 32 bits too. */
struct aw_rule_key {
	__u32 prefixlen;
	__u32 table; /* generation << 1 | enum aw_direction, host byte order */
	__u8 address[16];
};
_Static_assert(sizeof(struct aw_rule_key) == 24, "aw_rule_key changed size");

/* Bits of aw_interval_set.count. */
#define AW_SET_PERMITS 0x80000000U /* some interval of the set allows */
#define AW_SET_CLOSED  0x40000000U /* a reserved block without an allow: names open nothing here */
#define AW_SET_COUNT   0x3fffffffU

/* Value of aw_rules: a slice of aw_intervals. */
struct aw_interval_set {
	__u32 start;
	__u32 count; /* AW_SET_COUNT of it; 0: no rule matches */
};
_Static_assert(sizeof(struct aw_interval_set) == 8, "aw_interval_set changed size");

/* Bits of aw_interval.verdict above the verdict: on which terms it allows. */
#define AW_TERM_SHIFT	     8
#define AW_TERM_RESOLVER     0x0100 /* a declared DNS server */
#define AW_TERM_SNI_OPTIONAL 0x0200
#define AW_TERM_ECH_OUTER    0x0400 /* an encrypted hello is judged by its outer name */
#define AW_TERM_QUIC	     0x0800
#define AW_TERM_PROXY	     0x1000 /* what it is asked for is judged by the other rules */
#define AW_TERM_UNREAD	     0x2000 /* nothing inside TLS is read */

/* Value of aw_intervals. A set is sorted by first and disjoint. */
struct aw_interval {
	__u32 first; /* protocol << 16 | port, inclusive */
	__u32 last; /* inclusive */
	__u32 rule; /* index into the generation's rules */
	__u32 verdict; /* enum aw_verdict, ALLOW or DENY, and AW_TERM_* */
};
_Static_assert(sizeof(struct aw_interval) == 16, "aw_interval changed size");

/*
 * Key of aw_names, a longest-prefix trie. text is a name in lower case, last byte first, each label
 * followed by a dot: "moc.elpmaxe.buh." Zeros follow. So a suffix that ends between two labels is a
 * prefix. prefixlen counts table's 16 bits too, and no zeros.
 */
struct aw_name_key {
	__u32 prefixlen;
	__u16 table; /* aw_sandbox.names << 1; | 1: the suffixes of dns.search */
	__u8 text[AW_NAME_LEN];
};
_Static_assert(sizeof(struct aw_name_key) == 260, "aw_name_key changed size");

/* How far below the name of an entry a name lies. */
enum aw_name_depth {
	AW_NAME_EXACT = 0, /* it is that name */
	AW_NAME_LABEL = 1, /* one label more */
	AW_NAME_BELOW = 2, /* two labels more, or more than that */
};

/* Value of aw_names. It is complete: it holds what entries of shorter names say. */
struct aw_name_rules {
	struct aw_interval_set sets[3]; /* by enum aw_name_depth */
	__u16 length; /* of the entry's text */
	__u16 wider; /* table | 1: length of the longest other suffix that ends this one; or 0 */
	__u8 asks; /* bit 1 << enum aw_name_depth: may be asked even if nothing allows it */
	__u8 _pad[3];
};
_Static_assert(sizeof(struct aw_name_rules) == 32, "aw_name_rules changed size");

/* Key of aw_known: one name that a sandbox resolved. */
struct aw_known_key {
	__u64 sandbox;
	__u64 name; /* hash of the name */
};
_Static_assert(sizeof(struct aw_known_key) == 16, "aw_known_key changed size");

/* Value of aw_known. Outlives a switch of the policy: what rules say of it is looked up again. */
struct aw_known {
	struct bpf_spin_lock lock;
	__u32 generation; /* for which set holds; 0: none */
	struct aw_interval_set set; /* what the rules say of this name */
	__u64 seen_ns; /* last resolved, or last packet of a flow */
	__u32 addresses; /* entries of aw_bound that name it */
	__u16 length; /* of text */
	__u8 text[AW_NAME_LEN]; /* as in struct aw_name_key */
	__u8 _pad[4];
};
_Static_assert(sizeof(struct aw_known) == 288, "aw_known changed size");

/* Key of aw_bound: an address that a sandbox learned. */
struct aw_bound_key {
	__u64 sandbox;
	__u8 address[16];
};
_Static_assert(sizeof(struct aw_bound_key) == 24, "aw_bound_key changed size");

struct aw_binding {
	__u64 name; /* of aw_known_key; 0: unused */
	__u64 until_ns; /* counts no longer after that */
};
_Static_assert(sizeof(struct aw_binding) == 16, "aw_binding changed size");

/* Value of aw_bound: the names that this address was learned under. */
struct aw_bound {
	struct bpf_spin_lock lock;
	__u32 _pad;
	struct aw_binding names[AW_NAMES_OF_ADDRESS];
};
_Static_assert(sizeof(struct aw_bound) == 136, "aw_bound changed size");

/* Payload of the rings aw_denials and aw_flows. */
struct aw_event {
	__u64 time_ns;
	__u64 sandbox;
	__u64 cookie; /* of the socket; 0 in sock_create */
	__u64 name; /* of aw_known_key: what the remote was learned under; 0: no name */
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
_Static_assert(sizeof(struct aw_event) == 136, "aw_event changed size");

/*
 * Also in aw_denials: an event about a name that was asked, answered or said. For QUESTION and
 * NOT_A_QUESTION the remote is the DNS server; for REBINDING it is the address in the answer, with
 * port 0.
 */
struct aw_name_event {
	struct aw_event event;
	__u16 type; /* of the DNS question; 0: not DNS */
	__u16 length; /* of text */
	__u8 text[AW_NAME_LEN]; /* as in struct aw_name_key */
	__u8 _pad[6];
};
_Static_assert(sizeof(struct aw_name_event) == 400, "aw_name_event changed size");

/* Key of aw_flow_table: traffic that passed, one entry a process and destination. */
struct aw_flow_key {
	__u64 sandbox;
	__u64 name; /* of aw_known_key; 0: none */
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
_Static_assert(sizeof(struct aw_flow_key) == 56, "aw_flow_key changed size");

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
	__u64 lost_denials; /* events that found aw_denials full, or were over aw_event_budget */
	__u64 lost_flows; /* events that found aw_flows full */
	__u64 lost_totals; /* flows that found aw_flow_table full: their bytes are not counted */
	__u64 lost_names; /* addresses that found no room in aw_known or aw_bound, or over the limit */
	__u64 bound; /* entries of aw_bound; goes down as well */
	__u64 lost_excerpts; /* octets for the decoders that found aw_excerpts full */
	__u64 matches; /* of signatures, reported or not */
	__u64 window; /* number of the span that events belongs to: see aw_may_report() */
	__u64 events; /* put into aw_denials in that span */
	__u64 hello_window; /* as window, of hellos */
	__u64 hellos; /* struct aw_hello_event put into aw_excerpts in that span */
	__u64 lost_hellos; /* that found no room there, or were too many at a time */
};
_Static_assert(sizeof(struct aw_counters) == 120, "aw_counters changed size");

/* Value of aw_belts, u32. */
#define AW_BELT_STANDS	   0x1
#define AW_BELT_TRANSLATED 0x2 /* answers also what was translated to another port than 53 */

/* Key of aw_belts: an interface. */
struct aw_belt_key {
	__u64 netns; /* cookie of its network namespace */
	__u32 ifindex;
	__u32 _pad;
};
_Static_assert(sizeof(struct aw_belt_key) == 16, "aw_belt_key changed size");

#include "signatures.h"
#include "plain.h"

#endif /* AGENTWALL_ABI_H */
