/* The daemon's connection to the keeper: requests out, one answer each, deaths as they come. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <uv.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/keeper.h"
#include "emulator/proto.h"
#include "netpolicy/gateway.h"

#define LIST_MS 10000

struct pending {
	char slot[KEEPER_SLOT_SIZE];
	keeper_spawned_fn done; /* a spawn's, or */
	keeper_done_fn net_done;
	void *arg;
	UT_hash_handle hh;
};

struct keeper {
	uv_poll_t poll;
	int sock;
	struct keeper_events ev;
	struct pending *pending;
	bool lost;
};

static void finish(const struct pending *p, const struct err *e, const int fds[2], pid_t pid)
{
	if (p->done)
		p->done(p->arg, e, fds[0], fds[1], pid);
	else
		p->net_done(p->arg, e);
}

static void fail_pending(struct keeper *k)
{
	const int none[2] = { -1, -1 };
	struct pending *p, *tmp;
	struct err e;

	err_set(&e, ERR_INTERNAL, EPIPE, NULL, "the keeper is gone");
	HASH_ITER(hh, k->pending, p, tmp)
	{
		HASH_DEL(k->pending, p);
		finish(p, &e, none, 0);
		free(p);
	}
}

static void lost(struct keeper *k, const char *why)
{
	if (k->lost)
		return;
	k->lost = true;
	(void)uv_poll_stop(&k->poll);
	log_error("the keeper is gone (%s)", why);
	fail_pending(k);
	k->ev.lost(k->ev.arg);
}

static void on_answer(struct keeper *k, const struct keeper_msg *m, const int fds[2])
{
	struct err e = ERR_INIT;
	struct pending *p;

	HASH_FIND_STR(k->pending, m->slot, p);
	if (!p || (m->type == KEEPER_SPAWNED) != (p->done && m->type != KEEPER_FAILED)) {
		for (int i = 0; i < 2; i++)
			if (fds[i] >= 0)
				(void)close(fds[i]);
		return;
	}
	HASH_DEL(k->pending, p);
	if (m->type == KEEPER_FAILED) {
		/* EPIPE: the gateway process has ended; the daemon is told that by itself, too. */
		err_set(&e,
			m->value == EAGAIN || m->value == ENOMEM || m->value == ENOSPC || m->value == EMFILE
				? ERR_CAPACITY
			: m->value == EPIPE ? ERR_UNAVAILABLE
					    : ERR_INTERNAL,
			m->value, m->value == EPIPE ? "network_unavailable" : NULL, "%s", m->text);
		finish(p, &e, fds, 0);
	} else {
		finish(p, NULL, fds, m->value);
	}
	free(p);
}

/* An init was made, but its sockets can't be taken: without them it is of no use. */
static void on_starved(struct keeper *k, const struct keeper_msg *m)
{
	const int none[2] = { -1, -1 };
	struct keeper_msg failed = { .type = KEEPER_FAILED, .value = EMFILE, .text = "too many open files" };

	if (!proto_slot_ok(m->slot))
		return;
	memcpy(failed.slot, m->slot, sizeof(failed.slot));
	(void)keeper_kill(k, m->slot);
	on_answer(k, &failed, none);
}

static void give_egress(struct keeper *k, const struct keeper_msg *m, int fd)
{
	if (k->ev.egress)
		k->ev.egress(k->ev.arg, fd, m->text);
	else
		closep(&fd);
}

