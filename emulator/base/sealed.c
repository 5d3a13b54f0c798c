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
#define TRIES 10
#define TRY_AGAIN_US 20000
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

/* Only comes back when it could not. */
static int run_copy(int self, char **argv)
{
	_cleanup_close_ int copy = new_memfd();
	int r = copy < 0 ? copy : copy_all(self, copy);

	if (r < 0)
		return r;
	if (fcntl(copy, F_ADD_SEALS, SEALS) < 0)
		return -errno;
	(void)fexecve(copy, argv, environ);
	return -errno;
}

int sealed_run(char **argv, struct err *e)
{
	_cleanup_close_ int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int r;

	if (self < 0)
		return err_errno(e, errno, "opening /proc/self/exe");
	r = fcntl(self, F_GET_SEALS); /* EINVAL for a file that has none */
	if (r >= 0 && (r & SEALS) == SEALS) {
		/* The name was taken from the descriptor's number. */
		(void)prctl(PR_SET_NAME, "orkestr-emulator");
		return 0;
	}
	r = -EBUSY;
	/* The kernel itself may hold a page of it for a moment, or its file be open for writing still: EBUSY, ETXTBSY. */
	for (int i = 0; i < TRIES && (r == -EBUSY || r == -ETXTBSY); i++) {
		if (i > 0)
			(void)usleep(TRY_AGAIN_US);
		r = run_copy(self, argv);
	}
	return err_set(
		e, ERR_UNAVAILABLE, -r, NULL,
		"the program can't run from a copy in memory (%s), without which a sandbox could get at its file; "
		"is the sysctl vm.memfd_noexec 2? `sysctl vm.memfd_noexec=1` allows it",
		strerrorname_np(-r));
}
