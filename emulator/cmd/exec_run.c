/* Theory of operation
 *
 * The one who was called (cmd_exec.c) runs the command and holds the write end of a pipe, the leash. The supervisor,
 * a child in a session of its own (so that ^C is the command's alone), starts `serve`, waits for it, and then looks
 * after what is left: as a subreaper it becomes the parent of every orphan of the emulator, so none escapes it.
 * `serve` holds the leash's read end, too, and stops when it is closed. So whoever dies, in whatever way, the
 * emulator ends and its folders go:
 *
 *   the caller   the leash is closed: serve stops, the supervisor removes what there was
 *   serve        the supervisor ends the rest, and the caller reads of it
 *   supervisor   serve stops with the caller; the run's state dir is left (`clean` removes it)
 */

#include "emulator/cmd/exec_run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "emulator/cgroup.h"
#include "emulator/cmd/cmd_clean.h"
#include "emulator/keeper_share.h"
#include "emulator/statedir.h"
#include "rootfs/template.h"
#include "rootfs/tree.h"

#define READY_MS 30000
#define STOP_MS 60000	/* serve's own limit is below that */
#define ORPHANS_MS 5000 /* the janitor's and others' last steps */
#define ARGS_MAX 600

/* ---- the run's state dir ---- */

static int add_template(void *arg, const struct template *t)
{
	unsigned int *n = arg;
	(void)t;

	(*n)++;
	return 0;
}

static int copy_file(int from_dir, const char *name, int to_dir, struct err *e)
{
	_cleanup_close_ int to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	char text[64u << 10];
	ssize_t n = fd_read_file(from_dir, name, text, sizeof(text));

	if (n < 0 || to < 0)
		return err_errno(e, n < 0 ? (int)-n : errno, "copying the template %s", name);
	n = fd_write_all(to, text, (size_t)n);
	return n < 0 ? err_errno(e, (int)-n, "copying the template %s", name) : 0;
}

struct prepare {
	int base, run;
};

