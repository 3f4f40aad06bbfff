#!/usr/bin/env bash
# Are the defaults of `bundle-tool build` right? Frame sizes and kinds of chunks on real images; docs/adr/0001 has what
# came of it.
#
# Frames: 64 MiB out of the middle of an ext4 root at level 19, against one zstd stream. Chunks: what a device with one
# release fetches for the next when there is no delta, at level 3 (what is found does not depend on the level).
# usage: defaults.sh       as root (the corpus needs it)
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

scratch=$WORK/defaults
rm -rf "$scratch"
mkdir -p "$scratch"
at_exit "rm -rf $scratch"

# recipe IMAGE CHUNKS COUNTER
recipe() {
    printf 'compatible = "x"\nversion = "%s.0.0"\ncounter = %s\n[[image]]\nname = "i"\nkind = "block"\npath = "%s"\nchunks = "%s"\n' \
        "$3" "$3" "$1" "$2" > "$scratch/recipe.toml"
}

frames() {
    dd if="$CORPUS/v2.ext4" of="$scratch/part" bs=1M skip=128 count=64 status=none
    zstd -q -f -19 "$scratch/part" -o "$scratch/part.zst"
    local whole size frame
    whole=$(size_of "$scratch/part.zst")
    printf '| frame | bytes | to one stream |\n|---|--:|--:|\n| one stream | %s | |\n' "$whole"
    recipe "$scratch/part" none 1
    for frame in 64KiB 256KiB 512KiB 1MiB 2MiB 4MiB; do
        "$BUNDLE_TOOL" build -q "$scratch/recipe.toml" --frame-size "$frame" --out "$scratch/part.bundle" > /dev/null
        size=$("$BUNDLE_TOOL" inspect --json "$scratch/part.bundle" | jq '.images[0].stored + .manifest.images[0].index.size')
        printf '| %s | %s | %+.1f %% |\n' "$frame" "$size" "$(jq -n "($size / $whole - 1) * 100")"
    done
}

chunks() {
    local kind method version pair
    printf '\n| image | chunks | addresses, bytes | v2 to v3, MB | v1 to v2, MB | in full, MB |\n|---|---|--:|--:|--:|--:|\n'
    for kind in ext4 erofs squashfs; do
        for method in fastcdc blocks; do
            for version in 1 2 3; do
                recipe "$CORPUS/v$version.$kind" "$method" "$version"
                "$BUNDLE_TOOL" build -q "$scratch/recipe.toml" --level 3 --out "$scratch/v$version.bundle" > /dev/null
            done
            for pair in "2 3" "1 2"; do
                "$BUNDLE_TOOL" diff -q --json --level 1 "$scratch/v${pair% *}.bundle" "$scratch/v${pair#* }.bundle" \
                    > "$scratch/${pair/ /-}.json"
            done
            printf '| %s | %s | %s | %.1f | %.1f | %.1f |\n' "$kind" "$method" \
                "$("$BUNDLE_TOOL" inspect --json "$scratch/v2.bundle" | jq '.manifest.images[0].chunks.size')" \
                "$(jq '.by_chunks / 1e6' "$scratch/2-3.json")" "$(jq '.by_chunks / 1e6' "$scratch/1-2.json")" \
                "$(jq '.full / 1e6' "$scratch/1-2.json")"
        done
    done
}

"$BENCH/corpus.sh" ext4 erofs squashfs
frames
chunks
