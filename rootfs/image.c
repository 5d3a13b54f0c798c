#include "rootfs/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"

#define IMAGE_FILE_MAX (64u << 10)
#define DPKG_STATUS_MAX (16u << 20)

/* A file of the image, symlinks resolved inside it. NULL if it is not there, no file, or too large. */
static char *image_file(int root_fd, const char *path, size_t max)
{
	_cleanup_close_ int fd = sys_openat2(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0,
					     RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > max)
		return NULL;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	n = fd_read_all(fd, text, (size_t)st.st_size);
	if (n < 0)
		return NULL;
	text[n] = '\0';
	return TAKE_PTR(text);
}

/* Copies what is fit for a table and a JSON string: printable ASCII. */
static void copy_printable(const char *p, size_t n, char *ret, size_t cap)
{
	size_t o = 0;

	for (size_t i = 0; i < n && o < cap - 1; i++)
		if (p[i] >= 0x20 && p[i] < 0x7f)
			ret[o++] = p[i];
	ret[o] = '\0';
}

/* The value of `key` ("NAME=" or "Version: ") at the start of a line; quotes taken off. */
static bool line_value(const char *text, const char *key, char *ret, size_t cap)
{
	size_t k = strlen(key);

	for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		size_t n;

		if (strncmp(p, key, k) != 0)
			continue;
		p += k;
		n = strcspn(p, "\n");
		if (n >= 2 && (*p == '"' || *p == '\'') && p[n - 1] == *p) {
			p++;
			n -= 2;
		}
		copy_printable(p, n, ret, cap);
		return *ret != '\0';
	}
	return false;
}

void image_distribution(int root_fd, char *ret, size_t cap)
{
	static const char *const files[] = { "etc/os-release", "usr/lib/os-release" };

	*ret = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(files) && !*ret; i++) {
		_cleanup_free_ char *text = image_file(root_fd, files[i], IMAGE_FILE_MAX);

		if (text && !line_value(text, "PRETTY_NAME=", ret, cap))
			(void)line_value(text, "NAME=", ret, cap);
	}
}

/* The installed version of a Debian package, up to the distribution's own suffix. */
static bool dpkg_version(int root_fd, const char *package, char *ret, size_t cap)
{
	_cleanup_free_ char *text = image_file(root_fd, "var/lib/dpkg/status", DPKG_STATUS_MAX);
	const char *p, *end, *v;
	char key[64];

	(void)snprintf(key, sizeof(key), "\nPackage: %s\n", package);
	p = text ? strstr(text, key) : NULL;
	if (!p)
		return false;
	end = strstr(p + 1, "\n\n");
	v = strstr(p + 1, "\nVersion: ");
	if (!v || (end && v > end))
		return false;
	v += strlen("\nVersion: ");
	copy_printable(v, strcspn(v, "-+~\n"), ret, cap);
	return *ret != '\0';
}

static bool exists(int root_fd, const char *path)
{
	_cleanup_close_ int fd = sys_openat2(root_fd, path, O_PATH, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);

	return fd >= 0;
}

/* "#define KEY 12" or "#define KEY "3.12.1"" */
static bool c_define(const char *text, const char *key, char *ret, size_t cap)
{
	char line[64];
	const char *p;

	(void)snprintf(line, sizeof(line), "#define %s", key);
	p = strstr(text, line);
	if (!p)
		return false;
	p += strlen(line);
	p += strspn(p, " \t\"");
	copy_printable(p, strcspn(p, " \t\"\r\n"), ret, cap);
	return *ret && strspn(ret, "0123456789abcdefghijklmnopqrstuvwxyz.+-") == strlen(ret);
}

static bool find_python(int root_fd, char *ret, size_t cap)
{
	static const char *const prefixes[] = { "usr/local", "usr" };

	for (int minor = 20; minor >= 6; minor--) {
		for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
			_cleanup_free_ char *header = NULL;
			char path[64], version[32], package[32];

			(void)snprintf(path, sizeof(path), "%s/bin/python3.%d", prefixes[i], minor);
			if (!exists(root_fd, path))
				continue;
			(void)snprintf(path, sizeof(path), "%s/include/python3.%d/patchlevel.h", prefixes[i], minor);
			header = image_file(root_fd, path, IMAGE_FILE_MAX);
			(void)snprintf(package, sizeof(package), "python3.%d-minimal", minor);
			if (!(header && c_define(header, "PY_VERSION", version, sizeof(version))) &&
			    !(i == 1 && dpkg_version(root_fd, package, version, sizeof(version))))
				(void)snprintf(version, sizeof(version), "3.%d", minor);
			(void)snprintf(ret, cap, "CPython %s", version);
			return true;
		}
	}
	return false;
}

static bool find_node(int root_fd, char *ret, size_t cap)
{
	static const char *const prefixes[] = { "usr/local", "usr" };

	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
		_cleanup_free_ char *header = NULL;
		char path[64], a[8], b[8], c[8], version[32];

		(void)snprintf(path, sizeof(path), "%s/bin/node", prefixes[i]);
		if (!exists(root_fd, path))
			continue;
		(void)snprintf(path, sizeof(path), "%s/include/node/node_version.h", prefixes[i]);
		header = image_file(root_fd, path, IMAGE_FILE_MAX);
		if (header && c_define(header, "NODE_MAJOR_VERSION", a, sizeof(a)) &&
		    c_define(header, "NODE_MINOR_VERSION", b, sizeof(b)) &&
		    c_define(header, "NODE_PATCH_VERSION", c, sizeof(c)))
			(void)snprintf(ret, cap, "Node %s.%s.%s", a, b, c);
		else if (i == 1 && dpkg_version(root_fd, "nodejs", version, sizeof(version)))
			(void)snprintf(ret, cap, "Node %s", version);
		else
			(void)snprintf(ret, cap, "Node");
		return true;
	}
	return false;
}

