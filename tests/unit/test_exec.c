#include "tests/unit/sandbox_fakes.h"

#include "emulator/sandbox-internal.h"
#include "tests/unit/slow.h"

static char box[SANDBOX_ID_SIZE];

static void set_up_box(void)
{
	set_up();
	create_running(box, "{\"A\":\"sandbox\",\"B\":\"two words\"}");
}

TestSuite(exec, .init = set_up_box, .fini = tear_down, .timeout = 60);

/* What one exec gave, to done() or to its primary reader. */
struct run {
	struct exec *x;
	struct exec_reader *reader;
	unsigned int calls;
	bool done;
	struct exec_result r;
	struct buf out[2];
	size_t chunks;
	size_t stop_after; /* streaming: read no more after this many bytes; 0: never */
	bool leave_in_output;
};

static struct run run_init(void)
{
	return (struct run){ .out = { BUF_INIT(64u << 20), BUF_INIT(64u << 20) } };
}

static void run_free(struct run *k)
{
	exec_reader_free(k->reader);
	buf_free(&k->out[0]);
	buf_free(&k->out[1]);
}

static void on_done(void *arg, const struct exec_result *r)
{
	struct run *k = arg;

	k->calls++;
	k->done = true;
	k->r = *r;
	for (int i = 0; i < 2; i++)
		cr_assert(buf_add(&k->out[i], r->out[i]->p, r->out[i]->len) == 0);
}

/* Reads what there is, as far as it wants to. */
static void read_on(void *arg)
{
	struct run *k = arg;
	struct exec_event ev;

	while (k->reader && !(k->stop_after && k->out[0].len >= k->stop_after) && exec_reader_next(k->reader, &ev)) {
		cr_assert(!k->done, "an event after the end");
		cr_assert(ev.kind != EXEC_EVENT_GAP, "a gap before a primary reader");
		if (ev.kind == EXEC_EVENT_END) {
			k->calls++;
			k->done = true;
			k->r = *ev.result;
			return;
		}
		cr_assert(buf_add(&k->out[ev.stream], ev.p, ev.n) == 0);
		k->chunks++;
		if (k->leave_in_output)
			exec_reader_free(TAKE_PTR(k->reader));
	}
}

static int start(struct run *k, const struct exec_spec *s, bool stream, struct err *e)
{
	const struct exec_events ev = { .done = on_done, .arg = k };
	const struct exec_reader_config c = { .primary = true, .wake = read_on, .arg = k };
	struct exec_spec spec = *s;
	int r;

	spec.streamed = stream;
	r = exec_start(mgr, &team, box, &spec, stream ? NULL : &ev, &k->x, e);
	if (r >= 0 && stream)
		r = exec_reader_new(k->x, &c, &k->reader, e);
	cr_assert(k->calls == 0, "answered from inside the call");
	return r;
}

static void run_spec(struct run *k, const struct exec_spec *s, bool stream, uint64_t ms)
{
	struct err e = ERR_INIT;

	cr_assert(start(k, s, stream, &e) == 0, "%s", e.msg);
	cr_assert(spin(&k->done, ms), "it doesn't end: %s", s->command);
	cr_assert(k->calls == 1);
}

static const char *text(const struct buf *b)
{
	return b->p ? b->p : "";
}

