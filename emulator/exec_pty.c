/* A terminal for a command. The daemon opens the pair, not init: so the master is an open file that no
 * process of the sandbox ever had, and nobody there can make it block or read from it. It comes from the
 * sandbox's own devpts, found below its root; what the sandbox could have put there instead is told by the
 * file system's and the device's numbers. The slave is opened from the master (TIOCGPTPEER, ioctl_tty(2)),
 * without a name that could lead elsewhere. */

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>

#include "emulator/base/sys.h"
#include "emulator/exec-internal.h"

#define PTMX makedev(5, 2) /* pts(4) */

/* devpts gives the slave to whoever opens the master. */
static int open_as(int root_fd, uid_t uid)
{
	uid_t old_uid = (uid_t)setfsuid(uid);
	gid_t old_gid = (gid_t)setfsgid((gid_t)uid);
	int fd = sys_openat2(root_fd, "dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK, 0,
			     RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);

	(void)setfsgid(old_gid);
	(void)setfsuid(old_uid);
	return fd;
}

static bool is_ptmx(int fd)
{
	struct statfs fs;
	struct stat st;

	return fstatfs(fd, &fs) == 0 && fs.f_type == DEVPTS_SUPER_MAGIC && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) &&
	       st.st_rdev == PTMX;
}

int pty_resize(int master, struct exec_size size)
{
	const struct winsize w = { .ws_row = size.rows, .ws_col = size.cols };

	return ioctl(master, TIOCSWINSZ, &w) < 0 ? -errno : 0;
}

int pty_open(int root_fd, uid_t uid, struct exec_size size, int *ret_master, int *ret_slave, struct err *e)
{
	_cleanup_close_ int master = -1, slave = -1;
	struct termios t;
	int r, unlock = 0;

	r = open_as(root_fd, uid);
	if (r < 0)
		return err_set(e, r == -ENOSPC ? ERR_CAPACITY : ERR_UNSUPPORTED, -r, NULL,
			       "the sandbox has no terminal to give (dev/pts/ptmx: %s)", strerror(-r));
	master = r;
	if (!is_ptmx(master))
		return err_set(e, ERR_UNSUPPORTED, ENODEV, NULL, "the sandbox's dev/pts/ptmx is no terminal");
	if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
		return err_errno(e, errno, "unlocking the terminal");
	r = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (r < 0)
		return err_errno(e, errno, "opening the terminal");
	slave = r;
	r = pty_resize(master, size);
	if (r < 0)
		return err_errno(e, -r, "setting the terminal's size");
	if (tcgetattr(slave, &t) == 0) {
		t.c_iflag |= IUTF8; /* the line editor of the kernel then erases characters, not bytes */
		(void)tcsetattr(slave, TCSANOW, &t);
	}
	*ret_master = TAKE_FD(master);
	*ret_slave = TAKE_FD(slave);
	return 0;
}
