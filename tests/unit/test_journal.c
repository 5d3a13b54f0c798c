#include <criterion/criterion.h>
#include <string.h>

#include "emulator/exec-internal.h"
#include "emulator/journal.h"

static struct journal *j;

static void set_up(void)
{
	cr_assert(journal_new(&j) == 0);
}

static void tear_down(void)
{
	journal_free(j);
}

TestSuite(journal, .init = set_up, .fini = tear_down);

static void add(enum journal_type type, const char *account, const char *detail)
{
	journal_add(j, &(struct journal_event){ .type = type, .account = account, .detail = detail });
}

/* The details of all events, with spaces between. */
static const char *details(uint64_t after, uint64_t *ret_missed)
{
	static char text[256];
	struct journal_event ev;
	uint64_t missed;

	text[0] = '\0';
	*ret_missed = 0;
	while (journal_next(j, after, &ev, &missed)) {
		size_t n = strlen(text);

		(void)snprintf(text + n, sizeof(text) - n, "%s%s", n ? " " : "", ev.detail);
		after = ev.seq;
		*ret_missed += missed;
	}
	return text;
}

Test(journal, events_in_order_with_copies_of_their_strings)
{
	char detail[] = "one";
	struct journal_event ev;
	uint64_t missed;

	add(JOURNAL_RESET, "acc_1", detail);
	detail[0] = 'X';
	add(JOURNAL_SEEDED, NULL, "two");
	cr_assert_str_eq(details(0, &missed), "one two");
	cr_assert_str_eq(details(1, &missed), "two");
	cr_assert(missed == 0 && journal_last(j) == 2);
	cr_assert(journal_next(j, 0, &ev, &missed) && ev.seq == 1 && ev.time_ms > 0 && ev.type == JOURNAL_RESET);
	cr_assert_str_eq(ev.account, "acc_1");
	cr_assert(!ev.sandbox && !ev.path);
	cr_assert_not(journal_next(j, 2, &ev, &missed));
}

Test(journal, the_oldest_go_and_are_missed)
{
	struct journal_event ev;
	uint64_t missed;

	for (int i = 0; i < JOURNAL_EVENTS + 10; i++)
		add(JOURNAL_RESET, NULL, "x");
	cr_assert(journal_next(j, 0, &ev, &missed) && missed == 10 && ev.seq == 11);
	cr_assert(journal_next(j, 5, &ev, &missed) && missed == 5 && ev.seq == 11);
	cr_assert(journal_next(j, 10, &ev, &missed) && missed == 0);
}

Test(journal, bounded_by_bytes_and_long_strings_are_cut)
{
	char text[1000];
	struct journal_event ev = { .type = JOURNAL_REQUEST,
				    .account = text,
				    .sandbox = text,
				    .subject = text,
				    .detail = text,
				    .request_id = text,
				    .method = text,
				    .path = text,
				    .code = text,
				    .route = text },
			     got;
	uint64_t missed;

	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (int i = 0; i < 4000; i++)
		journal_add(j, &ev);
	cr_assert(journal_next(j, 0, &got, &missed) && missed > 2000, "%llu", (unsigned long long)missed);
	cr_assert(strlen(got.path) == 255);
}

Test(journal, what_is_forgotten_is_not_missed)
{
	uint64_t missed;

	add(JOURNAL_RESET, "acc_1", "a");
	add(JOURNAL_RESET, "acc_2", "b");
	add(JOURNAL_RESET, NULL, "c");
	journal_forget(j, "acc_1");
	cr_assert_str_eq(details(0, &missed), "b c");
	cr_assert(missed == 0);
	journal_forget(j, NULL);
	cr_assert_str_eq(details(0, &missed), "");
	add(JOURNAL_RESET, NULL, "d");
	cr_assert_str_eq(details(0, &missed), "d");
	cr_assert(missed == 0 && journal_last(j) == 4);
}

static void on_wake(void *arg)
{
	++*(int *)arg;
}

Test(journal, watchers)
{
	int a = 0, b = 0;
	struct journal_watch wa = { .wake = on_wake, .arg = &a }, wb = { .wake = on_wake, .arg = &b };

	journal_watch(j, &wa);
	journal_watch(j, &wb);
	add(JOURNAL_RESET, NULL, "x");
	journal_unwatch(j, &wa);
	add(JOURNAL_RESET, NULL, "x");
	journal_unwatch(j, &wb);
	add(JOURNAL_RESET, NULL, "x");
	cr_assert(a == 1 && b == 2);
	journal_add(NULL, &(struct journal_event){ .type = JOURNAL_RESET });
}

Test(journal, the_slowest_calls)
{
	const int us[] = { 5, 90, 20, 70, 10, 80, 30 }, want[] = { 90, 80, 70, 30, 20 };
	struct journal_slow slow[JOURNAL_SLOWEST];

	for (size_t i = 0; i < ARRAY_SIZE(us); i++)
		journal_add(j,
			    &(struct journal_event){
				    .type = JOURNAL_REQUEST, .method = "GET", .path = "/v1/x", .duration_us = us[i] });
	journal_add(j, &(struct journal_event){
			       .type = JOURNAL_REQUEST, .method = "GET", .path = "/_emulator/x", .duration_us = 1000 });
	cr_assert(journal_slowest(j, slow) == JOURNAL_SLOWEST);
	for (size_t i = 0; i < JOURNAL_SLOWEST; i++)
		cr_assert(slow[i].duration_us == want[i], "place %zu: %d", i, (int)slow[i].duration_us);
}

Test(journal, every_type_has_a_name)
{
	for (unsigned int t = 0; t < JOURNAL_TYPES; t++)
		cr_assert(journal_type_name((enum journal_type)t), "%u", t);
}

#define DOTS "\xe2\x80\xa6"

Test(journal, commands_without_what_may_be_secret)
{
	static const struct {
		const char *command;
		bool shell, more;
		const char *want;
	} t[] = {
		{ "true", true, false, "true" },
		{ "  ls -l /secret", true, false, "ls " DOTS },
		{ "python main.py --token=abc", true, false, "python " DOTS },
		{ "TOKEN=abc curl x", true, false, DOTS },
		{ "TOKEN=\"a b\" curl x", true, false, DOTS },
		{ "$(cat /secret) x", true, false, DOTS },
		{ "'se cret'", true, false, DOTS },
		{ "true;echo hi", true, false, "true " DOTS },
		{ "", true, false, DOTS },
		{ "/bin/echo", false, true, "/bin/echo " DOTS },
		{ "/bin/echo", false, false, "/bin/echo" },
		{ "a b", false, false, DOTS },
	};
	char text[EXEC_JOURNAL_TEXT];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		exec_journal_text(t[i].command, t[i].shell, t[i].more, text);
		cr_assert_str_eq(text, t[i].want, "%s: %s", t[i].command, text);
	}
}
