/* One command, from its start to its result.
 *
 * When the process has ended (exited() from init, a time-out's last guard, or the end of the sandbox), what
 * is in its pipes at that moment (FIONREAD, pipe(7)) is still the command's; it is taken, and then the exec
 * is over, EOF or not. A pipe without EOF has another writer, a background child, and goes to exec_linger.c.
 *
 *     run --time-out, request or disconnect--> term --grace--> kill --guard--> given up
 *
 * The process may end in any of these. When it was told to end (term), the timer goes on after its result
 * was delivered until the grace is over, because the rest of its tree may still need the kill.
 *
 * Memory: a running exec belongs to its sandbox, an ended one to the registry; each reader, and each handle
 * that libuv has not closed yet, holds it as well. */

#include "emulator/exec.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "emulator/exec-internal.h"
#include "emulator/fdroom.h"

#define GRACE_MS 2000	/* between SIGTERM and SIGKILL */
#define GUARD_MS 2000	/* between SIGKILL and giving it up */
#define ARGS_KEPT 1024u /* of the command, for those who ask what it was */

static const char *const reason_names[] = { "exited", "signal", "oom", "timeout", "terminated" };
static const char *const ender_names[] = { NULL, "timeout", "request", "disconnect", "sandbox" };

const char *exec_reason_name(enum exec_reason r)
{
	return reason_names[r];
}

const char *exec_ender_name(enum exec_ender b)
{
	return ender_names[b];
}

const char *exec_id(const struct exec *x)
{
	return x->name;
}

/* ---- memory ---- */

static void on_timer_closed(uv_handle_t *h)
{
	struct exec *x = h->data;

	log_free(&x->log);
	for (int i = 0; i < 2; i++)
		output_free(&x->s[i].out);
	free(x->args);
	free(x->blocked);
	free(x);
}

void exec_put(struct exec *x)
{
	if (--x->refs == 0)
		uv_close((uv_handle_t *)&x->timer, on_timer_closed);
}

void exec_signal_tree(struct exec *x, int sig)
{
	/* A frozen init reads it when it thaws. */
	if (x->sb && x->sb->init && !x->sb->init_lost && sandbox_has_processes(x->sb))
		(void)init_signal(x->sb->init, x->id, sig, true);
}

/* ---- the end ---- */

static void count_events(struct exec *x)
{
	uint64_t oom, denied;

	if (!x->sb)
		return;
	oom = sandbox_oom_kills(x->sb);
	denied = sandbox_pids_denied(x->sb);
	x->sb->oom_seen = oom;
	x->res.oom_kills = oom > x->oom_before ? oom - x->oom_before : 0;
	x->res.pids_denied = denied > x->denied_before ? denied - x->denied_before : 0;
}

static const char *proto_name(const struct ledger_entry *en)
{
	if (en->kind == EGRESS_DNS)
		return "dns";
	return en->proto == IPPROTO_TCP	   ? "tcp"
	       : en->proto == IPPROTO_UDP  ? "udp"
	       : en->proto == IPPROTO_ICMP ? "icmp"
					   : "other";
}

static bool is_known(const struct exec *x, const struct exec_blocked *b)
{
	for (size_t i = 0; i < x->res.n_blocked; i++) {
		const struct exec_blocked *old = &x->blocked[i];

		if (old->port == b->port && old->proto == b->proto && strcmp(old->host, b->host) == 0 &&
		    strcmp(old->ip, b->ip) == 0 && strcmp(old->rule, b->rule) == 0)
			return true;
	}
	return false;
}

static int add_blocked(void *arg, const struct ledger_entry *en)
{
	struct exec *x = arg;
	struct exec_blocked *b = &x->blocked[x->res.n_blocked];

	if (en->verdict != EGRESS_BLOCKED || (en->owner[0] && strcmp(en->owner, x->name) != 0))
		return 0;
	*b = (struct exec_blocked){ .port = en->port, .proto = proto_name(en) };
	(void)snprintf(b->host, sizeof(b->host), "%.253s", en->host);
	(void)snprintf(b->rule, sizeof(b->rule), "%.63s", en->rule);
	(void)snprintf(b->owner, sizeof(b->owner), "%.31s", en->owner);
	if (IN6_IS_ADDR_V4MAPPED(&en->address))
		(void)inet_ntop(AF_INET, en->address.s6_addr + 12, b->ip, sizeof(b->ip));
	else if (!IN6_IS_ADDR_UNSPECIFIED(&en->address))
		(void)inet_ntop(AF_INET6, &en->address, b->ip, sizeof(b->ip));
	if (!is_known(x, b))
		x->res.n_blocked++;
	return x->res.n_blocked == EXEC_BLOCKED_MAX; /* enough */
}

