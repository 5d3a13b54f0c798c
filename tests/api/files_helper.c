/* What the tests of the files API need done inside a sandbox and no program of the tiny template does.
 * Built static, put into a sandbox.    swap A B STOP | deep N DIR | many N DIR | socket PATH */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Two names change places, in one instant each time, until a file STOP appears. */
static int swap(const char *a, const char *b, const char *stop)
{
	unsigned long n = 0;

	while (access(stop, F_OK) < 0) {
		for (int i = 0; i < 100; i++, n++)
			if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) < 0)
				return 1;
		usleep(10); /* leave the processors to the others now and then */
	}
	printf("%lu\n", n);
	return 0;
}

/* N folders, one in the other, with a file and a link in each. */
static int deep(int n, const char *dir)
{
	int at = open(dir, O_RDONLY | O_DIRECTORY);

	for (int i = 0; i < n; i++) {
		int fd = openat(at, "file", O_CREAT | O_WRONLY, 0644), next;

		if (fd < 0 || symlinkat("/etc", at, "link") < 0 || mkdirat(at, "folder", 0755) < 0)
			return 1;
		next = openat(at, "folder", O_RDONLY | O_DIRECTORY);
		close(fd);
		close(at);
		at = next;
	}
	return at < 0;
}

static int many(int n, const char *dir)
{
	int at = open(dir, O_RDONLY | O_DIRECTORY);

	for (int i = 0; i < n; i++) {
		char name[32];
		int fd;

		snprintf(name, sizeof(name), "%06d", i);
		fd = openat(at, name, O_CREAT | O_WRONLY, 0644);
		if (fd < 0)
			return 1;
		close(fd);
	}
	return 0;
}

static int make_socket(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	return fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "swap") == 0)
		return swap(argv[2], argv[3], argv[4]);
	if (argc == 4 && strcmp(argv[1], "deep") == 0)
		return deep((int)strtol(argv[2], NULL, 10), argv[3]);
	if (argc == 4 && strcmp(argv[1], "many") == 0)
		return many((int)strtol(argv[2], NULL, 10), argv[3]);
	if (argc == 3 && strcmp(argv[1], "socket") == 0)
		return make_socket(argv[2]);
	return 2;
}
