/* The collected output of one stream: the first OUTPUT_HALF bytes in head, the last OUTPUT_HALF in tail,
 * which is a plain buffer until it is full and a ring from then on. */

#include <errno.h>
#include <string.h>

#include "emulator/sandbox-internal.h"

#define MARKER_MAX 64

void output_init(struct output *o)
{
	*o = (struct output){ .head = BUF_INIT(EXEC_OUTPUT_MAX + MARKER_MAX) };
}

void output_free(struct output *o)
{
	buf_free(&o->head);
	free(TAKE_PTR(o->tail));
}

static int tail_grow(struct output *o, size_t need)
{
	size_t cap = o->tail_cap ? o->tail_cap : 4096;
	char *p;

	while (cap < need)
		cap *= 2;
	cap = MIN(cap, OUTPUT_HALF);
	if (cap <= o->tail_cap)
		return 0;
	p = realloc(o->tail, cap);
	if (!p)
		return -ENOMEM;
	o->tail = p;
	o->tail_cap = cap;
	return 0;
}

static void tail_add(struct output *o, const char *p, size_t n)
{
	size_t k;

	if (o->tail_len < OUTPUT_HALF) {
		k = MIN(n, OUTPUT_HALF - o->tail_len);
		if (tail_grow(o, o->tail_len + k) < 0) {
			/* Out of memory: the newest bytes are the ones to lose, as nothing kept may move. */
			o->lost += n;
			return;
		}
		memcpy(o->tail + o->tail_len, p, k);
		o->tail_len += k;
		p += k;
		n -= k;
	}
	o->lost += n;
	while (n > 0) {
		k = MIN(n, OUTPUT_HALF - o->tail_at);
		memcpy(o->tail + o->tail_at, p, k);
		o->tail_at = (o->tail_at + k) % OUTPUT_HALF;
		p += k;
		n -= k;
	}
}

void output_add(struct output *o, const char *p, size_t n)
{
	size_t room = OUTPUT_HALF - MIN(OUTPUT_HALF, o->head.len), k = MIN(n, room);

	if (k > 0 && o->tail_len == 0 && o->lost == 0) {
		if (buf_add(&o->head, p, k) < 0) {
			o->lost += n;
			return;
		}
		p += k;
		n -= k;
	}
	if (n > 0)
		tail_add(o, p, n);
}

bool output_finish(struct output *o)
{
	size_t at = o->tail_len == OUTPUT_HALF ? o->tail_at : 0;

	if (o->lost > 0 && buf_printf(&o->head, "\n[... %llu bytes left out ...]\n", (unsigned long long)o->lost) < 0)
		goto no_memory;
	if (o->tail_len > 0 &&
	    (buf_add(&o->head, o->tail + at, o->tail_len - at) < 0 || buf_add(&o->head, o->tail, at) < 0))
		goto no_memory;
	free(TAKE_PTR(o->tail));
	return o->lost > 0;

no_memory:
	free(TAKE_PTR(o->tail));
	return true;
}
