#include "emulator/base/sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U /* Linux 6.3; before, every one may be executed, and the flag is EINVAL */
#endif
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static int new_memfd(void)
{
	int fd = memfd_create("orkestr-emulator", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("orkestr-emulator", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

static int copy_all(int from, int to)
{
	struct stat st;
	off_t at = 0;

	if (fstat(from, &st) < 0)
		return -errno;
	while (at < st.st_size) {
		ssize_t n = sendfile(to, from, &at, (size_t)(st.st_size - at));

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
	}
	return 0;
}

int sealed_run(char **argv, struct err *e)
{
	_cleanup_close_ int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), copy = -1;
	int r;

	if (self < 0)
		return err_errno(e, errno, "opening /proc/self/exe");
	r = fcntl(self, F_GET_SEALS); /* EINVAL for a file that has none */
	if (r >= 0 && (r & SEALS) == SEALS) {
		/* The name was taken from the descriptor's number. */
		(void)prctl(PR_SET_NAME, "orkestr-emulator");
		return 0;
	}
	r = copy = new_memfd();
	if (r >= 0)
		r = copy_all(self, copy);
	if (r >= 0 && fcntl(copy, F_ADD_SEALS, SEALS) < 0)
		r = -errno;
	if (r >= 0) {
		(void)fexecve(copy, argv, environ);
		r = -errno;
	}
	return err_set(
		e, ERR_UNAVAILABLE, -r, NULL,
		"the program can't run from a copy in memory (%s), without which a sandbox could get at its file; "
		"is the sysctl vm.memfd_noexec 2? `sysctl vm.memfd_noexec=1` allows it",
		strerrorname_np(-r));
}
