#pragma once
/* What will work on this host, found out by doing it: each check runs the real thing in a child process
 * with a bounded time and leaves nothing behind. Called by the CLI with the caller's rights; single-threaded
 * (it forks). Nothing here fails: what goes wrong is a finding. */

#include "emulator/base/err.h"

enum doctor_status {
	DOCTOR_OK,
	DOCTOR_WARN, /* sandboxes run, with less */
	DOCTOR_FAIL, /* sandboxes can't run */
	DOCTOR_SKIP, /* not tried: something it needs failed */
};
const char *doctor_status_name(enum doctor_status s); /* "ok", "warn", "fail", "skip" */

struct doctor_check {
	const char *id, *title; /* static */
	enum doctor_status status;
	char found[200]; /* what was seen */
	char means[200]; /* what that means for the user; empty if all is well */
	char fix[700];	 /* the command that helps; may be empty */
};

#define DOCTOR_MAX_CHECKS 16

struct doctor_report {
	struct doctor_check check[DOCTOR_MAX_CHECKS];
	size_t n;
	bool can_run;
	char verdict[600];
};

struct doctor_options {
	const char *state_dir; /* NULL: the caller's default */
};

/* About a second. -ENAMETOOLONG for a state dir beyond PATH_MAX, -ENOMEM. */
int doctor_run(const struct doctor_options *o, struct doctor_report *ret, struct err *e);
