#pragma once
/* The world around emulator/sandbox*.c and exec*.c, for their unit tests: a store in memory, a keeper and
 * an init that answer from the loop, cgroups and folders that are only counted. Everything that is called is
 * written to `trace`, and each step can be made to fail by its name. The fake init runs real processes.
 * Each module is replaced whole, so its member of the archive is never linked. */

#include "emulator/base/util.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <uv.h>

#include "emulator/base/buf.h"
#include "emulator/base/log.h"
#include "emulator/base/sys.h"
#include "emulator/exec.h"
#include "emulator/init.h"
#include "emulator/keeper.h"
#include "emulator/sandbox.h"
#include "emulator/store_tmpl.h"
#include "rootfs/snapshot.h"
#include "rootfs/template.h"
#include "rootfs/tree.h"
#include "tests/unit/slow.h"

#ifdef FAKES_REAL_KERNEL
/* Criterion can't hear of a failure in a child that a test forks: say it and exit. */
#undef cr_assert
#undef cr_assert_str_eq
#undef cr_expect
#define cr_assert(c, ...)                                                                                              \
	do {                                                                                                           \
		if (!(c)) {                                                                                            \
			(void)fprintf(stderr, "%s:%d: %s is false: ", __FILE__, __LINE__, #c);                         \
			(void)fprintf(stderr, " " __VA_ARGS__);                                                        \
			(void)fprintf(stderr, "\n");                                                                   \
			_exit(99);                                                                                     \
		}                                                                                                      \
	} while (0)
#define cr_expect cr_assert
#define cr_assert_str_eq(a, b, ...) cr_assert(strcmp(a, b) == 0, __VA_ARGS__)
#endif

static uv_loop_t loop;
static struct sandboxes *mgr;
static char state_dir[] = "/tmp/test-sandbox-XXXXXX";
static int state_fd = -1;
static bool stopped;
static const struct account team = { .id = "acc_team", .plan = PLAN_TEAM, .scopes = SCOPE_READ | SCOPE_WRITE };
static const struct account freebie = { .id = "acc_free", .plan = PLAN_FREE, .scopes = SCOPE_READ | SCOPE_WRITE };

/* ---- what was called, what shall fail ---- */

static struct buf trace = { .max = 1 << 20 };
static const char *fail_step = ""; /* the name of a step that fails */

static _printf_(1, 2) void note(const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	cr_assert(buf_printf(&trace, "%s%s", trace.len ? " " : "", line) == 0);
}

static int step(const char *name, struct err *e)
{
	note("%s", name);
	if (strcmp(fail_step, name) == 0)
		return err_set(e, ERR_IO, EIO, NULL, "%s failed", name);
	return 0;
}

/* ---- things that happen later, from the loop ---- */

struct post {
	uv_timer_t t;
	void (*fn)(void *arg);
	void *arg;
};

static void post_closed(uv_handle_t *h)
{
	free(h->data);
}

static void post_run(uv_timer_t *t)
{
	struct post *p = t->data;

	uv_close((uv_handle_t *)t, post_closed);
	p->fn(p->arg);
}

static _unused_ void post(void (*fn)(void *arg), void *arg, uint64_t ms)
{
	struct post *p = calloc(1, sizeof(*p));

	cr_assert(p);
	p->fn = fn;
	p->arg = arg;
	p->t.data = p;
	uv_timer_init(&loop, &p->t);
	uv_timer_start(&p->t, post_run, ms, 0);
}

#ifndef FAKES_REAL_KERNEL /* then plans, cgroups, folders, keeper and init are the real ones */

/* ---- plans ---- */

const struct size_spec size_menu[SIZE_COUNT] = { { "small", 500, 512 },
						 { "medium", 2000, 4096 },
						 { "large", 4000, 8192 } };

int size_parse(const char *name, enum size_id *ret)
{
	for (unsigned int i = 0; i < SIZE_COUNT; i++)
		if (strcmp(name, size_menu[i].name) == 0) {
			*ret = (enum size_id)i;
			return 0;
		}
	return -EINVAL;
}

const struct plan *plan_get(enum plan_id id)
{
	static const struct plan plans[] = {
		{ "free", 1, 500, 512, 1, 1, 3600, 10, 2, false, { 60, 60 } },
		{ "pro", 3, 2000, 4096, 5, 3, 3600, 200, 100, true, { 300, 60 } },
		{ "team", 7, 4000, 8192, 15, 10, 3600, 2000, 1000, true, { 1200, 60 } },
	};

	return &plans[id];
}

#endif /* FAKES_REAL_KERNEL */

#include "tests/unit/sandbox_fakes_store.h"

#ifndef FAKES_REAL_KERNEL

/* ---- cgroups and folders: counted ---- */

static char cgroups[64][KEEPER_SLOT_SIZE], folders[64][KEEPER_SLOT_SIZE];
static unsigned int busy_removes; /* cgroup_remove says -EBUSY this often */
static uint64_t oom_kills, pids_denied;
static struct cgroup_limits last_limits;

static char *find_name(char (*v)[KEEPER_SLOT_SIZE], const char *name)
{
	for (size_t i = 0; i < 64; i++)
		if (strcmp(v[i], name) == 0)
			return v[i];
	return NULL;
}

static size_t count_names(char (*v)[KEEPER_SLOT_SIZE])
{
	size_t n = 0;

	for (size_t i = 0; i < 64; i++)
		n += v[i][0] != '\0';
	return n;
}

static void add_name(char (*v)[KEEPER_SLOT_SIZE], const char *name)
{
	(void)snprintf(find_name(v, ""), KEEPER_SLOT_SIZE, "%s", name);
}

static int each_name(char (*v)[KEEPER_SLOT_SIZE], int (*fn)(void *arg, const char *slot), void *arg)
{
	int r = 0;

	for (size_t i = 0; i < 64 && r >= 0; i++)
		if (v[i][0])
			r = fn(arg, v[i]);
	return r;
}

enum cgroup_backend cgroup_root_backend(const struct cgroup_root *r _unused_)
{
	return CGROUP_V2;
}

int cgroup_create(struct cgroup_root *r _unused_, const char *slot, const struct cgroup_limits *l, struct err *e)
{
	add_name(cgroups, slot);
	last_limits = *l;
	return step("cgroup", e);
}

int cgroup_set_limits(struct cgroup_root *r _unused_, const char *slot _unused_, const struct cgroup_limits *l,
		      struct err *e)
{
	last_limits = *l;
	return step("limits", e);
}

void cgroup_counters_open(struct cgroup_root *r _unused_, const char *slot, struct cgroup_counters *ret)
{
	cr_assert(find_name(cgroups, slot));
	*ret = (struct cgroup_counters){ -1, -1 };
}

void cgroup_counters_close(struct cgroup_counters *c _unused_)
{
}

int cgroup_counters_oom_kills(const struct cgroup_counters *c _unused_, uint64_t *ret)
{
	*ret = oom_kills;
	return 0;
}

int cgroup_counters_pids_denied(const struct cgroup_counters *c _unused_, uint64_t *ret)
{
	*ret = pids_denied;
	return 0;
}

static uint64_t gauge_cpu_usec, gauge_charged = 50 << 20, gauge_cache = 10 << 20; /* of every group */

void cgroup_gauge_open(struct cgroup_root *r _unused_, const char *slot, struct cgroup_gauge *ret)
{
	cr_assert(find_name(cgroups, slot));
	*ret = CGROUP_GAUGE_NONE;
}

void cgroup_gauge_close(struct cgroup_gauge *g _unused_)
{
}

int cgroup_gauge_cpu(const struct cgroup_gauge *g _unused_, uint64_t *ret)
{
	*ret = gauge_cpu_usec;
	return 0;
}

int cgroup_gauge_memory(const struct cgroup_gauge *g _unused_, uint64_t *ret)
{
	*ret = gauge_charged;
	return 0;
}

int cgroup_gauge_cache(const struct cgroup_gauge *g _unused_, uint64_t *ret)
{
	*ret = gauge_cache;
	return 0;
}

int cgroup_kill(struct cgroup_root *r _unused_, const char *slot _unused_)
{
	note("cgroup_kill");
	return 0;
}

static struct cgroup_features features = { .cpu = true, .memory = true, .pids = true, .freeze = true };

const struct cgroup_features *cgroup_root_features(const struct cgroup_root *r _unused_)
{
	return &features;
}

/* Frozen in a worker, thawed in the loop. */
int cgroup_freeze(struct cgroup_root *r _unused_, const char *slot _unused_, bool freeze, struct err *e)
{
	return step(freeze ? "freeze" : "thaw", e);
}

int cgroup_each_pid(struct cgroup_root *r _unused_, const char *slot _unused_, int (*fn)(void *arg, pid_t pid) _unused_,
		    void *arg _unused_)
{
	return 0;
}

int cgroup_remove(struct cgroup_root *r _unused_, const char *slot)
{
	char *p = find_name(cgroups, slot);

	if (busy_removes > 0) {
		busy_removes--;
		return -EBUSY;
	}
	note("cgroup_remove");
	if (p)
		p[0] = '\0';
	return 0;
}

int cgroup_each(struct cgroup_root *r _unused_, int (*fn)(void *arg, const char *slot), void *arg)
{
	return each_name(cgroups, fn, arg);
}

int tree_make_slot(int dir _unused_, const char *slot, uid_t uid _unused_, struct err *e)
{
	add_name(folders, slot);
	return step("folder", e);
}

int tree_trash_slot(int dir _unused_, const char *slot, struct err *e _unused_)
{
	char *p = find_name(folders, slot);

	note("trash");
	if (p)
		p[0] = '\0';
	return 0;
}

int tree_each_slot(int dir _unused_, int (*fn)(void *arg, const char *slot), void *arg)
{
	return each_name(folders, fn, arg);
}

/* In a worker: it leaves a mark that the test can see, and takes as long as there is a file "hold". */
int tree_empty_trash(int dir, struct err *e _unused_)
{
	while (faccessat(dir, "hold", F_OK, 0) == 0)
		(void)usleep(1000);
	int fd = openat(dir, "emptied", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, "x", 1) != 1)
		return -EIO;
	return close(fd);
}

