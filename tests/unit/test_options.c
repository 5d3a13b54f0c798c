#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "emulator/cmd/cmd.h"
#include "emulator/cmd/listen.h"
#include "emulator/cmd/options.h"

#define ARGS_MAX 80

static struct serve_options o;
static struct err e;

/* Words after "serve", up to a NULL. */
static int parse(const char *const *words)
{
	static char copies[ARGS_MAX][300];
	char *argv[ARGS_MAX + 1];
	int argc = 0;

	(void)snprintf(copies[0], sizeof(copies[0]), "serve");
	argv[argc++] = copies[0];
	for (; *words; words++, argc++) {
		cr_assert_lt(argc, ARGS_MAX);
		(void)snprintf(copies[argc], sizeof(copies[argc]), "%s", *words);
		argv[argc] = copies[argc];
	}
	argv[argc] = NULL;
	e = ERR_INIT;
	memset(&o, 0x77, sizeof(o));
	return serve_options_parse(argc, argv, &o, &e);
}
#define PARSE(...) parse((const char *const[]){ __VA_ARGS__, NULL })

Test(options, defaults)
{
	cr_assert_eq(parse((const char *const[]){ NULL }), 0, "%s", e.msg);
	cr_assert_str_eq(o.host, "127.0.0.1");
	cr_assert_eq(o.port, 4520);
	cr_assert_null(o.port_file);
	cr_assert_null(o.state_dir);
	cr_assert_null(o.unix_path);
	cr_assert_eq(o.n_api_keys, 0u);
	cr_assert(!o.auth_any);
	cr_assert_eq(o.log_level, LOG_LEVEL_INFO);
	cr_assert_eq(o.max_sandboxes, 0u);
	cr_assert_eq(o.warm, 4u);
	cr_assert(!o.help);
}

Test(options, all_of_them)
{
	cr_assert_eq(PARSE("--listen", "[::1]:0", "--port-file=port", "--state-dir", "/s", "--api-key", "ork_aaaaaaaa",
			   "--auth", "any", "--api-key=ork_bbbbbbbb:free:read", "--unix", "/u", "--log-level", "debug",
			   "--max-sandboxes", "7"),
		     0, "%s", e.msg);
	cr_assert_str_eq(o.host, "::1");
	cr_assert_eq(o.port, 0);
	cr_assert_str_eq(o.port_file, "port");
	cr_assert_str_eq(o.state_dir, "/s");
	cr_assert_str_eq(o.unix_path, "/u");
	cr_assert_eq(o.n_api_keys, 2u);
	cr_assert_str_eq(o.api_keys[0], "ork_aaaaaaaa");
	cr_assert_str_eq(o.api_keys[1], "ork_bbbbbbbb:free:read");
	cr_assert(o.auth_any);
	cr_assert_eq(o.log_level, LOG_LEVEL_DEBUG);
	cr_assert_eq(o.max_sandboxes, 7u);
	cr_assert_eq(PARSE("--auth", "any", "--auth", "keys", "--listen", "h:1", "--listen", "h:2"),
		     0); /* the last one counts */
	cr_assert(!o.auth_any);
	cr_assert_eq(o.port, 2);
}

Test(options, help_wins)
{
	cr_assert_eq(PARSE("--help"), 0);
	cr_assert(o.help);
	cr_assert_eq(PARSE("-h", "--nonsense"), 0);
	cr_assert(o.help);
}

