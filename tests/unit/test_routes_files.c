/* The files routes over real sockets. */

#include "tests/unit/routes_files_fixture.h"

#include "emulator/base/clock.h"
#include "emulator/base/text.h"

TestSuite(routes_files, .init = setup, .fini = teardown, .timeout = 120);

Test(routes_files, write_read_list_delete)
{
	_cleanup_answer_ struct answer a = { 0 };
	struct json_object *entries;
	int64_t at = 0;
	struct stat st;

	post("{\"path\":\"/workspace/main.py\",\"content\":\"cHJpbnQoMSk=\",\"encoding\":\"base64\"}", &a);
	expect_status(&a, 201, NULL, "new");
	cr_expect_str_eq(text_of(a.json, "path"), "/workspace/main.py");
	cr_expect_str_eq(text_of(a.json, "size"), "8");
	cr_expect_str_eq(text_of(a.json, "is_dir"), "false");
	cr_expect_str_eq(text_of(a.json, "mode"), "0644");
	cr_expect(clock_parse_iso(text_of(a.json, "modified_at"), &at) == 0 && llabs(at - clock_real_ms()) < 10000);
	cr_assert(fstatat(root_fd, "workspace/main.py", &st, 0) == 0);
	cr_expect(st.st_uid == 1 && st.st_gid == 1, "the sandbox's root owns it");
	answer_free(&a);
	post("{\"path\":\"/workspace/main.py\",\"content\":\"cHJpbnQoMik=\",\"mode\":\"0755\"}", &a);
	expect_status(&a, 200, NULL, "replaced");
	cr_expect_str_eq(text_of(a.json, "mode"), "0755");
	answer_free(&a);
	get("path=/workspace/main.py", "", &a);
	expect_status(&a, 200, NULL, "read");
	cr_expect_str_eq(text_of(a.json, "content"), "cHJpbnQoMik=");
	cr_expect_str_eq(text_of(a.json, "encoding"), "base64");
	cr_expect_str_eq(text_of(a.json, "size"), "8");
	answer_free(&a);
	get("path=/workspace/main.py&encoding=utf-8", "", &a);
	cr_expect_str_eq(text_of(a.json, "content"), "print(2)");
	cr_expect_str_eq(text_of(a.json, "encoding"), "utf-8");
	answer_free(&a);
	call("PUT", BASE "?path=/workspace/raw%20%C3%A4&mode=600", "", "\x00\xff\n", 3, &a);
	expect_status(&a, 201, NULL, "put");
	cr_expect_str_eq(text_of(a.json, "mode"), "0600");
	expect_file("workspace/raw \xc3\xa4", "\x00\xff\n", 3, "put");
	answer_free(&a);
	get("path=/workspace/raw%20%C3%A4&encoding=utf-8", "", &a);
	cr_expect_str_eq(text_of(a.json, "encoding"), "base64", "not UTF-8");
	cr_expect_str_eq(text_of(a.json, "content"), "AP8K");
	answer_free(&a);
	get("path=/workspace", "", &a);
	expect_status(&a, 200, NULL, "list");
	cr_assert(json_object_object_get_ex(a.json, "entries", &entries) && json_object_array_length(entries) == 2);
	cr_expect_str_eq(text_of(json_object_array_get_idx(entries, 0), "name"), "main.py");
	cr_expect_str_eq(text_of(json_object_array_get_idx(entries, 0), "path"), "/workspace/main.py");
	cr_expect_str_eq(text_of(json_object_array_get_idx(entries, 1), "name"), "raw \xc3\xa4");
	answer_free(&a);
	call("DELETE", BASE "?path=/workspace/main.py", "", "", 0, &a);
	expect_status(&a, 204, NULL, "delete");
	answer_free(&a);
	get("path=/workspace/main.py", "", &a);
	expect_status(&a, 404, "file_not_found", "gone");
	answer_free(&a);
	call("DELETE", BASE "?path=/workspace", "", "", 0, &a);
	expect_status(&a, 409, "directory_not_empty", "not recursive");
	answer_free(&a);
	call("DELETE", BASE "?path=/workspace&recursive=true", "", "", 0, &a);
	expect_status(&a, 204, NULL, "recursive");
	cr_expect(faccessat(root_fd, "workspace", F_OK, 0) < 0);
}

