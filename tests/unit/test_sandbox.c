#include "tests/unit/sandbox_fakes.h"

TestSuite(sandbox, .init = set_up, .fini = tear_down, .timeout = 30);

static size_t count_in(const char *haystack, const char *needle)
{
	size_t n = 0;

	for (const char *p = haystack; p && (p = strstr(p, needle)); p += strlen(needle))
		n++;
	return n;
}

Test(sandbox, create_and_terminate_in_order)
{
	char id[SANDBOX_ID_SIZE];
	struct answer a = { 0 };
	struct sandbox_row *row;
	struct err e = ERR_INIT;

	create_running(id, NULL);
	cr_expect_str_eq(trace.p, "insert:creating folder cgroup spawn connect update:running");
	row = row_of(id);
	cr_assert(row && strncmp(row->id, "sbx_", 4) == 0 && strncmp(row->slot, "s-", 2) == 0);
	cr_expect(strlen(row->id) == 30 && strlen(row->slot) == 28);
	cr_expect(row->cpu_millis == 1000 && row->memory_mb == 2048 && row->size[0] == '\0');
	cr_expect(row->timeout_s == 600 && row->expires_ms == row->started_ms + 600000);
	cr_expect_str_eq(row->env, "{\"A\":\"1\"}");
	cr_expect_str_eq(last_layer, "layer0");
	cr_expect(last_cpus == 1 && strcmp(last_host, "sandbox") == 0);
	cr_expect(last_limits.cpu_millis == 1000 && last_limits.memory_bytes == 2048ull << 20 &&
		  last_limits.pids_max == 512);

	buf_reset(&trace);
	busy_removes = 3;
	cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &a, &e) == 0);
	cr_expect(a.calls == 0, "answered from inside the call");
	cr_assert(spin(&a.done, 2000));
	cr_expect(a.e.kind == ERR_NONE && a.row.status == SANDBOX_TERMINATED);
	cr_expect_str_eq(a.row.termination_reason, "user");
	cr_expect(a.row.terminated_ms >= a.row.started_ms);
	/* The answer comes before the removal. */
	cr_expect_str_eq(trace.p, "update:terminating kill update:terminated");
	spin_for(100);
	cr_expect_str_eq(trace.p, "update:terminating kill update:terminated cgroup_remove trash");
}

