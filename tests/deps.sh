#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that are missing for the named groups, and says so. Needs no root
# when nothing is missing.    deps.sh GROUP...    groups: build run test demo bench deb lint fuzz
# shellcheck disable=SC2034 # the groups are read by name
set -euo pipefail

build=(gcc libc6-dev make pkg-config binutils libmicrohttpd-dev libuv1-dev libjson-c-dev libarchive-dev libzstd-dev
	libseccomp-dev libsqlite3-dev nettle-dev libsystemd-dev uthash-dev
	libnl-3-dev libnl-route-3-dev libmnl-dev libnftables-dev)
run=(mmdebstrap uidmap ca-certificates curl libnftables1)
test=(libcriterion-dev mount procps python3 python3-pytest python3-pytest-xdist curl iproute2 nftables openssl groff-base zsh
	zstd skopeo umoci)
demo=(python3 procps)
bench=(bubblewrap runc python3 zstd)
lint=(clang clang-tidy clang-format cppcheck shellcheck)
fuzz=(clang valgrind)
deb=(dpkg-dev)

missing=()
for group in "$@"; do
	declare -n packages=$group
	for p in "${packages[@]}"; do
		[[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$p" 2>/dev/null) == ii* ]] || missing+=("$p")
	done
done
if [ ${#missing[@]} = 0 ]; then
	echo "deps ($*): everything is installed"
	exit 0
fi
readarray -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
echo "deps ($*): missing: ${missing[*]}"

if ! command -v apt-get >/dev/null; then
	echo "deps: there is no apt-get here; install the packages above under your distribution's names" >&2
	exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "deps: neither root nor sudo. As root: apt-get install -y --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
	as_root=(sudo)
fi
run_visibly() {
	echo "+ $*"
	"$@"
}
quiet=(-qq -o Dpkg::Use-Pty=0)
run_visibly "${as_root[@]}" apt-get update -qq
run_visibly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
	apt-get install -y --no-install-recommends "${quiet[@]}" "${missing[@]}"
