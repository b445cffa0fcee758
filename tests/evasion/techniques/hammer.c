/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Race sends on one UDP socket: a verdict kept for one destination must not serve another.
 *
 *   hammer sendto  SENDS PERMITTED DENIED    two threads, one unconnected socket, one destination each
 *   hammer connect SENDS PERMITTED DENIED    one thread connects to and fro, two send
 *
 * PERMITTED and DENIED are A.B.C.D:PORT. Prints the sends that succeeded to the permitted and to
 * the denied destination (sendto), or in all and 0 (connect, where nobody can tell).
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct work {
	int fd;
	long sends;
	struct sockaddr_in to;
	long succeeded;
};

static int is_done;

static struct sockaddr_in parse_destination(char *text)
{
	char *colon = strchr(text, ':');
	struct sockaddr_in to = { .sin_family = AF_INET };

	if (!colon)
		exit(2);
	*colon = 0;
	to.sin_port = htons(atoi(colon + 1));
	if (inet_pton(AF_INET, text, &to.sin_addr) != 1)
		exit(2);
	return to;
}

static void *send_named(void *argument)
{
	struct work *work = argument;

	for (long i = 0; i < work->sends; i++)
		work->succeeded += sendto(work->fd, "racing", 6, MSG_DONTWAIT,
					  (struct sockaddr *)&work->to, sizeof(work->to)) == 6;
	return NULL;
}

static void *send_connected(void *argument)
{
	struct work *work = argument;

	for (long i = 0; i < work->sends; i++)
		work->succeeded += send(work->fd, "racing", 6, MSG_DONTWAIT) == 6;
	return NULL;
}

static void *reconnect(void *argument)
{
	struct work *both = argument;

	while (!__atomic_load_n(&is_done, __ATOMIC_RELAXED))
		for (int i = 0; i < 2; i++)
			connect(both[i].fd, (struct sockaddr *)&both[i].to, sizeof(both[i].to));
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[3];
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	int is_connected;
	struct work work[2] = {};

	if (argc != 5 || fd < 0)
		return 2;
	is_connected = strcmp(argv[1], "connect") == 0;
	for (int i = 0; i < 2; i++) {
		work[i].fd = fd;
		work[i].sends = atol(argv[2]) / 2;
		work[i].to = parse_destination(argv[3 + i]);
	}
	if (is_connected) {
		connect(fd, (struct sockaddr *)&work[0].to, sizeof(work[0].to));
		pthread_create(&threads[2], NULL, reconnect, work);
	}
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, is_connected ? send_connected : send_named,
			       &work[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	__atomic_store_n(&is_done, 1, __ATOMIC_RELAXED);
	if (is_connected)
		pthread_join(threads[2], NULL);
	printf("%ld %ld\n", work[0].succeeded, work[1].succeeded);
	return 0;
}
