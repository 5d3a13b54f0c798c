/* A sandbox's network as the daemon sees it. Off: packets that were refused are heard on the netlink socket the
 * keeper opened in the sandbox's namespace. Else: the keeper connects it to the gateway, the egress process is
 * told the rules and tells each decision. */

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"
#include "netpolicy/egress.h"
#include "netpolicy/gateway.h"

/* Stands in the table of numbers for a slot that no sandbox has taken yet. */
static struct sandbox nobody;

static void tell_blocked(const struct sandbox *sb, const struct egress_event *ev)
{
	char ip[INET6_ADDRSTRLEN] = "";

	if (IN6_IS_ADDR_V4MAPPED(&ev->address))
		(void)inet_ntop(AF_INET, ev->address.s6_addr + 12, ip, sizeof(ip));
	else
		(void)inet_ntop(AF_INET6, &ev->address, ip, sizeof(ip));
	journal_add(sb->m->c.journal, &(struct journal_event){ .type = JOURNAL_NETWORK_BLOCKED,
							       .account = sb->row.account,
							       .sandbox = sb->row.id,
							       .subject = ev->host[0] ? ev->host : ip,
							       .detail = ev->rule });
}

static void enter(struct sandbox *sb, const struct egress_event *ev)
{
	char owner[EXEC_ID_SIZE] = "";

	/* A sandbox that never tries anything has no ledger. */
	if (!sb->ledger && ledger_new(&sb->ledger) < 0)
		return;
	if (ev->kind != EGRESS_CLOSED)
		sandbox_net_owner(sb, ev->proto, ev->from_port, owner);
	(void)ledger_add(sb->ledger, ev, owner);
	if (ev->verdict == EGRESS_BLOCKED)
		tell_blocked(sb, ev);
}

static void on_refused(void *arg, const struct gateway_refused *r)
{
	struct sandbox *sb = arg;
	struct egress_event ev = { .magic = EGRESS_MAGIC,
				   .type = EGRESS_EVENT,
				   .verdict = EGRESS_BLOCKED,
				   .kind = EGRESS_OTHER,
				   .time_ms = clock_real_ms(),
				   .address = r->to,
				   .port = r->port,
				   .from_port = r->from_port,
				   .proto = r->proto };

	/* What a kernel says by itself (router and multicast chatter) is no attempt of anybody's. */
	if (IN6_IS_ADDR_MULTICAST(&r->to) || r->proto == IPPROTO_ICMPV6)
		return;
	if (r->name[0])
		ev.kind = EGRESS_DNS;
	else if (r->proto == IPPROTO_TCP || r->proto == IPPROTO_UDP)
		ev.kind = r->proto == IPPROTO_TCP ? EGRESS_TCP : EGRESS_UDP;
	(void)snprintf(ev.host, sizeof(ev.host), "%s", r->name);
	(void)snprintf(ev.rule, sizeof(ev.rule), "%s", r->rule);
	enter(sb, &ev);
}

static void on_readable(uv_poll_t *h, int status, int events)
{
	struct sandbox *sb = h->data;
	(void)events;

	if (status < 0 || gateway_read_refused(sb->refused_sock, on_refused, sb) < 0)
		(void)uv_poll_stop(h);
}

static void on_closed(uv_handle_t *h)
{
	free(h);
}

void sandbox_net_start(struct sandbox *sb)
{
	sb->refused_sock = TAKE_FD(sb->slot->refused_sock);
	if (sb->refused_sock < 0)
		return;
	sb->refused_poll = calloc(1, sizeof(*sb->refused_poll));
	if (!sb->refused_poll || uv_poll_init(sb->m->c.loop, sb->refused_poll, sb->refused_sock) < 0) {
		free(TAKE_PTR(sb->refused_poll));
		closep(&sb->refused_sock);
		return;
	}
	sb->refused_poll->data = sb;
	(void)uv_poll_start(sb->refused_poll, UV_READABLE, on_readable);
}

