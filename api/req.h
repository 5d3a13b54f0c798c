#pragma once
/* Inside of the HTTP server: struct req and struct http, shared by http.c (libmicrohttpd and the loop),
 * request.c (what a handler reads) and reply.c (what it answers). Handlers use api/http.h; a few use the
 * functions at the end of this header. */

#include "api/conns.h"
#include "api/http.h" /* before <uv.h>, whose sys/param.h defines MIN and MAX as well */
#include "api/router.h"

#include <microhttpd.h>
#include <uv.h>

#define HTTP_MAX_TABLES 32
#define HTTP_MAX_LISTENERS 2
#define REQ_MAX_HEADERS 16
#define REQ_ID_SIZE 32 /* "req_" + ULID + NUL */

struct listener {
	struct http *http;
	struct MHD_Daemon *daemon;
	uv_poll_t poll; /* on the daemon's epoll fd */
};

struct http {
	struct uv_loop_s *loop;
	struct api *api;
	const struct accounts *accounts;
	struct ratelimits *limits;   /* NULL: none */
	int fds[HTTP_MAX_LISTENERS]; /* taken by the daemons in http_start */
	unsigned int max_connections, idle_timeout_s;
	struct router_table tables[HTTP_MAX_TABLES];
	size_t n_tables;
	struct listener listeners[HTTP_MAX_LISTENERS];
	size_t n_listeners;
	struct req *reqs; /* every request from its first line to its completion */
	uv_prepare_t prepare;
	uv_timer_t timer;
	unsigned int handles; /* uv handles not closed yet; the last one's callback frees the server */
	unsigned int n_drains;
	struct drain *drains; /* sockets of closed connections whose input is thrown away */
	struct conns conns;
	bool dirty;    /* a connection was resumed: libmicrohttpd must run before the loop sleeps */
	bool running;  /* inside MHD_run */
	bool quiesced; /* no new connections; answers close theirs */
	bool dying;    /* http_free has begun */
};

struct req_header_pair {
	char *name, *value;
};

struct subreq;

struct req {
	struct req *prev, *next;
	struct subreq *sub; /* not NULL: made inside the server (subreq.h), and conn is NULL */
	struct http *http;
	struct MHD_Connection *conn;
	const struct route *route; /* NULL: answered by the server itself */
	const char *method;
	char id[REQ_ID_SIZE];
	int64_t start_us;
	struct account account;
	bool has_account;

	char *uri, *uri_raw; /* decoded in place; raw, for the log */
	const char *uri_at;  /* libmicrohttpd's own copy, to notice a NUL in it */
	size_t uri_len;
	struct router_match match;
	struct router_query query;

	struct buf body;
	uint64_t body_seen; /* bytes that have arrived, kept or not */
	uint64_t body_size; /* Content-Length, or UINT64_MAX for chunks */
	bool sized;	    /* Content-Length was given */
	size_t held;	    /* what data() has left of its bytes */
	struct json_object *json;

	void *data;
	void (*data_free)(void *data);
	void (*gone_fn)(void *arg);
	void *gone_arg;

	struct req_header_pair headers[REQ_MAX_HEADERS];
	size_t n_headers;
	char divergence[512];
	char code[40];	       /* of an error, for the journal; "" */
	uint64_t out_bytes;    /* of the answer's body, as far as it was made */
	struct inject *inject; /* what goes wrong with it on purpose (api/inject.h), or NULL */

	struct MHD_Response *resp; /* made, not queued yet */
	unsigned int status;	   /* 0: not answered yet */
	ssize_t (*pull)(void *arg, char *p, size_t cap);
	void (*pull_free)(void *arg);
	void *pull_arg;

	uv_poll_t watch; /* on the connection's fd while suspended */
	int drain_fd;	 /* dup of it, when the connection is closed with input unread */
	bool watch_made, started, handled, suspended, gone, broken, in_pull, woken, long_timeout;
	bool holding;	/* suspended by req_hold */
	bool body_over; /* the whole body is in */
	bool half_shut; /* the client will send no more than what is on its way */
};

/* http.c */
int req_fd(const struct req *r); /* the connection's socket, or -1 */
void req_resume(struct req *r);	 /* no-op unless suspended */
void http_hold(struct http *h);	 /* one more libuv handle that outlives its request */
void http_release(struct http *h);
ssize_t req_pull(void *cls, uint64_t pos, char *p, size_t cap);

/* journal_http.c */
void req_journal(const struct req *r);

/* request.c: everything between the headers and the body. Answers and returns false on refusal. */
bool req_check(struct req *r, const char *version);
bool req_check_inner(struct req *r); /* the same for a subreq, whose account is known */
void req_free_contents(struct req *r);

/* reply.c */
struct buf;
struct json_object;
void req_reply_invalid_at(struct req *r, struct json_object *loc, const char *type, const char *msg); /* loc: taken */
void req_reply_plain(struct req *r, unsigned int status, const char *json); /* a literal, sent as it is */

/* For handlers that write their JSON themselves. The buffer's memory is taken. */
void req_reply_buf(struct req *r, unsigned int status, const char *type, struct buf *b);
struct uv_loop_s *req_loop(const struct req *r);
