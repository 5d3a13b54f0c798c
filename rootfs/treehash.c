#include "rootfs/treehash.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <nettle/sha2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "emulator/base/sys.h"
#include "rootfs/names.h"

#define XATTR_NAMES_SIZE 4096

struct hasher {
	struct sha256_ctx sha;
	uint64_t bytes;
	struct err *e;
	char path[PATH_MAX];
	char block[128 << 10];
};

static int hash_data(struct hasher *h, int fd)
{
	for (;;) {
		ssize_t n = read(fd, h->block, sizeof(h->block));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		sha256_update(&h->sha, (size_t)n, (const uint8_t *)h->block);
	}
}

/* What overlayfs notes on an upper's files about the layers that were below; "opaque" alone is content. */
static int take_off_bookkeeping(struct hasher *h, int fd)
{
	char list[XATTR_NAMES_SIZE];
	ssize_t n = flistxattr(fd, list, sizeof(list));

	if (n < 0)
		return errno == ENOTSUP ? 0 : -errno;
	for (char *p = list; p < list + n; p += strlen(p) + 1) {
		if (strcmp(p, "user.overlay.opaque") == 0)
			sha256_update(&h->sha, strlen(p), (const uint8_t *)p);
		else if (strncmp(p, "user.overlay.", 13) == 0 && fremovexattr(fd, p) < 0)
			return -errno;
	}
	return 0;
}

static int hash_entry(struct hasher *h, int dirfd, const char *name, const struct stat *st)
{
	_cleanup_close_ int fd = -1;
	ssize_t n;

	if (S_ISLNK(st->st_mode)) {
		n = readlinkat(dirfd, name, h->block, sizeof(h->block));
		if (n < 0)
			return -errno;
		sha256_update(&h->sha, (size_t)n, (const uint8_t *)h->block);
		return 0;
	}
	if (!S_ISREG(st->st_mode))
		return 0;
	fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	h->bytes += (uint64_t)st->st_size / (uint64_t)MAX(st->st_nlink, 1u);
	n = take_off_bookkeeping(h, fd);
	return n < 0 ? (int)n : hash_data(h, fd);
}

static void hash_header(struct hasher *h, const struct stat *st)
{
	char line[160];
	int n = snprintf(line, sizeof(line), "%o %u %u %llu", (unsigned int)st->st_mode, st->st_uid, st->st_gid,
			 S_ISDIR(st->st_mode) ? 0ull : (unsigned long long)st->st_size);

	/* The NULs keep a path from running into what follows it. */
	sha256_update(&h->sha, strlen(h->path) + 1, (const uint8_t *)h->path);
	sha256_update(&h->sha, (size_t)n + 1, (const uint8_t *)line);
}

static int hash_dir(struct hasher *h, int fd, size_t path_len, unsigned int depth);

static int hash_one(struct hasher *h, int fd, const char *name, size_t path_len, unsigned int depth)
{
	_cleanup_close_ int sub = -1;
	size_t n = strlen(name);
	struct stat st;

	if (path_len + n + 2 > sizeof(h->path))
		return -ENAMETOOLONG;
	h->path[path_len] = '/';
	memcpy(h->path + path_len + 1, name, n + 1);
	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	hash_header(h, &st);
	if (!S_ISDIR(st.st_mode))
		return hash_entry(h, fd, name, &st);
	if (depth == 0)
		return -ENAMETOOLONG;
	sub = sys_openat2(fd, name, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
	return sub < 0 ? sub : hash_dir(h, sub, path_len + 1 + n, depth - 1);
}

static int hash_dir(struct hasher *h, int fd, size_t path_len, unsigned int depth)
{
	_cleanup_names_ struct names l = NAMES_INIT;
	int r = take_off_bookkeeping(h, fd);

	if (r == 0)
		r = names_read(&l, fd);
	for (size_t i = 0; r == 0 && i < l.n; i++)
		r = hash_one(h, fd, names_at(&l, i), path_len, depth);
	return r;
}

int treehash(int root_fd, char ret[static TEXT_SHA256_SIZE], uint64_t *ret_bytes, struct err *e)
{
	_cleanup_free_ struct hasher *h = calloc(1, sizeof(*h));
	unsigned char d[SHA256_DIGEST_SIZE];
	int r;

	if (!h)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	sha256_init(&h->sha);
	r = hash_dir(h, root_fd, 0, TREEHASH_MAX_DEPTH);
	if (r == -ENAMETOOLONG)
		return err_set(e, ERR_TOO_LARGE, ENAMETOOLONG, NULL, "the layer's folders are too deep");
	if (r < 0)
		return err_errno(e, -r, "cannot read the layer");
	sha256_digest(&h->sha, sizeof(d), d);
	for (size_t i = 0; i < sizeof(d); i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", d[i]);
	*ret_bytes = h->bytes;
	return 0;
}
