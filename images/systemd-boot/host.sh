# Boot control of a powered-off disk, with mtools: what `flipside` does on the device, for test.sh. Sourced.
# shellcheck shell=bash

# entry_of DISK SLOT: the name of the slot's boot entry, empty when there is none.
entry_of() {
    mdir -b -i "$1@@1M" ::loader/entries | tr -d '\r' | sed -n "s|^::/loader/entries/\(flipside-$2[.+].*conf\)\$|\1|p"
}

# boot_clear DISK SLOT: the slot can not be chosen any more.
boot_clear() {
    local entry
    for entry in $(entry_of "$1" "$2"); do mdel -i "$1@@1M" "::loader/entries/$entry"; done
}

# boot_arm DISK SLOT TRIES: the slot is booted next, TRIES times, unless it is confirmed.
boot_arm() {
    local disk=$1 slot=$2 tries=$3 last
    boot_clear "$disk" "$slot"
    last=$(mtype -i "$disk@@1M" "::loader/entries/flipside-*.conf" | tr -d '\r' | sed -n 's/^version 0*//p' | sort -n | tail -n 1)
    mtype -i "$disk@@1M" "::loader/entries/flipside-*.conf" | tr -d '\r' | sed -n 's/^options //p' | head -n 1 > "$disk.options"
    {
        echo "title Flipside $slot"
        echo "sort-key flipside"
        printf 'version %010d\n' $((last + 1))
        echo "linux /flipside/$slot/vmlinuz"
        echo "initrd /flipside/$slot/initrd.img"
        echo "options $(sed "s/root-[ab]/root-$slot/; s/flipside.slot=[ab]/flipside.slot=$slot/" "$disk.options")"
    } | mcopy -i "$disk@@1M" - "::loader/entries/flipside-$slot+$tries.conf"
}

# boot_confirm DISK SLOT: the slot is good, and never counted again.
boot_confirm() {
    mren -i "$1@@1M" "::loader/entries/$(entry_of "$1" "$2")" "flipside-$2.conf"
}

# boot_left DISK SLOT: tries left, "confirmed" or "none".
boot_left() {
    local entry
    entry=$(entry_of "$1" "$2")
    case $entry in
        '') echo none ;;
        *+*) entry=${entry#*+} && entry=${entry%.conf} && echo "${entry%-*}" ;;
        *) echo confirmed ;;
    esac
}
