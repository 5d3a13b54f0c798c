#pragma once
/* A snapshot's tar.zst, uncompressed: by this process, or by one of its own beside what is done with it. Blocks. */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/base/text.h"

struct snapshot_inflated {
	char digest[TEXT_SHA256_SIZE]; /* of the uncompressed stream */
	uint64_t bytes;
	int r; /* how it went: 0, -EBADMSG (damaged, or more than max), or another negative errno */
};

/* Reads in_fd from its beginning, writes to out_fd. Returns ret->r. */
int snapshot_inflate(int in_fd, int out_fd, uint64_t max, struct snapshot_inflated *ret);

/* The same in a child, through a pipe: two cores work, and the hash is not in the way of the unpacking. */
struct inflater {
	int fd; /* to read from */
	pid_t pid;
	struct snapshot_inflated *shared;
};
#define INFLATER_INIT ((struct inflater){ .fd = -1 })
int inflater_start(struct inflater *i, int in_fd, uint64_t max, struct err *e);
/* Waits for it, once all was read. *ret is filled; without one (i->pid 0) nothing happens. */
void inflater_end(struct inflater *i, struct snapshot_inflated *ret);
void inflater_free(struct inflater *i); /* kills what still runs */
#define _cleanup_inflater_ _cleanup_(inflater_free)
