# Shared by the scripts of this folder: names, the content cache, and reproducible file systems. Sourced.
# shellcheck shell=bash

IMAGES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${FLIPSIDE_IMAGE_CACHE:-$IMAGES/.cache}

# One time for everything inside the images: same inputs, same bytes. In the past on purpose, so that no device
# believes that its build is newer than the approvals it is given.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1767225600} # 2026-01-01T00:00:00Z
export LC_ALL=C TZ=UTC
PATH=$PATH:/usr/sbin:/sbin
umask 022

# Sizes of the partitions in MiB.
# shellcheck disable=SC2034 # used by the scripts that source this
ESP_MIB=256 SLOT_MIB=256 DATA_MIB=512

say() { printf 'images: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Needs root: chroot, and files owned by others. No loop devices, no mounts of our own.
need_root() {
    [ "$(id -u)" = 0 ] || die "must run as root (sudo $0 ...)"
}

# hash_of WORD-OR-PATH...: one digest over the words, and over name, mode and content of everything in the paths.
hash_of() {
    local item
    for item in "$@"; do
        if [ -e "$item" ]; then
            (cd "$(dirname "$item")" && find "$(basename "$item")" \( -type f -o -type l \) -printf '%m %p %l\n' | sort \
                && find "$(basename "$item")" -type f -print0 | sort -z | xargs -0r sha256sum)
        else
            printf 'word %s\n' "$item"
        fi
    done | sha256sum | cut -c1-20
}

# cached NAME KEY COMMAND...: prints the folder that COMMAND filled (it is given the folder as last argument).
# A folder is either complete or not there: it is made beside and renamed.
cached() {
    local name=$1 key=$2
    shift 2
    local folder=$CACHE/$name.$key
    if [ ! -d "$folder" ]; then
        say "$name: building"
        local start=$SECONDS
        rm -rf "$folder.new"
        mkdir -p "$folder.new"
        "$@" "$folder.new" >&2 || die "$name: failed"
        mv "$folder.new" "$folder"
        # Two of each kind are kept, the last ones used: with and without the package, say.
        find "$CACHE" -mindepth 1 -maxdepth 1 -name "$name.*" -printf '%T@ %p\n' | sort -rn | tail -n +3 | cut -d' ' -f2- | xargs -rd'\n' rm -rf
        say "$name: built in $((SECONDS - start)) s"
    fi
    touch "$folder"
    printf '%s\n' "$folder"
}

# make_ext4 TREE IMAGE MIB: a file system without journal (a read-only mount can then never write), from a tree.
# The seed makes UUID and directory hashes the same for the same seed.
make_ext4() {
    local tree=$1 image=$2 mib=$3
    rm -f "$image"
    find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -t ext4 -b 4096 -m 0 -N 8192 -L root \
        -O '^has_journal,^resize_inode,^metadata_csum' -U 5f1b51de-0000-4000-8000-000000000001 \
        -E hash_seed=5f1b51de-0000-4000-8000-000000000002,root_owner=0:0 -d "$tree" "$image" "${mib}M" > /dev/null
    fix_inode_times "$image"
}

# mke2fs copies the change time of every source file, which nobody can set: write it again.
fix_inode_times() {
    local image=$1 inodes
    inodes=$(dumpe2fs -h "$image" 2> /dev/null | awk '/^Inode count:/ { print $3 }')
    local free
    free=$(dumpe2fs -h "$image" 2> /dev/null | awk '/^Free inodes:/ { print $3 }')
    # mke2fs hands inodes out in order: the used ones are the first.
    seq 1 $((inodes - free)) | awk -v t="@$SOURCE_DATE_EPOCH" '
        { for (n = split("ctime atime mtime crtime", f); n > 0; n--) printf "sif <%d> %s %s\n", $1, f[n], t
          for (n = split("ctime_extra atime_extra mtime_extra crtime_extra", f); n > 0; n--) printf "sif <%d> %s 0\n", $1, f[n] }' \
        | E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f - "$image" > /dev/null 2>&1
}
