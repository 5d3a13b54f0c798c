/* Keeper and init for real: a state dir with a layer made of the host's own /bin/sh, a clone3, commands. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <uv.h>

#include "emulator/base/fd.h"
#include "emulator/cgroup.h"
#include "emulator/idmap.h"
#include "emulator/init.h"
#include "emulator/keeper.h"
#include "rootfs/tree.h"
#include "tests/unit/check.h"

#define SLOT "s-01hxyz0000000000000000test"

struct world {
	uv_loop_t loop;
	struct idmap map;
	struct keeper *keeper;
	struct init *init;
	pid_t init_pid;
	int root_fd, ctl, refused, state_fd;
	int died, exits;
	struct init_exit last;
	struct err e;
	char dir[64];
};

/* The state dir is filled by a process inside E, as the emulator does. */
static int fill_state(void *arg)
{
	struct world *w = arg;
	struct err e = ERR_INIT;
	char cmd[1024];

	if (tree_prepare_state(w->state_fd, &e) < 0 ||
	    tree_make_slot(w->state_fd, SLOT, idmap_sandbox_uid(&w->map, 0), &e) < 0)
		return 1;
	/* A layer: the host's dash, coreutils' true, cat, and their libraries, owned by the sandbox's root. */
	(void)snprintf(
		cmd, sizeof(cmd),
		"cd %s/disk/l && mkdir -p t/bin t/lib64 t/lib t/proc t/sys t/dev t/workspace t/tmp && chmod 755 t && "
		"for b in sh cat id ls nproc sleep readlink; do p=$(readlink -f $(command -v $b)); cp $p t/bin/$b; "
		"for l in $(ldd $p | grep -o '/[^ )]*'); do mkdir -p t$(dirname $l); cp -n $l t$l; done; done; chown "
		"-R %u:%u t",
		w->dir, idmap_sandbox_uid(&w->map, 0), idmap_sandbox_uid(&w->map, 0));
	return execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
}

static void on_died(void *arg, const char *slot, int status)
{
	struct world *w = arg;
	(void)status;

	CHECK(strcmp(slot, SLOT) == 0, "wrong");
	w->died++;
}

static void on_lost(void *arg)
{
	(void)arg;
}

static void on_spawned(void *arg, const struct err *e, int ctl, int refused, pid_t pid)
{
	struct world *w = arg;

	if (e)
		w->e = *e;
	w->ctl = ctl;
	w->refused = refused;
	w->init_pid = pid;
	uv_stop(&w->loop);
}

static void on_ready(void *arg, const struct err *e, int root_fd)
{
	struct world *w = arg;

	if (e)
		w->e = *e;
	w->root_fd = root_fd;
	uv_stop(&w->loop);
}

static bool on_exited(void *arg, uint64_t id, const struct init_exit *x)
{
	struct world *w = arg;
	(void)id;

	w->last = *x;
	w->exits++;
	uv_stop(&w->loop);
	return true;
}

static void on_init_lost(void *arg, const char *why)
{
	(void)arg;
	(void)why;
}

static void world_start(struct world *w)
{
	struct cgroup_root *cg = NULL;
	struct keeper_config kc = { .idmap = &w->map, .network = true };
	struct keeper_events ke = { .died = on_died, .lost = on_lost, .arg = w };
	struct init_events ie = { .ready = on_ready, .exited = on_exited, .lost = on_init_lost, .arg = w };
	struct init_config ic = { .slot = SLOT,
				  .layers = (const char *const[]){ "t" },
				  .n_layers = 1,
				  .cpus = 1,
				  .hostname = "sandbox",
				  .pids_max = 64 };
	struct cgroup_limits lim = { .cpu_millis = 1000, .memory_bytes = 256u << 20, .pids_max = 64 };
	struct err e = ERR_INIT;
	struct keeper_started kept = { .userns_fd = -1, .sock = -1 };
	int status;
	pid_t pid;

	idmap_choose(&w->map);
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/ork-keeper-XXXXXX");
	CHECK(mkdtemp(w->dir), "mkdtemp");
	CHECK((chown(w->dir, w->map.own_uid, w->map.own_gid)) == 0, "%s", "wrong");
	w->state_fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK((idmap_spawn(&w->map, fill_state, w, &pid, NULL, &e)) == 0, "%s", e.msg);
	CHECK((waitpid(pid, &status, 0)) == pid, "%s", "wrong");
	CHECK((status) == 0, "%s", "wrong");
	CHECK((cgroup_prepare("unit-keeper", w->map.own_uid, w->map.own_gid, &cg, &e)) == 0, "%s", e.msg);
	kc.cgroups = cg;
	kc.state_fd = w->state_fd;
	CHECK((keeper_start(&kc, &kept, &e)) == 0, "%s", e.msg);
	CHECK((idmap_enter(&w->map, kept.userns_fd, &e)) == 0, "%s", e.msg);
	uv_loop_init(&w->loop);
	CHECK((keeper_connect(&w->loop, kept.sock, &ke, &w->keeper, &e)) == 0, "%s", e.msg);
	if (cgroup_root_backend(cg) != CGROUP_NONE)
		CHECK((cgroup_create(cg, SLOT, &lim, &e)) == 0, "%s", e.msg);
	ic.no_cgroup_view = cgroup_root_backend(cg) == CGROUP_NONE;
	CHECK((keeper_spawn(w->keeper, SLOT, on_spawned, w, &e)) == 0, "%s", e.msg);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK((w->ctl) >= 0, "%s", w->e.msg);
	CHECK((init_connect(&w->loop, w->ctl, &ic, &ie, &w->init, &e)) == 0, "%s", e.msg);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	CHECK((w->root_fd) >= 0, "%s", w->e.msg);
}