void image_interpreter(int root_fd, char *ret, size_t cap)
{
	*ret = '\0';
	/* An image with both is Node's: its build tools bring Python along, not the other way round. */
	if (!find_node(root_fd, ret, cap))
		(void)find_python(root_fd, ret, cap);
}

struct scaffold_entry {
	const char *path;
	mode_t mode;
	const char *text; /* NULL: a folder */
	bool replace;
	const char *only_if; /* a path the image must have */
};

static const struct scaffold_entry scaffold_entries[] = {
	{ "workspace", 0755, NULL, false, NULL },
	{ "proc", 0555, NULL, false, NULL },
	{ "sys", 0555, NULL, false, NULL },
	{ "dev", 0755, NULL, false, NULL },
	{ "run", 0755, NULL, false, NULL },
	{ "tmp", 01777, NULL, false, NULL },
	{ "root", 0700, NULL, false, NULL },
	{ "etc", 0755, NULL, false, NULL },
	{ "etc/hosts", 0644, "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n", true, NULL },
	{ "etc/hostname", 0644, "sandbox\n", true, NULL },
	{ "etc/resolv.conf", 0644, "", true, NULL },
};

/* With one id apt has no _apt to become. */
static const struct scaffold_entry scaffold_single = {
	"etc/apt/apt.conf.d/90sandbox", 0644, "APT::Sandbox::User \"root\";\n", false, "etc/apt/apt.conf.d",
};

static int set_owner(const struct layer_env *env, int fd)
{
	return !env->single_id && fchown(fd, env->sandbox_uid, (gid_t)env->sandbox_uid) < 0 ? -errno : 0;
}

/* The folder of an entry in the scaffold, with the image's own mode where it has it. */
static int scaffold_parent(const struct layer_env *env, int image_fd, int scaffold_fd, const char *path, int *ret)
{
	_cleanup_close_ int at = fcntl(scaffold_fd, F_DUPFD_CLOEXEC, 0);
	char part[64];

	if (at < 0)
		return -errno;
	for (const char *p = path, *slash; (slash = strchr(p, '/')); p = slash + 1) {
		struct stat st;
		int sub;

		(void)snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		if (fstatat(image_fd, part, &st, AT_SYMLINK_NOFOLLOW) < 0)
			st.st_mode = S_IFDIR | 0755;
		if (!S_ISDIR(st.st_mode))
			return -ENOTDIR;
		(void)snprintf(part, sizeof(part), "%.*s", (int)(slash - p), p);
		if (mkdirat(at, part, 0755) < 0 && errno != EEXIST)
			return -errno;
		sub = sys_openat2(at, part, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
		if (sub < 0)
			return sub;
		closep(&at);
		at = sub;
		if (set_owner(env, at) < 0 || fchmod(at, st.st_mode & 07777) < 0)
			return -errno;
	}
	*ret = TAKE_FD(at);
	return 0;
}

static int scaffold_one(const struct layer_env *env, int image_fd, int scaffold_fd, const struct scaffold_entry *s)
{
	const char *name = strrchr(s->path, '/') ? strrchr(s->path, '/') + 1 : s->path;
	_cleanup_close_ int dirfd = -1, fd = -1;
	int r = scaffold_parent(env, image_fd, scaffold_fd, s->path, &dirfd);

	if (r < 0)
		return r == -ENOTDIR ? 0 : r; /* an odd image: it gets what it asked for */
	if (!s->text && mkdirat(dirfd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dirfd, name,
		    s->text ? O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
			    : O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return -errno;
	r = s->text ? fd_write_all(fd, s->text, strlen(s->text)) : 0;
	if (r == 0)
		r = set_owner(env, fd);
	if (r == 0 && fchmod(fd, s->mode) < 0)
		r = -errno;
	return r;
}

/* A name that is there, whatever it is: a dangling symlink counts. */
static bool present(int image_fd, const char *path)
{
	_cleanup_close_ int fd =
		sys_openat2(image_fd, path, O_PATH | O_NOFOLLOW, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);

	return fd >= 0;
}

int image_scaffold(const struct layer_env *env, int image_fd, int scaffold_fd, bool replace, bool *ret_any,
		   struct err *e)
{
	bool any = false;

	for (size_t i = 0; i <= ARRAY_SIZE(scaffold_entries); i++) {
		const struct scaffold_entry *s =
			i < ARRAY_SIZE(scaffold_entries) ? &scaffold_entries[i] : &scaffold_single;
		int r;

		if (s == &scaffold_single && !env->single_id)
			break;
		if (s->only_if && !exists(image_fd, s->only_if))
			continue;
		if (present(image_fd, s->path) && !(replace && s->replace))
			continue;
		r = scaffold_one(env, image_fd, scaffold_fd, s);
		if (r < 0)
			return err_errno(e, -r, "cannot make /%s in the layer", s->path);
		any = true;
	}
	*ret_any = any;
	return 0;
}
