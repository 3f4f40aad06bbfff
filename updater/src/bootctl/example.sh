#!/bin/sh
# A boot loader whose state is one file of shell variables, `state` beside this program; a boot loader that can source
# such a file would count in it. The example of the guide, and what the tests put in a boot loader's place.
set -eu
folder=${0%/*}
ORDER="a b" a=empty a_left=0 a_done=0 b=empty b_left=0 b_done=0
[ ! -e "$folder/state" ] || . "$folder/state"

# One file, whole or not at all. On a device: flush the new file before the rename, and the folder after it.
save() {
    printf '%s\n' "ORDER='$ORDER'" "a=$a a_left=$a_left a_done=$a_done" "b=$b b_left=$b_left b_done=$b_done" >"$folder/state.new"
    mv "$folder/state.new" "$folder/state"
}

# set_slot SLOT RECORD LEFT DONE
set_slot() {
    eval "$1=$2 $1_left=$3 $1_done=$4"
}

other() {
    if [ "$1" = a ]; then echo b; else echo a; fi
}

# fact SLOT: its record as JSON.
fact() {
    record='' left='' done=''
    eval "record=\$$1 left=\$$1_left done=\$$1_done"
    case $record in
    trying) printf '{"record":"trying","left":%s,"done":%s}' "$left" "$done" ;;
    exhausted) printf '{"record":"exhausted","done":%s}' "$done" ;;
    *) printf '{"record":"%s"}' "$record" ;;
    esac
}

case $1 in
facts) printf '{"a":%s,"b":%s}\n' "$(fact a)" "$(fact b)" ;;
clear) set_slot "$2" empty 0 0; ORDER="$(other "$2") $2"; save ;;
arm) set_slot "$2" trying "$3" 0; ORDER="$2 $(other "$2")"; save ;;
confirm) set_slot "$2" confirmed 0 0; save ;;
reject)
    eval "record=\$$2"
    if [ "$record" != empty ]; then
        set_slot "$2" exhausted 0 0
        ORDER="$(other "$2") $2"
        save
    fi
    ;;
self-test) [ -w "$folder" ] ;;
*) echo "unknown: $1" >&2; exit 2 ;;
esac
