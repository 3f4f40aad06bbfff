#!/usr/bin/env bash
# Boots the appliance to look around: its serial console on this terminal (root, no password). Ctrl-A X ends it.
# The factory disk is not changed unless --keep is given; the application's page is http://127.0.0.1:8080.
# usage: run.sh DIR VARIANT [--keep]      DIR: made by build.sh
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=images/vm.sh
. "$IMAGES/vm.sh"
[ $# -ge 2 ] || die "usage: run.sh DIR VARIANT [--keep]"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
disk=$1/disk.img
if [ "${3:-}" != --keep ]; then
    cp --sparse=always "$disk" "$work/disk.img"
    disk=$work/disk.img
fi
vm_arguments "$2" "$disk" "$work" hostfwd=tcp:127.0.0.1:8080-:8080
qemu-system-x86_64 "${VM_ARGUMENTS[@]}" -chardev stdio,id=serial,mux=on,signal=off -mon chardev=serial -serial chardev:serial
