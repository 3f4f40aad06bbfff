# The updater's program is missing; its units are there.
# shellcheck shell=bash
change_root() {
    rm -f "$1/usr/bin/flipside"
}