/* One member of the body, by its letter. */
static int add_member(struct buf *b, char which, const char *coding, const char *content)
{
	if (b->len > 1 && buf_puts(b, ",") < 0)
		return -ENOMEM;
	switch (which) {
	case 'p':
		return buf_puts(b, "\"path\":\"/d/f\"");
	case 'm':
		return buf_puts(b, "\"mode\":\"0640\"");
	case 'e':
		return coding ? buf_printf(b, "\"encoding\":\"%s\"", coding) : buf_puts(b, "\"unknown\":[1]");
	default:
		return buf_puts(b, "\"content\":\"") < 0 || buf_puts(b, content) < 0 ? -ENOMEM : buf_puts(b, "\"");
	}
}

struct sample {
	const char *what, *coding;
	char *content; /* as in the JSON */
	char *want;
	size_t n;
};

static void post_sample(const struct sample *s, const char *order)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1u << 26);
	_cleanup_answer_ struct answer a = { 0 };
	char what[128];
	struct stat st;

	cr_assert(buf_puts(&b, "{") == 0);
	for (const char *p = order; *p; p++)
		cr_assert(add_member(&b, *p, s->coding, s->content) == 0);
	cr_assert(buf_puts(&b, "}") == 0);
	(void)snprintf(what, sizeof(what), "%s, %s, %zu", s->what, order, s->n);
	post(b.p, &a);
	cr_expect((a.status == 200 || a.status == 201) && a.whole, "%s: %d %s", what, a.status, a.body.p);
	expect_file("d/f", s->want, s->n, what);
	cr_assert(fstatat(root_fd, "d/f", &st, 0) == 0);
	cr_expect((st.st_mode & 07777) == 0640, "%s: mode %o", what, st.st_mode);
}

static char *repeat(const char *s, size_t n)
{
	struct buf b = BUF_INIT(1u << 26);

	while (b.len < n)
		cr_assert(buf_add(&b, s, MIN(strlen(s), n - b.len)) == 0);
	return b.p ? b.p : strdup("");
}

/* Base 64 with its lines broken at 76 as MIME does, the breaks as JSON escapes. */
static char *mime(const char *text)
{
	struct buf b = BUF_INIT(1u << 26);

	for (size_t i = 0, n = strlen(text); i < n; i += 76)
		cr_assert(buf_add(&b, text + i, MIN((size_t)76, n - i)) == 0 && buf_puts(&b, "\\r\\n") == 0);
	return b.p ? b.p : strdup("");
}

static void make_samples(size_t n, struct sample s[static 7])
{
	char *raw = malloc(n + 1), *code = malloc(n / 3 * 4 + 8);

	text_random(raw, n);
	(void)text_base64_encode(raw, n, code);
	s[0] = (struct sample){ "base64", "base64", strdup(code), raw, n };
	s[1] = (struct sample){ "base64, not said", NULL, strdup(code), memcpy(malloc(n + 1), raw, n), n };
	s[2] = (struct sample){ "MIME", "base64", mime(code), memcpy(malloc(n + 1), raw, n), n };
	s[3] = (struct sample){ "MIME, not said", NULL, mime(code), memcpy(malloc(n + 1), raw, n), n };
	for (char *p = code; *p; p++)
		*p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
	code[strcspn(code, "=")] = '\0';
	s[4] = (struct sample){ "URL alphabet", "base64", code, memcpy(malloc(n + 1), raw, n), n };
	s[5] = (struct sample){ "text that looks like base64", "utf-8", repeat("abcdEFGH0123/+x", n),
				repeat("abcdEFGH0123/+x", n), n };
	s[6] = (struct sample){ "text", "utf-8", repeat("words and words \xc3\xa4 ", n / 19 * 19),
				repeat("words and words \xc3\xa4 ", n / 19 * 19), n / 19 * 19 };
}

