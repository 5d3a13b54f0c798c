#include "rootfs/names.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#define READ_SIZE (32u << 10)

void names_free(struct names *l)
{
	buf_free(&l->text);
	free(l->at);
	l->at = NULL;
	l->n = 0;
}

static int compare(const void *a, const void *b, void *text)
{
	return strcmp((const char *)text + *(const uint32_t *)a, (const char *)text + *(const uint32_t *)b);
}

static int read_all(struct names *l, int fd)
{
	_cleanup_free_ char *block = malloc(READ_SIZE);

	if (!block)
		return -ENOMEM;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	for (;;) {
		ssize_t n = getdents64(fd, block, READ_SIZE);

		if (n <= 0)
			return n < 0 ? -errno : 0;
		for (ssize_t i = 0; i < n;) {
			const struct dirent64 *de = (const struct dirent64 *)(const void *)(block + i);
			int r;

			i += de->d_reclen;
			if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
				continue;
			r = buf_add(&l->text, de->d_name, strlen(de->d_name) + 1);
			if (r < 0)
				return r;
			l->n++;
		}
	}
}

int names_read(struct names *l, int fd)
{
	int r = read_all(l, fd);

	if (r == 0 && l->n > 0) {
		l->at = calloc(l->n, sizeof(*l->at));
		r = l->at ? 0 : -ENOMEM;
	}
	if (r < 0) {
		names_free(l);
		return r;
	}
	for (size_t i = 0, at = 0; i < l->n; i++, at += strlen(l->text.p + at) + 1)
		l->at[i] = (uint32_t)at;
	if (l->n > 1)
		qsort_r(l->at, l->n, sizeof(*l->at), compare, l->text.p);
	return 0;
}