Test(sandbox, sizes_table)
{
	static const struct {
		const struct account *who;
		const char *size;
		uint32_t cpu, mem;
		const char *reason; /* NULL: allowed */
		uint32_t want_cpu, want_mem, want_pids, want_cpus;
	} table[] = {
		{ &team, NULL, 0, 0, NULL, 1000, 2048, 512, 1 },
		{ &team, "small", 0, 0, NULL, 500, 512, 512, 1 },
		{ &team, "medium", 0, 0, NULL, 2000, 4096, 1024, 2 },
		{ &team, "large", 0, 0, NULL, 4000, 8192, 2048, 4 },
		{ &team, NULL, 1500, 0, NULL, 1500, 2048, 512, 2 },
		{ &team, NULL, 4001, 0, "size_not_allowed", 0, 0, 0, 0 },
		{ &team, NULL, 0, 8193, "size_not_allowed", 0, 0, 0, 0 },
		{ &team, NULL, 5, 0, "", 0, 0, 0, 0 },
		{ &team, NULL, 0, 1, "", 0, 0, 0, 0 },
		{ &team, "huge", 0, 0, "", 0, 0, 0, 0 },
		{ &freebie, NULL, 0, 0, NULL, 500, 512, 512, 1 },
		{ &freebie, "small", 0, 0, NULL, 500, 512, 512, 1 },
		{ &freebie, "medium", 0, 0, "size_not_allowed", 0, 0, 0, 0 },
		{ &freebie, NULL, 501, 0, "size_not_allowed", 0, 0, 0, 0 },
		{ &freebie, NULL, 0, 513, "size_not_allowed", 0, 0, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct sandbox_spec s = spec_default();
		struct answer a = { 0 }, b = { 0 };
		struct err e = ERR_INIT;
		int r;

		s.size = table[i].size;
		s.cpu_millis = table[i].cpu;
		s.memory_mb = table[i].mem;
		r = sandbox_create(mgr, table[i].who, &s, on_answer, &a, &e);
		if (table[i].reason) {
			cr_expect(r < 0 && e.kind == (table[i].reason[0] ? ERR_PLAN : ERR_INVALID), "%zu: %s", i,
				  e.msg);
			cr_expect_str_eq(e.reason ? e.reason : "", table[i].reason, "%zu", i);
			continue;
		}
		cr_assert(r == 0, "%zu: %s", i, e.msg);
		cr_assert(spin(&a.done, 2000));
		cr_expect(a.row.cpu_millis == table[i].want_cpu && a.row.memory_mb == table[i].want_mem, "%zu", i);
		cr_expect(last_limits.pids_max == table[i].want_pids && last_cpus == table[i].want_cpus, "%zu", i);
		cr_assert(sandbox_terminate(mgr, table[i].who, a.row.id, on_answer, &b, &e) == 0);
		cr_assert(spin(&b.done, 2000));
	}
}

Test(sandbox, refusals_leave_no_row)
{
	static const struct {
		const struct account *who;
		const char *network, *template_name, *env;
		uint32_t timeout;
		enum err_kind kind;
		const char *reason;
	} table[] = {
		{ &team, "open", "python-3.12", "{}", 0, ERR_UNAVAILABLE, "network_unavailable" },
		{ &team, "restricted", "python-3.12", "{}", 0, ERR_UNAVAILABLE, "network_unavailable" },
		{ &freebie, "open", "python-3.12", "{}", 0, ERR_PLAN, "network_not_allowed" },
		{ &freebie, "restricted", "python-3.12", "{}", 0, ERR_UNAVAILABLE, "network_unavailable" },
		{ &team, "moon", "python-3.12", "{}", 0, ERR_INVALID, "" },
		{ &team, "off", "node-22", "{}", 0, ERR_UNAVAILABLE, "template_unavailable" },
		{ &team, "off", "nope", "{}", 0, ERR_NOT_FOUND, "template_not_found" },
		{ &team, "off", "../etc/passwd", "{}", 0, ERR_NOT_FOUND, "template_not_found" },
		{ &team, "off", "", "{}", 0, ERR_NOT_FOUND, "template_not_found" },
		{ &team, "off", "python-3.12", "{}", 3601, ERR_INVALID, "" },
		{ &team, "off", "python-3.12", "[]", 0, ERR_INVALID, "" },
		{ &team, "off", "python-3.12", "{\"A\":1}", 0, ERR_INVALID, "" },
		{ &team, "off", "python-3.12", "{\"A=B\":\"1\"}", 0, ERR_INVALID, "" },
		{ &team, "off", "python-3.12", "{\"1A\":\"1\"}", 0, ERR_INVALID, "" },
		{ &team, "off", "python-3.12", "{\"\":\"1\"}", 0, ERR_INVALID, "" },
		{ &team, "off", "python-3.12", "{\"A\":\"x\\u0000y\"}", 0, ERR_INVALID, "" },
		{ &team, "off", "python-3.12", "{\"A\":", 0, ERR_INVALID, "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct sandbox_spec s = spec_default();
		struct answer a = { 0 };
		struct err e = ERR_INIT;

		s.network = table[i].network;
		s.template_name = table[i].template_name;
		s.env = table[i].env;
		s.timeout_s = table[i].timeout;
		cr_expect(sandbox_create(mgr, table[i].who, &s, on_answer, &a, &e) < 0, "%zu", i);
		cr_expect(e.kind == table[i].kind, "%zu: %s", i, e.msg);
		cr_expect_str_eq(e.reason ? e.reason : "", table[i].reason, "%zu", i);
	}
	spin_for(20);
	cr_expect(n_rows == 0 && n_spawned == 0 && !trace.p);
}

Test(sandbox, concurrency_counts_creating_ones_and_frees_the_place)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 }, b = { 0 }, c = { 0 };
	struct err e = ERR_INIT;

	cr_assert(sandbox_create(mgr, &freebie, &s, on_answer, &a, &e) == 0);
	cr_expect(sandbox_create(mgr, &freebie, &s, on_answer, &b, &e) < 0);
	cr_expect(e.kind == ERR_PLAN && strcmp(e.reason, "concurrent_limit") == 0);
	/* Another account is not concerned. */
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &b, &e) == 0);
	cr_assert(spin(&a.done, 2000) && spin(&b.done, 2000));
	cr_assert(sandbox_terminate(mgr, &freebie, a.row.id, on_answer, &c, &e) == 0);
	cr_assert(spin(&c.done, 2000));
	a = (struct answer){ 0 };
	cr_assert(sandbox_create(mgr, &freebie, &s, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 2000));
}