/* ---- the egress process ---- */

int sandboxes_tell_egress(struct sandboxes *m, const struct egress_msg *msg)
{
	int r = -EPIPE;

	/* It answers nothing and reads at once; a full socket is a moment's. */
	for (int tries = 0; !m->egress_lost && tries < 20; tries++) {
		struct pollfd p = { .fd = m->c.network.egress_sock, .events = POLLOUT };

		r = fd_send_msg(p.fd, msg, sizeof(*msg), NULL, 0);
		if (r != -EAGAIN)
			break;
		(void)poll(&p, 1, 20);
	}
	return r;
}

static int tell_text(struct sandboxes *m, enum egress_msg_type type, uint32_t index, const char *text)
{
	struct egress_msg msg = { .magic = EGRESS_MAGIC, .type = type, .index = index, .value = 1 };

	if (strlen(text) >= sizeof(msg.text))
		return -ENAMETOOLONG;
	(void)snprintf(msg.text, sizeof(msg.text), "%s", text);
	return sandboxes_tell_egress(m, &msg);
}

static void on_event(struct sandboxes *m, const struct egress_event *ev)
{
	struct sandbox *sb = m->by_net_index && ev->index < GATEWAY_MAX ? m->by_net_index[ev->index] : NULL;
	const struct egress_msg noted = { .magic = EGRESS_MAGIC, .type = EGRESS_NOTED, .token = ev->token };

	if (sb == &nobody)
		sb = NULL;
	if (ev->type == EGRESS_SYNCED) {
		m->sync_heard = ev->token;
		if (sb)
			exec_on_net_synced(sb, ev->token);
		return;
	}
	if (sb && strncmp(ev->rule, EGRESS_FAULT_RULE, sizeof(EGRESS_FAULT_RULE) - 1) == 0)
		sandbox_fault_hit(sb, ev->rule + sizeof(EGRESS_FAULT_RULE) - 1, ev->host);
	if (sb)
		enter(sb, ev);
	if (ev->token)
		(void)sandboxes_tell_egress(m, &noted);
}

static void read_events(struct sandboxes *m)
{
	struct egress_event ev;

	for (int i = 0; i < 256 && !m->egress_lost; i++) {
		ssize_t n = fd_recv_msg(m->c.network.egress_sock, &ev, sizeof(ev), NULL, 0, NULL);

		if (n == -EAGAIN)
			return;
		if (n != sizeof(ev) || ev.magic != EGRESS_MAGIC ||
		    (ev.type != EGRESS_EVENT && ev.type != EGRESS_SYNCED)) {
			m->egress_lost = true;
			(void)uv_poll_stop(&m->egress_poll);
			log_error("the egress process is gone, and what connections there were; the keeper makes "
				  "another one");
			return;
		}
		on_event(m, &ev);
	}
}

static void on_egress(uv_poll_t *h, int status, int events)
{
	(void)status;
	(void)events;
	read_events(h->data);
}

int sandboxes_net_start(struct sandboxes *m, struct err *e)
{
	const struct sandboxes_network *n = &m->c.network;
	int r = 0;

	m->egress_lost = true;
	if (n->egress_sock < 0)
		return 0;
	r = fd_set_nonblock(n->egress_sock, true);
	if (r >= 0)
		r = uv_poll_init(m->c.loop, &m->egress_poll, n->egress_sock);
	if (r < 0)
		return err_errno(e, -r, "watching the egress process");
	m->egress_poll.data = m;
	m->handles++;
	m->egress_open = true;
	m->egress_lost = false;
	(void)uv_poll_start(&m->egress_poll, UV_READABLE, on_egress);
	return 0;
}

