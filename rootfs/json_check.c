#include "rootfs/json_check.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "emulator/base/text.h"

/* Every function leaves p behind what it took, or, when it returns false, at what is wrong. */
struct scan {
	const char *p, *end;
	struct json_limits left;
	bool too_many;
};

static bool value(struct scan *s);

static bool at(const struct scan *s, char c)
{
	return s->p < s->end && *s->p == c;
}

static bool take(struct scan *s, char c)
{
	if (!at(s, c))
		return false;
	s->p++;
	return true;
}

static void skip_space(struct scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\r' || *s->p == '\n'))
		s->p++;
}

static bool digit(const struct scan *s)
{
	return s->p < s->end && *s->p >= '0' && *s->p <= '9';
}

static bool digits(struct scan *s)
{
	if (!digit(s))
		return false;
	while (digit(s))
		s->p++;
	return true;
}

static bool number(struct scan *s)
{
	(void)take(s, '-');
	if (!take(s, '0') && !digits(s))
		return false;
	if (take(s, '.') && !digits(s))
		return false;
	if (take(s, 'e') || take(s, 'E')) {
		if (!take(s, '+'))
			(void)take(s, '-');
		return digits(s);
	}
	return true;
}

static bool hex_digits(struct scan *s)
{
	for (int i = 0; i < 4; i++, s->p++)
		if (s->p == s->end || !memchr("0123456789abcdefABCDEF", *s->p, 22))
			return false;
	return true;
}

static bool escape(struct scan *s)
{
	if (take(s, 'u'))
		return hex_digits(s);
	if (s->p == s->end || !memchr("\"\\/bfnrt", *s->p, 8))
		return false;
	s->p++;
	return true;
}

static bool string(struct scan *s)
{
	if (!take(s, '"'))
		return false;
	while (s->p < s->end && (unsigned char)*s->p >= 0x20) {
		if (take(s, '"'))
			return true;
		if (take(s, '\\')) {
			if (!escape(s))
				return false;
		} else {
			s->p++;
		}
	}
	return false;
}

static bool word(struct scan *s, const char *w)
{
	for (; *w; w++)
		if (!take(s, *w))
			return false;
	return true;
}

static bool member(struct scan *s)
{
	skip_space(s);
	if (!string(s))
		return false;
	skip_space(s);
	return take(s, ':') && value(s);
}

/* What is between brackets, which an empty one has none of. */
static bool container(struct scan *s, char close, bool (*item)(struct scan *s))
{
	if (s->left.depth == 0)
		return false;
	s->p++;
	skip_space(s);
	if (take(s, close))
		return true;
	s->left.depth--;
	do {
		if (!item(s))
			return false;
	} while (take(s, ','));
	s->left.depth++;
	return take(s, close);
}

static bool value(struct scan *s)
{
	bool ok;

	skip_space(s);
	s->too_many = s->left.values == 0;
	if (s->too_many)
		return false;
	s->left.values--;
	if (at(s, '{'))
		ok = container(s, '}', member);
	else if (at(s, '['))
		ok = container(s, ']', value);
	else if (at(s, '"'))
		ok = string(s);
	else if (at(s, 't'))
		ok = word(s, "true");
	else if (at(s, 'f'))
		ok = word(s, "false");
	else if (at(s, 'n'))
		ok = word(s, "null");
	else
		ok = number(s);
	if (ok)
		skip_space(s);
	return ok;
}

int json_check(const char *p, size_t n, struct json_limits l, size_t *ret_at)
{
	/* Before what is no UTF-8 it may be wrong for another reason; if not, it ends there. */
	struct scan s = { .p = p, .end = p + text_utf8_span(p, n), .left = l };
	bool ok = value(&s);

	*ret_at = (size_t)(s.p - p);
	if (s.too_many)
		return -E2BIG;
	return ok && *ret_at == n ? 0 : -EINVAL;
}
