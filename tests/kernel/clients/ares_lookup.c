/* SPDX-License-Identifier: Apache-2.0 */
/* The same with c-ares: ares_lookup NAME -> "ADDRESS" or "error NUMBER". */
#include <ares.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/select.h>
#include <sys/socket.h>

static int status = ARES_ENOTINITIALIZED;

static void on_found(void *unused, int result, int timeouts, struct ares_addrinfo *found)
{
	char text[INET6_ADDRSTRLEN];

	(void)unused;
	(void)timeouts;
	status = result;
	if (result != ARES_SUCCESS) {
		printf("error %d\n", result);
		return;
	}
	for (struct ares_addrinfo_node *each = found->nodes; each; each = each->ai_next) {
		const void *address =
			each->ai_family == AF_INET ?
				(void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr :
				(void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;

		puts(inet_ntop(each->ai_family, address, text, sizeof(text)));
	}
	ares_freeaddrinfo(found);
}

int main(int argc, char **argv)
{
	struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	ares_channel channel;

	if (argc != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 2;
	ares_getaddrinfo(channel, argv[1], NULL, &hints, on_found, NULL);
	for (;;) {
		fd_set readable, writable;
		struct timeval left;
		int count;

		FD_ZERO(&readable);
		FD_ZERO(&writable);
		count = ares_fds(channel, &readable, &writable);
		if (!count)
			break;
		select(count, &readable, &writable, NULL, ares_timeout(channel, NULL, &left));
		ares_process(channel, &readable, &writable);
	}
	ares_destroy(channel);
	return status != ARES_SUCCESS;
}
