/* /_emulator/events: the journal as JSON, or followed as Server-Sent Events; /_emulator/summary: what a run came to.
 *
 * A follower holds nothing but its place: each event is encoded when the connection asks for more. One that is slower
 * than the journal's ring is told how many it missed (event: gap). */

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "api/control.h"
#include "api/feed.h"
#include "api/json_text.h"
#include "api/req.h"
#include "api/summary.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"

#define LIMIT_DEFAULT 1000
#define EVENT_MAX (24u << 10) /* nine strings of 255 bytes, each as \u00XX, and the rest */
#define ANSWER_MAX (64u << 20)

struct filter {
	char types[128], route[200], sandbox[40], account[ACCOUNT_ID_SIZE];
	unsigned int status_from, status_to; /* 0: any */
	uint64_t since;
	uint64_t limit;
};

/* ---- the filter ---- */

/* "sandbox" has all of sandbox.*; several with commas. */
static bool type_wanted(const char *types, const char *name)
{
	size_t n;

	for (const char *p = types; *p; p += n + (p[n] == ',')) {
		n = strcspn(p, ",");
		if (strncmp(name, p, n) == 0 && n > 0 && (name[n] == '\0' || name[n] == '.'))
			return true;
	}
	return !*types;
}

static bool same(const char *wanted, const char *s)
{
	return !*wanted || (s && strcmp(wanted, s) == 0);
}

static bool wanted(const struct filter *f, const struct journal_event *ev)
{
	if (!type_wanted(f->types, journal_type_name(ev->type)) || !same(f->sandbox, ev->sandbox) ||
	    !same(f->account, ev->account))
		return false;
	if (f->route[0] && (!ev->path || !fault_route_match(f->route, ev->method, ev->path)))
		return false;
	return f->status_to == 0 ||
	       (ev->type == JOURNAL_REQUEST && ev->status >= f->status_from && ev->status <= f->status_to);
}

static bool types_known(const char *types)
{
	size_t n;

	for (const char *p = types; *p; p += n + (p[n] == ',')) {
		char word[40];
		bool known = false;

		n = strcspn(p, ",");
		if (n == 0 || n >= sizeof(word))
			return false;
		memcpy(word, p, n);
		word[n] = '\0';
		for (unsigned int t = 0; t < JOURNAL_TYPES; t++)
			known |= type_wanted(word, journal_type_name((enum journal_type)t));
		if (!known)
			return false;
	}
	return true;
}

/* "404", "4xx". */
static bool parse_status(const char *s, struct filter *f)
{
	uint64_t n;

	if (strlen(s) == 3 && s[0] >= '1' && s[0] <= '5' && strcasecmp(s + 1, "xx") == 0) {
		f->status_from = (unsigned int)(s[0] - '0') * 100;
		f->status_to = f->status_from + 99;
		return true;
	}
	if (text_parse_u64(s, 100, 599, &n) < 0)
		return false;
	f->status_from = f->status_to = (unsigned int)n;
	return true;
}

static bool copy_query(struct req *r, const char *name, char *ret, size_t cap)
{
	const char *s = req_query(r, name);

	if (!s || text_format(ret, cap, "%s", s) >= 0)
		return true;
	req_reply_invalid(r, "query", name, "string_too_long", "String should have at most %zu characters", cap - 1);
	return false;
}

static bool read_numbers(struct req *r, struct filter *f)
{
	const char *status = req_query(r, "status"), *limit = req_query(r, "limit"), *since = req_query(r, "since");
	const char *last = req_header(r, "Last-Event-ID");

	f->limit = LIMIT_DEFAULT;
	if (status && !parse_status(status, f)) {
		req_reply_invalid(r, "query", "status", "value_error", "Value error, a status as 404, or 4xx");
		return false;
	}
	if (limit && text_parse_u64(limit, 1, JOURNAL_EVENTS, &f->limit) < 0) {
		req_reply_invalid(r, "query", "limit", "int_parsing", "Input should be an integer from 1 to %d",
				  JOURNAL_EVENTS);
		return false;
	}
	if (last)
		since = last;
	if (since && text_parse_u64(since, 0, INT64_MAX, &f->since) < 0) {
		req_reply_invalid(r, last ? "header" : "query", last ? "Last-Event-ID" : "since", "int_parsing",
				  "Input should be an event's seq");
		return false;
	}
	return true;
}

