/* Keys at run time. A change is in the store before it holds; a key itself is nowhere but in the answer. */

#include <errno.h>
#include <string.h>

#include "emulator/account-internal.h"
#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/store.h"

static void info_of(const struct entry *en, struct key_info *ret)
{
	*ret = (struct key_info){ .plan = en->account.plan,
				  .scopes = en->account.scopes,
				  .created_ms = en->created_ms,
				  .expires_ms = en->expires_ms,
				  .revoked_ms = en->revoked_ms,
				  .rate = en->account.rate };
	(void)snprintf(ret->id, sizeof(ret->id), "%s", en->account.key_id);
	(void)snprintf(ret->account, sizeof(ret->account), "%s", en->account.id);
	(void)snprintf(ret->label, sizeof(ret->label), "%s", en->label);
}

static void hex_of(const unsigned char *digest, char ret[static 65])
{
	for (size_t i = 0; i < SHA256_DIGEST_SIZE; i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

static int save(struct accounts *a, const struct entry *en, struct err *e)
{
	struct store_key k = { .scopes = en->account.scopes,
			       .created_ms = en->created_ms,
			       .expires_ms = en->expires_ms,
			       .revoked_ms = en->revoked_ms,
			       .rate_requests = en->account.rate.requests,
			       .rate_seconds = en->account.rate.seconds };

	if (!a->store || !en->made)
		return 0;
	hex_of(en->digest, k.digest);
	(void)snprintf(k.account, sizeof(k.account), "%s", en->account.id);
	(void)snprintf(k.plan, sizeof(k.plan), "%s", plan_get(en->account.plan)->name);
	(void)snprintf(k.label, sizeof(k.label), "%s", en->label);
	return store_key_put(a->store, &k, e);
}

static int delete (struct accounts *a, const struct entry *en, struct err *e)
{
	char hex[65];

	if (!a->store || !en->made)
		return 0;
	hex_of(en->digest, hex);
	return store_key_delete(a->store, hex, e);
}

static bool digest_parse(const char *hex, unsigned char ret[static SHA256_DIGEST_SIZE])
{
	static const char digits[] = "0123456789abcdef";

	if (strlen(hex) != 2 * SHA256_DIGEST_SIZE || strspn(hex, digits) != 2 * SHA256_DIGEST_SIZE)
		return false;
	for (size_t i = 0; i < SHA256_DIGEST_SIZE; i++)
		ret[i] = (unsigned char)((strchr(digits, hex[2 * i]) - digits) << 4 |
					 (strchr(digits, hex[2 * i + 1]) - digits));
	return true;
}

/* ---- what an earlier run has stored ---- */

struct loading {
	struct accounts *a;
	struct err *e;
};

static int unreadable(void)
{
	log_warn("a stored API key can't be read and is left out");
	return 0;
}

static int load(void *arg, const struct store_key *k)
{
	struct loading *l = arg;
	struct entry en = {
		.made = true, .created_ms = k->created_ms, .expires_ms = k->expires_ms, .revoked_ms = k->revoked_ms
	};
	struct rate_limit rate = { k->rate_requests, k->rate_seconds };

	if (!digest_parse(k->digest, en.digest))
		return unreadable();
	account_ids_of(en.digest, &en.account); /* the key's; whose it is may have been said */
	if (plan_parse(k->plan, &en.account.plan) < 0 || account_id_parse(k->account, en.account.id) < 0 ||
	    (rate.requests && !rate_limit_valid(&rate)) || k->scopes == 0 || k->scopes > (SCOPE_READ | SCOPE_WRITE))
		return unreadable();
	if (account_entry_find(l->a, en.digest))
		return 0; /* as the command line has it */
	en.account.rate = rate;
	en.account.scopes = k->scopes;
	(void)snprintf(en.label, sizeof(en.label), "%s", k->label);
	return account_entry_append(l->a, &en, l->e);
}

void accounts_key_id(const char *key, char ret[static KEY_ID_SIZE])
{
	struct entry en = { 0 };

	account_entry_init(&en, key, strlen(key));
	memcpy(ret, en.account.key_id, KEY_ID_SIZE);
	explicit_bzero(&en, sizeof(en));
}

int accounts_use_store(struct accounts *a, struct store *s, struct err *e)
{
	struct loading l = { .a = a, .e = e };
	int r = store_key_each(s, load, &l, e);

	if (r >= 0)
		a->store = s;
	return r;
}

/* ---- one key ---- */

static struct entry *find(const struct accounts *a, const char *key_id)
{
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->list[i].account.key_id, key_id) == 0)
			return &a->list[i];
	return NULL;
}

static int not_found(const char *key_id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, ENOENT, "key_not_found", "API key \"%.24s\" does not exist", key_id);
}

static int invalid(const char *why, struct err *e)
{
	return err_set(e, ERR_INVALID, EINVAL, "key_invalid", "%s", why);
}