/* What the policy refused of the command's, or maybe of its, since it began. */
static void collect_blocked(struct exec *x)
{
	if (!x->sb || sandbox_net_seq(x->sb) == x->net_before)
		return;
	x->blocked = calloc(EXEC_BLOCKED_MAX, sizeof(*x->blocked));
	if (x->blocked)
		(void)sandbox_net_each(x->sb, x->net_before, add_blocked, x);
	x->res.blocked = x->blocked;
}

/* From running to ended. The result may be read from now on, but for what was collected. */
static void move_to_ended(struct exec *x)
{
	x->finished = true;
	x->ended_us = clock_now_us();
	x->ended_ms = clock_now_ms();
	x->m->n_execs--;
	x->primary = NULL;
	log_finish(&x->log);
	if (!x->sb)
		return;
	exec_tell_ended(x);
	DL_DELETE(x->sb->execs, x);
	x->sb->n_execs--;
	registry_add(x);
}

static void finish(struct exec *x)
{
	struct exec_result r;

	if (x->finished)
		return;
	x->refs++;
	exec_io_let_go(x);
	exec_io_close(x);
	for (int i = 0; i < 2; i++)
		x->res.truncated[i] = x->collect && output_finish(&x->s[i].out);
	collect_blocked(x);
	r = x->res;
	r.out[0] = &x->s[0].out.head;
	r.out[1] = &x->s[1].out.head;
	if (!x->sb) /* its sandbox has ended: nobody holds it but its readers */
		exec_put(x);
	move_to_ended(x);
	readers_wake(x, false);
	if (x->ev.done)
		x->ev.done(x->ev.arg, &r);
	for (int i = 0; i < 2; i++)
		output_free(&x->s[i].out);
	exec_unkeep(x);
	exec_put(x);
}

/* The process has ended, as x->res says. */
static void ended(struct exec *x)
{
	x->exited = true;
	if (x->phase != PHASE_TERM) {
		(void)uv_timer_stop(&x->timer);
		x->held = false;
	}
	x->res.duration_ms = (uint64_t)(clock_mono_us() - x->start_us) / 1000;
	if (x->res.by == EXEC_BY_TIMEOUT)
		x->res.reason = EXEC_TIMEOUT;
	else if (x->res.by == EXEC_BY_REQUEST || x->res.by == EXEC_BY_DISCONNECT)
		x->res.reason = EXEC_TERMINATED;
	exec_io_drain(x);
	finish(x);
}

static void set_killed(struct exec *x, enum exec_reason reason)
{
	x->res.reason = reason;
	x->res.signal = SIGKILL;
	x->res.exit_code = 128 + SIGKILL;
}

/* ---- what init says ---- */

static int not_started_code(int errnum)
{
	return errnum == ENOENT || errnum == ENOTDIR ? 127 : 126; /* as a shell would; POSIX sh, 2.8.2 */
}

static void not_started(struct exec *x, int errnum)
{
	char line[256];
	int n = snprintf(line, sizeof(line), "orkestr: %s: %s\n", x->program, strerror(errnum));

	x->res.reason = EXEC_EXITED;
	x->res.exit_code = not_started_code(errnum);
	x->res.background = 0;
	exec_deliver(x, x->spec.pty.rows > 0 ? EXEC_STDOUT : EXEC_STDERR, line, MIN((size_t)n, sizeof(line) - 1));
}

