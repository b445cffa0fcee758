/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times one network operation: probe OP ROUNDS prints the median nanoseconds per operation, a space,
 * and how many operations it did, warm-up included.
 *
 * The operation dns asks the server at port 53 of the address for the A record of a name, each time
 * on a socket of its own, as resolvers do, and waits for the answer: it needs somebody to answer.
 * Nobody else listens for it. For all others the listener is made before the probe joins the cgroup, in a network namespace of its own if one
 * is named: it stands for a server outside, and only the client's side is judged. They run in one
 * thread, so none of their figures holds a wake-up of another task.
 */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BATCH	 32
#define DATAGRAM 64
#define DNS_HEAD 12
#define PATIENCE 60 /* seconds that what must come may take */

struct operation {
	const char *name;
	int type; /* SOCK_* */
	bool asks; /* a server that is there already */
	void (*prepare)(struct rig *rig); /* inside the cgroup */
	void (*once)(const struct rig *rig);
	void (*after_batch)(const struct rig *rig); /* not timed */
};

void die(const char *what)
{
	fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
	exit(1);
}

int must(int result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

static void be_patient(int socket)
{
	struct timeval patience = { .tv_sec = PATIENCE };

	must(setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)),
	     "SO_RCVTIMEO");
}

static void no_client(struct rig *rig)
{
	rig->client = -1;
}

static void udp_client(struct rig *rig)
{
	rig->client = must(socket(rig->server.address.ss_family, SOCK_DGRAM, 0), "socket");
}

static void tcp_client(struct rig *rig)
{
	int size = BUFFER;

	rig->client = must(socket(rig->server.address.ss_family, SOCK_STREAM, 0), "socket");
	must(setsockopt(rig->client, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), "SO_SNDBUF");
	must(connect(rig->client, (struct sockaddr *)&rig->server.address, rig->server.size),
	     "connect");
	rig->accepted = must(accept(rig->listener, NULL, NULL), "accept");
}

static void tcp_once(const struct rig *rig)
{
	const struct sockaddr *address = (const struct sockaddr *)&rig->server.address;
	int client = must(socket(address->sa_family, SOCK_STREAM, 0), "socket");
	int accepted;

	must(connect(client, address, rig->server.size), "connect");
	accepted = must(accept(rig->listener, NULL, NULL), "accept");
	must(close(client), "close");
	must(close(accepted), "close");
}

static void sendto_once(const struct rig *rig)
{
	static const char datagram[DATAGRAM];

	must(sendto(rig->client, datagram, sizeof(datagram), 0,
		    (const struct sockaddr *)&rig->server.address, rig->server.size),
	     "sendto");
}

/*
 * Every datagram must arrive: a figure for dropped ones would be another figure. It may still be on
 * its way, where the kernel has left the far end of a veth to ksoftirqd.
 */
static void drain(const struct rig *rig)
{
	char datagram[DATAGRAM];

	for (int i = 0; i < BATCH; i++)
		must(recv(rig->listener, datagram, sizeof(datagram), 0), "recv");
}

static void udp_connect_once(const struct rig *rig)
{
	must(connect(rig->client, (const struct sockaddr *)&rig->server.address, rig->server.size),
	     "connect");
}

static void stream_once(const struct rig *rig)
{
	static char chunk[CHUNK];

	if (must(send(rig->client, chunk, sizeof(chunk), 0), "send") != sizeof(chunk) ||
	    must(recv(rig->accepted, chunk, sizeof(chunk), MSG_WAITALL), "recv") != sizeof(chunk)) {
		fprintf(stderr, "probe: tcp-stream: expected %d bytes at once, got fewer\n", CHUNK);
		exit(1);
	}
}

static void nothing(const struct rig *rig)
{
	(void)rig;
}

static unsigned char question[DNS_HEAD + 256 + 4] = { 0, 0, 1, 0, 0, 1 };
static size_t question_size;

/* RFC 1035, section 4.1: one question, recursion desired, type A, class IN. */
static void write_question(struct rig *rig)
{
	unsigned char *at = question + DNS_HEAD;
	const char *label = rig->name;
	size_t length;

	no_client(rig);
	do {
		length = strcspn(label, ".");
		if (!length || length > 63 || at + length + 6 > question + sizeof(question)) {
			fprintf(stderr, "probe: name: expected a domain name, got %s\n", rig->name);
			exit(2);
		}
		*at++ = length;
		memcpy(at, label, length);
		at += length;
		label += length;
	} while (*label++);
	memcpy(at, "\0\0\1\0\1", 5);
	question_size = at + 5 - question;
}

/* Only an answer with an address is one: a figure for refusals would be another figure. */
static void dns_once(const struct rig *rig)
{
	int client = must(socket(rig->server.address.ss_family, SOCK_DGRAM, 0), "socket");
	unsigned char answer[512];
	ssize_t size;

	question[1]++;
	be_patient(client);
	must(connect(client, (const struct sockaddr *)&rig->server.address, rig->server.size),
	     "connect");
	must(send(client, question, question_size, 0), "send");
	size = must(recv(client, answer, sizeof(answer), 0), "recv");
	if (size < DNS_HEAD || memcmp(answer, question, 2) || answer[3] & 15 ||
	    !(answer[6] | answer[7])) {
		fprintf(stderr, "probe: dns: expected an address for %s, got none\n", rig->name);
		exit(1);
	}
	must(close(client), "close");
}

