# Puts U-Boot's script and state on the ESP, with slot a as the confirmed one. Sourced by disk.sh. U-Boot itself is the
# machine's firmware (qemu: -bios /usr/lib/u-boot/qemu-x86/u-boot.rom, package u-boot-qemu).
# shellcheck shell=bash

# install_loader ESP_TREE CMDLINE: fills the folder that becomes the ESP; CMDLINE has %s for the slot.
install_loader() {
    local esp=$1 cmdline=$2
    sed "s|@CMDLINE@|${cmdline//%s/\$\{slot\}}|" "$IMAGES/uboot/boot.cmd" > "$esp/boot.cmd"
    mkimage -A x86 -T script -C none -n flipside -d "$esp/boot.cmd" "$esp/boot.scr" > /dev/null
    rm "$esp/boot.cmd"
    write_uboot_env "$esp/flipside/uboot.env" BOOT_A_BAD=0 BOOT_A_LEFT=0 BOOT_A_OK=1 BOOT_B_BAD=0 BOOT_B_LEFT=0 BOOT_B_OK=0 BOOT_ORDER=A
    cp "$esp/flipside/uboot.env" "$esp/flipside/uboot-redund.env"
}

# write_uboot_env FILE NAME=VALUE...: little-endian CRC-32 of the rest, variables ended by zero bytes, 4096 bytes.
write_uboot_env() {
    local file=$1
    shift
    { printf '%s\0' "$@"; head -c 4096 /dev/zero; } | head -c 4092 > "$file.body"
    # gzip ends with the CRC-32 of its input, little-endian, and the length: no other tool is needed.
    { gzip -c "$file.body" | tail -c 8 | head -c 4; cat "$file.body"; } > "$file"
    rm "$file.body"
}
