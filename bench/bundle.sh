#!/usr/bin/env bash
# Bundles and deltas beside other tools: sizes, speed of building, of decoding and verifying, of applying a delta.
#
# Products go to target/bench/products, results to target/bench/results/*.json; report.py makes tables of them.
# Everything is built anew; with FLIPSIDE_BENCH_REUSE=1 a part whose products are all there is not built and not
# measured again (level 19 takes a quarter of an hour on two cores).
# usage: bundle.sh       as root (the corpus needs it); FLIPSIDE_BENCH_ROUNDS: how often each is measured, default 3
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${FLIPSIDE_BENCH_ROUNDS:-3}
# Two kinds of update: an application release, and a security upgrade with a new kernel.
pairs=("v2 v3" "v1 v2")
failed=0

# reuse FILE...: true when all are there and may be used again.
reuse() {
    [ -n "${FLIPSIDE_BENCH_REUSE:-}" ] || return 1
    local file
    for file in "$@"; do [ -e "$file" ] || return 1; done
}

# build_full: the bundles of three versions, and the yardsticks of their size and of the time they take. Once: nobody
# waits for the noise.
build_full() {
    if reuse "$PRODUCTS"/v{1,2,3}.{zst,bundle} "$PRODUCTS/v2.mt.zst" "$RESULTS/build.json"; then return; fi
    new_plan build
    local version
    for version in v1 v2 v3; do
        local group="Building $version, one image of 671 MB, level 19" image=$CORPUS/$version.ext4 out=$PRODUCTS/$version
        add_case "$group" "zstd -19" "zstd -q -f -19 $image -o $out.zst" "" "echo bytes=\$(stat -c %s $out.zst)"
        if [ "$version" = v2 ]; then
            add_case "$group" "zstd -19 -T0" "zstd -q -f -19 -T0 $image -o $out.mt.zst" "" \
                "echo bytes=\$(stat -c %s $out.mt.zst)"
        fi
        add_case "$group" "flipside" "$BUNDLE_TOOL build -q $out.toml --out $out.bundle" "rm -f $out.bundle" \
            "echo bytes=\$(stat -c %s $out.bundle); $(signing "$version")"
    done
    measure 1 || failed=1
}

signing() { printf '%s sign %s/%s.bundle --key %s/release.pem' "$BUNDLE_TOOL" "$PRODUCTS" "$1" "$KEYS"; }

# decode: is it whole? Nothing is written, so this is decompression and hashing alone.
decode() {
    new_plan decode
    local version
    for version in v1 v2 v3; do
        local group="Decoding and verifying $version, 671 MB" out=$PRODUCTS/$version
        add_case "$group" "zstd -dc, sha256sum" "zstd -dc $out.zst | sha256sum"
        add_case "$group" "zstd -t (xxh64)" "zstd -q -t $out.zst"
        add_case "$group" "flipside, file" "$BUNDLE_TOOL verify -q $out.bundle --trust $KEYS/trust.dsse.json"
        add_case "$group" "flipside, pipe" "$BUNDLE_TOOL verify -q - --trust $KEYS/trust.dsse.json < $out.bundle"
    done
    measure "$rounds" || failed=1
}

