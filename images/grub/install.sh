# Puts GRUB on the ESP, with slot a as the confirmed one. Sourced by disk.sh.
# shellcheck shell=bash

# install_loader ESP_TREE CMDLINE: fills the folder that becomes the ESP; CMDLINE has %s for the slot.
install_loader() {
    local esp=$1 cmdline=$2
    mkdir -p "$esp/EFI/BOOT" "$esp/grub"
    # Just the modules that grub.cfg needs, inside the program. "-p /grub": on the partition it was loaded from.
    grub-mkimage -O x86_64-efi -o "$esp/EFI/BOOT/BOOTX64.EFI" -p /grub \
        part_gpt fat normal linux loadenv test echo sleep reboot minicmd
    sed "s|@CMDLINE@|${cmdline//%s/\$1}|" "$IMAGES/grub/grub.cfg" > "$esp/grub/grub.cfg"
    write_grubenv "$esp/grub/grubenv" ORDER=A A_OK=1 A_TRY=0 A_LEFT=0 B_OK=0 B_TRY=0 B_LEFT=0
    # A boot loader that the firmware can not run ends in the firmware's shell: start again.
    printf 'reset -c\r\n' > "$esp/startup.nsh"
}

# write_grubenv FILE NAME=VALUE...: signature, variables, padded with # to 1024 bytes.
write_grubenv() {
    local file=$1 text
    shift
    text=$(printf '%s\n' '# GRUB Environment Block' "$@")
    { printf '%s\n' "$text"; printf '#%.0s' {1..1024}; } | head -c 1024 > "$file"
}