static bool read_filter(struct req *r, struct filter *f)
{
	*f = (struct filter){ 0 };
	if (!copy_query(r, "type", f->types, sizeof(f->types)) || !copy_query(r, "route", f->route, sizeof(f->route)) ||
	    !copy_query(r, "sandbox", f->sandbox, sizeof(f->sandbox)) || !read_numbers(r, f) ||
	    !control_account(r, "query", req_query(r, "account"), req_query(r, "key"), f->account))
		return false;
	if (types_known(f->types))
		return true;
	req_reply_invalid(r, "query", "type", "value_error",
			  "Value error, known are request, sandbox, exec, network, fault, clock, reset, seeded, and "
			  "with a dot what happened, as in sandbox.failed");
	return false;
}

/* ---- one event ---- */

static int add_string(struct buf *b, const char *name, const char *s)
{
	int r = s ? buf_printf(b, ",\"%s\":", name) : 0;

	return s && r >= 0 ? json_text_string(b, s, strlen(s), true, NULL) : r;
}

static const char *subject_name(enum journal_type t)
{
	switch (t) {
	case JOURNAL_EXEC_STARTED:
	case JOURNAL_EXEC_ENDED:
		return "exec_id";
	case JOURNAL_FAULT_FIRED:
		return "fault";
	case JOURNAL_NETWORK_BLOCKED:
		return "host";
	default:
		return "subject";
	}
}

static int add_request(struct buf *b, const struct journal_event *ev)
{
	int r = add_string(b, "method", ev->method);

	if (r >= 0)
		r = add_string(b, "path", ev->path);
	if (r >= 0)
		r = add_string(b, "route", ev->route);
	if (r >= 0)
		r = buf_printf(b, ",\"status\":%u", ev->status);
	if (r >= 0)
		r = add_string(b, "code", ev->code);
	return r < 0 ? r
		     : buf_printf(b, ",\"bytes_in\":%llu,\"bytes_out\":%llu", (unsigned long long)ev->bytes_in,
				  (unsigned long long)ev->bytes_out);
}

static int add_event(struct buf *b, const struct journal_event *ev)
{
	char iso[CLOCK_ISO_SIZE];
	int r;

	clock_iso(ev->time_ms, iso);
	r = buf_printf(b, "{\"seq\":%llu,\"time\":\"%s\",\"type\":\"%s\"", (unsigned long long)ev->seq, iso,
		       journal_type_name(ev->type));
	if (r >= 0)
		r = add_string(b, "account", ev->account);
	if (r >= 0)
		r = add_string(b, "sandbox", ev->sandbox);
	if (r >= 0)
		r = add_string(b, subject_name(ev->type), ev->subject);
	if (r >= 0)
		r = add_string(b, "request_id", ev->request_id);
	if (r >= 0 && ev->type == JOURNAL_REQUEST)
		r = add_request(b, ev);
	if (r >= 0 && (ev->type == JOURNAL_REQUEST || ev->type == JOURNAL_EXEC_ENDED))
		r = buf_printf(b, ",\"duration_ms\":%.3f", (double)ev->duration_us / 1000);
	if (r >= 0)
		r = add_string(b, ev->type == JOURNAL_EXEC_STARTED ? "command" : "detail", ev->detail);
	return r < 0 ? r : buf_puts(b, "}");
}

/* ---- at once ---- */

