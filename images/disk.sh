#!/usr/bin/env bash
# Makes the factory disk of one variant: GPT with esp, root-a, root-b, data; release v1 in slot a, confirmed; slot b
# and the data partition empty. No loop devices and no mounts: mtools, mke2fs, dd.
# usage: disk.sh VARIANT RELEASE DISK     RELEASE: folder with rootfs.img, vmlinuz, initrd.img
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"
variant=$1 release=$2 disk=$3
# shellcheck disable=SC1090 # one per variant
. "$IMAGES/$variant/install.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make_esp() {
    local esp=$work/esp
    mkdir -p "$esp/flipside/a" "$esp/flipside/b"
    cp "$release/vmlinuz" "$release/initrd.img" "$esp/flipside/a/"
    install_loader "$esp" "$(cat "$IMAGES/cmdline.txt")"
    find "$esp" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
    truncate -s "${ESP_MIB}M" "$work/esp.img"
    mkfs.vfat --invariant -F 32 -n ESP -i f11b51de "$work/esp.img" > /dev/null
    # One by one and sorted: the order on the ESP must not be that of a temporary folder.
    local path
    (cd "$esp" && find . -mindepth 1 | sort) | while read -r path; do
        if [ -d "$esp/$path" ]; then
            mmd -i "$work/esp.img" "::${path#.}"
        else
            mcopy -p -m -i "$work/esp.img" "$esp/$path" "::${path#.}"
        fi
    done
}

# place IMAGE START_MIB: at its place on the disk, holes kept.
place() {
    dd if="$1" of="$disk" bs=1M seek="$2" conv=notrunc,sparse status=none
}

make_esp
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -m 0 -L data -U 5f1b51de-0000-4000-8000-000000000003 \
    -E hash_seed=5f1b51de-0000-4000-8000-000000000004,lazy_itable_init=1 "$work/data.img" "${DATA_MIB}M" > /dev/null

a=$((1 + ESP_MIB)) b=$((1 + ESP_MIB + SLOT_MIB)) data=$((1 + ESP_MIB + 2 * SLOT_MIB))
rm -f "$disk"
truncate -s "$((data + DATA_MIB + 1))M" "$disk"
partition() { # NUMBER START_MIB SIZE_MIB TYPE LABEL
    sgdisk -n "$1:$2M:+$3M" -t "$1:$4" -c "$1:$5" -u "$1:5f1b51de-0000-4000-8000-00000000010$1" "$disk" > /dev/null
}
sgdisk -o -U 5f1b51de-0000-4000-8000-000000000100 "$disk" > /dev/null
partition 1 1 "$ESP_MIB" ef00 esp
# "Linux file system", not a discoverable root type: the slot is chosen by the boot loader and by nothing else.
partition 2 "$a" "$SLOT_MIB" 8300 root-a
partition 3 "$b" "$SLOT_MIB" 8300 root-b
partition 4 "$data" "$DATA_MIB" 8300 data
place "$work/esp.img" 1
place "$release/rootfs.img" "$a"
place "$work/data.img" "$data"