Test(routes_files, members_in_any_order)
{
	static const char *const orders[] = { "pecm", "pcem", "mepc", "cpem", "cepm", "ecpm", "mcep" };
	static const size_t sizes[] = { 0, 1, 100, 6143, 6144, 6145, 8191, 8193, 70001, 3000002 };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct sample s[7];

		make_samples(sizes[i], s);
		for (size_t k = 0; k < ARRAY_SIZE(s); k++) {
			for (size_t o = 0; o < ARRAY_SIZE(orders); o++)
				post_sample(&s[k], orders[o]);
			free(s[k].content);
			free(s[k].want);
		}
	}
}

/* Text that can be taken for base 64 up to a byte somewhere in the second block. */
Test(routes_files, a_guess_that_fails_late)
{
	static const char *const tails[] = { "!", "=", "==", "=x", "===", "\\u00e4", " ", "-" };
	static const char *const wants[] = { "!", "=", "==", "=x", "===", "\xc3\xa4", " ", "-" };

	for (size_t n = 65530; n < 65540; n++) {
		for (size_t i = 0; i < ARRAY_SIZE(tails); i++) {
			char *head = repeat("abcdefghijk", n);
			struct sample s = { "late", "utf-8", malloc(n + 32), malloc(n + 32), n + strlen(wants[i]) };

			(void)snprintf(s.content, n + 32, "%s%s", head, tails[i]);
			(void)snprintf(s.want, n + 32, "%s%s", head, wants[i]);
			post_sample(&s, "pcem");
			free(head);
			free(s.content);
			free(s.want);
		}
	}
}

Test(routes_files, bad_bodies)
{
	static const struct {
		const char *body;
		int status;
		const char *code, *part;
	} cases[] = {
		{ "", 422, "validation_error", "\"json_invalid\"" },
		{ "{}", 422, "validation_error", "[\"body\",\"path\"]" },
		{ "{\"path\":\"/f\"}", 422, "validation_error", "[\"body\",\"content\"]" },
		{ "{\"content\":\"\"}", 422, "validation_error", "[\"body\",\"path\"]" },
		{ "{\"path\":7,\"content\":\"\"}", 422, "validation_error", "[\"body\",\"path\"]" },
		{ "{\"path\":\"/f\",\"content\":7}", 422, "validation_error", "[\"body\",\"content\"]" },
		{ "{\"path\":\"/f\",\"content\":\"\",\"mode\":\"9\"}", 422, "validation_error", "[\"body\",\"mode\"]" },
		{ "{\"path\":\"/f\",\"content\":\"\",\"mode\":4096}", 422, "validation_error", "[\"body\",\"mode\"]" },
		{ "{\"path\":\"/f\",\"content\":\"\",\"mode\":\"010000\"}", 422, "validation_error",
		  "[\"body\",\"mode\"]" },
		{ "{\"path\":\"/f\",\"content\":\"\",\"mode\":true}", 422, "validation_error", "[\"body\",\"mode\"]" },
		{ "{\"path\":\"/f\",\"content\":\"\",\"encoding\":\"hex\"}", 422, "validation_error",
		  "[\"body\",\"encoding\"]" },
		{ "{\"path\":\"/f\",\"content_b64\":\"\",\"encoding\":\"utf-8\"}", 422, "validation_error",
		  "[\"body\",\"encoding\"]" },
		{ "{\"path\":\"/f\",\"content\":\"a\"}", 422, "validation_error", "[\"body\",\"content\"]" },
		{ "{\"path\":\"/f\",\"content\":\"ab!d\"}", 422, "validation_error", "character 2" },
		{ "{\"encoding\":\"base64\",\"path\":\"/f\",\"content\":\"abcd!\"}", 422, "validation_error",
		  "character 4" },
		{ "{\"path\":\"/f\",\"content\":\"abcd\"", 422, "validation_error", "[\"body\",29]" },
		{ "{\"path\":\"/f\",\"content\":\"\xff\"}", 422, "validation_error", "[\"body\",24]" },
		{ "{\"path\":\"/f\\u0000g\",\"content\":\"\"}", 400, "path_invalid", "" },
		{ "{\"path\":\"f\",\"content\":\"\"}", 400, "path_invalid", "" },
		{ "{\"path\":\"\",\"content\":\"\"}", 400, "path_invalid", "" },
		{ "{\"path\":\"/dir\",\"content\":\"\"}", 400, "is_a_directory", "" },
		{ "{\"path\":\"/file/x\",\"content\":\"\"}", 400, "not_a_directory", "" },
		{ "{\"path\":\"/fifo\",\"content\":\"\"}", 400, "not_a_file", "" },
	};

	make_file("file", "x", 1);
	cr_assert(mkdirat(root_fd, "dir", 0755) == 0 && mkfifoat(root_fd, "fifo", 0644) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_answer_ struct answer a = { 0 };

		post(cases[i].body, &a);
		expect_status(&a, cases[i].status, cases[i].code, cases[i].body);
		cr_expect(strstr(a.body.p, cases[i].part), "%s: %s", cases[i].body, a.body.p);
	}
	cr_expect(faccessat(root_fd, "f", F_OK, 0) < 0, "nothing was written");
}

