#!/usr/bin/env bash
# The READMEs' quickstart against a real emulator, from nothing to nothing left.    demo.sh PROGRAM
# What it makes stays in build/demo-state (templates; a second run takes seconds) until `make clean`.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
emulator=$1
state=$(dirname "$emulator")/demo-state
templates=(python-3.12 node-22)
work=$(mktemp -d)
serve=0

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' off=$'\e[0m'; else bold='' dim='' red='' off=''; fi
heading() { printf '\n%s== %s%s\n' "$bold" "$1" "$off"; }
die() {
	printf '%sdemo: %s%s\n' "$red" "$1" "$off" >&2
	exit 1
}

stop() {
	[ "$serve" != 0 ] || return 0
	kill -TERM "$serve" 2>/dev/null
	wait "$serve"
	local status=$?
	serve=0
	return "$status"
}
cleanup() {
	stop
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Every process of the emulator, one id a line: the descendants of what was started, and what no longer is one
# (its arguments still name our folder).
family() {
	ps -eo pid=,ppid=,args= | awk -v root="$serve" -v mark="$work/" '
		{ parent[$1] = $2; if (index($0, mark) && $3 !~ /(awk|ps)$/) ours[$1] = 1 }
		END {
			for (p in parent) { q = p; while (q != "" && q > 1 && q != root) q = parent[q]; if (q == root) ours[p] = 1 }
			for (p in ours) print p
		}'
}
# What of those processes, and of those cgroups, is still there.
remains() {
	local item
	for item in "${was_running[@]}"; do ps -o pid=,args= -p "$item"; done
	for item in "${groups[@]}"; do find /sys/fs/cgroup -type d -name "$item" 2>/dev/null; done
}
# The emulator's own group is named after its state dir; other emulators on this host have others.
group_of() { # process ids
	local pid
	for pid in "$@"; do
		grep -ohE 'orkestr-emulator-[0-9a-z-]+' "/proc/$pid/cgroup" 2>/dev/null
	done | sort -u
}

heading "this host"
if ! "$emulator" doctor --state-dir "$state" >"$work/doctor" 2>&1; then
	cat "$work/doctor"
	die "this host can't run sandboxes yet; what to do is said above"
fi
echo "doctor: sandboxes can run here (build/orkestr-emulator doctor tells the details)"

for template in "${templates[@]}"; do
	if [ ! -e "$state/templates/$template.json" ]; then
		heading "template $template (built once, kept in $state)"
		"$emulator" template build --state-dir "$state" "$template" || die "the template $template could not be built"
	fi
done
heading "templates, and what each really is"
"$emulator" template list --state-dir "$state" || die "the templates can't be listed"

heading "the emulator"
key=ork_demo_$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
"$emulator" serve --state-dir "$state" --listen 127.0.0.1:0 --port-file "$work/port" --api-key "$key" \
	>"$work/serve.log" 2>&1 &
serve=$!
for _ in $(seq 200); do
	[ -s "$work/port" ] && break
	kill -0 "$serve" 2>/dev/null || break
	sleep 0.05
done
if [ ! -s "$work/port" ]; then
	cat "$work/serve.log" >&2
	die "the emulator did not start"
fi
port=$(cat "$work/port")
export ORKESTR_BASE_URL=http://127.0.0.1:$port ORKESTR_API_KEY=$key
echo "listening on $ORKESTR_BASE_URL, with a key of its own for this demo"

failed=()
heading "Python"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests/api /usr/bin/python3 tests/demo/quickstart.py || failed+=("the Python quickstart")
heading "JavaScript"
if command -v node >/dev/null && [ "$(node -p 'process.versions.node.split(".")[0] >= 18')" = true ]; then
	node tests/demo/quickstart.mjs || failed+=("the JavaScript quickstart")
else
	echo "skipped: there is no Node 18 or newer on this host (apt-get install nodejs); nothing else needs it"
fi

heading "the end"
mapfile -t was_running < <(family)
mapfile -t groups < <(group_of "${was_running[@]}")
stop || failed+=("the emulator's clean stop")
for _ in $(seq 50); do # its last process removes the cgroups once all others are gone
	left=$(remains)
	[ -n "$left" ] || break
	sleep 0.1
done
[ -z "$left" ] || failed+=("this is left: $left")
left=$(grep -F "$(realpath "$state")" /proc/self/mountinfo)
[ -z "$left" ] || failed+=("these mounts are left: $left")
left=$(find "$state/disk/s" "$state/disk/trash" -mindepth 1 -maxdepth 1 2>/dev/null)
[ -z "$left" ] || failed+=("these sandbox folders are left: $left")

if [ ${#failed[@]} != 0 ]; then
	printf '%sfailed:%s\n' "$red" "$off" >&2
	printf '  %s\n' "${failed[@]}" >&2
	printf '%s-- the end of the emulator'\''s log%s\n' "$dim" "$off" >&2
	tail -n 20 "$work/serve.log" >&2
	exit 1
fi
echo "stopped; no process, mount, cgroup or sandbox folder is left (${#was_running[@]} processes ended)"
cat <<END

${bold}Go on with:${off}
  $emulator serve --state-dir $state --api-key ork_mine
  export ORKESTR_API_KEY=ork_mine ORKESTR_BASE_URL=http://127.0.0.1:4520
${dim}The README's "Point an SDK at it" says which variable your SDK reads. make clean removes $state.${off}
END
