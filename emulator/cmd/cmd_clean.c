/* `clean`: a state dir goes away with everything in it. Files in it belong to subordinate ids, so it is
 * emptied from inside the emulator's user namespace, where those are ids of its own; the folder itself
 * stands in one of the caller's, and goes with the caller's rights. The lock is held throughout. The
 * marker goes last but for the lock: an interrupted clean can be done again. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/cgroup.h"
#include "emulator/cmd/cmd.h"
#include "emulator/cmd/cmd_clean.h"
#include "emulator/idmap.h"
#include "emulator/keeper.h"
#include "emulator/statedir.h"
#include "rootfs/tree.h"

static const char help_text[] =
	"Usage: orkestr-emulator clean [--state-dir DIR] [--yes]\n"
	"\n"
	"Removes a state dir with everything in it: templates, the files of sandboxes, the store,\n"
	"and what a killed emulator left running. Nothing else on the machine is touched. Refused\n"
	"while an emulator runs on it.\n"
	"\n"
	"      --state-dir DIR  which one (default: the one that serve uses)\n"
	"  -y, --yes            do not ask; needed for the default one when there is no terminal\n"
	"  -h, --help           this text\n";

struct clean_options {
	const char *state_dir;
	bool yes, help;
};

static int parse(int argc, char **argv, struct clean_options *o, struct err *e)
{
	static const struct option longs[] = {
		{ "state-dir", required_argument, NULL, 's' },
		{ "yes", no_argument, NULL, 'y' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	optind = 0;
	while ((c = cmd_getopt(argc, argv, "+:yh", longs, e)) != -1) {
		if (c == CMD_OPT_BAD)
			return -EINVAL;
		if (c == 's')
			o->state_dir = optarg;
		o->yes |= c == 'y';
		o->help |= c == 'h';
	}
	if (optind < argc)
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "'%s' is not expected here; a folder goes with --state-dir", argv[optind]);
	return 0;
}

/* Entries of a folder of the state dir; 0 also when there is none. */
static unsigned long count(int state_fd, const char *path)
{
	int fd = openat(state_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;
	unsigned long n = 0;

	if (!d) {
		closep(&fd);
		return 0;
	}
	while ((de = readdir(d)))
		n += de->d_name[0] != '.';
	(void)closedir(d);
	return n;
}

static int remove_rest(int state_fd, bool *ret_any, struct err *e)
{
	int fd = openat(state_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;

	*ret_any = false;
	if (!d) {
		r = err_errno(e, errno, "cannot read the state dir");
		closep(&fd);
		return r;
	}
	while (r == 0 && (de = readdir(d))) {
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ||
		    strcmp(de->d_name, STATEDIR_MARKER) == 0 || strcmp(de->d_name, STATEDIR_LOCK) == 0)
			continue;
		*ret_any = true;
		r = tree_remove(state_fd, de->d_name, e);
	}
	(void)closedir(d);
	return r;
}

/* Runs inside E, as its id 0. */
static int empty(void *arg)
{
	const int *state_fd = arg;
	struct err e = ERR_INIT;
	bool any = true;
	int r = 0;

	/* readdir(3) may skip entries of a folder that changes: until one pass finds none. */
	while (r == 0 && any)
		r = remove_rest(*state_fd, &any, &e);
	if (r == 0)
		r = tree_remove(*state_fd, STATEDIR_MARKER, &e);
	if (r == 0)
		r = tree_remove(*state_fd, STATEDIR_LOCK, &e);
	return r == 0 ? CMD_OK : cmd_failed("clean", &e);
}

/* A folder that root made there (for a damaged store, say) is none of E's: it could not be emptied from there. */
static void take_over_folders(const struct idmap *m, int state_fd)
{
	int fd = openat(state_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;
	struct stat st;

	while (d && (de = readdir(d)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0 &&
		    fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
		    st.st_uid == m->caller_uid && st.st_uid != m->own_uid)
			(void)!fchownat(fd, de->d_name, m->own_uid, m->own_gid, AT_SYMLINK_NOFOLLOW);
	if (d)
		(void)closedir(d);
	else
		closep(&fd);
}

static int empty_in_userns(const struct idmap *m, int state_fd)
{
	struct err e = ERR_INIT;
	int status;

	take_over_folders(m, state_fd);
	status = cmd_in_userns(m, empty, &state_fd, &e);
	/* Where no user namespace can be made any more, the caller's rights may still be enough. */
	if (status < 0 && e.kind == ERR_UNAVAILABLE)
		return empty(&state_fd);
	return status < 0 ? cmd_failed("clean", &e) : status;
}

static bool confirmed(const char *path)
{
	char answer[16] = "";

	(void)printf("Remove %s and everything in it? [y/N] ", path);
	(void)fflush(stdout);
	return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static void remove_folder(int state_fd, const char *path)
{
	struct stat a, b;

	if (fstat(state_fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino &&
	    rmdir(path) == 0)
		return;
	(void)printf("The folder itself, now empty, stays: %s\n", strerror(errno));
}

/* Status 0 with *ret_fd -1: there is nothing to clean. */
static int open_locked(const struct clean_options *o, const struct idmap *m, char path[static PATH_MAX], int *ret_fd,
		       int *ret_lock)
{
	_cleanup_close_ int fd = -1;
	struct err e = ERR_INIT;
	int r = statedir_open_existing(o->state_dir, m, &fd, path, PATH_MAX, &e);

	if (r < 0 && e.kind == ERR_NOT_FOUND) {
		(void)printf("Nothing to do: %s.\n", e.msg);
		return CMD_OK;
	}
	if (r < 0)
		return cmd_failed("clean", &e);
	if (!o->yes && !o->state_dir && !isatty(STDIN_FILENO)) {
		(void)err_set(&e, ERR_INVALID, EINVAL, NULL, "there is nobody to ask; pass --yes to remove %s", path);
		return cmd_usage("clean", &e);
	}
	*ret_lock = statedir_lock(fd, &e);
	if (*ret_lock < 0)
		return cmd_failed("clean", &e);
	*ret_fd = TAKE_FD(fd);
	return CMD_OK;
}

int cmd_clean_folder(const struct idmap *m, int state_fd, const char *path)
{
	char name[STATEDIR_NAME_SIZE];
	struct err e = ERR_INIT;
	unsigned int ended;
	int status;

	statedir_name(path, name);
	if (keeper_end_stale(state_fd, &ended, &e) < 0 || cgroup_sweep(name, &e) < 0)
		return cmd_failed("clean", &e);
	status = empty_in_userns(m, state_fd);
	if (status == CMD_OK)
		remove_folder(state_fd, path);
	return status;
}

int cmd_clean(int argc, char **argv)
{
	_cleanup_close_ int fd = -1, lock = -1;
	struct clean_options o = { 0 };
	unsigned long templates, layers, slots;
	unsigned int ended = 0;
	char name[STATEDIR_NAME_SIZE];
	struct err e = ERR_INIT;
	char path[PATH_MAX];
	struct idmap m;
	int status;

	if (parse(argc, argv, &o, &e) < 0)
		return cmd_usage("clean", &e);
	if (o.help) {
		(void)fputs(help_text, stdout);
		return CMD_OK;
	}
	idmap_choose(&m);
	status = open_locked(&o, &m, path, &fd, &lock);
	if (status != CMD_OK || fd < 0)
		return status;
	if (!o.yes && isatty(STDIN_FILENO) && !confirmed(path)) {
		(void)puts("Nothing was removed.");
		return CMD_FAILED;
	}
	statedir_name(path, name);
	if (keeper_end_stale(fd, &ended, &e) < 0 || cgroup_sweep(name, &e) < 0)
		return cmd_failed("clean", &e);
	if (ended > 0)
		(void)printf("Ended a keeper that an emulator had left, and %u first processes of sandboxes.\n", ended);
	templates = count(fd, "templates");
	layers = count(fd, "disk/l");
	slots = count(fd, "disk/s");
	status = empty_in_userns(&m, fd);
	if (status != CMD_OK)
		return status;
	remove_folder(fd, path);
	(void)printf("Removed %s: templates %lu, layers %lu, folders of sandboxes %lu, the store.\n", path, templates,
		     layers, slots);
	return CMD_OK;
}