Test(exec, results_table)
{
	static const struct {
		const char *command, *out, *err;
		enum exec_reason reason;
		int code, signal;
	} table[] = {
		{ "true", "", "", EXEC_EXITED, 0, 0 },
		{ "echo hello", "hello\n", "", EXEC_EXITED, 0, 0 },
		{ "echo bad >&2; exit 3", "", "bad\n", EXEC_EXITED, 3, 0 },
		{ "printf 'a\\000b'; printf c >&2", NULL, "c", EXEC_EXITED, 0, 0 },
		{ "exit 255", "", "", EXEC_EXITED, 255, 0 },
		{ "kill -9 $$", "", "", EXEC_SIGNAL, 137, 9 },
		{ "kill -TERM $$", "", "", EXEC_SIGNAL, 143, 15 },
		{ "cat", "", "", EXEC_EXITED, 0, 0 }, /* stdin is empty */
		{ "echo $A-$B-$HOME-$USER-$SHELL-$LANG-$TERM", "sandbox-two words-/root-root-/bin/sh-C.UTF-8-dumb\n",
		  "", EXEC_EXITED, 0, 0 },
		{ "echo x >/dev/stderr; echo y >/dev/stdout", "y\n", "x\n", EXEC_EXITED, 0, 0 },
		{ "pwd", "/\n", "", EXEC_EXITED, 0, 0 }, /* no /workspace here */
		{ "(sleep 0.05; echo late) & wait; echo now", "late\nnow\n", "", EXEC_EXITED, 0, 0 },
	};

	for (int stream = 0; stream < 2; stream++)
		for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
			struct exec_spec s = { .command = table[i].command };
			struct run k = run_init();

			run_spec(&k, &s, stream, 3000);
			cr_expect(k.r.reason == table[i].reason, "%s: %s", s.command, exec_reason_name(k.r.reason));
			cr_expect(k.r.exit_code == table[i].code && k.r.signal == table[i].signal, "%s: %d %d",
				  s.command, k.r.exit_code, k.r.signal);
			if (table[i].out)
				cr_expect_str_eq(text(&k.out[0]), table[i].out, "%s: %s", s.command, text(&k.out[0]));
			else
				cr_expect(k.out[0].len == 3 && memcmp(k.out[0].p, "a\0b", 3) == 0);
			cr_expect_str_eq(text(&k.out[1]), table[i].err, "%s: %s", s.command, text(&k.out[1]));
			cr_expect(!k.r.truncated[0] && !k.r.truncated[1] && k.r.duration_ms < slow_ms(3000));
			run_free(&k);
		}
}

Test(exec, argv_env_and_cwd)
{
	static const char *const argv[] = {
		"/bin/sh", "-c", "echo \"$1|$A|$B|$C|$PATH|$(pwd)\"", "sh", "a b $C", NULL
	};
	struct exec_spec s = { .argv = argv,
			       .env = "{\"B\":\"mine\",\"C\":\"\xc3\xa9=1\",\"PATH\":\"/bin\"}",
			       .cwd = "/usr/../usr/bin" };
	struct run k = run_init();

	run_spec(&k, &s, false, 3000);
	cr_expect_str_eq(text(&k.out[0]), "a b $C|sandbox|mine|\xc3\xa9=1|/bin|/usr/bin\n", "%s", text(&k.out[0]));
	run_free(&k);
}

Test(exec, not_started)
{
	static const struct {
		const char *program, *says;
		int code;
	} table[] = {
		{ "/no/such/program", "orkestr: /no/such/program: No such file or directory\n", 127 },
		{ "/etc/passwd/x", "orkestr: /etc/passwd/x: Not a directory\n", 127 },
		{ "/etc/passwd", "orkestr: /etc/passwd: Permission denied\n", 126 },
	};

	for (int stream = 0; stream < 2; stream++)
		for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
			const char *const argv[] = { table[i].program, NULL };
			struct exec_spec s = { .argv = argv };
			struct run k = run_init();

			run_spec(&k, &s, stream, 3000);
			cr_expect(k.r.reason == EXEC_EXITED && k.r.exit_code == table[i].code, "%zu: %d", i,
				  k.r.exit_code);
			cr_expect_str_eq(text(&k.out[1]), table[i].says, "%s", text(&k.out[1]));
			run_free(&k);
		}
}

Test(exec, refusals)
{
	static const char *const none[] = { NULL };
	static const struct {
		struct exec_spec s;
		enum err_kind kind;
		const char *reason;
	} table[] = {
		{ { 0 }, ERR_INVALID, "" },
		{ { .argv = none }, ERR_INVALID, "" },
		{ { .command = "true", .cwd = "/no/such" }, ERR_INVALID, "path_invalid" },
		{ { .command = "true", .cwd = "relative" }, ERR_INVALID, "path_invalid" },
		{ { .command = "true", .cwd = "" }, ERR_INVALID, "path_invalid" },
		{ { .command = "true", .cwd = "/etc/passwd" }, ERR_INVALID, "path_invalid" },
		{ { .command = "true", .cwd = "/proc/self/root/etc" }, ERR_INVALID, "path_invalid" },
		{ { .command = "true", .env = "{\"A\":1}" }, ERR_INVALID, "" },
		{ { .command = "true", .env = "null" }, ERR_INVALID, "" },
		{ { .command = "true", .env = "{} x" }, ERR_INVALID, "" },
		{ { .command = "true", .timeout_s = 3601 }, ERR_INVALID, "" },
	};
	struct exec_spec ok = { .command = "true" };
	struct run k = run_init();
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		e = ERR_INIT;
		cr_expect(start(&k, &table[i].s, false, &e) < 0, "%zu", i);
		cr_expect(e.kind == table[i].kind, "%zu: %s", i, e.msg);
		cr_expect_str_eq(e.reason ? e.reason : "", table[i].reason, "%zu", i);
	}
	fail_step = "start";
	cr_expect(start(&k, &ok, false, &e) < 0 && e.kind == ERR_IO);
	fail_step = "";
	spin_for(50);
	cr_expect(k.calls == 0);
}

