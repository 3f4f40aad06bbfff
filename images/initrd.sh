#!/usr/bin/env bash
# Makes the initramfs: busybox, initrd/init and the modules that modules.txt marks "initrd". Uncompressed, because a
# compressed blob changes as a whole: the update to a new kernel stays small, and loading is no slower.
# usage: initrd.sh TREE IMAGE [OVERLAY]     TREE: a root file system with busybox and modules
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"
tree=$1 image=$2 overlay=${3:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bin,dev,proc,sys,root,modules}
cp "$tree/usr/bin/busybox" "$work/bin/busybox"
for applet in sh mount insmod echo read grep usleep dd hexdump tr chmod switch_root; do
    ln -s busybox "$work/bin/$applet"
done
cp "$IMAGES/initrd/init" "$work/init"

# Modules in the order in which they must be loaded: each after those it needs.
version=$(basename "$tree"/usr/lib/modules/*)
sed -n 's/^initrd //p' "$IMAGES/modules.txt" | while read -r module; do
    chroot "$tree" modprobe --show-depends -S "$version" "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r path; do
    cp "$tree$path" "$work/modules/"
    name=$(basename "$path")
    # The watchdog of the initramfs: long enough for systemd to take over on a slow machine.
    case $name in i6300esb.ko) name="$name heartbeat=40" ;; esac
    echo "$name" >> "$work/modules/order"
done
[ -z "$overlay" ] || cp -a "$overlay/." "$work/"

chown -R 0:0 "$work"
find "$work" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$work" && find . -mindepth 1 | sort | cpio --quiet --reproducible -o -H newc) > "$image"