static int share_template(void *arg, const struct template *t)
{
	const struct prepare *p = arg;
	char name[TEMPLATE_NAME_MAX + 32];
	_cleanup_close_ int from = -1, to = -1, l = -1;
	struct err e = ERR_INIT;

	from = openat(p->base, "templates", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	to = openat(p->run, "templates", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	l = openat(p->run, "disk/l", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (from < 0 || to < 0 || l < 0)
		return -errno;
	for (size_t i = 0; i < t->n_layers; i++)
		if (mkdirat(l, t->layers[i], 0711) < 0 && errno != EEXIST)
			return -errno;
	(void)snprintf(name, sizeof(name), "%s.json", t->name);
	return copy_file(from, name, to, &e) < 0 ? -EIO : 0;
}

/* In E, as its id 0. */
static int share_templates(void *arg)
{
	const struct prepare *p = arg;
	struct err e = ERR_INIT;

	if (tree_prepare_state(p->run, &e) < 0 || template_each(p->base, share_template, arg, &e) < 0) {
		(void)fprintf(stderr, "orkestr-emulator exec: %s\n", e.msg);
		return 1;
	}
	return 0;
}

static int in_e(const struct idmap *m, int (*fn)(void *arg), void *arg, struct err *e)
{
	int status;
	pid_t pid;
	int r = idmap_spawn(m, fn, arg, &pid, NULL, e);

	if (r < 0)
		return r;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(e, errno, "waiting");
	return status == 0 ? 0 : err_set(e, ERR_IO, EIO, NULL, "the run's state dir can't be made");
}

static int make_state(struct exec_run *x, struct err *e)
{
	struct prepare p;
	char ulid[TEXT_ULID_SIZE], path[sizeof(x->state)];
	int r;

	text_ulid(clock_real_ms(), ulid);
	if (text_format(path, sizeof(path), "%s/" KEEPER_SHARE_RUNS, x->base) < 0)
		return err_errno(e, ENAMETOOLONG, "the run's state dir");
	/* statedir_open would make it as a folder of the caller's: it is the emulator's. */
	if (mkdir(path, 0700) == 0 && x->idmap.own_uid != x->idmap.caller_uid &&
	    chown(path, x->idmap.own_uid, x->idmap.own_gid) < 0)
		return err_errno(e, errno, "%s", path);
	if (text_format(path, sizeof(path), "%s/" KEEPER_SHARE_RUNS "/%s", x->base, ulid) < 0)
		return err_errno(e, ENAMETOOLONG, "the run's state dir");
	r = statedir_open(path, &x->idmap, &x->state_fd, x->state, sizeof(x->state), e);
	if (r < 0)
		return r;
	p = (struct prepare){ x->base_fd, x->state_fd };
	return in_e(&x->idmap, share_templates, &p, e);
}

static int make_files(struct exec_run *x, struct err *e)
{
	const char *tmp = getenv("TMPDIR");

	if (!tmp || *tmp != '/' || strlen(tmp) > 30)
		tmp = "/tmp";
	(void)snprintf(x->dir, sizeof(x->dir), "%s/orkestr-exec-XXXXXX", tmp);
	if (!mkdtemp(x->dir)) {
		x->dir[0] = '\0';
		return err_errno(e, errno, "a folder in %s", tmp);
	}
	(void)snprintf(x->port_file, sizeof(x->port_file), "%s/port", x->dir);
	(void)snprintf(x->summary_file, sizeof(x->summary_file), "%s/summary", x->dir);
	(void)snprintf(x->log_file, sizeof(x->log_file), "%s/log", x->dir);
	x->summary_fd = open(x->summary_file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	x->log_fd = open(x->log_file, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	return x->summary_fd < 0 || x->log_fd < 0 ? err_errno(e, errno, "files in %s", x->dir) : 0;
}

static void remove_files(const struct exec_run *x)
{
	if (!x->dir[0])
		return;
	(void)unlink(x->port_file);
	(void)unlink(x->summary_file);
	(void)unlink(x->log_file);
	(void)rmdir(x->dir);
}

/* 0, or -1 when something of the run's state dir stays. */
static int remove_state(const struct exec_run *x)
{
	char runs[sizeof(x->state)];
	int status = cmd_clean_folder(&x->idmap, x->state_fd, x->state);

	if (text_format(runs, sizeof(runs), "%s/" KEEPER_SHARE_RUNS, x->base) > 0)
		(void)rmdir(runs); /* not when another run has its own there */
	return status == 0 && access(x->state, F_OK) < 0 ? 0 : -1;
}

int exec_run_prepare(struct exec_run *x, const char *state_dir, struct err *e)
{
	unsigned int n = 0;
	int r;

	idmap_choose(&x->idmap);
	r = statedir_open_existing(state_dir, &x->idmap, &x->base_fd, x->base, sizeof(x->base), e);
	if (r < 0 && e->kind != ERR_NOT_FOUND)
		return r;
	if (r >= 0)
		(void)template_each(x->base_fd, add_template, &n, NULL);
	if (n == 0)
		return err_set(
			e, ERR_NOT_FOUND, ENOENT, "no_templates",
			"there are no templates %s%s; make them once: orkestr-emulator template build python-3.12%s%s",
			r < 0 ? "yet" : "in ", r < 0 ? "" : x->base, state_dir ? " --state-dir " : "",
			state_dir ? state_dir : "");
	r = make_state(x, e);
	if (r >= 0)
		r = make_files(x, e);
	if (r < 0) {
		remove_files(x);
		if (x->state_fd >= 0)
			(void)remove_state(x);
	}
	return r;
}

/* ---- the audit ---- */

static unsigned int count_mounts(const char *state)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	unsigned int n = 0;
	size_t cap = 0;

	while (f && getline(&line, &cap, f) >= 0)
		n += strstr(line, state) != NULL;
	return n;
}

static bool reap(pid_t serve, int *ret_status)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == serve)
			*ret_status = status;
	return pid < 0 && errno == ECHILD;
}

/* Kills the children there are; their own come to us then. How many. */
static unsigned int kill_orphans(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/thread-self/children", "re");
	unsigned int n = 0;
	int pid;

	while (f && fscanf(f, "%d", &pid) == 1)
		n += kill(pid, SIGKILL) == 0;
	return n;
}

static unsigned int end_orphans(pid_t serve, int *ret_status)
{
	int64_t until = clock_mono_us() + ORPHANS_MS * 1000;
	unsigned int killed = 0;

	while (!reap(serve, ret_status)) {
		if (clock_mono_us() > until)
			killed += kill_orphans();
		(void)poll(NULL, 0, 5);
	}
	return killed;
}

/* ---- the supervisor ---- */

static void wait_for_serve(pid_t serve, int leash)
{
	struct pollfd p[] = { { .fd = sys_pidfd_open(serve), .events = POLLIN }, { .fd = leash, .events = POLLIN } };

	if (p[0].fd < 0)
		return;
	/* Nothing is ever written to the leash: its end is what comes. */
	while (p[0].revents == 0 && p[1].revents == 0)
		(void)poll(p, 2, -1);
	if (p[0].revents == 0 && poll(p, 1, STOP_MS) == 0)
		(void)kill(serve, SIGKILL);
	(void)close(p[0].fd);
}

static _noreturn_ void run_serve(const struct exec_run *x, int leash, char *const *args, size_t n_args)
{
	char fd_text[16], exe[] = "/proc/self/exe";
	char *argv[ARGS_MAX] = { (char[]){ "orkestr-emulator" }, (char[]){ "serve" } };
	const char *const own[] = { "--listen",	   "127.0.0.1:0", "--port-file",    x->port_file,
				    "--state-dir", x->state,	  "--summary-file", x->summary_file,
				    "--leash-fd",  fd_text,	  "--shared-layers" };
	size_t n = 2;

	(void)snprintf(fd_text, sizeof(fd_text), "%d", leash);
	for (size_t i = 0; i < n_args && n < ARGS_MAX - ARRAY_SIZE(own) - 1; i++)
		argv[n++] = args[i];
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		argv[n++] = (char *)(uintptr_t)own[i];
	argv[n] = NULL;
	(void)fcntl(leash, F_SETFD, 0);
	(void)dup2(x->log_fd, STDOUT_FILENO);
	(void)dup2(x->log_fd, STDERR_FILENO);
	(void)execv(exe, argv);
	(void)dprintf(STDERR_FILENO, "cannot run %s: %s\n", exe, strerror(errno));
	_exit(127);
}

static _noreturn_ void supervise(const struct exec_run *x, int leash, int report, char *const *args, size_t n_args)
{
	struct exec_report done = { .status = -1 };
	char name[STATEDIR_NAME_SIZE];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t serve;

	(void)setsid();
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	for (int fd = 0; fd < 3; fd++)
		(void)dup2(fd == 0 || x->log_fd < 0 ? null : x->log_fd, fd);
	serve = fork();
	if (serve == 0)
		run_serve(x, leash, args, n_args);
	if (serve > 0)
		wait_for_serve(serve, leash);
	done.processes = end_orphans(serve, &done.status);
	statedir_name(x->state, name);
	done.mounts = count_mounts(x->state);
	done.cgroups = cgroup_count(name);
	done.removed = remove_state(x) == 0;
	remove_files(x);
	(void)fd_write_all(report, &done, sizeof(done));
	_exit(0);
}

static int start_supervisor(struct exec_run *x, char *const *args, size_t n_args, struct err *e)
{
	int leash[2], report[2];

	if (pipe2(leash, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0)
		return err_errno(e, errno, "a pipe");
	(void)fflush(NULL);
	x->supervisor = fork();
	if (x->supervisor == 0) {
		(void)close(leash[1]);
		(void)close(report[0]);
		supervise(x, leash[0], report[1], args, n_args);
	}
	(void)close(leash[0]);
	(void)close(report[1]);
	x->leash = leash[1];
	x->report = report[0];
	return x->supervisor < 0 ? err_errno(e, errno, "fork") : 0;
}

static bool read_port(struct exec_run *x)
{
	char text[16];
	uint64_t port;
	ssize_t n = fd_read_file(AT_FDCWD, x->port_file, text, sizeof(text));

	if (n < 2 || text[n - 1] != '\n')
		return false;
	text[n - 1] = '\0';
	if (text_parse_u64(text, 1, 65535, &port) < 0)
		return false;
	x->port = (uint16_t)port;
	return true;
}

int exec_run_start(struct exec_run *x, char *const *args, size_t n_args, struct err *e)
{
	int64_t until = clock_mono_us() + READY_MS * INT64_C(1000);
	int r = start_supervisor(x, args, n_args, e);

	while (r >= 0 && !read_port(x)) {
		struct pollfd p = { .fd = x->report, .events = POLLIN };

		if (poll(&p, 1, 3) > 0 || clock_mono_us() > until)
			return err_set(e, ERR_UNAVAILABLE, EIO, NULL, "the emulator did not start");
	}
	return r;
}

int exec_run_end(struct exec_run *x, struct exec_report *ret, struct err *e)
{
	ssize_t n;

	closep(&x->leash);
	n = fd_read_all(x->report, ret, sizeof(*ret));
	while (x->supervisor > 0 && waitpid(x->supervisor, NULL, 0) < 0 && errno == EINTR)
		;
	if (n == sizeof(*ret))
		return 0;
	return err_set(e, ERR_INTERNAL, EIO, NULL,
		       "the run's supervisor was killed; what is left of the run goes with: orkestr-emulator clean "
		       "--state-dir %.300s",
		       x->state);
}

void exec_run_close(struct exec_run *x)
{
	closep(&x->leash);
	closep(&x->report);
	closep(&x->summary_fd);
	closep(&x->log_fd);
	closep(&x->state_fd);
	closep(&x->base_fd);
}