Test(exec, wrong_state_or_owner)
{
	struct exec_spec s = { .command = "true" };
	struct run k = run_init();
	const struct exec_events ev = { .done = on_done, .arg = &k };
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	cr_expect(exec_start(mgr, &freebie, box, &s, &ev, &k.x, &e) < 0 && e.kind == ERR_NOT_FOUND);
	cr_expect(exec_start(mgr, &team, "sbx_nope", &s, &ev, &k.x, &e) < 0 && e.kind == ERR_NOT_FOUND);
	cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, &e) == 0);
	cr_expect(exec_start(mgr, &team, box, &s, &ev, &k.x, &e) < 0 && e.kind == ERR_NOT_READY);
	cr_assert(spin(&a.done, 1000));
	cr_expect(exec_start(mgr, &team, box, &s, &ev, &k.x, &e) < 0 && e.kind == ERR_NOT_READY);
	cr_expect_str_eq(e.reason, "sandbox_not_ready");
	cr_expect(k.calls == 0);
}

Test(exec, stdin_sizes)
{
	static const size_t sizes[] = { 0, 1, 4096, 4097, 65536, 65537, 5u << 20 };
	struct buf data = BUF_INIT(8u << 20);
	char *p;

	cr_assert(buf_reserve(&data, 5u << 20, &p) == 0);
	for (size_t i = 0; i < 5u << 20; i++)
		p[i] = (char)(i * 7 + i / 251);
	buf_commit(&data, 5u << 20);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct exec_spec s = { .command = "cat", .stdin_data = data.p, .stdin_len = sizes[i] };
		struct run k = run_init();

		run_spec(&k, &s, i % 2, 10000);
		cr_expect(k.out[0].len == sizes[i], "%zu: %zu", sizes[i], k.out[0].len);
		cr_expect(sizes[i] == 0 || memcmp(k.out[0].p, data.p, sizes[i]) == 0);
		run_free(&k);
	}
	/* A command that doesn't read it all, or none. */
	for (int i = 0; i < 2; i++) {
		struct exec_spec s = { .command = i ? "head -c 10 | wc -c" : "exec 0<&-; sleep 0.1; echo 10",
				       .stdin_data = data.p,
				       .stdin_len = data.len };
		struct run k = run_init();

		run_spec(&k, &s, false, 3000);
		cr_expect_str_eq(text(&k.out[0]), "10\n");
		cr_expect(k.r.exit_code == 0);
		run_free(&k);
	}
	buf_free(&data);
}

Test(exec, large_output_keeps_head_and_tail)
{
	/* 24 MiB of numbered lines of 16 bytes each */
	struct exec_spec s = { .command = "awk 'BEGIN{for(i=0;i<1572864;i++) printf \"%015d\\n\", i}'",
			       .timeout_s = 50 };
	struct run k = run_init();
	const char *mark = "\n[... 8388608 bytes left out ...]\n";
	size_t half = EXEC_OUTPUT_MAX / 2;

	run_spec(&k, &s, false, 50000);
	cr_expect(k.r.truncated[0] && !k.r.truncated[1]);
	cr_assert(k.out[0].len == EXEC_OUTPUT_MAX + strlen(mark), "%zu", k.out[0].len);
	cr_expect(memcmp(k.out[0].p, "000000000000000\n", 16) == 0);
	cr_expect(memcmp(k.out[0].p + half - 16, "000000000524287\n", 16) == 0);
	cr_expect(memcmp(k.out[0].p + half, mark, strlen(mark)) == 0);
	cr_expect(memcmp(k.out[0].p + half + strlen(mark), "000000001048576\n", 16) == 0);
	cr_expect(memcmp(k.out[0].p + k.out[0].len - 16, "000000001572863\n", 16) == 0);
	run_free(&k);
}