static void on_readable(uv_poll_t *h, int status, int events)
{
	struct keeper *k = h->data;
	(void)events;

	/* A bounded number a turn, so that many deaths don't hold up the requests. */
	for (int i = 0; i < 64 && !k->lost; i++) {
		struct keeper_msg m = { 0 };
		int fds[2] = { -1, -1 };
		size_t n_fds = 0;
		ssize_t n = status < 0 ? status : fd_recv_msg(k->sock, &m, sizeof(m), fds, 2, &n_fds);

		if (n == -EAGAIN)
			return;
		if (n == -EMFILE && m.type == KEEPER_SPAWNED) {
			on_starved(k, &m);
			continue;
		}
		if (n == sizeof(m) && m.magic == KEEPER_MAGIC && m.type == KEEPER_EGRESS && n_fds <= 1 &&
		    proto_string_ok(m.text, sizeof(m.text))) {
			give_egress(k, &m, fds[0]);
			continue;
		}
		if (n != sizeof(m) || m.magic != KEEPER_MAGIC || !proto_slot_ok(m.slot) ||
		    !proto_string_ok(m.text, sizeof(m.text)) || (m.type == KEEPER_SPAWNED) != (n_fds > 0) ||
		    (m.type == KEEPER_SPAWNED && m.value <= 0)) {
			closep(&fds[0]);
			closep(&fds[1]);
			lost(k, n == 0 ? "end of file" : n < 0 ? strerror((int)-n) : "a message it should not send");
			return;
		}
		if (m.type == KEEPER_SPAWNED || m.type == KEEPER_FAILED || m.type == KEEPER_DONE)
			on_answer(k, &m, fds);
		else if (m.type == KEEPER_DIED)
			k->ev.died(k->ev.arg, m.slot, m.value);
	}
}

int keeper_connect(struct uv_loop_s *loop, int sock, const struct keeper_events *ev, struct keeper **ret, struct err *e)
{
	struct keeper *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return err_errno(e, ENOMEM, "the keeper's connection");
	k->sock = sock;
	k->ev = *ev;
	r = fd_set_nonblock(sock, true);
	if (r >= 0)
		r = uv_poll_init(loop, &k->poll, sock);
	if (r < 0) {
		free(k);
		return err_errno(e, -r, "watching the keeper's socket");
	}
	k->poll.data = k;
	(void)uv_poll_start(&k->poll, UV_READABLE, on_readable);
	*ret = k;
	return 0;
}

/* The socket holds many hundred messages; a full one means a keeper that stopped, so a short wait will do. */
static int send_msg(struct keeper *k, const void *m, size_t n, const int *fds, size_t n_fds)
{
	int r;

	if (k->lost)
		return -EPIPE;
	for (int tries = 0;; tries++) {
		struct pollfd p = { .fd = k->sock, .events = POLLOUT };

		r = fd_send_msg(k->sock, m, n, fds, n_fds);
		if ((r != -EAGAIN && r != -ETOOMANYREFS) || tries == 20)
			return r;
		if (r == -ETOOMANYREFS)
			(void)poll(NULL, 0, 2);
		else
			(void)poll(&p, 1, 50);
	}
}

static int send_request(struct keeper *k, enum keeper_msg_type type, const char *slot, uint32_t index,
			enum net_mode mode)
{
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = type, .value = (int32_t)index, .mode = mode };

	(void)snprintf(m.slot, sizeof(m.slot), "%s", slot);
	return send_msg(k, &m, sizeof(m), NULL, 0);
}

int keeper_hold(struct keeper *k, const char *slot, int root_fd, int reports_fd, const char *label, struct err *e)
{
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = KEEPER_HOLD };
	int r;

	(void)snprintf(m.slot, sizeof(m.slot), "%s", slot);
	(void)snprintf(m.kept.label, sizeof(m.kept.label), "%s", label);
	r = send_msg(k, &m, sizeof(m), (int[]){ root_fd, reports_fd }, 2);
	return r < 0 ? err_errno(e, -r, "giving the keeper the sandbox's root") : 0;
}

/* ---- commands ---- */

static int send_exec(struct keeper *k, enum keeper_msg_type type, const struct keeper_exec *x)
{
	struct keeper_exec_msg m = { .magic = KEEPER_MAGIC, .type = type, .id = x->id };
	int fds[3];
	size_t n = 0;

	if (x->note_len > KEEPER_NOTE_MAX)
		return -EMSGSIZE;
	(void)snprintf(m.slot, sizeof(m.slot), "%s", x->slot);
	m.note_len = (uint32_t)x->note_len;
	if (x->note_len > 0)
		memcpy(m.note, x->note, x->note_len);
	for (unsigned int i = 0; i < 3; i++)
		if (x->fds[i] >= 0) {
			m.has |= 1u << i;
			fds[n++] = x->fds[i];
		}
	return send_msg(k, &m, KEEPER_EXEC_MSG_MIN + m.note_len, fds, n);
}

