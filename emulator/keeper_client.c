/* The daemon's connection to the keeper: requests out, one answer each, deaths as they come. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
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
		err_set(&e,
			m->value == EAGAIN || m->value == ENOMEM || m->value == ENOSPC || m->value == EMFILE
				? ERR_CAPACITY
				: ERR_INTERNAL,
			m->value, NULL, "%s", m->text);
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
static int send_msg(struct keeper *k, const struct keeper_msg *m, int fd)
{
	int r;

	if (k->lost)
		return -EPIPE;
	for (int tries = 0;; tries++) {
		struct pollfd p = { .fd = k->sock, .events = POLLOUT };

		r = fd_send_msg(k->sock, m, sizeof(*m), &fd, fd >= 0);
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
	return send_msg(k, &m, -1);
}

int keeper_hold(struct keeper *k, const char *slot, int root_fd, const char *label, struct err *e)
{
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = KEEPER_HOLD };
	int r;

	(void)snprintf(m.slot, sizeof(m.slot), "%s", slot);
	(void)snprintf(m.kept.label, sizeof(m.kept.label), "%s", label);
	r = send_msg(k, &m, root_fd);
	return r < 0 ? err_errno(e, -r, "giving the keeper the sandbox's root") : 0;
}

/* ---- what an earlier daemon left ---- */

static void close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)close(fds[i]);
}

static bool kept_ok(const struct keeper_msg *m, size_t n_fds)
{
	return n_fds == 1u + !!(m->kept.has & KEPT_HAS_REFUSED) + !!(m->kept.has & KEPT_HAS_ROOT) && m->value > 1 &&
	       m->mode <= NET_OPEN && m->kept.index >= -1 && m->kept.index < (int)GATEWAY_MAX &&
	       proto_slot_ok(m->slot) && proto_string_ok(m->kept.label, sizeof(m->kept.label));
}

/* One answer. 1: the last one was heard. */
static int hear_kept(struct keeper *k, int (*fn)(void *arg, const struct keeper_kept *s), void *arg, struct err *e)
{
	struct pollfd p = { .fd = k->sock, .events = POLLIN };
	struct keeper_kept s = { .ctl = -1, .refused = -1, .root = -1 };
	struct keeper_msg m;
	size_t n_fds = 0, at = 1;
	int fds[3];
	ssize_t n;

	if (poll(&p, 1, LIST_MS) <= 0)
		return err_set(e, ERR_TIMEOUT, ETIMEDOUT, NULL, "the keeper does not say what it keeps");
	n = fd_recv_msg(k->sock, &m, sizeof(m), fds, ARRAY_SIZE(fds), &n_fds);
	if (n == sizeof(m) && m.magic == KEEPER_MAGIC && m.type == KEEPER_LISTED && n_fds == 0)
		return 1;
	/* A death before it heard the question: that one is in no answer. */
	if (n == sizeof(m) && m.magic == KEEPER_MAGIC && m.type == KEEPER_DIED && n_fds == 0)
		return 0;
	if (n != sizeof(m) || m.magic != KEEPER_MAGIC || m.type != KEEPER_KEPT || !kept_ok(&m, n_fds)) {
		close_all(fds, n_fds);
		return err_set(e, ERR_INTERNAL, EBADMSG, NULL, "the keeper says something that makes no sense");
	}
	(void)snprintf(s.slot, sizeof(s.slot), "%s", m.slot);
	(void)snprintf(s.label, sizeof(s.label), "%s", m.kept.label);
	s.pid = m.value;
	s.index = m.kept.index;
	s.mode = (enum net_mode)m.mode;
	s.ctl = fds[0];
	if (m.kept.has & KEPT_HAS_REFUSED)
		s.refused = fds[at++];
	if (m.kept.has & KEPT_HAS_ROOT)
		s.root = fds[at];
	return fn(arg, &s);
}

int keeper_list(struct keeper *k, int (*fn)(void *arg, const struct keeper_kept *s), void *arg, struct err *e)
{
	int r = send_request(k, KEEPER_LIST, "", 0, NET_OFF);

	if (r < 0)
		return err_errno(e, -r, "asking the keeper what it keeps");
	while (r == 0)
		r = hear_kept(k, fn, arg, e);
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
	r = send_request(k, type, p->slot, index, mode);
	if (r < 0) {
		free(p);
		return err_errno(e, -r, "asking the keeper");
	}
	HASH_ADD_STR(k->pending, slot, p);
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
