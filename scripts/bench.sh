#!/usr/bin/env bash
# What `make bench` runs: the corpus, bundles and deltas, installs; then tables and the wanted ratios.
#
# About an hour on two cores, mostly zstd at level 19. FLIPSIDE_BENCH_REUSE=1 keeps what was built before.
# usage: bench.sh [--docs] [bundle] [install]     as root; --docs writes the tables into docs/src/performance.md
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/../bench/lib.sh"
cd "$ROOT"

docs=()
parts=()
for argument in "$@"; do
    case $argument in
        --docs) docs=(--docs docs/src/performance.md) ;;
        bundle | install) parts+=("$argument") ;;
        *) die "no part $argument" ;;
    esac
done
complete=()
[ ${#parts[@]} -gt 0 ] || complete=(--complete) parts=(bundle install)
need_root

outcome=0
for part in "${parts[@]}"; do
    if [ "$part" = install ]; then
        # As small as on the appliance, or the numbers would be another program's.
        (
            # shellcheck source=scripts/device-flags.sh
            . scripts/device-flags.sh
            cargo rustc -q --profile device -p updater --bin flipside -- "${linker[@]}"
            cargo rustc -q --profile device -p updater --example measure_install -- "${linker[@]}"
        )
    fi
    "bench/$part.sh" || outcome=1
done
# Killed thirty times in the middle of a large image: its own test, at full size.
FLIPSIDE_KILL_TEST_IMAGE=$CORPUS/v2.ext4 cargo test -q --release -p updater --test killed -- --nocapture || outcome=1
bench/report.py --check "${complete[@]}" "${docs[@]}" || outcome=1
echo "all of it: $WORK/results.json"
exit $outcome