Test(exec, output_unit)
{
	static const size_t pieces[] = {
		1, 4095, 65536, OUTPUT_HALF, OUTPUT_HALF + 1, 2 * OUTPUT_HALF, 3 * OUTPUT_HALF + 5
	};
	char *data = malloc(4 * OUTPUT_HALF);

	cr_assert(data);
	for (size_t i = 0; i < 4 * OUTPUT_HALF; i++)
		data[i] = (char)(i ^ i >> 8 ^ i >> 16);
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		static const size_t totals[] = {
			0, 1, OUTPUT_HALF, OUTPUT_HALF + 1, 2 * OUTPUT_HALF, 2 * OUTPUT_HALF + 1, 4 * OUTPUT_HALF
		};

		for (size_t t = i == 0 ? 6 : 0; t < ARRAY_SIZE(totals); t++) {
			size_t total = i == 0 ? 1000 : totals[t],
			       lost = total > 2 * OUTPUT_HALF ? total - 2 * OUTPUT_HALF : 0;
			char mark[64] = "";
			struct output o;

			output_init(&o);
			for (size_t at = 0; at < total; at += pieces[i])
				output_add(&o, data + at, MIN(pieces[i], total - at));
			cr_expect(o.head.cap + o.tail_cap <= 4 * total + 8192, "it costs more than it holds");
			cr_expect(output_finish(&o) == (lost > 0));
			if (lost)
				(void)snprintf(mark, sizeof(mark), "\n[... %zu bytes left out ...]\n", lost);
			cr_assert(o.head.len == total - lost + strlen(mark), "%zu %zu", total, o.head.len);
			if (!lost) {
				cr_expect(total == 0 || memcmp(o.head.p, data, total) == 0);
			} else {
				cr_expect(memcmp(o.head.p, data, OUTPUT_HALF) == 0);
				cr_expect(memcmp(o.head.p + OUTPUT_HALF, mark, strlen(mark)) == 0);
				cr_expect(memcmp(o.head.p + OUTPUT_HALF + strlen(mark), data + total - OUTPUT_HALF,
						 OUTPUT_HALF) == 0);
			}
			output_free(&o);
		}
	}
	free(data);
}

/* A primary reader that stops stops the command: the log, the pipe and no more. */
Test(exec, stream_back_pressure)
{
	struct exec_spec s = { .command = "head -c 3000000 /dev/zero; echo end >&2" };
	struct run k = run_init();
	struct err e = ERR_INIT;
	uint64_t held;

	k.stop_after = 100000;
	cr_assert(start(&k, &s, true, &e) == 0);
	spin_for(slow_ms(300));
	held = info_of(k.x).bytes[0];
	cr_expect(!k.done && held >= 100000 && held < 100000 + (400u << 10), "%lu", (unsigned long)held);
	spin_for(200);
	cr_expect(info_of(k.x).running && info_of(k.x).bytes[0] == held, "it goes on reading");
	k.stop_after = 0;
	read_on(&k);
	cr_assert(spin(&k.done, 5000));
	cr_expect(k.out[0].len == 3000000 && strcmp(text(&k.out[1]), "end\n") == 0);
	cr_expect(k.r.exit_code == 0 && k.chunks > 3);
	run_free(&k);
}

/* The command has ended, its reader is slow, and loses nothing whatever else ends meanwhile. */
Test(exec, stream_slow_at_the_end)
{
	for (int how = 0; how < 3; how++) {
		struct exec_spec s = { .command = "head -c 400000 /dev/zero" };
		struct run k = run_init();
		struct answer a = { 0 };
		struct err e = ERR_INIT;

		k.stop_after = 1;
		cr_assert(start(&k, &s, true, &e) == 0);
		spin_for(300);
		cr_expect(!k.done && k.out[0].len <= SANDBOX_SCRATCH_SIZE);
		if (how == 1) { /* the sandbox */
			cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, &e) == 0);
			cr_assert(spin(&a.done, 1000));
		} else if (how == 2) { /* the emulator */
			sandboxes_shutdown(mgr, false, on_stopped, NULL);
			cr_assert(spin(&stopped, 3000));
			stopped = false;
		}
		cr_expect(!k.done);
		k.stop_after = 0;
		read_on(&k);
		cr_assert(spin(&k.done, 2000));
		cr_expect(k.out[0].len == 400000 && k.r.reason == EXEC_EXITED && k.r.exit_code == 0, "%d: %zu", how,
			  k.out[0].len);
		run_free(&k);
		if (how == 1)
			create_running(box, NULL);
	}
}

