/* What of a command outlives the daemon: its pipes or terminal and a note of what it is, with the keeper; how much
 * of its output was read, in shared memory that the keeper holds too; how it ended, with its init, which is asked
 * again (init_recall). The output itself does not: a reader that comes back finds a gap that says how much.
 *
 * The keeper hears of a command before init does, and of its end after whoever waited for it: a daemon that dies
 * between leaves a command that is asked for in vain, or one that is found ended. What a client gave as stdin and
 * the command had not taken is lost. */

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/exec-internal.h"

#define EXEC_POSITIONS ((uint32_t)(KEEPER_POSITIONS_SIZE / sizeof(struct exec_pos)))

/* ---- positions ---- */

void exec_positions_open(struct sandboxes *m, int fd)
{
	void *p;

	if (fd <= 0)
		return;
	p = mmap(NULL, KEEPER_POSITIONS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)close(fd);
	m->pos_used = p == MAP_FAILED ? NULL : calloc(EXEC_POSITIONS, 1);
	if (m->pos_used)
		m->positions = p;
	else if (p != MAP_FAILED)
		(void)munmap(p, KEEPER_POSITIONS_SIZE);
}

void exec_positions_close(struct sandboxes *m)
{
	if (m->positions)
		(void)munmap(m->positions, KEEPER_POSITIONS_SIZE);
	m->positions = NULL;
	free(TAKE_PTR(m->pos_used));
}

static void take_position(struct exec *x, uint32_t i)
{
	x->m->pos_used[i] = 1;
	x->pos = &x->m->positions[i];
	x->pos_index = i;
}

static void find_position(struct exec *x)
{
	struct sandboxes *m = x->m;

	for (uint32_t i = 0; m->positions && i < EXEC_POSITIONS; i++) {
		uint32_t at = m->pos_hint++ % EXEC_POSITIONS;

		if (m->pos_used[at])
			continue;
		/* Low numbers again and again: that memory is there already. */
		if (m->pos_hint > m->n_execs + 64)
			m->pos_hint = 0;
		take_position(x, at);
		*x->pos = (struct exec_pos){ 0 };
		return;
	}
}

static void leave_position(struct exec *x)
{
	if (x->pos_index != UINT32_MAX)
		x->m->pos_used[x->pos_index] = 0;
	x->pos_index = UINT32_MAX;
	x->pos = &x->m->no_pos;
}

void exec_note_position(struct exec *x)
{
	memcpy(x->pos->bytes, x->log.bytes, sizeof(x->pos->bytes));
}

void exec_note_clock(struct exec *x)
{
	x->pos->start_us = x->start_us;
	x->pos->held_us = 0;
}

/* ---- the note ---- */

struct exec_note {
	char name[EXEC_ID_SIZE];
	char program[64];
	int64_t started_ms;
	uint64_t oom_before, denied_before;
	uint32_t position, timeout_s;
	uint32_t n_args, args_len; /* args follow */
	uint16_t rows, cols;
	uint8_t shell, args_cut, streamed, background, detach, stdin_open;
};

struct whole_note {
	struct exec_note n;
	char args[KEEPER_NOTE_MAX - sizeof(struct exec_note)];
};

static size_t args_length(const struct exec *x)
{
	const char *p = x->args;

	for (size_t i = 0; i < x->n_args; i++)
		p += strlen(p) + 1;
	return p ? (size_t)(p - x->args) : 0;
}

static size_t write_note(const struct exec *x, struct whole_note *w)
{
	w->n = (struct exec_note){
		.started_ms = x->started_ms,
		.oom_before = x->oom_before,
		.denied_before = x->denied_before,
		.position = x->pos_index,
		.timeout_s = x->spec.timeout_s,
		.n_args = (uint32_t)x->n_args,
		.args_len = (uint32_t)args_length(x),
		.rows = x->spec.pty.rows,
		.cols = x->spec.pty.cols,
		.shell = x->shell,
		.args_cut = x->args_cut,
		.streamed = x->spec.streamed,
		.background = x->spec.background,
		.detach = x->spec.detach,
		.stdin_open = x->spec.stdin_open,
	};
	memcpy(w->n.name, x->name, sizeof(w->n.name));
	memcpy(w->n.program, x->program, sizeof(w->n.program));
	memcpy(w->args, x->args, w->n.args_len);
	return offsetof(struct whole_note, args) + w->n.args_len;
}

static bool note_ok(const struct whole_note *w, size_t len)
{
	const struct exec_note *n = &w->n;
	size_t strings = 0;

	if (len < sizeof(*n) || n->args_len != len - offsetof(struct whole_note, args) ||
	    !memchr(n->name, '\0', sizeof(n->name)) || !memchr(n->program, '\0', sizeof(n->program)))
		return false;
	for (size_t i = 0; i < n->args_len; i++)
		strings += w->args[i] == '\0';
	return strings == n->n_args && (n->args_len == 0 || w->args[n->args_len - 1] == '\0');
}

/* ---- a daemon's last will ---- */

void exec_keep(struct exec *x)
{
	bool pty = x->spec.pty.rows > 0;
	struct keeper_exec k = {
		.id = x->id,
		/* Without a client that may give more, a copy would only keep the command from its end of file. */
		.fds = { x->spec.stdin_open && !pty ? x->in.fd : -1, x->s[0].fd, x->s[1].fd },
	};
	struct whole_note w;
	struct err e = ERR_INIT;

	find_position(x);
	exec_note_clock(x);
	k.note_len = write_note(x, &w);
	k.note = &w;
	memcpy(k.slot, x->slot, sizeof(k.slot));
	x->kept = x->m->keeper && keeper_exec(x->m->keeper, &k, &e) == 0;
	if (e.kind != ERR_NONE)
		log_warn("%s: %s", x->name, e.msg);
}

