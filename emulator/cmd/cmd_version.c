#include <archive.h>
#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <microhttpd.h>
#include <nettle/version.h>
#include <seccomp.h>
#include <sqlite3.h>
#include <string.h>
#include <uv.h>
#include <zstd.h>

#include "api/api.h"
#include "emulator/cmd/cmd.h"

static const char help_text[] = "Usage: orkestr-emulator version [-v | --json]\n"
				"\n"
				"  -v, --verbose  also the versions of the libraries it runs with\n"
				"      --json     the same as one JSON object\n"
				"  -h, --help     this text\n";

struct library {
	const char *name;
	char version[32];
};

/* What is loaded now, which may be newer than what it was built with. */
static size_t libraries(struct library ret[static 8])
{
	const struct scmp_version *sc = seccomp_version();
	const struct {
		const char *name, *version;
	} plain[] = {
		{ "libmicrohttpd", MHD_get_version() }, { "libuv", uv_version_string() },
		{ "json-c", json_c_version() },		{ "libarchive", archive_version_string() },
		{ "libzstd", ZSTD_versionString() },	{ "sqlite", sqlite3_libversion() },
	};
	size_t n = 0;

	for (; n < ARRAY_SIZE(plain); n++) {
		const char *v = plain[n].version;

		if (strncmp(v, "libarchive ", 11) == 0)
			v += 11;
		ret[n].name = plain[n].name;
		(void)snprintf(ret[n].version, sizeof(ret[n].version), "%s", v);
	}
	ret[n].name = "libseccomp";
	(void)snprintf(ret[n].version, sizeof(ret[n].version), "%u.%u.%u", sc ? sc->major : 0, sc ? sc->minor : 0,
		       sc ? sc->micro : 0);
	n++;
	ret[n].name = "nettle";
	(void)snprintf(ret[n].version, sizeof(ret[n].version), "%d.%d", nettle_version_major(), nettle_version_minor());
	return n + 1;
}

static int print_json(void)
{
	struct json_object *o = json_object_new_object(), *libs = json_object_new_object();
	struct library l[8];
	size_t n = libraries(l);

	for (size_t i = 0; i < n; i++)
		(void)json_object_object_add(libs, l[i].name, json_object_new_string(l[i].version));
	(void)json_object_object_add(o, "name", json_object_new_string("orkestr-emulator"));
	(void)json_object_object_add(o, "version", json_object_new_string(ORKESTR_VERSION));
	(void)json_object_object_add(o, "libraries", libs);
	(void)puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
	return CMD_OK;
}

int cmd_version(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "verbose", no_argument, NULL, 'v' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	bool verbose = false, json = false;
	struct err e = ERR_INIT;
	struct library l[8];
	size_t n;
	int c;

	optind = 0;
	while ((c = cmd_getopt(argc, argv, "+:vh", longs, &e)) != -1) {
		if (c == CMD_OPT_BAD)
			return cmd_usage("version", &e);
		if (c == 'h') {
			(void)fputs(help_text, stdout);
			return CMD_OK;
		}
		verbose |= c == 'v';
		json |= c == 'j';
	}
	if (optind < argc) {
		(void)err_set(&e, ERR_INVALID, EINVAL, NULL, "'%s' is not expected here", argv[optind]);
		return cmd_usage("version", &e);
	}
	if (json)
		return print_json();
	(void)printf("orkestr-emulator %s\n", ORKESTR_VERSION);
	n = verbose ? libraries(l) : 0;
	for (size_t i = 0; i < n; i++)
		(void)printf("  %-14s %s\n", l[i].name, l[i].version);
	return CMD_OK;
}