static uid_t first_uid = 1;

uid_t idmap_sandbox_uid(const struct idmap *m _unused_, uid_t id)
{
	return id + first_uid;
}

#include "tests/unit/sandbox_fakes_snapshot.h"

/* ---- keeper ---- */

static struct keeper_events kev;
static bool keeper_silent; /* asked to spawn, it says nothing */
static bool keeper_deaf;   /* asked to kill, it says nothing */
static int died_status = SIGKILL;
static struct {
	keeper_spawned_fn done;
	void *arg;
	char slot[KEEPER_SLOT_SIZE];
	bool alive;
} spawned[64];
static size_t n_spawned;
static int peer_sock = -1; /* init's end of the last control socket */
#ifdef FAKES_REAL_INIT
static int peers[64]; /* init's end of each; the test is the init, and closes them */
#endif

static _unused_ void keeper_say_died(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg;

	if (!spawned[i].alive)
		return;
	spawned[i].alive = false;
	kev.died(kev.arg, spawned[i].slot, died_status);
}

static void keeper_answer(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg;
	struct err e = ERR_INIT;
	int sv[2];

	if (strcmp(fail_step, "spawned") == 0) {
		(void)err_set(&e, ERR_IO, EIO, NULL, "spawned failed");
		spawned[i].done(spawned[i].arg, &e, -1, -1, 0);
		return;
	}
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
#ifdef FAKES_REAL_INIT
	peers[i] = sv[1];
#else
	closep(&peer_sock);
	peer_sock = sv[1];
#endif
	spawned[i].alive = true;
	spawned[i].done(spawned[i].arg, NULL, sv[0], -1, 4242);
}

