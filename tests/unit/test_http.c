/* The HTTP server, driven over real sockets (http_driver.h). */

#include "tests/unit/http_driver.h"

/* ---- answers ---- */

Test(http, table)
{
	static const struct {
		const char *request;
		int status;
		const char *body;
	} t[] = {
		{ "GET /ping", 200, "pong" },
		{ "GET /ping?a=%20", 200, "pong" },
		{ "GET /nope", 404, "{\"detail\":\"Not Found\"}" },
		{ "GET /ping/", 404, "{\"detail\":\"Not Found\"}" },
		{ "GET //ping", 404, "{\"detail\":\"Not Found\"}" },
		{ "DELETE /ping", 405, "{\"detail\":\"Method Not Allowed\"}" },
		{ "OPTIONS /ping", 405, "{\"detail\":\"Method Not Allowed\"}" },
		{ "GET /param/a%20b%2Fc", 200, "a b/c" },
		{ "GET /param/fixed", 200, "the literal" },
		{ "GET /path?path=/a%20b%0Ac+d%2B%C3%A4", 200, "/a b\nc d+\xc3\xa4" },
		{ "GET /path?path=%00", 400, NULL },
		{ "GET /path?path=a%zz", 400, NULL },
		{ "GET /param/%00", 400, NULL },
		{ "GET /param/%4", 400, NULL },
		{ "DELETE /empty", 204, "" },
		{ "GET /twice", 200, "first" },
		{ "GET /bytes?n=0", 200, "" },
		{ "GET /fd?from=3&n=4", 206, "3456" },
		{ "GET /fd?n=0", 206, "" },
		{ "GET /error", 408,
		  "{\"detail\":\"bad bytes \xef\xbf\xbd \\\"quoted\\\"\",\"code\":\"exec_timeout\",\"stdout\":\"so "
		  "far\"}" },
		{ "GET /invalid", 422,
		  "{\"detail\":[{\"loc\":[\"query\",\"limit\"],\"msg\":\"Input should be "
		  "7\",\"type\":\"int_parsing\"}],\"code\":\"validation_error\"}" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct answer a = ask("%s HTTP/1.1\r\nHost: x\r\n\r\n", t[i].request);

		cr_expect_not_null(header(&a, "X-Request-Id"), "%s", t[i].request);
		cr_expect_not_null(header(&a, "X-Orkestr-Emulator"), "%s", t[i].request);
		expect(&a, t[i].status, t[i].body);
	}
}

Test(http, headers)
{
	struct answer a = GET("/param/x"), b = ask("PUT /ping HTTP/1.1\r\nHost: x\r\n\r\n"), c = GET("/internal");
	char id[64];

	cr_expect_str_eq(header(&a, "X-Orkestr-Divergence"), "one, two");
	cr_expect_str_eq(header(&a, "X-Extra"), "yes");
	cr_expect_eq(strlen(header(&a, "X-Request-Id")), 30);
	cr_expect_eq(strncmp(header(&a, "X-Request-Id"), "req_", 4), 0);
	expect(&a, 200, "x");
	cr_expect_str_eq(header(&b, "Allow"), "GET, HEAD, POST");
	expect(&b, 405, NULL);
	(void)snprintf(id, sizeof(id), "%s", header(&c, "X-Request-Id"));
	cr_expect_not_null(strstr(c.body.p, id));
	cr_expect_null(strstr(c.body.p, "secret"));
	expect(&c, 500, NULL);
}

Test(http, tokens)
{
	static const struct {
		const char *request, *token;
		int status;
		const char *code;
	} t[] = {
		{ "GET /read", NULL, 401, "unauthorized" },
		{ "GET /read", "Authorization: rw\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Basic rw\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearer\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearerrw\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearer nobody\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearer expired\r\n", 401, "key_expired" },
		{ "GET /read", "Authorization: Bearer r\r\n", 200, NULL },
		{ "GET /read", "authorization: bEARER   rw\r\n", 200, NULL },
		{ "POST /write", "Authorization: Bearer r\r\n", 403, "insufficient_scope" },
		{ "POST /write", "Authorization: Bearer rw\r\n", 200, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct answer a = ask("%s HTTP/1.1\r\nHost: x\r\n%s\r\n", t[i].request, t[i].token ? t[i].token : "");

		if (t[i].code)
			cr_expect_not_null(strstr(a.body.p, t[i].code), "row %zu: %s", i, a.body.p);
		cr_expect_eq(header(&a, "WWW-Authenticate") != NULL, t[i].status == 401, "row %zu", i);
		expect(&a, t[i].status, NULL);
	}
}

Test(http, head)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, true);
	cr_expect_str_eq(header(&a, "Content-Length"), "4");
	expect(&a, 200, "");
	a = read_answer(&c, false);
	expect(&a, 200, "pong");
	client_free(&c);
}

