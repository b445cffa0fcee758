/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The part of abi.h that is about what processes hand to their TLS libraries. bpf/probes/ includes it
 * too, which is compiled by bcc: fixed-width types and nothing else.
 */
#ifndef AGENTWALL_PLAIN_H
#define AGENTWALL_PLAIN_H

#define AW_PLAIN_BURST 65536 /* octets of one call that are read, at most */

/* What a thread does with its TLS library. */
enum aw_plain_act {
	AW_PLAIN_SHAKE = 1, /* begins or goes on with a handshake */
	AW_PLAIN_SAY = 2, /* hands over text that is to leave */
	AW_PLAIN_HEAR = 3, /* has got text that came */
	AW_PLAIN_END = 4, /* frees the connection */
};

enum aw_plain_library {
	AW_PLAIN_OPENSSL = 1,
	AW_PLAIN_GNUTLS = 2,
	AW_PLAIN_NSS = 3,
};

/*
 * Value of aw_plain_calls: the last call of a thread. Key: u64, the address of its task in the kernel,
 * which is all that egress can know of who runs. The probe writes it and goes on to aw_plain by the
 * only entry of aw_plain_next.
 */
struct aw_plain_call {
	__u64 sandbox;
	__u64 connection; /* address, in the process, of an SSL, a gnutls_session_t or a PRFileDesc */
	__u64 before; /* the last other connection that this thread called for; 0: none */
	__u64 text; /* address, in the process */
	__u64 size; /* octets of text */
	__u64 stack; /* pointer at the call: tells two probes at one place from two calls */
	__u64 since_ns; /* CLOCK_BOOTTIME */
	__u64 cookie; /* of the probe, one per library and call; 0: this kernel or bcc has none */
	__u32 process; /* thread group id, initial PID namespace */
	__u32 turn; /* of the thread among those of its sandbox, see aw_take_turn(); 0: none yet */
	__u16 place; /* low bits of the address of the function that was called */
	__u8 act; /* enum aw_plain_act */
	__u8 library; /* enum aw_plain_library */
	__u8 _pad[4];
};
_Static_assert(sizeof(struct aw_plain_call) == 80, "aw_plain_call changed size");

#define AW_PLAIN_READS \
	8 /* of one thread; they nest where TLS goes through TLS, and their stacks differ */

/* A read that has not returned. */
struct aw_plain_read {
	__u64 stack; /* as it will be at the return; 0: none */
	__u64 sandbox;
	__u64 connection;
	__u64 text;
	__u64 size_at; /* address of a size_t that will have the size; 0: it is what is returned */
	__u64 cookie;
	__u32 place;
	__u32 _pad;
};

/*
 * Value of aw_plain_reads, what the kernel keeps with a thread, and lets go with it: a thread takes
 * nothing from others. The probes alone use it.
 */
struct aw_plain_reads {
	struct aw_plain_read reads[AW_PLAIN_READS];
	__u64 given_up; /* reads that never returned, and made room */
};

/* Key of aw_plain_connections. */
struct aw_plain_key {
	__u64 sandbox;
	__u64 connection; /* as in struct aw_plain_call */
	__u32 process;
	__u32 _pad;
};
_Static_assert(sizeof(struct aw_plain_key) == 24, "aw_plain_key changed size");

/*
 * aw_plain_cgroups says which sandbox a process is in: u64 id of a cgroup that a sandbox was admitted
 * with -> u64 sandbox. The innermost counts.
 */

/* In aw_plain_counters, a per-CPU array with one entry. Each only grows. */
struct aw_plain_counters {
	__u64 calls; /* of processes in sandboxes */
	__u64 foreign; /* of processes that are in none */
	__u64 doubled; /* seen before: the library is probed twice */
	__u64 lost; /* calls or connections that found no room: not read */
	__u64 unreadable; /* whose text could not be read */
	__u64 connections; /* begun */
	__u64 joined; /* of them, those whose flow is known */
	__u64 octets; /* read */
};
_Static_assert(sizeof(struct aw_plain_counters) == 64, "aw_plain_counters changed size");

#endif /* AGENTWALL_PLAIN_H */
