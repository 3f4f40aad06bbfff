#!/usr/bin/env bash
# Installs over loopback HTTP into a loop device, beside other tools: time, CPU, memory, bytes on the wire.
#
# The slots are loop devices that bypass the host's page cache, so that a write is a write. Before each full install
# the target holds noise, before each update something else than the new version: nothing is right by luck. After
# each run the target is compared with the image.
# usage: install.sh      as root, after bundle.sh; FLIPSIDE_BENCH_ROUNDS: how often each is measured, default 3
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=bench/peers.sh
. "$BENCH/peers.sh"

rounds=${FLIPSIDE_BENCH_ROUNDS:-3}
MEASURE=${FLIPSIDE_MEASURE_INSTALL:-$ROOT/target/device/examples/measure_install}
FLIPSIDE=${FLIPSIDE_BINARY:-$ROOT/target/device/flipside}
STATE=$WORK/state
SIM=$WORK/sim
failed=0

# slots: two slots a little larger than the image, and noise to start from. Sets A and B.
slots() {
    local noise=$WORK/noise.img slot
    if [ ! -e "$noise" ]; then
        openssl enc -aes-128-ctr -K 00 -iv 00 -in "$CORPUS/v1.ext4" -out "$noise" 2> /dev/null
    fi
    for slot in a b; do
        # Written once in full, so that the host's file system has the blocks before anything is measured.
        dd if=/dev/zero of="$WORK/slot-$slot.img" bs=1M count=704 status=none
    done
    loop_device "$WORK/slot-a.img"
    A=$LOOP
    loop_device "$WORK/slot-b.img"
    B=$LOOP
}

# fill DEVICE FILE: a script line that puts FILE there, past every cache.
fill() { printf 'dd if=%s of=%s bs=1M oflag=direct conv=fsync status=none; blockdev --flushbufs %s' "$2" "$1" "$1"; }

# check VERSION: a script line that compares slot b with the image.
check() { printf 'blockdev --flushbufs %s; cmp -n %s %s %s' "$B" "$(size_of "$CORPUS/$1.ext4")" "$CORPUS/$1.ext4" "$B"; }

# flipside VERSION ARGUMENT...: a script line that installs into slot b.
flipside() {
    local version=$1
    shift
    printf '%s %s/%s.bundle --a %s --b %s --trust %s --state %s %s' "$MEASURE" "$BASE_URL" "$version" "$A" "$B" \
        "$KEYS/trust.dsse.json" "$STATE" "$*"
}

# The whole product: daemon and command line on a bus, a simulated boot loader, the real slots.
start_product() {
    cat << SCRIPT
rm -rf $SIM
$FLIPSIDE --sim $SIM sim init --trust $KEYS/trust.dsse.json --url $BASE_URL > /dev/null
# Real slots on a simulated device: it must find out who uses them.
ln -s /dev /sys /proc $SIM/
cat > $SIM/etc/flipside/flipside.toml << 'TOML'
compatible = "bench"
mode = "stage"
standalone = true
[source]
url = "$BASE_URL"
[slots.a]
rootfs = { kind = "block", device = "$A" }
[slots.b]
rootfs = { kind = "block", device = "$B" }
[boot]
backend = "sim"
TOML
setsid $FLIPSIDE --sim $SIM daemon --idle-exit 0 > $WORK/sim.log 2>&1 < /dev/null &
echo \$! > $WORK/sim.pid
$(until_works "dbus-send --system --print-reply --dest=org.flipside.Updater1 / org.freedesktop.DBus.Peer.Ping")
SCRIPT
}

full() {
    new_plan install-full
    local group="Full install, 671 MB" after before plain
    before="$(fill "$B" "$WORK/noise.img"); rm -rf $STATE"
    after=$(check v2)
    plain="curl -sf $BASE_URL/v2.zst | zstd -dc | dd of=$B bs=1M iflag=fullblock oflag=direct conv=fsync status=none"
    local back="dd if=$B bs=1M iflag=direct,count_bytes count=\$(stat -c %s $CORPUS/v2.ext4) status=none | sha256sum"
    add_case "$group" "curl, zstd -dc, dd direct" "$plain" "$before" "$after"
    add_case "$group" "the same, and sha256sum of what was read back" "$plain; $back" "$before" "$after"
    add_case "$group" "flipside" "$(flipside v2)" "$before" "$after"
    add_case "$group" "flipside, and read back" "$(flipside v2 --read-back)" "$before" "$after"
    add_case "$group" "flipside, the whole product" "$FLIPSIDE --sim $SIM install $BASE_URL/v2.bundle" \
        "$before; $(start_product)" "$after; $(facts_and_end "$WORK/sim.pid")"
    if have swupdate; then
        prepare_swupdate
        add_case "$group" "swupdate" "$(run_swupdate)" "$before" "$after"
    fi
    if have rauc; then
        prepare_rauc
        add_case "$group" "rauc, local file" "$(run_rauc)" "$before; $(start_rauc)" "$after; $(stop_rauc)"
    fi
    add_case "$group" "casync" "casync extract --store=$BASE_URL/casync.castr $BASE_URL/v2.caibx $B" "$before" "$after"
    measure "$rounds" || failed=1
}

# update OLD NEW: slot a runs OLD, slot b becomes NEW. The old slot is read from the device, not from a cache.
update() {
    local old=$1 new=$2 name=$1-$2
    local group="Update, $1 to $2" before after
    before="$(fill "$B" "$WORK/noise.img"); blockdev --flushbufs $A; rm -rf $STATE; cp -a $STATE.$old $STATE"
    after=$(check "$new")
    new_plan "install-$name"
    "$MEASURE" "$PRODUCTS/$old.bundle" --a "$A" --b "$B" --trust "$KEYS/trust.dsse.json" --state "$STATE.$old" --into-a \
        --read-back > /dev/null
    add_case "$group" "curl, xdelta3 -d, dd direct" "curl -sf $BASE_URL/$name.xdelta -o $WORK/xdelta
        xdelta3 -d -c -B 671088640 -s $A $WORK/xdelta | dd of=$B bs=1M iflag=fullblock oflag=direct conv=fsync status=none" \
        "$before" "$after"
    add_case "$group" "casync, seeded" \
        "casync extract --store=$BASE_URL/casync.castr --seed=$A --seed-output=no $BASE_URL/$new.caibx $B" "$before" "$after"
    add_case "$group" "flipside, no delta" "$(flipside "$new")" "$before" "$after"
    if [ -e "$PRODUCTS/$name.delta" ]; then
        local from recipes delta
        from=$("$BUNDLE_TOOL" inspect --json "$PRODUCTS/$old.bundle" | jq -r .manifest_sha256)
        recipes=$(tar xOf "$PRODUCTS/$name.delta" delta.recipes | sha256sum | cut -d' ' -f1)
        delta="--from $from --recipes $recipes --delta $BASE_URL/$name.delta --delta-size $(size_of "$PRODUCTS/$name.delta")"
        add_case "$group" "flipside, delta" "$(flipside "$new" "$delta")" "$before" "$after"
        add_case "$group" "flipside, delta, and read back" "$(flipside "$new" "$delta" --read-back)" "$before" "$after"
    fi
    measure "$rounds" || failed=1
}

main() {
    need_root
    local product
    for product in "$PRODUCTS"/v*.{bundle,zst,xdelta,delta}; do
        if [ -e "$product" ]; then ln -sf "$product" "$WWW/"; fi
    done
    slots
    serve
    private_bus
    full
    update v2 v3
    update v1 v2
    exit $failed
}

main "$@"
