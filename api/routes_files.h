#pragma once
/* Shared by api/routes_files*.c only. */

#include "api/api.h"
#include "emulator/files.h"

/* The sandbox of the request's {id}, as files.h wants it. ret->root_fd is the caller's; -1 on failure. */
int routes_files_open(struct req *r, struct files_ctx *ret, struct err *e);
static inline void routes_files_closep(struct files_ctx *c)
{
	closep(&c->root_fd);
}
#define _cleanup_files_ctx_ _cleanup_(routes_files_closep)

/* An error that a worker fills and the daemon reads, zeroed (a reason is a pointer to a literal, the same
 * in both). NULL out of memory. */
struct err *routes_files_shared_err(void);
void routes_files_shared_err_free(struct err *e); /* NULL is fine */

/* Bytes as a JSON string; what is not UTF-8 becomes U+FFFD. */
struct json_object *routes_files_text(const char *p, size_t n);

/* size, is_dir, mode and modified_at. */
void routes_files_add_entry(struct json_object *o, const struct files_entry *en);

/* GET of what files_open has opened (fd taken). */
void routes_files_read(struct req *r, const char *path, int fd);

void routes_files_post_begin(struct req *r);
void routes_files_post_data(struct req *r, const char *p, size_t n);
void routes_files_post(struct req *r);
void routes_files_put_begin(struct req *r);
void routes_files_put_data(struct req *r, const char *p, size_t n);
void routes_files_put(struct req *r);

/* GET of a directory as a tar archive. */
void routes_files_pack(struct req *r, const struct files_ctx *c, const char *path);
/* PUT and POST of one: the request's Content-Type says so. */
bool routes_files_is_tar(const struct req *r);
void routes_files_unpack_begin(struct req *r);
void routes_files_unpack_data(struct req *r, const char *p, size_t n);
void routes_files_unpack(struct req *r);
