#include "emulator/proctree.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"

#define PROCESSES_MAX 512
#define THREADS_MAX 256

struct walk {
	pid_t pids[PROCESSES_MAX];
	size_t n;
};

static void add_children(struct walk *w, int taskfd, const char *tid)
{
	char path[32], text[16384], *p = text, *end;

	if (text_format(path, sizeof(path), "%s/children", tid) < 0)
		return;
	/* More than fits are more than are looked at. */
	if (fd_read_file(taskfd, path, text, sizeof(text)) < 0)
		return; /* the thread is gone */
	while (w->n < PROCESSES_MAX) {
		long pid = strtol(p, &end, 10);

		if (end == p || pid <= 0)
			break;
		w->pids[w->n++] = (pid_t)pid;
		p = end;
	}
}

static void add_children_of(struct walk *w, pid_t pid)
{
	const struct dirent *de;
	char path[32];
	DIR *d;

	(void)text_format(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	for (int i = 0; d && i < THREADS_MAX && (de = readdir(d));)
		if (de->d_name[0] != '.') {
			add_children(w, dirfd(d), de->d_name);
			i++;
		}
	if (d)
		(void)closedir(d);
}

int proctree_each(pid_t root, int (*fn)(void *arg, pid_t pid), void *arg)
{
	_cleanup_free_ struct walk *w = calloc(1, sizeof(*w));
	int r = 0;

	if (access("/proc/thread-self/children", F_OK) < 0)
		return -ENOTSUP;
	if (!w)
		return -ENOMEM;
	w->pids[w->n++] = root;
	for (size_t i = 0; i < w->n && r == 0; i++) {
		r = fn(arg, w->pids[i]);
		if (r == 0)
			add_children_of(w, w->pids[i]);
	}
	return r;
}
