/* Node 22 on the base, from the npm registry: `node-linux-<arch>` is a tarball with bin/node, `npm` one of
 * npm itself. What the registry says is hostile: names and addresses are checked before use, and a
 * tarball is unpacked only after all of it matched the SHA-512 the registry's index gives. */

#include <errno.h>
#include <nettle/sha2.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "rootfs/fetch.h"
#include "rootfs/json.h"
#include "rootfs/template-internal.h"
#include "rootfs/unpack.h"

#define RECIPE_REVISION 1
#define INDEX_MAX (48u << 20)
#define TARBALL_MAX (256u << 20)
#define FETCH_S 180
#define CHECK_S 60
#define NODE_MAJOR 22
#define NPM_MAJOR 10 /* the one Node 22 ships */

struct package {
	char version[32];
	char tarball[512];
	unsigned char sha512[SHA512_DIGEST_SIZE];
};

/* "22.11.0"; no pre-releases. */
static bool parse_version(const char *s, unsigned long ret[static 3])
{
	for (int i = 0; i < 3; i++) {
		char *end;

		if (*s < '0' || *s > '9')
			return false;
		ret[i] = strtoul(s, &end, 10);
		if (ret[i] > 100000 || *end != (i < 2 ? '.' : '\0'))
			return false;
		s = end + 1;
	}
	return true;
}

static bool newer(const unsigned long a[static 3], const unsigned long b[static 3])
{
	for (int i = 0; i < 3; i++)
		if (a[i] != b[i])
			return a[i] > b[i];
	return false;
}

/* "sha512-<base 64>", possibly among others. */
static bool parse_integrity(const char *s, unsigned char ret[static SHA512_DIGEST_SIZE])
{
	unsigned char digest[SHA512_DIGEST_SIZE + 32];
	const char *p = strstr(s, "sha512-");
	size_t n;

	if (!p)
		return false;
	p += strlen("sha512-");
	n = strcspn(p, " ?");
	if (n != 88 || text_base64_decode(p, n, digest) != SHA512_DIGEST_SIZE)
		return false;
	memcpy(ret, digest, SHA512_DIGEST_SIZE);
	return true;
}

static bool url_ok(const char *url)
{
	if (strncmp(url, "https://", 8) != 0 && strncmp(url, "http://", 7) != 0)
		return false;
	return strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/_+~%@-") == strlen(url);
}

static bool read_version(struct json_object *v, struct package *ret)
{
	struct json_object *dist;
	char integrity[512];

	return json_object_is_type(v, json_type_object) && json_object_object_get_ex(v, "dist", &dist) &&
	       json_object_is_type(dist, json_type_object) &&
	       json_get_string(dist, "tarball", ret->tarball, sizeof(ret->tarball)) == 0 && url_ok(ret->tarball) &&
	       json_get_string(dist, "integrity", integrity, sizeof(integrity)) == 0 &&
	       parse_integrity(integrity, ret->sha512);
}

/* The highest version of that major in a package's index. */
static int pick(struct json_object *index, const char *name, unsigned long major, struct package *ret, struct err *e)
{
	unsigned long best[3] = { 0 };
	struct json_object *versions;
	bool found = false;

	if (!json_object_object_get_ex(index, "versions", &versions) ||
	    !json_object_is_type(versions, json_type_object))
		return err_set(e, ERR_IO, EBADMSG, NULL, "the registry's answer about %s has no versions", name);
	json_object_object_foreach(versions, key, value)
	{
		unsigned long v[3];
		struct package p;

		if (strlen(key) >= sizeof(p.version) || !parse_version(key, v) || v[0] != major ||
		    (found && !newer(v, best)) || !read_version(value, &p))
			continue;
		(void)snprintf(p.version, sizeof(p.version), "%s", key);
		memcpy(best, v, sizeof(best));
		*ret = p;
		found = true;
	}
	return found ? 0
		     : err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable", "the registry has no %s %lu", name,
			       major);
}

static int find_package(struct build *b, const char *name, unsigned long major, struct package *ret, struct err *e)
{
	_cleanup_json_ struct json_object *index = NULL;
	_cleanup_buf_ struct buf text = BUF_INIT(INDEX_MAX);
	char url[400];
	int r;

	(void)snprintf(url, sizeof(url), "%s%s", b->o->sources->npm_registry, name);
	build_step(b, "asking %s", url);
	/* The short form of the index, without READMEs. */
	r = fetch(url, "application/vnd.npm.install-v1+json", FETCH_S, &text, e);
	if (r < 0)
		return r;
	r = json_parse(text.p ? text.p : "", text.len, 16, &index, e);
	if (r < 0 || !json_object_is_type(index, json_type_object))
		return err_set(e, ERR_IO, EBADMSG, NULL, "%s answered with something that is no package index", url);
	return pick(index, name, major, ret, e);
}

struct memory {
	const struct buf *b;
	size_t at;
};