static void judge(struct exec *x, const struct init_exit *ie)
{
	struct exec_result *r = &x->res;

	switch (ie->kind) {
	case INIT_EXIT_NOT_STARTED:
		not_started(x, ie->value);
		return;
	case INIT_EXIT_SIGNAL:
		r->reason = EXEC_SIGNAL;
		r->signal = ie->value & 0x7f;
		r->exit_code = 128 + r->signal;
		/* All of a sandbox is killed at once, and init may still get to report one of them. */
		if (r->signal == SIGKILL && r->by == EXEC_BY_NONE && x->sb && x->sb->end_reason) {
			r->reason = EXEC_TERMINATED;
			r->by = EXEC_BY_SANDBOX;
		}
		break;
	case INIT_EXIT_CODE:
		r->reason = EXEC_EXITED;
		r->exit_code = ie->value & 0xff;
		break;
	}
	r->background = ie->background;
	count_events(x);
	if (x->faulted == FAULT_EXEC_OOM)
		r->oom_kills = MAX(r->oom_kills, UINT64_C(1));
	/* A shell reports a killed child as 137; the group's count tells who killed it. */
	if (r->exit_code == 128 + SIGKILL && r->oom_kills > 0)
		r->reason = EXEC_OOM;
}

static struct exec *find_running(struct sandbox *sb, uint64_t id)
{
	struct exec *x;

	DL_FOREACH(sb->execs, x)
	{
		if (x->id == id)
			return x;
	}
	return NULL;
}

bool exec_on_started(struct sandbox *sb, uint64_t id, pid_t pid)
{
	struct exec *x = find_running(sb, id);

	if (!x || x->exited || x->pid != 0)
		return false;
	x->pid = pid;
	readers_wake(x, false);
	return true;
}

bool exec_on_exited(struct sandbox *sb, uint64_t id, const struct init_exit *ie)
{
	struct exec *x = find_running(sb, id);

	if (!x || x->exited || x->net_token)
		return false;
	sb->net_strays |= ie->background != 0;
	/* What it did to the network last may still be on its way to the ledger. */
	x->exit = *ie;
	x->net_token = sandbox_net_sync(sb);
	if (x->net_token)
		return true;
	judge(x, ie);
	ended(x);
	return true;
}

void exec_on_net_synced(struct sandbox *sb, uint64_t token)
{
	struct exec *x;

	/* Callbacks may change the list. */
	do {
		DL_FOREACH(sb->execs, x)
		{
			if (x->net_token && x->net_token <= token && !x->exited)
				break;
		}
		if (x) {
			judge(x, &x->exit);
			ended(x);
		}
	} while (x);
}

const char *exec_name_of(const struct sandbox *sb, uint64_t id)
{
	struct exec *x;

	DL_FOREACH(sb->execs, x)
	{
		if (x->id == id)
			return x->name;
	}
	DL_FOREACH(sb->ended, x)
	{
		if (x->id == id)
			return x->name;
	}
	return NULL;
}

void exec_end_all(struct sandbox *sb)
{
	bool oom = strcmp(sb->row.termination_reason, "oom") == 0;
	struct exec *x;

	registry_forget_all(sb);
	/* Callbacks may abandon others meanwhile: always the first one that is left. */
	while ((x = sb->execs)) {
		DL_DELETE(sb->execs, x);
		sb->n_execs--;
		count_events(x);
		set_killed(x, oom ? EXEC_OOM : EXEC_TERMINATED);
		if (x->net_token)
			judge(x, &x->exit);
		exec_tell_ended(x);
		x->sb = NULL;
		x->phase = PHASE_KILL; /* no one is left to be killed */
		x->held = false;
		if (x->res.by == EXEC_BY_NONE)
			x->res.by = EXEC_BY_SANDBOX;
		x->res.background = 0;
		ended(x);
	}
}

/* ---- time ---- */

static void on_timer(uv_timer_t *t);

void exec_start_timer(struct exec *x, uint64_t ms)
{
	/* The loop's clock may be a request old, and is cut to milliseconds. */
	uv_update_time(x->m->c.loop);
	(void)uv_timer_start(&x->timer, on_timer, ms + 1, 0);
}

