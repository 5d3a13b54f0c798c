/* What a sandbox is made of, tried out: user namespaces with capabilities that count, a map of 65536 ids,
 * an overlay mounted in a nested namespace, proc in a new pid namespace, a seccomp filter. */

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/doctor-internal.h"

#define NO_SANDBOX "sandboxes can't run"

static bool sysctl_is(const char *path, const char *value)
{
	char text[32];

	if (fd_read_file(AT_FDCWD, path, text, sizeof(text)) <= 0)
		return false;
	text[strcspn(text, "\n")] = '\0';
	return strcmp(text, value) == 0;
}

static bool in_container(void)
{
	return access("/.dockerenv", F_OK) == 0 || access("/run/.containerenv", F_OK) == 0;
}

/* The command that gets user namespaces allowed, by what stands in the way. */
static void userns_fix(char *ret, size_t cap)
{
	char exe[256]; /* a longer path is cut; the profile then has to be corrected by hand */
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	exe[n > 0 ? n : 0] = '\0';
	if (sysctl_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"))
		(void)snprintf(
			ret, cap,
			"printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile orkestr-emulator %s "
			"flags=(unconfined) {\\n  userns,\\n}\\n' | sudo tee /etc/apparmor.d/orkestr-emulator && "
			"sudo apparmor_parser -r /etc/apparmor.d/orkestr-emulator",
			exe);
	else if (sysctl_is("/proc/sys/user/max_user_namespaces", "0"))
		(void)snprintf(ret, cap,
			       "echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/90-userns.conf && "
			       "sudo sysctl --system");
	else if (sysctl_is("/proc/sys/kernel/unprivileged_userns_clone", "0"))
		(void)snprintf(ret, cap,
			       "echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/90-userns.conf && "
			       "sudo sysctl --system");
	else if (in_container())
		(void)snprintf(ret, cap,
			       "start the container with --privileged, or with --security-opt seccomp=unconfined "
			       "--security-opt apparmor=unconfined --security-opt systempaths=unconfined");
	else
		(void)snprintf(ret, cap,
			       "see `sysctl user.max_user_namespaces` and the rules of this host's security "
			       "modules; or start the emulator with sudo");
}

/* An empty private tmpfs to work in; the current directory is then there. */
static int enter_scratch(void)
{
	static const char *const places[] = { "/tmp", "/mnt", "/run" };

	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (mount("tmpfs", places[i], "tmpfs", MS_NOSUID | MS_NODEV, "size=1m") == 0)
			return chdir(places[i]) < 0 ? -errno : 0;
	return -errno;
}

/* AppArmor on Ubuntu lets a namespace be made and then denies what its capabilities are for. */
static int use_capabilities(void *arg)
{
	struct doctor_ctx *c = arg;

	if (unshare(CLONE_NEWUTS) < 0 || sethostname("probe", 5) < 0 || enter_scratch() < 0)
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, c->fix, "they can be made, but have no power in them: %s",
			   strerror(errno));
	else
		doctor_ok(c, "made, mapped, and mounting works in them");
	return 0;
}

/* The end of the highest range in a subuid file, for a proposal that collides with none. */
static uint64_t ranges_end(const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	uint64_t end = 100000;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		unsigned long long first, n;
		const char *colon = strchr(line, ':');

		if (colon && sscanf(colon, ":%llu:%llu", &first, &n) == 2 && first < UINT32_MAX && n < UINT32_MAX)
			end = MAX(end, first + n);
	}
	return end;
}

static void ids_fix(char *ret, size_t cap)
{
	const struct passwd *pw = getpwuid(geteuid());
	unsigned long long first = MAX(ranges_end("/etc/subuid"), ranges_end("/etc/subgid"));
	bool no_tools = access("/usr/bin/newuidmap", X_OK) < 0 || access("/usr/bin/newgidmap", X_OK) < 0;

	(void)snprintf(ret, cap, "%ssudo usermod --add-subuids %llu-%llu --add-subgids %llu-%llu %s",
		       no_tools ? "sudo apt-get install -y uidmap; " : "", first, first + 65535, first, first + 65535,
		       pw ? pw->pw_name : "$USER");
}

