#!/usr/bin/env bash
# `make bench`: a template and a runc bundle, then the measuring itself (main.c).    run.sh BUILD [OPTION...]
# BENCH_TEMPLATE: which template (ubuntu-24.04). OPTIONs go to the bench program (--rounds, --live, --strict).
set -euo pipefail
cd "$(dirname "$0")/../.." || exit 1
build=$1
shift
template=${BENCH_TEMPLATE:-ubuntu-24.04}
emulator=$build/orkestr-emulator
state=$build/bench-state
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"

if [ ! -e "$state/templates/$template.json" ]; then
	echo "bench: building the template $template in $state"
	"$emulator" template build --state-dir "$state" "$template"
fi

# A bundle with nothing but /bin/true and its libraries, so runc has as little to do as can be.
bundle=()
make_bundle() {
	local root=$work/bundle/rootfs lib rootless=()
	mkdir -p "$root"/{bin,proc,dev,sys}
	cp /bin/true "$root/bin/true"
	while read -r lib; do
		mkdir -p "$root$(dirname "$lib")"
		cp -L "$lib" "$root$lib"
	done < <(ldd /bin/true | grep -oE '/[^ ]+')
	[ "$(id -u)" = 0 ] || rootless=(--rootless)
	runc spec "${rootless[@]}" --bundle "$work/bundle" || return 1
	/usr/bin/python3 - "$work/bundle/config.json" <<-'PY'
		import json, sys
		with open(sys.argv[1]) as f:
		    spec = json.load(f)
		spec["process"].update(terminal=False, args=["/bin/true"])
		with open(sys.argv[1], "w") as f:
		    json.dump(spec, f)
	PY
}
if command -v runc >/dev/null && make_bundle; then
	bundle=(--bundle "$work/bundle")
fi

status=0
"$build/bench/bench" --emulator "$emulator" --state "$state" --template "$template" --work "$work" \
	--json "$build/bench.json" --netbench "$build/bench/netbench" "${bundle[@]}" "$@" || status=$?
if [ "$status" != 0 ] && [ -s "$work/serve.log" ]; then
	echo "bench: the end of the emulator's log:" >&2
	tail -n 20 "$work/serve.log" >&2
fi
exit "$status"
