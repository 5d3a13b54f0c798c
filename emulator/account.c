/* Theory of operation: a key is 256 bits of SHA-256 from the moment it is parsed; the key itself is never
 * copied into the heap, and what was hashed on the stack is wiped. A look-up hashes the token and compares
 * with every known key, whole digests, in constant time: neither the time nor the message tells how near
 * a guess was. No message quotes any part of a key, nor of what follows its first colon: a key with a
 * colon in it would be half in the log. */

#include "emulator/account.h"

#include <errno.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <string.h>

#include "emulator/base/text.h"

#define KEY_MIN 8
#define KEY_MAX 256
#define ACCOUNTS_MAX 1024

struct entry {
	unsigned char digest[SHA256_DIGEST_SIZE];
	struct account account;
};

struct accounts {
	bool accept_any;
	struct entry *list;
	size_t n, cap;
};

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

static void id_of(const unsigned char *digest, char ret[static ACCOUNT_ID_SIZE])
{
	memcpy(ret, "acc_", 4);
	for (size_t i = 0; i < 8; i++)
		(void)snprintf(ret + 4 + 2 * i, 3, "%02x", digest[i]);
}

/* NULL if the n bytes can be a key, or what is wrong with them. */
static const char *key_fault(const char *key, size_t n)
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

static int parse_plan(const char *s, size_t n, enum plan_id *ret)
{
	char word[16];

	if (n >= sizeof(word))
		return -EINVAL;
	memcpy(word, s, n);
	word[n] = '\0';
	return plan_parse(word, ret);
}

/* "read", "write", or both with a comma; s runs to the end of the specification. */
static int parse_scopes(const char *s, unsigned int *ret)
{
	unsigned int scopes = 0;

	for (;;) {
		size_t n = strcspn(s, ",");

		if (n == 4 && memcmp(s, "read", n) == 0)
			scopes |= SCOPE_READ;
		else if (n == 5 && memcmp(s, "write", n) == 0)
			scopes |= SCOPE_WRITE;
		else
			return -EINVAL;
		if (!s[n])
			break;
		s += n + 1;
	}
	*ret = scopes;
	return 0;
}

static const struct entry *find_digest(const struct accounts *a, const unsigned char *digest)
{
	const struct entry *found = NULL;

	for (size_t i = 0; i < a->n; i++) /* always to the end */
		if (memeql_sec(a->list[i].digest, digest, SHA256_DIGEST_SIZE))
			found = &a->list[i];
	return found;
}

static int append(struct accounts *a, const struct entry *en, struct err *e)
{
	if (a->n == a->cap) {
		size_t cap = a->cap ? a->cap * 2 : 8;
		struct entry *p;

		if (a->n >= ACCOUNTS_MAX)
			return err_set(e, ERR_CAPACITY, E2BIG, NULL, "more than %d API keys", ACCOUNTS_MAX);
		p = reallocarray(a->list, cap, sizeof(*p));
		if (!p)
			return err_errno(e, ENOMEM, "API keys");
		a->list = p;
		a->cap = cap;
	}
	a->list[a->n++] = *en;
	return 0;
}

int accounts_add(struct accounts *a, const char *spec, struct err *e)
{
	struct entry en = { .account = { .plan = PLAN_TEAM, .scopes = SCOPE_READ | SCOPE_WRITE } };
	size_t key_len = strcspn(spec, ":"), number = a->n + 1;
	const char *fault = key_fault(spec, key_len);
	const char *plan = spec[key_len] ? spec + key_len + 1 : NULL;

	if (fault)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "API key %zu: %s", number, fault);
	if (plan) {
		size_t n = strcspn(plan, ":");

		if (parse_plan(plan, n, &en.account.plan) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL,
				       "API key %zu: after the key's colon comes a plan: free, pro or team", number);
		if (plan[n] && parse_scopes(plan + n + 1, &en.account.scopes) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL,
				       "API key %zu: after the plan's colon come the scopes: read, write or read,write",
				       number);
	}
	digest_of(spec, key_len, en.digest);
	id_of(en.digest, en.account.id);
	if (find_digest(a, en.digest))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "API key %zu: the same key was given before", number);
	return append(a, &en, e);
}

int accounts_find(const struct accounts *a, const char *token, struct account *ret, struct err *e)
{
	unsigned char digest[SHA256_DIGEST_SIZE];
	size_t n = token ? strnlen(token, KEY_MAX + 1) : 0;
	const struct entry *found;

	if (n == 0)
		return err_set(e, ERR_DENIED, EACCES, "unauthorized",
			       "Missing API key: send Authorization: Bearer <key>");
	if (key_fault(token, n))
		return err_set(e, ERR_DENIED, EACCES, "unauthorized", "Invalid API key");
	digest_of(token, n, digest);
	found = find_digest(a, digest);
	if (found) {
		*ret = found->account;
		return 0;
	}
	if (a->accept_any && (strncmp(token, "ork_", 4) == 0 || strncmp(token, "sp_live_", 8) == 0)) {
		id_of(digest, ret->id);
		ret->plan = PLAN_TEAM;
		ret->scopes = SCOPE_READ | SCOPE_WRITE;
		return 0;
	}
	return err_set(e, ERR_DENIED, EACCES, "unauthorized", "Invalid API key");
}

int account_id_of(const char *key, char ret[static ACCOUNT_ID_SIZE], struct err *e)
{
	unsigned char digest[SHA256_DIGEST_SIZE];
	const char *fault = key_fault(key, strnlen(key, KEY_MAX + 1));

	if (fault)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s", fault);
	digest_of(key, strlen(key), digest);
	id_of(digest, ret);
	return 0;
}

bool account_id_valid(const char *id)
{
	return strncmp(id, "acc_", 4) == 0 && strspn(id + 4, "0123456789abcdef") == 16 && id[20] == '\0';
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
