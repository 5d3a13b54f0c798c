#include "api/control.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "emulator/base/clock.h"

/* A name could be anyone's that was made to mean this machine (DNS rebinding); an address or "localhost" can't. */
static bool host_is_ours(const char *host)
{
	unsigned char bytes[sizeof(struct in6_addr)];
	char name[64];
	size_t n = host[0] == '[' ? strcspn(host, "]") : strcspn(host, ":");

	if (host[0] == '[') {
		host++;
		n--;
	}
	if (n >= sizeof(name))
		return false;
	memcpy(name, host, n);
	name[n] = '\0';
	return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, bytes) == 1 ||
	       inet_pton(AF_INET6, name, bytes) == 1;
}

bool control_allowed(struct req *r)
{
	const char *origin = req_header(r, "Origin"), *host = req_header(r, "Host");
	const char *from = origin ? strstr(origin, "://") : NULL;
	struct err e;

	if (!origin || (from && host && strcmp(from + 3, host) == 0 && host_is_ours(host)))
		return true;
	(void)err_set(&e, ERR_DENIED, EACCES, "browser_refused",
		      "the emulator's controls don't obey a web page of another origin (%.80s)", origin);
	req_reply_err(r, &e);
	return false;
}

bool control_account(struct req *r, const char *where, const char *account, const char *key,
		     char ret[static ACCOUNT_ID_SIZE])
{
	struct account a;

	ret[0] = '\0';
	if (account && *account) {
		if (strlen(account) >= ACCOUNT_ID_SIZE || strncmp(account, "acc_", 4) != 0) {
			req_reply_invalid(r, where, "account", "value_error",
					  "Value error, an account's id begins with acc_");
			return false;
		}
		(void)snprintf(ret, ACCOUNT_ID_SIZE, "%s", account);
		return true;
	}
	if (!key || !*key)
		return true;
	if (accounts_find(req_api(r)->accounts, key, &a, NULL) < 0) {
		req_reply_invalid(r, where, "key", "value_error", "Value error, no API key of this emulator");
		return false;
	}
	(void)snprintf(ret, ACCOUNT_ID_SIZE, "%s", a.id);
	return true;
}

void control_add_text(struct json_object *o, const char *name, const char *s)
{
	json_object_object_add(o, name, s ? json_object_new_string(s) : NULL);
}

void control_add_time(struct json_object *o, const char *name, int64_t ms)
{
	char iso[CLOCK_ISO_SIZE];

	if (ms != 0)
		clock_iso(ms, iso);
	control_add_text(o, name, ms != 0 ? iso : NULL);
}
