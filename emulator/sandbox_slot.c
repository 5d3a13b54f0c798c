/* Slots: the kernel's part of a sandbox, from its folder to its init, and its way out.
 *
 * A slot is in the manager's table from slot_make to the end of its removal. The keeper's two messages
 * about it (spawned, died) may come in any order, late, or never: never is bounded by the timer, late is
 * told apart by the state, and spawn_pending keeps the memory that a late answer points at. */

#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/fdroom.h"
#include "emulator/sandbox-internal.h"
#include "rootfs/tree.h"

/* An init that is asked to die is asked again now and then; after a while its whole cgroup is. */
#define KILL_EVERY_MS 500
#define KILL_CGROUP_AT 3
#define KILL_TRIES 20 /* 10 s: then it is given up, loudly */

/* The kernel empties a cgroup a little after the last process was reaped. */
#define REMOVE_FIRST_MS 2u
#define REMOVE_MAX_MS 250u
#define REMOVE_TRIES 50 /* about 10 s */

static void removal_step(struct slot *s);

void slot_new_name(char ret[static KEEPER_SLOT_SIZE])
{
	char ulid[TEXT_ULID_SIZE];

	text_ulid(clock_real_ms(), ulid);
	(void)snprintf(ret, KEEPER_SLOT_SIZE, "s-%s", ulid);
	for (char *p = ret; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
}

void slot_kept_free(struct slot_kept *k)
{
	struct kept_exec *x;

	if (!k)
		return;
	while ((x = k->execs)) {
		k->execs = x->next;
		for (int i = 0; i < 3; i++)
			closep(&x->fds[i]);
		free(x);
	}
	closep(&k->root_fd);
	closep(&k->reports_fd);
	free(k);
}

static void maybe_free(struct slot *s)
{
	if (s->closed && !s->spawn_pending)
		free(s);
}

static void on_closed(uv_handle_t *h)
{
	struct slot *s = h->data;

	s->closed = true;
	maybe_free(s);
}

static void leave(struct slot *s)
{
	struct sandboxes *m = s->m;

	slot_disconnect(s);
	HASH_DEL(m->slots, s);
	uv_close((uv_handle_t *)&s->timer, on_closed);
	sandboxes_check_stopped(m);
}

static void on_remove_timer(uv_timer_t *t)
{
	removal_step(t->data);
}

static void removal_step(struct slot *s)
{
	struct sandboxes *m = s->m;
	struct err e = ERR_INIT;
	int r = cgroup_remove(m->c.cgroups, s->name);

	if (r == -EBUSY && s->tries++ < REMOVE_TRIES) {
		unsigned int shift = MIN(s->tries - 1, 7u);

		/* A process that slipped in after the kill would keep it busy for ever. */
		if (s->tries % 8 == 0)
			(void)cgroup_kill(m->c.cgroups, s->name);
		(void)uv_timer_start(&s->timer, on_remove_timer, MIN(REMOVE_FIRST_MS << shift, REMOVE_MAX_MS), 0);
		return;
	}
	if (r < 0)
		log_warn("%s: its cgroup can't be removed (errno %d); the next start will try again", s->name, -r);
	if (tree_trash_slot(m->c.state_fd, s->name, &e) < 0)
		log_warn("%s: its folder can't be moved to the trash: %s", s->name, e.msg);
	else
		sandbox_trash_kick(m);
	leave(s);
}

/* No process is left in it. */
static void gone(struct slot *s, int status)
{
	struct slot_events ev = s->ev;

	(void)uv_timer_stop(&s->timer);
	s->state = SLOT_REMOVING;
	s->tries = 0;
	s->ev = (struct slot_events){ 0 };
	closep(&s->ctl_sock);
	closep(&s->refused_sock);
	slot_kept_free(TAKE_PTR(s->kept));
	if (ev.dead)
		ev.dead(ev.arg, status);
	if (s->counting)
		cgroup_counters_close(&s->counters);
	s->counting = false;
	/* Behind the answer: the caller of a terminate doesn't wait for this. */
	(void)uv_timer_start(&s->timer, on_remove_timer, 0, 0);
}

static void on_kill_timer(uv_timer_t *t)
{
	struct slot *s = t->data;
	struct sandboxes *m = s->m;

	if (s->tries++ == KILL_TRIES || m->keeper_lost) {
		if (!m->keeper_lost)
			log_error("%s: no word of its end after %d ms; given up", s->name, KILL_TRIES * KILL_EVERY_MS);
		gone(s, SIGKILL);
		return;
	}
	(void)keeper_kill(m->keeper, s->name);
	if (s->tries >= KILL_CGROUP_AT)
		(void)cgroup_kill(m->c.cgroups, s->name);
}

void slot_kill(struct slot *s)
{
	int r = 0;

	if (s->state >= SLOT_KILLING)
		return;
	s->state = SLOT_KILLING;
	s->tries = 0;
	closep(&s->ctl_sock);
	closep(&s->refused_sock);
	/* Before the keeper's answer there is nothing to kill; on_spawned does it then. */
	if (!s->m->keeper_lost && !s->spawn_pending)
		r = keeper_kill(s->m->keeper, s->name);
	(void)uv_timer_start(&s->timer, on_kill_timer,
			     s->m->keeper_lost ? 0
			     : r < 0	       ? 10
					       : KILL_EVERY_MS,
			     KILL_EVERY_MS);
}

void slot_discard(struct slot *s)
{
	s->ev = (struct slot_events){ 0 };
	slot_kill(s);
}

/* The keeper could not make it: nothing of it runs. */
static void spawn_failed(struct slot *s, const struct err *e)
{
	struct slot_events ev = s->ev;
	bool killing = s->state == SLOT_KILLING;

	if (killing) {
		gone(s, 0);
		return;
	}
	s->ev = (struct slot_events){ 0 };
	gone(s, 0);
	ev.ready(ev.arg, e);
}

static void on_spawned(void *arg, const struct err *e, int ctl_sock, int refused_sock, pid_t pid)
{
	struct slot *s = arg;
	struct err early = ERR_INIT;

	s->spawn_pending = false;
	if (s->state == SLOT_REMOVING) {
		/* It was given up before; what came late must not stay. */
		closep(&ctl_sock);
		closep(&refused_sock);
		if (!e && !s->m->keeper_lost)
			(void)keeper_kill(s->m->keeper, s->name);
		maybe_free(s);
		return;
	}
	if (e) {
		spawn_failed(s, e);
		return;
	}
	s->pid = pid;
	if (s->died_early) {
		closep(&ctl_sock);
		closep(&refused_sock);
		(void)err_set(&early, ERR_INTERNAL, EIO, NULL, "the sandbox's init ended as soon as it was made");
		spawn_failed(s, &early);
		return;
	}
	if (s->state == SLOT_KILLING) {
		closep(&ctl_sock);
		closep(&refused_sock);
		(void)keeper_kill(s->m->keeper, s->name);
		return;
	}
	s->ctl_sock = ctl_sock;
	s->refused_sock = refused_sock;
	s->state = SLOT_PARKED;
	s->ev.ready(s->ev.arg, NULL);
}

static int build(struct slot *s, struct err *e)
{
	struct sandboxes *m = s->m;
	int r = fdroom_check(FDROOM_SANDBOX, e);

	if (r < 0)
		return r;
	r = tree_make_slot(m->c.state_fd, s->name, idmap_sandbox_uid(m->c.idmap, 0), e);
	if (r < 0) {
		err_prefix(e, "can't make the sandbox's disk");
		goto undo_folder; /* half of it may be there */
	}
	r = cgroup_create(m->c.cgroups, s->name, &s->limits, e);
	if (r < 0) {
		err_prefix(e, "can't set the sandbox's limits");
		goto undo_cgroup; /* made, but refused a limit */
	}
	r = keeper_spawn(m->keeper, s->name, on_spawned, s, e);
	if (r < 0) {
		err_prefix(e, "can't start the sandbox's init");
		goto undo_cgroup;
	}
	s->spawn_pending = true;
	return 0;

undo_cgroup:
	(void)cgroup_remove(m->c.cgroups, s->name);
undo_folder:
	if (tree_trash_slot(m->c.state_fd, s->name, NULL) == 0)
		sandbox_trash_kick(m);
	return r;
}

int slot_make(struct sandboxes *m, const char *name, const struct cgroup_limits *l, const struct slot_events *ev,
	      struct slot **ret, struct err *e)
{
	struct slot *s;
	int r;

	if (m->keeper_lost || !m->keeper)
		return err_set(e, ERR_UNAVAILABLE, ECONNRESET, NULL,
			       "the emulator's keeper process has ended; restart the emulator");
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_errno(e, ENOMEM, "can't make a sandbox");
	*s = (struct slot){
		.m = m, .state = SLOT_SPAWNING, .ev = *ev, .limits = *l, .ctl_sock = -1, .refused_sock = -1
	};
	(void)snprintf(s->name, sizeof(s->name), "%s", name);
	HASH_ADD_STR(m->slots, name, s);
	if (!s->hh.tbl) {
		free(s);
		return err_errno(e, ENOMEM, "can't make a sandbox");
	}
	(void)uv_timer_init(m->c.loop, &s->timer);
	s->timer.data = s;
	r = build(s, e);
	if (r < 0) {
		leave(s);
		return r;
	}
	*ret = s;
	return 0;
}

int slot_adopt(struct sandboxes *m, const struct keeper_kept *k, struct err *e)
{
	_cleanup_close_ int ctl = k->ctl, refused = k->refused, root = k->root, reports = k->reports;
	struct slot *s = calloc(1, sizeof(*s));

	if (s)
		s->kept = calloc(1, sizeof(*s->kept));
	if (!s || !s->kept) {
		free(s);
		return err_errno(e, ENOMEM, "can't take over a sandbox");
	}
	s->m = m;
	s->state = SLOT_USED;
	s->pid = k->pid;
	(void)snprintf(s->name, sizeof(s->name), "%s", k->slot);
	HASH_ADD_STR(m->slots, name, s);
	if (!s->hh.tbl) {
		free(s->kept);
		free(s);
		return err_errno(e, ENOMEM, "can't take over a sandbox");
	}
	s->ctl_sock = TAKE_FD(ctl);
	s->refused_sock = TAKE_FD(refused);
	*s->kept = (struct slot_kept){
		.root_fd = TAKE_FD(root), .reports_fd = TAKE_FD(reports), .net_index = k->index, .net_mode = k->mode
	};
	(void)snprintf(s->kept->label, sizeof(s->kept->label), "%s", k->label);
	(void)uv_timer_init(m->c.loop, &s->timer);
	s->timer.data = s;
	return 0;
}

const struct cgroup_counters *slot_counters(struct slot *s)
{
	if (!s->counting)
		cgroup_counters_open(s->m->c.cgroups, s->name, &s->counters);
	s->counting = true;
	return &s->counters;
}

int slot_use(struct slot *s, const struct cgroup_limits *l, const struct slot_events *ev, int *ret_sock, struct err *e)
{
	int r;

	if (s->state != SLOT_PARKED)
		return err_set(e, ERR_INTERNAL, EBUSY, NULL, "slot %s is not free", s->name);
	if (l->cpu_millis != s->limits.cpu_millis || l->memory_bytes != s->limits.memory_bytes ||
	    l->pids_max != s->limits.pids_max) {
		r = cgroup_set_limits(s->m->c.cgroups, s->name, l, e);
		if (r < 0)
			return r;
		s->limits = *l;
	}
	s->state = SLOT_USED;
	s->ev = *ev;
	*ret_sock = TAKE_FD(s->ctl_sock);
	return 0;
}

void slot_on_died(struct sandboxes *m, const char *name, int status)
{
	struct slot *s;

	HASH_FIND_STR(m->slots, name, s);
	if (!s || s->state == SLOT_REMOVING)
		return;
	if (s->spawn_pending) {
		s->died_early = true;
		return;
	}
	gone(s, status);
}

void slot_on_keeper_lost(struct sandboxes *m)
{
	struct err e = ERR_INIT;
	struct slot *s, *next;

	m->keeper_lost = true;
	m->keeper = NULL;
	(void)err_set(&e, ERR_UNAVAILABLE, ECONNRESET, NULL,
		      "the emulator's keeper process has ended; restart the emulator");
	HASH_ITER(hh, m->slots, s, next)
	{
		if (s->state == SLOT_REMOVING)
			continue;
		(void)cgroup_kill(m->c.cgroups, s->name);
		if (s->state == SLOT_SPAWNING)
			spawn_failed(s, &e);
		else
			gone(s, SIGKILL);
	}
}