Test(options, faults_are_named)
{
	static const struct {
		const char *words[5];
		const char *says;
	} t[] = {
		{ { "--nonsense" }, "there is no option --nonsense" },
		{ { "--listne", "x" }, "did you mean --listen?" },
		{ { "--statedir=/x" }, "there is no option --statedir; did you mean --state-dir?" },
		{ { "-x" }, "there is no option -x" },
		{ { "--listen" }, "--listen needs a value" },
		{ { "--auth", "any", "--state-dir" }, "--state-dir needs a value" },
		{ { "--help=yes" }, "--help takes no value" },
		{ { "extra" }, "argument 1 is no option" },
		{ { "--auth", "any", "extra" }, "argument 3 is no option" },
		{ { "--auth", "none" }, "--auth must be keys or any" },
		{ { "--auth", "" }, "--auth must be keys or any" },
		{ { "--log-level", "loud" }, "--log-level must be error, warn, info or debug" },
		{ { "--max-sandboxes", "-1" }, "--max-sandboxes must be a number from 0 to 100000" },
		{ { "--max-sandboxes", "100001" }, "--max-sandboxes must be" },
		{ { "--max-sandboxes", "many" }, "--max-sandboxes must be" },
		{ { "--warm", "65" }, "--warm must be a number from 0 to 64" },
		{ { "--warm", "" }, "--warm must be" },
		{ { "--state-dir", "" }, "--state-dir needs a path" },
		{ { "--port-file=" }, "--port-file needs a path" },
		{ { "--unix", "" }, "--unix needs a path" },
		{ { "--listen", "127.0.0.1" }, "wanted is HOST:PORT" },
		{ { "--", "x" }, "is no option" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		cr_assert_lt(parse(t[i].words), 0, "accepted case %zu", i);
		cr_assert_eq(e.kind, ERR_INVALID);
		cr_assert_not_null(strstr(e.msg, t[i].says), "case %zu: %s", i, e.msg);
	}
}

/* A key may be what an unknown option or a lone argument holds. */
Test(options, keys_are_never_quoted)
{
	cr_assert_lt(PARSE("--apikey=ork_secret_secret"), 0);
	cr_assert_null(strstr(e.msg, "secret"), "%s", e.msg);
	cr_assert_not_null(strstr(e.msg, "did you mean --api-key?"), "%s", e.msg);
	cr_assert_lt(PARSE("ork_secret_secret"), 0);
	cr_assert_null(strstr(e.msg, "secret"), "%s", e.msg);
}

Test(options, many_keys)
{
	static char keys[SERVE_MAX_KEYS + 1][32];
	char *argv[SERVE_MAX_KEYS + 3];
	char name[] = "serve";

	argv[0] = name;
	for (int i = 0; i <= SERVE_MAX_KEYS; i++) {
		(void)snprintf(keys[i], sizeof(keys[i]), "--api-key=ork_key_%04d", i);
		argv[i + 1] = keys[i];
	}
	argv[SERVE_MAX_KEYS + 2] = NULL;
	cr_assert_lt(serve_options_parse(SERVE_MAX_KEYS + 2, argv, &o, &e), 0);
	cr_assert_not_null(strstr(e.msg, "more than 64 times --api-key"));
	argv[SERVE_MAX_KEYS + 1] = NULL;
	cr_assert_eq(serve_options_parse(SERVE_MAX_KEYS + 1, argv, &o, &e), 0, "%s", e.msg);
	cr_assert_eq(o.n_api_keys, (size_t)SERVE_MAX_KEYS);
	serve_options_forget_keys(&o);
	cr_assert_eq(o.n_api_keys, (size_t)SERVE_MAX_KEYS);
	for (int i = 0; i < SERVE_MAX_KEYS; i++)
		cr_assert_str_eq(keys[i], "--api-key=", "the key is still in argv");
}

Test(options, help_names_every_option)
{
	static const char *const names[] = { "--listen", "--port-file", "--state-dir",	   "--api-key", "--auth",
					     "--unix",	 "--log-level", "--max-sandboxes", "--warm",	"--help" };
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	serve_options_help(f);
	(void)fclose(f);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		cr_assert_not_null(strstr(text, names[i]), "%s", names[i]);
	free(text);
}

Test(options, listen_addresses)
{
	static const struct {
		const char *s, *host;
		int port;
	} good[] = {
		{ "127.0.0.1:4520", "127.0.0.1", 4520 },
		{ "0.0.0.0:0", "0.0.0.0", 0 },
		{ "[::1]:0", "::1", 0 },
		{ "[::]:65535", "::", 65535 },
		{ "localhost:80", "localhost", 80 },
		{ ":4521", "127.0.0.1", 4521 },
		{ "my-host.example_1.org:1", "my-host.example_1.org", 1 },
		{ "[fe80::1%eth0]:5", "fe80::1%eth0", 5 },
	};
	static const struct {
		const char *s, *says;
	} bad[] = {
		{ "", "HOST:PORT" },
		{ "4520", "HOST:PORT" },
		{ "localhost", "HOST:PORT" },
		{ "::1:4520", "needs brackets" },
		{ "::", "needs brackets" },
		{ "http://127.0.0.1:4520", "needs brackets" },
		{ "[::1]", "[ADDRESS]:PORT" },
		{ "[::1:4520", "[ADDRESS]:PORT" },
		{ "[::1]x:4520", "[ADDRESS]:PORT" },
		{ "[]:1", "must be an IPv6 address" },
		{ "[127.0.0.1]:1", "must be an IPv6 address" },
		{ "[zz]:1", "must be an IPv6 address" },
		{ "[::1]:", "0 to 65535" },
		{ "127.0.0.1:", "0 to 65535" },
		{ "127.0.0.1:65536", "0 to 65535" },
		{ "127.0.0.1:-1", "0 to 65535" },
		{ "127.0.0.1:http", "0 to 65535" },
		{ "127.0.0.1:80 ", "0 to 65535" },
		{ "a b:1", "must be an address or a name" },
		{ "-h:1", "must be an address or a name" },
		{ "h/x:1", "must be an address or a name" },
		{ "*:1", "must be an address or a name" },
	};
	char host[256], big[400];
	uint16_t port;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		cr_assert_eq(serve_parse_listen(good[i].s, host, sizeof(host), &port, &e), 0, "%s: %s", good[i].s,
			     e.msg);
		cr_assert_str_eq(host, good[i].host);
		cr_assert_eq((int)port, good[i].port);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_eq(serve_parse_listen(bad[i].s, host, sizeof(host), &port, &e), -EINVAL, "accepted %s",
			     bad[i].s);
		cr_assert_not_null(strstr(e.msg, bad[i].says), "%s", e.msg);
		cr_assert_not_null(strstr(e.msg, "--listen"), "%s", e.msg);
	}
	memset(big, 'h', sizeof(big));
	memcpy(big + 395, ":1", 3);
	cr_assert_eq(serve_parse_listen(big, host, sizeof(host), &port, &e), -EINVAL);
	memcpy(big + 253, ":1", 3);
	cr_assert_eq(serve_parse_listen(big, host, sizeof(host), &port, &e), 0);
}

