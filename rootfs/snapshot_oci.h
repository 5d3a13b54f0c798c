#pragma once
/* A snapshot as an OCI image archive (image-spec 1.0, "image layout", in a tar), for registry tools and container
 * engines: the template's layers, the sandbox's own on top. Layers are stored as plain tar, media type
 * application/vnd.oci.image.layer.v1.tar, which every tool reads (zstd not all do) and tools compress on the way to a
 * registry. Nothing of env or metadata is in it. Blocks: for CLI commands, in E. */

#include "emulator/base/err.h"
#include "rootfs/layer.h"
#include "rootfs/snapshot_archive.h"

/* To out_fd; tag: the image's name in the layout. ERR_UNAVAILABLE "template_unavailable" when the template is not here,
 * or another than the snapshot was made on. Needs room for one layer in the state dir. */
int snapshot_export_oci(const struct snapshot_open *o, const struct layer_env *env, const char *tag, int out_fd,
			struct err *e);

/* The template a snapshot needs, as it was. The caller's to free. */
struct template;
int snapshot_template(int state_fd, const struct snapshot_info *i, struct template **ret, struct err *e);
