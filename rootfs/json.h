#pragma once
/* Small JSON files of a state dir, and answers of a registry: read with bounds, written whole. What is
 * read is not trusted: sizes and types are checked, control characters refused. */

#include <json-c/json.h>

#include "emulator/base/err.h"
#include "rootfs/json_check.h"

static inline void json_putp(struct json_object **o)
{
	json_object_put(*o); /* NULL is fine */
}
#define _cleanup_json_ _cleanup_(json_putp)

/* As json_check has it, and p[n] must be 0. JSON's null is success, and NULL. Also -ENOMEM. */
int json_parse_at(const char *p, size_t n, struct json_limits l, struct json_object **ret, size_t *ret_at);

/* The same, with a message, for texts of less than `depth` nested arrays and objects. ERR_INVALID, ERR_TOO_LARGE (over
 * 2 GiB). */
int json_parse(const char *p, size_t n, int depth, struct json_object **ret, struct err *e);

/* A regular file of at most max bytes. -ENOENT (ERR_NOT_FOUND) when there is none; ERR_INVALID when it is no JSON object. */
int json_read_file(int dirfd, const char *path, size_t max, struct json_object **ret, struct err *e);

/* Temp file, fsync, rename, fsync of the folder; 0600. name is a file of dirfd itself. */
int json_write_file(int dirfd, const char *name, struct json_object *o, struct err *e);

/* The first half of that, for who has more to write before one wait for the disk: ".tmp-NAME", written, not yet on
 * disk. ret_tmp: its name, to rename or to unlink; *ret_fd: to fsync. */
#define JSON_TMP_SIZE 160
int json_write_temp(int dirfd, const char *name, struct json_object *o, char ret_tmp[static JSON_TMP_SIZE], int *ret_fd,
		    struct err *e);

/* A string member without control characters that fits. -ENOENT (ret becomes ""), -EINVAL. */
int json_get_string(struct json_object *o, const char *key, char *ret, size_t cap);
int json_get_u64(struct json_object *o, const char *key, uint64_t *ret);

/* Adds v (taken over; NULL: false, as when memory ran out). */
bool json_put(struct json_object *o, const char *key, struct json_object *v);
