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
	*ret = a;
	return 0;
}

void accounts_free(struct accounts *a)
{
	if (!a)
		return;
	free(a->list);
	free(a);
}

static void digest_of(const char *key, size_t n, unsigned char ret[static SHA256_DIGEST_SIZE])
{
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	sha256_update(&ctx, n, (const uint8_t *)key);
	sha256_digest(&ctx, SHA256_DIGEST_SIZE, ret);
	explicit_bzero(&ctx, sizeof(ctx));
}

static void ids_of(const unsigned char *digest, struct account *ret)
{
	memcpy(ret->id, "acc_", 4);
	for (size_t i = 0; i < 8; i++)
		(void)snprintf(ret->id + 4 + 2 * i, 3, "%02x", digest[i]);
	/* Another part of it: the account's id of one key is not to look like the id of another. */
	memcpy(ret->key_id, "key_", 4);
	for (size_t i = 0; i < 6; i++)
		(void)snprintf(ret->key_id + 4 + 2 * i, 3, "%02x", digest[8 + i]);
}

void account_entry_init(struct entry *en, const char *key, size_t n)
{
	*en = (struct entry){ .account = { .plan = PLAN_TEAM, .scopes = SCOPE_READ | SCOPE_WRITE } };
	digest_of(key, n, en->digest);
	ids_of(en->digest, &en->account);
}

const char *account_key_fault(const char *key, size_t n)
{
	if (n < KEY_MIN)
		return "the key is shorter than 8 characters";
	if (n > KEY_MAX)
		return "the key is longer than 256 characters";
	for (size_t i = 0; i < n; i++)
		if (key[i] <= ' ' || key[i] >= 0x7f || key[i] == ':')
			return "the key may only have printable ASCII characters, no space and no colon";
	return NULL;
}

int account_id_parse(const char *s, char ret[static ACCOUNT_ID_SIZE])
{
	const char *name = strncmp(s, "acc_", 4) == 0 ? s + 4 : s;
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	if (n == 0 || name[n] || n + 5 > ACCOUNT_ID_SIZE)
		return -EINVAL;
	(void)snprintf(ret, ACCOUNT_ID_SIZE, "acc_%.*s", (int)n, name);
	return 0;
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
	digest_of(token, n, digest);
	found = account_entry_find(a, digest);
	if (found) {
		if (found->revoked_ms || (found->expires_ms && clock_now_ms() >= found->expires_ms))
			return refuse(found, e);
		*ret = found->account;
		return 0;
	}
	if (a->accept_any && (strncmp(token, "ork_", 4) == 0 || strncmp(token, "sp_live_", 8) == 0)) {
		*ret = (struct account){ .plan = PLAN_TEAM, .scopes = SCOPE_READ | SCOPE_WRITE };
		ids_of(digest, ret);
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
