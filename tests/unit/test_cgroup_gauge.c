/* The gauge over folders that look like groups of each kind; the real ones are in test_cgroup.c and the API suite. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "emulator/cgroup-internal.h"
#include "emulator/procusage.h"

static char dir[] = "/tmp/test-gauge-XXXXXX";
static struct cgroup_root root;

static void set_up(void)
{
	cr_assert(mkdtemp(dir) && chdir(dir) == 0 && mkdir("s-1", 0700) == 0);
	root = (struct cgroup_root){ .features = { .cpu_reading = true, .memory_reading = true } };
}

static void tear_down(void)
{
	static const char *const files[] = { "cpu.stat", "memory.current", "memory.usage_in_bytes", "memory.stat",
					     "cpuacct.usage" };

	for (size_t i = 0; i < root.n_trees; i++)
		closep(&root.tree[i].fd);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		char path[64];

		(void)snprintf(path, sizeof(path), "s-1/%s", files[i]);
		(void)unlink(path);
	}
	(void)rmdir("s-1");
	(void)rmdir(dir);
}

TestSuite(gauge, .init = set_up, .fini = tear_down);

static void put(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert(fd >= 0 && fd_write_all(fd, text, strlen(text)) == 0);
}

static void add_tree(unsigned int controllers, bool unified)
{
	root.tree[root.n_trees++] = (struct cgroup_tree){
		.fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.controllers = controllers,
		.unified = unified,
	};
}

static void expect(int cpu, uint64_t usec, int memory, uint64_t bytes, uint64_t cache)
{
	uint64_t a = 1, b = 2, c = 3;
	struct cgroup_gauge g;

	cgroup_gauge_open(&root, "s-1", &g);
	cr_assert_eq(cgroup_gauge_cpu(&g, &a), cpu);
	cr_assert_eq(cgroup_gauge_memory(&g, &b), memory);
	cr_assert_eq(cgroup_gauge_cache(&g, &c), memory);
	cr_assert_eq(a, cpu ? 1 : usec);
	cr_assert_eq(b, memory ? 2 : bytes);
	cr_assert_eq(c, memory ? 3 : cache);
	cgroup_gauge_close(&g);
	cgroup_gauge_close(&g);
}

Test(gauge, v2)
{
	root.ops = &cgroup_v2_ops;
	add_tree(CGROUP_CPU | CGROUP_MEMORY, true);
	put("s-1/cpu.stat", "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n");
	put("s-1/memory.current", "104857600\n");
	put("s-1/memory.stat",
	    "anon 1\nfile 2\nshmem 3\ninactive_anon 4\nactive_anon 5\ninactive_file 4096\nactive_file 6\n");
	expect(0, 1234567, 0, 104857600, 4096);
	root.tree[0].controllers = CGROUP_MEMORY; /* the CPU controller is not needed to count */
	expect(0, 1234567, 0, 104857600, 4096);
	root.tree[0].controllers = 0; /* that of memory is */
	expect(0, 1234567, -ENOTSUP, 0, 0);
}

Test(gauge, v1)
{
	root.ops = &cgroup_v1_ops;
	add_tree(CGROUP_CPU | CGROUP_CPUACCT, false);
	add_tree(CGROUP_MEMORY, false);
	add_tree(0, true); /* a hybrid's v2 tree */
	put("s-1/cpu.stat", "nr_periods 0\n");
	put("s-1/cpuacct.usage", "1234567890\n");
	put("s-1/memory.usage_in_bytes", "104857600\n");
	put("s-1/memory.stat", "cache 9\ninactive_file 8192\ntotal_inactive_file 4096\n");
	expect(0, 1234567, 0, 104857600, 4096);
	root.features.memory_reading = false;
	expect(0, 1234567, -ENOTSUP, 0, 0);
}

Test(gauge, none_and_nonsense)
{
	struct cgroup_gauge g;
	uint64_t v = 7;

	root.ops = &cgroup_none_ops;
	expect(-ENOTSUP, 0, -ENOTSUP, 0, 0);
	root.ops = &cgroup_v2_ops;
	add_tree(CGROUP_CPU | CGROUP_MEMORY, true);
	expect(-ENOTSUP, 0, -ENOTSUP, 0, 0); /* no such files */
	put("s-1/cpu.stat", "nr_periods 5\n");
	put("s-1/memory.current", "lots\n");
	put("s-1/memory.stat", "");
	cgroup_gauge_open(&root, "s-1", &g);
	cr_assert_lt(cgroup_gauge_cpu(&g, &v), 0);
	cr_assert_lt(cgroup_gauge_memory(&g, &v), 0);
	cr_assert_lt(cgroup_gauge_cache(&g, &v), 0);
	cr_assert_eq(v, 7u);
	cgroup_gauge_close(&g);
	cgroup_gauge_open(&root, "../s-1", &g);
	cr_assert_eq(cgroup_gauge_cpu(&g, &v), -ENOTSUP);
}

Test(gauge, procusage_knows_this_process)
{
	static volatile char sink[32 << 20];
	uint64_t cpu = 0, bytes = 0, cpu2 = 0, bytes2 = 0;

	cr_assert_eq(procusage_read(getpid(), &cpu, &bytes), 0);
	for (int round = 0; round < 40; round++)
		for (size_t i = 0; i < sizeof(sink); i += 4096)
			sink[i]++;
	cr_assert_eq(procusage_read(getpid(), &cpu2, &bytes2), 0);
	cr_assert_geq(bytes2 - bytes, (uint64_t)30 << 20);
	cr_assert_lt(bytes2 - bytes, (uint64_t)40 << 20);
	cr_assert_geq(cpu2, cpu);
	cr_assert_eq(procusage_read(0x3ffffff, &cpu, &bytes), -ESRCH);
}
