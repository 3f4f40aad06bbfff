#!/usr/bin/env bash
# Installs bundle-tool with its man pages and completions, which it writes itself and so are never stale.
# usage: install-tools.sh BUNDLE-TOOL PREFIX
set -euo pipefail
tool=$1 prefix=$2
install -D -m 755 "$tool" "$prefix/bin/bundle-tool"
"$tool" man --out "$prefix/share/man/man1"
complete() { # SHELL FILE
    mkdir -p "$prefix/share/$(dirname "$2")"
    "$tool" completions "$1" > "$prefix/share/$2"
}
complete bash bash-completion/completions/bundle-tool
complete zsh zsh/site-functions/_bundle-tool
complete fish fish/vendor_completions.d/bundle-tool.fish
echo "bundle-tool in $prefix/bin, man pages and completions in $prefix/share"