int keeper_exec(struct keeper *k, const struct keeper_exec *x, struct err *e)
{
	int r = send_exec(k, KEEPER_EXEC, x);

	return r < 0 ? err_errno(e, -r, "giving the keeper the command's pipes") : 0;
}

static void tell_exec(struct keeper *k, enum keeper_msg_type type, const char *slot, uint64_t id)
{
	struct keeper_exec x = { .id = id, .fds = { -1, -1, -1 } };

	(void)snprintf(x.slot, sizeof(x.slot), "%s", slot);
	(void)send_exec(k, type, &x);
}

void keeper_exec_lingers(struct keeper *k, const char *slot, uint64_t id)
{
	tell_exec(k, KEEPER_EXEC_LINGERS, slot, id);
}

void keeper_exec_no_stdin(struct keeper *k, const char *slot, uint64_t id)
{
	tell_exec(k, KEEPER_EXEC_NO_STDIN, slot, id);
}

void keeper_exec_over(struct keeper *k, const char *slot, uint64_t id)
{
	tell_exec(k, KEEPER_EXEC_OVER, slot, id);
}

/* ---- what an earlier daemon left ---- */

static void close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)close(fds[i]);
}

static bool kept_ok(const struct keeper_msg *m, size_t n_fds)
{
	return n_fds == 1u + !!(m->kept.has & KEPT_HAS_REFUSED) + (m->kept.has & KEPT_HAS_ROOT ? 2u : 0u) &&
	       m->value > 1 && m->mode <= NET_OPEN && m->kept.index >= -1 && m->kept.index < (int)GATEWAY_MAX &&
	       proto_slot_ok(m->slot) && proto_string_ok(m->kept.label, sizeof(m->kept.label));
}

static int give_kept(const struct keeper_list *l, const struct keeper_msg *m, const int *fds)
{
	struct keeper_kept s = { .ctl = fds[0], .refused = -1, .root = -1, .reports = -1 };
	size_t at = 1;

	(void)snprintf(s.slot, sizeof(s.slot), "%s", m->slot);
	(void)snprintf(s.label, sizeof(s.label), "%s", m->kept.label);
	s.pid = m->value;
	s.index = m->kept.index;
	s.mode = (enum net_mode)m->mode;
	if (m->kept.has & KEPT_HAS_REFUSED)
		s.refused = fds[at++];
	if (m->kept.has & KEPT_HAS_ROOT) {
		s.root = fds[at++];
		s.reports = fds[at];
	}
	return l->kept(l->arg, &s);
}

static int give_exec(const struct keeper_list *l, const struct keeper_exec_msg *m, const int *fds)
{
	struct keeper_exec x = {
		.id = m->id, .lingers = m->lingers, .note = m->note, .note_len = m->note_len, .fds = { -1, -1, -1 }
	};

	(void)snprintf(x.slot, sizeof(x.slot), "%s", m->slot);
	for (unsigned int i = 0; i < 3; i++)
		if (m->has & 1u << i)
			x.fds[i] = *fds++;
	return l->exec(l->arg, &x);
}

/* One answer. 1: the last one was heard. */
static int hear_kept(struct keeper *k, const struct keeper_list *l, struct err *e)
{
	struct pollfd p = { .fd = k->sock, .events = POLLIN };
	union keeper_any_msg any;
	size_t n_fds = 0;
	bool ours;
	int fds[4];
	ssize_t n;

	if (poll(&p, 1, LIST_MS) <= 0)
		return err_set(e, ERR_TIMEOUT, ETIMEDOUT, NULL, "the keeper does not say what it keeps");
	n = fd_recv_msg(k->sock, &any, sizeof(any), fds, ARRAY_SIZE(fds), &n_fds);
	if (n > 0 && proto_exec_ok(&any.exec, (size_t)n, n_fds))
		return give_exec(l, &any.exec, fds);
	ours = n == sizeof(any.m) && any.m.magic == KEEPER_MAGIC;
	if (ours && any.m.type == KEEPER_LISTED && n_fds == 0)
		return 1;
	if (ours && any.m.type == KEEPER_EGRESS && n_fds <= 1) {
		give_egress(k, &any.m, n_fds ? fds[0] : -1);
		return 0;
	}
	/* A death before it heard the question: that one is in no answer. */
	if (ours && any.m.type == KEEPER_DIED && n_fds == 0)
		return 0;
	if (ours && any.m.type == KEEPER_KEPT && kept_ok(&any.m, n_fds))
		return give_kept(l, &any.m, fds);
	close_all(fds, n_fds);
	return err_set(e, ERR_INTERNAL, EBADMSG, NULL, "the keeper says something that makes no sense");
}

