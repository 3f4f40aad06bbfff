# Puts systemd-boot on the ESP, with slot a as the confirmed one. Sourced by disk.sh.
# shellcheck shell=bash

# install_loader ESP_TREE CMDLINE: fills the folder that becomes the ESP; CMDLINE has %s for the slot.
install_loader() {
    local esp=$1 cmdline=$2
    mkdir -p "$esp/EFI/BOOT" "$esp/loader/entries"
    cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi "$esp/EFI/BOOT/BOOTX64.EFI"
    cp "$IMAGES/systemd-boot/loader.conf" "$esp/loader/loader.conf"
    # No "+LEFT" in the name: confirmed. `version` is the activation number; the first update is armed as number 2.
    cat > "$esp/loader/entries/flipside-a.conf" <<ENTRY
title Flipside a
sort-key flipside
version 0000000001
linux /flipside/a/vmlinuz
initrd /flipside/a/initrd.img
options ${cmdline//%s/a} flipside.slot=a
ENTRY
    # A kernel that the firmware can not load ends in the firmware's shell: start again, so that the try counts.
    printf 'reset -c\r\n' > "$esp/startup.nsh"
}