Test(routes_files, bad_queries)
{
	static const struct {
		const char *method, *target;
		int status;
		const char *code;
	} cases[] = {
		{ "GET", BASE, 422, "validation_error" },
		{ "PUT", BASE, 422, "validation_error" },
		{ "DELETE", BASE, 422, "validation_error" },
		{ "GET", BASE "?path=", 400, "path_invalid" },
		{ "GET", BASE "?path=/a%00b", 400, "path_invalid" },
		{ "GET", BASE "?path=/&limit=0", 422, "validation_error" },
		{ "GET", BASE "?path=/&limit=x", 422, "validation_error" },
		{ "GET", BASE "?path=/&after_base64=!", 422, "validation_error" },
		{ "GET", BASE "?path=/&after_base64=YQBi", 422, "validation_error" },
		{ "GET", BASE "?path=/file&encoding=hex", 422, "validation_error" },
		{ "GET", BASE "?path=/file/", 400, "not_a_directory" },
		{ "GET", BASE "?path=/../../../../etc/passwd", 404, "file_not_found" },
		{ "GET", BASE "?path=/fifo", 400, "not_a_file" },
		{ "PUT", BASE "?path=/x&mode=888", 422, "validation_error" },
		{ "DELETE", BASE "?path=/x&recursive=maybe", 422, "validation_error" },
		{ "DELETE", BASE "?path=/&recursive=true", 400, "path_invalid" },
		{ "DELETE", BASE "?path=/x", 404, "file_not_found" },
		{ "GET", "/v1/sandboxes/sbx_2/files?path=/", 404, "sandbox_not_found" },
		{ "PUT", "/v1/sandboxes/sbx_2/files?path=/x", 404, "sandbox_not_found" },
		{ "POST", "/v1/sandboxes/sbx_2/files", 404, "sandbox_not_found" },
		{ "DELETE", "/v1/sandboxes/sbx_2/files?path=/x", 404, "sandbox_not_found" },
	};

	make_file("file", "x", 1);
	cr_assert(mkfifoat(root_fd, "fifo", 0644) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_answer_ struct answer a = { 0 };

		call(cases[i].method, cases[i].target, "", "", 0, &a);
		expect_status(&a, cases[i].status, cases[i].code, cases[i].target);
	}
}

