#!/usr/bin/env bash
# Removes a build folder. The state dirs in it hold files of subordinate ids, so the emulator itself,
# which is in there too, removes those first.    clean.sh BUILD
set -euo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$1
[ -e "$build" ] || exit 0
for state in "$build"/*-state; do
	[ -d "$state" ] || continue
	if [ -x "$build/orkestr-emulator" ]; then
		"$build/orkestr-emulator" clean --state-dir "$state" || true
	fi
done
if ! rm -rf "$build"; then
	echo "clean: $build holds files of other ids; run 'make' and then 'make clean' again, or remove it as root" >&2
	exit 1
fi
