#!/usr/bin/env bash
# Makes the VM's disk, kernel and initrd in folder $1: a Debian with systemd and cgroup v2, as users have it.
# Called by vm.sh, as root. SUITE picks the release; it should be the host's, whose binaries run in it.
#
# Users in it: root; dev (subordinate ids, a lingering systemd session); plain (neither).
set -euo pipefail
to=$1
suite=${SUITE:-bookworm}
arch=$(dpkg --print-architecture)

packages=(
	systemd systemd-sysv dbus dbus-user-session libpam-systemd udev kmod "linux-image-cloud-$arch"
	uidmap sudo procps iproute2 netbase passwd util-linux ca-certificates curl
	python3 python3-pytest nodejs mmdebstrap
)

work=$(mktemp -d "$to/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$root"

echo "vm: $suite from the mirror (a few minutes, once)" >&2
mmdebstrap --quiet --variant=apt --include="$(IFS=,; echo "${packages[*]}")" "$suite" "$work/root.tar"
tar -C "$root" -xf "$work/root.tar" && rm "$work/root.tar"

echo vm >"$root/etc/hostname"
echo '127.0.0.1 localhost vm' >"$root/etc/hosts"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf" # qemu's user network
printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/vm.network"

chroot "$root" useradd --create-home --shell /bin/bash dev
chroot "$root" useradd --create-home --shell /bin/bash plain
sed -i '/^plain:/d' "$root/etc/subuid" "$root/etc/subgid"
grep -q '^dev:' "$root/etc/subuid" || echo dev:100000:65536 | tee -a "$root/etc/subuid" >>"$root/etc/subgid"
mkdir -p "$root/var/lib/systemd/linger" && touch "$root/var/lib/systemd/linger/dev"

units=$root/etc/systemd/system
for unit in serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer; do
	ln -sf /dev/null "$units/$unit"
done
mkdir -p "$units/multi-user.target.wants"
ln -sf /lib/systemd/system/systemd-networkd.service "$units/multi-user.target.wants/"

# The job comes as a tar on the second disk, what it leaves in /job/out goes to the third as one.
cat >"$units/job.service" <<'UNIT'
[Unit]
After=multi-user.target network.target user@1000.service
[Service]
Type=oneshot
TimeoutStartSec=infinity
StandardOutput=null
ExecStart=/bin/bash -c 'mkdir -p /job/out; tar -xf /dev/vdb -C /job; cd /job/in; bash /job/command >/dev/ttyS0 2>&1 </dev/null; echo $? >/job/out/status; tar -cf /dev/vdc -C /job/out .; sync'
ExecStopPost=/sbin/poweroff -f
UNIT
ln -sf /etc/systemd/system/job.service "$units/multi-user.target.wants/"

cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd"
truncate -s 16G "$work/disk"
mkfs.ext4 -q -F -d "$root" "$work/disk"
mv "$work/vmlinuz" "$work/initrd" "$to/"
mv "$work/disk" "$to/disk" # last: it says that the image is complete
