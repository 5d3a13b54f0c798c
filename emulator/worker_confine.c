/* What a worker that reads something hostile gives up first. It keeps what it works with: fds that are open
 * already are not subject to landlock(7), and files of any owner are its job. */

#include "emulator/worker.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define ACCESS_ABI_1 ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1) /* the last one of the first version */

static int restrict_paths(int dirfd)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = ACCESS_ABI_1 | LANDLOCK_ACCESS_FS_REFER };
	struct landlock_path_beneath_attr below = { .parent_fd = dirfd };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	_cleanup_close_ int fd = -1;

	/* Version 1 can't allow a hardlink from one folder into another. */
	if (abi < 2)
		return 0;
	below.allowed_access = attr.handled_access_fs & ~(uint64_t)LANDLOCK_ACCESS_FS_EXECUTE;
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (fd < 0)
		return -errno;
	if (syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &below, 0) < 0 ||
	    syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		return -errno;
	return 0;
}

static int drop_capabilities(void)
{
	static const unsigned int kept = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH |
					 1u << CAP_FOWNER | 1u << CAP_FSETID;
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];

	if (syscall(SYS_capget, &h, caps) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		caps[i].effective &= i == 0 ? kept : 0;
		caps[i].permitted &= i == 0 ? kept : 0;
		caps[i].inheritable = 0;
	}
	return syscall(SYS_capset, &h, caps) < 0 ? -errno : 0;
}

static int limit_memory(uint64_t max_data)
{
#ifdef __SANITIZE_ADDRESS__ /* its shadow is larger than any limit */
	(void)max_data;
	return 0;
#else
	return setrlimit(RLIMIT_DATA, &(struct rlimit){ .rlim_cur = max_data, .rlim_max = max_data }) < 0 ? -errno : 0;
#endif
}

int worker_confine(int dirfd, uint64_t max_data)
{
	int r;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	r = restrict_paths(dirfd);
	if (r == 0)
		r = drop_capabilities();
	return r < 0 ? r : limit_memory(max_data);
}