/* What the emulator runs for itself (tmpl.h) neither fills an account's places nor is kept from its own. */
Test(sandbox, a_build_is_counted_by_no_plan)
{
	const struct account builder = { .id = SANDBOX_BUILD_ACCOUNT "free", .plan = PLAN_FREE };
	struct sandbox_spec s = spec_default(), b = spec_default();
	struct answer x[3] = { 0 };
	struct err e = ERR_INIT;

	b.build = true;
	b.timeout_s = 7200;
	cr_assert(sandbox_create(mgr, &builder, &b, on_answer, &x[0], &e) == 0);
	cr_assert(sandbox_create(mgr, &builder, &b, on_answer, &x[1], &e) == 0, "%s", e.msg);
	cr_assert(sandbox_create(mgr, &freebie, &s, on_answer, &x[2], &e) == 0);
	cr_assert(spin(&x[0].done, 2000) && spin(&x[1].done, 2000) && spin(&x[2].done, 2000));
	cr_expect(x[0].row.timeout_s == 7200);
	s.timeout_s = 7200;
	cr_expect(sandbox_create(mgr, &freebie, &s, on_answer, &x[0], &e) < 0);
	sandboxes_end_builds(mgr);
	spin_for(100);
	cr_expect(row_of(x[1].row.id)->status == SANDBOX_TERMINATED);
	cr_expect(row_of(x[2].row.id)->status == SANDBOX_RUNNING);
}

static void count_use(void *arg, const struct sandbox_row *row)
{
	cr_expect_str_eq(row->template_name, FAKE_CUSTOM);
	++*(unsigned int *)arg;
}

Test(sandbox, a_custom_template_is_its_accounts_alone)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 }, b = { 0 };
	struct err e = ERR_INIT;
	unsigned int n = 0;

	s.template_name = FAKE_CUSTOM;
	cr_expect(sandbox_create(mgr, &freebie, &s, on_answer, &a, &e) < 0);
	cr_expect(e.kind == ERR_NOT_FOUND && strcmp(e.reason, "template_not_found") == 0);
	fake_custom_status = TMPL_BUILDING;
	cr_expect(sandbox_create(mgr, &team, &s, on_answer, &a, &e) < 0);
	cr_expect(e.kind == ERR_NOT_READY && strcmp(e.reason, "template_not_ready") == 0);
	fake_custom_status = TMPL_READY;
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0, "%s", e.msg);
	sandboxes_each_of_template(mgr, FAKE_CUSTOM, count_use, &n);
	cr_expect(n == 1, "one that is being created uses it already");
	cr_assert(spin(&a.done, 2000));
	s.template_name = "tmpl_01M81S2M166ME1AWBYGY0EJ8DT";
	cr_expect(sandbox_create(mgr, &team, &s, on_answer, &b, &e) < 0 && e.kind == ERR_NOT_FOUND);
	cr_assert(sandbox_terminate(mgr, &team, a.row.id, on_answer, &b, &e) == 0);
	cr_assert(spin(&b.done, 2000));
	sandboxes_each_of_template(mgr, FAKE_CUSTOM, count_use, &n);
	cr_expect(n == 1, "and one that has ended does not");
}

Test(sandbox_small, host_capacity, .fini = tear_down, .timeout = 30)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 }, b = { 0 };
	struct err e = ERR_INIT;

	make_manager(1, 0);
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0);
	cr_expect(sandbox_create(mgr, &team, &s, on_answer, &b, &e) < 0 && e.kind == ERR_CAPACITY);
	cr_assert(spin(&a.done, 2000));
}

