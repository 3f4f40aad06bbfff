#!/usr/bin/env bash
# Makes the benchmark's corpus: three versions of one Debian 12 system, as images of about 670 MB.
#
#   v1  the point release                              (suite bookworm)
#   v2  kernel, packages and application updated       (bookworm, bookworm-security, bookworm-updates)
#   v3  v2 with a newer application, nothing else      (what an application release looks like)
#
# Into target/bench/corpus: v*.ext4, on demand v*.erofs and v*.squashfs, v*.packages.txt, v*.tar (the trees, for tools
# that work on files). What is there is kept; remove the folder to follow the mirror again.
# The versions come from the mirror of today; a snapshot mirror pins them (FLIPSIDE_MIRROR, FLIPSIDE_SECURITY_MIRROR).
# usage: corpus.sh [ext4] [erofs] [squashfs]        as root; default ext4
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"
# For fix_inode_times and SOURCE_DATE_EPOCH: the appliance images need them for the same reason.
# shellcheck source=images/lib.sh
. "$ROOT/images/lib.sh"
say() { printf 'corpus: %s\n' "$*" >&2; }

suite=bookworm
mirror=${FLIPSIDE_MIRROR:-http://deb.debian.org/debian}
security=${FLIPSIDE_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
# 640 MiB: the slot of a small appliance, filled to about 70 %.
image_mib=640
uuid=5f1b51de-0000-4000-8000-0000000000b1
# The application is real programs, unpacked under /opt/app: rebuilt ones (a few bytes everywhere change) and one with
# a new feature release. v2 takes the first group from the security suite, v3 the second too.
app_early=(haproxy redis-tools)
app_late=(squid libclamav12)

# fetch_apps FOLDER: a customize hook for v2, the only tree whose apt knows both suites.
fetch_apps() {
    cat << HOOK
#!/bin/sh
set -eu
export APT_CONFIG="\$MMDEBSTRAP_APT_CONFIG"
for origin in $suite $suite-security; do
    mkdir -p "\$APPS/\$origin"
    cd "\$APPS/\$origin"
    for name in ${app_early[*]} ${app_late[*]}; do apt-get -qq -o APT::Sandbox::User=root download "\$name/\$origin"; done
done
HOOK
}

# debian_tree TREE.tar APPS SOURCE...: installs the packages, and takes out what differs on every installation
# (keys, logs, identities): an image builder does the same, and noise is no update.
debian_tree() {
    local tar=$1 apps=$2 packages scratch
    shift 2
    packages=$(grep -v '^#' "$BENCH/corpus-packages.txt" | paste -sd,)
    scratch=$(mktemp -d)
    chmod 755 "$scratch"
    printf '#!/bin/sh\ntrue\n' > "$scratch/none"
    if [ -n "$apps" ]; then fetch_apps > "$scratch/none"; fi
    chmod +x "$scratch/none"
    # shellcheck disable=SC2016 # $1 is for the hooks
    APPS=$apps HOOK=$scratch/none mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='"$HOOK" "$1"' \
        --customize-hook='chroot "$1" dpkg-query -W > "$1/packages.txt"' \
        --customize-hook='rm -rf "$1"/etc/ssh/ssh_host_* "$1"/etc/ssl/private/*.key "$1"/var/log/* "$1"/var/lib/apt/lists/* "$1"/var/cache/* "$1"/var/lib/systemd/random-seed "$1"/etc/bind/rndc.key "$1"/var/lib/dpkg/*-old "$1"/var/backups/*' \
        --customize-hook='rm -rf "$1"/initrd.img.old "$1"/vmlinuz.old; : > "$1/etc/machine-id"' \
        "$suite" "$tar.part" "$@"
    rm -rf "$scratch"
    mv "$tar.part" "$tar"
}

# application TREE EARLY LATE: unpacks the application, each group from the origin named.
application() {
    local tree=$1 early=$2 late=$3 name
    mkdir -p "$tree/opt/app"
    for name in "${app_early[@]}"; do dpkg-deb -x "$WORK/apps/$early/${name}_"*.deb "$tree/opt/app"; done
    for name in "${app_late[@]}"; do dpkg-deb -x "$WORK/apps/$late/${name}_"*.deb "$tree/opt/app"; done
    # One feature release among the rebuilt programs is enough: without its second library.
    rm -rf "$tree"/opt/app/usr/share/{doc,man} "$tree"/opt/app/usr/lib/*/libfreshclam.so.*
    (cd "$tree/opt/app" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16 > VERSION)
}

# ext4 TREE IMAGE: reproducible: fixed UUID, hash seed and times; no journal (a slot is mounted read-only).
ext4() {
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -m 0 -L root -O '^has_journal,^resize_inode' \
        -U "$uuid" -E "hash_seed=$uuid,root_owner=0:0" -d "$1" "$2.part" "${image_mib}M" > /dev/null
    fix_inode_times "$2.part"
    e2fsck -fn "$2.part" > /dev/null 2>&1 || die "$2 is not a clean file system"
    mv "$2.part" "$2"
}

# erofs TREE IMAGE: not compressed, as a delta wants it.
erofs() {
    mkfs.erofs --quiet -T "$SOURCE_DATE_EPOCH" -U "$uuid" "$2.part" "$1" > /dev/null
    mv "$2.part" "$2"
}

# squashfs TREE IMAGE: compressed by itself, the hard case.
squashfs() {
    # It takes its times from the options or from the environment, never from both.
    env -u SOURCE_DATE_EPOCH mksquashfs "$1" "$2.part" -quiet -no-progress -noappend -comp zstd -Xcompression-level 15 \
        -mkfs-time "$SOURCE_DATE_EPOCH" -all-time "$SOURCE_DATE_EPOCH" > /dev/null
    mv "$2.part" "$2"
}

# images_of VERSION BASE-TAR EARLY LATE KIND...: the missing images of one version.
images_of() {
    local version=$1 base=$2 early=$3 late=$4 kind missing=()
    shift 4
    for kind in "$@"; do [ -e "$CORPUS/$version.$kind" ] || missing+=("$kind"); done
    [ -e "$CORPUS/$version.tar" ] || missing+=(tar)
    [ ${#missing[@]} -gt 0 ] || return 0
    local tree=$WORK/tree.$version
    rm -rf "$tree"
    mkdir -p "$tree"
    tar -C "$tree" --numeric-owner --xattrs -xf "$base"
    mv "$tree/packages.txt" "$CORPUS/$version.packages.txt"
    rm -rf "${tree:?}/dev" "${tree:?}/run" "${tree:?}/tmp"
    mkdir -m 755 "$tree/dev" "$tree/run"
    mkdir -m 1777 "$tree/tmp"
    application "$tree" "$early" "$late"
    find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    for kind in "${missing[@]}"; do
        if [ "$kind" = tar ]; then
            tar -C "$tree" --numeric-owner --xattrs --sort=name -cf "$CORPUS/$version.tar.part" .
            mv "$CORPUS/$version.tar.part" "$CORPUS/$version.tar"
        else
            "$kind" "$tree" "$CORPUS/$version.$kind"
        fi
        say "$version.$kind: $(size_of "$CORPUS/$version.$kind") bytes"
    done
    say "$version: $(du -s -BM --apparent-size "$tree" | cut -f1) of files"
    rm -rf "$tree"
}

main() {
    need_root
    local kinds=("$@") kind
    [ ${#kinds[@]} -gt 0 ] || kinds=(ext4)
    for kind in "${kinds[@]}"; do
        case $kind in ext4 | erofs | squashfs) ;; *) die "no image kind $kind" ;; esac
    done
    mkdir -p "$CORPUS"
    if [ ! -e "$WORK/release.tar" ]; then
        say "installing v1"
        debian_tree "$WORK/release.tar" "" "deb $mirror $suite main"
    fi
    if [ ! -e "$WORK/updated.tar" ]; then
        say "installing v2"
        rm -rf "$WORK/apps"
        mkdir -p "$WORK/apps"
        debian_tree "$WORK/updated.tar" "$WORK/apps" "deb $mirror $suite main" \
            "deb $security $suite-security main" "deb $mirror $suite-updates main"
    fi
    images_of v1 "$WORK/release.tar" "$suite" "$suite" "${kinds[@]}"
    images_of v2 "$WORK/updated.tar" "$suite-security" "$suite" "${kinds[@]}"
    images_of v3 "$WORK/updated.tar" "$suite-security" "$suite-security" "${kinds[@]}"
    say "v1 to v2: $(diff "$CORPUS/v1.packages.txt" "$CORPUS/v2.packages.txt" | grep -c '^>') packages differ"
}

main "$@"
