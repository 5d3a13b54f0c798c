/* `serve`: the launcher, and then the daemon, in one process.
 *
 * With the caller's rights: options, the state dir, sockets, the port file, cgroups, the keeper. Then it
 * enters the emulator's user namespace, from which there is no way back, and everything a client can
 * reach runs there: the store, the HTTP server, the sandboxes' manager. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <uv.h>

#include "api/api.h"
#include "api/seed.h"
#include "api/summary.h"
#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/cgroup.h"
#include "emulator/cmd/cmd.h"
#include "emulator/cmd/control_client.h"
#include "emulator/cmd/listen.h"
#include "emulator/cmd/options.h"
#include "emulator/ids.h"
#include "emulator/keeper.h"
#include "emulator/statedir.h"
#include "emulator/tmpl.h"
#include "rootfs/template.h"
#include "rootfs/tree.h"

#define STORE_NAME "orkestr.db"
#define KEY_NAME "api-key"
#define KEYS_FILE_MAX (1u << 20)
#define CONNECTIONS_MAX 4096u

struct serve {
	struct serve_options o;
	struct idmap idmap;
	struct accounts *accounts;
	struct ratelimits *limits;
	struct cgroup_root *cgroups;
	char state_path[4096];
	char key[ACCOUNT_KEY_SIZE]; /* the generated one, or empty */
	struct snapshot_dir snapshots;
	char holder[TEXT_ULID_SIZE];
	int shared_fd, holder_fd; /* --snapshot-dir, and the lock in it */
	int state_fd, lock_fd, listen_fd, unix_fd, port_file_fd, summary_fd;
	struct listen_guard unix_guard;
	struct keeper_started kept;
	uint16_t port;

	uv_loop_t loop;
	uv_signal_t on_term, on_int;
	uv_poll_t on_leash; /* for `exec`: its end */
	struct store *store;
	struct journal *journal;
	struct faults *faults; /* NULL: --no-faults */
	struct vclock *clock;
	struct sandboxes *sandboxes;
	struct tmpls *tmpls;
	unsigned int stop_waits; /* managers that have not ended everything yet */
	struct keeper *keeper;
	struct http *http;
	struct api api;
	struct seed *seed; /* of --seed-file, until it is run */
	bool stopping, seed_failed;
	bool keep; /* the keeper and what it keeps is for the next start */
};

/* --- with the caller's rights --- */