int keeper_spawn(struct keeper *k _unused_, const char *slot, keeper_spawned_fn done, void *arg, struct err *e)
{
	int r = step("spawn", e);

	if (r < 0)
		return r;
	spawned[n_spawned].done = done;
	spawned[n_spawned].arg = arg;
	(void)snprintf(spawned[n_spawned].slot, KEEPER_SLOT_SIZE, "%s", slot);
	if (!keeper_silent)
		post(keeper_answer, (void *)(uintptr_t)n_spawned, 0);
	n_spawned++;
	return 0;
}

/* No test here has a gateway. */
int keeper_attach(struct keeper *k _unused_, const char *slot _unused_, uint32_t index _unused_,
		  enum net_mode mode _unused_, keeper_done_fn done _unused_, void *arg _unused_, struct err *e)
{
	return err_set(e, ERR_INTERNAL, ENOSYS, NULL, "keeper_attach");
}

int keeper_set_mode(struct keeper *k _unused_, const char *slot _unused_, uint32_t index _unused_,
		    enum net_mode mode _unused_, keeper_done_fn done _unused_, void *arg _unused_, struct err *e)
{
	return err_set(e, ERR_INTERNAL, ENOSYS, NULL, "keeper_set_mode");
}

int keeper_hold(struct keeper *k _unused_, const char *slot _unused_, int root_fd _unused_, int reports_fd _unused_,
		const char *label _unused_, struct err *e)
{
	return strcmp(fail_step, "hold") == 0 ? step("hold", e) : 0;
}

