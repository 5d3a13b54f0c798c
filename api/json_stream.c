/* Theory of operation
 *
 * A scanner of the one object's top level, byte by byte where structure is, run by run inside the streamed
 * string. Small members are found by counting brackets outside strings, kept as text, and given to json-c
 * once complete: json-c is never fed in pieces. Since it is more generous than JSON even when strict (NaN,
 * raw control characters), the scanner admits only bytes that JSON has outside strings, and no control
 * characters in them.
 *
 * Inside the streamed string, runs of plain ASCII are found eight bytes at a time and handed on from the
 * caller's own memory. Escapes and short runs go through a small buffer, so that text full of "\n" does
 * not become a call a line. */

#include "api/json_stream.h"

#include <errno.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "rootfs/json.h"

#define KEY_MAX 1024
#define DEPTH_MAX 32
#define OUT_SIZE 4096
#define OUT_DIRECT 512 /* runs from this size on are not copied */

enum state {
	AT_START,
	AT_FIRST_KEY, /* a key or '}' */
	AT_KEY,
	IN_KEY,
	AT_COLON,
	AT_VALUE,
	IN_VALUE,
	IN_TEXT,
	AT_COMMA, /* ',' or '}' */
	AT_END,
	BROKEN,
};

struct json_stream {
	struct json_stream_config c;
	enum state state;
	uint64_t at;
	struct json_object *members;
	size_t kept;	  /* bytes of members so far */
	const char *name; /* the streamed member's */
	struct buf key, value;
	char *key_name; /* unescaped */
	/* inside a key, a value or the text */
	bool in_string, escaped;
	int depth;
	uint64_t value_at;
	/* inside the text */
	int hex_left;		 /* digits of \u still to come */
	unsigned int unit, high; /* the one being read; a high surrogate waiting for its other half, or 0 */
	int more;		 /* continuation bytes still to come, the next one in lo..hi */
	unsigned char lo, hi;
	size_t out_len;
	char out[OUT_SIZE];
};

int json_stream_new(const struct json_stream_config *c, struct json_stream **ret)
{
	struct json_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->c = *c;
	s->key = BUF_INIT(KEY_MAX);
	s->value = BUF_INIT(JSON_STREAM_MEMBERS_MAX);
	s->members = json_object_new_object();
	if (!s->members) {
		free(s);
		return -ENOMEM;
	}
	*ret = s;
	return 0;
}

void json_stream_free(struct json_stream *s)
{
	if (!s)
		return;
	json_object_put(s->members);
	buf_free(&s->key);
	buf_free(&s->value);
	free(s->key_name);
	free(s);
}

struct json_object *json_stream_members(const struct json_stream *s)
{
	return s->members;
}

const char *json_stream_name(const struct json_stream *s)
{
	return s->name;
}

uint64_t json_stream_at(const struct json_stream *s)
{
	return s->at;
}

static int bad(struct json_stream *s, struct err *e, const char *what)
{
	s->state = BROKEN;
	return err_set(e, ERR_INVALID, EBADMSG, "json_invalid", "JSON decode error at byte %llu: %s",
		       (unsigned long long)s->at, what);
}

static bool is_space(char ch)
{
	return ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r';
}

/* ---- the streamed text ---- */

static int flush(struct json_stream *s, struct err *e)
{
	int r = 0;

	if (s->out_len > 0)
		r = s->c.text(s->c.arg, s->out, s->out_len, e);
	s->out_len = 0;
	if (r < 0)
		s->state = BROKEN;
	return r;
}

static int put(struct json_stream *s, const char *p, size_t n, struct err *e)
{
	int r = 0;

	if (s->out_len + n > OUT_SIZE || n >= OUT_DIRECT)
		r = flush(s, e);
	if (r < 0)
		return r;
	if (n >= OUT_DIRECT) {
		r = s->c.text(s->c.arg, p, n, e);
		if (r < 0)
			s->state = BROKEN;
		return r;
	}
	memcpy(s->out + s->out_len, p, n);
	s->out_len += n;
	return 0;
}

