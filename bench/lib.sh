# Shared by the benchmark scripts: where things are, how a case is declared, how the parts are started. Sourced.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BENCH=$ROOT/bench
# Everything the benchmark makes lives here: corpus, baselines, results.
WORK=${FLIPSIDE_BENCH_DIR:-$ROOT/target/bench}
CORPUS=$WORK/corpus
RESULTS=$WORK/results
# Bundles, deltas and the other tools' counterparts; what is served; throw-away keys.
PRODUCTS=$WORK/products
WWW=$WORK/www
KEYS=$WORK/keys
BUNDLE_TOOL=${FLIPSIDE_BUNDLE_TOOL:-$ROOT/target/release/bundle-tool}
export ROOT BENCH WORK CORPUS RESULTS PRODUCTS WWW KEYS BUNDLE_TOOL
# So that a bundle is the same whenever it is built.
export SOURCE_DATE_EPOCH=1767225600 # 2026-01-01T00:00:00Z
# UTF-8, because ostree refuses names it can not convert.
export LC_ALL=C.UTF-8 TZ=UTC
PATH=$PATH:/usr/sbin:/sbin
umask 022

say() { printf 'bench: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" > /dev/null; }
size_of() { stat -c %s "$1"; }

need_root() { [ "$(id -u)" = 0 ] || die "must run as root (sudo $0 ...)"; }

# new_plan NAME: an empty plan; add_case adds to it.
new_plan() {
    PLAN=$WORK/plans/$1
    rm -rf "$PLAN"
    mkdir -p "$PLAN"
    CASES=0
}

# add_case GROUP LABEL RUN [BEFORE] [AFTER]: bash scripts; see measure.py. They see WORK, CORPUS and what is exported.
add_case() {
    CASES=$((CASES + 1))
    local folder
    folder=$PLAN/$(printf '%03d' "$CASES")
    mkdir -p "$folder"
    printf %s "$1" > "$folder/group"
    printf %s "$2" > "$folder/label"
    printf '%s\n' "$3" > "$folder/run"
    if [ -n "${4:-}" ]; then printf '%s\n' "$4" > "$folder/before"; fi
    if [ -n "${5:-}" ]; then printf '%s\n' "$5" > "$folder/after"; fi
}

# measure ROUNDS: runs the plan; results in $RESULTS/<plan>.json. Fails when a case failed, after all have run.
measure() {
    mkdir -p "$RESULTS"
    python3 "$BENCH/measure.py" "$PLAN" "$RESULTS/$(basename "$PLAN").json" --rounds "$1"
}

# A port nobody else here uses.
PORT=${FLIPSIDE_BENCH_PORT:-18642}
BASE_URL=http://127.0.0.1:$PORT
export BASE_URL

# serve: starts the web server over $WORK/www and stops it when the script ends.
serve() {
    mkdir -p "$WORK/nginx" "$WORK/www"
    : > "$WORK/nginx/access.log"
    sed -e "s|@WORK@|$WORK|g" -e "s|@PORT@|$PORT|g" "$BENCH/nginx.conf.in" > "$WORK/nginx/nginx.conf"
    nginx -c "$WORK/nginx/nginx.conf" -g 'daemon off;' 2> /dev/null &
    at_exit "kill $! 2> /dev/null || true"
    local tries
    for tries in $(seq 100); do
        if curl -s -o /dev/null "$BASE_URL/"; then return; fi
        kill -0 $! 2> /dev/null || die "the web server did not start on $BASE_URL: is the port taken? (try $tries)"
        sleep 0.05
    done
    die "the web server does not answer on $BASE_URL"
}

# at_exit COMMAND: runs when the script ends, last one first.
AT_EXIT=()
at_exit() {
    AT_EXIT+=("$1")
    trap run_at_exit EXIT
}
run_at_exit() {
    local index
    for ((index = ${#AT_EXIT[@]} - 1; index >= 0; index--)); do eval "${AT_EXIT[index]}"; done
}

# loop_device FILE: a loop device over FILE that bypasses the host's page cache; gone when the script ends. Sets LOOP.
loop_device() {
    LOOP=$(losetup --find --show --direct-io=on "$1")
    at_exit "losetup -d $LOOP"
}

# make_keys: throw-away keys and a trust root that believes them, once.
make_keys() {
    if [ -e "$KEYS/trust.dsse.json" ]; then return; fi
    rm -rf "$KEYS"
    mkdir -p "$KEYS"
    local name
    for name in root release region; do "$BUNDLE_TOOL" keygen --out "$KEYS/$name" > /dev/null; done
    "$BUNDLE_TOOL" trust init --root-key "$KEYS/root.pem" --release "$KEYS/release.pub.pem" \
        --region "bench=$KEYS/region.pub.pem" --expires 2036-01-01T00:00:00Z --out "$KEYS/trust.dsse.json" > /dev/null
}

# make_recipes: a bundle.toml for each version of the corpus.
make_recipes() {
    local counter
    for counter in 1 2 3; do
        cat > "$PRODUCTS/v$counter.toml" << TOML
compatible = "bench"
version = "$counter.0.0"
counter = $counter
[[image]]
name = "rootfs"
kind = "block"
path = "$CORPUS/v$counter.ext4"
TOML
    done
}

# private_bus: a message bus of our own that lets everybody do everything, for services that want the system's.
private_bus() {
    local folder=$WORK/bus
    rm -rf "$folder"
    mkdir -p "$folder"
    cat > "$folder/bus.conf" << CONF
<busconfig><type>session</type><listen>unix:path=$folder/socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
CONF
    dbus-daemon --config-file="$folder/bus.conf" --nofork --nopidfile 2> /dev/null &
    at_exit "kill $! 2> /dev/null || true"
    export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$folder/socket
}

# until_works COMMAND: script lines that wait until COMMAND succeeds, for a service that is starting.
until_works() {
    cat << SCRIPT
for try in \$(seq 200); do
    if $1 > /dev/null 2>&1; then break; fi
    [ "\$try" -lt 200 ] || { echo "waited in vain for: $1"; exit 1; }
    sleep 0.05
done
SCRIPT
}

# facts_and_end PID-FILE: script lines that print what a service cost, and stop it.
facts_and_end() {
    cat << SCRIPT
pid=\$(cat $1)
awk '/VmHWM/ { print "peak_kib=" \$2 }' /proc/\$pid/status
awk -v hz=\$(getconf CLK_TCK) '{ print "cpu_s=" (\$14 + \$15) / hz }' /proc/\$pid/stat
kill \$pid
SCRIPT
}
