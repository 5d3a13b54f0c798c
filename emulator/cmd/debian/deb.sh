#!/usr/bin/env bash
# Makes a Debian package of what `make install` installs: deb.sh STAGED BUILD
#   STAGED  a tree made by make install DESTDIR=STAGED PREFIX=/usr
# The package is BUILD/orkestr-emulator_VERSION_ARCH.deb. Needs dpkg-dev.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
staged=$(realpath "$1")
build=$(realpath "$2")
program=$staged/usr/bin/orkestr-emulator
version=$("$program" version | awk '{ print $2; exit }')
arch=$(dpkg --print-architecture)
# A build between releases sorts behind its release, and the later one behind the earlier.
commit=$(git -C "$here" log -1 --format=%cd.%h --date=format:%Y%m%d%H%M 2>/dev/null || true)
version+=${commit:++$commit}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian"
printf 'Source: orkestr-emulator\n\nPackage: orkestr-emulator\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info -e"$program" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || { echo "deb: dpkg-shlibdeps found no dependency: are the libraries from packages?" >&2; exit 1; }

rm -f "$build"/orkestr-emulator_*.deb
strip --strip-unneeded "$program"
find "$staged" -name '*.1' -exec gzip -9nf {} +
mkdir -p "$staged/DEBIAN" "$staged/usr/share/doc/orkestr-emulator"
cp "$here/../../../README.md" "$staged/usr/share/doc/orkestr-emulator/"
find "$staged" -type d -exec chmod 0755 {} +
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@DEPENDS@/$depends/" \
	-e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$staged" | cut -f1)/" "$here/control.in" >"$staged/DEBIAN/control"
(cd "$staged" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$work/md5sums"
mv "$work/md5sums" "$staged/DEBIAN/"
chmod 0644 "$staged"/DEBIAN/*
dpkg-deb --build --root-owner-group "$staged" "$build/orkestr-emulator_${version}_$arch.deb"