static void on_egress_closed(uv_handle_t *h)
{
	struct sandboxes *m = h->data;
	struct err e = ERR_INIT;

	m->handles--;
	if (m->freeing)
		closep(&m->next_egress);
	m->c.network.egress_sock = TAKE_FD(m->next_egress);
	if (m->c.network.egress_sock >= 0 && (sandboxes_net_start(m, &e) < 0 || sandboxes_net_restate(m, &e) < 0))
		log_error("%s", e.msg);
	if (m->freeing)
		sandboxes_maybe_free(m);
}

/* A command that waits for what the egress process says is released by sync_timer, which stays. */
static void close_egress(struct sandboxes *m)
{
	m->egress_lost = true;
	if (!m->egress_open)
		return;
	m->egress_open = false;
	uv_close((uv_handle_t *)&m->egress_poll, on_egress_closed);
	closep(&m->c.network.egress_sock);
}

void sandboxes_net_replace(struct sandboxes *m, int sock, const char *why)
{
	closep(&m->next_egress);
	m->next_egress = sock;
	if (sock < 0) {
		(void)snprintf(m->no_network, sizeof(m->no_network), "%s", why);
		m->c.network.why_none = m->no_network;
	}
	close_egress(m);
}

void sandboxes_net_stop(struct sandboxes *m)
{
	close_egress(m);
	free(TAKE_PTR(m->by_net_index));
}

/* ---- what a command that has ended did last ---- */

#define SYNC_MS 50

/* It did not answer in time: the commands that wait have ended all the same. */
static void on_sync_late(uv_timer_t *t)
{
	struct sandboxes *m = t->data;
	struct sandbox *sb, *next;
	uint64_t due = m->sync_due;

	if (m->sync_heard < m->sync_asked) {
		m->sync_due = m->sync_asked;
		(void)uv_timer_start(t, on_sync_late, SYNC_MS, 0);
	}
	if (m->sync_heard >= due)
		return;
	m->sync_heard = due;
	HASH_ITER(hh, m->by_id, sb, next)
	exec_on_net_synced(sb, due);
}

uint64_t sandbox_net_sync(struct sandbox *sb)
{
	struct sandboxes *m = sb->m;
	struct egress_msg msg = { .magic = EGRESS_MAGIC, .type = EGRESS_SYNC };

	if (sb->net_index < 0 || m->egress_lost)
		return 0;
	msg.index = (uint32_t)sb->net_index;
	msg.token = m->sync_asked + 1;
	if (fd_send_msg(m->c.network.egress_sock, &msg, sizeof(msg), NULL, 0) < 0)
		return 0;
	m->sync_asked++;
	if (!uv_is_active((uv_handle_t *)&m->sync_timer)) {
		m->sync_due = m->sync_asked;
		(void)uv_timer_start(&m->sync_timer, on_sync_late, SYNC_MS, 0);
	}
	return msg.token;
}

/* ---- a sandbox with a network ---- */

static int take_index(struct sandboxes *m, struct sandbox *whose, uint32_t *ret, struct err *e)
{
	if (!m->by_net_index)
		m->by_net_index = calloc(GATEWAY_MAX, sizeof(struct sandbox *));
	if (!m->by_net_index)
		return err_errno(e, ENOMEM, "the table of networks");
	/* Round and round, so that a number is not used again while somebody may still remember it. */
	for (uint32_t i = 0; i < GATEWAY_MAX; i++) {
		uint32_t at = (m->net_hint + i) % GATEWAY_MAX;

		if (m->by_net_index[at])
			continue;
		m->by_net_index[at] = whose;
		m->net_hint = at + 1;
		*ret = at;
		return 0;
	}
	return err_set(e, ERR_CAPACITY, EAGAIN, NULL, "no more sandboxes with a network fit on this host");
}

int slot_connect(struct slot *s, keeper_done_fn done, void *arg)
{
	struct err e = ERR_INIT;
	uint32_t index;
	int r = take_index(s->m, &nobody, &index, &e);

	if (r < 0)
		return r;
	s->net_number = index + 1;
	/* What most will be; nothing runs in it that could use it before its rules are told. */
	r = keeper_attach(s->m->keeper, s->name, index, NET_RESTRICTED, done, arg, &e);
	if (r < 0)
		slot_disconnect(s);
	return r;
}