static ssize_t read_memory(void *arg, void *p, size_t n)
{
	struct memory *m = arg;

	n = MIN(n, m->b->len - m->at);
	memcpy(p, m->b->p + m->at, n);
	m->at += n;
	return (ssize_t)n;
}

/* Downloads, checks, and only then unpacks. */
static int add_package(struct build *b, const struct layer_new *n, const struct package *p, const char *name,
		       const char *prefix, struct err *e)
{
	_cleanup_buf_ struct buf tarball = BUF_INIT(TARBALL_MAX);
	struct memory m = { .b = &tarball };
	unsigned char digest[SHA512_DIGEST_SIZE];
	struct unpack_result u;
	struct unpack_spec us;
	struct sha512_ctx sha;
	int r;

	build_step(b, "fetching %s %s", name, p->version);
	r = fetch(p->tarball, NULL, FETCH_S, &tarball, e);
	if (r < 0)
		return r;
	sha512_init(&sha);
	sha512_update(&sha, tarball.len, (const uint8_t *)tarball.p);
	sha512_digest(&sha, sizeof(digest), digest);
	if (memcmp(digest, p->sha512, sizeof(digest)) != 0)
		return err_set(e, ERR_IO, EBADMSG, NULL, "%s is not what the registry's index promises (SHA-512)",
			       p->tarball);
	build_step(b, "unpacking %s %s", name, p->version);
	build_unpack_spec(b, n, &us);
	us.read = read_memory;
	us.read_arg = &m;
	us.as_root = true;
	us.strip = "package";
	us.prefix = prefix;
	r = unpack_archive(&us, &u, e);
	if (r < 0)
		err_prefix(e, "%s", p->tarball);
	return r;
}

/* npm's tarballs carry no executable bits; npm itself would set them on install. */
static const char link_script[] = "set -e\n"
				  "cd /usr/local\n"
				  "chmod 755 bin/node lib/node_modules/npm/bin/*-cli.js\n"
				  "ln -sfn ../lib/node_modules/npm/bin/npm-cli.js bin/npm\n"
				  "ln -sfn ../lib/node_modules/npm/bin/npx-cli.js bin/npx\n"
				  "ln -sfn node bin/nodejs\n"
				  "rm -rf lib/node_modules/npm/docs lib/node_modules/npm/man package.json CHANGELOG.md "
				  "README.md LICENSE share/doc share/man\n";

static const char check_script[] = "node -e 'require(\"node:crypto\").createHash(\"sha256\"); fetch; "
				   "process.stdout.write(\"Node \" + process.version.slice(1) + \"\\n\")'\n"
				   "npm --version >/dev/null\n";

static int check(struct build *b, const struct layer_new *n, const struct package *node, struct layer_facts *f,
		 struct err *e)
{
	const struct build_script link = { .doing = "linking npm", .text = link_script, .timeout_s = CHECK_S };
	const struct build_script run = { .doing = "running node and npm", .text = check_script, .timeout_s = CHECK_S };
	_cleanup_buf_ struct buf out = BUF_INIT(256);
	char want[48];
	int r = build_script_run(b, n, &link, NULL, e);

	if (r == 0)
		r = build_script_run(b, n, &run, &out, e);
	if (r < 0)
		return r;
	(void)snprintf(want, sizeof(want), "Node %s\n", node->version);
	if (out.len != strlen(want) || memcmp(out.p, want, out.len) != 0)
		return err_set(e, ERR_INTERNAL, EINVAL, NULL, "bin/node is not the version its package says");
	(void)snprintf(f->interpreter, sizeof(f->interpreter), "Node %s", node->version);
	return 0;
}

int build_node(struct build *b, struct err *e)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	struct layer_facts f = { .recipe = "" };
	struct package node, npm;
	char name[48];
	int r;

	(void)snprintf(f.recipe, sizeof(f.recipe), "node %d %s r%d", NODE_MAJOR, b->stack[0].id, RECIPE_REVISION);
	if (build_reuse(b, f.recipe))
		return 0;
	(void)snprintf(name, sizeof(name), "node-linux-%s", strcmp(build_arch(), "amd64") == 0 ? "x64" : "arm64");
	r = find_package(b, name, NODE_MAJOR, &node, e);
	if (r == 0)
		r = find_package(b, "npm", NPM_MAJOR, &npm, e);
	if (r == 0)
		r = layer_begin(&b->env, &n, e);
	if (r == 0)
		r = add_package(b, &n, &node, name, "usr/local", e);
	if (r == 0)
		r = add_package(b, &n, &npm, "npm", "usr/local/lib/node_modules/npm", e);
	if (r == 0)
		r = check(b, &n, &node, &f, e);
	if (r < 0)
		return r;
	(void)snprintf(f.source, sizeof(f.source), "%s %s and npm %s from %.128s", name, node.version, npm.version,
		       b->o->sources->npm_registry);
	return build_push(b, &n, NULL, 0, &f, e);
}
