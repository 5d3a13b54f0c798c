/* Pause and resume as a state machine: what is written when, what a failure leaves. */
#include "tests/unit/sandbox_fakes.h"

static char box[SANDBOX_ID_SIZE];

static void pause_start(struct answer *a, struct err *e)
{
	*a = (struct answer){ 0 };
	*e = ERR_INIT;
	(void)sandbox_pause(mgr, &team, box, on_answer, a, e);
}

static void paused(void)
{
	struct answer a;
	struct err e;

	pause_start(&a, &e);
	cr_assert(e.kind == ERR_NONE, "%s", e.msg);
	cr_assert(a.calls == 0, "answered from inside the call");
	cr_assert(spin(&a.done, 3000));
	cr_assert(a.calls == 1 && a.e.kind == ERR_NONE, "%s", a.e.msg);
	cr_assert(a.row.status == SANDBOX_PAUSED && a.row.paused_ms > 0);
	cr_assert(snapshot_there(box));
}

static void resumed(void)
{
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	cr_assert(sandbox_resume(mgr, &team, box, on_answer, &a, &e) == 0, "%s", e.msg);
	cr_assert(a.calls == 0, "answered from inside the call");
	cr_assert(spin(&a.done, 3000));
	cr_assert(a.e.kind == ERR_NONE && a.row.status == SANDBOX_RUNNING && a.row.paused_ms == 0, "%s", a.e.msg);
	cr_assert(!snapshot_there(box));
}

static enum sandbox_status status_now(void)
{
	struct sandbox_row row = { 0 };
	enum sandbox_status s;

	cr_assert(sandbox_get(mgr, &team, box, &row, NULL) == 0);
	s = row.status;
	sandbox_row_clear(&row);
	return s;
}

TestSuite(pause, .init = set_up, .fini = tear_down, .timeout = 30);

Test(pause, there_and_back)
{
	create_running(box, NULL);
	paused();
	resumed();
	paused();
	/* Each row is there before what relies on it. */
	cr_assert(strstr(trace.p, "update:pausing update:paused update:running thaw discard update:pausing"), "%s",
		  trace.p);
}

Test(pause, again_is_the_same_and_pausing_is_busy)
{
	struct answer a, b = { 0 };
	struct err e;

	create_running(box, NULL);
	snapshot_takes_ms = 100;
	pause_start(&a, &e);
	cr_assert(sandbox_pause(mgr, &team, box, on_answer, &b, &e) < 0 && e.kind == ERR_NOT_READY);
	cr_assert(sandbox_resume(mgr, &team, box, on_answer, &b, &e) < 0 && e.kind == ERR_NOT_READY);
	cr_assert(sandbox_root(mgr, &team, box, &e) < 0 && e.kind == ERR_NOT_READY);
	cr_assert(spin(&a.done, 3000));
	pause_start(&b, &e);
	cr_assert(e.kind == ERR_NONE && spin(&b.done, 1000) && b.row.status == SANDBOX_PAUSED);
}

static const struct {
	const char *step;
	enum err_kind kind;
} failures[] = {
	{ "freeze", ERR_IO }, { "snapshot", ERR_FULL }, { "update:paused", ERR_IO }, { "update:pausing", ERR_IO }
};

Test(pause, a_failure_leaves_it_running)
{
	struct answer a;
	struct err e;

	create_running(box, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(failures); i++) {
		fail_step = failures[i].step;
		pause_start(&a, &e);
		if (e.kind == ERR_NONE) {
			cr_assert(spin(&a.done, 3000), "%s", fail_step);
			e = a.e;
		}
		cr_expect(e.kind == failures[i].kind, "%s: %s", fail_step, e.msg);
		fail_step = "";
		cr_expect(status_now() == SANDBOX_RUNNING, "%s", failures[i].step);
		cr_expect(!snapshot_there(box), "%s", failures[i].step);
	}
	paused();
}