/* Every step of a create fails once; each time everything is undone and the caller is told once. */
Test(sandbox, failed_steps_are_undone)
{
	static const struct {
		const char *step;
		bool sync, row;
	} table[] = {
		{ "insert:creating", true, false }, { "folder", true, true },
		{ "cgroup", true, true },	    { "spawn", true, true },
		{ "spawned", false, true },	    { "connect", false, true },
		{ "ready", false, true },	    { "update:running", false, true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct sandbox_spec s = spec_default();
		struct answer a = { 0 };
		struct err e = ERR_INIT;
		size_t rows_before = n_rows;
		struct sandboxes_counts k;
		int r;

		fail_step = table[i].step;
		r = sandbox_create(mgr, &team, &s, on_answer, &a, &e);
		cr_expect((r < 0) == table[i].sync, "%s", table[i].step);
		if (!table[i].sync)
			cr_assert(spin(&a.done, 2000), "%s", table[i].step);
		spin_for(30);
		cr_expect(a.calls == !table[i].sync, "%s: called %u times", table[i].step, a.calls);
		cr_expect(strstr(table[i].sync ? e.msg : a.e.msg, "failed"), "%s: %s", table[i].step, a.e.msg);
		cr_expect(n_rows - rows_before == table[i].row, "%s", table[i].step);
		if (table[i].row) {
			cr_expect(rows[n_rows - 1].status == SANDBOX_FAILED, "%s", table[i].step);
			cr_expect(rows[n_rows - 1].failure && strstr(rows[n_rows - 1].failure, "failed"), "%s",
				  table[i].step);
			cr_expect_str_eq(rows[n_rows - 1].termination_reason, "failed");
		}
		cr_expect(count_names(cgroups) == 0 && count_names(folders) == 0 && inits_live == 0, "%s",
			  table[i].step);
		sandboxes_count(mgr, &k);
		cr_expect(k.live == 0, "%s", table[i].step);
	}
	fail_step = "";
}

Test(sandbox, terminate_while_creating)
{
	/* 0: before the keeper answers, 1: while init sets up */
	for (int when = 0; when < 2; when++) {
		struct sandbox_spec s = spec_default();
		struct answer a = { 0 }, b = { 0 }, c = { 0 };
		struct err e = ERR_INIT;
		char id[SANDBOX_ID_SIZE];

		init_silent = when == 1;
		cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0);
		if (when == 1)
			spin_for(20);
		(void)snprintf(id, sizeof(id), "%s", rows[n_rows - 1].id);
		cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &b, &e) == 0);
		cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &c, &e) == 0);
		cr_assert(spin(&a.done, 2000) && spin(&b.done, 2000) && spin(&c.done, 2000));
		spin_for(20);
		cr_expect(a.calls == 1 && b.calls == 1 && c.calls == 1);
		cr_expect(a.e.kind == ERR_NOT_READY && b.e.kind == ERR_NONE && c.e.kind == ERR_NONE);
		cr_expect(b.row.status == SANDBOX_TERMINATED);
		cr_expect_str_eq(b.row.termination_reason, "user");
		cr_expect(count_names(cgroups) == 0 && count_names(folders) == 0 && inits_live == 0);
	}
}

Test(sandbox, terminate_is_idempotent)
{
	char id[SANDBOX_ID_SIZE];
	struct answer a = { 0 }, b = { 0 }, c = { 0 };
	struct err e = ERR_INIT;
	int64_t when;

	create_running(id, NULL);
	cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &a, &e) == 0);
	cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &b, &e) == 0);
	cr_assert(spin(&a.done, 2000) && spin(&b.done, 2000));
	when = a.row.terminated_ms;
	cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &c, &e) == 0);
	cr_expect(c.calls == 0, "answered from inside the call");
	cr_assert(spin(&c.done, 2000));
	cr_expect(a.calls == 1 && b.calls == 1 && c.calls == 1);
	cr_expect(c.row.status == SANDBOX_TERMINATED && c.row.terminated_ms == when);
	cr_expect(count_in(trace.p, "update:terminated") == 1);
}