static int put_code_point(struct json_stream *s, unsigned int c, struct err *e)
{
	char u[4];
	size_t n = 0;

	if (c < 0x80) {
		u[n++] = (char)c;
	} else if (c < 0x800) {
		u[n++] = (char)(0xc0 | c >> 6);
	} else if (c < 0x10000) {
		u[n++] = (char)(0xe0 | c >> 12);
		u[n++] = (char)(0x80 | (c >> 6 & 63));
	} else {
		u[n++] = (char)(0xf0 | c >> 18);
		u[n++] = (char)(0x80 | (c >> 12 & 63));
		u[n++] = (char)(0x80 | (c >> 6 & 63));
	}
	if (c >= 0x80)
		u[n++] = (char)(0x80 | (c & 63));
	return put(s, u, n, e);
}

/* How many of the n bytes are ASCII that stands for itself. */
static size_t plain_run(const char *p, size_t n)
{
	const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		uint64_t w, quote, slash;

		memcpy(&w, p + i, 8);
		quote = w ^ (ones * '"');
		slash = w ^ (ones * '\\');
		/* A top bit is set where a byte is >= 0x80, < 0x20, '"' or '\\'. (The borrow of a subtraction
		 * can only mark bytes above one that is marked already, and those are looked at again.) */
		if ((w | (w - ones * 0x20) | (quote - ones) | (slash - ones)) & tops)
			break;
	}
	for (; i < n; i++) {
		unsigned char ch = (unsigned char)p[i];

		if (ch < 0x20 || ch >= 0x80 || ch == '"' || ch == '\\')
			break;
	}
	return i;
}

static int take_hex(struct json_stream *s, char ch, struct err *e)
{
	int v = text_hex_value(ch);
	unsigned int u;

	if (v < 0)
		return bad(s, e, "\\u needs four hex digits");
	u = s->unit = s->unit << 4 | (unsigned int)v;
	if (--s->hex_left > 0)
		return 0;
	if (s->high != 0) {
		if (u < 0xdc00 || u > 0xdfff)
			return bad(s, e, "half of a surrogate pair");
		u = 0x10000 + ((s->high - 0xd800) << 10) + (u - 0xdc00);
		s->high = 0;
		return put_code_point(s, u, e);
	}
	if (u >= 0xdc00 && u <= 0xdfff)
		return bad(s, e, "half of a surrogate pair");
	if (u >= 0xd800 && u <= 0xdbff) {
		s->high = u;
		return 0;
	}
	return put_code_point(s, u, e);
}

static int take_escape(struct json_stream *s, char ch, struct err *e)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at;

	s->escaped = false;
	if (ch == 'u') {
		s->hex_left = 4;
		s->unit = 0;
		return 0;
	}
	at = ch != '\0' ? strchr(from, ch) : NULL;
	if (!at)
		return bad(s, e, "no such escape");
	if (s->high != 0)
		return bad(s, e, "half of a surrogate pair");
	return put(s, to + (at - from), 1, e);
}

/* A byte >= 0x80 (Unicode 15, table 3-7). */
static int take_utf8(struct json_stream *s, unsigned char ch, struct err *e)
{
	if (s->more > 0) {
		if (ch < s->lo || ch > s->hi)
			return bad(s, e, "not UTF-8");
		s->more--;
		s->lo = 0x80;
		s->hi = 0xbf;
	} else if (ch < 0xc2 || ch > 0xf4) {
		return bad(s, e, "not UTF-8");
	} else {
		s->more = ch < 0xe0 ? 1 : ch < 0xf0 ? 2 : 3;
		s->lo = ch == 0xe0 ? 0xa0 : ch == 0xf0 ? 0x90 : 0x80;
		s->hi = ch == 0xed ? 0x9f : ch == 0xf4 ? 0x8f : 0xbf;
	}
	return put(s, (const char *)&ch, 1, e);
}