/* A background child holds the pipes: the exec ends all the same, and the child lives on. */
Test(exec, background_child)
{
	static const char *const commands[] = {
		"sleep $N & echo started",
		"(sleep $N; head -c 300000 /dev/zero; echo alive > $F) & echo started",
		("(for i in 1 2 3 4; do head -c 200000 /dev/zero; done; sleep $N; echo alive > $F) & "
		 "sleep 0.05; echo started >&2"),
	};
	uint64_t nap = slow_ms(300);
	char path[128], env[200];

	(void)snprintf(path, sizeof(path), "%s/alive", state_dir);
	(void)snprintf(env, sizeof(env), "{\"F\":\"%s\",\"N\":\"%.3f\"}", path, (double)nap / 1000);
	for (int stream = 0; stream < 2; stream++)
		for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
			struct exec_spec s = { .command = commands[i], .env = env };
			struct run k = run_init();
			uint64_t t0 = uv_hrtime();

			run_spec(&k, &s, stream, 3000);
			cr_expect((uv_hrtime() - t0) / 1000000 < nap * 9 / 10, "%s: it waits for the child",
				  commands[i]);
			cr_expect(k.r.exit_code == 0);
			cr_expect_str_eq(text(&k.out[i == 2]), "started\n");
			run_free(&k);
			cr_expect(i == 0 || spin_until(access(path, F_OK) == 0, 900), "%s: the child has died",
				  commands[i]);
			(void)unlink(path);
		}
	spin_for(nap);
}

/* A child that floods the pipe costs the daemon little. */
Test(exec, background_flood)
{
	struct exec_spec s = { .command = "yes & echo $!" };
	struct run k = run_init();
	struct answer a = { 0 };
	struct err e = ERR_INIT;
	uv_rusage_t u0, u1;
	long us;

	run_spec(&k, &s, false, 3000);
	uv_getrusage(&u0);
	spin_for(1000);
	uv_getrusage(&u1);
	us = (u1.ru_utime.tv_sec - u0.ru_utime.tv_sec + u1.ru_stime.tv_sec - u0.ru_stime.tv_sec) * 1000000 +
	     (u1.ru_utime.tv_usec - u0.ru_utime.tv_usec + u1.ru_stime.tv_usec - u0.ru_stime.tv_usec);
	cr_expect(us < (long)slow_ms(250) * 1000, "%ld us of CPU in a second", us);
	cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 1000));
	run_free(&k);
}

