#pragma once
/* What the tmpl*.c files share. Nobody else includes this. */

#include "emulator/base/util.h" /* before uv.h, whose sys/param.h has a MIN of its own */

#include <json-c/json.h>
#include <uv.h>

#include "emulator/base/buf.h"
#include "emulator/exec.h"
#include "emulator/tmpl.h"
#include "rootfs/template_custom.h"

struct tmpl_build;

struct tmpls {
	struct tmpls_config c;
	struct tmpl_build *builds;
	unsigned int n_workers; /* running: captures and removals */
	bool stopping, freeing;
	void (*stopped)(void *arg);
	void *stopped_arg;
	uv_timer_t stop_timer;
	bool timer_open;
};

struct tmpl_watch {
	struct tmpl_watch *prev, *next;
	struct tmpl_build *build; /* NULL: over */
	void (*wake)(void *arg);
	void *arg;
};

/* ---- the log (tmpl_log.c) ---- */

struct tmpl_log {
	int fd;		/* templates/<id>.log, or -1 */
	uint64_t bytes; /* of output in it */
	uint64_t missed;
	bool broken; /* it could not be written */
};

int tmpl_log_start(struct tmpl_log *l, int state_fd, const char *id, struct err *e);
/* Of an earlier run, behind its last whole line. Negative errno. */
int tmpl_log_reopen(struct tmpl_log *l, int state_fd, const char *id);
int tmpl_log_open_read(int state_fd, const char *id, struct err *e);
void tmpl_log_delete(int state_fd, const char *id);
void tmpl_log_step(struct tmpl_log *l, size_t number, const char *command);
void tmpl_log_output(struct tmpl_log *l, size_t number, enum exec_stream s, const char *p, size_t n);
void tmpl_log_step_end(struct tmpl_log *l, size_t number, const struct exec_result *r);
void tmpl_log_note(struct tmpl_log *l, const char *text);
/* The last line; closes. row: as it ended, or NULL: deleted. */
void tmpl_log_end(struct tmpl_log *l, const struct tmpl_row *row);

/* Bytes of a program as a JSON string. */
struct json_object *tmpl_text(const char *p, size_t n);

/* ---- builds (tmpl_build.c) ---- */

enum build_state {
	BUILD_CREATING, /* its sandbox */
	BUILD_RUNNING,	/* a step */
	BUILD_ENDING,	/* all steps are through, the sandbox is on its way out */
	BUILD_SAVING,	/* the worker makes the layer */
	BUILD_OVER,	/* settled; waits for sandbox or worker to be gone */
};

struct build_shared {
	struct err e;
	struct template_custom_result r;
};

struct tmpl_build {
	struct tmpl_build *prev, *next;
	struct tmpls *t;
	struct tmpl_row row;
	struct account account; /* the sandbox's */
	enum build_state state;
	struct json_object *steps;
	size_t n_steps, step; /* step: from 0 */
	char base_digest[80];
	char sandbox_id[SANDBOX_ID_SIZE], slot[32];
	struct exec_reader *reader;
	int64_t deadline_us;
	uv_timer_t limit, soon;
	unsigned int handles;
	struct tmpl_log log;
	struct buf tail; /* the end of the step's output */
	bool tail_cut;
	struct tmpl_watch *watches;
	struct build_shared *shared;
	bool pending; /* a callback of the sandbox's manager or a worker is due */
	bool deleted;
};

/* Takes row (copied) and steps. The sandbox is asked for. */
int tmpl_build_start(struct tmpls *t, const struct tmpl_row *row, const struct account *a, const char *base_digest,
		     struct err *e);
struct tmpl_build *tmpl_build_find(struct tmpls *t, const char *id);
/* Ends it, its row failed with this; or, once it is deleted, without one. */
void tmpl_build_fail(struct tmpl_build *b, const char *code, const char *why);
void tmpl_build_delete(struct tmpl_build *b);

/* tmpl.c: removes a template's files in a worker. */
void tmpl_remove_files(struct tmpls *t, const char *id);
void tmpls_check_stopped(struct tmpls *t);