Test(sandbox, others_see_nothing)
{
	static const char *const ids[] = { "",
					   "sbx_",
					   "nope",
					   "sbx_0000000000000000000000000X",
					   "sbx_00000000000000000000000000000000000000000000000000",
					   NULL };
	char id[SANDBOX_ID_SIZE];
	struct sandbox_row row;
	struct answer a = { 0 };
	struct err e;

	create_running(id, NULL);
	for (int over = 0; over < 2; over++) {
		const char *const *p = ids;

		for (const char *one = id; one; one = *p++) {
			e = ERR_INIT;
			cr_expect(sandbox_get(mgr, &freebie, one, &row, &e) < 0 && e.kind == ERR_NOT_FOUND, "%s", one);
			cr_expect_str_eq(e.reason, "sandbox_not_found");
			e = ERR_INIT;
			cr_expect(sandbox_terminate(mgr, &freebie, one, on_answer, &a, &e) < 0 &&
				  e.kind == ERR_NOT_FOUND);
			e = ERR_INIT;
			cr_expect(sandbox_root(mgr, &freebie, one, &e) < 0 && e.kind == ERR_NOT_FOUND);
		}
		if (over)
			break;
		cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &a, &e) == 0);
		cr_assert(spin(&a.done, 2000));
		a.calls = 0;
	}
	cr_expect(a.calls == 0);
}

Test(sandbox, root_and_get)
{
	char id[SANDBOX_ID_SIZE];
	struct sandbox_row row = { 0 };
	struct answer a = { 0 };
	struct err e = ERR_INIT;
	int fd;

	create_running(id, NULL);
	fd = sandbox_root(mgr, &team, id, &e);
	cr_assert(fd >= 0);
	cr_expect((fcntl(fd, F_GETFL) & O_PATH) && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
	(void)close(fd);
	cr_assert(sandbox_get(mgr, &team, id, &row, &e) == 0);
	cr_expect(row.status == SANDBOX_RUNNING && strcmp(row.id, id) == 0);
	sandbox_row_clear(&row);
	cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &a, &e) == 0);
	cr_expect(sandbox_root(mgr, &team, id, &e) < 0 && e.kind == ERR_NOT_READY);
	cr_assert(spin(&a.done, 2000));
	cr_expect(sandbox_root(mgr, &team, id, &e) < 0 && e.kind == ERR_NOT_READY);
	cr_expect_str_eq(e.reason, "sandbox_not_ready");
	cr_assert(sandbox_get(mgr, &team, id, &row, &e) == 0);
	cr_expect(row.status == SANDBOX_TERMINATED);
	sandbox_row_clear(&row);
}

Test(sandbox, deadline)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 };
	struct sandboxes_counts k;
	struct err e = ERR_INIT;

	s.timeout_s = 1;
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 2000));
	spin_for(700);
	cr_expect(row_of(a.row.id)->status == SANDBOX_RUNNING);
	spin_for(500);
	cr_expect(row_of(a.row.id)->status == SANDBOX_TERMINATED);
	cr_expect_str_eq(row_of(a.row.id)->termination_reason, "timeout");
	cr_expect(row_of(a.row.id)->terminated_ms >= row_of(a.row.id)->expires_ms);
	sandboxes_count(mgr, &k);
	cr_expect(k.live == 0 && k.created == 1 && k.terminated == 1 && k.failed == 0);
}

