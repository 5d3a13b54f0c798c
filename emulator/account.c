/* Theory of operation: a key is 256 bits of SHA-256 from the moment it is parsed; the key itself is never
 * copied into the heap, and what was hashed on the stack is wiped. A look-up hashes the token and compares
 * with every known key, whole digests, in constant time: neither the time nor the message tells how near
 * a guess was. No message quotes any part of a key, nor of what follows its first colon: a key with a
 * colon in it would be half in the log. */

#include "emulator/account-internal.h"

#include <errno.h>
#include <nettle/memops.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/text.h"

#define ACCOUNTS_MAX 1024

int accounts_new(bool accept_any, struct accounts **ret)
{
	struct accounts *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->accept_any = accept_any;
	a->default_plan = PLAN_TEAM;
	*ret = a;
	return 0;
}

void accounts_set_default_plan(struct accounts *a, enum plan_id plan)
{
	a->default_plan = plan;
}

void accounts_free(struct accounts *a)
{
	if (!a)
		return;
	free(a->list);
	free(a);
}

struct entry *account_entry_find(const struct accounts *a, const unsigned char *digest)
{
	struct entry *found = NULL;

	for (size_t i = 0; i < a->n; i++) /* always to the end */
		if (memeql_sec(a->list[i].digest, digest, SHA256_DIGEST_SIZE))
			found = &a->list[i];
	return found;
}

int account_entry_append(struct accounts *a, const struct entry *en, struct err *e)
{
	if (a->n == a->cap) {
		size_t cap = a->cap ? a->cap * 2 : 8;
		struct entry *p;

		if (a->n >= ACCOUNTS_MAX)
			return err_set(e, ERR_CAPACITY, E2BIG, "capacity", "more than %d API keys", ACCOUNTS_MAX);
		p = reallocarray(a->list, cap, sizeof(*p));
		if (!p)
			return err_errno(e, ENOMEM, "API keys");
		a->list = p;
		a->cap = cap;
	}
	a->list[a->n++] = *en;
	return 0;
}

static int refuse(const struct entry *en, struct err *e)
{
	char iso[CLOCK_ISO_SIZE];

	if (en->revoked_ms)
		return err_set(e, ERR_DENIED, EACCES, "unauthorized", "This API key was revoked");
	clock_iso(en->expires_ms, iso);
	return err_set(e, ERR_DENIED, EACCES, "key_expired", "This API key has expired (%s)", iso);
}

int accounts_find(const struct accounts *a, const char *token, struct account *ret, struct err *e)
{
	unsigned char digest[SHA256_DIGEST_SIZE];
	size_t n = token ? strnlen(token, KEY_MAX + 1) : 0;
	const struct entry *found;

	if (n == 0)
		return err_set(e, ERR_DENIED, EACCES, "unauthorized",
			       "Missing API key: send Authorization: Bearer <key>");
	if (account_key_fault(token, n))
		return err_set(e, ERR_DENIED, EACCES, "unauthorized", "Invalid API key");
	account_key_digest(token, n, digest);
	found = account_entry_find(a, digest);
	if (found) {
		if (found->revoked_ms || (found->expires_ms && clock_now_ms() >= found->expires_ms))
			return refuse(found, e);
		*ret = found->account;
		return 0;
	}
	if (a->accept_any && (strncmp(token, "ork_", 4) == 0 || strncmp(token, "sp_live_", 8) == 0)) {
		*ret = (struct account){ .plan = a->default_plan, .scopes = SCOPE_READ | SCOPE_WRITE };
		account_ids_of(digest, ret);
		return 0;
	}
	return err_set(e, ERR_DENIED, EACCES, "unauthorized", "Invalid API key");
}

void account_key_generate(char ret[static ACCOUNT_KEY_SIZE])
{
	static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	unsigned char rnd[64];
	size_t n = 0;

	memcpy(ret, "ork_", 4);
	while (n < 40) {
		text_random(rnd, sizeof(rnd));
		for (size_t i = 0; i < sizeof(rnd) && n < 40; i++)
			if (rnd[i] < 4 * 62) /* the rest would make some characters likelier */
				ret[4 + n++] = alphabet[rnd[i] % 62];
	}
	ret[44] = '\0';
	explicit_bzero(rnd, sizeof(rnd));
}
