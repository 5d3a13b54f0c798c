#include "emulator/cmd/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <string.h>

#include "emulator/base/text.h"
#include "emulator/cmd/cmd.h"
#include "netpolicy/policy.h"

static const char help_text[] =
	"Usage: orkestr-emulator serve [OPTION]...\n"
	"\n"
	"Answers the sandbox API on this machine until it is stopped (Ctrl-C or SIGTERM),\n"
	"then ends every sandbox and leaves nothing behind but the state dir.\n"
	"\n"
	"Where it listens:\n"
	"  --listen HOST:PORT     default 127.0.0.1:4520; port 0 takes any free one; [::1]:4520 for IPv6\n"
	"  --port-file FILE       write the port there once it is ready\n"
	"  --unix PATH            listen on this Unix socket too\n"
	"\n"
	"Who may use it:\n"
	"  --api-key KEY[:PLAN[:SCOPES[:OPTION]...]]\n"
	"                         accept KEY; PLAN is free, pro or team (default); SCOPES is read, write or\n"
	"                         read,write (default). OPTION is account=NAME (keys of one NAME share their\n"
	"                         sandboxes), rate=REQUESTS/SECONDS, revoked, and as the last one expires=TIME\n"
	"                         (2026-05-01T00:00:00Z). May be given again. Without any, one key is made\n"
	"                         and kept in the state dir\n"
	"  --keys FILE            the same, one a line; # begins a comment\n"
	"  --auth any             accept every key that starts with ork_ or sp_live_ (default: keys)\n"
	"  --rate-limit off|plan|REQUESTS/SECONDS\n"
	"                         answer 429 to a key that asks more often; plan: free 60/60, pro 300/60, team\n"
	"                         1200/60 (default: off, in profile cloud: plan)\n"
	"\n"
	"What network \"restricted\" and \"open\" may reach:\n"
	"  --allow HOST[:PORT]    one more name (or *.HOST, or an address) for \"restricted\"; again for more. The\n"
	"                         built-in list: orkestr-emulator network allowlist\n"
	"  --map HOST[:PORT]=ADDR:PORT\n"
	"                         connections to HOST go to this server of yours instead; TLS is not touched\n"
	"  --zone NAME=ADDR       a name that exists only for sandboxes\n"
	"                         (each of these three: @FILE reads them from a file, one a line)\n"
	"  --allow-private        let \"open\" reach private, loopback and link-local addresses\n"
	"  --network-errors fail|report\n"
	"                         a failed command that was blocked answers NetworkPolicyError (fail, default)\n"
	"                         or its own result with network_blocked filled (report)\n"
	"\n"
	"For tests:\n"
	"  --profile fast|cloud   cloud: calls take as long as the cloud's are said to, keys without a plan are\n"
	"                         free ones, rate limits are on; fast, the default: as fast as it goes\n"
	"  --latency CALL=MS      change one of a profile's: CALL is create, pause, resume or other; MS a number,\n"
	"                         uniform(10,50), normal(100,20) or exponential(50)\n"
	"  --seed-file FILE       accounts, sandboxes, files and commands to begin with (see the README)\n"
	"  --seed N               the ids of sandboxes follow from N, the same in every run\n"
	"  --no-faults            neither fault rules nor the X-Orkestr-Fault header\n"
	"  --journal-commands     whole command lines in /_emulator/events, which may hold secrets\n"
	"\n"
	"Everything else:\n"
	"  --state-dir DIR        default $XDG_STATE_HOME/orkestr-emulator or ~/.local/state/orkestr-emulator;\n"
	"                         for root /var/lib/orkestr-emulator\n"
	"  --snapshot-dir DIR     where paused sandboxes are kept; emulators of one user may share it: what was "
	"paused\n"
	"                         on one can be resumed on the other, by one of them. They stay at a stop\n"
	"  --max-sandboxes N      refuse to run more than N at the same time; 0, the default, is no limit\n"
	"  --warm N               keep N sandboxes half made, so that a create is quick; 0 to 64, default 4\n"
	"  --keep                 a stop (Ctrl-C, SIGTERM) leaves the sandboxes running for the next start; without,\n"
	"                         it ends them. `orkestr-emulator clean` ends what was kept\n"
	"  --strict-resume        a paused sandbox whose processes are gone (after a reboot) is not resumed from\n"
	"                         its disk alone: 409 instead\n"
	"  --log-level LEVEL      error, warn, info (default) or debug\n"
	"  -h, --help             this text\n"
	"\n"
	"Examples:\n"
	"  orkestr-emulator serve\n"
	"  orkestr-emulator serve --listen 127.0.0.1:0 --port-file port --state-dir ./state --auth any\n"
	"  orkestr-emulator serve --api-key ork_alice0001:free --api-key ork_bob00002:team:read\n";