/* How an init can go without being asked, and what the row then says. */
Test(sandbox, unasked_ends)
{
	static const struct {
		bool lost_first, died, oom;
		int status;
		const char *reason;
	} table[] = {
		{ false, true, false, SIGKILL, "failed" }, { false, true, true, SIGKILL, "oom" },
		{ false, true, true, 1 << 8, "failed" },   { true, true, false, SIGKILL, "failed" },
		{ true, true, true, SIGKILL, "oom" },	   { true, false, false, SIGKILL, "failed" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char id[SANDBOX_ID_SIZE];
		struct init *in;

		create_running(id, NULL);
		in = last_init;
		if (table[i].oom)
			oom_kills++;
		died_status = table[i].status;
		if (table[i].lost_first)
			in->ev.lost(in->ev.arg, "it closed its socket");
		if (table[i].died)
			keeper_say_died((void *)(uintptr_t)(n_spawned - 1));
		spin_for(30);
		cr_expect(row_of(id)->status == SANDBOX_TERMINATED, "%zu", i);
		cr_expect_str_eq(row_of(id)->termination_reason, table[i].reason, "%zu: %s", i,
				 row_of(id)->termination_reason);
		cr_expect(row_of(id)->failure != NULL, "%zu", i);
		oom_kills = 0;
	}
}

Test(sandbox, init_dies_while_creating)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	init_silent = true;
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0);
	spin_for(20);
	keeper_say_died((void *)0);
	cr_assert(spin(&a.done, 1000));
	cr_expect(a.calls == 1 && a.e.kind == ERR_INTERNAL);
	cr_expect(rows[0].status == SANDBOX_FAILED);
}

Test(sandbox, keeper_lost)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 }, b = { 0 };
	struct err e = ERR_INIT;
	char id[SANDBOX_ID_SIZE];

	create_running(id, NULL);
	/* One that runs, one that the keeper was just asked for, and its answer comes late. */
	keeper_silent = true;
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0);
	kev.lost(kev.arg);
	cr_assert(spin(&a.done, 1000));
	cr_expect(a.calls == 1 && a.e.kind == ERR_UNAVAILABLE);
	cr_expect(row_of(id)->status == SANDBOX_TERMINATED);
	cr_expect_str_eq(row_of(id)->termination_reason, "failed");
	cr_expect(sandbox_create(mgr, &team, &s, on_answer, &b, &e) < 0 && e.kind == ERR_UNAVAILABLE);
	spin_for(50);
	keeper_answer((void *)(uintptr_t)1);
	spin_for(20);
	cr_expect(a.calls == 1);
}

Test(sandbox, a_keeper_that_says_nothing_is_not_waited_for)
{
	char id[SANDBOX_ID_SIZE];
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	create_running(id, NULL);
	keeper_deaf = true;
	cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &a, &e) == 0);
	spin_for(3000);
	cr_expect(!a.done);
	cr_expect(strstr(trace.p, "cgroup_kill"));
	cr_assert(spin(&a.done, 9000));
	cr_expect(a.row.status == SANDBOX_TERMINATED);
	/* Word that comes after all changes nothing. */
	keeper_say_died((void *)0);
	spin_for(20);
	cr_expect(a.calls == 1);
}

Test(sandbox, template_cache)
{
	struct sandbox_spec s = spec_default();
	char path[128];
	struct answer a;
	struct err e = ERR_INIT;
	int fd;

	(void)snprintf(path, sizeof(path), "%s/templates", state_dir);
	cr_assert(mkdir(path, 0700) == 0);
	(void)snprintf(path, sizeof(path), "%s/templates/python-3.12.json", state_dir);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert(fd >= 0);
	for (int i = 0; i < 6; i++) {
		a = (struct answer){ 0 };
		if (i == 3)
			cr_assert(write(fd, "x", 1) == 1); /* rebuilt */
		cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0);
		cr_assert(spin(&a.done, 2000));
		cr_expect(template_loads == (i < 3 ? 1u : 2u), "%d: %u", i, template_loads);
	}
	cr_expect(template_live == 1, "the old one is kept");
	(void)close(fd);
	cr_assert(unlink(path) == 0);
	(void)snprintf(path, sizeof(path), "%s/templates", state_dir);
	cr_assert(rmdir(path) == 0);
}

static void add_row(const char *id, const char *slot, enum sandbox_status status)
{
	struct sandbox_row *r = &rows[n_rows++];

	*r = (struct sandbox_row){ .status = status };
	(void)snprintf(r->id, sizeof(r->id), "%s", id);
	(void)snprintf(r->slot, sizeof(r->slot), "%s", slot);
	(void)snprintf(r->account, sizeof(r->account), "%s", team.id);
	r->template_name = strdup("python-3.12");
}

