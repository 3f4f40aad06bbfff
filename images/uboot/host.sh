# Boot control of a powered-off disk, with mtools: what `flipside` does on the device, for test.sh. Sourced.
# shellcheck shell=bash
# shellcheck source=images/uboot/install.sh
. "$IMAGES/uboot/install.sh"

uboot_variable() { # DISK NAME
    mtype -i "$1@@1M" ::flipside/uboot.env | tail -c +5 | tr '\0' '\n' | sed -n "s/^$2=//p"
}

uboot_write() { # DISK NAME=VALUE...: all variables, both copies
    local disk=$1
    shift
    write_uboot_env "$disk.env" "$@"
    mcopy -o -i "$disk@@1M" "$disk.env" ::flipside/uboot.env
    mcopy -o -i "$disk@@1M" "$disk.env" ::flipside/uboot-redund.env
}

boot_arm() { # DISK SLOT TRIES: slot b only, which is all the tests need; a is confirmed
    [ "$2" = b ] || return 1
    uboot_write "$1" BOOT_A_BAD=0 BOOT_A_LEFT=0 BOOT_A_OK=1 BOOT_B_BAD=0 "BOOT_B_LEFT=$3" BOOT_B_OK=0 "BOOT_ORDER=B A"
}

boot_confirm() { # DISK SLOT
    [ "$2" = b ] || return 1
    uboot_write "$1" BOOT_A_BAD=0 BOOT_A_LEFT=0 BOOT_A_OK=1 BOOT_B_BAD=0 BOOT_B_LEFT=0 BOOT_B_OK=1 "BOOT_ORDER=B A"
}

boot_left() { # DISK SLOT: tries left, "confirmed" or "none"
    local slot=${2^^}
    case " $(uboot_variable "$1" BOOT_ORDER) " in *" $slot "*) ;; *) echo none; return ;; esac
    if [ "$(uboot_variable "$1" "BOOT_${slot}_OK")" = 1 ]; then echo confirmed; else uboot_variable "$1" "BOOT_${slot}_LEFT"; fi
}

boot_damage() { # DISK: the first copy can not be read any more
    head -c 4096 /dev/zero | mcopy -o -i "$1@@1M" - ::flipside/uboot.env
}
