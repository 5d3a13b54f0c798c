/* The log of a command's output: positions, gaps, characters, bounds; against a plain copy of everything. */

#include <criterion/criterion.h>
#include <string.h>

#include "emulator/base/text.h"
#include "emulator/exec-internal.h"

static struct exec_log l;

static void set_up(void)
{
	log_init(&l);
}

static void tear_down(void)
{
	log_free(&l);
}

TestSuite(exec_log, .init = set_up, .fini = tear_down, .timeout = 60);

/* What one reader got. */
struct got {
	struct log_cursor c;
	struct buf out[2];
	uint64_t missed;
	size_t pieces, gaps;
};

static struct got got_init(uint64_t pos)
{
	return (struct got){ .c = { .pos = pos }, .out = { BUF_INIT(64u << 20), BUF_INIT(64u << 20) } };
}

static void got_free(struct got *g)
{
	buf_free(&g->out[0]);
	buf_free(&g->out[1]);
}

static void read_all(struct got *g)
{
	struct log_piece p;
	enum log_found f;

	while ((f = log_read(&l, &g->c, &p)) != LOG_NOTHING) {
		if (f == LOG_GAP) {
			cr_assert(p.missed > 0);
			g->missed += p.missed;
			g->gaps++;
			continue;
		}
		cr_assert(p.n > 0 && p.n <= LOG_RECORD_MAX);
		cr_assert(buf_add(&g->out[p.stream], p.p, p.n) == 0);
		g->pieces++;
	}
	cr_expect(g->c.pos == log_end(&l));
}

static void add(enum exec_stream s, const char *text)
{
	log_add(&l, s, text, strlen(text));
}

static const char *text_of(const struct buf *b)
{
	return b->p ? b->p : "";
}

Test(exec_log, order_and_resuming)
{
	struct got g = got_init(0), h = got_init(0);

	read_all(&g);
	cr_expect(g.pieces == 0);
	add(EXEC_STDOUT, "one");
	read_all(&g);
	add(EXEC_STDOUT, "two"); /* grows the record the reader stands at */
	read_all(&g);
	add(EXEC_STDERR, "bad");
	add(EXEC_STDOUT, "three");
	read_all(&g);
	cr_expect_str_eq(text_of(&g.out[0]), "onetwothree");
	cr_expect_str_eq(text_of(&g.out[1]), "bad");
	cr_expect(g.pieces == 4 && g.gaps == 0);
	read_all(&h);
	cr_expect(h.pieces == 3, "%zu: writes one after the other are one record", h.pieces);
	for (uint64_t pos = 0; pos <= 14; pos++) {
		struct got k = got_init(pos);

		read_all(&k);
		cr_expect_str_eq(text_of(&k.out[0]), pos < 9 ? &"onetwothree"[MIN(pos, 6)] : &"three"[pos - 9]);
		cr_expect(k.out[0].len + k.out[1].len == 14 - pos);
		got_free(&k);
	}
	got_free(&g);
	got_free(&h);
}

