#include "emulator/procusage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"

#define PROCESSES_MAX 512

struct walk {
	pid_t pids[PROCESSES_MAX];
	size_t n;
	uint64_t ticks, pages;
	bool no_children; /* this kernel does not list them */
};

/* proc_pid_stat(5): the name may hold anything, so what counts is behind its last parenthesis. */
static int add_cpu(struct walk *w, int dirfd)
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
	w->ticks += utime + stime + (uint64_t)MAX(cutime, 0L) + (uint64_t)MAX(cstime, 0L);
	return 0;
}

static void add_memory(struct walk *w, int dirfd)
{
	unsigned long resident, shared;
	char text[256];

	if (fd_read_file(dirfd, "statm", text, sizeof(text)) > 0 &&
	    sscanf(text, "%*u %lu %lu", &resident, &shared) == 2 && resident > shared)
		w->pages += resident - shared;
}

static void add_children(struct walk *w, int taskfd, const char *tid)
{
	char path[32], text[16384], *p = text, *end;

	if (text_format(path, sizeof(path), "%s/children", tid) < 0)
		return;
	/* More than fits are more than are looked at. */
	if (fd_read_file(taskfd, path, text, sizeof(text)) < 0) {
		w->no_children = w->no_children || errno == ENOENT;
		return;
	}
	while (w->n < PROCESSES_MAX) {
		long pid = strtol(p, &end, 10);

		if (end == p || pid <= 0)
			break;
		w->pids[w->n++] = (pid_t)pid;
		p = end;
	}
}

static void closedirp(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

static void add_tasks(struct walk *w, int dirfd)
{
	int fd = openat(dirfd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(closedirp) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!d) {
		closep(&fd);
		return;
	}
	while ((de = readdir(d)))
		if (de->d_name[0] != '.')
			add_children(w, fd, de->d_name);
}

static int add_process(struct walk *w, pid_t pid)
{
	_cleanup_close_ int fd = -1;
	char path[32];
	int r;

	(void)text_format(path, sizeof(path), "/proc/%d", pid);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -ESRCH;
	r = add_cpu(w, fd);
	if (r < 0)
		return r;
	add_memory(w, fd);
	add_tasks(w, fd);
	return 0;
}

int procusage_read(pid_t root, uint64_t *ret_cpu_usec, uint64_t *ret_bytes)
{
	_cleanup_free_ struct walk *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->pids[w->n++] = root;
	r = add_process(w, root);
	if (r < 0)
		return r;
	for (size_t i = 1; i < w->n; i++)
		(void)add_process(w, w->pids[i]); /* one that has just ended is its parent's now */
	if (w->no_children)
		return -ENOTSUP;
	*ret_cpu_usec = w->ticks * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
	*ret_bytes = w->pages * (uint64_t)sysconf(_SC_PAGESIZE);
	return 0;
}
