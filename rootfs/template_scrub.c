#include "rootfs/template_scrub.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "emulator/base/sys.h"
#include "rootfs/names.h"
#include "rootfs/tree.h"

#define RESOLVE (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)
/* Folders this far below each other in a cache or among logs are nobody's: they go as a whole. */
#define KEEP_DEPTH 32

enum what {
	ALL,   /* everything in the folder */
	FILES, /* everything but folders */
	ITSELF /* the file */
};

static const struct {
	const char *folder, *name; /* name: for ITSELF */
	enum what what;
} places[] = {
	{ "tmp", NULL, ALL },
	{ "var/tmp", NULL, ALL },
	{ "run", NULL, FILES },
	{ "var/log", NULL, FILES },
	{ "var/cache/apt", NULL, FILES },
	{ "var/lib/apt/lists", NULL, FILES },
	{ "var/cache/apk", NULL, FILES },
	{ "var/cache/dnf", NULL, FILES },
	{ "var/cache/yum", NULL, FILES },
	{ "root/.cache/pip", NULL, ALL },
	{ "root/.cache/uv", NULL, ALL },
	{ "root/.cache/yarn", NULL, ALL },
	{ "root/.npm/_cacache", NULL, ALL },
	{ "root/.npm/_logs", NULL, ALL },
	{ "etc", "machine-id", ITSELF },
	{ "var/lib/dbus", "machine-id", ITSELF },
	{ "root", ".ash_history", ITSELF },
	{ "root", ".bash_history", ITSELF },
	{ "root", ".sh_history", ITSELF },
	{ "root", ".zsh_history", ITSELF },
	{ "root", ".python_history", ITSELF },
	{ "root", ".node_repl_history", ITSELF },
	{ "root", ".lesshst", ITSELF },
	{ "root", ".wget-hsts", ITSELF },
};

/* overlayfs' mark for "what is below has been removed". Without it that would come back. */
static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == 0;
}

static int scrub_folder(int fd, enum what what, unsigned int depth, struct err *e);

static int scrub_entry(int fd, const char *name, enum what what, unsigned int depth, struct err *e)
{
	_cleanup_close_ int sub = -1;
	struct stat st;

	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(e, errno, "cannot scrub the template");
	if (is_whiteout(&st))
		return 0;
	if (!S_ISDIR(st.st_mode) || what == ALL || depth == 0)
		return tree_remove(fd, name, e);
	sub = sys_openat2(fd, name, O_RDONLY | O_DIRECTORY, 0, RESOLVE);
	return sub < 0 ? err_errno(e, -sub, "cannot scrub the template") : scrub_folder(sub, what, depth - 1, e);
}

static int scrub_folder(int fd, enum what what, unsigned int depth, struct err *e)
{
	_cleanup_names_ struct names l = NAMES_INIT;
	int r = names_read(&l, fd);

	if (r < 0)
		return err_errno(e, -r, "cannot scrub the template");
	for (size_t i = 0; r == 0 && i < l.n; i++)
		r = scrub_entry(fd, names_at(&l, i), what, depth, e);
	return r;
}

static int scrub_file(int fd, const char *name, struct err *e)
{
	struct stat st;

	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || is_whiteout(&st))
		return 0;
	return tree_remove(fd, name, e);
}

int template_scrub(int upper_fd, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(places); i++) {
		_cleanup_close_ int fd = sys_openat2(upper_fd, places[i].folder, O_RDONLY | O_DIRECTORY, 0, RESOLVE);

		/* Not there, or a symlink or a file in its place: then there is nothing of the kind. */
		if (fd == -ENOENT || fd == -ELOOP || fd == -ENOTDIR)
			continue;
		if (fd < 0)
			r = err_errno(e, -fd, "cannot scrub the template's /%s", places[i].folder);
		else if (places[i].what == ITSELF)
			r = scrub_file(fd, places[i].name, e);
		else
			r = scrub_folder(fd, places[i].what, KEEP_DEPTH, e);
	}
	return r;
}
