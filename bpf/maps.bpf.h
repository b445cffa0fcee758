/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map, declared once. maps.bpf.c defines AW_DEFINE_MAPS; all others link to it. */
#ifndef AGENTWALL_MAPS_H
#define AGENTWALL_MAPS_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"
#include "heard.bpf.h"
#include "scanned.bpf.h"

/*
 * On a function that is neither static nor inlined: the verifier looks at it once, on its own, for
 * whatever numbers it is given, instead of once for each call.
 */
#define AW_GLOBAL	    __attribute__((noinline))

#define AW_DNS_PORT	    53
#define AW_LOOPBACK_IFINDEX 1 /* of lo in every network namespace */

#ifdef AW_DEFINE_MAPS
#define AW_MAP
#else
#define AW_MAP extern
#endif

/*
 * Set by user space before the object is loaded. aw_test_sandbox stands in for aw_sandbox_id in
 * objects that tests load for prog_test_run, which hands programs a zeroed copy of cgroup storage;
 * the loader refuses a shipped object where it is not 0.
 */
AW_MAP const volatile __u64 aw_test_sandbox;
AW_MAP const volatile __u8 aw_have_set_retval; /* bpf_set_retval: Linux 5.18 and later */
AW_MAP const volatile __u32 aw_belt_mark; /* secret skb->mark of what aw_belt answers; 0: no belt */
AW_MAP const volatile __u64 aw_hash_seed; /* of the hashes of names: see message.bpf.h */
AW_MAP const volatile __u32 aw_event_budget; /* see aw_may_report(); 0: no limit */

/*
 * The sandbox a link was attached for. The kernel makes the entry, zeroed, at attach: 0 means deny.
 * The layout is frozen for ever: a link can only be updated to a program with the same storage map.
 */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, __u64);
} aw_sandbox_id SEC(".maps");

/* Where in aw_sandboxes the settings of a sandbox lie now. Key: the u64 sandbox id; 0 is never one. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} aw_slots SEC(".maps");

/* Twice as many as there are sandboxes: each write of settings takes another. See aw_sandbox_of(). */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct aw_sandbox);
} aw_sandboxes SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_rule_key);
	__type(value, struct aw_interval_set);
} aw_rules SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct aw_interval);
} aw_intervals SEC(".maps");

/* What the rules say of names. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_name_key);
	__type(value, struct aw_name_rules);
} aw_names SEC(".maps");

/* The names that sandboxes resolved, and what they were resolved to. User space removes what is old. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_known_key);
	__type(value, struct aw_known);
} aw_known SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_bound_key);
	__type(value, struct aw_bound);
} aw_bound SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct aw_hello);
} aw_hellos SEC(".maps");

#define AW_MESSAGE_LEN 4096 /* of a DNS message: longer ones are read so far */
#define AW_ANSWERS     32 /* addresses taken from one message */

struct aw_answer {
	__u8 address[16];
	__u32 ttl_s;
	__u32 _pad;
};

#define AW_RECORDS 64 /* walked of one DNS answer */
#define AW_CHAIN   16 /* names that one question can lead to, itself among them */

/* A record of an answer that may say something: A, AAAA or CNAME. Names are hashes; 0: no name. */
struct aw_record {
	__u64 owner;
	__u64 target; /* of a CNAME */
	__u32 ttl_s;
	__u16 data; /* where its data begins in the message */
	__u8 kind; /* as answer.bpf.c counts them */
	__u8 taken; /* its owner is in the chain */
};

/*
 * Memory to read one name or message in, for the time of one program run. Not per CPU: a program can
 * be preempted by another run of itself there. See aw_claim_work().
 */
struct aw_work {
	struct bpf_spin_lock lock;
	__u32 taken;
	__u64 hash; /* of the name in key, see aw_known_key */
	__u32 size; /* bytes of message; at most AW_MESSAGE_LEN */
	__u16 id; /* of the DNS message, host byte order */
	__u16 type; /* of the question */
	__u16 length; /* of key.text */
	__u8 protocol; /* that brought the message */
	__u8 _pad;
	__u32 at; /* where the reader stands in message */
	__u32 left;
	__u32 answers;
	struct aw_name_key key; /* the name in question; prefixlen covers it, table is the caller's */
	struct aw_cursor cursor; /* of the automaton in message */
	struct aw_reading reading;
	struct aw_hello hello; /* a copy of the socket's, while its bytes are read */
	struct aw_name_key rest; /* of key, without a suffix */
	struct aw_answer answer[AW_ANSWERS];
	/* Room for a struct aw_known and a struct aw_bound, whose locks a value cannot hold. */
	__u64 known[36];
	__u64 bound[17];
	__u64 about[24]; /* a struct aw_case: more than the stack has room for */
	__u64 event[50]; /* a struct aw_name_event */
	__u64 chain[AW_CHAIN]; /* hashes of the names that the question leads to */
	/* From here on answer.bpf.c's own. */
	__u64 name; /* hash of an owner or a target */
	__u32 octets; /* of that name, so far */
	__u32 dotted; /* a label of it has a dot in it */
	__u32 floor; /* where its present run of labels begins: pointers must lead below */
	__u32 jumps;
	__u32 after; /* what follows the name; 0: it has not ended or jumped yet */
	__u32 records;
	__u32 links; /* of chain */
	__u32 _pad2;
	struct aw_record record[AW_RECORDS];
	__u8 message[AW_MESSAGE_LEN];
};

