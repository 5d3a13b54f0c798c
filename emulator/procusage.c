#include "emulator/procusage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/proctree.h"

struct usage {
	uint64_t ticks, pages;
	bool begun;
};

/* proc_pid_stat(5): the name may hold anything, so what counts is behind its last parenthesis. */
static int add_cpu(struct usage *u, int dirfd)
{
	unsigned long utime, stime;
	long cutime, cstime;
	char text[1024], *p;

	if (fd_read_file(dirfd, "stat", text, sizeof(text)) < 0)
		return -ESRCH;
	p = strrchr(text, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", &utime, &stime, &cutime,
			 &cstime) != 4)
		return -EBADMSG;
	u->ticks += utime + stime + (uint64_t)MAX(cutime, 0L) + (uint64_t)MAX(cstime, 0L);
	return 0;
}

static void add_memory(struct usage *u, int dirfd)
{
	unsigned long resident, shared;
	char text[256];

	if (fd_read_file(dirfd, "statm", text, sizeof(text)) > 0 &&
	    sscanf(text, "%*u %lu %lu", &resident, &shared) == 2 && resident > shared)
		u->pages += resident - shared;
}

static int add_process(void *arg, pid_t pid)
{
	_cleanup_close_ int fd = -1;
	struct usage *u = arg;
	char path[32];
	int r;

	(void)text_format(path, sizeof(path), "/proc/%d", pid);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = fd < 0 ? -ESRCH : add_cpu(u, fd);
	/* One that has just ended is its parent's now; only the root must be there. */
	if (r < 0)
		return u->begun ? 0 : r;
	u->begun = true;
	add_memory(u, fd);
	return 0;
}

int procusage_read(pid_t root, uint64_t *ret_cpu_usec, uint64_t *ret_bytes)
{
	struct usage u = { 0 };
	int r = proctree_each(root, add_process, &u);

	if (r < 0)
		return r;
	*ret_cpu_usec = u.ticks * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
	*ret_bytes = u.pages * (uint64_t)sysconf(_SC_PAGESIZE);
	return 0;
}
