/* Theory of operation. Three processes for one command:
 *
 *   helper   child of the builder: makes the user namespace, waits for its maps (the builder writes them:
 *            it has the rights in the namespace above), becomes its root, unshares mount, pid, ipc, uts
 *   init     PID 1 of the new pid namespace: mounts the stack, pivots, starts the command, reaps
 *   command
 *
 * Everything dies with the helper (PDEATHSIG to init, and PID 1 takes the namespace along).
 *
 * Mounts by path, without paths: an fd opened in another mount namespace can't be mounted from
 * (open_tree(2) and overlayfs want mounts of the caller's own), and the state dir may be below a folder
 * this id can't pass. But unshare(CLONE_NEWNS) carries the current directory over into the copy. So the
 * helper does fchdir(disk/l) first, and layers are named relative to that. For the same reason state_fd
 * itself must have been opened in the builder's mount namespace.
 *
 * Privilege: in the nested namespace the command is root with all capabilities there and none outside.
 * apt drops to _apt by itself; dpkg's chowns stay within ids the sandbox has. */

#include "rootfs/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "rootfs/proc.h"
#include "rootfs/tree.h"

#define WORK "w" /* overlayfs' work folder */
#define TMP "t"	 /* the command's /tmp when it runs on the host's root */
#define ROOT "r" /* where the stack is mounted */
#define MAX_VARS 16
#define LOWERDIR_MAX 4000 /* mount(2): options are one page */

struct stack_proc {
	struct proc proc;
	struct proc_spec spec;
	const struct stack_spec *s;
	char lowerdir[LOWERDIR_MAX];
	const char *vars[MAX_VARS + 8];
	bool started;
};

static int fail(const char *what)
{
	int r = -errno;

	(void)dprintf(STDERR_FILENO, "%s: %s\n", what, strerror(-r));
	return r;
}

/* ---- the folders, made by the builder ---- */

static int fresh_dir(const struct layer_env *env, int dirfd, const char *name, mode_t mode, struct err *e)
{
	int r = tree_remove(dirfd, name, e);
	_cleanup_close_ int fd = -1;

	if (r < 0)
		return r;
	if (mkdirat(dirfd, name, 0700) < 0)
		return err_errno(e, errno, "cannot make a work folder");
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, mode) < 0 ||
	    (!env->single_id && fchown(fd, env->sandbox_uid, (gid_t)env->sandbox_uid) < 0))
		return err_errno(e, errno, "cannot make a work folder");
	return 0;
}

/* ---- the helper ---- */

static int enter_namespaces(const struct stack_spec *s, int sync_fd)
{
	char byte = 'x';

	if (unshare(CLONE_NEWUSER) < 0)
		return fail("user namespace");
	if (write(sync_fd, &byte, 1) != 1 || read(sync_fd, &byte, 1) != 1)
		return -EPIPE;
	if ((!s->env->single_id && setgroups(0, NULL) < 0) || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return fail("becoming the namespace's root");
	/* A change of ids cleared it (prctl(2)). */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || fchdir(s->upper->l_fd) < 0)
		return fail("entering the layers' folder");
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return fail("namespaces");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return fail("mount namespace");
	return 0;
}

/* Binds one file or device of the host onto the same path in the stack, which must have it. */
static int bind_file(const char *path, bool must)
{
	char to[64];

	if (access(path, F_OK) < 0)
		return 0;
	(void)snprintf(to, sizeof(to), "%s%s", ROOT, path);
	if (mount(path, to, NULL, MS_BIND, NULL) < 0)
		return must ? fail(path) : 0;
	return 0;
}

