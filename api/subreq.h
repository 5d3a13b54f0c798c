#pragma once
/* A request made inside the server, on behalf of one that came from outside (MCP): the same routes, the same
 * checks of scope and body, the same answers, without a connection. What is collected is bounded. */

#include "api/http.h"

#define SUBREQ_ANSWER_MAX (8u << 20)

struct subreq;

struct subreq_spec {
	struct req *outer; /* whose account and server; borrowed for the call */
	const char *method;
	const char *target;	  /* "/v1/sandboxes?limit=1", percent-encoded */
	struct json_object *body; /* or NULL; stays the caller's */
};

/* As it came: headers only by their divergences ("" if none). p: borrowed, a JSON text or nothing. */
struct subreq_answer {
	unsigned int status;
	const char *p;
	size_t n;
	const char *divergence;
};

/* done() is called once, from the loop, unless it is cancelled before. -ENOMEM. */
int subreq_start(const struct subreq_spec *s, void (*done)(void *arg, const struct subreq_answer *a), void *arg,
		 struct subreq **ret);

/* The client is gone: as a connection that closes. */
void subreq_cancel(struct subreq *s);

/* For reply.c and http.c, with a request of this kind. */
void subreq_reply(struct req *r, unsigned int status, const char *p, size_t n);
void subreq_wake(struct req *r);
