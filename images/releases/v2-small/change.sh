# The newer packages of Debian's security suite, as base.sh found them (security.txt in the base names them).
# shellcheck shell=bash
change_root() {
    # shellcheck disable=SC2154 # base: set by release.sh
    tar -xf "$base/security.tar" -C "$1" --keep-directory-symlink --no-overwrite-dir --no-same-owner \
        --exclude './usr/share/doc' --exclude './usr/share/man' --exclude './usr/share/locale' --exclude './etc'
}