int keeper_list(struct keeper *k _unused_, const struct keeper_list *l _unused_, struct err *e _unused_)
{
	return 0;
}

int keeper_exec(struct keeper *k _unused_, const struct keeper_exec *x _unused_, struct err *e _unused_)
{
	return 0;
}

void keeper_exec_lingers(struct keeper *k _unused_, const char *slot _unused_, uint64_t id _unused_)
{
}

void keeper_exec_no_stdin(struct keeper *k _unused_, const char *slot _unused_, uint64_t id _unused_)
{
}

void keeper_exec_over(struct keeper *k _unused_, const char *slot _unused_, uint64_t id _unused_)
{
}

static void fake_init_kill_all(void);

int keeper_kill(struct keeper *k, const char *slot)
{
	cr_assert(k, "keeper_kill on a keeper that is gone");
	note("kill");
	for (size_t i = 0; i < n_spawned; i++)
		if (!keeper_deaf && spawned[i].alive && strcmp(spawned[i].slot, slot) == 0) {
			fake_init_kill_all();
			post(keeper_say_died, (void *)(uintptr_t)i, 0);
		}
	return 0;
}

#ifdef FAKES_REAL_INIT

static int inits_live;

static void fake_init_kill_all(void)
{
}

#else

#include "tests/unit/sandbox_fakes_init.h"

#endif /* FAKES_REAL_INIT */

/* ---- setting up and taking down ---- */

static uint32_t fake_stop_trash_ms;

static void make_manager(uint32_t max_live, uint32_t warm)
{
	struct sandboxes_config c = { .loop = &loop,
				      .stop_trash_ms = fake_stop_trash_ms,
				      .max_live = max_live,
				      .warm = warm,
				      .network = { .egress_sock = -1, .why_none = "a test" } };

	log_set_level(LOG_LEVEL_ERROR);
	cr_assert(mkdtemp(state_dir));
	state_fd = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	c.state_fd = state_fd;
	c.snapshots = (struct snapshot_dir){ .dir_fd = state_fd, .state_fd = state_fd };
	cr_assert(uv_loop_init(&loop) == 0);
	cr_assert(sandboxes_new(&c, &mgr, NULL) == 0);
	sandboxes_keeper_events(mgr, &kev);
	sandboxes_set_keeper(mgr, (struct keeper *)(void *)&kev);
}

static _unused_ void set_up(void)
{
	make_manager(20, 0);
}

#endif /* FAKES_REAL_KERNEL */

static void spin_tick(uv_timer_t *t _unused_)
{
}

static bool spin_at_most(const bool *flag, uint64_t ms)
{
	uint64_t until = uv_hrtime() / 1000000 + ms;
	uv_timer_t tick;

	/* Keeps UV_RUN_ONCE from sleeping past the limit. */
	uv_timer_init(&loop, &tick);
	uv_timer_start(&tick, spin_tick, 5, 5);
	while (!*flag && uv_hrtime() / 1000000 < until)
		uv_run(&loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&tick, NULL);
	uv_run(&loop, UV_RUN_NOWAIT);
	return *flag;
}

