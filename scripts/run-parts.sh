#!/usr/bin/env bash
# Runs make targets one after another, tells how long each took, and ends with a summary.
# Every part runs even when an earlier one failed, so that one run shows everything that is wrong.
# usage: run-parts.sh TARGET...
set -uo pipefail
cd "$(dirname "$0")/.." || exit

summary=()
failed=0
passed=0
for part in "$@"; do
    printf '\n==> make %s\n' "$part"
    start=$SECONDS
    if make --no-print-directory "$part"; then
        outcome=ok passed=$((passed + 1))
    else
        outcome=FAILED failed=$((failed + 1))
    fi
    took=$((SECONDS - start))
    summary+=("$(printf '%-10s %-7s %3d min %02d s' "$part" "$outcome" $((took / 60)) $((took % 60)))")
done

printf '\n==> summary\n'
printf '  %s\n' "${summary[@]}"
printf '  %-10s         %3d min %02d s\n' total $((SECONDS / 60)) $((SECONDS % 60))
printf 'parts: %d passed, %d failed\n' "$passed" "$failed"
exit $((failed > 0))