/* A character is never split, whatever the writes are like; what is none comes through as it is. */
Test(exec_log, characters)
{
	static const struct {
		const char *bytes;
		size_t held; /* at the end, before the log is finished */
	} t[] = {
		{ "plain", 0 },
		{ "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 0 },
		{ "a\xc3", 1 },
		{ "a\xe2\x82", 2 },
		{ "a\xf0\x9f\x98", 3 },
		{ "\xe2\xe2\x82\xac", 0 },
		{ "\xe2\x82\x41", 0 },
		{ "\xf0\x9f\xf0\x9f\x98\x80\xff\xfe", 0 },
		{ "\xed\xa0\x80 \xc0\x80 \xe0\x80\x80 \xf4\x90\x80\x80", 0 },
		{ "\x80\x80\x80\x80", 0 },
		{ "\xe2\x82\xac\xe2", 1 },
		{ "\xf5\xf5", 0 },
		{ "\xed\x9f", 2 },
		{ "\xed\xa0", 0 },
		{ "\xf4\x8f\xbf", 3 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		for (size_t step = 1; step <= 5; step++) {
			size_t len = strlen(t[i].bytes);
			_cleanup_buf_ struct buf whole = BUF_INIT(256), parts = BUF_INIT(256);
			struct got g = got_init(0);
			struct log_piece p;

			log_free(&l);
			log_init(&l);
			for (size_t at = 0; at < len; at += step) {
				log_add(&l, EXEC_STDERR, t[i].bytes + at, MIN(step, len - at));
				while (log_read(&l, &g.c, &p) != LOG_NOTHING) {
					cr_assert(text_utf8_sanitize(p.p, p.n, true, &parts, NULL) == 0);
					cr_assert(buf_add(&g.out[1], p.p, p.n) == 0);
				}
			}
			/* Text made piece by piece is what it is when made at once. */
			cr_assert(text_utf8_sanitize(t[i].bytes, len - t[i].held, true, &whole, NULL) == 0);
			cr_expect(whole.len == parts.len &&
					  (whole.len == 0 || memcmp(whole.p, parts.p, whole.len) == 0),
				  "%zu by %zu", i, step);
			cr_expect(g.out[1].len == len - t[i].held, "%zu by %zu: %zu", i, step, g.out[1].len);
			log_finish(&l);
			read_all(&g);
			cr_expect_str_eq(text_of(&g.out[1]), t[i].bytes);
			cr_expect(l.bytes[1] == len);
			got_free(&g);
		}
}

static char pattern(uint64_t i)
{
	return (char)('!' + (i ^ i >> 7 ^ i >> 17) % 90);
}

/* Writes of many sizes, far beyond the bounds: a reader that keeps up gets all; one that comes late the head,
 * one gap of the right size, and the tail; one in between what is left from its place on. */
Test(exec_log, bounds_and_gaps)
{
	static const size_t sizes[] = { 1, 7, 100, 4095, LOG_RECORD_MAX, LOG_RECORD_MAX + 1, 65536 };

	for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
		size_t total = sizes[k] < 100 ? 3u << 20 : 8u << 20, n = 0;
		struct got live = got_init(0), late = got_init(0), mid;
		char *data = malloc(total);
		uint64_t kept, from = 600000;

		cr_assert(data);
		for (size_t i = 0; i < total; i++)
			data[i] = pattern(i);
		log_free(&l);
		log_init(&l);
		/* Every tenth write is to the other stream, so that records are not merged too well. */
		for (size_t at = 0; at < total; at += n) {
			n = MIN(sizes[k], total - at);
			log_add(&l, at / sizes[k] % 10 == 9 ? EXEC_STDERR : EXEC_STDOUT, data + at, n);
			read_all(&live);
		}
		cr_expect(live.gaps == 0 && live.out[0].len + live.out[1].len == total);
		cr_expect(log_memory(&l) <= EXEC_LOG_HEAD + EXEC_LOG_TAIL);
		cr_expect(log_end(&l) == total && l.bytes[0] + l.bytes[1] == total);
		read_all(&late);
		kept = late.out[0].len + late.out[1].len;
		cr_expect(late.gaps == 1 && late.missed + kept == total, "%zu", sizes[k]);
		cr_expect(kept <= EXEC_LOG_HEAD + EXEC_LOG_TAIL && kept > (sizes[k] == 1 ? 500000 : 1000000),
			  "%zu: %lu", sizes[k], (unsigned long)kept);
		/* Between head and tail. */
		mid = got_init(from);
		read_all(&mid);
		cr_expect(mid.gaps == 1 && mid.missed + mid.out[0].len + mid.out[1].len == total - from);
		/* The last byte of each is the last that was written to its stream. */
		for (int s = 0; s < 2; s++)
			cr_expect(memcmp(late.out[s].p + late.out[s].len - 200, live.out[s].p + live.out[s].len - 200,
					 200) == 0);
		cr_expect(memcmp(late.out[0].p, live.out[0].p, 100000) == 0);
		got_free(&live);
		got_free(&late);
		got_free(&mid);
		free(data);
	}
}

/* A reader that falls behind now and then: every byte is either read, in order, or counted as missed. */
Test(exec_log, slow_reader)
{
	struct got g = got_init(0);
	uint64_t written = 0, at = 0;
	struct log_piece p;
	enum log_found f;
	char piece[9000];

	for (int turn = 0; turn < 3000; turn++) {
		size_t n = 1 + (size_t)turn * 7919 % sizeof(piece);

		for (size_t i = 0; i < n; i++)
			piece[i] = pattern(written + i);
		log_add(&l, EXEC_STDOUT, piece, n);
		written += n;
		if (turn % 500 > 100)
			continue;
		while ((f = log_read(&l, &g.c, &p)) != LOG_NOTHING) {
			if (f == LOG_GAP) {
				g.gaps++;
				at += p.missed;
				continue;
			}
			for (size_t i = 0; i < p.n; i++)
				cr_assert(p.p[i] == pattern(at + i), "byte %lu", (unsigned long)(at + i));
			at += p.n;
		}
		cr_assert(at == written);
	}
	cr_expect(g.gaps > 0 && g.gaps < 6);
}

Test(exec_log, unread)
{
	struct log_cursor c = { 0 };
	struct log_piece p;
	char piece[1000];

	memset(piece, 'x', sizeof(piece));
	cr_expect(log_unread(&l, &c) == 0);
	for (int i = 0; i < 700; i++)
		log_add(&l, EXEC_STDOUT, piece, sizeof(piece));
	cr_expect(log_unread(&l, &c) >= 700000 && log_unread(&l, &c) < 750000);
	for (int i = 0; i < 20; i++)
		cr_assert(log_read(&l, &c, &p) == LOG_BYTES);
	cr_expect(log_unread(&l, &c) < 700000 - 18 * 16000);
	while (log_read(&l, &c, &p) == LOG_BYTES)
		;
	cr_expect(log_unread(&l, &c) == 0);
}

Test(exec_log, texts)
{
	_cleanup_buf_ struct buf out = BUF_INIT(8u << 20);
	bool truncated;

	cr_assert(log_text(&l, EXEC_STDOUT, &out, &truncated) == 0);
	cr_expect(out.len == 0 && !truncated);
	add(EXEC_STDOUT, "begin ");
	add(EXEC_STDERR, "other");
	add(EXEC_STDOUT, "end");
	cr_assert(log_text(&l, EXEC_STDOUT, &out, &truncated) == 0);
	cr_expect_str_eq(out.p, "begin end");
	cr_expect(!truncated);
	for (int i = 0; i < 2000000; i++)
		log_add(&l, EXEC_STDOUT, "0123456789", 10);
	buf_reset(&out);
	cr_assert(log_text(&l, EXEC_STDOUT, &out, &truncated) == 0);
	cr_expect(truncated && strncmp(out.p, "begin end01", 11) == 0 && strstr(out.p, "\n[... "));
	cr_expect(out.len < EXEC_LOG_HEAD + EXEC_LOG_TAIL + 100);
	buf_reset(&out);
	cr_assert(log_text(&l, EXEC_STDERR, &out, &truncated) == 0);
	cr_expect_str_eq(out.p, "other");
	cr_expect(!truncated, "the other stream is whole");
}
