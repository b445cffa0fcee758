/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Send a question while another thread writes a different one into the same buffer, to and fro: the
 * one that leaves must be the one that was read.
 *
 *   rewrite copied|lent SENDS ADDRESS PORT PERMITTED REFUSED
 *
 * lent: with MSG_ZEROCOPY, where the kernel sends the buffer itself. PERMITTED and REFUSED are
 * messages of one length, in hexadecimal. Prints how many sends succeeded and how many did not.
 */
#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PAGE 4096

static _Alignas(PAGE) unsigned char buffer[PAGE];
static unsigned char texts[2][512];
static size_t size;
static int is_done;

static size_t read_hex(const char *text, unsigned char *into)
{
	size_t count = strlen(text) / 2;

	if (count > sizeof(texts[0]))
		exit(2);
	for (size_t i = 0; i < count; i++)
		if (sscanf(text + 2 * i, "%2hhx", &into[i]) != 1)
			exit(2);
	return count;
}

static void *rewrite(void *unused)
{
	while (!__atomic_load_n(&is_done, __ATOMIC_RELAXED))
		for (int i = 0; i < 2; i++)
			memcpy(buffer, texts[i], size);
	return unused;
}

/* Notifications of sends that are over would fill the socket's memory. */
static void forget_notifications(int fd)
{
	char control[256];
	struct msghdr message = { .msg_control = control };

	do
		message.msg_controllen = sizeof(control);
	while (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0);
}

int main(int argc, char **argv)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), one = 1, flags = MSG_DONTWAIT;
	struct sockaddr_in to = { .sin_family = AF_INET };
	long sends, succeeded = 0, refused = 0;
	pthread_t thread;

	if (argc != 7 || fd < 0 || inet_pton(AF_INET, argv[3], &to.sin_addr) != 1)
		return 2;
	sends = atol(argv[2]);
	to.sin_port = htons(atoi(argv[4]));
	size = read_hex(argv[5], texts[0]);
	if (read_hex(argv[6], texts[1]) != size || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return 2;
	if (!strcmp(argv[1], "lent")) {
		if (setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
			return 3;
		flags |= MSG_ZEROCOPY;
	}
	memcpy(buffer, texts[0], size);
	pthread_create(&thread, NULL, rewrite, NULL);
	for (long i = 0; i < sends; i++) {
		if (send(fd, buffer, size, flags) == (ssize_t)size)
			succeeded++;
		else
			refused++;
		if (flags & MSG_ZEROCOPY)
			forget_notifications(fd);
	}
	__atomic_store_n(&is_done, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	printf("%ld %ld\n", succeeded, refused);
	return 0;
}