# delta_build: what goes over the wire, and what making it costs.
delta_build() {
    local pair old new name products=("$RESULTS/delta-build.json")
    for pair in "${pairs[@]}"; do
        name=${pair// /-}
        products+=("$PRODUCTS/$name".{patch,xdelta})
        if has_ostree; then products+=("$PRODUCTS/$name.ostree"); fi
        if has_delta; then products+=("$PRODUCTS/$name.delta"); fi
    done
    if reuse "${products[@]}"; then return; fi
    if has_ostree; then ostree_trees; fi
    new_plan delta-build
    for pair in "${pairs[@]}"; do
        old=${pair% *} new=${pair#* } name=${pair// /-}
        local group="Making a delta, $old to $new" from=$CORPUS/${pair% *}.ext4 to=$CORPUS/${pair#* }.ext4
        local out=$PRODUCTS/$name
        add_case "$group" "zstd -19 --patch-from" "zstd -q -f -19 --patch-from=$from $to -o $out.patch" "" \
            "echo bytes=\$(stat -c %s $out.patch)"
        # -9 brings LZMA as secondary compression: the smallest this tool can do. The window covers the whole image.
        add_case "$group" "xdelta3 -9" "xdelta3 -e -9 -f -B 671088640 -s $from $to $out.xdelta" "" \
            "echo bytes=\$(stat -c %s $out.xdelta)"
        add_case "$group" "casync make" "casync make --store=$WWW/casync.castr $WWW/$new.caibx $to"
        if has_ostree; then
            add_case "$group" "ostree static delta (files)" "ostree --repo=$WORK/ostree static-delta generate \
                --from=$old --to=$new --inline --min-fallback-size=0 --filename=$out.ostree > /dev/null" \
                "rm -f $out.ostree" "echo bytes=\$(stat -c %s $out.ostree)"
        fi
        if has_delta; then
            add_case "$group" "flipside delta" "$BUNDLE_TOOL delta -q $PRODUCTS/$old.bundle $PRODUCTS/$new.bundle \
                --out $out.delta" "rm -f $out.delta" "echo bytes=\$(stat -c %s $out.delta)"
        fi
    done
    measure 1 || failed=1
}

# ostree_trees: the versions as commits; a static delta is made between two of them.
ostree_trees() {
    local version
    rm -rf "$WORK/ostree"
    ostree init --repo="$WORK/ostree" --mode=archive
    for version in v1 v2 v3; do
        say "ostree commit $version"
        ostree --repo="$WORK/ostree" commit -b "$version" --tree="tar=$CORPUS/$version.tar" > /dev/null
    done
}

# delta_apply: from the old image and the delta to the new image, in a file, flushed; compared afterwards.
delta_apply() {
    local pair old new name out=$WORK/out.img
    new_plan delta-apply
    for pair in "${pairs[@]}"; do
        old=${pair% *} new=${pair#* } name=${pair// /-}
        local group="Applying a delta, $old to $new" from=$CORPUS/${pair% *}.ext4 to=$CORPUS/${pair#* }.ext4
        local before="rm -f $out; cat $from $PRODUCTS/$name.* > /dev/null" after="cmp $out $to"
        add_case "$group" "zstd --patch-from" \
            "zstd -q -d --memory=2048MB --patch-from=$from $PRODUCTS/$name.patch -o $out; sync $out" "$before" "$after"
        add_case "$group" "xdelta3 -d" "xdelta3 -d -B 671088640 -s $from $PRODUCTS/$name.xdelta $out; sync $out" \
            "$before" "$after"
        add_case "$group" "casync extract, seeded" "casync extract --store=$BASE_URL/casync.castr --seed=$from \
            --seed-output=no $BASE_URL/$new.caibx $out; sync $out" "$before" "$after"
        if has_ostree; then
            local device=$WORK/ostree.device
            add_case "$group" "ostree static delta (files)" \
                "ostree --repo=$device static-delta apply-offline $PRODUCTS/$name.ostree" \
                "rm -rf $device; ostree init --repo=$device --mode=bare; ostree --repo=$device pull-local $WORK/ostree $old" \
                "ostree --repo=$device ls $new > /dev/null || ostree --repo=$device show \$(ostree --repo=$WORK/ostree rev-parse $new) > /dev/null; rm -rf $device"
        fi
        if has_delta; then
            add_case "$group" "flipside delta" "$BUNDLE_TOOL apply -q $PRODUCTS/$name.delta --image rootfs \
                --old $from --out $out --trust $KEYS/trust.dsse.json" "$before" "$after"
        fi
    done
    measure "$rounds" || failed=1
    rm -f "$out"
}

has_ostree() { have ostree; }
has_delta() { "$BUNDLE_TOOL" delta --help > /dev/null 2>&1; }

main() {
    "$BENCH/corpus.sh"
    mkdir -p "$PRODUCTS" "$WWW"
    make_keys
    make_recipes
    build_full
    "$BENCH/others.sh" "$PRODUCTS/v2.bundle" "$CORPUS/v2.ext4" || failed=1
    decode
    delta_build
    serve
    delta_apply
    exit $failed
}

main "$@"