/* One byte of the text that is not part of a plain run. */
static int text_byte(struct json_stream *s, char ch, struct err *e)
{
	unsigned char u = (unsigned char)ch;

	if (s->hex_left > 0)
		return take_hex(s, ch, e);
	if (s->escaped)
		return take_escape(s, ch, e);
	if (s->high != 0 && ch != '\\')
		return bad(s, e, "half of a surrogate pair");
	if (s->more > 0 || u >= 0x80)
		return take_utf8(s, u, e);
	if (u < 0x20)
		return bad(s, e, "a raw control character in a string");
	if (ch == '\\') {
		s->escaped = true;
		return 0;
	}
	if (ch == '"') {
		s->state = AT_COMMA;
		return flush(s, e);
	}
	return put(s, &ch, 1, e);
}

static int feed_text(struct json_stream *s, const char **pp, const char *end, struct err *e)
{
	const char *p = *pp;
	int r = 0;

	while (p < end && s->state == IN_TEXT) {
		size_t n = 0;

		if (s->hex_left == 0 && !s->escaped && s->high == 0 && s->more == 0)
			n = plain_run(p, (size_t)(end - p));
		r = n > 0 ? put(s, p, n, e) : text_byte(s, *p, e);
		if (r < 0)
			return r;
		p += MAX(n, (size_t)1);
		s->at += MAX(n, (size_t)1);
	}
	*pp = p;
	return 0;
}

/* ---- keys and small members ---- */

/* A complete JSON value from its text. */
static struct json_object *parse(const struct buf *b, bool *ret_ok)
{
	struct json_object *o;
	size_t at;

	*ret_ok = json_parse_at(b->p, b->len, (struct json_limits){ DEPTH_MAX - 1, SIZE_MAX }, &o, &at) == 0;
	return o;
}

static int end_key(struct json_stream *s, struct err *e)
{
	struct json_object *o;
	bool ok;

	o = parse(&s->key, &ok);
	buf_reset(&s->key);
	free(s->key_name);
	s->key_name = NULL;
	if (ok && (size_t)json_object_get_string_len(o) == strlen(json_object_get_string(o)))
		s->key_name = strdup(json_object_get_string(o));
	json_object_put(o);
	if (!s->key_name)
		return bad(s, e, "not a member name");
	s->state = AT_COLON;
	return 0;
}

static int end_value(struct json_stream *s, struct err *e)
{
	struct json_object *o;
	bool ok;

	o = parse(&s->value, &ok);
	buf_reset(&s->value);
	if (!ok || json_object_object_get_ex(s->members, s->key_name, NULL)) {
		json_object_put(o);
		s->at = s->value_at;
		return bad(s, e, ok ? "a member appears twice" : "not a JSON value");
	}
	if (json_object_object_add(s->members, s->key_name, o) < 0) {
		json_object_put(o);
		s->state = BROKEN;
		return err_errno(e, ENOMEM, "read a JSON body");
	}
	s->state = AT_COMMA;
	return 0;
}

/* One more byte of key or value. */
static int keep(struct json_stream *s, struct buf *b, char ch, struct err *e)
{
	if (++s->kept <= JSON_STREAM_MEMBERS_MAX && buf_add(b, &ch, 1) == 0)
		return 0;
	s->state = BROKEN;
	return err_set(e, ERR_TOO_LARGE, EMSGSIZE, "payload_too_large",
		       "the members beside the content are larger than %u bytes", JSON_STREAM_MEMBERS_MAX);
}

/* A byte inside a kept string: true when it was its closing quote. */
static bool string_byte(struct json_stream *s, char ch)
{
	if (s->escaped)
		s->escaped = false;
	else if (ch == '\\')
		s->escaped = true;
	else
		return ch == '"';
	return false;
}

static int key_byte(struct json_stream *s, char ch, struct err *e)
{
	int r = keep(s, &s->key, ch, e);

	if (r < 0)
		return r;
	if ((unsigned char)ch < 0x20)
		return bad(s, e, "a raw control character in a string");
	return string_byte(s, ch) ? end_key(s, e) : 0;
}