Test(cmd, nearest)
{
	static const char *const names[] = { "serve", "doctor", "template", "clean", "version", NULL };
	static const struct {
		const char *word, *want;
	} t[] = {
		{ "sevre", "serve" },	{ "server", "serve" },	{ "templates", "template" },
		{ "temp", "template" }, { "docter", "doctor" }, { "clear", "clean" },
		{ "ver", "version" },	{ "", NULL },		{ "x", NULL },
		{ "run", NULL },	{ "frobnicate", NULL }, { "a-word-that-is-far-too-long-to-be-a-command", NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		const char *got = cmd_nearest(t[i].word, names);

		cr_assert_eq(!got, !t[i].want, "%s: %s", t[i].word, got ? got : "(none)");
		if (got)
			cr_assert_str_eq(got, t[i].want);
	}
}

/* Connects to a listening fd and back, so we know that it is one. */
static void serves(int fd)
{
	struct sockaddr_storage a;
	socklen_t n = sizeof(a);
	int c, s;

	cr_assert_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
	cr_assert_eq(accept(fd, NULL, NULL), -1);
	cr_assert_eq(errno, EAGAIN);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	c = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(c, (struct sockaddr *)&a, n), 0, "%s", strerror(errno));
	s = accept(fd, NULL, NULL);
	cr_assert_geq(s, 0);
	(void)close(s);
	(void)close(c);
}

/* ---- options by a table ---- */

struct parsed {
	const char *name, *size;
	bool all, help;
	struct cmd_rest rest;
	const char *argv[16]; /* a literal is gone behind the assertion it stands in */
};