static int mount_dev(void)
{
	static const char *const nodes[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom" };

	if (mount("tmpfs", ROOT "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m") < 0)
		return fail("/dev");
	for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
		char to[64];
		int fd;

		(void)snprintf(to, sizeof(to), "%s%s", ROOT, nodes[i]);
		fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
		closep(&fd);
		if (bind_file(nodes[i], true) < 0)
			return -EIO;
	}
	if (mkdir(ROOT "/dev/shm", 01777) < 0 || mkdir(ROOT "/dev/pts", 0755) < 0)
		return fail("/dev");
	if (mount("devpts", ROOT "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") <
	    0)
		return fail("/dev/pts");
	if (symlink("pts/ptmx", ROOT "/dev/ptmx") < 0 || symlink("/proc/self/fd", ROOT "/dev/fd") < 0 ||
	    symlink("/proc/self/fd/0", ROOT "/dev/stdin") < 0 || symlink("/proc/self/fd/1", ROOT "/dev/stdout") < 0 ||
	    symlink("/proc/self/fd/2", ROOT "/dev/stderr") < 0)
		return fail("/dev");
	return 0;
}

/* What a command leaves in these is not part of a layer: they are tmpfs over the folders, where those are. */
static int mount_scratch(void)
{
	static const char *const dirs[] = {
		"/tmp", "/run", "/var/lib/apt/lists", "/var/cache/apt", "/var/log", "/root"
	};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		char to[64];

		(void)snprintf(to, sizeof(to), "%s%s", ROOT, dirs[i]);
		if (mount("tmpfs", to, "tmpfs", MS_NOSUID | MS_NODEV, i == 0 ? "mode=1777" : "mode=0755") < 0 &&
		    errno != ENOENT)
			return fail(dirs[i]);
	}
	return 0;
}

static int mount_stack(const struct stack_proc *p)
{
	const struct stack_spec *s = p->s;
	char options[LOWERDIR_MAX + 160], to[64];

	(void)snprintf(to, sizeof(to), "%s/" ROOT, s->upper->name);
	/* volatile: no fsync of apt's reaches the disk; the layer is synced once, when it is complete. */
	(void)snprintf(options, sizeof(options),
		       "userxattr,volatile,lowerdir=%s,upperdir=%s/" LAYER_ROOT ",workdir=%s/" WORK, p->lowerdir,
		       s->upper->name, s->upper->name);
	if (mount("overlay", to, "overlay", MS_NODEV, options) < 0)
		return fail("overlay");
	if (chdir(s->upper->name) < 0)
		return fail("chdir");
	if (mount("proc", ROOT "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return fail("/proc");
	if (mount_dev() < 0 || mount_scratch() < 0)
		return -EIO;
	/* The host's names: the mirror may be known only there. */
	if (bind_file("/etc/resolv.conf", false) < 0 || bind_file("/etc/hosts", false) < 0)
		return -EIO;
	if (chdir(ROOT) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return fail("pivot_root");
	return 0;
}

static int mount_on_host(const struct stack_spec *s)
{
	if (chdir(s->upper->name) < 0 || chdir(TMP) < 0)
		return fail("chdir");
	if (mount(".", "/tmp", NULL, MS_BIND, NULL) < 0)
		return fail("/tmp");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return fail("/proc");
	return chdir("/") < 0 ? fail("chdir") : 0;
}

/* PID 1: waits for the command, reaping what else ends. */
static _noreturn_ void reap_until(pid_t command)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, 0)) != command)
		if (pid < 0 && errno != EINTR)
			_exit(125);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* Returns in the child alone. */
static int fork_and_wait(void)
{
	pid_t pid = fork();

	if (pid > 0)
		reap_until(pid);
	return pid < 0 ? fail("fork") : 0;
}

/* Runs in the helper after the fds are in place; returns in the command alone. */
static int helper_main(void *arg, int sync_fd)
{
	struct stack_proc *p = arg;
	int r = enter_namespaces(p->s, sync_fd);

	if (r >= 0)
		r = fork_and_wait();
	if (r < 0)
		return r;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return fail("prctl");
	if (sethostname("sandbox", 7) < 0)
		return fail("sethostname");
	(void)umask(022);
	r = p->s->n_layers ? mount_stack(p) : mount_on_host(p->s);
	return r < 0 ? r : fork_and_wait();
}