static int exit_at_once(_unused_ void *arg)
{
	return 0;
}

void doctor_probe_userns(struct doctor_ctx *c)
{
	struct err e = ERR_INIT;
	pid_t pid;

	userns_fix(c->fix, sizeof(c->fix));
	if (idmap_spawn(&c->idmap, use_capabilities, c, &pid, NULL, &e) == 0) {
		(void)doctor_wait(pid);
		return;
	}
	if (c->idmap.kind == IDMAP_SUBUID) {
		/* Is it the map or the namespace? A map of one id asks nobody. */
		struct idmap single = c->idmap;

		single.kind = IDMAP_SINGLE;
		if (idmap_spawn(&single, exit_at_once, NULL, &pid, NULL, NULL) == 0) {
			(void)doctor_wait(pid);
			ids_fix(c->fix, sizeof(c->fix));
		}
	}
	doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, c->fix, "%.180s", e.msg);
}

static int use_ids(void *arg)
{
	uid_t ids[] = { 0, 1, IDMAP_SANDBOX_IDS / 2, IDMAP_SANDBOX_IDS };
	struct doctor_ctx *c = arg;
	struct stat st;

	if (enter_scratch() < 0 || close(open("f", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) < 0) {
		doctor_bad(c, DOCTOR_WARN, "files can't be made in a namespace", NULL, "%s", strerror(errno));
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		if (chown("f", ids[i], ids[i]) < 0 || stat("f", &st) < 0 || st.st_uid != ids[i] ||
		    st.st_gid != ids[i]) {
			doctor_bad(c, DOCTOR_WARN, "a sandbox has only one user id", c->fix, "id %u can't be used: %s",
				   ids[i], strerror(errno));
			return 0;
		}
	doctor_ok(c, "%u ids from %u on", IDMAP_SANDBOX_IDS, c->idmap.first_uid);
	return 0;
}

void doctor_probe_ids(struct doctor_ctx *c)
{
	ids_fix(c->fix, sizeof(c->fix));
	if (c->idmap.kind == IDMAP_SINGLE)
		doctor_bad(c, DOCTOR_WARN,
			   "a sandbox has only one user id: packages that need others won't install in it",
			   c->idmap.caller_uid == 0 ? NULL : c->fix, "%s", c->idmap.why_single);
	else
		(void)doctor_in_emulator(c, use_ids);
}

static int make_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0)
		return -1;
	return close(fd);
}

#define OVERLAY_FIX "sudo modprobe overlay"
#define STATE_FIX "use --state-dir with a folder on a local ext4, xfs, btrfs or tmpfs"

/* In the sandbox's kind of namespace, current directory prepared: what a sandbox's disk has to do. */
static int use_overlay(struct doctor_ctx *c)
{
	struct stat st;

	if (mount("overlay", "merged", "overlay", MS_NODEV, "userxattr,lowerdir=lower,upperdir=upper,workdir=work") < 0)
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, errno == ENODEV ? OVERLAY_FIX : STATE_FIX,
			   "mounting one in a user namespace: %s", strerror(errno));
	else if (make_file("merged/new") < 0 || stat("upper/new", &st) < 0)
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, STATE_FIX, "writing a file: %s", strerror(errno));
	else if (unlink("merged/old") < 0 || lstat("upper/old", &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != 0)
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, STATE_FIX, "deleting a file of a template: %s", strerror(errno));
	else if (c->state_fd >= 0 && (unlink("merged/dir/x") < 0 || rmdir("merged/dir") < 0 ||
				      mkdir("merged/dir", 0755) < 0 || stat("merged/dir/x", &st) == 0))
		doctor_bad(c, DOCTOR_WARN, "replacing a directory of the template fails in sandboxes", STATE_FIX,
			   "this file system keeps no user.* attributes: %s", strerror(errno));
	else
		doctor_ok(c, "mounted, written, deleted from, %s",
			  c->state_fd >= 0 ? "in the state dir" : "on a tmpfs (there is no state dir yet)");
	return 0;
}

