#pragma once
/* Shared by the doctor's files: what a probe gets, how it reports, and how it comes into a namespace like
 * the emulator's or a sandbox's. */

#include <limits.h>

#include "emulator/doctor.h"
#include "emulator/idmap.h"

/* Lives in memory shared between the doctor and its probes' processes. */
struct doctor_ctx {
	struct doctor_check check; /* the running probe's */
	struct idmap idmap;
	char state_dir[PATH_MAX];
	char fix[sizeof(((struct doctor_check *)0)->fix)]; /* a line one process leaves for another */
	bool userns;					   /* that check went well */
	int state_fd;					   /* the state dir, inherited by probes; -1: there is none */
};

typedef void (*doctor_probe_fn)(struct doctor_ctx *c);

/* Report: the first of these a probe calls stands. NULL fix: none. */
void doctor_ok(struct doctor_ctx *c, const char *fmt, ...) _printf_(2, 3);
void doctor_bad(struct doctor_ctx *c, enum doctor_status s, const char *means, const char *fix, const char *fmt, ...)
	_printf_(5, 6);

/* Runs fn as id 0 of the emulator's kind of user namespace and waits. Reports a failure itself (-1). */
int doctor_in_emulator(struct doctor_ctx *c, int (*fn)(void *ctx));
/* From there: runs fn as process 1 of a sandbox's kind of namespaces and waits. -1 (reported) or its status. */
int doctor_in_sandbox(struct doctor_ctx *c, int (*fn)(struct doctor_ctx *c));
int doctor_wait(int pid);

void doctor_probe_userns(struct doctor_ctx *c);
void doctor_probe_ids(struct doctor_ctx *c);
void doctor_probe_overlay(struct doctor_ctx *c);
void doctor_probe_proc(struct doctor_ctx *c);
void doctor_probe_seccomp(struct doctor_ctx *c);
void doctor_probe_cgroup(struct doctor_ctx *c);
void doctor_probe_network(struct doctor_ctx *c);
void doctor_probe_templates(struct doctor_ctx *c);
void doctor_probe_space(struct doctor_ctx *c);
void doctor_probe_kernel(struct doctor_ctx *c);
void doctor_probe_tools(struct doctor_ctx *c);