void slot_reserve(struct slot *s, int index)
{
	struct sandboxes *m = s->m;

	if (index < 0 || s->net_number)
		return;
	if (!m->by_net_index)
		m->by_net_index = calloc(GATEWAY_MAX, sizeof(struct sandbox *));
	if (!m->by_net_index || m->by_net_index[index])
		return;
	m->by_net_index[index] = &nobody;
	s->net_number = (uint32_t)index + 1;
}

void slot_disconnect(struct slot *s)
{
	if (s->net_number && s->m->by_net_index)
		s->m->by_net_index[s->net_number - 1] = NULL;
	s->net_number = 0;
}

static int send_rules(struct sandbox *sb, enum net_mode mode, struct err *e)
{
	const struct sandboxes_network *n = &sb->m->c.network;
	struct egress_msg add = {
		.magic = EGRESS_MAGIC, .type = EGRESS_ADD, .index = (uint32_t)sb->net_index, .mode = mode
	};
	int r;

	add.flags = EGRESS_BUILTIN_LIST | (n->allow_private ? EGRESS_ALLOW_PRIVATE : 0);
	r = sandboxes_tell_egress(sb->m, &add);
	for (size_t i = 0; r >= 0 && n->allow && n->allow[i]; i++)
		r = tell_text(sb->m, EGRESS_ALLOW, add.index, n->allow[i]);
	if (faults_count(sb->m->c.faults) > 0)
		sandboxes_fault_names(sb->m);
	return r < 0 ? err_errno(e, -r, "telling the egress process the sandbox's rules") : 0;
}

/* A lost egress process is no error here: whoever asks for a network is told. */
int sandboxes_net_restate(struct sandboxes *m, struct err *e)
{
	struct egress_msg sync = { .magic = EGRESS_MAGIC, .type = EGRESS_RESTATE, .value = 1 };
	const struct sandboxes_network *n = &m->c.network;
	struct sandbox *sb, *next;
	enum net_mode mode;
	int r;

	if (m->egress_lost)
		return 0;
	r = sandboxes_tell_egress(m, &sync);
	for (size_t i = 0; r >= 0 && n->map && n->map[i]; i++)
		r = tell_text(m, EGRESS_MAP, 0, n->map[i]);
	for (size_t i = 0; r >= 0 && n->zone && n->zone[i]; i++)
		r = tell_text(m, EGRESS_ZONE, 0, n->zone[i]);
	HASH_ITER(hh, m->by_id, sb, next)
	if (r >= 0 && sb->net_index >= 0 && net_mode_parse(sb->row.network, &mode) == 0)
		r = send_rules(sb, mode, e);
	sync.value = 0;
	if (r >= 0)
		r = sandboxes_tell_egress(m, &sync);
	return r < 0 ? err_errno(e, -r, "telling the egress process what there is") : 0;
}

int sandbox_net_adopt(struct sandbox *sb, int index)
{
	struct sandboxes *m = sb->m;

	if (!m->by_net_index)
		m->by_net_index = calloc(GATEWAY_MAX, sizeof(struct sandbox *));
	if (!m->by_net_index)
		return -ENOMEM;
	if (m->by_net_index[index])
		return -EEXIST;
	m->by_net_index[index] = sb;
	m->net_hint = MAX(m->net_hint, (uint32_t)index + 1);
	sb->net_index = index;
	return 0;
}

static void on_attached(void *arg, const struct err *e)
{
	struct sandbox *sb = arg;

	sb->net_pending = false;
	if (sb->net_abandoned) {
		sandbox_discard(sb);
		return;
	}
	sb->net_done(sb, e);
}