#include "spoken.bpf.h"

#define AW_WORKS 256 /* a power of two */

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AW_WORKS);
	__type(key, __u32);
	__type(value, struct aw_work);
} aw_works SEC(".maps");

#define AW_SOCKET_LISTENER  0x1 /* seen listening; set in a clone: that socket was accepted */
#define AW_SOCKET_PERMITTED 0x2 /* a packet of the flow was once permitted: its RST may pass */
#define AW_SOCKET_RELEASED  0x4 /* the application closed it; the kernel may still send */
/* Addresses that one sandbox can have learned at a time; half of that under names it may not reach. */
#define AW_BOUND_LIMIT	   32768

#define AW_SOCKET_SAID	   0x20 /* name is what the flow said, not what the address was learned under */
#define AW_SOCKET_ALL_SAID 0x40 /* nothing more is to be listened to */
#define AW_SOCKET_USER	   0x8 /* made by socket() or accept(): sock_release will tell of its end */

/*
 * What is known of one socket: the last verdict, which counts only for exactly the protocol, remote
 * and generation it was made for, and the traffic it let through. Cloned to accepted sockets.
 */
struct aw_socket {
	struct bpf_spin_lock lock; /* see aw_is_serial() */
	__u32 generation; /* 0: no verdict */
	__u64 sandbox; /* that judged it last, the innermost first; 0: none yet */
	__u64 above; /* the scope that passed it last; 0: none */
	__u64 netns; /* cookie of its network namespace; 0: not known, for skb programs cannot ask */
	__u64 since_ns; /* start of the span that the next flush adds to duration_ns */
	__u64 flushed_jiffies;
	__u64 bytes_out; /* since the last flush */
	__u64 bytes_in;
	__u64 remote[2];
	__u64 name; /* that the remote was learned under; outlives its expiry as long as the flow */
	__u64 claimed[2]; /* what the application asked for in connect or sendmsg */
	__u32 rule;
	__u32 pid;
	__u32 uid;
	__u16 remote_port;
	__u16 claimed_port;
	__u16 local_port;
	__u8 protocol;
	__u8 verdict; /* ALLOW or DENY: what the rules say, whatever the mode */
	__u8 reason;
	__u8 direction;
	__u8 mode; /* under which the verdict was reported */
	__u8 flags; /* AW_SOCKET_* */
	__u8 terms; /* of the verdict: see struct aw_case */
	char comm[AW_COMM_LEN];
	struct aw_scan scan;
	struct aw_spoken spoken;
};

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct aw_socket);
} aw_sockets SEC(".maps");

/* The questions a socket asked that may still be answered. */
#define AW_QUESTIONS 32

struct aw_question {
	__u64 name; /* hash; 0: none */
	__u16 id;
	__u16 type;
	__u32 _pad;
};

struct aw_asked {
	struct bpf_spin_lock lock;
	__u32 next; /* questions[next % AW_QUESTIONS] is overwritten next */
	struct aw_question questions[AW_QUESTIONS];
};

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct aw_asked);
} aw_asked SEC(".maps");

/* Bytes of an answer over TCP: Linux 7.3 has no more than 8 KiB for what a socket keeps, all told. */
#define AW_STREAM_LEN 2048

/* DNS over one TCP connection, both ways. */
struct aw_stream {
	__u32 out_next; /* sequence number up to which questions were judged */
	__u32 in_next; /* and of the answers */
	__u32 have; /* bytes of the current answer that came, those of its length included */
	__u8 prefix[2]; /* those two */
	__u8 _pad[2];
	/* Half of it is used: the verifier adds the most that place and length can each be. */
	__u8 message[2 * AW_STREAM_LEN];
};

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct aw_stream);
} aw_streams SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AW_SIGNATURE_TABLES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct aw_signatures);
} aw_signatures SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_except_key);
	__type(value, __u64);
} aw_excepts SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct aw_tail);
} aw_tails SEC(".maps");

/* A remote that sent a datagram which an inbound rule permits; it may be answered for a while. */
struct aw_peer_key {
	__u64 cookie; /* of the receiving socket */
	__u64 remote[2];
	__u64 port;
};

#define AW_PEER_NS (30LL * 1000 * 1000 * 1000)

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct aw_peer_key);
	__type(value, __u64); /* when it was last heard */
} aw_peers SEC(".maps");

/* Two rings of struct aw_event: a flood of permitted flows must not hide a denial. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} aw_denials SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} aw_flows SEC(".maps");

/* struct aw_excerpt_event. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} aw_excerpts SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_flow_key);
	__type(value, struct aw_flow);
} aw_flow_table SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4097);
	__type(key, __u64);
	__type(value, struct aw_counters);
} aw_counters SEC(".maps");

/* Where aw_belt stands: egress may mark what leaves there. Value: AW_BELT_*. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct aw_belt_key);
	__type(value, __u32);
} aw_belts SEC(".maps");

#endif /* AGENTWALL_MAPS_H */
