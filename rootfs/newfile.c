#include "rootfs/newfile.h"

#include <errno.h>
#include <fcntl.h>

#include "emulator/base/text.h"

void newfile_temp_name(char ret[static NEWFILE_TEMP_SIZE])
{
	uint64_t rnd;

	text_random(&rnd, sizeof(rnd));
	(void)snprintf(ret, NEWFILE_TEMP_SIZE, ".orkestr-%016llx", (unsigned long long)rnd);
}

int newfile_open(struct newfile *f, int dirfd)
{
	f->dirfd = dirfd;
	f->temp[0] = '\0';
	f->fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (f->fd >= 0)
		return 0;
	/* What open(2) says of kernels and file systems without O_TMPFILE. */
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
		return -errno;
	newfile_temp_name(f->temp);
	f->fd = openat(dirfd, f->temp, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600);
	if (f->fd < 0) {
		f->temp[0] = '\0';
		return -errno;
	}
	return 0;
}

/* Gives the nameless file a name that is free. */
static int link_as(struct newfile *f, const char *name)
{
	char proc[64];

	/* Since Linux 6.10 for whoever opened it; before, for CAP_DAC_READ_SEARCH of the host only. */
	if (linkat(f->fd, "", f->dirfd, name, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOENT && errno != EPERM)
		return -errno;
	(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", f->fd);
	return linkat(AT_FDCWD, proc, f->dirfd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int newfile_publish(struct newfile *f, const char *name, bool replace)
{
	int r;

	if (f->temp[0] == '\0') {
		r = replace ? -EEXIST : link_as(f, name);
		if (r != -EEXIST)
			return r;
		newfile_temp_name(f->temp);
		r = link_as(f, f->temp);
		if (r < 0) {
			f->temp[0] = '\0';
			return r;
		}
	}
	if (renameat(f->dirfd, f->temp, f->dirfd, name) < 0)
		return -errno;
	f->temp[0] = '\0';
	return 0;
}

void newfile_drop(struct newfile *f)
{
	if (f->temp[0] != '\0')
		(void)unlinkat(f->dirfd, f->temp, 0);
	f->temp[0] = '\0';
	closep(&f->fd);
}
