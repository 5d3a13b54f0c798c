#pragma once
/* The HTTP server: libmicrohttpd as one more fd in the libuv loop (external epoll, no thread), a route
 * table, and `struct req`, one request as handlers see it. Only api/ includes this.
 *
 * Life of a request: headers -> route -> token and scope -> body -> handle(). handle() answers with one of
 * the req_reply_ functions, at once or later from the loop; until then the connection is suspended. Every
 * answer gets X-Request-Id, X-Orkestr-Emulator, and X-Orkestr-Divergence where a handler named one.
 * Errors found before handle() (404, 405 with Allow, 401, 429, 403, 413) are answered by the server itself. */

#include <json-c/json.h>

#include "emulator/account.h"
#include "emulator/base/buf.h"
#include "emulator/base/err.h"

struct uv_loop_s;
struct http;
struct req;
struct api; /* what handlers work on; api/api.h */

struct route {
	const char *method;
	const char *pattern; /* "/v1/sandboxes/{id}/exec": {name} matches one segment; literals win over it */
	unsigned int scope;  /* SCOPE_* the token must have; 0: no token asked for */
	size_t body_max;     /* bytes collected for req_body(); more is 413. 0 with no data(): a body is ignored.
			      * With data(): the most it is given, 0 for no limit */
	void (*handle)(struct req *r);
	/* Optional, for large bodies: data() gets them piece by piece instead, after begin() (once, before any
	 * byte). Either may answer early by calling a req_reply_; the rest of the body is then discarded. */
	void (*begin)(struct req *r);
	void (*data)(struct req *r, const char *p, size_t n);
};

struct http_config {
	struct uv_loop_s *loop;
	struct api *api;
	const struct accounts *accounts;
	struct ratelimits *limits; /* NULL: none */
	int listen_fd; /* bound and listening; taken */
	int unix_fd;   /* the same for --unix, or -1 */
	unsigned int max_connections;
	unsigned int idle_timeout_s; /* half-sent requests end after this long */
};

int http_new(const struct http_config *c, struct http **ret, struct err *e);
/* Routes must outlive the server. */
void http_add_routes(struct http *h, const struct route *routes, size_t n);
int http_start(struct http *h, struct err *e);
void http_stop_listening(struct http *h); /* for a clean stop: running requests go on */
/* Ends every request (on_gone runs). The loop must run once more for the memory to go. NULL is fine. */
void http_free(struct http *h);

struct api *req_api(const struct req *r);
const struct account *req_account(const struct req *r); /* NULL on routes without a token */
const char *req_id(const struct req *r);		/* X-Request-Id */
const char *req_param(const struct req *r,
		      const char *name); /* percent-decoded; never NULL for a {name} of the pattern */
const char *req_query(const struct req *r, const char *name);  /* percent-decoded, or NULL */
const char *req_header(const struct req *r, const char *name); /* or NULL */
const struct buf *req_body(const struct req *r);
bool req_accepts(const struct req *r, const char *type); /* the Accept header names exactly this type */

/* The body as a JSON object (borrowed), or NULL after answering 422/400 itself. An empty body is {}. */
struct json_object *req_json(struct req *r);

/* In data(): the last `left` of the bytes it was given were not taken. Nothing more is read from the client
 * until req_wake(); then they come again. left is not 0, and not more than was given. */
void req_hold(struct req *r, size_t left);

/* A handler's own state, freed with the request. */
void req_set_data(struct req *r, void *data, void (*free_fn)(void *data));
void *req_data(const struct req *r);

/* Called once if the client goes away before the answer was complete. Must not reply. */
void req_on_gone(struct req *r, void (*fn)(void *arg), void *arg);

void req_add_header(struct req *r, const char *name, const char *value);
void req_divergence(struct req *r, const char *slug);
void req_set_code(struct req *r, const char *code); /* for the journal, where an answer is not a req_reply_err */

/* Answers; each once per request. The JSON object is taken. */
void req_reply_json(struct req *r, unsigned int status, struct json_object *o);
void req_reply_empty(struct req *r, unsigned int status);
void req_reply_bytes(struct req *r, unsigned int status, const char *type, const void *p, size_t n); /* copied */
void req_reply_fd(struct req *r, unsigned int status, const char *type, int fd, uint64_t offset,
		  uint64_t n); /* fd taken */

/* {"detail": e->msg, "code": ...} with the status of e's kind and reason (api/errors.c, wire.md). */
void req_reply_err(struct req *r, const struct err *e);
/* As req_reply_err, with more members beside detail and code (taken, may be NULL). */
void req_reply_err_with(struct req *r, const struct err *e, struct json_object *extra);
/* 422 in FastAPI's form for one field: where is "body", "query" or "path". */
void req_reply_invalid(struct req *r, const char *where, const char *field, const char *type, const char *fmt, ...)
	_printf_(5, 6);

/* What goes wrong on purpose with this request (emulator/fault.h), for who can do it; NULL: nothing. */
struct fault_effect;
const struct fault_effect *req_fault(const struct req *r);

/* A body made as it is sent. pull() fills up to cap bytes and returns how many; 0: nothing now (the
 * connection sleeps until req_wake); -1: the end; less: the answer is broken off, visibly. free_fn(arg)
 * runs when the answer is over or the client is gone. */
void req_reply_stream(struct req *r, unsigned int status, const char *type,
		      ssize_t (*pull)(void *arg, char *p, size_t cap), void (*free_fn)(void *arg), void *arg);
void req_wake(struct req *r);