static const struct operation operations[] = {
	{ "tcp", SOCK_STREAM, false, no_client, tcp_once, nothing },
	{ "tcp-stream", SOCK_STREAM, false, tcp_client, stream_once, nothing },
	{ "tcp-http", SOCK_STREAM, false, http_client, talk_once, nothing },
	{ "tcp-tls", SOCK_STREAM, false, tls_client, talk_once, nothing },
	{ "tcp-lines", SOCK_STREAM, false, lines_client, lines_once, nothing },
	{ "udp-sendto", SOCK_DGRAM, false, udp_client, sendto_once, drain },
	{ "udp-connect", SOCK_DGRAM, false, udp_client, udp_connect_once, nothing },
	{ "dns", SOCK_DGRAM, true, write_question, dns_once, nothing },
};

static const struct operation *find_operation(const char *name)
{
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		if (!strcmp(operations[i].name, name))
			return &operations[i];
	fprintf(stderr,
		"probe: operation: expected tcp, tcp-stream, tcp-http, tcp-tls, tcp-lines, "
		"udp-sendto, udp-connect or dns, got %s\n",
		name);
	exit(2);
}

static struct place parse_address(const char *address, const char *port)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	struct addrinfo *found;
	struct place place = {};

	if (getaddrinfo(address, port, &hints, &found)) {
		fprintf(stderr, "probe: address: expected a numeric address, got %s\n", address);
		exit(2);
	}
	memcpy(&place.address, found->ai_addr, found->ai_addrlen);
	place.size = found->ai_addrlen;
	freeaddrinfo(found);
	return place;
}

static void enter_netns(const char *path)
{
	int namespace = must(open(path, O_RDONLY | O_CLOEXEC), path);

	must(setns(namespace, CLONE_NEWNET), "setns");
	close(namespace);
}

/* Binds to a port the kernel chooses and writes it to *place*. */
static int listen_at(struct place *place, int type, const char *netns)
{
	int home = must(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), "/proc/self/ns/net");
	int listener, size = BUFFER;

	if (netns)
		enter_netns(netns);
	listener = must(socket(place->address.ss_family, type, 0), "socket");
	must(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), "SO_RCVBUF");
	be_patient(listener);
	must(bind(listener, (struct sockaddr *)&place->address, place->size), "bind");
	if (type == SOCK_STREAM)
		must(listen(listener, 16), "listen");
	must(getsockname(listener, (struct sockaddr *)&place->address, &place->size),
	     "getsockname");
	must(setns(home, CLONE_NEWNET), "setns");
	close(home);
	return listener;
}

static void join_cgroup(const char *path)
{
	int directory = must(open(path, O_DIRECTORY | O_CLOEXEC), path);
	int procs = must(openat(directory, "cgroup.procs", O_WRONLY | O_CLOEXEC), "cgroup.procs");

	must(write(procs, "0", 1), "cgroup.procs");
	close(procs);
	close(directory);
}

static void pin_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	must(sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static double time_batch(const struct operation *operation, const struct rig *rig)
{
	double start = now_ns();
	double end;

	for (int i = 0; i < BATCH; i++)
		operation->once(rig);
	end = now_ns();
	operation->after_batch(rig);
	return (end - start) / BATCH;
}

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

/* The median of batches: an interrupt or another guest of the machine spoils a few, not the figure. */
static void measure(const struct operation *operation, const struct rig *rig, long batches)
{
	double *figures = calloc(batches, sizeof(*figures));
	long warm_up = batches / 8 + 1;

	if (!figures)
		die("calloc");
	for (long i = 0; i < warm_up; i++)
		time_batch(operation, rig);
	for (long i = 0; i < batches; i++)
		figures[i] = time_batch(operation, rig);
	qsort(figures, batches, sizeof(*figures), compare);
	printf("%.1f %ld\n", figures[batches / 2], (warm_up + batches) * BATCH);
	free(figures);
}

struct request {
	const char *address;
	const char *netns; /* of the listener; NULL: the probe's own */
	const char *cgroup; /* NULL: stay */
	const char *name; /* to ask for */
	int cpu; /* -1: any */
};

static struct request parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "address", required_argument, NULL, 'a' },
		{ "listener-netns", required_argument, NULL, 'n' },
		{ "cgroup", required_argument, NULL, 'g' },
		{ "cpu", required_argument, NULL, 'c' },
		{ "name", required_argument, NULL, 'd' },
		{},
	};
	struct request request = { .address = "127.0.0.1", .name = "localhost", .cpu = -1 };
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'a':
			request.address = optarg;
			break;
		case 'n':
			request.netns = optarg;
			break;
		case 'g':
			request.cgroup = optarg;
			break;
		case 'c':
			request.cpu = atoi(optarg);
			break;
		case 'd':
			request.name = optarg;
			break;
		default:
			exit(2);
		}
	}
	return request;
}

int main(int argc, char **argv)
{
	struct request request = parse_options(argc, argv);
	const struct operation *operation;
	struct rig rig = {};
	long rounds;

	if (argc - optind != 2) {
		fprintf(stderr, "usage: probe [--address A] [--listener-netns PATH] "
				"[--cgroup PATH] [--cpu N] [--name N] OP ROUNDS\n");
		return 2;
	}
	operation = find_operation(argv[optind]);
	rounds = strtol(argv[optind + 1], NULL, 10);
	if (rounds < BATCH) {
		fprintf(stderr, "probe: rounds: expected at least %d, got %ld\n", BATCH, rounds);
		return 2;
	}
	if (request.cpu >= 0)
		pin_to(request.cpu);
	rig.name = request.name;
	rig.server = parse_address(request.address, operation->asks ? "53" : "0");
	if (!operation->asks)
		rig.listener = listen_at(&rig.server, operation->type, request.netns);
	if (request.cgroup)
		join_cgroup(request.cgroup);
	operation->prepare(&rig);
	measure(operation, &rig, rounds / BATCH);
	return 0;
}