Test(routes_files, raw_bytes_and_ranges)
{
	static const struct {
		const char *range;
		int status;
		const char *body, *content_range;
	} cases[] = {
		{ "", 200, "0123456789", NULL },
		{ "Range: bytes=0-0\r\n", 206, "0", "bytes 0-0/10" },
		{ "Range: bytes=2-4\r\n", 206, "234", "bytes 2-4/10" },
		{ "Range: bytes=7-\r\n", 206, "789", "bytes 7-9/10" },
		{ "Range: bytes=7-99\r\n", 206, "789", "bytes 7-9/10" },
		{ "Range: bytes=-3\r\n", 206, "789", "bytes 7-9/10" },
		{ "Range: bytes=-99\r\n", 206, "0123456789", "bytes 0-9/10" },
		{ "Range: bytes=10-\r\n", 416, NULL, "bytes */10" },
		{ "Range: bytes=-0\r\n", 416, NULL, "bytes */10" },
		{ "Range: bytes=18446744073709551615-\r\n", 416, NULL, "bytes */10" },
		{ "Range: bytes=99999999999999999999999-\r\n", 200, "0123456789", NULL },
		{ "Range: bytes=5-2\r\n", 200, "0123456789", NULL },
		{ "Range: bytes=1-2,4-5\r\n", 200, "0123456789", NULL },
		{ "Range: bytes=-\r\n", 200, "0123456789", NULL },
		{ "Range: lines=1-2\r\n", 200, "0123456789", NULL },
		{ "Range: bytes=1-2\r\nIf-Range: \"other\"\r\n", 200, "0123456789", NULL },
	};
	char headers[256], value[96], etag[96];

	make_file("f", "0123456789", 10);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_answer_ struct answer a = { 0 };

		(void)snprintf(headers, sizeof(headers), "Accept: application/octet-stream\r\n%s", cases[i].range);
		get("path=/f", headers, &a);
		expect_status(&a, cases[i].status, cases[i].body ? NULL : "range_not_satisfiable", cases[i].range);
		if (cases[i].body)
			cr_expect_str_eq(a.body.p, cases[i].body, "%s", cases[i].range);
		if (cases[i].content_range)
			cr_expect_str_eq(header(&a, "Content-Range", value, sizeof(value)), cases[i].content_range);
		cr_expect(header(&a, "Accept-Ranges", value, sizeof(value)) &&
			  header(&a, "Last-Modified", value, sizeof(value)));
		cr_assert(header(&a, "ETag", etag, sizeof(etag)));
	}
	{
		_cleanup_answer_ struct answer a = { 0 }, b = { 0 };

		(void)snprintf(headers, sizeof(headers),
			       "Accept: application/octet-stream\r\nRange: bytes=1-2\r\nIf-Range: %s\r\n", etag);
		get("path=/f", headers, &a);
		expect_status(&a, 206, NULL, "If-Range");
		(void)snprintf(headers, sizeof(headers), "Accept: application/octet-stream\r\nIf-None-Match: %s\r\n",
			       etag);
		get("path=/f", headers, &b);
		expect_status(&b, 304, NULL, "If-None-Match");
	}
}

Test(routes_files, listings_in_pages)
{
	_cleanup_answer_ struct answer all = { 0 };
	struct json_object *entries, *en;
	char after[256] = "";
	size_t seen = 0;

	cr_assert(mkdirat(root_fd, "l", 0755) == 0);
	for (int i = 0; i < 2500; i++) {
		char name[64];

		(void)snprintf(name, sizeof(name), "l/%04d%s", i,
			       i % 100 == 7   ? "\xff\n\""
			       : i % 100 == 8 ? "\xc3\xa4"
					      : "");
		cr_assert(mknodat(root_fd, name, S_IFREG | 0600, 0) == 0);
	}
	cr_assert(symlinkat("/l", root_fd, "link") == 0);
	get("path=/link/", "", &all);
	expect_status(&all, 200, NULL, "all");
	cr_assert(json_object_object_get_ex(all.json, "entries", &entries) &&
		  json_object_array_length(entries) == 2500);
	cr_expect_str_eq(text_of(all.json, "path"), "/link");
	cr_expect_str_eq(text_of(all.json, "next_after"), "(none)");
	en = json_object_array_get_idx(entries, 7);
	cr_expect_str_eq(text_of(en, "name"), "0007\xef\xbf\xbd\n\"");
	cr_expect_str_eq(text_of(en, "name_base64"), "MDAwN/8KIg==");
	for (int pages = 0; seen < 2500; pages++) {
		_cleanup_answer_ struct answer a = { 0 };
		char query[512];

		cr_assert(pages < 2500 / 9 + 2);
		(void)snprintf(query, sizeof(query), "path=/l&limit=9%s", after);
		get(query, "", &a);
		expect_status(&a, 200, NULL, query);
		cr_assert(json_object_object_get_ex(a.json, "entries", &entries));
		for (size_t i = 0; i < json_object_array_length(entries); i++, seen++)
			cr_expect(strtoul(text_of(json_object_array_get_idx(entries, i), "name"), NULL, 10) == seen);
		if (json_object_object_get_ex(a.json, "next_after_base64", &en))
			(void)snprintf(after, sizeof(after), "&after_base64=%s", json_object_get_string(en));
		else
			(void)snprintf(after, sizeof(after), "&after=%.10s", text_of(a.json, "next_after"));
		for (char *p = strchr(after + 8, '/'); p; p = strchr(p, '/'))
			*p = '_'; /* the URL alphabet is fine as well */
	}
	cr_expect_str_eq(after, "&after=(none)");
}