/* For `exec`. The leash is inherited from it; whatever else the keeper or a worker starts shall not have it. */
static int open_exec_files(struct serve *s, struct err *e)
{
	if (s->o.leash_fd >= 0 && fcntl(s->o.leash_fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_errno(e, errno, "--leash-fd");
	if (!s->o.summary_file)
		return 0;
	s->summary_fd = open(s->o.summary_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
	return s->summary_fd < 0 ? err_errno(e, errno, "%s", s->o.summary_file) : 0;
}

static int read_seed(struct serve *s, struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(SEED_TEXT_MAX);
	_cleanup_close_ int fd = -1;
	char piece[16384];
	ssize_t n = 0;
	int r = 0;

	if (s->o.has_seed)
		ids_seed(s->o.seed);
	if (!s->o.seed_file)
		return 0;
	fd = open(s->o.seed_file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	while (fd >= 0 && r >= 0 && (n = read(fd, piece, sizeof(piece))) > 0)
		r = buf_add(&b, piece, (size_t)n);
	if (fd < 0 || n < 0)
		return err_errno(e, errno, "%s", s->o.seed_file);
	if (r < 0)
		return err_errno(e, -r, "%s", s->o.seed_file);
	r = seed_parse_text(b.p ? b.p : "", b.len, &s->seed, e);
	if (r < 0)
		err_prefix(e, "%s", s->o.seed_file);
	return r;
}

static int open_port_file(struct serve *s, struct err *e)
{
	if (!s->o.port_file)
		return 0;
	s->port_file_fd = open(s->o.port_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0644);
	return s->port_file_fd < 0 ? err_errno(e, errno, "%s", s->o.port_file) : 0;
}

static int open_sockets(struct serve *s, struct err *e)
{
	int r = listen_open(s->o.host, s->o.port, &s->listen_fd, &s->port, e);

	return r < 0 || !s->o.unix_path ? r : listen_unix_open(s->o.unix_path, &s->unix_fd, e);
}

static int load_keys_file(struct serve *s, struct err *e)
{
	_cleanup_free_ char *text = malloc(KEYS_FILE_MAX);
	ssize_t n = text ? fd_read_file(AT_FDCWD, s->o.keys_file, text, KEYS_FILE_MAX) : -ENOMEM;
	int r;

	if (n < 0)
		return err_errno(e, (int)-n, "--keys %s", s->o.keys_file);
	r = accounts_add_lines(s->accounts, text, e);
	if (r < 0)
		err_prefix(e, "--keys %s", s->o.keys_file);
	return r;
}

static int load_accounts(struct serve *s, struct err *e)
{
	int r = accounts_new(s->o.auth_any, &s->accounts);

	if (r >= 0)
		r = ratelimits_new(&s->limits);
	if (r < 0)
		return err_errno(e, -r, "accounts");
	if (s->o.profile.limits)
		accounts_set_default_plan(s->accounts, PLAN_FREE);
	if (s->o.has_rate)
		ratelimits_set(s->limits, s->o.rate_mode, &s->o.rate);
	else if (s->o.profile.limits)
		ratelimits_set(s->limits, RATE_PLAN, NULL);
	for (size_t i = 0; r >= 0 && i < s->o.n_api_keys; i++)
		r = accounts_add(s->accounts, s->o.api_keys[i], e);
	serve_options_forget_keys(&s->o);
	if (r >= 0 && s->o.keys_file)
		r = load_keys_file(s, e);
	return r;
}

static void raise_fd_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return;
	l.rlim_cur = l.rlim_max; /* a connection each, a few a sandbox and an exec */
	(void)setrlimit(RLIMIT_NOFILE, &l);
}

/* The keeper inherits the lock: as long as it lives, sandboxes may. */
static int open_snapshot_dir(struct serve *s, struct err *e)
{
	int r;

	if (!s->o.snapshot_dir)
		return 0;
	r = statedir_open_snapshots(s->o.snapshot_dir, &s->idmap, true, &s->shared_fd, e);
	return r < 0 ? r
		     : snapshot_hold(s->state_fd, s->shared_fd, s->idmap.own_uid, s->idmap.own_gid, s->holder,
				     &s->holder_fd, e);
}

/* Silent connections must leave descriptors for the sandboxes. */
static unsigned int connections_max(void)
{
	struct rlimit l;

	return getrlimit(RLIMIT_NOFILE, &l) == 0 ? (unsigned int)MIN(l.rlim_cur / 2, (rlim_t)CONNECTIONS_MAX)
						 : CONNECTIONS_MAX;
}

static int launch(struct serve *s, struct err *e)
{
	char name[STATEDIR_NAME_SIZE];
	struct keeper_config kc = { .idmap = &s->idmap, .network = true };
	int r;

	raise_fd_limit();
	idmap_choose(&s->idmap);
	r = load_accounts(s, e);
	if (r >= 0)
		r = statedir_open(s->o.state_dir, &s->idmap, &s->state_fd, s->state_path, sizeof(s->state_path), e);
	if (r >= 0)
		r = s->lock_fd = statedir_lock(s->state_fd, e);
	if (r >= 0)
		r = open_snapshot_dir(s, e);
	if (r >= 0)
		r = open_sockets(s, e);
	if (r >= 0)
		r = open_port_file(s, e);
	if (r >= 0)
		r = open_exec_files(s, e);
	if (r >= 0)
		r = read_seed(s, e);
	if (r < 0)
		return r;
	statedir_name(s->state_path, name);
	r = cgroup_prepare(name, s->idmap.own_uid, s->idmap.own_gid, &s->cgroups, e);
	if (r < 0)
		return r;
	/* After cgroup_prepare: its janitor would hold the leash. */
	if (s->o.unix_path) {
		r = listen_unix_guard(s->o.unix_path, &s->unix_guard, e);
		if (r < 0)
			return r;
	}
	kc.cgroups = s->cgroups;
	kc.state_fd = s->state_fd;
	kc.shared_layers = s->o.shared_layers;
	kc.not_inherited = (const int[]){ s->lock_fd,	   s->listen_fd,  s->unix_fd,	s->unix_guard.leash,
					  s->port_file_fd, s->summary_fd, s->o.leash_fd };
	kc.n_not_inherited = 7;
	r = keeper_adopt(&kc, &s->kept, e);
	if (r == 0)
		r = keeper_start(&kc, &s->kept, e);
	if (r < 0)
		return r;
	return idmap_enter(&s->idmap, s->kept.userns_fd, e);
}

/* --- inside the user namespace --- */

/* The key of this state dir, made on the first run: `serve` without --api-key works at once, and the same
 * key goes on working. */
static int own_key(struct serve *s, struct err *e)
{
	_cleanup_close_ int fd = -1;
	char spec[ACCOUNT_KEY_SIZE];
	ssize_t n;
	int r;

	if (s->o.n_api_keys > 0 || s->o.keys_file || s->o.auth_any)
		return 0;
	n = fd_read_file(s->state_fd, KEY_NAME, s->key, sizeof(s->key));
	if (n < 0 && n != -ENOENT)
		return err_errno(e, (int)-n, "%s/" KEY_NAME, s->state_path);
	if (n > 0) {
		s->key[strcspn(s->key, "\n")] = '\0';
	} else {
		account_key_generate(s->key);
		fd = openat(s->state_fd, KEY_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return err_errno(e, errno, "%s/" KEY_NAME, s->state_path);
		(void)text_format(spec, sizeof(spec), "%s\n", s->key);
		r = fd_write_all(fd, spec, strlen(spec));
		if (r < 0)
			return err_errno(e, -r, "%s/" KEY_NAME, s->state_path);
	}
	return accounts_add(s->accounts, s->key, e);
}

static void all_ended(void *arg)
{
	struct serve *s = arg;

	if (--s->stop_waits == 0)
		uv_stop(&s->loop);
}

/* What lives now is what was left running. */
static void write_summary(struct serve *s)
{
	struct json_object *o;
	const char *text;

	if (s->summary_fd < 0)
		return;
	o = api_summary(&s->api);
	text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	if (!text || fd_write_all(s->summary_fd, text, strlen(text)) < 0)
		log_error("the summary can't be written");
	json_object_put(o);
	closep(&s->summary_fd);
}

static void stop(struct serve *s, const char *why)
{
	if (s->stopping) {
		log_warn("%s again: still ending sandboxes", why);
		return;
	}
	s->stopping = true;
	s->keep = s->o.keep;
	log_info("%s: %s", why, s->keep ? "what runs goes on, for the next start" : "ending every sandbox");
	write_summary(s);
	http_stop_listening(s->http);
	s->stop_waits = 2;
	tmpls_shutdown(s->tmpls, all_ended, s);
	sandboxes_shutdown(s->sandboxes, s->keep, all_ended, s);
}

static void on_signal(uv_signal_t *h, int signum)
{
	stop(h->data, signum == SIGINT ? "interrupted" : "asked to stop");
}

static int start_controls(struct serve *s, struct err *e)
{
	int r = journal_new(&s->journal);

	if (r >= 0 && !s->o.no_faults)
		r = faults_new(&s->faults);
	return r < 0 ? err_errno(e, -r, "the journal") : 0;
}

static void on_clock_moved(void *arg)
{
	char iso[CLOCK_ISO_SIZE];

	clock_iso(clock_now_ms(), iso);
	journal_add(arg, &(struct journal_event){ .type = JOURNAL_CLOCK_MOVED, .detail = iso });
}

static void on_leash_end(uv_poll_t *h, int status, int events)
{
	(void)status;
	(void)events;
	(void)uv_poll_stop(h);
	stop(h->data, "let go");
}

static int start_manager(struct serve *s, struct err *e)
{
	struct sandboxes_config sc = {
		.loop = &s->loop, .store = s->store, .cgroups = s->cgroups, .idmap = &s->idmap,
		.network = {
			.egress_sock = TAKE_FD(s->kept.egress), .why_none = s->kept.no_network,
			.allow = (const char *const *)s->o.allow, .map = (const char *const *)s->o.map,
			.zone = (const char *const *)s->o.zone, .allow_private = s->o.allow_private,
		},
		.state_fd = s->state_fd, .snapshots = s->snapshots, .max_live = s->o.max_sandboxes, .warm = s->o.warm,
		.strict_resume = s->o.strict_resume, .journal = s->journal, .faults = s->faults,
		.journal_commands = s->o.journal_commands,
		.positions_fd = TAKE_FD(s->kept.positions),
	};
	struct vclock_listener cl;
	struct keeper_events ke;
	int r = sandboxes_new(&sc, &s->sandboxes, e);

	if (r < 0)
		return r;
	sandboxes_keeper_events(s->sandboxes, &ke);
	r = keeper_connect(&s->loop, s->kept.sock, &ke, &s->keeper, e);
	if (r < 0)
		return r;
	s->kept.sock = -1;
	sandboxes_set_keeper(s->sandboxes, s->keeper);
	sandboxes_meter_listener(s->sandboxes, &cl);
	(void)vclock_listen(s->clock, &cl);
	sandboxes_clock_listener(s->sandboxes, &cl);
	(void)vclock_listen(s->clock, &cl);
	(void)vclock_listen(s->clock, &(struct vclock_listener){ .moved = on_clock_moved, .arg = s->journal });
	return sandboxes_sweep(s->sandboxes, e);
}

static int start_templates(struct serve *s, struct err *e)
{
	const struct tmpls_config tc = { .loop = &s->loop,
					 .store = s->store,
					 .sandboxes = s->sandboxes,
					 .idmap = &s->idmap,
					 .state_fd = s->state_fd };
	int r = tmpls_new(&tc, &s->tmpls, e);

	return r < 0 ? r : tmpls_recover(s->tmpls, e);
}

static int start_http(struct serve *s, struct err *e)
{
	struct http_config hc = {
		.loop = &s->loop,
		.api = &s->api,
		.accounts = s->accounts,
		.limits = s->limits,
		.listen_fd = TAKE_FD(s->listen_fd),
		.unix_fd = TAKE_FD(s->unix_fd),
		.max_connections = connections_max(),
		.idle_timeout_s = 60,
	};
	int r = http_new(&hc, &s->http, e);

	if (r < 0)
		return r;
	s->api = (struct api){ .sandboxes = s->sandboxes,
			       .tmpls = s->tmpls,
			       .store = s->store,
			       .clock = s->clock,
			       .accounts = s->accounts,
			       .limits = s->limits,
			       .idmap = &s->idmap,
			       .cgroups = s->cgroups,
			       .state_fd = s->state_fd,
			       .started_ms = clock_real_ms(),
			       .journal = s->journal,
			       .faults = s->faults,
			       .profile = &s->o.profile,
			       .network_errors_report = s->o.network_errors_report };
	api_add_sandbox_routes(s->http);
	api_add_exec_routes(s->http);
	api_add_template_routes(s->http);
	api_add_mcp_routes(s->http);
	api_add_openapi_routes(s->http);
	api_add_file_routes(s->http);
	api_add_network_routes(s->http);
	api_add_journal_routes(s->http);
	api_add_fault_routes(s->http);
	api_add_reset_routes(s->http);
	api_add_seed_routes(s->http);
	api_add_emulator_routes(s->http);
	api_add_clock_routes(s->http);
	api_add_usage_routes(s->http);
	api_add_key_routes(s->http);
	api_add_snapshot_routes(s->http);
	return http_start(s->http, e);
}

static int daemon_start(struct serve *s, struct err *e)
{
	int r = own_key(s, e);

	if (r < 0)
		return r;
	/* keeper_start left us in the state dir; the store is opened by name there. */
	r = store_open(STORE_NAME, &s->store, e);
	if (r >= 0)
		r = vclock_new(s->store, &s->clock, e);
	if (r >= 0)
		r = accounts_use_store(s->accounts, s->store, e);
	if (r < 0)
		return r;
	r = snapshot_dir_open(s->state_fd, s->shared_fd, s->shared_fd >= 0 ? s->holder : NULL, &s->snapshots, e);
	if (r < 0)
		return r;
	s->shared_fd = -1;
	/* libuv 1.45 to 1.48 (Ubuntu 24.04) change what they poll through io_uring, and then tell events of a closed
	 * descriptor to whoever has its number next. Newer ones leave it off by themselves. */
	(void)setenv("UV_USE_IO_URING", "0", 0);
	(void)uv_loop_init(&s->loop);
	r = start_controls(s, e);
	if (r >= 0)
		r = start_manager(s, e);
	if (r >= 0)
		r = start_templates(s, e);
	if (r >= 0)
		r = start_http(s, e);
	if (r < 0)
		return r;
	(void)uv_signal_init(&s->loop, &s->on_term);
	(void)uv_signal_init(&s->loop, &s->on_int);
	s->on_term.data = s->on_int.data = s;
	(void)uv_signal_start(&s->on_term, on_signal, SIGTERM);
	(void)uv_signal_start(&s->on_int, on_signal, SIGINT);
	if (s->o.leash_fd >= 0 && uv_poll_init(&s->loop, &s->on_leash, s->o.leash_fd) == 0) {
		s->on_leash.data = s;
		(void)uv_poll_start(&s->on_leash, UV_READABLE | UV_DISCONNECT, on_leash_end);
	}
	return 0;
}

/* --- what a person sees --- */

static int add_name(void *arg, const struct template *t)
{
	struct buf *b = arg;

	return buf_printf(b, "%s%s%s", b->len ? ", " : "", t->name, t->stand_in ? " (stand-in)" : "");
}

static void announce(const struct serve *s)
{
	const struct cgroup_features *f = cgroup_root_features(s->cgroups);
	_cleanup_buf_ struct buf names = BUF_INIT(4096);
	char url[160];

	(void)template_each(s->state_fd, add_name, &names, NULL);
	(void)text_format(url, sizeof(url), strchr(s->o.host, ':') ? "http://[%s]:%u" : "http://%s:%u", s->o.host,
			  s->port);
	printf("orkestr-emulator %s listens on %s\n", ORKESTR_VERSION, url);
	printf("  state      %s\n", s->state_path);
	if (names.len > 0)
		printf("  templates  %s\n", names.p);
	else
		printf("  templates  none yet; build one: orkestr-emulator template build python-3.12 --state-dir %s\n",
		       s->state_path);
	printf("  limits     cgroup %s%s%s%s%s\n", cgroup_backend_name(cgroup_root_backend(s->cgroups)),
	       f->cpu ? " cpu" : "", f->memory ? " memory" : "", f->pids ? " pids" : "",
	       *cgroup_why(s->cgroups) ? "; some are missing, see below" : "");
	printf("  network    %s%s\n", s->kept.no_network[0] ? "off only: " : "off, restricted, open",
	       s->kept.no_network);
	if (s->key[0])
		printf("\nexport ORKESTR_API_KEY=%s\n", s->key);
	else if (s->o.auth_any)
		printf("\nexport ORKESTR_API_KEY=ork_any    # every key that starts with ork_ or sp_live_ is an "
		       "account of its own\n");
	else
		printf("\nexport ORKESTR_API_KEY=...        # one of those you gave with --api-key\n");
	printf("export ORKESTR_BASE_URL=%s\n", url);
	(void)fflush(stdout);
	if (*cgroup_why(s->cgroups))
		log_warn("limits: %s", cgroup_why(s->cgroups));
	if (s->idmap.kind == IDMAP_SINGLE)
		log_warn("one id only inside sandboxes: %s", s->idmap.why_single);
}

static int write_port_file(struct serve *s, struct err *e)
{
	char line[16];
	int r;

	if (s->port_file_fd < 0)
		return 0;
	(void)text_format(line, sizeof(line), "%u\n", s->port);
	r = fd_write_all(s->port_file_fd, line, strlen(line));
	closep(&s->port_file_fd);
	return r < 0 ? err_errno(e, -r, "%s", s->o.port_file) : 0;
}

/* For the commands that drive it. */
static void write_address(const struct serve *s)
{
	const char *host = s->o.host;
	_cleanup_close_ int fd = -1;
	char line[300];
	int n;

	if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
		host = *host == ':' ? "::1" : "127.0.0.1";
	n = text_format(line, sizeof(line), strchr(host, ':') ? "http://[%s]:%u\n" : "http://%s:%u\n", host, s->port);
	fd = openat(s->state_fd, CONTROL_STATE_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || n < 0 || fd_write_all(fd, line, (size_t)n) < 0)
		log_warn("%s/" CONTROL_STATE_FILE " can't be written: the commands that drive this emulator need --url",
			 s->state_path);
}

static int be_ready(struct serve *s, struct err *e)
{
	int r = write_port_file(s, e);

	if (r < 0)
		return r;
	write_address(s);
	announce(s);
	sandboxes_start(s->sandboxes);
	return 0;
}

/* Ready is who has what --seed-file asks for. */
static void on_seeded(void *arg, const struct err *e, struct json_object *made)
{
	struct serve *s = arg;
	struct err own = e ? *e : ERR_INIT;
	(void)made;

	if (e)
		err_prefix(&own, "%s", s->o.seed_file);
	if (!e && be_ready(s, &own) >= 0)
		return;
	(void)cmd_failed("serve", &own);
	s->seed_failed = true;
	stop(s, "not seeded");
}

/* --- the end --- */

static void on_walk(uv_handle_t *h, void *arg)
{
	(void)arg;
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

static void end_keeper(struct serve *s)
{
	bool ended = false;

	if (s->keep)
		return;
	if (s->keeper)
		keeper_stop(s->keeper);
	closep(&s->kept.sock); /* a keeper that never met its daemon stays until it is told */
	for (int i = 0; s->kept.pid > 0 && !ended && i < 500; i++) {
		ended = waitpid(s->kept.pid, NULL, WNOHANG) != 0;
		if (!ended)
			(void)poll(NULL, 0, 2);
		if (i == 400 || (!s->keeper && i == 0))
			(void)kill(s->kept.pid, SIGKILL);
	}
	(void)unlinkat(s->state_fd, "keeper.sock", 0);
}

/* What lives on in other processes has its memory here, with handles and callbacks: it goes with this process. */
static void leave_behind(struct serve *s)
{
	store_close(s->store);
	listen_guard_end(&s->unix_guard);
	explicit_bzero(s->key, sizeof(s->key));
}

static void teardown(struct serve *s, bool loop_ran)
{
	http_free(s->http);
	if (s->lock_fd >= 0)
		(void)unlinkat(s->state_fd, CONTROL_STATE_FILE, 0);
	if (s->keep && loop_ran) {
		leave_behind(s);
		return;
	}
	end_keeper(s);
	if (loop_ran) {
		keeper_free(s->keeper);
		tmpls_free(s->tmpls);
		sandboxes_free(s->sandboxes);
		uv_walk(&s->loop, on_walk, NULL);
		(void)uv_run(&s->loop, UV_RUN_DEFAULT);
		(void)uv_loop_close(&s->loop);
	}
	seed_free(s->seed);
	journal_free(s->journal);
	faults_free(s->faults);
	vclock_free(s->clock);
	store_close(s->store);
	if (s->cgroups) {
		if (!s->keep)
			cgroup_destroy_root(s->cgroups);
		cgroup_root_free(s->cgroups);
	}
	accounts_free(s->accounts);
	ratelimits_free(s->limits);
	closep(&s->listen_fd);
	closep(&s->unix_fd);
	listen_guard_end(&s->unix_guard);
	closep(&s->port_file_fd);
	closep(&s->summary_fd);
	closep(&s->o.leash_fd);
	closep(&s->kept.egress);
	closep(&s->kept.positions);
	closep(&s->kept.userns_fd);
	snapshot_dir_close(&s->snapshots);
	closep(&s->shared_fd);
	closep(&s->holder_fd);
	closep(&s->lock_fd);
	closep(&s->state_fd);
	explicit_bzero(s->key, sizeof(s->key));
}

int cmd_serve(int argc, char **argv)
{
	/* Static, so that what stays in memory to the end on purpose can be told from a leak. */
	static struct serve s = { .state_fd = -1,
				  .snapshots = SNAPSHOT_DIR_INIT,
				  .shared_fd = -1,
				  .holder_fd = -1,
				  .lock_fd = -1,
				  .listen_fd = -1,
				  .unix_fd = -1,
				  .unix_guard = { .leash = -1 },
				  .port_file_fd = -1,
				  .summary_fd = -1,
				  .kept = { .userns_fd = -1, .sock = -1, .egress = -1, .positions = -1 } };
	struct err e = ERR_INIT;
	bool started = false;
	int r = serve_options_parse(argc, argv, &s.o, &e);

	if (r < 0)
		return cmd_usage("serve", &e);
	if (s.o.help) {
		serve_options_help(stdout);
		return CMD_OK;
	}
	log_set_level(s.o.log_level);
	(void)signal(SIGPIPE, SIG_IGN);
	r = launch(&s, &e);
	if (r >= 0) {
		log_set_name("daemon");
		r = daemon_start(&s, &e);
		started = true;
	}
	if (r >= 0 && s.seed)
		seed_run(&s.api, TAKE_PTR(s.seed), on_seeded, &s);
	else if (r >= 0)
		r = be_ready(&s, &e);
	if (r >= 0) {
		(void)uv_run(&s.loop, UV_RUN_DEFAULT);
		s.keep = s.keep && !sandboxes_all_ended(s.sandboxes);
		log_info("stopped; %s",
			 s.keep ? "sandboxes are kept for the next start, or for `clean`" : "nothing is left running");
	} else {
		(void)cmd_failed("serve", &e);
		s.keep = s.kept.adopted; /* this start's trouble is not its sandboxes' */
	}
	teardown(&s, started && s.sandboxes);
	return r < 0 || s.seed_failed ? CMD_FAILED : CMD_OK;
}
