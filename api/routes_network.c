/* The emulator's own view of a sandbox's network: its ledger, what an allowlist would need (`learn`), a live
 * change of mode, and the maps of the hermetic internet. None of it is part of the cloud's API. */

#include "api/api.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "api/json_text.h"
#include "api/req.h"
#include "api/validate.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "netpolicy/ledger.h"

#define BODY_MAX 4096
#define LEDGER_MAX (LEDGER_ENTRIES * 8192u) /* a host and a rule, each byte as \u00XX, and the rest */

/* ---- the ledger ---- */

static const char *verdict_name(enum egress_verdict v)
{
	return v == EGRESS_ALLOWED ? "allowed" : v == EGRESS_BLOCKED ? "blocked" : "failed";
}

static const char *kind_name(enum egress_kind k)
{
	return k == EGRESS_DNS ? "dns" : k == EGRESS_TCP ? "tcp" : k == EGRESS_UDP ? "udp" : "other";
}

static const char *proto_name(uint8_t proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return "tcp";
	case IPPROTO_UDP:
		return "udp";
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return "icmp";
	default:
		return "other";
	}
}

static int add_nullable(struct buf *b, const char *name, const char *s)
{
	int r = buf_printf(b, ",\"%s\":", name);

	if (r < 0)
		return r;
	return *s ? json_text_string(b, s, strlen(s), true, NULL) : buf_puts(b, "null");
}

static int add_time(struct buf *b, const char *name, int64_t ms)
{
	char iso[CLOCK_ISO_SIZE] = "";

	if (ms != 0)
		clock_iso(ms, iso);
	return add_nullable(b, name, iso);
}

struct listing {
	struct buf b;
	uint64_t last;
	bool any;
};

static int add_entry(void *arg, const struct ledger_entry *en)
{
	struct listing *l = arg;
	char ip[INET6_ADDRSTRLEN] = "";
	int r;

	if (IN6_IS_ADDR_V4MAPPED(&en->address))
		(void)inet_ntop(AF_INET, en->address.s6_addr + 12, ip, sizeof(ip));
	else if (!IN6_IS_ADDR_UNSPECIFIED(&en->address))
		(void)inet_ntop(AF_INET6, &en->address, ip, sizeof(ip));
	r = buf_printf(&l->b, "%s{\"seq\":%llu,\"verdict\":\"%s\",\"kind\":\"%s\",\"proto\":\"%s\"", l->any ? "," : "",
		       (unsigned long long)en->seq, verdict_name(en->verdict), kind_name(en->kind),
		       proto_name(en->proto));
	if (r >= 0)
		r = add_time(&l->b, "time", en->time_ms);
	if (r >= 0)
		r = add_nullable(&l->b, "host", en->host);
	if (r >= 0)
		r = add_nullable(&l->b, "ip", ip);
	if (r >= 0)
		r = en->port ? buf_printf(&l->b, ",\"port\":%u", en->port) : buf_puts(&l->b, ",\"port\":null");
	if (r >= 0)
		r = add_nullable(&l->b, "rule", en->rule);
	if (r >= 0)
		r = buf_printf(&l->b, ",\"bytes_out\":%llu,\"bytes_in\":%llu,\"open\":%s",
			       (unsigned long long)en->bytes_out, (unsigned long long)en->bytes_in,
			       en->open ? "true" : "false");
	if (r >= 0)
		r = add_time(&l->b, "closed_at", en->closed_ms);
	if (r >= 0)
		r = add_nullable(&l->b, "exec", en->owner);
	if (r >= 0)
		r = buf_puts(&l->b, "}");
	l->any = true;
	l->last = en->seq;
	return r;
}

static int write_ledger(struct listing *l, enum net_mode mode, const struct ledger *ledger)
{
	struct ledger_counters n = { 0 };
	int r;

	if (ledger)
		ledger_counters(ledger, &n);
	r = buf_printf(
		&l->b,
		"{\"mode\":\"%s\",\"counters\":{\"allowed\":%llu,\"blocked\":%llu,\"failed\":%llu,\"bytes_out\":%llu,"
		"\"bytes_in\":%llu,\"lost\":%llu},\"entries\":[",
		net_mode_name(mode), (unsigned long long)n.allowed, (unsigned long long)n.blocked,
		(unsigned long long)n.failed, (unsigned long long)n.bytes_out, (unsigned long long)n.bytes_in,
		(unsigned long long)n.lost);
	if (r >= 0 && ledger)
		r = ledger_each(ledger, l->last, add_entry, l);
	return r < 0 ? r : buf_printf(&l->b, "],\"next_since\":%llu}", (unsigned long long)l->last);
}

