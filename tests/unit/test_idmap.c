#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emulator/base/fd.h"
#include "emulator/idmap.h"

static int write_ids(void *arg)
{
	char map[256] = "";

	(void)fd_read_file(AT_FDCWD, "/proc/self/uid_map", map, sizeof(map));
	return fd_write_all(*(int *)arg, map, strlen(map)) < 0 || geteuid() != 0 || getegid() != 0;
}

Test(idmap, spawn_runs_as_id_zero_with_a_complete_map)
{
	struct idmap m;
	struct err e = ERR_INIT;
	int p[2], status, ns = -1;
	char map[256] = "";
	pid_t pid;

	idmap_choose(&m);
	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	cr_assert_eq(idmap_spawn(&m, write_ids, &p[1], &pid, &ns, &e), 0, "%s", e.msg);
	cr_assert_geq(ns, 0);
	close(p[1]);
	cr_assert_gt(fd_read_all(p[0], map, sizeof(map) - 1), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
	if (m.kind != IDMAP_SINGLE)
		cr_assert_not_null(strstr(map, "65536"), "%s", map);
}

static int idle(void *arg)
{
	const int *p = arg;
	char c;

	close(p[1]);
	return (int)fd_read_all(p[0], &c, 1);
}

Test(idmap, enter_gives_up_the_host)
{
	struct idmap m;
	struct err e = ERR_INIT;
	int p[2], status, ns = -1;
	struct stat st;
	pid_t pid, me;

	idmap_choose(&m);
	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	cr_assert_eq(idmap_spawn(&m, idle, p, &pid, &ns, &e), 0, "%s", e.msg);
	me = fork();
	if (me == 0) {
		if (idmap_enter(&m, ns, &e) < 0)
			_exit(10);
		/* A file of the host's root is nobody's in there, and can't be taken. */
		if (geteuid() != 0 || (m.caller_uid == 0 && m.kind == IDMAP_ROOT && chown("/etc/hostname", 0, 0) == 0))
			_exit(11);
		_exit(stat("/etc/hostname", &st) == 0 && m.kind == IDMAP_ROOT && st.st_uid == 0 ? 12 : 0);
	}
	cr_assert_eq(waitpid(me, &status, 0), me);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "exit %d", WEXITSTATUS(status));
	close(p[1]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(idmap, sandbox_ids_never_include_the_emulators_own)
{
	struct idmap m = { .kind = IDMAP_ROOT };

	cr_assert_eq(idmap_sandbox_uid(&m, 0), 1);
	cr_assert_str_eq(idmap_sandbox_map(&m), "0 1 65536\n");
	m.kind = IDMAP_SINGLE;
	cr_assert_eq(idmap_sandbox_uid(&m, 0), 0);
	cr_assert_str_eq(idmap_sandbox_map(&m), "0 0 1\n");
}
