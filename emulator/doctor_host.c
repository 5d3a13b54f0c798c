/* The doctor's checks of limits (each one really reached), disk, templates and tools. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cgroup.h"
#include "emulator/doctor-internal.h"
#include "rootfs/template.h"

#define MIB (1024ull * 1024)

/* ---- limits ---- */

struct limits_try {
	struct doctor_ctx *c;
	struct cgroup_root *r;
};

static int fork_some(void)
{
	for (int i = 0; i < 8; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return errno == EAGAIN ? 1 : 0;
		if (pid == 0)
			_exit(pause());
	}
	return 0;
}

static int eat_memory(void)
{
	size_t n = 64 * MIB;
	volatile char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; p != MAP_FAILED && i < n; i += 4096)
		p[i] = 1;
	return 0;
}

static int burn_cpu(void)
{
	int64_t until = clock_mono_us() + 250000;

	while (clock_mono_us() < until)
		;
	return 0;
}

/* Runs fn in the group: its exit status, or 128 + signal. */
static int run_in(struct cgroup_root *r, const char *slot, int (*fn)(void))
{
	int go[2];
	char ch = 0;
	pid_t pid;

	if (pipe2(go, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)close(go[1]);
		_exit(read(go[0], &ch, 1) == 1 ? fn() : 0);
	}
	(void)close(go[0]);
	if (pid > 0 && cgroup_attach(r, slot, pid, NULL) == 0)
		(void)!write(go[1], &ch, 1);
	(void)close(go[1]);
	return pid > 0 ? doctor_wait(pid) : -1;
}

/* cgroup_why ends in a command, where one helps: that is to be copied as it is. */
static const char *command_in(const char *why)
{
	const char *sudo = strstr(why, ": sudo "), *mkdir = strstr(why, ": mkdir ");

	return sudo ? sudo + 2 : mkdir ? mkdir + 2 : why;
}

static int try_limits(void *arg)
{
	static const struct cgroup_limits small = { .cpu_millis = 100, .memory_bytes = 24 * MIB, .pids_max = 4 };
	struct limits_try *t = arg;
	const struct cgroup_features *f = cgroup_root_features(t->r);
	bool cpu = false, memory = false, pids = false, freeze = false;
	struct cgroup_usage u;
	struct err e = ERR_INIT;

	if (cgroup_create(t->r, "s-doctor", &small, &e) < 0) {
		doctor_bad(t->c, DOCTOR_WARN, "limits will not be enforced", NULL, "%.180s", e.msg);
		return 0;
	}
	if (f->cpu && run_in(t->r, "s-doctor", burn_cpu) == 0)
		cpu = cgroup_read(t->r, "s-doctor", &u) == 0 && u.cpu_usec < 150000;
	if (f->memory && run_in(t->r, "s-doctor", eat_memory) == 128 + SIGKILL)
		memory = cgroup_read(t->r, "s-doctor", &u) == 0 && u.oom_kills > 0;
	if (f->pids)
		pids = run_in(t->r, "s-doctor", fork_some) == 1;
	if (f->freeze)
		freeze = cgroup_freeze(t->r, "s-doctor", true, NULL) == 0 &&
			 cgroup_freeze(t->r, "s-doctor", false, NULL) == 0;
	(void)cgroup_kill(t->r, "s-doctor");
	if (cpu && memory && pids && freeze && f->kill)
		doctor_ok(t->c, "cgroup %s: memory, cpu and process limits reached and enforced; freezing works",
			  cgroup_backend_name(cgroup_root_backend(t->r)));
	else
		doctor_bad(t->c, DOCTOR_WARN, "some limits will not be enforced", command_in(cgroup_why(t->r)),
			   "cgroup %s: memory %s, cpu %s, processes %s, freezing %s",
			   cgroup_backend_name(cgroup_root_backend(t->r)), memory ? "yes" : "no", cpu ? "yes" : "no",
			   pids ? "yes" : "no", freeze ? "yes" : "no");
	return 0;
}

void doctor_probe_cgroup(struct doctor_ctx *c)
{
	struct limits_try t = { .c = c };
	struct err e = ERR_INIT;
	char name[32];
	pid_t pid;

	(void)text_format(name, sizeof(name), "doctor-%d", getpid());
	if (cgroup_prepare(name, c->idmap.own_uid, c->idmap.own_gid, &t.r, &e) < 0) {
		doctor_bad(c, DOCTOR_WARN, "limits will not be enforced", NULL, "%.180s", e.msg);
		return;
	}
	if (cgroup_root_backend(t.r) == CGROUP_NONE)
		doctor_bad(c, DOCTOR_WARN, "limits will not be enforced, and nothing can be paused", cgroup_why(t.r),
			   "no cgroup to use");
	else if (idmap_spawn(&c->idmap, try_limits, &t, &pid, NULL, &e) < 0)
		doctor_bad(c, DOCTOR_WARN, "limits will not be enforced", NULL, "%.180s", e.msg);
	else
		(void)doctor_wait(pid);
	for (int i = 0; i < 100 && cgroup_remove(t.r, "s-doctor") == -EBUSY; i++)
		(void)usleep(5000);
	cgroup_destroy_root(t.r);
	cgroup_root_free(t.r);
}

/* ---- templates, disk, tools ---- */