/* Its limit, or before that what goes wrong with it on purpose. */
static void arm_timer(struct exec *x)
{
	uint64_t ms = (uint64_t)x->spec.timeout_s * 1000;

	if (x->spec.timeout_s == EXEC_NO_TIMEOUT)
		ms = UINT64_MAX;
	if (x->spec.fault_after_ms >= ms)
		x->spec.fault = FAULT_EXEC_NONE;
	if (x->spec.fault != FAULT_EXEC_NONE)
		ms = x->spec.fault_after_ms;
	if (ms != UINT64_MAX)
		exec_start_timer(x, ms);
}

/* The kill is a real one. That it was for memory is only said: nothing else in the sandbox shall die of it. */
static void go_wrong(struct exec *x)
{
	x->faulted = x->spec.fault;
	x->spec.fault = FAULT_EXEC_NONE;
	exec_signal_tree(x, SIGKILL);
	arm_timer(x); /* should it not die, its limit still holds */
}

static void on_timer(uv_timer_t *t)
{
	struct exec *x = t->data;

	switch (x->phase) {
	case PHASE_RUN:
		if (x->spec.fault != FAULT_EXEC_NONE) {
			go_wrong(x);
			break;
		}
		exec_begin_end(x, EXEC_BY_TIMEOUT);
		break;
	case PHASE_TERM:
		x->phase = PHASE_KILL;
		exec_signal_tree(x, SIGKILL);
		if (!x->exited)
			(void)uv_timer_start(t, on_timer, GUARD_MS, 0);
		break;
	case PHASE_KILL:
		log_warn("%s: a command of %s didn't die of SIGKILL", x->name, x->sb ? x->sb->row.id : "?");
		set_killed(x, EXEC_TERMINATED);
		ended(x);
		break;
	}
}

void exec_begin_end(struct exec *x, enum exec_ender by)
{
	/* Everyone is disconnected then, and the command is the next start's. */
	if (by == EXEC_BY_DISCONNECT && x->m->keeping)
		return;
	/* Of one that has ended, what it left behind. */
	if (!x->sb || x->phase == PHASE_TERM || (x->phase == PHASE_KILL && !x->finished))
		return;
	if (!x->exited) {
		x->res.by = by;
		x->pos->by = by;
	}
	x->phase = PHASE_TERM;
	exec_signal_tree(x, SIGTERM);
	x->held_ms = GRACE_MS;
	if (x->held)
		return;
	uv_update_time(x->m->c.loop);
	(void)uv_timer_start(&x->timer, on_timer, GRACE_MS, 0);
}

void exec_hold_all(struct sandbox *sb)
{
	struct exec *x;

	DL_FOREACH(sb->execs, x)
	{
		x->pos->held_us = clock_mono_us();
		if (!uv_is_active((uv_handle_t *)&x->timer))
			continue;
		x->held = true;
		x->held_ms = uv_timer_get_due_in(&x->timer);
		(void)uv_timer_stop(&x->timer);
	}
}

void exec_release_all(struct sandbox *sb, int64_t held_us)
{
	struct exec *x;

	uv_update_time(sb->m->c.loop);
	DL_FOREACH(sb->execs, x)
	{
		x->start_us += held_us;
		exec_note_clock(x);
		if (x->held)
			(void)uv_timer_start(&x->timer, on_timer, x->held_ms + 1, 0);
		x->held = false;
	}
}

void exec_abandon(struct exec *x)
{
	x->ev.done = NULL;
	if (x->finished)
		return;
	x->collect = false;
	for (int i = 0; i < 2; i++)
		output_free(&x->s[i].out);
	if (!x->spec.detach)
		exec_begin_end(x, EXEC_BY_DISCONNECT);
}

/* ---- requests about a running one ---- */

int exec_check_running(const struct exec *x, struct err *e)
{
	if (x->exited || x->finished)
		return err_set(e, ERR_NOT_READY, ESRCH, "exec_ended", "the command has ended");
	if (x->sb && x->sb->row.status != SANDBOX_RUNNING)
		return err_set(e, ERR_NOT_READY, EBUSY, "sandbox_not_ready", "the sandbox is %s",
			       sandbox_status_name(x->sb->row.status));
	return 0;
}