Test(pause, a_thaw_that_fails_leaves_it_paused)
{
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	create_running(box, NULL);
	paused();
	fail_step = "thaw";
	cr_assert(sandbox_resume(mgr, &team, box, on_answer, &a, &e) < 0 && e.kind == ERR_IO);
	fail_step = "update:running";
	cr_assert(sandbox_resume(mgr, &team, box, on_answer, &a, &e) < 0 && e.kind == ERR_IO);
	fail_step = "";
	cr_assert(status_now() == SANDBOX_PAUSED && snapshot_there(box));
	resumed();
}

Test(pause, nothing_to_freeze_with)
{
	struct answer a;
	struct err e;

	create_running(box, NULL);
	features.freeze = false;
	pause_start(&a, &e);
	cr_assert(e.kind == ERR_UNSUPPORTED && strcmp(e.reason, "pause_unsupported") == 0);
	features.freeze = true;
}

Test(pause, ended_while_pausing)
{
	struct answer a, b = { 0 };
	struct err e;

	create_running(box, NULL);
	snapshot_takes_ms = 150;
	pause_start(&a, &e);
	spin_for(30);
	cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &b, &e) == 0);
	cr_assert(spin(&b.done, 3000) && b.row.status == SANDBOX_TERMINATED);
	cr_assert(a.done && a.e.kind == ERR_NOT_READY);
	spin_for(300);
	cr_assert(!snapshot_there(box));
}

Test(pause, a_paused_one_whose_processes_die_is_resumed_from_its_disk)
{
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	create_running(box, NULL);
	paused();
	keeper_say_died((void *)0);
	spin_for(20);
	cr_assert(status_now() == SANDBOX_PAUSED);
	cr_assert(sandbox_resume(mgr, &team, box, on_answer, &a, &e) < 0 && strcmp(e.reason, "snapshot_damaged") == 0);
	(void)snprintf(snapshot_saved.id, sizeof(snapshot_saved.id), "%s", box);
	(void)snprintf(snapshot_saved.template_name, sizeof(snapshot_saved.template_name), "python-3.12");
	fail_step = "unpack";
	cr_assert(sandbox_resume(mgr, &team, box, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 3000) && a.e.kind == ERR_UNAVAILABLE);
	cr_assert(status_now() == SANDBOX_PAUSED && snapshot_there(box));
	fail_step = "ready";
	a = (struct answer){ 0 };
	cr_assert(sandbox_resume(mgr, &team, box, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 3000) && a.e.kind == ERR_IO && status_now() == SANDBOX_PAUSED);
	fail_step = "";
	resumed();
	snapshot_saved.id[0] = '\0';
}

Test(pause, a_paused_one_without_processes_ends)
{
	struct answer a = { 0 };

	create_running(box, NULL);
	paused();
	keeper_say_died((void *)0);
	spin_for(20);
	cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, NULL) == 0 && a.calls == 0);
	cr_assert(spin(&a.done, 1000) && a.row.status == SANDBOX_TERMINATED && !snapshot_there(box));
}

Test(pause, caps)
{
	struct sandbox_spec s = spec_default();
	struct answer a = { 0 }, b = { 0 }, c = { 0 };
	struct err e = ERR_INIT;

	s.size = "small";
	cr_assert(sandbox_create(mgr, &freebie, &s, on_answer, &a, &e) == 0 && spin(&a.done, 2000));
	cr_assert(sandbox_pause(mgr, &freebie, a.row.id, on_answer, &b, &e) == 0 && spin(&b.done, 2000));
	cr_assert(sandbox_create(mgr, &freebie, &s, on_answer, &c, &e) == 0 && spin(&c.done, 2000));
	cr_assert(sandbox_pause(mgr, &freebie, c.row.id, on_answer, &b, &e) < 0);
	cr_assert_str_eq(e.reason, "snapshot_cap_reached");
	cr_assert(sandbox_resume(mgr, &freebie, a.row.id, on_answer, &b, &e) < 0);
	cr_assert_str_eq(e.reason, "concurrent_limit");
	(void)unlinkat(state_fd, a.row.id, 0);
}