static void handle_ledger(struct req *r)
{
	struct listing l = { .b = BUF_INIT(LEDGER_MAX) };
	const struct ledger *ledger = NULL;
	const char *since = req_query(r, "since");
	enum net_mode mode = NET_OFF;
	struct err e = ERR_INIT;
	int k;

	if (since && text_parse_u64(since, 0, INT64_MAX, &l.last) < 0) {
		req_reply_invalid(r, "query", "since", "int_parsing",
				  "Input should be the next_since of an earlier answer");
		return;
	}
	k = sandbox_network_ledger(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), &ledger, &mode, &e);
	if (k >= 0) {
		k = write_ledger(&l, mode, ledger);
		if (k < 0)
			(void)err_errno(&e, -k, "the ledger");
	}
	if (k < 0)
		req_reply_err(r, &e);
	else
		req_reply_buf(r, 200, "application/json", &l.b);
	buf_free(&l.b);
}

static void add_rule(void *arg, const struct policy_rule *rule)
{
	char text[POLICY_RULE_MAX];

	if (policy_rule_format(rule, text) >= 0)
		json_object_array_add(arg, json_object_new_string(text));
}

static void handle_learn(struct req *r)
{
	const struct ledger *ledger = NULL;
	struct json_object *o, *rules;
	enum net_mode mode;
	struct err e = ERR_INIT;
	int k = sandbox_network_ledger(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), &ledger, &mode, &e);

	if (k < 0) {
		req_reply_err(r, &e);
		return;
	}
	rules = json_object_new_array();
	if (ledger && ledger_learn(ledger, add_rule, rules) < 0) {
		json_object_put(rules);
		(void)err_errno(&e, ENOMEM, "learning the rules");
		req_reply_err(r, &e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "rules", rules);
	req_reply_json(r, 200, o);
}

/* ---- another mode ---- */

struct change {
	struct req *req; /* NULL: the client is gone */
};

static void on_change_gone(void *arg)
{
	struct change *c = arg;

	c->req = NULL;
}

static void on_changed(void *arg, const struct err *e, const struct sandbox_row *row)
{
	_cleanup_free_ struct change *c = arg;
	struct json_object *o;

	if (!c->req)
		return;
	req_on_gone(c->req, NULL, NULL);
	if (!row) {
		req_reply_err(c->req, e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "mode", json_object_new_string(row->network));
	req_reply_json(c->req, 200, o);
}

struct change_body {
	const char *network;
};

static const char *const modes[] = { "off", "restricted", "open", NULL };
static const struct validate_field change_fields[] = {
	{ "network", VALIDATE_STRING, .required = true, .choices = modes,
	  .offset = offsetof(struct change_body, network) },
};

static void handle_change(struct req *r)
{
	struct validate_errors errs = { 0 };
	struct json_object *o = req_json(r);
	struct change_body b = { 0 };
	enum net_mode mode = NET_OFF;
	struct err e = ERR_INIT;
	struct change *c;

	if (!o)
		return;
	validate_object(o, change_fields, ARRAY_SIZE(change_fields), &b, &errs);
	if (validate_reply(r, &errs))
		return;
	validate_unknown(r, o, change_fields, ARRAY_SIZE(change_fields));
	c = calloc(1, sizeof(*c));
	if (!c || net_mode_parse(b.network, &mode) < 0) {
		free(c);
		(void)err_errno(&e, ENOMEM, "changing the network");
		req_reply_err(r, &e);
		return;
	}
	c->req = r;
	req_on_gone(r, on_change_gone, c);
	if (sandbox_network_set(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), mode, on_changed, c, &e) ==
	    0)
		return;
	req_on_gone(r, NULL, NULL);
	free(c);
	req_reply_err(r, &e);
}

/* ---- maps ---- */

struct map_body {
	const char *map;
};

static const struct validate_field map_fields[] = {
	{ "map", VALIDATE_STRING, .required = true, .min = 1, .max = POLICY_RULE_MAX,
	  .offset = offsetof(struct map_body, map) },
};

static void apply_map(struct req *r, const char *text)
{
	struct err e = ERR_INIT;

	if (sandboxes_network_map(req_api(r)->sandboxes, text, &e) < 0)
		req_reply_err(r, &e);
	else
		req_reply_empty(r, 204);
}

static void handle_map(struct req *r)
{
	struct validate_errors errs = { 0 };
	struct json_object *o = req_json(r);
	struct map_body b = { 0 };

	if (!o)
		return;
	validate_object(o, map_fields, ARRAY_SIZE(map_fields), &b, &errs);
	if (validate_reply(r, &errs))
		return;
	validate_unknown(r, o, map_fields, ARRAY_SIZE(map_fields));
	apply_map(r, b.map);
}

static void handle_unmap(struct req *r)
{
	apply_map(r, NULL);
}

static const struct route routes[] = {
	{ "GET", "/_emulator/sandboxes/{id}/network", SCOPE_READ, 0, handle_ledger, NULL, NULL },
	{ "PATCH", "/_emulator/sandboxes/{id}/network", SCOPE_WRITE, BODY_MAX, handle_change, NULL, NULL },
	{ "GET", "/_emulator/sandboxes/{id}/network/learn", SCOPE_READ, 0, handle_learn, NULL, NULL },
	{ "POST", "/_emulator/network/map", SCOPE_WRITE, BODY_MAX, handle_map, NULL, NULL },
	{ "DELETE", "/_emulator/network/map", SCOPE_WRITE, 0, handle_unmap, NULL, NULL },
};

void api_add_network_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