static uint64_t status_kb(const char *key)
{
	char path[32], text[8192], *p;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", server_pid);
	cr_assert(fd_read_file(AT_FDCWD, path, text, sizeof(text)) > 0);
	p = strstr(text, key);
	return p ? strtoull(p + strlen(key) + 1, NULL, 10) : 0;
}

/* 100 MB each way in constant memory; base 64 in JSON, with what is said after it. */
Test(routes_files, large_files_in_little_memory)
{
	enum { PIECE = 3 << 16, PIECES = 512 };
	static char raw[PIECE], code[PIECE / 3 * 4 + 1];
	static const char head[] = "{\"path\":\"/big\",\"content\":\"", tail[] = "\",\"encoding\":\"base64\"}";
	uint64_t code_n = PIECE / 3 * 4, before;
	_cleanup_answer_ struct answer a = { 0 }, b = { 0 }, c = { 0 };
	struct stat st;
	int fd;

	post("{\"path\":\"/warm\",\"content\":\"\"}", &c);
	text_random(raw, sizeof(raw));
	(void)text_base64_encode(raw, sizeof(raw), code);
	before = status_kb("VmHWM:");
	fd = send_head("POST", BASE, "", strlen(head) + strlen(tail) + code_n * PIECES);
	cr_assert(fd_write_all(fd, head, strlen(head)) == 0);
	for (int i = 0; i < PIECES; i++)
		cr_assert(fd_write_all(fd, code, code_n) == 0);
	cr_assert(fd_write_all(fd, tail, strlen(tail)) == 0);
	receive(fd, &a);
	expect_status(&a, 201, NULL, "up");
	cr_assert(fstatat(root_fd, "big", &st, 0) == 0 && st.st_size == (off_t)PIECE * PIECES);
	get("path=/big", "", &b);
	cr_assert(b.status == 200 && b.whole && b.body.len > code_n * PIECES);
	cr_expect(memcmp(strstr(b.body.p, "\"content\":\"") + 11 + code_n * (PIECES - 1), code, code_n) == 0);
	cr_expect_str_eq(b.body.p + b.body.len - 2, "\"}");
	cr_log_info("memory at most %llu KiB above what it was", (unsigned long long)(status_kb("VmHWM:") - before));
	cr_expect(status_kb("VmHWM:") - before < 16384);
}

