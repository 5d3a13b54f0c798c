/* Snapshot work in worker processes: at most SANDBOX_MAX_JOBS at a time, the rest in line. A worker says what
 * went wrong in a page that it shares with the daemon: an err's strings are the program's own, at the same
 * addresses in both. */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"
#include "emulator/worker.h"

#define JOB_FAILED 1 /* a worker's exit status */

static void start_next(struct sandboxes *m);

static void job_free(struct job *j)
{
	if (j->shared)
		(void)munmap(j->shared, sizeof(*j->shared));
	json_object_put(j->row);
	free(j->template_name);
	free(j->template_digest);
	free(j);
}

struct job *job_new(struct sandbox *sb, struct err *e)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j) {
		(void)err_errno(e, ENOMEM, "can't start a worker");
		return NULL;
	}
	*j = (struct job){ .m = sb->m, .sb = sb, .paused_ms = sb->row.paused_ms };
	(void)snprintf(j->id, sizeof(j->id), "%s", sb->row.id);
	(void)snprintf(j->slot, sizeof(j->slot), "%s", sb->row.slot);
	j->template_name = strdup(sb->row.template_name);
	j->template_digest = strdup(sb->template_digest ? sb->template_digest : "");
	j->shared = mmap(NULL, sizeof(*j->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (j->shared == MAP_FAILED)
		j->shared = NULL;
	if (!j->shared || !j->template_name || !j->template_digest) {
		job_free(j);
		(void)err_errno(e, ENOMEM, "can't start a worker");
		return NULL;
	}
	return j;
}

void job_drop(struct job *j)
{
	job_free(j);
}

/* ---- the worker ---- */

static int job_main(void *arg)
{
	struct job *j = arg;
	int r = j->run(j);

	if (r < 0 && j->shared->e.kind == ERR_NONE)
		(void)err_errno(&j->shared->e, -r, "a worker failed");
	return r < 0 ? JOB_FAILED : 0;
}

/* ---- the loop ---- */

static void finish(struct job *j, const struct err *e)
{
	struct sandboxes *m = j->m;

	if (j->sb)
		j->sb->job = NULL;
	j->done(j, e);
	job_free(j);
	sandboxes_check_stopped(m);
}

static void on_worker_done(void *arg, int status)
{
	struct job *j = arg;
	struct sandboxes *m = j->m;
	struct err e = ERR_INIT;

	m->n_jobs--;
	if (status != 0) {
		if (status == JOB_FAILED) /* else it did not get to say anything */
			e = j->shared->e;
		e.msg[sizeof(e.msg) - 1] = '\0';
		if (e.kind == ERR_NONE)
			(void)err_set(&e, ERR_INTERNAL, EIO, NULL, "a worker ended with status %d", status);
	}
	finish(j, status != 0 ? &e : NULL);
	if (m->freeing)
		sandboxes_maybe_free(m);
	else
		start_next(m);
}

static void start_next(struct sandboxes *m)
{
	while (m->jobs_waiting && m->n_jobs < SANDBOX_MAX_JOBS) {
		struct job *j = m->jobs_waiting;
		struct err e = ERR_INIT;

		LL_DELETE(m->jobs_waiting, j);
		m->n_jobs++;
		if (j->sb && worker_run(m->c.loop, job_main, j, on_worker_done, j, &e) == 0)
			continue;
		m->n_jobs--;
		if (e.kind == ERR_NONE)
			(void)err_set(&e, ERR_NOT_READY, ECANCELED, "sandbox_not_ready", "the sandbox has ended");
		finish(j, &e);
	}
}

static void on_start(uv_timer_t *t)
{
	start_next(t->data);
}

void job_start(struct job *j)
{
	struct sandboxes *m = j->m;

	j->sb->job = j;
	LL_APPEND(m->jobs_waiting, j);
	/* From the loop: a failure to start calls done(). */
	if (m->n_jobs < SANDBOX_MAX_JOBS)
		(void)uv_timer_start(&m->jobs_timer, on_start, 0, 0);
}

void job_leave(struct job *j)
{
	j->sb->job = NULL;
	j->sb = NULL;
	j->shared->cancelled = true;
}