void exec_unkeep(struct exec *x)
{
	leave_position(x);
	if (!x->kept || !x->m->keeper)
		return;
	x->kept = false;
	if (x->sb && linger_has(x->sb, x->id))
		keeper_exec_lingers(x->m->keeper, x->slot, x->id);
	else
		keeper_exec_over(x->m->keeper, x->slot, x->id);
}

void exec_no_stdin(struct exec *x)
{
	if (x->kept && x->m->keeper && !x->exited && !x->m->keeping && x->spec.pty.rows == 0 && x->spec.stdin_open)
		keeper_exec_no_stdin(x->m->keeper, x->slot, x->id);
}

/* ---- the next daemon ---- */

static struct exec *new_exec(struct sandbox *sb, const struct kept_exec *k, const struct whole_note *w)
{
	const struct exec_note *n = &w->n;
	struct exec *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	*x = (struct exec){ .m = sb->m, .sb = sb, .id = k->id, .in.fd = -1, .refs = 1, .kept = true };
	x->args = malloc(n->args_len + 1);
	if (!x->args) {
		free(x);
		return NULL;
	}
	memcpy(x->args, w->args, n->args_len);
	x->n_args = n->n_args;
	memcpy(x->name, n->name, sizeof(x->name));
	memcpy(x->program, n->program, sizeof(x->program));
	(void)snprintf(x->slot, sizeof(x->slot), "%s", sb->row.slot);
	x->shell = n->shell;
	x->args_cut = n->args_cut;
	x->spec = (struct exec_spec){ .stdin_open = n->stdin_open,
				      .pty = { n->rows, n->cols },
				      .streamed = n->streamed,
				      .background = n->background,
				      .detach = n->detach,
				      .timeout_s = n->timeout_s };
	x->started_ms = n->started_ms;
	x->oom_before = n->oom_before;
	x->denied_before = n->denied_before;
	x->net_before = sandbox_net_seq(sb);
	x->res = (struct exec_result){ .background = -1, .timeout_s = n->timeout_s };
	x->pos = &sb->m->no_pos;
	x->pos_index = UINT32_MAX;
	for (int i = 0; i < 2; i++) {
		x->s[i].x = x;
		x->s[i].fd = -1;
		output_init(&x->s[i].out);
	}
	(void)uv_timer_init(sb->m->c.loop, &x->timer);
	x->timer.data = x;
	return x;
}

/* Where the earlier daemon was. */
static void take_state(struct exec *x, uint32_t position)
{
	struct sandboxes *m = x->m;
	const uint64_t none[2] = { 0, 0 };

	x->start_us = clock_mono_us() - MAX(clock_now_ms() - x->started_ms, INT64_C(0)) * 1000;
	log_init_lost(&x->log, none);
	if (!m->positions || position >= EXEC_POSITIONS || m->pos_used[position])
		return;
	take_position(x, position);
	x->start_us = x->pos->start_us;
	log_init_lost(&x->log, x->pos->bytes);
}

static void take_clock(struct exec *x)
{
	int64_t now = clock_mono_us(), left_ms;

	/* Since the pause began it has stood still; from now on the sandbox counts that. What is noted stays as it was
	 * at the pause until the resume, for a daemon after this one. */
	if (x->pos->held_us != 0 && x->pos_index != UINT32_MAX)
		x->start_us += now - x->pos->held_us;
	if (x->sb->row.status != SANDBOX_PAUSED)
		exec_note_clock(x);
	if (x->spec.timeout_s == EXEC_NO_TIMEOUT)
		return;
	left_ms = MAX((int64_t)x->spec.timeout_s * 1000 - (now - x->start_us) / 1000, INT64_C(1));
	if (x->sb->row.status == SANDBOX_PAUSED) {
		x->held = true;
		x->held_ms = (uint64_t)left_ms;
	} else {
		exec_start_timer(x, (uint64_t)left_ms);
	}
}

static int adopt(struct sandbox *sb, struct kept_exec *k, struct err *e)
{
	struct whole_note w;
	struct exec *x;
	int r;

	memcpy(&w, k->note, k->note_len);
	if (!note_ok(&w, k->note_len))
		return err_set(e, ERR_INTERNAL, EBADMSG, NULL, "a command's note makes no sense");
	x = new_exec(sb, k, &w);
	if (!x)
		return err_errno(e, ENOMEM, "a command");
	r = exec_io_adopt(x, k->fds, e);
	if (r < 0) {
		exec_io_close(x);
		exec_put(x);
		return r;
	}
	take_state(x, w.n.position);
	DL_APPEND(sb->execs, x);
	sb->n_execs++;
	sb->m->n_execs++;
	sb->next_exec = MAX(sb->next_exec, x->id);
	exec_io_update(x);
	take_clock(x);
	if (x->pos_index != UINT32_MAX && x->pos->by > EXEC_BY_NONE && x->pos->by < EXEC_BY_SANDBOX)
		exec_begin_end(x, (enum exec_ender)x->pos->by);
	(void)init_recall(sb->init, x->id);
	return 0;
}

void exec_adopt_all(struct sandbox *sb, struct slot_kept *k)
{
	struct kept_exec *x;
	struct err e;

	LL_FOREACH(k->execs, x)
	{
		e = ERR_INIT;
		if (x->lingers) {
			for (int i = 1; i < 3; i++)
				if (x->fds[i] >= 0)
					linger_add(sb, TAKE_FD(x->fds[i]), x->id);
		} else if (adopt(sb, x, &e) < 0) {
			log_warn("%s: a command can't be taken over: %s", sb->row.id, e.msg);
			keeper_exec_over(sb->m->keeper, sb->row.slot, x->id);
		}
	}
}