/* ---- the builder ---- */

static int write_maps(void *arg, pid_t pid, struct err *e)
{
	const struct layer_env *env = ((struct stack_proc *)arg)->s->env;
	static const char *const files[] = { "uid_map", "gid_map" };
	char path[64], map[64];

	if (env->single_id)
		(void)snprintf(map, sizeof(map), "0 0 1\n");
	else
		(void)snprintf(map, sizeof(map), "0 %u 65536\n", env->sandbox_uid);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int r;

		(void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[i]);
		r = fd_write_file(AT_FDCWD, path, map);
		if (r < 0)
			return err_errno(e, -r, "cannot map the sandbox's ids");
	}
	return 0;
}

static int join_layers(struct stack_proc *p, struct err *e)
{
	size_t o = 0;

	if (p->s->n_layers > STACK_MAX_LAYERS)
		return err_set(e, ERR_INVALID, E2BIG, NULL, "too many layers");
	for (size_t i = 0; i < p->s->n_layers; i++) {
		if (!layer_id_valid(p->s->layers[i]))
			return err_set(e, ERR_INVALID, EINVAL, NULL, "not a layer's name");
		o += (size_t)snprintf(p->lowerdir + o, sizeof(p->lowerdir) - o, "%s%s", i ? ":" : "", p->s->layers[i]);
	}
	return 0;
}

static void fill_vars(struct stack_proc *p)
{
	static const char *const base[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"LANG=C.UTF-8",
		"LC_ALL=C.UTF-8",
		"TMPDIR=/tmp",
		"DEBIAN_FRONTEND=noninteractive",
	};
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(base); i++)
		p->vars[n++] = base[i];
	for (size_t i = 0; p->s->vars && p->s->vars[i] && n < ARRAY_SIZE(p->vars) - 1; i++)
		p->vars[n++] = p->s->vars[i];
}

int stack_start(const struct stack_spec *s, struct stack_proc **ret, struct err *e)
{
	static const struct {
		const char *name;
		mode_t mode;
	} dirs[] = { { WORK, 0700 }, { TMP, 01777 }, { ROOT, 0700 } };
	struct stack_proc *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	p->s = s;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(dirs); i++)
		r = fresh_dir(s->env, s->upper->dir_fd, dirs[i].name, dirs[i].mode, e);
	if (r == 0)
		r = join_layers(p, e);
	if (r < 0) {
		free(p);
		return r;
	}
	fill_vars(p);
	p->spec = (struct proc_spec){
		.argv = s->argv,
		.env = p->vars,
		.stdin_fd = s->stdin_fd > 0 ? s->stdin_fd : -1,
		.timeout_s = s->timeout_s,
		.line = s->line,
		.line_arg = s->line_arg,
		.child = helper_main,
		.parent = write_maps,
		.hook_arg = p,
	};
	r = proc_start(&p->proc, &p->spec, e);
	if (r < 0) {
		free(p);
		return r;
	}
	*ret = p;
	return 0;
}

struct proc *stack_proc(struct stack_proc *p)
{
	return &p->proc;
}

void stack_free(struct stack_proc *p)
{
	if (!p)
		return;
	proc_end(&p->proc);
	free(p);
}

int stack_run(const struct stack_spec *s, struct buf *out, struct err *e)
{
	struct stack_proc *p;
	int r = stack_start(s, &p, e);
	char b[8192];
	ssize_t n;

	if (r < 0)
		return r;
	while ((n = proc_read(&p->proc, b, sizeof(b))) > 0) {
		r = out ? buf_add(out, b, (size_t)n) : 0;
		if (r < 0) {
			stack_free(p);
			return err_set(e, ERR_TOO_LARGE, -r, NULL, "%s said too much", s->argv[0]);
		}
	}
	r = proc_finish(&p->proc, NULL, e);
	stack_free(p);
	return r;
}