/* Turns the loop until *flag, at most so long (slow.h). */
static _unused_ bool spin(const bool *flag, uint64_t ms)
{
	return spin_at_most(flag, slow_ms(ms));
}

/* Turns the loop so long, also on a slow machine: for what may not happen meanwhile. */
static _unused_ void spin_for(uint64_t ms)
{
	bool never = false;

	(void)spin_at_most(&never, ms);
}

/* Turns the loop until the condition holds, at most so long (slow.h); whether it does. */
#define spin_until(condition, ms)                                                                                      \
	({                                                                                                             \
		uint64_t _until = uv_hrtime() / 1000000 + slow_ms(ms);                                                 \
		bool _holds;                                                                                           \
                                                                                                                       \
		while (!(_holds = (condition)) && uv_hrtime() / 1000000 < _until)                                      \
			spin_for(5);                                                                                   \
		_holds;                                                                                                \
	})

static _unused_ struct exec_info info_of(const struct exec *x)
{
	struct exec_info i;

	exec_get_info(x, &i);
	return i;
}

static void on_stopped(void *arg _unused_)
{
	cr_assert(!stopped, "stopped twice");
	stopped = true;
}

#ifndef FAKES_REAL_KERNEL
/* Stops, frees, and looks for anything that is left: handles, inits, cgroups, folders, rows that live. */
static _unused_ void tear_down(void)
{
	char cmd[128];

	keeper_deaf = false;
	sandboxes_shutdown(mgr, false, on_stopped, NULL);
	cr_assert(spin(&stopped, 15000), "the shutdown hangs; %s", trace.p);
	sandboxes_free(mgr);
	fake_init_kill_all();
	cr_assert(uv_run(&loop, UV_RUN_DEFAULT) == 0);
	cr_expect(uv_loop_close(&loop) == 0, "a handle is left open");
	cr_expect(inits_live == 0);
	cr_expect(template_live == 0);
	cr_expect(count_names(cgroups) == 0, "a cgroup is left");
	cr_expect(count_names(folders) == 0, "a folder is left");
	for (size_t i = 0; i < n_rows; i++) {
		cr_expect(rows[i].status == SANDBOX_TERMINATED || rows[i].status == SANDBOX_FAILED);
		sandbox_row_clear(&rows[i]);
	}
	closep(&peer_sock);
	closep(&state_fd);
	buf_free(&trace);
	(void)snprintf(cmd, sizeof(cmd), "%s/emptied", state_dir);
	(void)unlink(cmd);
	cr_expect(rmdir(state_dir) == 0);
}

#endif /* FAKES_REAL_KERNEL */

/* ---- answers ---- */

struct answer {
	unsigned int calls;
	bool done;
	struct err e;
	struct sandbox_row row;
};

static _unused_ void on_answer(void *arg, const struct err *e, const struct sandbox_row *row)
{
	struct answer *a = arg;

	a->calls++;
	a->done = true;
	if (e)
		a->e = *e;
	if (row) {
		a->row = *row; /* the strings are borrowed: not to be used */
		a->row.template_name = a->row.region = a->row.metadata = a->row.env = a->row.failure = NULL;
	}
}

static _unused_ struct sandbox_spec spec_default(void)
{
	return (struct sandbox_spec){
		.template_name = "python-3.12", .network = "off", .env = "{\"A\":\"1\"}", .metadata = "{}"
	};
}

/* A running sandbox of the team's. */
static _unused_ void create_running(char id[static SANDBOX_ID_SIZE], const char *env)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	if (env)
		s.env = env;
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0, "%s", e.msg);
	cr_assert(a.calls == 0, "answered from inside the call");
	cr_assert(spin(&a.done, 2000));
	cr_assert(a.e.kind == ERR_NONE, "%s", a.e.msg);
	cr_assert(a.row.status == SANDBOX_RUNNING);
	(void)snprintf(id, SANDBOX_ID_SIZE, "%s", a.row.id);
}