int exec_signal(struct exec *x, int sig, bool tree, struct err *e)
{
	int r = exec_check_running(x, e);

	if (r < 0)
		return r;
	if (init_signal(x->sb->init, x->id, sig, tree) < 0)
		return err_set(e, ERR_BUSY, EAGAIN, NULL, "the sandbox's init does not keep up; try again");
	return 0;
}

int exec_end(struct exec *x, struct err *e)
{
	int r = x->finished ? 0 : exec_check_running(x, e);

	if (r >= 0)
		exec_begin_end(x, EXEC_BY_REQUEST);
	return r;
}

int exec_resize(struct exec *x, struct exec_size size, struct err *e)
{
	int r = exec_check_running(x, e);

	if (r < 0)
		return r;
	if (x->spec.pty.rows == 0 || x->s[EXEC_STDOUT].fd < 0)
		return err_set(e, ERR_NOT_READY, ENOTTY, "not_a_terminal", "the command has no terminal");
	r = pty_resize(x->s[EXEC_STDOUT].fd, size);
	if (r < 0)
		return err_errno(e, -r, "setting the terminal's size");
	x->spec.pty = size;
	return 0;
}

/* ---- the start ---- */

static int check_cwd(struct sandbox *sb, const char **cwd, struct err *e)
{
	const char *path = *cwd ? *cwd : "/workspace";
	int fd;

	if (path[0] != '/' || strlen(path) >= 4096)
		return err_set(e, ERR_INVALID, EINVAL, "path_invalid",
			       "cwd must be an absolute path of at most 4095 bytes");
	fd = sys_openat2(sb->root_fd, path, O_PATH | O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
	if (fd >= 0) {
		(void)close(fd);
		*cwd = path;
		return 0;
	}
	if (!*cwd) {
		*cwd = "/";
		return 0;
	}
	if (fd == -ENOENT)
		return err_set(e, ERR_INVALID, ENOENT, "path_invalid", "cwd \"%.200s\" does not exist in the sandbox",
			       path);
	if (fd == -ENOTDIR)
		return err_set(e, ERR_INVALID, ENOTDIR, "path_invalid", "cwd \"%.200s\" is not a directory", path);
	return err_set(e, ERR_INVALID, -fd, "path_invalid", "cwd \"%.200s\" can't be entered: %s", path, strerror(-fd));
}

/* The command as it is shown: its words, each with its NUL, as far as they fit. */
static int keep_args(struct exec *x, const struct exec_spec *s)
{
	const char *const one[] = { s->command, NULL }, *const *v = s->command ? one : s->argv;
	struct buf b = BUF_INIT(ARGS_KEPT);

	x->shell = s->command != NULL;
	for (; *v && !x->args_cut; v++) {
		size_t n = strlen(*v), room = ARGS_KEPT - b.len;

		if (n + 1 > room) {
			x->args_cut = true;
			if (room < 2)
				break;
			n = room - 1;
		}
		if (buf_add(&b, *v, n) < 0 || buf_add(&b, "", 1) < 0) {
			buf_free(&b);
			return -ENOMEM;
		}
		x->n_args++;
	}
	x->args = b.p;
	return 0;
}

static struct exec *exec_alloc(struct sandbox *sb, const struct exec_spec *s, const struct exec_events *ev)
{
	struct exec *x = calloc(1, sizeof(*x));
	char ulid[TEXT_ULID_SIZE];

	if (!x)
		return NULL;
	*x = (struct exec){ .m = sb->m, .sb = sb, .id = ++sb->next_exec, .in.fd = -1, .refs = 1, .spec = *s };
	x->spec.command = x->spec.env = x->spec.cwd = x->spec.stdin_data = NULL;
	x->spec.argv = NULL;
	if (s->timeout_s == 0)
		x->spec.timeout_s = EXEC_DEFAULT_TIMEOUT_S;
	if (keep_args(x, s) < 0) {
		free(x);
		return NULL;
	}
	if (ev) {
		x->ev = *ev;
		x->collect = true;
	}
	x->pos = &sb->m->no_pos;
	x->pos_index = UINT32_MAX;
	(void)snprintf(x->slot, sizeof(x->slot), "%s", sb->row.slot);
	x->res.background = -1;
	x->res.timeout_s = x->spec.timeout_s;
	for (int i = 0; i < 2; i++) {
		x->s[i].x = x;
		x->s[i].fd = -1;
		output_init(&x->s[i].out);
	}
	log_init(&x->log);
	text_ulid(clock_now_ms(), ulid);
	(void)snprintf(x->name, sizeof(x->name), "exe_%s", ulid);
	(void)uv_timer_init(sb->m->c.loop, &x->timer);
	x->timer.data = x;
	return x;
}

/* Hands the command to init. The command's ends of the pipes are closed here whatever happens. */
static int launch(struct exec *x, const struct exec_spec *s, const char *cwd, const char *const *env, struct err *e)
{
	const char *const shell[] = { "/bin/sh", "-c", s->command, NULL };
	struct init_exec ie = { .id = x->id,
				.argv = s->command ? shell : s->argv,
				.env = env,
				.cwd = cwd,
				.stdio = { -1, -1, -1 },
				.pty = s->pty.rows > 0,
				.tell_start = s->background || s->streamed || s->detach || s->pty.rows > 0 };
	int r;

	r = exec_io_open(x, s, ie.stdio, e);
	if (r >= 0) {
		(void)snprintf(x->program, sizeof(x->program), "%s", ie.argv[0]);
		x->net_before = sandbox_net_seq(x->sb);
		x->oom_before = sandbox_oom_kills(x->sb);
		x->denied_before = sandbox_pids_denied(x->sb);
		x->start_us = clock_mono_us();
		x->started_ms = clock_now_ms();
		exec_keep(x);
		r = init_start(x->sb->init, &ie, e);
	}
	for (int i = 0; i < 3; i++)
		closep(&ie.stdio[i]);
	return r;
}

static int check_spec(const struct exec_spec *s, struct err *e)
{
	if (!s->command && (!s->argv || !s->argv[0]))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "command is empty");
	if (s->timeout_s > EXEC_MAX_TIMEOUT_S && s->timeout_s != EXEC_NO_TIMEOUT)
		return err_set(e, ERR_INVALID, ERANGE, NULL, "timeout_seconds is more than %d", EXEC_MAX_TIMEOUT_S);
	return 0;
}