Test(sandbox, sweep)
{
	struct answer a = { 0 };
	struct err e = ERR_INIT;
	char path[128];

	add_row("sbx_A", "s-a", SANDBOX_RUNNING);
	add_row("sbx_B", "s-b", SANDBOX_CREATING);
	add_row("sbx_C", "s-c", SANDBOX_TERMINATED);
	add_row("sbx_D", "s-d", SANDBOX_TERMINATING);
	add_name(cgroups, "s-a");
	add_name(cgroups, "s-unknown");
	add_name(folders, "s-a");
	add_name(folders, "s-b");
	busy_removes = 2;
	cr_assert(sandboxes_sweep(mgr, &e) == 0);
	cr_expect(count_names(cgroups) == 0 && count_names(folders) == 0);
	for (size_t i = 0; i < 4; i++) {
		cr_expect(rows[i].status == (i == 2 ? SANDBOX_TERMINATED : SANDBOX_FAILED));
		cr_expect((rows[i].failure != NULL) == (i != 2));
		cr_expect_str_eq(rows[i].termination_reason, i == 2 ? "" : "failed");
	}
	/* A row of an earlier run can be terminated, and is what it was. */
	cr_assert(sandbox_terminate(mgr, &team, "sbx_A", on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 1000));
	cr_expect(a.row.status == SANDBOX_FAILED);
	spin_for(600);
	(void)snprintf(path, sizeof(path), "%s/emptied", state_dir);
	cr_expect(access(path, F_OK) == 0, "no worker emptied the trash");
}

/* A row whose last write failed must not claim to run for ever. */
Test(sandbox, stale_row_is_put_right)
{
	struct sandbox_row row = { 0 };
	struct err e = ERR_INIT;

	add_row("sbx_A", "s-a", SANDBOX_RUNNING);
	cr_assert(sandbox_get(mgr, &team, "sbx_A", &row, &e) == 0);
	cr_expect(row.status == SANDBOX_FAILED && row.terminated_ms > 0);
	cr_expect(rows[0].status == SANDBOX_FAILED);
	sandbox_row_clear(&row);
}

Test(sandbox, full_disk_does_not_keep_a_sandbox_alive)
{
	char id[SANDBOX_ID_SIZE];
	struct answer a = { 0 };
	struct sandbox_row row = { 0 };
	struct err e = ERR_INIT;

	create_running(id, NULL);
	fail_step = "update:terminated";
	cr_assert(sandbox_terminate(mgr, &team, id, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 1000));
	cr_expect(a.row.status == SANDBOX_TERMINATED);
	fail_step = "";
	cr_expect(row_of(id)->status == SANDBOX_TERMINATING, "there was no room for more");
	cr_assert(sandbox_get(mgr, &team, id, &row, &e) == 0);
	cr_expect(row.status == SANDBOX_TERMINATED);
	cr_expect_str_eq(row.termination_reason, "user");
	sandbox_row_clear(&row);
	sandboxes_kick_trash(mgr); /* makes room */
	for (int i = 0; i < 100 && row_of(id)->status != SANDBOX_TERMINATED; i++)
		spin_for(20);
	cr_expect(row_of(id)->status == SANDBOX_TERMINATED);
}

Test(sandbox, shutdown_ends_all_and_refuses_more)
{
	struct sandbox_spec s = spec_default();
	struct answer a[4] = { 0 }, b = { 0 };
	struct err e = ERR_INIT;

	for (int i = 0; i < 3; i++)
		cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a[i], &e) == 0);
	cr_assert(spin(&a[2].done, 2000));
	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a[3], &e) == 0);
	sandboxes_shutdown(mgr, false, on_stopped, NULL);
	cr_expect(sandbox_create(mgr, &team, &s, on_answer, &b, &e) < 0 && e.kind == ERR_CAPACITY);
	cr_assert(spin(&stopped, 5000));
	stopped = false; /* tear_down stops once more */
	cr_expect(a[3].calls == 1 && a[3].e.kind == ERR_NOT_READY);
	for (size_t i = 0; i < n_rows; i++) {
		cr_expect(rows[i].status == SANDBOX_TERMINATED);
		cr_expect_str_eq(rows[i].termination_reason, "user");
	}
}

static void set_up_impatient(void)
{
	fake_stop_trash_ms = 20;
	make_manager(20, 0);
}