enum {
	OPT_LISTEN = 256,
	OPT_PORT_FILE,
	OPT_STATE_DIR,
	OPT_API_KEY,
	OPT_AUTH,
	OPT_KEYS,
	OPT_RATE_LIMIT,
	OPT_UNIX,
	OPT_LOG_LEVEL,
	OPT_MAX_SANDBOXES,
	OPT_WARM,
	OPT_STRICT_RESUME,
	OPT_SNAPSHOT_DIR,
	OPT_KEEP,
	OPT_ALLOW,
	OPT_MAP,
	OPT_ZONE,
	OPT_ALLOW_PRIVATE,
	OPT_NETWORK_ERRORS,
	OPT_PROFILE,
	OPT_LATENCY,
	OPT_SEED_FILE,
	OPT_SEED,
	OPT_NO_FAULTS,
	OPT_JOURNAL_COMMANDS,
	OPT_SUMMARY_FILE,
	OPT_LEASH_FD,
	OPT_SHARED_LAYERS,
};

static const struct option longs[] = {
	{ "listen", required_argument, NULL, OPT_LISTEN },
	{ "port-file", required_argument, NULL, OPT_PORT_FILE },
	{ "state-dir", required_argument, NULL, OPT_STATE_DIR },
	{ "api-key", required_argument, NULL, OPT_API_KEY },
	{ "auth", required_argument, NULL, OPT_AUTH },
	{ "keys", required_argument, NULL, OPT_KEYS },
	{ "rate-limit", required_argument, NULL, OPT_RATE_LIMIT },
	{ "unix", required_argument, NULL, OPT_UNIX },
	{ "log-level", required_argument, NULL, OPT_LOG_LEVEL },
	{ "max-sandboxes", required_argument, NULL, OPT_MAX_SANDBOXES },
	{ "warm", required_argument, NULL, OPT_WARM },
	{ "snapshot-dir", required_argument, NULL, OPT_SNAPSHOT_DIR },
	{ "strict-resume", no_argument, NULL, OPT_STRICT_RESUME },
	{ "keep", no_argument, NULL, OPT_KEEP },
	{ "allow", required_argument, NULL, OPT_ALLOW },
	{ "map", required_argument, NULL, OPT_MAP },
	{ "zone", required_argument, NULL, OPT_ZONE },
	{ "allow-private", no_argument, NULL, OPT_ALLOW_PRIVATE },
	{ "network-errors", required_argument, NULL, OPT_NETWORK_ERRORS },
	{ "profile", required_argument, NULL, OPT_PROFILE },
	{ "latency", required_argument, NULL, OPT_LATENCY },
	{ "seed-file", required_argument, NULL, OPT_SEED_FILE },
	{ "seed", required_argument, NULL, OPT_SEED },
	{ "no-faults", no_argument, NULL, OPT_NO_FAULTS },
	{ "journal-commands", no_argument, NULL, OPT_JOURNAL_COMMANDS },
	{ "summary-file", required_argument, NULL, OPT_SUMMARY_FILE },
	{ "leash-fd", required_argument, NULL, OPT_LEASH_FD },
	{ "shared-layers", no_argument, NULL, OPT_SHARED_LAYERS },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

void serve_options_help(FILE *f)
{
	(void)fputs(help_text, f);
}

static int bad_listen(struct err *e, const char *s, const char *why)
{
	return err_set(e, ERR_INVALID, EINVAL, NULL, "--listen %.100s: %s", s, why);
}

/* A literal, or what a host's name may look like. Whether the name exists, listen_open finds out. */
static bool host_valid(const char *host, bool bracketed)
{
	struct in6_addr v6;
	size_t n = strlen(host);

	if (bracketed) {
		char addr[64];
		size_t len = strcspn(host, "%"); /* a zone, "fe80::1%eth0" */

		if (len >= sizeof(addr))
			return false;
		memcpy(addr, host, len);
		addr[len] = '\0';
		return inet_pton(AF_INET6, addr, &v6) == 1;
	}
	return n > 0 && n <= 253 && host[0] != '-' && host[0] != '.' &&
	       strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

int serve_parse_listen(const char *s, char *ret_host, size_t cap, uint16_t *ret_port, struct err *e)
{
	const char *colon = strrchr(s, ':'), *start = s, *end = colon;
	bool bracketed = s[0] == '[';
	char host[256];
	uint64_t port;

	if (!colon)
		return bad_listen(e, s, "wanted is HOST:PORT, as in 127.0.0.1:4520");
	if (bracketed) {
		start = s + 1;
		end = strchr(s, ']');
		if (!end || end + 1 != colon)
			return bad_listen(e, s, "wanted is [ADDRESS]:PORT, as in [::1]:4520");
	} else if (memchr(s, ':', (size_t)(colon - s))) {
		return bad_listen(e, s, "an IPv6 address needs brackets, as in [::1]:4520");
	}
	if (text_parse_u64(colon + 1, 0, 65535, &port) < 0)
		return bad_listen(e, s, "the port must be a number from 0 to 65535");
	if (end == s)
		(void)snprintf(host, sizeof(host), "%s", SERVE_DEFAULT_HOST);
	else if (text_format(host, sizeof(host), "%.*s", (int)(end - start), start) < 0 || !host_valid(host, bracketed))
		return bad_listen(e, s,
				  bracketed ? "between the brackets must be an IPv6 address"
					    : "the host must be an address or a name");
	if (text_format(ret_host, cap, "%s", host) < 0)
		return bad_listen(e, s, "the host is too long");
	*ret_port = (uint16_t)port;
	return 0;
}

static int set_path(const char *option, const char *value, const char **ret, struct err *e)
{
	if (!*value)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s needs a path that is not empty", option);
	*ret = value;
	return 0;
}

static int set_auth(struct serve_options *o, const char *value, struct err *e)
{
	if (strcmp(value, "any") == 0)
		o->auth_any = true;
	else if (strcmp(value, "keys") == 0)
		o->auth_any = false;
	else
		return err_set(e, ERR_INVALID, EINVAL, NULL, "--auth must be keys or any");
	return 0;
}

static int set_rate(struct serve_options *o, const char *value, struct err *e)
{
	if (strcmp(value, "off") == 0)
		o->rate_mode = RATE_OFF;
	else if (strcmp(value, "plan") == 0)
		o->rate_mode = RATE_PLAN;
	else if (rate_limit_parse(value, &o->rate) == 0)
		o->rate_mode = RATE_FIXED;
	else
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "--rate-limit must be off, plan, or REQUESTS/SECONDS as in 60/60");
	o->has_rate = true;
	return 0;
}

static int add_net(const char *option, char *value, char **list, size_t *n, struct err *e)
{
	if (*n == SERVE_MAX_NET)
		return err_set(e, ERR_INVALID, E2BIG, NULL, "more than %d times %s", SERVE_MAX_NET, option);
	list[(*n)++] = value;
	return 0;
}

static int add_allow(struct serve_options *o, char *value, struct err *e)
{
	struct policy_rule rule;
	int r = policy_rule_parse(value, &rule, e);

	if (r < 0) {
		err_prefix(e, "--allow");
		return r;
	}
	return add_net("--allow", value, o->allow, &o->n_allow, e);
}

/* "LEFT=RIGHT", both there; what they mean is checked by who uses them. */
static int add_pair(const char *option, char *value, char **list, size_t *n, struct err *e)
{
	const char *eq = strchr(value, '=');

	if (!eq || eq == value || !eq[1] || strlen(value) > 300)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s \"%.64s\" is not of the form NAME=ADDRESS", option,
			       value);
	return add_net(option, value, list, n, e);
}

