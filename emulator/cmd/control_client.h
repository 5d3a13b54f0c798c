#pragma once
/* Calls of a running emulator's controls (/_emulator/...), for the CLI. The HTTP is curl's, as in rootfs/fetch.h; the
 * key goes to it over standard input, so that no process list shows it. Blocking. */

#include "emulator/base/buf.h"
#include "emulator/base/err.h"
#include "emulator/cmd/cmd.h"

/* Which emulator, as the options of a command say; NULL: not given. */
struct control_at {
	const char *url, *state_dir, *key;
};
#define CONTROL_OPTIONS(at)                                                                                            \
	CMD_VALUE("url", &(at)->url), CMD_VALUE("state-dir", &(at)->state_dir), CMD_VALUE("key", &(at)->key)

struct control {
	char url[300]; /* without a slash at its end */
	char key[300];
};

#define CONTROL_STATE_FILE "listening" /* in the state dir while `serve` runs: its address, one line */

/* What is not given comes from ORKESTR_EMULATOR_URL and ORKESTR_API_KEY, then from what the state dir (NULL: the default
 * one) knows. ERR_NOT_FOUND when no emulator is known. */
int control_find(const struct control_at *at, struct control *ret, struct err *e);

struct control_call {
	const char *method, *path; /* with its query, escaped */
	const char *body;	   /* JSON, or NULL */
	const char *body_file;	   /* instead: its path, "-" is not for here */
};

/* Finds and asks it. out: the answer's body. ERR_UNAVAILABLE when nobody answers; ERR_INVALID says why the answer is one
 * of 400 or more. */
int control_ask(const struct control_at *at, const struct control_call *call, struct buf *out, struct err *e);

/* Server-Sent Events: fn with each event's data, until the server ends it. */
int control_follow(const struct control *c, const char *path,
		   void (*fn)(void *arg, const char *event, const char *data), void *arg, struct err *e);

/* Appends s with everything escaped that does not stand for itself in a query. */
int control_escape(struct buf *b, const char *s);