static int parse_table(struct parsed *p, const char **words)
{
	const struct cmd_option options[] = { CMD_VALUE("name", &p->name), CMD_VALUE("size", &p->size),
					      CMD_FLAG("all", &p->all), CMD_HELP(&p->help), CMD_END };
	int argc = 0;

	*p = (struct parsed){ 0 };
	for (; words[argc]; argc++)
		p->argv[argc] = words[argc];
	return cmd_parse(argc, (char **)(uintptr_t)p->argv, options, &p->rest, &e);
}
#define BY_TABLE(p, ...) parse_table(p, (const char *[]){ "verb", __VA_ARGS__, NULL })

Test(cmd, parse)
{
	struct parsed p;

	cr_assert_eq(BY_TABLE(&p, NULL), 0);
	cr_assert(!p.name && !p.size && !p.all && !p.help);
	cr_assert_eq(p.rest.n, 0);
	cr_assert_eq(BY_TABLE(&p, "one", "--name", "a", "two", "--all", "--name=b", "-h", "--", "--size"), 0);
	cr_assert_str_eq(p.name, "b", "the last one counts");
	cr_assert(p.all && p.help && !p.size);
	cr_assert_eq(p.rest.n, 3);
	cr_assert_str_eq(p.rest.v[0], "one");
	cr_assert_str_eq(p.rest.v[1], "two");
	cr_assert_str_eq(p.rest.v[2], "--size");
	cr_assert_eq(cmd_at_most(&p.rest, 3, &e), 0);
	cr_assert_eq(cmd_at_most(&p.rest, 1, &e), -EINVAL);
	cr_assert_str_eq(e.msg, "'two' is not expected here");
	cr_assert_eq(BY_TABLE(&p, "--si", "x"), 0, "a beginning that is clear");
	cr_assert_str_eq(p.size, "x");
}

Test(cmd, parse_refuses)
{
	static const struct {
		const char *word, *says;
	} t[] = {
		{ "--name", "--name needs a value" },
		{ "--all=1", "--all takes no value" },
		{ "--nmae=secret", "there is no option --nmae; did you mean --name?" },
		{ "--other", "there is no option --other" },
		{ "-a", "there is no option -a" },
		{ "-n", "there is no option -n" },
		{ "-hx", "there is no option -x" },
	};
	struct parsed p;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		cr_assert_eq(BY_TABLE(&p, t[i].word), -EINVAL, "%s", t[i].word);
		cr_assert_str_eq(e.msg, t[i].says);
		cr_assert_eq(e.kind, ERR_INVALID);
	}
}

Test(listen, addresses)
{
	static const char *const hosts[] = { "127.0.0.1", "localhost", "0.0.0.0" };

	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		uint16_t port = 0;
		int fd = -1;

		e = ERR_INIT;
		cr_assert_eq(listen_open(hosts[i], 0, &fd, &port, &e), 0, "%s: %s", hosts[i], e.msg);
		cr_assert_gt(port, 0);
		serves(fd);
		(void)close(fd);
	}
}

Test(listen, ipv6)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = -1;
	uint16_t port = 0;

	if (probe < 0 || bind(probe, (struct sockaddr *)&a, sizeof(a)) < 0)
		cr_skip_test("no IPv6 on this host");
	cr_assert_eq(listen_open("::1", 0, &fd, &port, &e), 0, "%s", e.msg);
	serves(fd);
	(void)close(fd);
	(void)close(probe);
}

Test(listen, a_port_in_use)
{
	char want[128];
	uint16_t port, again = 77;
	int fd = -1, second = -1;

	cr_assert_eq(listen_open("127.0.0.1", 0, &fd, &port, &e), 0);
	cr_assert_eq(listen_open("127.0.0.1", port, &second, &again, &e), -EADDRINUSE);
	cr_assert_eq(e.kind, ERR_BUSY);
	(void)snprintf(want, sizeof(want),
		       "127.0.0.1:%u is in use, maybe by another emulator; pass --listen 127.0.0.1:0", port);
	cr_assert_eq(strncmp(e.msg, want, strlen(want)), 0, "%s", e.msg);
	cr_assert_eq(second, -1);
	cr_assert_eq(again, 77);
	serves(fd);
	(void)close(fd);
	cr_assert_eq(listen_open("127.0.0.1", port, &fd, &again, &e), 0, "at once after the first: %s", e.msg);
	cr_assert_eq(again, port);
	(void)close(fd);
}

