#!/usr/bin/env bash
# Builds the test appliance: a factory disk that runs release v1, and the releases it can be updated to.
#
#   images/build.sh --variant systemd-boot|grub|uboot --out DIR [--deb FILE] [--trust FILE] [--refresh]
#
#   --deb FILE     the Flipside package to install; without it the appliance boots but can not update
#   --trust FILE   the trust root: /usr/lib/flipside/trust.dsse.json
#   --refresh      take the Debian packages of today instead of those in the cache
#
# Makes DIR/disk.img and DIR/releases/<name>/{rootfs.img,vmlinuz,initrd.img,release.json}. Everything is cached by a
# hash of its inputs in images/.cache: a second run with the same inputs takes a second. Needs root.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"

usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
variant='' out='' deb='' trust='' refresh=''
while [ $# -gt 0 ]; do
    case $1 in
        --variant) variant=${2:?} && shift 2 ;;
        --out) out=${2:?} && shift 2 ;;
        --deb) deb=$(realpath -e "${2:?}") && shift 2 ;;
        --trust) trust=$(realpath -e "${2:?}") && shift 2 ;;
        --refresh) refresh=yes && shift ;;
        *) usage ;;
    esac
done
if [ -z "$variant" ] || [ -z "$out" ]; then usage; fi
[ -e "$IMAGES/$variant/install.sh" ] || die "no variant $variant"
if [ "$(id -u)" != 0 ] && command -v sudo > /dev/null; then
    exec sudo -E "$0" --variant "$variant" --out "$out" ${deb:+--deb "$deb"} ${trust:+--trust "$trust"} ${refresh:+--refresh}
fi
need_root
mkdir -p "$CACHE" "$out/releases"
out=$(realpath "$out")
# One build at a time: they share the cache.
exec 9> "$CACHE/lock"
flock 9

make_disk() { "$IMAGES/disk.sh" "$variant" "$factory" "$1/disk.img"; }

[ -z "$refresh" ] || rm -rf "$CACHE"/base.*
base=$(cached base "$(hash_of "$SOURCE_DATE_EPOCH" "$IMAGES/base.sh" "$IMAGES/packages.txt")" "$IMAGES/base.sh")
system=$(cached "system-$variant" "$(hash_of "$(cat "$base/packages.txt")" "$SOURCE_DATE_EPOCH" "$IMAGES"/{system.sh,overlay,cmdline.txt} \
    "$IMAGES"/{modules,trim,masked-units}.txt "$IMAGES/../systemd" "$IMAGES/$variant/boot.toml" "${deb:-no deb}" "${trust:-no trust}")" \
    "$IMAGES/system.sh" "$variant" "$base" "$deb" "$trust")

# same_bytes RELEASE: makes v2 once more, elsewhere; the same inputs must give the same bytes. Once for each key.
same_bytes() {
    local marker again file
    marker=$CACHE/same/$(basename "$1")
    [ ! -e "$marker" ] || return 0
    again=$(mktemp -d -p "$CACHE" again.XXXXXX)
    "$IMAGES/release.sh" v2 "$system" "$base" "$again" >&2
    for file in rootfs.img vmlinuz initrd.img; do
        cmp "$1/$file" "$again/$file" >&2 || die "v2 of $variant was made twice, and $file differs (the second is in $again)"
    done
    rm -rf "$again"
    mkdir -p "$CACHE/same"
    touch "$marker"
}

for recipe in "$IMAGES"/releases/*/; do
    name=$(basename "$recipe")
    release=$(cached "release-$variant-$name" "$(hash_of "$(basename "$system")" "security: $(cat "$base/security.txt")" \
        "$IMAGES"/{release.sh,initrd.sh,initrd,lib.sh} "$recipe")" \
        "$IMAGES/release.sh" "$name" "$system" "$base")
    # Links to the cache, read-only: no second copy of what is large. What is right already is left alone, somebody may
    # be reading it.
    if ! [ "$release/rootfs.img" -ef "$out/releases/$name/rootfs.img" ]; then
        rm -rf "$out/releases/$name"
        cp -rl "$release" "$out/releases/$name" 2> /dev/null || cp -r --sparse=always "$release" "$out/releases/$name"
    fi
    [ "$name" != v1 ] || factory=$release
    [ "$name" != v2 ] || same_bytes "$release"
done
disk=$(cached "disk-$variant" "$(hash_of "$(basename "$factory")" "$IMAGES/disk.sh" "$IMAGES/lib.sh" "$IMAGES/cmdline.txt" "$IMAGES/$variant")" \
    make_disk)
if [ "$(cat "$out/.disk" 2> /dev/null)" != "$(basename "$disk")" ]; then
    # Renamed over the old one: machines may run on overlays of it.
    cp --sparse=always "$disk/disk.img" "$out/disk.img.new"
    mv "$out/disk.img.new" "$out/disk.img"
    basename "$disk" > "$out/.disk"
fi
cp "$base/packages.txt" "$out/packages.txt"
[ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$out"
say "$variant: $out/disk.img and $(find "$out/releases" -mindepth 1 -maxdepth 1 | wc -l) releases"
