#pragma once
/* For the fuzz targets. Each is one file with LLVMFuzzerTestOneInput: linked with libFuzzer it is driven by `make
 * fuzz`; linked with replay.c it runs the committed corpus as part of `make test`. A target aborts (fuzz_check)
 * when something that must hold doesn't; what it takes from its input is always a function of the input alone. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "emulator/base/util.h"
#include "rootfs/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define fuzz_check(cond)                                                                                               \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #cond);                          \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

/* What is left of an input. Taking beyond its end gives zeros. */
struct fuzz_input {
	const uint8_t *p;
	size_t n;
};

static inline void fuzz_take(struct fuzz_input *in, void *ret, size_t n)
{
	size_t have = MIN(n, in->n);

	memset(ret, 0, n);
	if (have > 0)
		memcpy(ret, in->p, have);
	in->p += have;
	in->n -= have;
}

static inline unsigned int fuzz_byte(struct fuzz_input *in)
{
	uint8_t b;

	fuzz_take(in, &b, 1);
	return b;
}

/* A copy of its own size, with a NUL that is not the input's: a read too far is a read out of bounds. */
static inline char *fuzz_string(const uint8_t *p, size_t n)
{
	char *s = malloc(n + 1);

	fuzz_check(s);
	if (n > 0)
		memcpy(s, p, n);
	s[n] = '\0';
	return s;
}

/* The next descriptor there would be: the same before and after means that none was lost. */
static inline int fuzz_lowest_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (fd >= 0)
		(void)close(fd);
	return fd;
}

static char fuzz_made[] = "/tmp/orkestr-fuzz-XXXXXX";

static inline void fuzz_unmake(void)
{
	_cleanup_close_ int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)tree_remove(tmp, strrchr(fuzz_made, '/') + 1, NULL);
}

/* An fd of a folder that is nobody's: a tmpfs that is mounted nowhere and goes with the process. As an ordinary
 * user, who can't have that, a folder of /tmp, which exit(3) removes. Once a process. */
static inline int fuzz_folder(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), at = -1, fd = -1;

	if (fs >= 0 && fsconfig(fs, FSCONFIG_SET_STRING, "size", "64m", 0) == 0 &&
	    fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0777", 0) == 0 &&
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		at = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	closep(&fs);
	if (at >= 0) {
		fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		closep(&at);
	} else if (mkdtemp(fuzz_made)) {
		fd = open(fuzz_made, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		(void)fchmod(fd, 0777);
		(void)atexit(fuzz_unmake);
	}
	fuzz_check(fd >= 0);
	return fd;
}

/* File system rights of nobody while a target works in its folder, as the emulator's workers have none. */
#define FUZZ_NOBODY 65534

static inline void fuzz_drop(void)
{
	(void)setfsgid(FUZZ_NOBODY);
	(void)setfsuid(FUZZ_NOBODY);
}

static inline void fuzz_regain(void)
{
	(void)setfsuid(geteuid());
	(void)setfsgid(getegid());
}