static int start_in(struct sandbox *sb, const struct exec_spec *s, const struct exec_events *ev, const char *cwd,
		    const char *const *env, struct exec **ret, struct err *e)
{
	struct exec *x = exec_alloc(sb, s, ev);
	int r;

	if (!x)
		return err_errno(e, ENOMEM, "can't start the command");
	r = launch(x, s, cwd, env, e);
	if (r < 0) {
		exec_unkeep(x);
		exec_io_close(x);
		exec_put(x);
		return r;
	}
	DL_APPEND(sb->execs, x);
	sb->n_execs++;
	sb->m->n_execs++;
	exec_io_update(x);
	exec_tell_started(x);
	arm_timer(x);
	*ret = x;
	return 0;
}

int exec_start(struct sandboxes *m, const struct account *a, const char *sandbox_id, const struct exec_spec *s,
	       const struct exec_events *ev, struct exec **ret, struct err *e)
{
	const char *cwd = s->cwd;
	char **merged = NULL;
	struct sandbox *sb;
	int r;

	r = check_spec(s, e);
	if (r >= 0)
		r = sandbox_find_running(m, a, sandbox_id, &sb, e);
	if (r < 0)
		return r;
	if (sb->n_execs >= SANDBOX_MAX_EXECS)
		return err_set(e, ERR_CAPACITY, EAGAIN, NULL, "%d commands are running in this sandbox already",
			       SANDBOX_MAX_EXECS);
	r = fdroom_check(FDROOM_COMMAND, e);
	if (r >= 0)
		r = check_cwd(sb, &cwd, e);
	if (r >= 0 && (s->env || s->pty.rows > 0))
		r = exec_env_build((const char *const *)sb->env, s->env, s->pty.rows > 0, &merged, e);
	if (r >= 0)
		r = start_in(sb, s, ev, cwd, (const char *const *)(merged ? merged : sb->env), ret, e);
	exec_env_free(merged);
	return r;
}
