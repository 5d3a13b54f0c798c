#pragma once
/* A response of events: Server-Sent Events, or the same objects one a line. Its owner embeds a struct feed as the first
 * member, makes one event at a time when the connection asks for more, and wakes it when there may be another. So a
 * response holds no more than one event; what waits is the owner's business. A comment line every 15 s keeps a quiet
 * stream of Server-Sent Events alive. An event that can't be made breaks the response off: no end is made up. */

#include <uv.h>

#include "api/http.h"
#include "emulator/base/buf.h"

struct feed;

struct feed_ops {
	/* Puts the next event into f->chunk, which is empty; leaves it so if there is none now. Negative: the response
	 * breaks off. */
	int (*next)(struct feed *f);
	/* There will be no other event. Asked when next() had none; NULL: it never ends by itself. */
	bool (*over)(struct feed *f);
	/* The response is over: nothing may wake it any more. */
	void (*end)(struct feed *f);
	/* The last thing: frees the owner. */
	void (*free)(struct feed *f);
};

struct feed {
	const struct feed_ops *ops;
	struct req *req;
	struct buf chunk; /* what goes out next; feed_start sends what is in it first */
	size_t sent;	  /* of it */
	uv_timer_t timer;
	bool ndjson, failed;
};

/* max: bytes of an event, its frame with it. */
#define FEED_INIT(owner_ops, r, max, lines)                                                                            \
	((struct feed){ .ops = (owner_ops), .req = (r), .ndjson = (lines), .chunk = BUF_INIT(max) })

/* Answers 200 with the stream. From here on the feed frees itself; before, buf_free(&f->chunk) is all there is. */
void feed_start(struct feed *f);

/* For the callback of whatever it reads; arg: the feed. */
void feed_wake(void *arg);