/* Runs a shell line inside, returns its output. */
static const char *run(struct world *w, const char *line)
{
	static char out[65536];
	const char *const argv[] = { "/bin/sh", "-c", line, NULL }, *const env[] = { "PATH=/bin", NULL };
	struct err e = ERR_INIT;
	int p[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct init_exec x = { .id = 7, .argv = argv, .env = env, .cwd = "/", .stdio = { null, -1, -1 } };
	ssize_t n;

	CHECK((pipe2(p, O_CLOEXEC)) == 0, "%s", "wrong");
	x.stdio[1] = x.stdio[2] = p[1];
	w->exits = 0;
	CHECK((init_start(w->init, &x, &e)) == 0, "%s", e.msg);
	close(p[1]);
	close(null);
	while (!w->exits)
		uv_run(&w->loop, UV_RUN_DEFAULT);
	n = fd_read_all(p[0], out, sizeof(out) - 1);
	CHECK((n) >= 0, "%s", "wrong");
	out[n] = '\0';
	close(p[0]);
	return out;
}

static void world_end(struct world *w)
{
	CHECK((keeper_kill(w->keeper, SLOT)) == 0, "%s", "wrong");
	while (!w->died)
		uv_run(&w->loop, UV_RUN_ONCE);
	init_free(w->init);
	keeper_stop(w->keeper);
	keeper_free(w->keeper);
	uv_run(&w->loop, UV_RUN_NOWAIT);
	CHECK((uv_loop_close(&w->loop)) == 0, "%s", "wrong");
	(void)tree_trash_slot(w->state_fd, SLOT, NULL);
	(void)tree_empty_trash(w->state_fd, NULL);
}

Test(keeper, a_sandbox_runs_commands_and_ends, .timeout = 30)
{
	struct world w = { .ctl = -1, .root_fd = -1 };
	struct cgroup_root *cg = NULL;

	/* The forked half gives up the host's rights; this half cleans up. */
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		world_start(&w);
		CHECK(strcmp(run(&w, "echo hello; exit 3"), "hello\n") == 0, "wrong");
		CHECK(w.last.kind == INIT_EXIT_CODE && w.last.value == 3, "wrong");
		(void)run(&w, "kill -9 $$");
		CHECK(w.last.kind == INIT_EXIT_SIGNAL && w.last.value == SIGKILL, "wrong");
		CHECK(strcmp(run(&w, "id -u"), "0\n") == 0, "wrong");
		CHECK(strcmp(run(&w, "cat /proc/sys/kernel/hostname"), "sandbox\n") == 0, "wrong");
		CHECK(!strstr(run(&w, "cat /proc/self/mountinfo"), "ork-keeper-"), "the state dir shows");
		CHECK(strcmp(run(&w, "nproc"), "1\n") == 0, "wrong");
		CHECK(strstr(run(&w, "cat /proc/1/environ /proc/1/mem"), "ermission denied"), "PID 1 can be read");
		world_end(&w);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	idmap_choose(&w.map);
	if (cgroup_prepare("unit-keeper", w.map.own_uid, w.map.own_gid, &cg, NULL) == 0) {
		(void)cgroup_remove(cg, SLOT);
		cgroup_destroy_root(cg);
	}
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}
