/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the probe share. */
#ifndef BENCH_PROBE_H
#define BENCH_PROBE_H

#include <stddef.h>
#include <sys/socket.h>

#define CHUNK  65536
#define BUFFER 212992 /* the usual limit for SO_SNDBUF; holds a chunk on its way */

struct place {
	struct sockaddr_storage address;
	socklen_t size;
};

/* What one operation works with. */
struct rig {
	struct place server;
	int listener;
	int client; /* -1 for dns and all of tcp but tcp-stream: each operation makes its own */
	int accepted; /* tcp-stream only */
	const char *name; /* dns only */
	const char *request; /* tcp-http and tcp-tls: MESSAGE bytes each */
	const char *answer;
};

void die(const char *what);

/* Returns *result*, which is not negative: else it ends the probe. */
int must(int result, const char *what);

/* tcp-http and tcp-tls: connect, a request of 300 bytes, an answer of 300 bytes, close. */
void http_client(struct rig *rig);
void tls_client(struct rig *rig);
void talk_once(const struct rig *rig);

/* tcp-lines: connect, CHUNK bytes of JSON lines, close. */
void lines_client(struct rig *rig);
void lines_once(const struct rig *rig);

#endif /* BENCH_PROBE_H */