TestSuite(big_trash, .init = set_up_impatient, .fini = tear_down, .timeout = 30);

/* With a trash that never gets empty a stop ends all the same. */
Test(big_trash, is_left_behind)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 };
	struct err e = ERR_INIT;
	struct stat st;
	int fd;

	cr_assert(sandbox_create(mgr, &team, &s, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 2000));
	fd = openat(state_fd, "hold", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert(fd >= 0 && close(fd) == 0);
	sandboxes_shutdown(mgr, false, on_stopped, NULL);
	cr_assert(spin(&stopped, 10000), "it waits for the trash");
	stopped = false; /* tear_down stops once more */
	cr_expect(fstatat(state_fd, "emptied", &st, 0) < 0);
	cr_expect(n_rows == 1 && rows[0].status == SANDBOX_TERMINATED);
	cr_assert(unlinkat(state_fd, "hold", 0) == 0);
}

static void set_up_pool(void)
{
	make_manager(20, 2);
	sandboxes_start(mgr);
	spin_for(100);
}

TestSuite(pool, .init = set_up_pool, .fini = tear_down, .timeout = 30);

static uint32_t warm_now(void)
{
	struct sandboxes_counts k;

	sandboxes_count(mgr, &k);
	return k.warm;
}

Test(pool, a_create_takes_a_parked_one)
{
	static const char taken[] = "insert:creating limits connect update:running";
	struct sandbox_row *row;
	char id[SANDBOX_ID_SIZE];

	cr_assert(warm_now() == 2 && n_spawned == 2);
	cr_expect_str_eq(trace.p, "folder cgroup spawn folder cgroup spawn");
	buf_reset(&trace);
	create_running(id, NULL);
	/* On a busy machine the pool is filled up again by now. */
	cr_expect(strncmp(trace.p, taken, strlen(taken)) == 0, "%s", trace.p);
	cr_expect(n_spawned > 2 || last_limits.memory_bytes == 2048ull << 20, "it kept the limits of a parked one");
	row = row_of(id);
	cr_expect(strcmp(row->slot, spawned[0].slot) == 0 || strcmp(row->slot, spawned[1].slot) == 0);
	spin_for(100);
	cr_expect(warm_now() == 2 && n_spawned == 3, "it isn't refilled");
}

Test(pool, a_parked_one_that_dies_is_let_go)
{
	char id[SANDBOX_ID_SIZE];

	keeper_say_died((void *)0);
	spin_for(50);
	cr_expect(warm_now() == 1 && count_names(cgroups) == 1 && count_names(folders) == 1);
	create_running(id, NULL);
	create_running(id, NULL);
}

/* Whatever fails once a parked one was taken, it doesn't go back, and nothing is left of it. */
Test(pool, failed_steps_are_undone)
{
	static const char *const steps[] = { "insert:creating", "limits", "connect", "ready", "update:running" };

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct sandbox_spec s = spec_default();
		struct answer a = { 0 };
		struct err e = ERR_INIT;
		int r;

		cr_assert(warm_now() == 2);
		fail_step = steps[i];
		r = sandbox_create(mgr, &team, &s, on_answer, &a, &e);
		cr_expect((r < 0) == (i == 0), "%s", steps[i]);
		cr_expect(a.calls == 0, "%s: answered from inside the call", steps[i]);
		spin_for(100);
		cr_expect(a.calls == (i > 0), "%s", steps[i]);
		cr_expect(strstr(i ? a.e.msg : e.msg, "failed"), "%s: %s", steps[i], a.e.msg);
		cr_expect(warm_now() == 2 && count_names(cgroups) == 2 && count_names(folders) == 2 && inits_live == 0,
			  "%s", steps[i]);
	}
	fail_step = "";
}

Test(pool, keeper_lost)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	kev.lost(kev.arg);
	spin_for(50);
	cr_expect(warm_now() == 0 && count_names(cgroups) == 0 && count_names(folders) == 0);
	cr_expect(sandbox_create(mgr, &team, &s, on_answer, &a, &e) < 0 && e.kind == ERR_UNAVAILABLE);
}