static int add_one(struct serve_options *o, int c, char *value, struct err *e)
{
	if (c == OPT_ALLOW)
		return add_allow(o, value, e);
	return c == OPT_MAP ? add_pair("--map", value, o->map, &o->n_map, e)
			    : add_pair("--zone", value, o->zone, &o->n_zone, e);
}

/* One a line; empty lines and what follows a # are for people. The strings live as long as the program, like argv. */
static int add_file(struct serve_options *o, int c, const char *path, struct err *e)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	char line[512], *value;
	int r = 0;

	if (!f)
		return err_errno(e, errno, "%.200s", path);
	for (unsigned int n = 1; r >= 0 && fgets(line, sizeof(line), f); n++) {
		size_t blank, len;

		line[strcspn(line, "#\r\n")] = '\0';
		blank = strspn(line, " \t");
		len = strlen(line + blank);
		while (len > 0 && strchr(" \t", line[blank + len - 1]))
			len--;
		if (len == 0)
			continue;
		value = strndup(line + blank, len);
		r = value ? add_one(o, c, value, e) : err_errno(e, ENOMEM, "reading");
		if (r < 0) {
			err_prefix(e, "%.200s line %u", path, n);
			free(value); /* nobody took it */
		}
	}
	return r;
}

static int set_network(struct serve_options *o, int c, char *value, struct err *e)
{
	switch (c) {
	case OPT_ALLOW:
	case OPT_MAP:
	case OPT_ZONE:
		return value[0] == '@' ? add_file(o, c, value + 1, e) : add_one(o, c, value, e);
	case OPT_ALLOW_PRIVATE:
		o->allow_private = true;
		return 0;
	default:
		if (strcmp(value, "fail") != 0 && strcmp(value, "report") != 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "--network-errors must be fail or report");
		o->network_errors_report = strcmp(value, "report") == 0;
		return 0;
	}
}

