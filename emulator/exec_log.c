#include <errno.h>
#include <string.h>

#include "emulator/exec-internal.h"

#define HEADER sizeof(uint32_t)
#define SKIP UINT32_MAX /* in place of a header: the rest up to the lane's end is empty */
#define STREAM_BIT (UINT32_C(1) << 31)
#define NONE UINT64_MAX
#define CAP_MIN 512u

void log_init(struct exec_log *l)
{
	*l = (struct exec_log){ .lane = { { .max = EXEC_LOG_HEAD, .v_last = NONE },
					  { .max = EXEC_LOG_TAIL, .v_last = NONE } } };
}

void log_init_lost(struct exec_log *l, const uint64_t bytes[static 2])
{
	struct log_lane *tail = &l->lane[1];

	log_init(l);
	if (bytes[0] + bytes[1] == 0)
		return;
	memcpy(l->bytes, bytes, sizeof(l->bytes));
	l->tail_open = true;
	tail->off_first = tail->off_end = bytes[0] + bytes[1];
}

void log_free(struct exec_log *l)
{
	free(TAKE_PTR(l->lane[0].p));
	free(TAKE_PTR(l->lane[1].p));
}

/* ---- records ---- */

static uint32_t header_at(const struct log_lane *a, uint64_t v)
{
	uint32_t h;

	memcpy(&h, a->p + v % a->max, HEADER);
	return h;
}

static enum exec_stream stream_of(uint32_t header)
{
	return header & STREAM_BIT ? EXEC_STDERR : EXEC_STDOUT;
}

static void set_header(struct log_lane *a, uint64_t v, uint32_t h)
{
	memcpy(a->p + v % a->max, &h, HEADER);
}

/* Bytes to skip at v before the next record: the end of the ring may be too short for one. */
static uint64_t padding_at(const struct log_lane *a, uint64_t v)
{
	uint64_t left = a->max - v % a->max;

	return left < HEADER || header_at(a, v) == SKIP ? left : 0;
}

static void drop_first(struct log_lane *a)
{
	uint64_t pad = padding_at(a, a->v_first);
	uint32_t len;

	if (pad > 0) {
		a->v_first += pad;
		return;
	}
	len = header_at(a, a->v_first) & ~STREAM_BIT;
	a->v_first += HEADER + len;
	a->off_first += len;
}

/* Only while nothing has wrapped: v is the physical place then. */
static bool grow(struct log_lane *a, uint64_t need)
{
	size_t cap = a->cap ? a->cap : CAP_MIN;
	char *p;

	while (cap < need)
		cap *= 2;
	cap = MIN(cap, a->max);
	if (cap <= a->cap)
		return true;
	p = realloc(a->p, cap);
	if (!p)
		return false;
	a->p = p;
	a->cap = cap;
	return true;
}

/* Makes n bytes from v_end on free, dropping the oldest records of the tail. */
static bool make_room(struct log_lane *a, uint64_t n, bool may_drop)
{
	if (a->cap < a->max && a->v_end + n > a->cap && !grow(a, a->v_end + n)) {
		if (a->cap < 4 * (LOG_RECORD_MAX + HEADER))
			return false;
		a->max = a->cap; /* out of memory: this much history will do */
	}
	if (!may_drop)
		return a->v_end + n <= a->max;
	while (a->v_end + n - a->v_first > a->max)
		drop_first(a);
	return true;
}

static bool extend_last(struct log_lane *a, bool may_drop, enum exec_stream s, const char *p, size_t n)
{
	uint32_t h, len;

	if (a->v_last == NONE)
		return false;
	h = header_at(a, a->v_last);
	len = h & ~STREAM_BIT;
	if (stream_of(h) != s || len + n > LOG_RECORD_MAX)
		return false;
	if (a->v_last % a->max + HEADER + len + n > a->max || !make_room(a, n, may_drop))
		return false;
	/* A smaller max, as set by make_room, moves no record: nothing has wrapped then. */
	if (a->v_last % a->max + HEADER + len + n > a->max)
		return false;
	memcpy(a->p + a->v_last % a->max + HEADER + len, p, n);
	set_header(a, a->v_last, (uint32_t)(h + n));
	a->v_end += n;
	a->off_end += n;
	return true;
}

static bool new_record(struct log_lane *a, bool may_drop, enum exec_stream s, const char *p, size_t n)
{
	uint64_t left = a->max - a->v_end % a->max, need = HEADER + n;

	if (left < need) {
		if (!may_drop || !make_room(a, left + need, true))
			return false;
		left = a->max - a->v_end % a->max;
	}
	if (left < need) {
		if (left >= HEADER)
			set_header(a, a->v_end, SKIP);
		a->v_end += left;
	} else if (!make_room(a, need, may_drop) || a->max - a->v_end % a->max < need) {
		return false;
	}
	set_header(a, a->v_end, (uint32_t)n | (s == EXEC_STDERR ? STREAM_BIT : 0));
	memcpy(a->p + a->v_end % a->max + HEADER, p, n);
	a->v_last = a->v_end;
	a->v_end += need;
	a->off_end += n;
	return true;
}

static void put(struct exec_log *l, enum exec_stream s, const char *p, size_t n)
{
	struct log_lane *head = &l->lane[0], *tail = &l->lane[1];

	if (n == 0)
		return;
	l->bytes[s] += n;
	if (!l->tail_open) {
		if (extend_last(head, false, s, p, n) || new_record(head, false, s, p, n))
			return;
		l->tail_open = true;
		tail->off_first = tail->off_end = head->off_end;
	}
	if (extend_last(tail, true, s, p, n) || new_record(tail, true, s, p, n))
		return;
	/* No memory for any of it: everything so far and this is a gap. */
	tail->v_first = tail->v_end;
	tail->v_last = NONE;
	tail->off_end += n;
	tail->off_first = tail->off_end;
}