void doctor_probe_templates(struct doctor_ctx *c)
{
	char path[TEMPLATE_NAME_MAX + 32], have[128] = "", missing[128] = "", fix[256];
	const char *first = NULL;

	for (size_t i = 0; template_names[i]; i++) {
		bool there;
		char *list;

		(void)text_format(path, sizeof(path), "templates/%s.json", template_names[i]);
		there = c->state_fd >= 0 && faccessat(c->state_fd, path, F_OK, 0) == 0;
		list = there ? have : missing;
		(void)snprintf(list + strlen(list), sizeof(have) - strlen(list), "%s%s", list[0] ? ", " : "",
			       template_names[i]);
		if (!there && !first)
			first = template_names[i];
	}
	if (!first) {
		doctor_ok(c, "%s", have);
		return;
	}
	(void)text_format(fix, sizeof(fix), "orkestr-emulator template build %s", first);
	doctor_bad(c, DOCTOR_WARN,
		   have[0] ? "creating a sandbox of a missing template answers 503 template_unavailable"
			   : "no template was built yet: creating a sandbox answers 503 template_unavailable",
		   fix, "missing: %s", missing);
}

/* The deepest folder of the path that exists: the state dir would be made on its file system. */
static int existing_parent(const char *path, struct statvfs *ret)
{
	char p[PATH_MAX];

	(void)text_format(p, sizeof(p), "%s", path);
	while (statvfs(p, ret) < 0) {
		char *slash = strrchr(p, '/');

		if (errno != ENOENT)
			return -errno;
		if (!slash)
			return statvfs(".", ret) < 0 ? -errno : 0;
		slash[slash == p ? 1 : 0] = '\0';
	}
	return 0;
}

void doctor_probe_space(struct doctor_ctx *c)
{
	struct statvfs s;
	unsigned long long mib;
	int k = existing_parent(c->state_dir, &s);

	if (k < 0) {
		doctor_bad(c, DOCTOR_WARN, "the state dir can't be made", "use another --state-dir", "%.100s: %s",
			   c->state_dir, strerror(-k));
		return;
	}
	mib = (unsigned long long)s.f_bavail * s.f_frsize / MIB;
	if (mib < 2048)
		doctor_bad(c, DOCTOR_WARN, "templates need about 500 MB each, sandboxes what they write",
			   "make room, or use --state-dir on another disk", "%llu MB free for %.100s", mib,
			   c->state_dir);
	else if (s.f_files > 0 && s.f_favail < 100000)
		doctor_bad(c, DOCTOR_WARN, "a template alone is tens of thousands of files",
			   "make room, or use --state-dir on another disk", "%llu files (inodes) free for %.100s",
			   (unsigned long long)s.f_favail, c->state_dir);
	else
		doctor_ok(c, "%llu.%llu GB free for %.100s", mib / 1024, mib % 1024 * 10 / 1024, c->state_dir);
}

void doctor_probe_kernel(struct doctor_ctx *c)
{
	static const struct {
		const char *sysctl, *file;
		uint64_t least;
	} limits[] = {
		{ "user.max_user_namespaces", "/proc/sys/user/max_user_namespaces", 200 },
		{ "user.max_mnt_namespaces", "/proc/sys/user/max_mnt_namespaces", 200 },
		{ "user.max_net_namespaces", "/proc/sys/user/max_net_namespaces", 200 },
		{ "user.max_pid_namespaces", "/proc/sys/user/max_pid_namespaces", 200 },
		{ "user.max_cgroup_namespaces", "/proc/sys/user/max_cgroup_namespaces", 200 },
		{ "kernel.pid_max", "/proc/sys/kernel/pid_max", 8192 },
		{ "kernel.threads-max", "/proc/sys/kernel/threads-max", 8192 },
	};
	char text[32], fix[96];

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		uint64_t v;

		if (fd_read_file(AT_FDCWD, limits[i].file, text, sizeof(text)) <= 0)
			continue;
		text[strcspn(text, "\n")] = '\0';
		if (text_parse_u64(text, 0, UINT64_MAX, &v) < 0 || v >= limits[i].least)
			continue;
		(void)text_format(fix, sizeof(fix), "sudo sysctl -w %s=%u", limits[i].sysctl, 65536u);
		doctor_bad(c, DOCTOR_WARN, "only a few sandboxes fit at once", fix, "%s is %s", limits[i].sysctl, text);
		return;
	}
	doctor_ok(c, "room for namespaces and processes of hundreds of sandboxes");
}

static bool in_path(const char *program)
{
	const char *path = getenv("PATH");
	char full[PATH_MAX];

	for (path = path && *path ? path : "/usr/bin:/bin"; *path;) {
		size_t n = strcspn(path, ":");

		if (n > 0 && text_format(full, sizeof(full), "%.*s/%s", (int)n, path, program) > 0 &&
		    access(full, X_OK) == 0)
			return true;
		path += n + (path[n] == ':');
	}
	return false;
}

void doctor_probe_tools(struct doctor_ctx *c)
{
	bool idmap = in_path("newuidmap") && in_path("newgidmap"), mmdebstrap = in_path("mmdebstrap");
	bool need_idmap = !idmap && geteuid() != 0;

	if (mmdebstrap && !need_idmap)
		doctor_ok(c, "mmdebstrap%s", idmap ? ", newuidmap" : "");
	else
		doctor_bad(c, DOCTOR_WARN,
			   mmdebstrap ? "sandboxes have one user id only"
				      : "templates can be imported, but not built from the distribution's packages",
			   need_idmap ? mmdebstrap ? "sudo apt-get install -y uidmap"
						   : "sudo apt-get install -y mmdebstrap uidmap"
				      : "sudo apt-get install -y mmdebstrap",
			   "missing:%s%s", mmdebstrap ? "" : " mmdebstrap", need_idmap ? " newuidmap" : "");
}