static int set_seed(struct serve_options *o, const char *value, struct err *e)
{
	if (text_parse_u64(value, 0, UINT64_MAX, &o->seed) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "--seed must be a whole number");
	o->has_seed = true;
	return 0;
}

/* How it helps tests; the last three are for `exec` alone and not in the help. */
static int set_testing(struct serve_options *o, int c, const char *value, struct err *e)
{
	uint64_t n;
	int r;

	switch (c) {
	case OPT_PROFILE:
		if (profile_get(value, &o->profile) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "--profile must be fast or cloud");
		return 0;
	case OPT_LATENCY:
		r = profile_set_latency(&o->profile, value, e);
		if (r < 0)
			err_prefix(e, "--latency");
		return r;
	case OPT_SEED_FILE:
		return set_path("--seed-file", value, &o->seed_file, e);
	case OPT_SEED:
		return set_seed(o, value, e);
	case OPT_NO_FAULTS:
		o->no_faults = true;
		return 0;
	case OPT_JOURNAL_COMMANDS:
		o->journal_commands = true;
		return 0;
	case OPT_SUMMARY_FILE:
		return set_path("--summary-file", value, &o->summary_file, e);
	case OPT_LEASH_FD:
		if (text_parse_u64(value, 3, INT_MAX, &n) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "--leash-fd must be the number of an open file");
		o->leash_fd = (int)n;
		return 0;
	default:
		o->shared_layers = true;
		return 0;
	}
}

