/* No cgroups: nothing is limited and nothing can be read. The sandbox's init sets rlimits as a stand-in. */

#include <errno.h>

#include "emulator/cgroup-internal.h"

static int none_set_limits(_unused_ struct cgroup_root *r, _unused_ const char *slot,
			   _unused_ const struct cgroup_limits *l, _unused_ struct err *e)
{
	return 0;
}

static int none_read(_unused_ struct cgroup_root *r, _unused_ const char *slot, _unused_ struct cgroup_usage *ret)
{
	return -ENOTSUP;
}

static int none_freeze(struct cgroup_root *r, _unused_ const char *slot, _unused_ bool freeze, struct err *e)
{
	return err_set(e, ERR_UNAVAILABLE, ENOTSUP, NULL, "nothing can be frozen here: %s", r->why);
}

static int none_kill(_unused_ struct cgroup_root *r, _unused_ const char *slot)
{
	return -ENOTSUP;
}

const struct cgroup_ops cgroup_none_ops = {
	.backend = CGROUP_NONE,
	.set_limits = none_set_limits,
	.read = none_read,
	.freeze = none_freeze,
	.kill = none_kill,
};