int keeper_list(struct keeper *k, const struct keeper_list *l, struct err *e)
{
	int r = send_request(k, KEEPER_LIST, "", 0, NET_OFF);

	if (r < 0)
		return err_errno(e, -r, "asking the keeper what it keeps");
	while (r == 0)
		r = hear_kept(k, l, e);
	return r < 0 ? r : 0;
}

/* One question a slot at a time: the answer is told by its slot. */
static int question(struct keeper *k, const struct pending *what, enum keeper_msg_type type, uint32_t index,
		    enum net_mode mode, struct err *e)
{
	struct pending *p;
	int r;

	if (!proto_slot_ok(what->slot))
		return err_set(e, ERR_INTERNAL, EINVAL, NULL, "bad slot name");
	HASH_FIND_STR(k->pending, what->slot, p);
	if (p)
		return err_set(e, ERR_BUSY, EBUSY, NULL, "the keeper is still busy with this sandbox");
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_errno(e, ENOMEM, "a question to the keeper");
	*p = *what;
	HASH_ADD_STR(k->pending, slot, p);
	if (!p->hh.tbl) {
		free(p);
		return err_errno(e, ENOMEM, "a question to the keeper");
	}
	r = send_request(k, type, p->slot, index, mode);
	if (r < 0) {
		HASH_DEL(k->pending, p);
		free(p);
		return err_errno(e, -r, "asking the keeper");
	}
	return 0;
}

int keeper_spawn(struct keeper *k, const char *slot, keeper_spawned_fn done, void *arg, struct err *e)
{
	struct pending p = { .done = done, .arg = arg };

	(void)snprintf(p.slot, sizeof(p.slot), "%s", slot);
	return question(k, &p, KEEPER_SPAWN, 0, NET_OFF, e);
}

int keeper_attach(struct keeper *k, const char *slot, uint32_t index, enum net_mode mode, keeper_done_fn done,
		  void *arg, struct err *e)
{
	struct pending p = { .net_done = done, .arg = arg };

	(void)snprintf(p.slot, sizeof(p.slot), "%s", slot);
	return question(k, &p, KEEPER_ATTACH, index, mode, e);
}

int keeper_set_mode(struct keeper *k, const char *slot, uint32_t index, enum net_mode mode, keeper_done_fn done,
		    void *arg, struct err *e)
{
	struct pending p = { .net_done = done, .arg = arg };

	(void)snprintf(p.slot, sizeof(p.slot), "%s", slot);
	return question(k, &p, KEEPER_MODE, index, mode, e);
}

int keeper_kill(struct keeper *k, const char *slot)
{
	return send_request(k, KEEPER_KILL, slot, 0, NET_OFF);
}

void keeper_stop(struct keeper *k)
{
	struct keeper_msg m;
	int fds[2] = { -1, -1 };
	size_t n_fds;

	if (k->lost || send_request(k, KEEPER_STOP, "", 0, NET_OFF) < 0)
		return;
	for (int64_t waited = 0; waited < 5000; waited += 100) {
		struct pollfd p = { .fd = k->sock, .events = POLLIN };
		ssize_t n;

		if (poll(&p, 1, 100) <= 0)
			continue;
		n = fd_recv_msg(k->sock, &m, sizeof(m), fds, 2, &n_fds);
		closep(&fds[0]);
		closep(&fds[1]);
		if (n == 0 || (n < 0 && n != -EAGAIN))
			return;
	}
	log_warn("the keeper does not end");
}

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

void keeper_free(struct keeper *k)
{
	if (!k)
		return;
	fail_pending(k);
	(void)uv_poll_stop(&k->poll);
	uv_close((uv_handle_t *)&k->poll, on_closed);
	closep(&k->sock);
}
