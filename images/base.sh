#!/usr/bin/env bash
# Makes the base of all variants and releases from Debian packages: the only step that needs a Debian mirror.
# Writes into OUT: tree.tar (root file system as installed), packages.txt (what is in it, with versions), kernel/
# (vmlinuz and all modules), security.tar (newer versions of some of the packages, unpacked; for release v2-small).
# usage: base.sh OUT     (FLIPSIDE_MIRROR: another Debian mirror)
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
out=$(realpath "$1")

suite=bookworm
mirror=${FLIPSIDE_MIRROR:-http://deb.debian.org/debian}
security=${FLIPSIDE_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
packages=$(grep -v '^#' "$IMAGES/packages.txt" | paste -sd,)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/kernel" "$scratch/security" "$out/kernel"

# The packages of the first release come from the point release; the security suite is known to apt but not
# preferred. What it has newer becomes a real security update.
cat > "$scratch/pin" <<'PIN'
Package: *
Pin: release n=bookworm-security
Pin-Priority: 100
PIN
cat > "$scratch/fetch" <<'HOOK'
#!/bin/sh
# Runs while the tree's apt still knows the mirror: fetches the kernel and the newer packages. $1: the tree.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends:/ { print $2 }')
cd "$SCRATCH/kernel" && apt-get -q -o APT::Sandbox::User=root download "$kernel"
cd "$SCRATCH/security"
newer=$(apt-get -s -o Dir::Etc::PreferencesParts=/dev/null upgrade | sed -n 's/^Inst \([^ ]*\) \[[^]]*\] (\([^ ]*\) .*/\1=\2/p')
[ -z "$newer" ] || apt-get -q -o APT::Sandbox::User=root download $newer
HOOK
chmod +x "$scratch/fetch"
export SCRATCH=$scratch
chmod 755 "$scratch"

# shellcheck disable=SC2016 # $1 is for the hook
mmdebstrap --quiet --variant=essential --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --setup-hook='mkdir -p "$1/etc/apt/preferences.d" && cp "$SCRATCH/pin" "$1/etc/apt/preferences.d/security"' \
    --customize-hook='"$SCRATCH/fetch" "$1"' \
    --customize-hook='chroot "$1" dpkg-query -W > "$SCRATCH/packages.txt"' \
    "$suite" "$scratch/tree.tar" "deb $mirror $suite main" "deb $security $suite-security main"

for deb in "$scratch"/kernel/*.deb; do
    dpkg-deb -x "$deb" "$scratch/kernel/files"
done
cp "$scratch"/kernel/files/boot/vmlinuz-* "$out/kernel/vmlinuz"
mv "$scratch/kernel/files/lib/modules" "$out/kernel/modules"
mkdir "$scratch/newer"
for deb in "$scratch"/security/*.deb; do
    [ -e "$deb" ] || continue
    case $deb in */perl*|*/libperl*) continue ;; esac # not in the appliance
    dpkg-deb -x "$deb" "$scratch/newer"
    basename "$deb" >> "$out/security.txt"
done
touch "$out/security.txt"
[ -s "$out/security.txt" ] || say "NOTE: no security update is out; v2-small is v2 but for its version"
tar -C "$scratch/newer" --sort=name -cf "$out/security.tar" .
mv "$scratch/tree.tar" "$out/tree.tar"
{ cat "$scratch/packages.txt"; find "$scratch/kernel" -name '*.deb' -printf '%f\n'; } > "$out/packages.txt"