/* The number of the slot it got, if that was connected while it was parked. */
static bool take_over(struct sandbox *sb)
{
	if (!sb->slot->net_number)
		return false;
	sb->net_index = (int)sb->slot->net_number - 1;
	sb->m->by_net_index[sb->net_index] = sb;
	sb->slot->net_number = 0;
	return true;
}

int sandbox_net_connect(struct sandbox *sb, void (*done)(struct sandbox *sb, const struct err *e), struct err *e)
{
	enum net_mode mode = NET_OFF;
	uint32_t index = 0;
	bool connected;
	int r = net_mode_parse(sb->row.network, &mode);

	if (r < 0)
		return err_errno(e, -r, "network %s", sb->row.network);
	connected = take_over(sb);
	if (!connected) {
		r = take_index(sb->m, sb, &index, e);
		if (r >= 0)
			sb->net_index = (int)index;
	}
	/* The rules are there before the first packet can be. */
	if (r >= 0)
		r = send_rules(sb, mode, e);
	if (r >= 0 && connected && mode == NET_RESTRICTED) {
		done(sb, NULL);
		return 0;
	}
	sb->net_done = done;
	if (r >= 0)
		r = (connected ? keeper_set_mode : keeper_attach)(sb->m->keeper, sb->row.slot, (uint32_t)sb->net_index,
								  mode, on_attached, sb, e);
	sb->net_pending = r >= 0;
	return r;
}

void sandbox_net_stop(struct sandbox *sb)
{
	struct egress_msg gone = { .magic = EGRESS_MAGIC, .type = EGRESS_REMOVE };

	if (sb->refused_sock >= 0) {
		/* Closed while the fd is still its own: libuv takes the number out of the epoll set, whoever has it then. */
		uv_close((uv_handle_t *)TAKE_PTR(sb->refused_poll), on_closed);
		closep(&sb->refused_sock);
	}
	if (sb->net_index < 0)
		return;
	gone.index = (uint32_t)sb->net_index;
	(void)sandboxes_tell_egress(sb->m, &gone);
	if (sb->m->by_net_index)
		sb->m->by_net_index[sb->net_index] = NULL;
	sb->net_index = -1;
}

/* Takes in what is queued: afterwards the ledger knows all that the sandbox's programs know. */
static void catch_up(struct sandbox *sb)
{
	/* It was queued before the program heard of it; the loop may just not have come round to it. */
	if (sb->refused_sock >= 0)
		(void)gateway_read_refused(sb->refused_sock, on_refused, sb);
	if (sb->net_index >= 0)
		read_events(sb->m);
}

uint64_t sandbox_net_seq(struct sandbox *sb)
{
	struct ledger_counters n;

	catch_up(sb);
	if (!sb->ledger)
		return 0;
	ledger_counters(sb->ledger, &n);
	return n.allowed + n.blocked + n.failed; /* entries are numbered from 1 on */
}

int sandbox_net_each(struct sandbox *sb, uint64_t since_seq, int (*fn)(void *arg, const struct ledger_entry *en),
		     void *arg)
{
	return sb->ledger ? ledger_each(sb->ledger, since_seq, fn, arg) : 0;
}

/* ---- what the API asks ---- */

int sandbox_network_ledger(struct sandboxes *m, const struct account *a, const char *id, const struct ledger **ret,
			   enum net_mode *ret_mode, struct err *e)
{
	struct sandbox *sb;
	int r = sandbox_find_running(m, a, id, &sb, e);

	if (r < 0)
		return r;
	if (net_mode_parse(sb->row.network, ret_mode) < 0)
		return err_set(e, ERR_INTERNAL, EINVAL, NULL, "network %s", sb->row.network);
	catch_up(sb);
	*ret = sb->ledger;
	return 0;
}

static void set_row(struct sandbox *sb)
{
	struct err e = ERR_INIT;

	(void)snprintf(sb->row.network, sizeof(sb->row.network), "%s", net_mode_name(sb->net_wanted));
	/* The kernel has the new mode already; a row that says otherwise is only a row. */
	if (store_sandbox_update(sb->m->c.store, &sb->row, &e) < 0)
		log_error("%s: its row can't be written: %s", sb->row.id, e.msg);
}

