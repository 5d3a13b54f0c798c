#pragma once
/* The cheapest HTTP client that is still a fair one: one keep-alive connection, one write a request, one
 * read an answer where it fits. Cheap, so that what is measured is the server. */

#include "emulator/base/buf.h"
#include "emulator/base/err.h"

struct client {
	int fd;
	char key[64];
	struct buf in; /* the answer as received */
	int status;
	const char *body; /* within `in`, NUL-terminated */
	size_t body_len;
};

#define CLIENT_INIT ((struct client){ .fd = -1, .in = BUF_INIT(4u << 20) })

/* Connects to 127.0.0.1:port. key: the bearer token. */
int client_open(struct client *c, uint16_t port, const char *key, struct err *e);
void client_close(struct client *c);

/* Sends one request (body may be NULL) and reads its answer into c. A status is no error. */
int client_call(struct client *c, const char *method, const char *path, const char *body, struct err *e);

/* A PUT of n bytes as they are. */
int client_upload(struct client *c, const char *path, const void *p, size_t n, struct err *e);
