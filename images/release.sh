#!/usr/bin/env bash
# Makes one release from the system of a variant: a copy of the tree, the changes of releases/NAME/, and the three
# images an update carries. Writes into OUT: rootfs.img, vmlinuz, initrd.img, release.json.
# A recipe folder has `release.conf` (VERSION, COUNTER, WHAT) and, all optional: `root/` and `initrd/` (files laid
# over), `change.sh` (functions change_root TREE and change_images OUT).
# usage: release.sh NAME SYSTEM BASE OUT
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
# shellcheck disable=SC2034 # base is for change.sh
name=$1 system=$2 base=$3 out=$4
recipe=$IMAGES/releases/$name
tree=$out/tree
# It is a small appliance: below 250 MB, in the steps of below.
ROOT_MOST_MIB=224

change_root() { :; }
change_images() { :; }
VERSION='' COUNTER='' WHAT=''
# shellcheck disable=SC1091 # one of many
. "$recipe/release.conf"
# shellcheck disable=SC1091
[ ! -e "$recipe/change.sh" ] || . "$recipe/change.sh"

# Links, not copies: quick. So nothing below may write into a file that is there; it is replaced (`sed -i` does so).
cp -al "$system/tree" "$tree"
sed -i -e '/^IMAGE_/d' "$tree/usr/lib/os-release"
cat >> "$tree/usr/lib/os-release" <<OS
IMAGE_ID=demo-appliance
IMAGE_VERSION=$VERSION
OS
# A device that remembers nothing must not be led back to an older release.
rm -f "$tree/usr/lib/flipside/counter"
if [ -d "$tree/usr/lib/flipside" ]; then echo "$COUNTER" > "$tree/usr/lib/flipside/counter"; fi
rm -f "$tree/usr/lib/demo-app/version"
echo "$VERSION" > "$tree/usr/lib/demo-app/version"
# The application's data changes with each major version and does not compress: an update has something to fetch.
major=${VERSION%%.*}
seq $((major * 10000000)) $((major * 10000000 + 2000000)) | gzip -n > "$tree/usr/lib/demo-app/data"
truncate -s 4M "$tree/usr/lib/demo-app/data"
[ ! -d "$recipe/root" ] || cp -r --remove-destination --no-preserve=ownership "$recipe/root/." "$tree/"
change_root "$tree"

"$IMAGES/initrd.sh" "$tree" "$out/initrd.img" "$([ ! -d "$recipe/initrd" ] || echo "$recipe/initrd")"
cp "$system/vmlinuz" "$out/vmlinuz"
# What is in it and a tenth, in steps of 16 MiB.
used=$(du -smx "$tree" | cut -f1)
size=$(((used * 11 / 10 + 8 + 15) / 16 * 16))
[ "$size" -le "$ROOT_MOST_MIB" ] || die "the root file system of $name takes $size MiB, more than $ROOT_MOST_MIB: trim.txt"
make_ext4 "$tree" "$out/rootfs.img" "$size"
rm -rf "$tree"
change_images "$out"
cat > "$out/release.json" <<JSON
{"name":"$name","version":"$VERSION","counter":$COUNTER,"what":"$WHAT"}
JSON
chmod 0444 "$out"/*
