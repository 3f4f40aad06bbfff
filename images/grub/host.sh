# Boot control of a powered-off disk, with mtools: what `flipside` does on the device, for test.sh. Sourced.
# shellcheck shell=bash
# shellcheck source=images/grub/install.sh
. "$IMAGES/grub/install.sh"

grub_variable() { # DISK NAME
    mtype -i "$1@@1M" ::grub/grubenv | sed -n "s/^$2=//p"
}

grub_write() { # DISK NAME=VALUE...: all variables
    local disk=$1
    shift
    write_grubenv "$disk.grubenv" "$@"
    mcopy -o -i "$disk@@1M" "$disk.grubenv" ::grub/grubenv
}

boot_arm() { # DISK SLOT TRIES: slot b only, which is all the tests need; a is confirmed
    [ "$2" = b ] || return 1
    grub_write "$1" "ORDER=B A" A_OK=1 A_TRY=0 A_LEFT=0 B_OK=0 B_TRY=1 "B_LEFT=$3"
}

boot_confirm() { # DISK SLOT
    [ "$2" = b ] || return 1
    grub_write "$1" "ORDER=B A" A_OK=1 A_TRY=0 A_LEFT=0 B_OK=1 B_TRY=0 B_LEFT=0
}

boot_left() { # DISK SLOT: tries left, "confirmed" or "none"
    local slot=${2^^}
    case " $(grub_variable "$1" ORDER) " in *" $slot "*) ;; *) echo none; return ;; esac
    if [ "$(grub_variable "$1" "${slot}_OK")" = 1 ]; then echo confirmed; else grub_variable "$1" "${slot}_LEFT"; fi
}

boot_damage() { # DISK: the state can not be read any more
    head -c 1024 /dev/zero | mcopy -o -i "$1@@1M" - ::grub/grubenv
}
