/* What the cgroup module reads as text: mounts, names, "key number" files. */

#include <criterion/criterion.h>
#include <errno.h>

#include "emulator/cgroup-internal.h"

static const char hybrid[] = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
			     "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
			     "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime shared:7 - cgroup cgroup rw,cpuset\n"
			     "34 31 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
			     "35 31 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
			     "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

static const struct layout_case {
	const char *mounts, *self;
	int ret;
	size_t n;
	struct {
		unsigned int controllers;
		bool unified;
		const char *own;
	} m[4];
} layout_cases[] = {
	{ hybrid,
	  "4:memory:/a b\n3:cpuset:/\n2:cpu,cpuacct:/x/y\n1:name=systemd:/z\n0::/z\n",
	  0,
	  3,
	  { { CGROUP_CPU | CGROUP_CPUACCT, false, "/sys/fs/cgroup/cpu,cpuacct/x/y" },
	    { CGROUP_MEMORY, false, "/sys/fs/cgroup/memory/a b" },
	    { 0, true, "/sys/fs/cgroup/unified/z" } } },
	{ "30 23 0:27 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n",
	  "0::/user.slice/a.scope\n",
	  0,
	  1,
	  { { 0, true, "/sys/fs/cgroup/user.slice/a.scope" } } },
	{ "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/", 0, 1, { { 0, true, "/sys/fs/cgroup" } } },
	/* a container that sees a part of the host's tree */
	{ "30 23 0:27 /docker/ab /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
	  "0::/docker/ab/in\n",
	  0,
	  1,
	  { { 0, true, "/sys/fs/cgroup/in" } } },
	{ "30 23 0:27 /docker/ab /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/docker/abc\n", -ENOENT, 0, { { 0 } } },
	/* the process's group is above the cgroup namespace */
	{ "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/../x\n", -ENOENT, 0, { { 0 } } },
	/* an escaped path, and a second mount of the same tree */
	{ "30 23 0:27 / /mnt/c\\040g rw - cgroup2 none rw\n31 23 0:27 / /sys/fs/cgroup rw - cgroup2 none rw\n",
	  "0::/\n",
	  0,
	  1,
	  { { 0, true, "/mnt/c g" } } },
	{ "22 1 0:20 / /proc rw - proc proc rw\n", "0::/\n", -ENOENT, 0, { { 0 } } },
	{ "garbage\n\n- - -\n", "x", -ENOENT, 0, { { 0 } } },
	{ "", "", -ENOENT, 0, { { 0 } } },
};

Test(cgroup_layout, layout)
{
	_cleanup_free_ struct cgroup_layout *l = malloc(sizeof(*l));

	cr_assert(l);
	for (size_t i = 0; i < ARRAY_SIZE(layout_cases); i++) {
		const struct layout_case *c = &layout_cases[i];

		cr_expect_eq(cgroup_layout_parse(c->mounts, c->self, l), c->ret, "case %zu", i);
		cr_assert_eq(l->n, c->n, "case %zu: %zu", i, l->n);
		for (size_t k = 0; k < c->n; k++) {
			cr_expect_eq(l->m[k].controllers, c->m[k].controllers, "case %zu.%zu", i, k);
			cr_expect_eq(l->m[k].unified, c->m[k].unified, "case %zu.%zu", i, k);
			cr_expect_str_eq(l->m[k].own, c->m[k].own, "case %zu.%zu", i, k);
		}
	}
}

Test(cgroup_layout, words)
{
	static const struct {
		const char *s;
		bool valid;
	} cases[] = {
		{ "s-01hxyz", true }, { "a", true },	{ "0-9", true },      { "", false },
		{ "..", false },      { "a/b", false }, { "A", false },	      { "a b", false },
		{ "a.b", false },     { "\n", false },	{ "12345678", true }, { "123456789", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		cr_expect_eq(cgroup_word_valid(cases[i].s, 8), cases[i].valid, "'%s'", cases[i].s);
}

Test(cgroup_layout, keys)
{
	static const char text[] = "low 0\noom 12\noom_kill 3\nmax max\nbad x\nhuge 99999999999999999999999\n";
	static const struct {
		const char *key;
		int ret;
		uint64_t v;
	} cases[] = {
		{ "low", 0, 0 },	  { "oom", 0, 12 },	  { "oom_kill", 0, 3 },
		{ "max", 0, UINT64_MAX }, { "o", -ENOENT, 0 },	  { "missing", -ENOENT, 0 },
		{ "bad", -EINVAL, 0 },	  { "huge", -ERANGE, 0 }, { "oom_kil", -ENOENT, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t v = 0;

		cr_expect_eq(cgroup_find_key(text, cases[i].key, &v), cases[i].ret, "%s", cases[i].key);
		cr_expect_eq(v, cases[i].v, "%s", cases[i].key);
	}
}
