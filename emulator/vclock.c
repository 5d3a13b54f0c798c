#include "emulator/vclock.h"

#include <errno.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/store.h"

#define LISTENERS_MAX 16
#define SETTING "clock_offset_ms"

struct vclock {
	struct store *store;
	struct vclock_listener l[LISTENERS_MAX];
	size_t n;
};

int vclock_new(struct store *s, struct vclock **ret, struct err *e)
{
	struct vclock *c = calloc(1, sizeof(*c));
	int64_t offset = 0;
	int r = 0;

	if (!c)
		return err_errno(e, ENOMEM, "the clock");
	c->store = s;
	if (s)
		r = store_setting_get(s, SETTING, &offset, e);
	if (r < 0) {
		free(c);
		return r;
	}
	if (offset < 0 || offset > CLOCK_OFFSET_MAX_MS)
		offset = 0;
	clock_set_offset_ms(offset);
	if (offset > 0)
		log_info("the clock is %lld s ahead, as an earlier run left it; `orkestr-emulator clock --reset` "
			 "sets it back",
			 (long long)offset / 1000);
	*ret = c;
	return 0;
}

void vclock_free(struct vclock *c)
{
	free(c);
}

int vclock_listen(struct vclock *c, const struct vclock_listener *l)
{
	if (c->n == LISTENERS_MAX)
		return -E2BIG;
	c->l[c->n++] = *l;
	return 0;
}

static int64_t next_due(const struct vclock *c)
{
	int64_t next = INT64_MAX;

	for (size_t i = 0; i < c->n; i++)
		if (c->l[i].next)
			next = MIN(next, c->l[i].next(c->l[i].arg));
	return next;
}

static void do_due(struct vclock *c)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->l[i].due)
			c->l[i].due(c->l[i].arg);
}

static int keep(struct vclock *c, int64_t offset, struct err *e)
{
	return c->store ? store_setting_put(c->store, SETTING, offset, e) : 0;
}

static int advance(struct vclock *c, int64_t offset, struct err *e)
{
	int64_t next, last = INT64_MIN;
	int r;

	if (offset < clock_offset_ms())
		return err_set(e, ERR_INVALID, EINVAL, NULL, "the clock only goes forward");
	if (offset > CLOCK_OFFSET_MAX_MS)
		return err_set(e, ERR_INVALID, ERANGE, NULL, "the clock can't be more than 100 years ahead");
	r = keep(c, offset, e);
	if (r < 0)
		return r;
	/* A moment comes up once more when nobody could do what is due then: that is no reason to stay there. */
	while ((next = next_due(c)) <= clock_real_ms() + offset && next > last) {
		/* Only ever forward: the host's clock has gone on meanwhile. */
		clock_set_offset_ms(MIN(MAX(next - clock_real_ms(), clock_offset_ms()), offset));
		do_due(c);
		last = next;
	}
	clock_set_offset_ms(offset);
	do_due(c);
	for (size_t i = 0; i < c->n; i++)
		if (c->l[i].moved)
			c->l[i].moved(c->l[i].arg);
	return 0;
}

int vclock_advance_to(struct vclock *c, int64_t ms, struct err *e)
{
	return advance(c, ms - clock_real_ms(), e);
}

int vclock_advance_by(struct vclock *c, int64_t ms, struct err *e)
{
	return advance(c, clock_offset_ms() + MIN(ms, CLOCK_OFFSET_MAX_MS + 1), e);
}

int vclock_reset(struct vclock *c, struct err *e)
{
	int r = keep(c, 0, e);

	if (r < 0)
		return r;
	clock_set_offset_ms(0);
	for (size_t i = 0; i < c->n; i++)
		if (c->l[i].moved)
			c->l[i].moved(c->l[i].arg);
	return 0;
}
