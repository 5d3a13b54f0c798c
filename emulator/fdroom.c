#include "emulator/fdroom.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

int fdroom_check(unsigned int spare, struct err *e)
{
	/* New ones get the lowest number there is (open(2)), and the table has few holes. */
	_cleanup_close_ int next = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	struct rlimit l;

	if (next < 0 && errno == EBADF)
		return 0;
	if (next >= 0 && (getrlimit(RLIMIT_NOFILE, &l) < 0 || (rlim_t)next + spare < l.rlim_cur))
		return 0;
	return err_set(e, ERR_CAPACITY, EMFILE, "capacity",
		       "the emulator has no descriptors left for it; start it with a higher limit (ulimit -n)");
}