Test(http, json)
{
	static const struct {
		const char *body;
		int status;
		const char *want;
	} t[] = {
		{ "", 200, "{}" },
		{ "  \n", 200, "{}" },
		{ "{\"a\":1}", 200, "{\"a\":1}" },
		{ " {\"a\":1} \n", 200, "{\"a\":1}" },
		{ "{\"a\":1,\"a\":2}", 200, "{\"a\":2}" },
		{ "{\"a\":1}x", 422, NULL },
		{ "{\"a\":1}{}", 422, NULL },
		{ "{\"a\":1", 422, NULL },
		{ "{'a':1}", 422, NULL },
		{ "{\"a\":1,}", 422, NULL },
		{ "{a:1}", 422, NULL },
		{ "{/**/}", 422, NULL },
		{ "[]", 422, NULL },
		{ "null", 422, NULL },
		{ "12", 422, NULL },
		{ "\"s\"", 422, NULL },
		{ "{\"a\":\"\xff\"}", 422, NULL },
		{ "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", 422, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct answer a = ask("POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
				      strlen(t[i].body), t[i].body);

		if (t[i].status == 422)
			cr_expect_not_null(strstr(a.body.p, "\"validation_error\""), "%s", t[i].body);
		cr_expect_eq(a.status, t[i].status, "%s: %d %s", t[i].body, a.status, a.body.p);
		expect(&a, t[i].status, t[i].want);
	}
}

Test(http, json_with_a_nul)
{
	struct client c = client_new();
	struct answer a;

	say_n(&c, "POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{}\0x", 55);
	a = read_answer(&c, false);
	expect(&a, 422, NULL);
	client_free(&c);
}

Test(http, json_of_too_many_values)
{
	struct client c = client_new();
	struct answer a;
	char *s = malloc(200000);

	(void)snprintf(s, 100, "POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{\"a\":[", 6 + 150000 + 2);
	say(&c, s);
	for (int i = 0; i < 150000; i += 2)
		memcpy(s + i, "1,", 2);
	s[149999] = '1';
	say_n(&c, s, 150000);
	say(&c, "]}");
	a = read_answer(&c, false);
	cr_expect_not_null(strstr(a.body.p, "too many values"));
	expect(&a, 422, NULL);
	client_free(&c);
	free(s);
}

/* ---- connections ---- */

Test(http, keep_alive_and_pipelining)
{
	struct client c = client_new();
	struct answer a;

	for (int i = 0; i < 3; i++) {
		say(&c, "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
		a = read_answer(&c, false);
		expect(&a, 200, "pong");
	}
	/* The first waits suspended while the others are already in the socket. */
	say(&c,
	    "GET /slow?ms=50 HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
	    "GET /nope HTTP/1.1\r\nHost: x\r\n\r\nGET /stream?n=2&ms=10 HTTP/1.1\r\nHost: x\r\n\r\nGET /ping "
	    "HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, false);
	expect(&a, 200, "slow");
	a = read_answer(&c, false);
	expect(&a, 200, "abc");
	a = read_answer(&c, false);
	expect(&a, 404, NULL);
	a = read_answer(&c, false);
	expect(&a, 200, "line 1\nline 0\n");
	a = read_answer(&c, false);
	expect(&a, 200, "pong");
	cr_expect_eq(count_of("gone"), 0);
	client_free(&c);
}

/* A refused request whose small body still arrives leaves the connection usable. */
Test(http, refusal_keeps_the_connection)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345POST /write HTTP/1.1\r\nHost: x\r\n"
		"Content-Length: 5\r\n\r\n12345GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, false);
	expect(&a, 404, NULL);
	a = read_answer(&c, false);
	expect(&a, 401, NULL);
	a = read_answer(&c, false);
	expect(&a, 200, "pong");
	client_free(&c);
}

Test(http, unix_socket)
{
	struct sockaddr_un u = { .sun_family = AF_UNIX };
	struct client c = { .fd = socket(AF_UNIX, SOCK_STREAM, 0), .in = BUF_INIT(1 << 20) };
	struct answer a;

	(void)snprintf(u.sun_path, sizeof(u.sun_path), "%s", unix_path);
	cr_assert_eq(connect(c.fd, (struct sockaddr *)&u, sizeof(u)), 0);
	say(&c, "GET /slow?ms=10 HTTP/1.1\r\nHost: x\r\n\r\nGET /stream?ms=10 HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, false);
	expect(&a, 200, "slow");
	a = read_answer(&c, false);
	expect(&a, 200, "line 2\nline 1\nline 0\n");
	say(&c, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	client_free(&c);
	cr_expect(becomes("gone", 1));
}

Test(http, http_1_0)
{
	struct answer a = ask("GET /stream?ms=10 HTTP/1.0\r\n\r\n");

	cr_expect_null(header(&a, "Transfer-Encoding"));
	expect(&a, 200, "line 2\nline 1\nline 0\n");
	a = ask("GET /ping HTTP/1.0\r\n\r\n");
	expect(&a, 200, "pong");
}

Test(http, half_sent_requests_end)
{
	static const char *const t[] = {
		"", "GET /pi",
		"GET /ping HTTP/1.1\r\nHost:", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345",
		"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123"
	};
	struct client c[ARRAY_SIZE(t)];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		c[i] = client_new();
		say(&c[i], t[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		cr_expect(closes(&c[i], (IDLE_S + 3) * 1000), "row %zu", i);
		client_free(&c[i]);
	}
}

/* A suspended request outlives the idle time-out, and so does a stream that has nothing to say. */
Test(http, waiting_is_not_idle)
{
	struct answer a = ask("GET /slow?ms=%d HTTP/1.1\r\nHost: x\r\n\r\n", (IDLE_S + 1) * 1000);

	expect(&a, 200, "slow");
	a = ask("GET /stream?n=1&ms=%d HTTP/1.1\r\nHost: x\r\n\r\n", (IDLE_S + 1) * 1000);
	expect(&a, 200, "line 0\n");
}

/* libmicrohttpd 1.0 reads requests by rules of its own. */
static bool newer_mhd(void)
{
	return *MHD_get_version() != '0';
}

Test(http, malformed)
{
	static const struct {
		const char *s;
		size_t n;
		int status[2]; /* of libmicrohttpd 0.9 and of 1.0; 0: closed without a word */
	} t[] = {
		{ "\x16\x03\x01\x02\r\n\r\n", 8, { 0, 0 } },
		{ "GET\r\n\r\n", 7, { 0, 0 } },
		{ "GET /ping HTTP/9.9\r\n\r\n", 22, { 505, 505 } },
		{ "GET /pi\0ng HTTP/1.1\r\nHost: x\r\n\r\n", 33, { 400, 0 } },
		{ "GET /ping?a\0b HTTP/1.1\r\nHost: x\r\n\r\n", 36, { 400, 0 } },
		{ "GET /ping HTTP/1.1\r\nContent-Length: x\r\n\r\n", 41, { 400, 400 } },
		{ "GET /ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 42, { 400, 400 } },
		{ "POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 65, { 413, 400 } },
		{ "POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 49, { 400, 400 } },
		{ "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 71, { 400, 400 } },
		{ "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 57, { 400, 400 } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct client c = client_new();
		struct answer a;

		say_n(&c, t[i].s, t[i].n);
		a = read_answer(&c, false);
		cr_expect_eq(a.status, t[i].status[newer_mhd()], "row %zu: %d", i, a.status);
		buf_free(&a.body);
		client_free(&c);
	}
}

Test(http, header_flood)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "GET /ping HTTP/1.1\r\nHost: x\r\n");
	for (int i = 0; i < 20000; i++)
		say(&c, "X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n");
	say(&c, "\r\n");
	a = read_answer(&c, false);
	/* The reset may win: this client never listens while it floods. */
	cr_expect(a.status == 431 || a.closed, "%d", a.status);
	buf_free(&a.body);
	client_free(&c);
	a = GET("/ping");
	expect(&a, 200, "pong");
}

Test(http, thousand_connections)
{
	enum { N = 1000 };
	struct client *c = calloc(N, sizeof(*c));

	for (int i = 0; i < N; i++) {
		c[i] = client_new();
		say(&c[i],
		    i % 2 ? "GET /slow?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n" : "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	}
	for (int i = 0; i < N; i++) {
		struct answer a = read_answer(&c[i], false);

		expect(&a, 200, i % 2 ? "slow" : "pong");
	}
	for (int i = 0; i < N; i++) {
		if (i % 3 == 0)
			say(&c[i], "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
		client_free(&c[i]);
	}
	free(c);
	cr_expect(becomes("freed", 334));
}

/* ---- bodies ---- */

Test(http, uploads)
{
	struct answer a = ask("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
			      "3\r\nabc\r\n5%s\r\ndefgh\r\n0\r\nTrailer: x\r\n\r\n",
			      newer_mhd() ? "" : ";ext=1");
	struct client c;
	char *big = malloc(100001);

	expect(&a, 200, "abcdefgh");
	a = ask("POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nignored!!");
	expect(&a, 200, "pong");
	/* Exactly the limit, byte by byte at the ends. */
	memset(big, 'x', 100001);
	c = client_new();
	say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
	say_n(&c, big, 1);
	(void)usleep(20000);
	say_n(&c, big, 99998);
	(void)usleep(20000);
	say_n(&c, big, 1);
	a = read_answer(&c, false);
	cr_expect_eq(a.body.len, 100000);
	expect(&a, 200, NULL);
	client_free(&c);
	free(big);
}

/* Sends a head, then 10 MB, all of it before the answer is read, as Python's http.client does. */
static struct answer send_ten_mb(const char *head, bool chunked)
{
	struct client c = client_new();
	struct answer a;
	char *mb = malloc(1 << 20);

	memset(mb, 'm', 1 << 20);
	say(&c, head);
	for (int i = 0; i < 10; i++) {
		if (chunked)
			say(&c, "100000\r\n");
		cr_expect_eq(fd_write_all(c.fd, mb, 1 << 20), 0, "the connection was reset at %d MB", i);
		if (chunked)
			say(&c, "\r\n");
	}
	if (chunked)
		say(&c, "0\r\n\r\n");
	a = read_answer(&c, false);
	client_free(&c);
	free(mb);
	return a;
}

Test(http, ten_megabytes_too_much)
{
	struct answer a = send_ten_mb("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);

	cr_expect_not_null(strstr(a.body.p, "payload_too_large"));
	expect(&a, 413, NULL);
	a = send_ten_mb("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 413, NULL);
	a = send_ten_mb("POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 401, NULL);
	a = send_ten_mb("POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 404, NULL);
	a = send_ten_mb("PUT /small-upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 413, NULL);
	a = send_ten_mb("PUT /small-upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 413, NULL);
	a = GET("/ping");
	expect(&a, 200, "pong");
}

Test(http, data_and_begin)
{
	struct answer a = send_ten_mb("PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);

	expect(&a, 200, "10485760");
	cr_expect_gt(count_of("pieces"), 10);
	a = send_ten_mb("PUT /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 200, "10485760");
	a = send_ten_mb("PUT /upload?fail_at=3000000 HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 507, NULL);
	a = send_ten_mb("PUT /upload HTTP/1.1\r\nHost: x\r\nX-Refuse: 1\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 409, NULL);
	a = ask("PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
	expect(&a, 200, "0");
	cr_expect_eq(count_of("begun"), 5);
	cr_expect_eq(count_of("freed"), 5);
}

Test(http, expect_100_continue)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
	a = read_answer(&c, false);
	cr_expect_eq(a.status, 100);
	say(&c, "abc");
	a = read_answer(&c, false);
	expect(&a, 200, "abc");
	client_free(&c);
	/* A refusal comes instead of the 100. */
	a = ask("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n");
	expect(&a, 413, NULL);
	a = ask("POST /write HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n");
	expect(&a, 401, NULL);
	a = ask("POST /write HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
	expect(&a, 401, NULL);
}

/* ---- going away ---- */

Test(http, client_gone_while_suspended)
{
	struct client c = client_new();

	say(&c, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	cr_expect_eq(count_of("gone"), 0);
	client_free(&c);
	cr_expect(becomes("gone", 1));
	cr_expect(becomes("freed", 1));
	/* The same with the next request's bytes behind it, and with a reset. */
	c = client_new();
	say(&c, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	cr_expect_eq(count_of("gone"), 1);
	(void)setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	client_free(&c);
	cr_expect(becomes("gone", 2));
	cr_expect(becomes("freed", 2));
}

Test(http, client_gone_while_streaming)
{
	struct client c = client_new();

	say(&c, "GET /stream?n=1000&ms=20 HTTP/1.1\r\nHost: x\r\n\r\n");
	cr_assert(hear(&c, 1000));
	client_free(&c);
	cr_expect(becomes("streams", 1));
	cr_expect_eq(count_of("gone"), 1);
	/* One that does not read. */
	c = client_new();
	say(&c, "GET /flood?n=1000000000 HTTP/1.1\r\nHost: x\r\n\r\n");
	cr_assert(hear(&c, 1000));
	client_free(&c);
	cr_expect(becomes("streams", 2));
	cr_expect_eq(count_of("gone"), 2);
}

Test(http, gone_is_not_called_after_the_end)
{
	struct answer a = GET("/slow?ms=10");

	expect(&a, 200, "slow");
	a = GET("/stream?n=2&ms=10");
	expect(&a, 200, "line 1\nline 0\n");
	cr_expect(becomes("streams", 1));
	cr_expect_eq(count_of("gone"), 0);
}

/* ---- streams ---- */

static int64_t since_ms(int64_t t)
{
	return (clock_mono_us() - t) / 1000;
}

/* Head and pieces leave at once, not when the kernel thinks it is worth a packet. */
Test(http, stream_latency)
{
	struct client c = client_new();
	struct answer a;
	int64_t t = clock_mono_us(), worst = 0;

	say(&c, "GET /stream?n=5&ms=300 HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_head(&c);
	cr_expect_eq(a.status, 200);
	cr_expect_lt(since_ms(t), 150, "the head took %d ms", (int)since_ms(t));
	for (int i = 1; i <= 5; i++) {
		int64_t late;

		if (c.in.len == 0)
			cr_assert(hear(&c, 2000));
		late = since_ms(t) - 300 * i;
		worst = MAX(worst, late);
		buf_reset(&c.in);
	}
	cr_expect_lt(worst, 150, "a piece was %d ms late", (int)worst);
	client_free(&c);
}

Test(http, stream_of_many_megabytes)
{
	struct answer a = GET("/flood?n=50000000");

	cr_expect_eq(a.body.len, 50000000);
	expect(&a, 200, NULL);
	a = GET("/bytes?n=20000000");
	cr_expect_eq(a.body.len, 20000000);
	expect(&a, 200, NULL);
}

Test(http, broken_stream_is_seen)
{
	struct answer a = GET("/flood?n=100000&cut=1");

	cr_expect_eq(a.status, 200);
	cr_expect(a.closed);
	buf_free(&a.body);
	cr_expect(becomes("gone", 1));
}

/* ---- the end ---- */

Test(http, stop_listening)
{
	struct client c = client_new(), idle = client_new();
	struct answer a;

	say(&c, "GET /slow?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	(void)kill(server_pid, SIGUSR1);
	(void)usleep(50000);
	/* What runs goes on and closes afterwards; nobody new gets in. */
	a = read_answer(&c, false);
	cr_expect_str_eq(header(&a, "Connection"), "close");
	expect(&a, 200, "slow");
	cr_expect(closes(&c, 1000));
	client_free(&c);
	client_free(&idle);
	c.fd = socket(AF_INET, SOCK_STREAM, 0);
	cr_expect_lt(connect(c.fd,
			     (struct sockaddr *)&(struct sockaddr_in){ .sin_family = AF_INET,
								       .sin_port = htons(port),
								       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) },
			     sizeof(struct sockaddr_in)),
		     0);
	(void)close(c.fd);
}

/* The server ends (teardown) with requests in every state. */
Test(http, ends_in_the_middle)
{
	static const char *const t[] = {
		"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /stream?n=1000&ms=30 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /slow?ms=5000 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /flood?n=1000000000 HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123",
		"PUT /upload HTTP/1.1\r\nHost: x\r\nX-Refuse: 1\r\nContent-Length: 999999\r\n\r\n123",
		"GET /pi"
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct client c = client_new();

		say(&c, t[i]);
	}
	(void)usleep(100000);
}