static int prepare_overlay(const struct doctor_ctx *c)
{
	static const char *const dirs[] = { "lower", "lower/dir", "upper", "work", "merged" };
	static const char *const files[] = { "lower/old", "lower/dir/x" };
	uid_t id = idmap_sandbox_uid(&c->idmap, 0);

	if (chown(".", id, id) < 0 || chmod(".", 0711) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdir(dirs[i], 0755) < 0 || chown(dirs[i], id, id) < 0)
			return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (make_file(files[i]) < 0 || chown(files[i], id, id) < 0)
			return -errno;
	return 0;
}

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int type, _unused_ struct FTW *f)
{
	return remove(path);
}

static int try_overlay(void *arg)
{
	struct doctor_ctx *c = arg;
	bool in_state = c->state_fd >= 0;
	_cleanup_close_ int back = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char name[32];
	int k;

	(void)text_format(name, sizeof(name), ".doctor-%d", getpid());
	if (!in_state)
		k = enter_scratch();
	else
		k = mkdir(name, 0711) < 0 || chdir(name) < 0 ? -errno : 0;
	if (k == 0)
		k = prepare_overlay(c);
	if (k < 0)
		doctor_bad(c, DOCTOR_FAIL, in_state ? "the state dir can't be used" : NO_SANDBOX,
			   in_state ? STATE_FIX : NULL, "%.100s: %s",
			   in_state ? c->state_dir : "making files in a namespace", strerror(-k));
	else
		(void)doctor_in_sandbox(c, use_overlay);
	if (in_state && fchdir(back) == 0)
		(void)nftw(name, remove_one, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	return 0;
}

void doctor_probe_overlay(struct doctor_ctx *c)
{
	/* unshare(CLONE_NEWNS) takes the current directory along into the copy of its mount; a descriptor stays
	 * in the old namespace, where nothing can be mounted on. */
	if (c->state_fd >= 0 && fchdir(c->state_fd) < 0)
		c->state_fd = -1;
	(void)doctor_in_emulator(c, try_overlay);
}

static int use_proc(struct doctor_ctx *c)
{
	char self[16];
	ssize_t n = -1;
	int k = enter_scratch();

	if (k == 0 &&
	    (mkdir("proc", 0755) < 0 || mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0))
		k = -errno;
	if (k < 0) {
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX,
			   in_container()
				   ? "start the container with --privileged, or --security-opt systempaths=unconfined"
				   : "unmount what hides parts of /proc: findmnt -R /proc",
			   "mounting a new one: %s", strerror(-k));
		return 0;
	}
	n = readlink("proc/self", self, sizeof(self));
	if (n == 1 && self[0] == '1')
		doctor_ok(c, "mounted, and shows the sandbox's processes only");
	else
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, NULL, "a new one shows other processes");
	return 0;
}

static int try_proc(void *arg)
{
	(void)doctor_in_sandbox(arg, use_proc);
	return 0;
}

void doctor_probe_proc(struct doctor_ctx *c)
{
	(void)doctor_in_emulator(c, try_proc);
}

void doctor_probe_seccomp(struct doctor_ctx *c)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
	struct utsname u;
	int k = f ? 0 : -ENOMEM;

	if (k == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		k = -errno;
	if (k == 0)
		k = seccomp_rule_add(f, SCMP_ACT_ERRNO(EOWNERDEAD), SCMP_SYS(uname), 0);
	if (k == 0)
		k = seccomp_load(f);
	if (k < 0)
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, "use a kernel with CONFIG_SECCOMP_FILTER", "loading one: %s",
			   strerror(-k));
	else if (uname(&u) == 0 || errno != EOWNERDEAD)
		doctor_bad(c, DOCTOR_FAIL, NO_SANDBOX, NULL, "a loaded filter had no effect");
	else
		doctor_ok(c, "loaded and effective");
	seccomp_release(f);
}