/* Reads a little of the answer, then makes the file shorter. */
static void shrink_under(const char *headers)
{
	_cleanup_close_ int file = openat(root_fd, "f", O_CREAT | O_RDWR | O_CLOEXEC, 0644);
	char some[1000];
	int fd;

	cr_assert(ftruncate(file, 64 << 20) == 0);
	fd = send_head("GET", BASE "?path=/f", headers, 0);
	cr_assert(fd_read_all(fd, some, sizeof(some)) == sizeof(some));
	cr_expect(strstr(some, "200 OK"));
	cr_assert(ftruncate(file, 100) == 0);
	/* What follows is the rest of a body; a head of our own makes it an answer again. */
	{
		struct buf rest = BUF_INIT(1u << 28);
		char *to;
		ssize_t n;

		do {
			cr_assert(buf_reserve(&rest, 1u << 16, &to) == 0);
			n = read(fd, to, 1u << 16);
			if (n > 0)
				buf_commit(&rest, (size_t)n);
		} while (n > 0);
		(void)close(fd);
		cr_expect(rest.len < 60u << 20, "the connection was cut");
		cr_expect(rest.len < 5 || memcmp(rest.p + rest.len - 5, "0\r\n\r\n", 5) != 0,
			  "and not as if it were whole");
		buf_free(&rest);
	}
}

Test(routes_files, a_file_that_shrinks_cuts_the_connection)
{
	_cleanup_answer_ struct answer a = { 0 };

	shrink_under("");
	shrink_under("Accept: application/octet-stream\r\n");
	get("path=/f", "", &a);
	expect_status(&a, 200, NULL, "and the server lives");
}

Test(routes_files, the_sandbox_ends_during_an_upload)
{
	static char zeros[1 << 20];
	_cleanup_answer_ struct answer a = { 0 }, b = { 0 };
	int fd;

	fd = send_head("PUT", BASE "?path=/d/f", "", 2 * sizeof(zeros));
	cr_assert(fd_write_all(fd, zeros, sizeof(zeros)) == 0);
	cr_assert(mknodat(base_fd, "ended", S_IFREG, 0) == 0);
	cr_assert(fd_write_all(fd, zeros, sizeof(zeros)) == 0);
	receive(fd, &a);
	expect_status(&a, 409, "sandbox_not_ready", "at the end");
	cr_assert(unlinkat(base_fd, "ended", 0) == 0);
	fd = send_head("PUT", BASE "?path=/d/f", "", 64 * sizeof(zeros));
	cr_assert(fd_write_all(fd, zeros, sizeof(zeros)) == 0);
	cr_assert(mknodat(base_fd, "ended", S_IFREG, 0) == 0);
	for (int i = 0; i < 63; i++)
		if (fd_write_all(fd, zeros, sizeof(zeros)) < 0)
			break;
	receive(fd, &b);
	expect_status(&b, 409, "sandbox_not_ready", "on the way");
	cr_expect(faccessat(root_fd, "d/f", F_OK, 0) < 0);
}

Test(routes_files, a_client_that_goes_away_leaves_nothing)
{
	static char text[100000];
	_cleanup_answer_ struct answer first = { 0 };
	int before, fds[8];

	get("path=/", "", &first);
	usleep(50000);
	before = count_fds(server_pid);
	memset(text, 'a', sizeof(text));
	for (int i = 0; i < 8; i++) {
		fds[i] = send_head(i % 2 ? "PUT" : "POST", i % 2 ? BASE "?path=/d/x" : BASE, "", 1u << 30);
		if (i % 2 == 0)
			cr_assert(fd_write_all(fds[i], i % 4 ? "{\"path\":\"/d/y\",\"content\":\"" : "{\"content\":\"",
					       i % 4 ? 26 : 12) == 0);
		cr_assert(fd_write_all(fds[i], text, sizeof(text)) == 0);
	}
	for (int i = 0; i < 100 && count_fds(server_pid) < before + 16; i++)
		usleep(10000);
	cr_expect(count_fds(server_pid) >= before + 16, "eight uploads are under way");
	for (int i = 0; i < 8; i++)
		(void)close(fds[i]);
	for (int i = 0; i < 300 && count_fds(server_pid) > before; i++)
		usleep(10000);
	cr_expect(count_fds(server_pid) == before, "and gone");
	cr_expect(faccessat(root_fd, "d/x", F_OK, 0) < 0 && faccessat(root_fd, "d/y", F_OK, 0) < 0);
}
