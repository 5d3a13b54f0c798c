#!/usr/bin/env bash
# In the VM, as root: the unit and API suites as each kind of user, or as those named. A suite that is not
# there is not run.
set -uo pipefail
failed=()

# The VM's own libraries serve where it has them; the others come along.
for lib in lib/*; do
	[ -e "$lib" ] || continue
	ldconfig -p | grep -qF "$(basename "$lib") " || cp "$lib" /usr/local/lib/
done
ldconfig
cp -r tree /opt/orkestr
chmod -R a+rX /opt/orkestr
cd /opt/orkestr || exit 1

# as USER [NAME=VALUE...] COMMAND...: without PAM, so only who is given a session has one.
as() {
	local user=$1 home
	shift
	home=$(getent passwd "$user" | cut -d: -f6)
	setpriv --reuid "$user" --regid "$user" --init-groups env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
		LANG=C.UTF-8 HOME="$home" USER="$user" MUST_RUN="${MUST_RUN:-0}" "$@"
}

left_behind() {
	find /sys/fs/cgroup -name '*orkestr-emulator*' 2>/dev/null
	ps -eo pid=,stat=,args= | awk '$2 !~ /^Z/ && /orkestr-(emulator|janitor)/ && !/awk/'
	grep -E 'orkestr|doctor' /proc/self/mountinfo
}

person() {
	local name=$1 left
	shift
	echo "==== $name: unit tests"
	"$@" tests/unit-run.sh build || failed+=("$name/unit")
	if [ -x build/orkestr-emulator ]; then
		echo "==== $name: doctor"
		"$@" build/orkestr-emulator doctor || failed+=("$name/doctor")
		if [ -x tests/api/run ]; then
			echo "==== $name: API suite"
			"$@" tests/api/run -q || failed+=("$name/api")
		fi
	fi
	# systemd forgets a scope, and the janitor removes a folder, a moment after the last process
	for _ in $(seq 50); do
		left=$(left_behind)
		[ -z "$left" ] && break
		sleep 0.2
	done
	if [ -n "$left" ]; then
		echo "left behind: $left"
		failed+=("$name/left-behind")
	fi
}

until systemctl is-active --quiet "user@$(id -u dev).service"; do sleep 0.2; done
uname -rm
systemctl --version | head -1
[ $# != 0 ] || set -- root dev plain
for user; do
	case $user in
	root) person root as root ;;
	dev) person "dev (systemd session, subordinate ids)" as dev XDG_RUNTIME_DIR="/run/user/$(id -u dev)" ;;
	# What needs a session or ids can't run as plain, and says so; it is no failure there.
	plain) MUST_RUN=0 person "plain (no session, no subordinate ids)" as plain ;;
	*) echo "no such user here: $user"; exit 2 ;;
	esac
done

if [ ${#failed[@]} != 0 ]; then
	echo "vm: FAILED: ${failed[*]}"
	exit 1
fi
echo "vm: all passed"
