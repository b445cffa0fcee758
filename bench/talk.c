/* SPDX-License-Identifier: Apache-2.0 */
/* New flows that say something: the part of the probe for signatures. */
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE 300 /* bytes of a request and of its answer */

static char said[2][MESSAGE];

/* A message of MESSAGE bytes: *head*, *filler* as often as it fits, *tail*. */
static char *write_message(char *message, const char *head, const char *filler, const char *tail)
{
	size_t at = strlen(head), end = MESSAGE - strlen(tail);

	memcpy(message, head, at);
	for (size_t i = 0; at < end; i++)
		message[at++] = filler[i % strlen(filler)];
	memcpy(message + end, tail, strlen(tail));
	return message;
}

void http_client(struct rig *rig)
{
	rig->client = -1;
	rig->request = write_message(said[0],
				     "GET /v1/models HTTP/1.1\r\nHost: models.example.com\r\n"
				     "Accept: application/json\r\nUser-Agent: ",
				     "probe/1.0 ", "\r\n\r\n");
	rig->answer = write_message(said[1],
				    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
				    "Content-Length: 214\r\n\r\n{\"models\": [",
				    "\"small\", ", "\"large\"]}");
}

/* Headers of a record and of a hello (RFC 8446, section 5.1); the rest might be anything. */
void tls_client(struct rig *rig)
{
	rig->client = -1;
	rig->request = memcpy(write_message(said[0], "", "random", ""),
			      "\x16\x03\x01\x01\x27\x01\x00\x01\x23\x03\x03", 11);
	rig->answer = memcpy(write_message(said[1], "", "random", ""),
			     "\x16\x03\x03\x01\x27\x02\x00\x01\x23\x03\x03", 11);
}

static void pass(int from, int to, const char *bytes, size_t size)
{
	static char read[CHUNK];

	if (must(send(from, bytes, size, 0), "send") != (int)size ||
	    must(recv(to, read, size, MSG_WAITALL), "recv") != (int)size) {
		fprintf(stderr, "probe: expected %zu bytes at once, got fewer\n", size);
		exit(1);
	}
}

void talk_once(const struct rig *rig)
{
	const struct sockaddr *address = (const struct sockaddr *)&rig->server.address;
	int client = must(socket(address->sa_family, SOCK_STREAM, 0), "socket");
	int accepted;

	must(connect(client, address, rig->server.size), "connect");
	accepted = must(accept(rig->listener, NULL, NULL), "accept");
	pass(client, accepted, rig->request, MESSAGE);
	pass(accepted, client, rig->answer, MESSAGE);
	must(close(client), "close");
	must(close(accepted), "close");
}

static char lines[CHUNK];

/* Objects one a line: what is looked for may come in any of them, so all of it is read. */
void lines_client(struct rig *rig)
{
	static const char line[] = "{\"id\": 7, \"method\": \"status.get\", \"params\": "
				   "[\"queue\", 12, true]}\n";

	rig->client = -1;
	for (size_t i = 0; i < CHUNK; i++)
		lines[i] = line[i % (sizeof(line) - 1)];
}

void lines_once(const struct rig *rig)
{
	const struct sockaddr *address = (const struct sockaddr *)&rig->server.address;
	int client = must(socket(address->sa_family, SOCK_STREAM, 0), "socket");
	int size = BUFFER, accepted;

	must(setsockopt(client, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), "SO_SNDBUF");
	must(connect(client, address, rig->server.size), "connect");
	accepted = must(accept(rig->listener, NULL, NULL), "accept");
	pass(client, accepted, lines, CHUNK);
	must(close(client), "close");
	must(close(accepted), "close");
}
