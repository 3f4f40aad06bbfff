#!/usr/bin/env bash
# Installs the Debian 12 packages that the named parts of Flipside need, and for `check` cargo-deny from crates.io; says and
# does nothing when they are there.
# usage: install-deps.sh [build] [check] [test] [images] [vm] [bench] [docs]     as root, or with sudo
set -euo pipefail

# packages_of GROUP: the Debian packages of one group.
packages_of() {
    case $1 in
        build) echo gcc libc6-dev make pkg-config dpkg-dev ;;
        check) echo git shellcheck systemd python3 ;;
        test) echo util-linux e2fsprogs openssl zstd dbus git python3-venv systemd tar mount ;;
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

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Never at the price of a package that is there.
install() { "${apt[@]}" install -y --no-remove --no-install-recommends "$@" > "$log" 2>&1; }

packages() {
    echo "install-deps: installing ${wanted[*]}" >&2
    install "${wanted[@]}" && return 0
    # The lists may be old, or missing.
    "${apt[@]}" update > /dev/null
    install "${wanted[@]}" && return 0
    # A backported qemu-utils keeps Debian's own qemu-system-x86 out.
    [[ " ${wanted[*]} " == *" qemu-"* ]] && install --allow-downgrades "${wanted[@]}" qemu-utils/bookworm
}

if [ ${#wanted[@]} -gt 0 ] && ! packages; then
    cat "$log" >&2
    exit 1
fi

# cargo-deny goes below target/tools, where a cache finds it, without optimisation: half the time to build, none to feel.
# Without crates.io the check goes on, and says what it left out.
[[ " $* " == *" check "* ]] || exit 0
tools=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/tools
command -v cargo-deny > /dev/null && exit 0
mkdir -p "$tools"
# Of two at once the second waits, and finds it there.
exec 9> "$tools/.lock"
flock 9
if [ ! -x "$tools/bin/cargo-deny" ]; then
    echo "install-deps: building cargo-deny, once; this takes minutes" >&2
    CARGO_TARGET_DIR=$tools/build CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
        cargo install --quiet --locked --root "$tools" cargo-deny@0.20.2 > "$log" 2>&1 || cat "$log" >&2
    rm -rf "$tools/build" || true
fi
