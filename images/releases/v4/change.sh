# A root file system whose superblock is gone.
# shellcheck shell=bash
change_images() {
    dd if=/dev/zero of="$1/rootfs.img" bs=1024 seek=1 count=1 conv=notrunc status=none
}