static int fill(struct entry *en, const struct key_spec *s, struct err *e)
{
	if (s->account && account_id_parse(s->account, en->account.id) < 0)
		return invalid("an account's name has 1 to 19 characters of [a-z0-9_-], after \"acc_\" or without it",
			       e);
	if (s->label && (strlen(s->label) >= sizeof(en->label) || !text_utf8_valid(s->label, strlen(s->label))))
		return invalid("a label has at most 64 bytes", e);
	if (s->rate.requests && !rate_limit_valid(&s->rate))
		return invalid("a rate limit is 1 to 1000000 requests in 1 to 86400 seconds", e);
	if (s->scopes > (SCOPE_READ | SCOPE_WRITE))
		return invalid("the scopes are read and write", e);
	if (s->expires_ms < 0)
		return invalid("a key can't have expired before 1970", e);
	en->account.plan = s->plan;
	if (s->scopes)
		en->account.scopes = s->scopes;
	en->account.rate = s->rate;
	en->expires_ms = s->expires_ms;
	(void)snprintf(en->label, sizeof(en->label), "%s", s->label ? s->label : "");
	en->made = true;
	return 0;
}

int accounts_key_add(struct accounts *a, const struct key_spec *s, struct key_info *ret, char ret_key[ACCOUNT_KEY_MAX],
		     struct err *e)
{
	char made[ACCOUNT_KEY_SIZE];
	const char *key = s->key, *fault;
	struct entry en;
	int r;

	if (!key) {
		account_key_generate(made);
		key = made;
	}
	fault = account_key_fault(key, strnlen(key, KEY_MAX + 1));
	if (fault)
		return invalid(fault, e);
	account_entry_init(&en, key, strlen(key));
	en.created_ms = clock_now_ms();
	r = fill(&en, s, e);
	if (r >= 0 && (account_entry_find(a, en.digest) || find(a, en.account.key_id)))
		r = err_set(e, ERR_EXISTS, EEXIST, "key_exists", "this API key is there already: %s",
			    en.account.key_id);
	if (r >= 0)
		r = account_entry_append(a, &en, e);
	if (r >= 0) {
		r = save(a, &en, e);
		if (r < 0)
			a->n--;
	}
	if (r >= 0) {
		if (ret)
			info_of(&en, ret);
		if (ret_key)
			(void)snprintf(ret_key, ACCOUNT_KEY_MAX, "%s", key);
	}
	explicit_bzero(made, sizeof(made));
	return r;
}

int accounts_key_get(const struct accounts *a, const char *key_id, struct key_info *ret, struct err *e)
{
	const struct entry *en = find(a, key_id);

	if (!en)
		return not_found(key_id, e);
	info_of(en, ret);
	return 0;
}

int accounts_key_change(struct accounts *a, const char *key_id, const struct key_change *c, struct key_info *ret,
			struct err *e)
{
	struct entry *en = find(a, key_id), now;
	int r;

	if (!en)
		return not_found(key_id, e);
	if (c->scopes && (*c->scopes == 0 || *c->scopes > (SCOPE_READ | SCOPE_WRITE)))
		return invalid("the scopes are read and write, one of them at least", e);
	if (c->rate && c->rate->requests && !rate_limit_valid(c->rate))
		return invalid("a rate limit is 1 to 1000000 requests in 1 to 86400 seconds", e);
	if (c->expires_ms && *c->expires_ms < 0)
		return invalid("a key can't have expired before 1970", e);
	now = *en;
	if (c->plan)
		now.account.plan = *c->plan;
	if (c->scopes)
		now.account.scopes = *c->scopes;
	if (c->rate)
		now.account.rate = *c->rate;
	if (c->expires_ms)
		now.expires_ms = *c->expires_ms;
	if (c->revoked && *c->revoked != (now.revoked_ms != 0))
		now.revoked_ms = *c->revoked ? clock_now_ms() : 0;
	r = save(a, &now, e);
	if (r < 0)
		return r;
	*en = now;
	if (ret)
		info_of(en, ret);
	return 0;
}

static int forget(struct accounts *a, struct entry *en, struct err *e)
{
	size_t i = (size_t)(en - a->list);
	int r = delete (a, en, e);

	if (r < 0)
		return r;
	memmove(en, en + 1, (a->n - i - 1) * sizeof(*en));
	a->n--;
	return 0;
}

int accounts_key_forget(struct accounts *a, const char *key_id, struct err *e)
{
	struct entry *en = find(a, key_id);

	return en ? forget(a, en, e) : not_found(key_id, e);
}

int accounts_forget_made(struct accounts *a, const char *account, struct err *e)
{
	int r = 0;

	for (size_t i = a->n; i > 0 && r >= 0; i--) {
		struct entry *en = &a->list[i - 1];

		if (en->made && (!account || strcmp(en->account.id, account) == 0))
			r = forget(a, en, e);
	}
	return r;
}

int accounts_each_key(const struct accounts *a, int (*fn)(void *arg, const struct key_info *k), void *arg)
{
	int r = 0;

	for (size_t i = 0; i < a->n && r == 0; i++) {
		struct key_info k;

		info_of(&a->list[i], &k);
		r = fn(arg, &k);
	}
	return r;
}
