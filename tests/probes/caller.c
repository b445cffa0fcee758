// SPDX-License-Identifier: Apache-2.0
/* caller SCENARIO [COUNT]: calls the functions of library.c as the name of the scenario says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#define CONNECTION (void *)0x1000
#define OUTER	   (void *)0x2000
#define PLAIN_FILE (void *)0x4000

int SSL_write(void *, const void *, int);
int SSL_write_ex(void *, const void *, size_t, size_t *);
int SSL_read(void *, void *, int);
int SSL_read_ex(void *, void *, size_t, size_t *);
int SSL_connect(void *);
void SSL_free(void *);
ssize_t gnutls_record_send(void *, const void *, size_t);
ssize_t gnutls_record_send2(void *, const void *, size_t, size_t, unsigned);
ssize_t gnutls_record_recv(void *, void *, size_t);
int gnutls_handshake(void *);
void gnutls_deinit(void *);
void *SSL_ImportFD(void *, void *);
int PR_Write(void *, const void *, int);
int PR_Read(void *, void *, int);
int PR_Close(void *);

static char text[64], room[64];
static size_t size;

/* With something above the int, as a caller may leave it there. */
static void say_wide(unsigned long wide)
{
	int (*write)(void *, const void *, unsigned long) = (void *)SSL_write;

	write(CONNECTION, "wide", wide);
}

static void say_sizes(void)
{
	SSL_write(CONNECTION, "none", 0);
	SSL_write(CONNECTION, "negative", -1);
	SSL_write_ex(CONNECTION, "none", 0, &size);
	say_wide(0xdead00000004);
	SSL_write_ex(CONNECTION, "large", 0x100000005, &size);
}

static void say_in_loop(int count)
{
	for (int i = 0; i < count; i++) {
		snprintf(text, sizeof(text), "round %d", i);
		SSL_write(CONNECTION, text, 7);
	}
}

static void hear(void)
{
	SSL_read(CONNECTION, room, 4);
	SSL_read(CONNECTION, room, sizeof(room));
	size = sizeof(room);
	SSL_read_ex(CONNECTION, room, 4, &size);
	SSL_read_ex(CONNECTION, room, sizeof(room), &size);
}

static void call_gnutls(void)
{
	gnutls_handshake(CONNECTION);
	gnutls_record_send(CONNECTION, "through another", 15);
	gnutls_record_send(CONNECTION, NULL, 0);
	gnutls_record_send2(CONNECTION, "directly", 8, 0, 0);
	gnutls_record_recv(CONNECTION, room, 4);
	gnutls_record_recv(CONNECTION, room, sizeof(room));
	gnutls_deinit(CONNECTION);
}

static void call_nss(void)
{
	PR_Write(PLAIN_FILE, "to a file", 9);
	SSL_ImportFD(NULL, CONNECTION);
	PR_Write(CONNECTION, "to a peer", 9);
	PR_Read(CONNECTION, room, 4);
	PR_Read(CONNECTION, room, sizeof(room));
	PR_Read(PLAIN_FILE, room, sizeof(room));
	PR_Close(PLAIN_FILE);
	PR_Close(CONNECTION);
	PR_Write(CONNECTION, "to a new file", 13);
}

static void measure(int count)
{
	struct timespec from, to;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	for (int i = 0; i < count; i++)
		SSL_write(CONNECTION, "some text", 9);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	printf("%.1f\n", ((to.tv_sec - from.tv_sec) * 1e9 + to.tv_nsec - from.tv_nsec) / count);
}

int main(int argc, char **argv)
{
	const char *scenario = argc > 1 ? argv[1] : "";
	int count = argc > 2 ? atoi(argv[2]) : 1;

	if (!strcmp(scenario, "sizes"))
		say_sizes();
	else if (!strcmp(scenario, "loop"))
		say_in_loop(count);
	else if (!strcmp(scenario, "hear"))
		hear();
	else if (!strcmp(scenario, "nested"))
		SSL_read(OUTER, room, sizeof(room));
	else if (!strcmp(scenario, "shake"))
		SSL_connect(CONNECTION), SSL_free(NULL), SSL_free(CONNECTION);
	else if (!strcmp(scenario, "gnutls"))
		call_gnutls();
	else if (!strcmp(scenario, "nss"))
		call_nss();
	else if (!strcmp(scenario, "measure"))
		measure(count);
	else
		return 2;
	return 0;
}
