#pragma once
/* Calls of a running emulator's own routes (/_emulator/...), for the CLI. The HTTP is curl's, as in rootfs/fetch.h; the
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
#define CONTROL_OPTIONS_HELP                                                                                           \
	"  --url URL          where it listens (default: ORKESTR_EMULATOR_URL; ORKESTR_BASE_URL if that begins with\n" \
	"                     http://, as the cloud's does not; or what the state dir says)\n"                         \
	"  --state-dir DIR    the state dir of the emulator that is meant (default: as for serve)\n"                   \
	"  --key KEY          any API key of it (default: ORKESTR_API_KEY, or the state dir's own)\n"                  \
	"  -h, --help         this text\n"

struct control {
	char url[300]; /* without a slash at its end */
	char key[300];
};

#define CONTROL_STATE_FILE "listening" /* in the state dir while `serve` runs: its address, one line */

/* What is not given comes from the environment and then the state dir (NULL: the default one), as CONTROL_OPTIONS_HELP
 * says. ERR_NOT_FOUND when no emulator is known. */
int control_find(const struct control_at *at, struct control *ret, struct err *e);

struct control_call {
	const char *method, *path; /* with its query, escaped */
	const char *body;	   /* JSON, or NULL */
	const char *body_file;	   /* instead: its path, "-" is not for here */
};

/* Finds and asks it. out: the answer's body. ERR_UNAVAILABLE when nobody answers; ERR_INVALID says why the answer is one
 * of 400 or more. */
int control_ask(const struct control_at *at, const struct control_call *call, struct buf *out, struct err *e);

/* The same for an answer that is read here; *ret is the caller's (json_object_put). ERR_IO if it is no JSON. */
struct json_object;
int control_ask_json(const struct control_at *at, const struct control_call *call, struct json_object **ret,
		     struct err *e);

/* A field of an answer as text: a string itself, anything else as JSON has it; missing if o has no such field, or null.
 * Lives as long as o. */
const char *control_text(struct json_object *o, const char *name, const char *missing);

/* Server-Sent Events: fn with each event's data, until the server ends it. */
int control_follow(const struct control *c, const char *path,
		   void (*fn)(void *arg, const char *event, const char *data), void *arg, struct err *e);

/* Appends s with everything escaped that does not stand for itself in a query. */
int control_escape(struct buf *b, const char *s);