Test(exec, time_out)
{
	static const struct {
		const char *command, *out;
		int code;
		uint64_t from;
	} table[] = {
		{ "echo before; exec sleep 60", "before\n", 143, 1000 },
		{ "trap 'echo bye; exit 5' TERM; echo before; sleep 60 & wait", "before\nbye\n", 5, 1000 },
		{ "trap '' TERM; echo before; sleep 60; sleep 60", "before\n", 137, 2990 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct exec_spec s = { .command = table[i].command, .timeout_s = 1 };
		struct run k = run_init();

		run_spec(&k, &s, i == 1, 8000);
		cr_expect(k.r.reason == EXEC_TIMEOUT && k.r.exit_code == table[i].code, "%zu: %s %d", i,
			  exec_reason_name(k.r.reason), k.r.exit_code);
		cr_expect(k.r.duration_ms >= table[i].from && k.r.duration_ms < table[i].from + slow_ms(800),
			  "%zu: %lu", i, (unsigned long)k.r.duration_ms);
		cr_expect_str_eq(text(&k.out[0]), table[i].out);
		run_free(&k);
	}
}

/* The shell dies of SIGTERM, its child ignores it: the child is killed after the grace. */
Test(exec, time_out_reaches_the_rest_of_the_tree)
{
	struct exec_spec s = { .command = "(trap '' TERM; sleep 60; sleep 60) & wait", .timeout_s = 1 };
	struct run k = run_init();
	int st;

	/* What the shell leaves behind becomes ours to wait for. */
	cr_assert(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	run_spec(&k, &s, false, 8000);
	cr_expect(k.r.reason == EXEC_TIMEOUT && k.r.duration_ms < 1000 + slow_ms(1000));
	spin_for(300);
	cr_expect(waitpid(-last_group, &st, WNOHANG) == 0, "the test is wrong: nothing ignored SIGTERM");
	spin_for(2000);
	cr_expect(last_signal == SIGKILL);
	cr_expect(waitpid(-last_group, &st, 0) > 0 && WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
	run_free(&k);
}

/* Something that not even SIGKILL ends, as init tells it: the caller gets an answer. */
Test(exec, time_out_guard)
{
	struct exec_spec s = { .command = "echo before; exec sleep 7", .timeout_s = 1 };
	struct run k = run_init();
	struct err e = ERR_INIT;

	cr_assert(start(&k, &s, false, &e) == 0);
	children[0].id = 77; /* init signals somebody else */
	cr_assert(spin(&k.done, 7000));
	cr_expect(k.r.reason == EXEC_TIMEOUT && k.r.exit_code == 137);
	cr_expect(k.r.duration_ms >= 4990 && k.r.duration_ms < 5900);
	cr_expect_str_eq(text(&k.out[0]), "before\n");
	run_free(&k);
}

Test(exec, oom)
{
	static const struct {
		const char *command;
		unsigned int kills;
		enum exec_reason reason;
		int code;
	} table[] = {
		{ "sleep 0.2; kill -9 $$", 1, EXEC_OOM, 137 },
		{ "sleep 0.2; sh -c 'kill -9 $$'; exit $?", 1, EXEC_OOM, 137 },
		{ "sleep 0.2; kill -9 $$", 0, EXEC_SIGNAL, 137 },
		{ "sleep 0.2; exit 1", 1, EXEC_EXITED, 1 },	  /* a child was, and the command dealt with it */
		{ "sleep 0.2; kill -9 $$", 0, EXEC_SIGNAL, 137 }, /* that one was another's */
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct exec_spec s = { .command = table[i].command };
		struct run k = run_init();
		struct err e = ERR_INIT;

		cr_assert(start(&k, &s, false, &e) == 0);
		spin_for(50);
		oom_kills += table[i].kills;
		cr_assert(spin(&k.done, 3000));
		cr_expect(k.r.reason == table[i].reason && k.r.exit_code == table[i].code, "%zu: %s %d", i,
			  exec_reason_name(k.r.reason), k.r.exit_code);
		run_free(&k);
	}
}

Test(exec, sandbox_ends_meanwhile)
{
	for (int stream = 0; stream < 2; stream++) {
		struct exec_spec s = { .command = "echo before; exec sleep 60" };
		struct run k = run_init();
		struct answer a = { 0 };
		struct sandboxes_counts c;
		struct err e = ERR_INIT;

		cr_assert(start(&k, &s, stream, &e) == 0);
		(void)spin_until(info_of(k.x).bytes[0] > 0, 2000);
		sandboxes_count(mgr, &c);
		cr_expect(c.execs == 1);
		cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, &e) == 0);
		cr_assert(spin(&a.done, 1000));
		cr_expect(k.calls == 1 && k.r.reason == EXEC_TERMINATED && k.r.exit_code == 137);
		cr_expect_str_eq(text(&k.out[0]), "before\n");
		sandboxes_count(mgr, &c);
		cr_expect(c.execs == 0);
		run_free(&k);
		create_running(box, NULL);
	}
}

Test(exec, oom_of_the_sandbox_is_told_to_its_execs)
{
	struct exec_spec s = { .command = "exec sleep 60" };
	struct run k = run_init();
	struct err e = ERR_INIT;

	cr_assert(start(&k, &s, false, &e) == 0);
	spin_for(20);
	oom_kills++;
	keeper_say_died((void *)0);
	cr_assert(spin(&k.done, 1000));
	cr_expect(k.r.reason == EXEC_OOM);
	run_free(&k);
}

static const struct exec *exec_by(const char *id)
{
	struct err e = ERR_INIT;
	struct exec *x;

	cr_assert(exec_find(mgr, &team, box, id, &x, &e) == 0, "%s", e.msg);
	return x;
}

static bool runs(const char *id)
{
	return info_of(exec_by(id)).running;
}

static uint64_t has_said(const char *id)
{
	return info_of(exec_by(id)).bytes[0];
}

/* The one it was for leaves: 0: while it runs; 1: it ignores SIGTERM; 2: from inside wake(); 3: behind, after
 * its end; 4: it is detached. */
Test(exec, left_alone)
{
	static const char *const commands[] = { "echo x; exec sleep 60", "trap '' TERM; echo x; sleep 60; sleep 60",
						"echo x; exec sleep 60", "head -c 100000 /dev/zero",
						"echo x; sleep 0.5; echo y" };

	for (int stream = 0; stream < 2; stream++)
		for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
			struct exec_spec s = { .command = commands[i], .detach = i == 4 };
			struct run k = run_init();
			struct err e = ERR_INIT;
			struct exec_info info;
			char id[EXEC_ID_SIZE];
			bool over;

			if (!stream && i > 1 && i < 4)
				continue;
			last_signal = 0;
			k.leave_in_output = i == 2;
			k.stop_after = i == 3;
			cr_assert(start(&k, &s, stream, &e) == 0);
			(void)snprintf(id, sizeof(id), "%s", exec_id(k.x));
			(void)spin_until(i == 3 ? !runs(id) : has_said(id) > 0, 3000);
			if (stream)
				exec_reader_free(TAKE_PTR(k.reader));
			else
				exec_abandon(k.x);
			over = spin_until(!runs(id), i == 1 ? 2500 : i == 4 ? 800 : 400);
			cr_assert(over, "%zu: it lives on", i);
			spin_for(50);
			cr_expect(k.calls == 0, "%zu: done() after it was abandoned", i);
			info = info_of(exec_by(id));
			cr_expect(last_signal == (i == 1 ? SIGKILL : i < 3 ? SIGTERM : 0), "%zu: %d", i, last_signal);
			cr_expect(info.result->by == (i < 3 ? EXEC_BY_DISCONNECT : EXEC_BY_NONE));
			cr_expect(info.result->reason == (i < 3 ? EXEC_TERMINATED : EXEC_EXITED));
			cr_expect(info.bytes[0] == (i == 3 ? 100000 : i == 4 ? 4 : 2));
			run_free(&k);
		}
}

