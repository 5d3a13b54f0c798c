#include "rootfs/json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"

int json_parse_at(const char *p, size_t n, struct json_limits l, struct json_object **ret, size_t *ret_at)
{
	struct json_tokener *t;
	struct json_object *o;
	int r;

	*ret = NULL;
	*ret_at = 0;
	r = n < INT32_MAX ? json_check(p, n, l, ret_at) : -EINVAL;
	if (r < 0)
		return r;
	t = json_tokener_new_ex(l.depth + 1);
	if (!t)
		return -ENOMEM;
	/* With the terminator, so that a bare number is known to be complete. */
	o = json_tokener_parse_ex(t, p, (int)n + 1);
	if (json_tokener_get_error(t) != json_tokener_success) {
		*ret_at = MIN(json_tokener_get_parse_end(t), n);
		json_object_put(TAKE_PTR(o));
		r = -EINVAL;
	}
	json_tokener_free(t);
	*ret = o;
	return r;
}

int json_parse(const char *p, size_t n, int depth, struct json_object **ret, struct err *e)
{
	size_t at;
	int r = json_parse_at(p, n, (struct json_limits){ depth - 1, SIZE_MAX }, ret, &at);

	if (r == -ENOMEM)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	if (r < 0 && n >= INT32_MAX)
		return err_set(e, ERR_TOO_LARGE, EFBIG, NULL, "the JSON text is too large");
	return r < 0 ? err_set(e, ERR_INVALID, EINVAL, NULL, "not valid JSON") : 0;
}

int json_read_file(int dirfd, const char *path, size_t max, struct json_object **ret, struct err *e)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	_cleanup_json_ struct json_object *o = NULL;
	_cleanup_free_ char *text = NULL;
	struct stat st;
	ssize_t n;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "cannot read %s", path);
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > max)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s is no file of ours", path);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	n = fd_read_all(fd, text, (size_t)st.st_size);
	if (n < 0)
		return err_errno(e, (int)-n, "cannot read %s", path);
	text[n] = '\0';
	r = json_parse(text, (size_t)n, 8, &o, e);
	if (r < 0) {
		err_prefix(e, "%s", path);
		return r;
	}
	if (!json_object_is_type(o, json_type_object))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s: not a JSON object", path);
	*ret = TAKE_PTR(o);
	return 0;
}

int json_write_temp(int dirfd, const char *name, struct json_object *o, char ret_tmp[static JSON_TMP_SIZE], int *ret_fd,
		    struct err *e)
{
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
	_cleanup_close_ int fd = -1;
	int r;

	if (!text)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	if (text_format(ret_tmp, JSON_TMP_SIZE, ".tmp-%s", name) < 0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the name is too long");
	(void)unlinkat(dirfd, ret_tmp, 0);
	fd = openat(dirfd, ret_tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(e, errno, "cannot make %s", name);
	r = fd_write_all(fd, text, strlen(text));
	if (r == 0)
		r = fd_write_all(fd, "\n", 1);
	if (r < 0) {
		(void)unlinkat(dirfd, ret_tmp, 0);
		return err_errno(e, -r, "cannot write %s", name);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int json_write_file(int dirfd, const char *name, struct json_object *o, struct err *e)
{
	_cleanup_close_ int fd = -1;
	char tmp[JSON_TMP_SIZE];
	int r = json_write_temp(dirfd, name, o, tmp, &fd, e);

	if (r < 0)
		return r;
	if (fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
		r = -errno;
	if (r == 0 && fsync(dirfd) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(dirfd, tmp, 0);
		return err_errno(e, -r, "cannot write %s", name);
	}
	return 0;
}

int json_get_string(struct json_object *o, const char *key, char *ret, size_t cap)
{
	struct json_object *v;
	const char *s;
	size_t n;

	*ret = '\0';
	if (!json_object_object_get_ex(o, key, &v) || !v)
		return -ENOENT;
	if (!json_object_is_type(v, json_type_string))
		return -EINVAL;
	s = json_object_get_string(v);
	n = (size_t)json_object_get_string_len(v);
	if (n >= cap)
		return -EINVAL;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			return -EINVAL;
	memcpy(ret, s, n);
	ret[n] = '\0';
	return 0;
}

int json_get_u64(struct json_object *o, const char *key, uint64_t *ret)
{
	struct json_object *v;

	if (!json_object_object_get_ex(o, key, &v) || !v)
		return -ENOENT;
	if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v) < 0)
		return -EINVAL;
	*ret = json_object_get_uint64(v);
	return 0;
}

bool json_put(struct json_object *o, const char *key, struct json_object *v)
{
	if (!v)
		return false;
	if (json_object_object_add(o, key, v) < 0) {
		json_object_put(v);
		return false;
	}
	return true;
}
