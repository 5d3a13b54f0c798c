/* Keys as they are written on the command line and in a keys file. No message quotes any part of a key, nor of what
 * follows its first colon. */

#include <errno.h>
#include <string.h>

#include "emulator/account-internal.h"
#include "emulator/base/clock.h"

static int parse_plan(const char *s, size_t n, enum plan_id *ret)
{
	char word[16];

	if (n >= sizeof(word))
		return -EINVAL;
	memcpy(word, s, n);
	word[n] = '\0';
	return plan_parse(word, ret);
}

static int parse_scopes(const char *s, size_t len, unsigned int *ret)
{
	const char *end = s + len;
	unsigned int scopes = 0;

	for (;;) {
		const char *comma = memchr(s, ',', (size_t)(end - s));
		size_t n = (size_t)((comma ? comma : end) - s);

		if (n == 4 && memcmp(s, "read", n) == 0)
			scopes |= SCOPE_READ;
		else if (n == 5 && memcmp(s, "write", n) == 0)
			scopes |= SCOPE_WRITE;
		else
			return -EINVAL;
		if (!comma)
			break;
		s = comma + 1;
	}
	*ret = scopes;
	return 0;
}

int account_scopes_parse(const char *s, unsigned int *ret)
{
	return parse_scopes(s, strlen(s), ret);
}

/* One option of n bytes; "expires=" takes the rest of the specification, which has colons in it. */
static int parse_option(const char *s, size_t n, struct entry *en, bool *ret_last)
{
	char word[64];

	*ret_last = strncmp(s, "expires=", 8) == 0;
	if (*ret_last)
		return clock_parse_iso(s + 8, &en->expires_ms);
	if (n >= sizeof(word))
		return -EINVAL;
	memcpy(word, s, n);
	word[n] = '\0';
	if (strcmp(word, "revoked") == 0) {
		en->revoked_ms = 1;
		return 0;
	}
	if (strncmp(word, "account=", 8) == 0)
		return account_id_parse(word + 8, en->account.id);
	if (strncmp(word, "rate=", 5) == 0)
		return rate_limit_parse(word + 5, &en->account.rate);
	return -EINVAL;
}

static int parse_options(const char *s, struct entry *en)
{
	bool last = false;

	while (s && !last) {
		size_t n = strcspn(s, ":");

		if (parse_option(s, n, en, &last) < 0)
			return -EINVAL;
		s = s[n] ? s + n + 1 : NULL;
	}
	return 0;
}

/* What comes after the key. NULL, or what is wrong with it. */
static const char *parse_rest(const char *plan, struct entry *en)
{
	size_t n = strcspn(plan, ":");
	const char *scopes = plan[n] ? plan + n + 1 : NULL;

	if (parse_plan(plan, n, &en->account.plan) < 0)
		return "after the key's colon comes a plan: free, pro or team";
	n = scopes ? strcspn(scopes, ":") : 0;
	if (scopes && parse_scopes(scopes, n, &en->account.scopes) < 0)
		return "after the plan's colon come the scopes: read, write or read,write";
	if (scopes && scopes[n] && parse_options(scopes + n + 1, en) < 0)
		return "after the scopes: read, write or read,write may come, each after a colon, account=NAME "
		       "([a-z0-9_-], "
		       "at most 19), rate=REQUESTS/SECONDS, revoked, and as the last expires=TIME "
		       "(2026-05-01T00:00:00Z)";
	return NULL;
}

int accounts_add(struct accounts *a, const char *spec, struct err *e)
{
	size_t key_len = strcspn(spec, ":"), number = a->n + 1;
	const char *fault = account_key_fault(spec, key_len);
	struct entry en;

	if (!fault) {
		account_entry_init(&en, spec, key_len);
		en.account.plan = a->default_plan;
		if (spec[key_len])
			fault = parse_rest(spec + key_len + 1, &en);
	}
	if (!fault && account_entry_find(a, en.digest))
		fault = "the same key was given before";
	if (fault)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "API key %zu: %s", number, fault);
	return account_entry_append(a, &en, e);
}

int accounts_add_lines(struct accounts *a, char *text, struct err *e)
{
	size_t len = strlen(text);
	char *line = text;
	int r = 0;

	while (line && r >= 0) {
		char *next = strchr(line, '\n');

		if (next)
			*next++ = '\0';
		line += strspn(line, " \t");
		line[strcspn(line, " \t\r")] = '\0';
		if (*line && *line != '#')
			r = accounts_add(a, line, e);
		line = next;
	}
	explicit_bzero(text, len);
	return r;
}
