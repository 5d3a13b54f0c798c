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

/* Sends a request's head alone. length: of the body that follows; headers: more of them, each with its CR LF. */
int client_head(struct client *c, const char *method, const char *path, const char *headers, uint64_t length,
		struct err *e);
/* Reads the answer to what was sent into c. */
int client_answer(struct client *c, struct err *e);
/* Reads the answer, whatever its size, and writes its body to the fd `to`, or forgets it (-1). *ret: its bytes as they
 * came (chunks' heads with them). */
int client_drain(struct client *c, int to, uint64_t *ret, struct err *e);

/* Sends one request (body may be NULL) and reads its answer into c. A status is no error. */
int client_call(struct client *c, const char *method, const char *path, const char *body, struct err *e);
