#!/usr/bin/env bash
# Makes the VM's disk, kernel and initrd in folder $1: a distribution with systemd and cgroup v2, as users have it.
# Called by vm.sh, as root. IMAGE_SUITE picks the release: bookworm, trixie, noble (Ubuntu 24.04).
#
# Users in it: root; dev (subordinate ids, a lingering systemd session, sudo without a password); plain (none of these).
set -euo pipefail
to=$1
suite=${IMAGE_SUITE:-bookworm}
arch=$(dpkg --print-architecture)

# The last line is what the tests call; the emulator's own libraries come with the job (vm.sh).
packages=(
	systemd systemd-sysv dbus dbus-user-session libpam-systemd udev kmod
	uidmap sudo procps iproute2 netbase passwd util-linux ca-certificates curl
	python3 python3-pytest python3-pytest-xdist python3-httpx less vim-tiny skopeo umoci nodejs mmdebstrap nftables gcc libc6-dev openssl zstd man-db bash-completion zsh
)

work=$(mktemp -d "$to/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir "$root"
from=("$suite" "$work/root.tar")

# Ubuntu's key: the host's, or the package of it that was released with 24.04, whose hash is in noble's signed index.
ubuntu() {
	local mirror=http://archive.ubuntu.com/ubuntu keys=/usr/share/keyrings/ubuntu-archive-keyring.gpg
	local deb=$mirror/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb
	if [ ! -r "$keys" ]; then
		curl -fsS -o "$work/keys.deb" "$deb"
		echo "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8  $work/keys.deb" | sha256sum -c --quiet
		dpkg-deb -x "$work/keys.deb" "$work/keys"
		chmod a+rx "$work" # apt reads it as a user of its own
		keys=$work/keys$keys
	fi
	from=(--keyring="$keys" "$1" "$work/root.tar" "deb $mirror $1 main universe" "deb $mirror $1-updates main universe")
	packages+=(linux-image-virtual systemd-resolved apparmor initramfs-tools)
}

case $suite in
noble) ubuntu "$suite" ;;
*) packages+=("linux-image-cloud-$arch") ;;
esac

echo "vm: $suite from the mirror (a few minutes, once)" >&2
mmdebstrap --quiet --variant=apt --include="$(IFS=,; echo "${packages[*]}")" "${from[@]}"
tar -C "$root" -xf "$work/root.tar" && rm "$work/root.tar"

echo vm >"$root/etc/hostname"
echo '127.0.0.1 localhost vm' >"$root/etc/hosts"
echo 'LABEL=vm / ext4 defaults 0 1' >"$root/etc/fstab"
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf" # qemu's user network
printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/vm.network"

chroot "$root" useradd --create-home --shell /bin/bash dev
chroot "$root" useradd --create-home --shell /bin/bash plain
sed -i '/^plain:/d' "$root/etc/subuid" "$root/etc/subgid"
grep -q '^dev:' "$root/etc/subuid" || echo dev:100000:65536 | tee -a "$root/etc/subuid" >>"$root/etc/subgid"
mkdir -p "$root/var/lib/systemd/linger" && touch "$root/var/lib/systemd/linger/dev"
echo 'dev ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/dev"

units=$root/etc/systemd/system
for unit in serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer man-db.timer \
	systemd-networkd-wait-online.service; do
	ln -sf /dev/null "$units/$unit"
done
mkdir -p "$units/multi-user.target.wants"
ln -sf /lib/systemd/system/systemd-networkd.service "$units/multi-user.target.wants/"

# The job comes as a tar on the second disk, what it leaves in /job/out goes to the third as one. A user-mode kernel
# calls its disks ubda, ubdb, ubdc.
cat >"$units/job.service" <<'UNIT'
[Unit]
After=multi-user.target network.target user@1000.service
[Service]
Type=oneshot
TimeoutStartSec=infinity
StandardOutput=null
ExecStart=/bin/bash -c 'disk=/dev/vd; [ -e /dev/vda ] || disk=/dev/ubd; mkdir -p /job/out; tar -xf $${disk}b -C /job; cd /job/in; bash /job/command >/dev/ttyS0 2>&1 </dev/null; echo $? >/job/out/status; tar -cf $${disk}c -C /job/out .; sync'
ExecStopPost=/sbin/poweroff -f
UNIT
ln -sf /etc/systemd/system/job.service "$units/multi-user.target.wants/"

cp "$(readlink -f "$(find "$root/boot" -name 'vmlinuz-*' | sort -V | tail -n 1)")" "$work/vmlinuz"
cp "$(find "$root/boot" -name 'initrd.img-*' | sort -V | tail -n 1)" "$work/initrd"
truncate -s 16G "$work/disk"
mkfs.ext4 -q -F -L vm -d "$root" "$work/disk"
mv "$work/vmlinuz" "$work/initrd" "$to/"
mv "$work/disk" "$to/disk" # last: it says that the image is complete