static void on_mode_set(void *arg, const struct err *e)
{
	struct sandbox *sb = arg;
	struct waiter *w = TAKE_PTR(sb->net_changer);
	bool gone = sb->net_abandoned;
	enum net_mode old;
	struct err over;

	sb->net_pending = false;
	(void)err_set(&over, ERR_NOT_READY, EBUSY, "sandbox_not_ready", "sandbox %s ended meanwhile", sb->row.id);
	if (!gone && !e)
		set_row(sb);
	else if (!gone && net_mode_parse(sb->row.network, &old) == 0)
		(void)send_rules(sb, old, NULL);
	w->done(w->arg, gone ? &over : e, gone || e ? NULL : &sb->row);
	free(w);
	if (gone)
		sandbox_discard(sb);
}

static int change_mode(struct sandbox *sb, enum net_mode from, enum net_mode to, struct err *e)
{
	struct egress_msg gone = { .magic = EGRESS_MAGIC, .type = EGRESS_REMOVE, .index = (uint32_t)sb->net_index };
	int r = 0;

	/* What stands was allowed by rules that no longer hold. */
	if (to < from)
		r = sandboxes_tell_egress(sb->m, &gone);
	if (r < 0)
		return err_errno(e, -r, "telling the egress process");
	r = send_rules(sb, to, e);
	if (r >= 0)
		r = keeper_set_mode(sb->m->keeper, sb->row.slot, (uint32_t)sb->net_index, to, on_mode_set, sb, e);
	if (r < 0)
		(void)send_rules(sb, from, NULL);
	return r;
}

int sandbox_network_set(struct sandboxes *m, const struct account *a, const char *id, enum net_mode mode,
			sandbox_done_fn done, void *arg, struct err *e)
{
	struct sandbox *sb;
	enum net_mode old;
	struct waiter *w;
	int r = sandbox_find_running(m, a, id, &sb, e);

	if (r >= 0)
		r = sandbox_check_network(m, plan_get(a->plan), net_mode_name(mode), e);
	if (r >= 0 && (r = net_mode_parse(sb->row.network, &old)) < 0)
		r = err_set(e, ERR_INTERNAL, EINVAL, NULL, "network %s", sb->row.network);
	if (r >= 0 && sb->net_index < 0)
		r = err_set(e, ERR_NOT_READY, ENETDOWN, "network_is_off",
			    "sandbox %.40s was created with network \"off\": it has no interface; create another one",
			    id);
	if (r >= 0 && sb->net_pending)
		r = err_set(e, ERR_BUSY, EBUSY, NULL, "an earlier change of this sandbox's network is under way");
	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_errno(e, ENOMEM, "can't change the network");
	*w = (struct waiter){ .done = done, .arg = arg };
	sb->net_changer = w;
	sb->net_wanted = mode;
	r = change_mode(sb, old, mode, e);
	sb->net_pending = r >= 0;
	if (r < 0)
		free(TAKE_PTR(sb->net_changer));
	return r;
}

int sandboxes_network_map(struct sandboxes *m, const char *text, struct err *e)
{
	const struct egress_msg forget = { .magic = EGRESS_MAGIC, .type = EGRESS_MAP };
	int r;

	if (text && egress_map_check(text) < 0)
		return err_set(e, ERR_INVALID, EINVAL, "map_invalid",
			       "\"%.64s\" is not of the form HOST[:PORT]=ADDRESS:PORT", text);
	r = text ? tell_text(m, EGRESS_MAP, 0, text) : sandboxes_tell_egress(m, &forget);
	if (r < 0)
		return err_set(e, ERR_UNAVAILABLE, -r, "network_unavailable", "there is no egress process to tell");
	return 0;
}