static int set(struct serve_options *o, int c, char *value, struct err *e)
{
	uint64_t n;

	switch (c) {
	case OPT_LISTEN:
		return serve_parse_listen(value, o->host, sizeof(o->host), &o->port, e);
	case OPT_PORT_FILE:
		return set_path("--port-file", value, &o->port_file, e);
	case OPT_STATE_DIR:
		return set_path("--state-dir", value, &o->state_dir, e);
	case OPT_SNAPSHOT_DIR:
		return set_path("--snapshot-dir", value, &o->snapshot_dir, e);
	case OPT_UNIX:
		return set_path("--unix", value, &o->unix_path, e);
	case OPT_AUTH:
		return set_auth(o, value, e);
	case OPT_KEYS:
		return set_path("--keys", value, &o->keys_file, e);
	case OPT_RATE_LIMIT:
		return set_rate(o, value, e);
	case OPT_API_KEY:
		if (o->n_api_keys == SERVE_MAX_KEYS)
			return err_set(e, ERR_INVALID, E2BIG, NULL, "more than %d times --api-key", SERVE_MAX_KEYS);
		o->api_keys[o->n_api_keys++] = value;
		return 0;
	case OPT_LOG_LEVEL:
		if (log_level_parse(value, &o->log_level) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "--log-level must be error, warn, info or debug");
		return 0;
	case OPT_STRICT_RESUME:
		o->strict_resume = true;
		return 0;
	case OPT_KEEP:
		o->keep = true;
		return 0;
	case OPT_MAX_SANDBOXES:
		if (text_parse_u64(value, 0, 100000, &n) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL,
				       "--max-sandboxes must be a number from 0 to 100000");
		o->max_sandboxes = (uint32_t)n;
		return 0;
	case OPT_WARM:
		if (text_parse_u64(value, 0, 64, &n) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "--warm must be a number from 0 to 64");
		o->warm = (uint32_t)n;
		return 0;
	case OPT_ALLOW:
	case OPT_MAP:
	case OPT_ZONE:
	case OPT_ALLOW_PRIVATE:
	case OPT_NETWORK_ERRORS:
		return set_network(o, c, value, e);
	case OPT_PROFILE:
	case OPT_LATENCY:
	case OPT_SEED_FILE:
	case OPT_SEED:
	case OPT_NO_FAULTS:
	case OPT_JOURNAL_COMMANDS:
	case OPT_SUMMARY_FILE:
	case OPT_LEASH_FD:
	case OPT_SHARED_LAYERS:
		return set_testing(o, c, value, e);
	default:
		return err_set(e, ERR_INTERNAL, EINVAL, NULL, "an option nobody handles");
	}
}

int serve_options_parse(int argc, char **argv, struct serve_options *ret, struct err *e)
{
	struct serve_options o = { .host = SERVE_DEFAULT_HOST,
				   .port = SERVE_DEFAULT_PORT,
				   .log_level = LOG_LEVEL_INFO,
				   .warm = SERVE_DEFAULT_WARM,
				   .leash_fd = -1 };
	int c, r;

	(void)profile_get("fast", &o.profile);

	optind = 0; /* getopt_long(3), Notes: forget an earlier run */
	while ((c = cmd_getopt(argc, argv, "+:h", longs, e)) != -1) {
		if (c == CMD_OPT_BAD)
			return -EINVAL;
		if (c == 'h') {
			*ret = (struct serve_options){ .help = true };
			return 0;
		}
		r = set(&o, c, optarg, e);
		if (r < 0)
			return r;
	}
	if (optind < argc) /* it may be a key after a forgotten --api-key: not quoted */
		return err_set(e, ERR_INVALID, EINVAL, NULL, "argument %d is no option and goes with none", optind);
	*ret = o;
	return 0;
}

void serve_options_forget_keys(struct serve_options *o)
{
	for (size_t i = 0; i < o->n_api_keys; i++)
		explicit_bzero(o->api_keys[i], strlen(o->api_keys[i]));
}
