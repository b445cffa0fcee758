/* SPDX-License-Identifier: Apache-2.0 */
/* getaddrinfo of the C library it is built with: lookup NAME -> "ADDRESS" or "error NUMBER". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	char text[INET6_ADDRSTRLEN];
	int error;

	if (argc != 2)
		return 2;
	error = getaddrinfo(argv[1], NULL, &hints, &found);
	if (error) {
		printf("error %d\n", error);
		return 1;
	}
	for (struct addrinfo *each = found; each; each = each->ai_next) {
		const void *address =
			each->ai_family == AF_INET ?
				(void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr :
				(void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;

		puts(inet_ntop(each->ai_family, address, text, sizeof(text)));
	}
	freeaddrinfo(found);
	return 0;
}
