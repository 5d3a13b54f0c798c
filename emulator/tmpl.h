#pragma once
/* Custom templates: made of a base and shell steps, owned by an account, immutable. One manager in the
 * daemon. What they are on disk: rootfs/template_custom.h; their rows: emulator/store_tmpl.h.
 *
 * A build runs its steps in a real sandbox on the base, one that no client sees: it belongs to an account of
 * its own ("bld_..."), so it counts against no plan's sandboxes or usage. tmpl.c has the rows and their life,
 * tmpl_build.c one build, tmpl_log.c its log.
 *
 * Calls answer at once. */

#include "emulator/account.h"
#include "emulator/sandbox.h"
#include "emulator/store_tmpl.h"

#define TMPL_MAX_STEPS 64
#define TMPL_MAX_STEP (64u << 10) /* bytes of one step */
#define TMPL_DEFAULT_TIMEOUT_S 1800
#define TMPL_MAX_TIMEOUT_S 3600
#define TMPL_LOG_MAX (4u << 20)	    /* bytes of output a build's log keeps; what comes then is counted */
#define TMPL_OUTPUT_MAX (32u << 10) /* the end of a failed step's output, in its row */

struct uv_loop_s;
struct tmpls;

struct tmpls_config {
	struct uv_loop_s *loop;
	struct store *store;
	struct sandboxes *sandboxes;
	const struct idmap *idmap;
	int state_fd;
};

int tmpls_new(const struct tmpls_config *c, struct tmpls **ret, struct err *e);

/* Start-up, after sandboxes_sweep and before the first request: builds of an earlier run have failed, and
 * what they left goes. */
int tmpls_recover(struct tmpls *t, struct err *e);

/* Ends builds; one whose layer is being made may come to its end. done() from the loop. */
void tmpls_shutdown(struct tmpls *t, void (*done)(void *arg), void *arg);
void tmpls_free(struct tmpls *t); /* NULL is fine. The loop must run once more for the memory to go */

struct tmpl_spec {
	const char *name, *base;
	const char *steps; /* JSON array text of 1 to TMPL_MAX_STEPS strings */
	const char *network;
	uint32_t timeout_s; /* 0: the default */
};

/* Row and build; *ret is a copy. ERR_NOT_FOUND "template_not_found", ERR_NOT_READY "template_not_ready" and
 * ERR_UNAVAILABLE "template_unavailable" for the base; ERR_PLAN "template_cap_reached", "concurrent_limit",
 * "network_not_allowed"; ERR_UNAVAILABLE "network_unavailable"; ERR_CAPACITY. */
int tmpl_create(struct tmpls *t, const struct account *a, const struct tmpl_spec *s, struct tmpl_row *ret,
		struct err *e);

/* Copies the row (the caller clears it). ERR_NOT_FOUND "template_not_found" also for another account's. */
int tmpl_get(struct tmpls *t, const struct account *a, const char *id, struct tmpl_row *ret, struct err *e);

/* Newest first; fn as for store_tmpl_each. */
int tmpl_each(struct tmpls *t, const struct account *a, int (*fn)(void *arg, const struct tmpl_row *r), void *arg,
	      struct err *e);

/* How far a build is: the number of the step that runs (from 1), or 0 when none does. */
unsigned int tmpl_step(struct tmpls *t, const char *id);

/* Ends its build, if it is being built. ERR_BUSY "template_in_use" while sandboxes, paused ones too, or builds
 * are made on it; users (may be NULL) is called for each of them. */
int tmpl_delete(struct tmpls *t, const struct account *a, const char *id, void (*user)(void *arg, const char *id),
		void *arg, struct err *e);

/* ---- the log: lines of JSON, the last of them with "is_final": true ---- */

struct tmpl_watch;

/* An fd to read it with (the caller's), from its beginning. wake() is called from the loop when there is more
 * and when no more will come. *ret_watch is NULL when none will come already. */
int tmpl_log_open(struct tmpls *t, const struct account *a, const char *id, void (*wake)(void *arg), void *arg,
		  struct tmpl_watch **ret_watch, struct err *e);
/* No more will come than is in the file. */
bool tmpl_watch_over(const struct tmpl_watch *w);
void tmpl_watch_free(struct tmpl_watch *w); /* NULL is fine */