/* A byte of a small member. *ret_again: it ended the value without being part of it. */
static int value_byte(struct json_stream *s, char ch, bool *ret_again, struct err *e)
{
	bool over = false;
	int r;

	if (!s->in_string && s->depth == 0 && s->value.len > 0 && (is_space(ch) || ch == ',' || ch == '}')) {
		*ret_again = true;
		return end_value(s, e);
	}
	r = keep(s, &s->value, ch, e);
	if (r < 0)
		return r;
	if (s->in_string) {
		if ((unsigned char)ch < 0x20)
			return bad(s, e, "a raw control character in a string");
		s->in_string = !string_byte(s, ch);
		over = !s->in_string;
	} else if (ch == '"') {
		s->in_string = true;
	} else if (ch == '{' || ch == '[') {
		if (++s->depth > DEPTH_MAX)
			return bad(s, e, "nested too deeply");
	} else if (ch == '}' || ch == ']') {
		if (--s->depth < 0)
			return bad(s, e, "a bracket that was not opened");
		over = true;
	} else if (ch == '\0' || !strchr(" \t\r\n,:-+.0123456789eEtrufalsn", ch)) {
		return bad(s, e, "not a JSON value");
	}
	return over && s->depth == 0 ? end_value(s, e) : 0;
}

static int begin_value(struct json_stream *s, char ch, bool *ret_again, struct err *e)
{
	bool streamed = false;

	for (size_t i = 0; s->c.names[i] && !streamed; i++) {
		streamed = strcmp(s->c.names[i], s->key_name) == 0;
		if (streamed && s->name)
			return bad(s, e, "the content appears twice");
		if (streamed)
			s->name = s->c.names[i];
	}
	s->in_string = s->escaped = false;
	s->depth = 0;
	s->value_at = s->at;
	if (streamed && ch == '"') {
		s->state = IN_TEXT;
		return 0;
	}
	if (streamed && strchr("{[-0123456789tfn", ch) && ch != '\0') {
		s->state = BROKEN;
		return err_set(e, ERR_INVALID, EINVAL, "string_type", "Input should be a valid string");
	}
	s->state = IN_VALUE;
	*ret_again = true;
	return 0;
}

static int structure_byte(struct json_stream *s, char ch, bool *ret_again, struct err *e)
{
	switch (s->state) {
	case AT_START:
		if (ch != '{')
			return bad(s, e, "not an object");
		s->state = AT_FIRST_KEY;
		return 0;
	case AT_FIRST_KEY:
	case AT_KEY:
		if (ch == '}' && s->state == AT_FIRST_KEY) {
			s->state = AT_END;
			return 0;
		}
		if (ch != '"')
			return bad(s, e, "a member name was expected");
		s->state = IN_KEY;
		s->escaped = false;
		return keep(s, &s->key, ch, e);
	case AT_COLON:
		if (ch != ':')
			return bad(s, e, "':' was expected");
		s->state = AT_VALUE;
		return 0;
	case AT_VALUE:
		return begin_value(s, ch, ret_again, e);
	case AT_COMMA:
		if (ch != ',' && ch != '}')
			return bad(s, e, "',' or '}' was expected");
		s->state = ch == ',' ? AT_KEY : AT_END;
		return 0;
	default:
		return bad(s, e, "something follows the object");
	}
}

int json_stream_feed(struct json_stream *s, const char *p, size_t n, struct err *e)
{
	const char *end = p + n;

	while (p < end) {
		bool again = false;
		int r = 0;

		if (s->state == BROKEN)
			return err_set(e, ERR_INTERNAL, EINVAL, NULL, "a JSON stream goes on after its error");
		if (s->state == IN_TEXT) {
			r = feed_text(s, &p, end, e);
			if (r < 0)
				return r;
			continue;
		}
		if (s->state == IN_KEY)
			r = key_byte(s, *p, e);
		else if (s->state == IN_VALUE)
			r = value_byte(s, *p, &again, e);
		else if (!is_space(*p))
			r = structure_byte(s, *p, &again, e);
		if (r < 0)
			return r;
		if (!again) {
			p++;
			s->at++;
		}
	}
	return 0;
}

int json_stream_finish(struct json_stream *s, struct err *e)
{
	if (s->state == AT_END)
		return 0;
	return bad(s, e, "the object is not complete");
}
