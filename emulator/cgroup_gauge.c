#include <errno.h>
#include <fcntl.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"

/* memory.stat's has some 60 lines. */
#define STAT_MAX 8192

static int open_in(const struct cgroup_tree *t, const char *slot, const char *file)
{
	char path[CGROUP_SLOT_MAX + 32];

	(void)text_format(path, sizeof(path), "%s/%s", slot, file);
	return openat(t->fd, path, O_RDONLY | O_CLOEXEC);
}

void cgroup_gauge_open(struct cgroup_root *r, const char *slot, struct cgroup_gauge *ret)
{
	*ret = CGROUP_GAUGE_NONE;
	if (!cgroup_word_valid(slot, CGROUP_SLOT_MAX))
		return;
	for (size_t i = 0; i < r->n_trees; i++) {
		const struct cgroup_tree *t = &r->tree[i];

		/* A v2 group counts CPU time whatever controllers it has; a hybrid host's v2 tree is not asked. */
		if (ret->cpu_fd < 0 && r->features.cpu_reading &&
		    (r->ops->backend == CGROUP_V2 ? t->unified : (t->controllers & CGROUP_CPUACCT) != 0)) {
			ret->v2 = t->unified;
			ret->cpu_fd = open_in(t, slot, t->unified ? "cpu.stat" : "cpuacct.usage");
		}
		if (ret->memory_fd < 0 && r->features.memory_reading && t->controllers & CGROUP_MEMORY) {
			ret->v2 = t->unified;
			ret->memory_fd = open_in(t, slot, t->unified ? "memory.current" : "memory.usage_in_bytes");
			ret->stat_fd = open_in(t, slot, "memory.stat");
		}
	}
}

void cgroup_gauge_close(struct cgroup_gauge *g)
{
	closep(&g->cpu_fd);
	closep(&g->memory_fd);
	closep(&g->stat_fd);
}

static int read_text(int fd, char *ret, size_t cap)
{
	ssize_t n = fd < 0 ? 0 : pread(fd, ret, cap - 1, 0);

	if (fd < 0)
		return -ENOTSUP;
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	return 0;
}

static int read_number(int fd, uint64_t *ret)
{
	char text[32], *end;
	int r = read_text(fd, text, sizeof(text));

	if (r < 0)
		return r;
	for (end = text; *end && *end != '\n'; end++)
		;
	*end = '\0';
	return text_parse_u64(text, 0, UINT64_MAX, ret);
}

int cgroup_gauge_cpu(const struct cgroup_gauge *g, uint64_t *ret_usec)
{
	char text[1024];
	uint64_t ns;
	int r;

	if (!g->v2) {
		r = read_number(g->cpu_fd, &ns);
		if (r == 0)
			*ret_usec = ns / 1000;
		return r;
	}
	r = read_text(g->cpu_fd, text, sizeof(text));
	return r < 0 ? r : cgroup_find_key(text, "usage_usec", ret_usec);
}

int cgroup_gauge_memory(const struct cgroup_gauge *g, uint64_t *ret_bytes)
{
	return read_number(g->memory_fd, ret_bytes);
}

int cgroup_gauge_cache(const struct cgroup_gauge *g, uint64_t *ret_bytes)
{
	char text[STAT_MAX];
	int r = read_text(g->stat_fd, text, sizeof(text));

	return r < 0 ? r : cgroup_find_key(text, g->v2 ? "inactive_file" : "total_inactive_file", ret_bytes);
}
