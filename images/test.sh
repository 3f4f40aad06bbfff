#!/usr/bin/env bash
# Boots the appliance of one variant on its real boot loader and checks what the updater relies on: it comes up clean,
# a confirmed slot is never counted, an unconfirmed one is counted down and left when its tries are gone, and broken
# releases come back by themselves. No Flipside is needed: the boot loader is armed from outside.
# usage: test.sh DIR VARIANT [TEST...]      DIR: made by build.sh; tests: basics confirmed counting panic no-root
#        hang unproven kernel damage. Build without --deb: a Flipside in it would confirm what is to be counted.
# shellcheck disable=SC2016 # what stands in single quotes is for the shell in the guest
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=images/vm.sh
. "$IMAGES/vm.sh"
[ $# -ge 2 ] || die "usage: test.sh DIR VARIANT [TEST...]"
images=$(realpath "$1") variant=$2
shift 2
# shellcheck disable=SC1090 # one per variant
. "$IMAGES/$variant/host.sh"

BOOT_SECONDS=${FLIPSIDE_BOOT_SECONDS:-480}
work=$(mktemp -d)
disk=$work/disk.img
VM_PID=''
cleanup() {
    local code=$?
    [ -z "$VM_PID" ] || vm_kill
    if [ $code -ne 0 ]; then say "FAILED; serial log and disk are in $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT

check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then say "  ok: $what"; else die "  not ok: $what"; fi
}
expect() { check "$1 is $2" test "$2" = "$3"; } # WHAT WANTED FOUND

fresh_disk() { cp --sparse=always "$images/disk.img" "$disk"; chmod 0644 "$disk"; : > "$work/serial.log"; }
power_on() { vm_start "$variant" "$disk" "$work"; }
power_off() { vm_kill; VM_PID=''; }
slot() { guest 'sed "s/.*flipside.slot=//; s/ .*//" /proc/cmdline'; }
booted() { guest 'systemctl is-system-running' | grep -Eqx 'running|degraded'; }
in_slot() { [ "$(slot)" = "$1" ] && booted; }
boot_into() { # SLOT: power on, wait until that slot is up
    power_on
    wait_for "$BOOT_SECONDS" "slot $1 is up" in_slot "$1"
}
install_b() { # RELEASE TRIES: what an update does
    local release=$images/releases/$1
    mcopy -o -i "$disk@@1M" "$release/vmlinuz" "$release/initrd.img" ::flipside/b/
    dd if="$release/rootfs.img" of="$disk" bs=1M seek=$((1 + ESP_MIB + SLOT_MIB)) conv=notrunc status=none
    boot_arm "$disk" b "$2"
}

test_basics() {
    fresh_disk
    local start=$SECONDS
    boot_into a
    say "  up after $((SECONDS - start)) s, $(guest 'systemd-analyze | head -n 1')"
    expect "system state" running "$(guest 'systemctl is-system-running')"
    expect "list of failed units" "" "$(guest 'systemctl --failed --no-legend')"
    check "root file system is read-only" guest 'findmnt -no OPTIONS / | grep -q ^ro'
    expect "root partition" root-a "$(guest 'lsblk -no PARTLABEL $(findmnt -no SOURCE /)')"
    expect "ESP" esp "$(guest 'lsblk -no PARTLABEL $(findmnt -no SOURCE /efi)')"
    expect "data partition" data "$(guest 'lsblk -no PARTLABEL $(findmnt -no SOURCE /var)')"
    expect "release" 1.0.0 "$(guest '. /etc/os-release; echo $IMAGE_VERSION')"
    expect "watchdog" active "$(guest 'cat /sys/class/watchdog/watchdog0/state')"
    expect "address" 10.0.2.15 "$(guest 'ip -4 -o addr show scope global | sed "s/.*inet //; s,/.*,,"')"
    expect "application" "demo-app 1.0.0 healthy" "$(guest '/usr/lib/flipside/health.d/10-demo-app')"
    check "application can be made unhealthy" guest 'touch /run/demo-app/unhealthy; ! /usr/lib/flipside/health.d/10-demo-app; rm /run/demo-app/unhealthy'
    check "the net below the updater waits" guest 'systemctl is-active flipside-unproven.timer'
    check "it ends in a proven slot" guest 'systemctl start flipside-unproven.service || exit 1; for i in $(seq 50); do systemctl -q is-active flipside-unproven.timer || exit 0; sleep 0.2; done; exit 1'
    local id
    id=$(guest 'cat /etc/machine-id')
    guest 'echo kept > /var/lib/kept; sync'
    power_off
    say "  data partition wiped"
    dd if=/dev/zero of="$disk" bs=1M seek=$((1 + ESP_MIB + 2 * SLOT_MIB)) count=16 conv=notrunc status=none
    boot_into a
    expect "machine id after a restart" "$id" "$(guest 'cat /etc/machine-id')"
    expect "list of failed units" "" "$(guest 'systemctl --failed --no-legend')"
    power_off
    cmp -n "$(stat -c %s "$images/releases/v1/rootfs.img")" -i "$((1 + ESP_MIB))M:0" "$disk" "$images/releases/v1/rootfs.img" \
        && say "  ok: two boots have not written to the root partition"
}

test_confirmed() {
    fresh_disk
    local round
    for round in 1 2; do
        boot_into a
        power_off
        expect "slot a after power cut $round" confirmed "$(boot_left "$disk" a)"
    done
}

test_counting() {
    fresh_disk
    install_b v2 2
    boot_into b
    expect "release" 2.0.0 "$(guest '. /etc/os-release; echo $IMAGE_VERSION')"
    power_off
    expect "tries left in b" 1 "$(boot_left "$disk" b)"
    boot_into b
    power_off
    expect "tries left in b" 0 "$(boot_left "$disk" b)"
    boot_into a
    power_off
    boot_arm "$disk" b 3
    boot_into b
    power_off
    boot_confirm "$disk" b
    boot_into b
    power_off
    expect "slot b" confirmed "$(boot_left "$disk" b)"
}

falls_back() { # RELEASE [TRIES]
    fresh_disk
    install_b "$1" "${2:-2}"
    local start=$SECONDS
    boot_into a
    say "  back in slot a after $((SECONDS - start)) s and $(grep -ac 'Linux version\|initramfs:' "$work/serial.log" || true) loader or kernel messages"
    power_off
    expect "tries left in b" 0 "$(boot_left "$disk" b)"
}
test_panic() { falls_back panic; }
test_no-root() { falls_back v4; }
test_hang() { falls_back init-hang; }
# A release without updater: nobody confirms it, nobody rejects it.
test_unproven() { falls_back no-daemon 1; }

# A kernel that the boot loader can not start at all. GRUB and U-Boot go on to the next slot at once, systemd-boot
# after a restart for each try.
test_kernel() {
    fresh_disk
    install_b v2 2
    head -c 100000 /dev/zero | mcopy -o -i "$disk@@1M" - ::flipside/b/vmlinuz
    boot_into a
    power_off
    check "a try was counted" test "$(boot_left "$disk" b)" -lt 2
}

# The boot loader's own state is damaged: something must come up, for Flipside to repair it.
test_damage() {
    declare -F boot_damage > /dev/null || { say "  the state of $variant has no single file to damage"; return 0; }
    fresh_disk
    boot_damage "$disk"
    boot_into a
    power_off
}

[ $# -gt 0 ] || set -- basics confirmed counting panic no-root hang unproven kernel damage
for name in "$@"; do
    start=$SECONDS
    say "$variant: $name"
    "test_$name"
    say "$variant: $name passed in $((SECONDS - start)) s"
done