static int write_events(struct buf *b, const struct journal *j, const struct filter *f)
{
	uint64_t at = f->since, n = 0, missed_all = 0, missed;
	struct journal_event ev;
	bool more = false;
	int r = buf_puts(b, "{\"events\":[");

	while (r >= 0 && journal_next(j, at, &ev, &missed)) {
		if (wanted(f, &ev) && n == f->limit) {
			more = true;
			break;
		}
		missed_all += missed;
		at = ev.seq;
		if (!wanted(f, &ev))
			continue;
		r = n++ ? buf_puts(b, ",") : 0;
		if (r >= 0)
			r = add_event(b, &ev);
	}
	return r < 0 ? r
		     : buf_printf(b, "],\"next_since\":%llu,\"has_more\":%s,\"missed\":%llu}", (unsigned long long)at,
				  more ? "true" : "false", (unsigned long long)missed_all);
}

/* ---- followed ---- */

struct follower {
	struct feed feed;
	struct journal *journal;
	struct journal_watch watch;
	struct filter filter;
	uint64_t at;
};

static int next_event(struct feed *feed)
{
	struct follower *f = (struct follower *)feed;
	struct buf *b = &feed->chunk;
	struct journal_event ev;
	uint64_t missed;
	int r = 0;

	while (b->len == 0 && r >= 0 && journal_next(f->journal, f->at, &ev, &missed)) {
		f->at = ev.seq;
		if (missed > 0)
			r = buf_printf(b, "event: gap\ndata: {\"missed\":%llu}\n\n", (unsigned long long)missed);
		if (r < 0 || !wanted(&f->filter, &ev))
			continue;
		r = buf_printf(b, "id: %llu\ndata: ", (unsigned long long)ev.seq);
		if (r >= 0)
			r = add_event(b, &ev);
		if (r >= 0)
			r = buf_puts(b, "\n\n");
	}
	return r;
}

static void response_over(struct feed *feed)
{
	struct follower *f = (struct follower *)feed;

	journal_unwatch(f->journal, &f->watch);
}

static void follower_free(struct feed *feed)
{
	free(feed);
}

static const struct feed_ops follower_ops = { .next = next_event, .end = response_over, .free = follower_free };

static void follow(struct req *r, const struct filter *filter)
{
	struct follower *f = calloc(1, sizeof(*f));
	struct err e;

	if (!f) {
		(void)err_errno(&e, ENOMEM, "events");
		req_reply_err(r, &e);
		return;
	}
	*f = (struct follower){ .feed = FEED_INIT(&follower_ops, r, EVENT_MAX, false),
				.journal = req_api(r)->journal,
				.filter = *filter,
				.at = filter->since,
				.watch = { .wake = feed_wake, .arg = f } };
	journal_watch(f->journal, &f->watch);
	/* So that the head goes out at once, whether there is an event or not. */
	f->feed.failed = buf_puts(&f->feed.chunk, ": events\n\n") < 0;
	feed_start(&f->feed);
}

static void handle_events(struct req *r)
{
	struct buf b = BUF_INIT(ANSWER_MAX);
	struct filter f;
	struct err e;
	int k;

	if (!read_filter(r, &f))
		return;
	if (req_accepts(r, "text/event-stream")) {
		follow(r, &f);
		return;
	}
	k = write_events(&b, req_api(r)->journal, &f);
	if (k < 0) {
		buf_free(&b);
		(void)err_errno(&e, -k, "events");
		req_reply_err(r, &e);
		return;
	}
	req_reply_buf(r, 200, "application/json", &b);
}

/* ---- the summary ---- */

static void handle_summary(struct req *r)
{
	req_reply_json(r, 200, api_summary(req_api(r)));
}

static const struct route routes[] = {
	{ "GET", "/_emulator/events", SCOPE_READ, 0, handle_events, NULL, NULL },
	{ "GET", "/_emulator/summary", SCOPE_READ, 0, handle_summary, NULL, NULL },
};

void api_add_journal_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
