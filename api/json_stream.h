#pragma once
/* One flat JSON object that arrives in pieces, with one string member too large to keep: its text is handed
 * on as it comes, unescaped; the other members are collected, at most JSON_STREAM_MEMBERS_MAX bytes of
 * them. The result does not depend on where the pieces were cut.
 *
 * Strict: RFC 8259, valid UTF-8, whole surrogate pairs in the streamed text, no member twice, nesting at
 * most 32. Errors are ERR_INVALID: "json_invalid", and json_stream_at() tells the byte, or "string_type"
 * when the streamed member is something else; ERR_TOO_LARGE for the members. After an error the stream is
 * of no more use than to be freed.
 */

#include <json-c/json.h>

#include "emulator/base/err.h"

#define JSON_STREAM_MEMBERS_MAX (64u << 10)

struct json_stream;

struct json_stream_config {
	const char *const *names; /* the streamed member and its aliases, NULL-terminated */
	/* The streamed member's text: valid UTF-8 in total, but a piece may end inside a character.
	 * An empty member makes no call. A negative answer ends the stream with it. */
	int (*text)(void *arg, const char *p, size_t n, struct err *e);
	void *arg;
};

/* -ENOMEM. The names must outlive it. */
int json_stream_new(const struct json_stream_config *c, struct json_stream **ret);
void json_stream_free(struct json_stream *s); /* NULL is fine */

int json_stream_feed(struct json_stream *s, const char *p, size_t n, struct err *e);
/* The body is over: an error unless the object is complete. */
int json_stream_finish(struct json_stream *s, struct err *e);

/* The members collected so far, without the streamed one; borrowed. */
struct json_object *json_stream_members(const struct json_stream *s);
/* Which of the names the streamed member has, as soon as it began; NULL: not seen. */
const char *json_stream_name(const struct json_stream *s);
uint64_t json_stream_at(const struct json_stream *s); /* bytes read; after an error: of the one to blame */