Test(exec, many_at_once_and_the_limit)
{
	static struct run k[SANDBOX_MAX_EXECS];
	struct exec_spec s = { .command = "echo $$; exec sleep 60" };
	struct run one = run_init();
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	for (size_t i = 0; i < SANDBOX_MAX_EXECS; i++) {
		k[i] = run_init();
		cr_assert(start(&k[i], &s, false, &e) == 0, "%zu: %s", i, e.msg);
	}
	cr_expect(start(&one, &s, false, &e) < 0 && e.kind == ERR_CAPACITY);
	spin_for(500);
	cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 3000));
	for (size_t i = 0; i < SANDBOX_MAX_EXECS; i++) {
		cr_expect(k[i].calls == 1 && k[i].r.reason == EXEC_TERMINATED && k[i].out[0].len > 1, "%zu", i);
		run_free(&k[i]);
	}
	run_free(&one);
}

/* What init says about a command that isn't there, or says twice, changes nothing. */
Test(exec, hostile_init)
{
	struct exec_spec s = { .command = "sleep 0.2; echo end" };
	const struct init_exit x = { .kind = INIT_EXIT_CODE, .value = 0x1ff };
	struct run k = run_init();
	struct err e = ERR_INIT;

	cr_assert(start(&k, &s, false, &e) == 0);
	last_init->ev.exited(last_init->ev.arg, 0, &x);
	last_init->ev.exited(last_init->ev.arg, UINT64_MAX, &x);
	cr_expect(k.calls == 0);
	last_init->ev.exited(last_init->ev.arg, 1, &x);
	last_init->ev.exited(last_init->ev.arg, 1, &x);
	spin_for(400);
	cr_expect(k.calls == 1 && k.r.exit_code == 255);
	run_free(&k);
}

Test(exec, ids)
{
	struct exec_spec s = { .command = "sleep 0.1" };
	struct run k = run_init(), l = run_init();
	struct err e = ERR_INIT;

	cr_assert(start(&k, &s, false, &e) == 0 && start(&l, &s, false, &e) == 0);
	cr_expect(strncmp(exec_id(k.x), "exe_", 4) == 0 && strlen(exec_id(k.x)) == 30);
	cr_expect(strcmp(exec_id(k.x), exec_id(l.x)) < 0);
	cr_assert(spin(&k.done, 1000) && spin(&l.done, 1000));
	run_free(&k);
	run_free(&l);
}
