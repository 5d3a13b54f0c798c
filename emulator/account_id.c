/* What a key's digest says: the ids of the key and of the account it stands for unless it was given another. */

#include "emulator/account-internal.h"

#include <errno.h>
#include <string.h>

#include "emulator/base/text.h"

void account_key_digest(const char *key, size_t n, unsigned char ret[static SHA256_DIGEST_SIZE])
{
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	sha256_update(&ctx, n, (const uint8_t *)key);
	sha256_digest(&ctx, SHA256_DIGEST_SIZE, ret);
	explicit_bzero(&ctx, sizeof(ctx));
}

void account_ids_of(const unsigned char *digest, struct account *ret)
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
	account_key_digest(key, n, en->digest);
	account_ids_of(en->digest, &en->account);
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

int account_id_of(const char *key, char ret[static ACCOUNT_ID_SIZE], struct err *e)
{
	const char *fault = account_key_fault(key, strnlen(key, KEY_MAX + 1));
	struct entry en;

	if (fault)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s", fault);
	account_entry_init(&en, key, strlen(key));
	memcpy(ret, en.account.id, ACCOUNT_ID_SIZE);
	return 0;
}

bool account_id_valid(const char *id)
{
	char same[ACCOUNT_ID_SIZE];

	return account_id_parse(id, same) == 0 && strcmp(id, same) == 0;
}
