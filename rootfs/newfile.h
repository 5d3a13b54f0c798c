#pragma once
/* A file that appears whole: its data goes into a file without a name (O_TMPFILE) in the folder it will be
 * in, so nobody sees it before it is complete and it is gone with its last fd whatever happens, kill -9
 * included. Where the file system has no O_TMPFILE it has a hidden name from the start.
 *
 * Everything is by folder fd and one name: nothing is resolved here. Negative errno on failure. */

#include "emulator/base/util.h"

#define NEWFILE_TEMP_SIZE 32

struct newfile {
	int dirfd;		      /* borrowed */
	int fd;			      /* to write to; O_RDWR, mode 0600 until the caller says otherwise */
	char temp[NEWFILE_TEMP_SIZE]; /* its hidden name, or "" while it has none */
};
#define NEWFILE_INIT ((struct newfile){ .dirfd = -1, .fd = -1 })

int newfile_open(struct newfile *f, int dirfd);

/* Gives it its name. What has the name already goes in the same instant (-EISDIR for a folder); replace only
 * says whether that is expected, which saves a try. */
int newfile_publish(struct newfile *f, const char *name, bool replace);

/* Closes it; without a name it is gone. */
void newfile_drop(struct newfile *f);
#define _cleanup_newfile_ _cleanup_(newfile_drop)

/* ".orkestr-" and 16 random hex digits. */
void newfile_temp_name(char ret[static NEWFILE_TEMP_SIZE]);
