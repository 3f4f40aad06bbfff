#!/usr/bin/env bash
# Installs the Debian 12 packages that the named parts of Flipside need; says and does nothing when they are there.
# usage: install-deps.sh [build] [check] [test] [images] [vm] [bench] [docs]     as root, or with sudo
set -euo pipefail

# packages_of GROUP: the Debian packages of one group.
packages_of() {
    case $1 in
        build) echo gcc libc6-dev make pkg-config dpkg-dev ;;
        check) echo shellcheck systemd python3 ;;
        test) echo util-linux e2fsprogs openssl zstd dbus git python3-venv ;;
        images) echo mmdebstrap debian-archive-keyring mtools gdisk dosfstools e2fsprogs cpio kmod systemd-boot-efi \
            grub-efi-amd64-bin grub-common u-boot-qemu u-boot-tools ;;
        vm) echo qemu-system-x86 qemu-utils ovmf u-boot-qemu mtools e2fsprogs gdisk socat ;;
        bench) echo mmdebstrap debian-archive-keyring e2fsprogs erofs-utils squashfs-tools zstd xdelta3 casync ostree \
            rauc swupdate nginx-light curl time openssl dbus cpio jq python3 python3-venv ;;
        docs) ;;
        *) echo "install-deps: no group $1" >&2; exit 2 ;;
    esac
}

wanted=()
for group in "$@"; do
    names=$(packages_of "$group")
    for name in $names; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2> /dev/null)" = installed ] || wanted+=("$name")
    done
done
[ ${#wanted[@]} -gt 0 ] || exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Never at the price of a package that is there.
install() { "${apt[@]}" install -y --no-remove --no-install-recommends "$@" > "$log" 2>&1; }

echo "install-deps: installing ${wanted[*]}" >&2
install "${wanted[@]}" && exit 0
# The lists may be old, or missing.
"${apt[@]}" update > /dev/null
install "${wanted[@]}" && exit 0
# A backported qemu-utils keeps Debian's own qemu-system-x86 out.
if [[ " ${wanted[*]} " == *" qemu-"* ]]; then
    install --allow-downgrades "${wanted[@]}" qemu-utils/bookworm && exit 0
fi
cat "$log" >&2
exit 1