/* ---- characters ---- */

/* How many bytes at the end are the beginning of an unfinished character (RFC 3629, section 4). */
static size_t unfinished(const char *p, size_t n)
{
	for (size_t k = 1; k <= 3 && k <= n; k++) {
		unsigned char c = (unsigned char)p[n - k], d = k > 1 ? (unsigned char)p[n - k + 1] : 0;
		size_t len = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;

		if ((c & 0xc0) == 0x80)
			continue;
		if (len <= k)
			return 0;
		if (k > 1 && ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
			      (c == 0xf4 && d > 0x8f)))
			return 0;
		return k;
	}
	return 0;
}

void log_add(struct exec_log *l, enum exec_stream s, const char *p, size_t n)
{
	char *part = l->part[s];
	size_t rest;

	/* A character that was begun: byte by byte until it is one, or can't be. */
	while (l->part_len[s] > 0 && n > 0) {
		part[l->part_len[s]++] = *p++;
		n--;
		rest = unfinished(part, l->part_len[s]);
		if (rest == l->part_len[s])
			continue;
		put(l, s, part, l->part_len[s] - rest);
		memmove(part, part + l->part_len[s] - rest, rest);
		l->part_len[s] = rest;
	}
	rest = unfinished(p, n);
	n -= rest;
	while (n > 0) {
		size_t k = MIN(n, LOG_RECORD_MAX);

		if (k < n)
			k -= unfinished(p, k);
		put(l, s, p, k);
		p += k;
		n -= k;
	}
	if (rest > 0) {
		memcpy(part, p, rest);
		l->part_len[s] = rest;
	}
}

void log_finish(struct exec_log *l)
{
	for (int s = 0; s < 2; s++) {
		put(l, (enum exec_stream)s, l->part[s], l->part_len[s]);
		l->part_len[s] = 0;
	}
	for (int i = 0; i < 2; i++) {
		struct log_lane *a = &l->lane[i];
		char *p = a->v_end > 0 && a->v_end < a->cap ? realloc(a->p, a->v_end) : NULL;

		if (p) {
			a->p = p;
			a->cap = a->v_end;
		}
	}
}

/* ---- reading ---- */

uint64_t log_end(const struct exec_log *l)
{
	return l->lane[l->tail_open ? 1 : 0].off_end;
}

size_t log_memory(const struct exec_log *l)
{
	return l->lane[0].cap + l->lane[1].cap;
}

/* The record with c->pos in it, from c->v on. False: there is none yet. */
static bool find_record(const struct log_lane *a, struct log_cursor *c, uint32_t *ret)
{
	while (c->v < a->v_end) {
		uint64_t pad = padding_at(a, c->v);
		uint32_t len;

		if (pad > 0) {
			c->v += pad;
			continue;
		}
		*ret = header_at(a, c->v);
		len = *ret & ~STREAM_BIT;
		if (c->pos < c->off + len)
			return true;
		if (c->v == a->v_last)
			return false; /* stays at it: it may grow */
		c->v += HEADER + len;
		c->off += len;
	}
	return false;
}

enum log_found log_read(const struct exec_log *l, struct log_cursor *c, struct log_piece *ret)
{
	const struct log_lane *a = &l->lane[c->lane];
	uint32_t h;

	if (c->lane == 0 && c->pos >= a->off_end && l->tail_open) {
		c->lane = 1;
		a = &l->lane[1];
		c->v = a->v_first;
		c->off = a->off_first;
	}
	if (c->lane == 1 && c->v < a->v_first) {
		c->v = a->v_first;
		c->off = a->off_first;
	}
	if (c->lane == 1 && c->pos < a->off_first) {
		*ret = (struct log_piece){ .missed = a->off_first - c->pos };
		c->pos = a->off_first;
		return LOG_GAP;
	}
	if (!find_record(a, c, &h))
		return LOG_NOTHING;
	*ret = (struct log_piece){
		.stream = stream_of(h),
		.p = a->p + c->v % a->max + HEADER + (c->pos - c->off),
		.n = (h & ~STREAM_BIT) - (c->pos - c->off),
	};
	c->pos += ret->n;
	return LOG_BYTES;
}

uint64_t log_unread(const struct exec_log *l, const struct log_cursor *c)
{
	const struct log_lane *a = &l->lane[c->lane];
	uint64_t n;

	if (c->pos >= log_end(l))
		return 0;
	n = a->v_end - MAX(c->v, a->v_first);
	return c->lane == 0 ? n + (l->lane[1].v_end - l->lane[1].v_first) : n;
}

static int add_gap(struct buf *b, uint64_t n)
{
	return n == 0 ? 0 : buf_printf(b, "\n[... %llu bytes left out ...]\n", (unsigned long long)n);
}

int log_text(const struct exec_log *l, enum exec_stream s, struct buf *ret, bool *ret_truncated)
{
	struct log_cursor c = { 0 };
	struct log_piece piece;
	enum log_found f;
	uint64_t kept = 0;
	int r = 0;

	while ((f = log_read(l, &c, &piece)) != LOG_NOTHING)
		if (f == LOG_BYTES && piece.stream == s)
			kept += piece.n;
	*ret_truncated = kept < l->bytes[s];
	c = (struct log_cursor){ 0 };
	while (r >= 0 && (f = log_read(l, &c, &piece)) != LOG_NOTHING) {
		if (f == LOG_GAP)
			r = add_gap(ret, l->bytes[s] - kept);
		else if (piece.stream == s)
			r = buf_add(ret, piece.p, piece.n);
	}
	return r;
}