Test(listen, hosts_that_are_not_ours)
{
	static const struct {
		const char *host, *says;
	} t[] = { { "192.0.2.1", "is no address of this machine" },
		  { "no-such-host.invalid", "no address is known for no-such-host.invalid" },
		  { "::zz", "no address is known" } };

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		uint16_t port;
		int fd = -1;

		cr_assert_lt(listen_open(t[i].host, 0, &fd, &port, &e), 0, "%s", t[i].host);
		cr_assert_eq(e.kind, ERR_INVALID, "%s", e.msg);
		cr_assert_not_null(strstr(e.msg, t[i].says), "%s", e.msg);
	}
}

static char dir[64];

static void enter(void)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/orkestr-listen-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	cr_assert_eq(chdir(dir), 0);
}

static void leave(void)
{
	(void)unlink("sock");
	(void)unlink("file");
	cr_assert_eq(chdir("/"), 0);
	cr_assert_eq(rmdir(dir), 0);
}

TestSuite(listen_unix, .init = enter, .fini = leave);

Test(listen_unix, made_private_and_replaced_when_stale)
{
	int fd = -1, second = -1;
	struct stat st;

	cr_assert_eq(listen_unix_open("sock", &fd, &e), 0, "%s", e.msg);
	cr_assert_eq(stat("sock", &st), 0);
	cr_assert(S_ISSOCK(st.st_mode));
	cr_assert_eq(st.st_mode & 0777, 0600u);
	serves(fd);
	cr_assert_eq(listen_unix_open("sock", &second, &e), -EADDRINUSE);
	cr_assert_eq(e.kind, ERR_BUSY);
	cr_assert_not_null(strstr(e.msg, "pass another --unix"));
	serves(fd);	 /* it was left alone */
	(void)close(fd); /* as a kill -9 would */
	cr_assert_eq(stat("sock", &st), 0);
	cr_assert_eq(listen_unix_open("sock", &fd, &e), 0, "%s", e.msg);
	serves(fd);
	(void)close(fd);
	(void)umask(0);
	cr_assert_eq(listen_unix_open("sock", &fd, &e), 0);
	cr_assert_eq(umask(022), 0u, "the umask is as it was");
	cr_assert_eq(stat("sock", &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600u);
	(void)close(fd);
}

Test(listen_unix, a_full_queue_is_a_live_one)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "sock" };
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), c[8], fd = -1;

	cr_assert_eq(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(l, 0), 0);
	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		c[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(c[i], (struct sockaddr *)&a, sizeof(a));
	}
	cr_assert_eq(listen_unix_open("sock", &fd, &e), -EADDRINUSE, "%s", e.msg);
	(void)close(l);
}

Test(listen_unix, other_things_are_left_alone)
{
	char big[200];
	int fd = open("file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;

	(void)close(fd);
	fd = -1;
	cr_assert_eq(listen_unix_open("file", &fd, &e), -EEXIST);
	cr_assert_not_null(strstr(e.msg, "is no socket"));
	cr_assert_eq(stat("file", &st), 0);
	cr_assert(S_ISREG(st.st_mode));
	cr_assert_eq(symlink("file", "sock"), 0);
	cr_assert_eq(listen_unix_open("sock", &fd, &e), -EEXIST);
	cr_assert_lt(listen_unix_open("no/such/folder", &fd, &e), 0);
	cr_assert_lt(listen_unix_open("", &fd, &e), 0);
	cr_assert_eq(e.kind, ERR_INVALID);
	memset(big, 'x', sizeof(big));
	big[108] = '\0';
	cr_assert_lt(listen_unix_open(big, &fd, &e), 0);
	cr_assert_not_null(strstr(e.msg, "1 to 107 bytes"), "%s", e.msg);
	cr_assert_eq(fd, -1);
}
