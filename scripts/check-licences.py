#!/usr/bin/env python3
"""Every crate the product links must carry a licence that appliance makers can ship, and come from crates.io.

cargo-deny says the same from deny.toml, and is used by whoever has it; this needs nothing but cargo and Python, so
that the check also runs where nothing can be downloaded. Its advisory database is not consulted here.
"""

import json
import re
import subprocess
import sys

ALLOWED = {
    "MIT", "MIT-0", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib",
    "Unicode-3.0", "Unlicense", "0BSD", "CC0-1.0", "CDLA-Permissive-2.0", "BSL-1.0",
}


def satisfied(expression: str) -> bool:
    """True when the SPDX expression can be met with allowed licences only."""
    # `A/B` is the old spelling of `A OR B`. AND binds closer than OR; Python's `and` and `or` do the same.
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    words, python = iter(tokens), []
    pending = None
    for word in words:
        if word == "WITH":
            pending = f"{pending} WITH {next(words)}"
            continue
        if pending is not None:
            python.append(str(pending in ALLOWED))
            pending = None
        if word in ("(", ")"):
            python.append(word)
        elif word in ("AND", "OR"):
            python.append(word.lower())
        else:
            pending = word
    if pending is not None:
        python.append(str(pending in ALLOWED))
    return bool(eval(" ".join(python)))  # only True, False, and, or, parentheses


def main() -> int:
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"]))
    bad = []
    for package in metadata["packages"]:
        licence, source = package["license"], package["source"]
        if source is not None and not source.startswith("registry+"):
            bad.append(f"{package['name']} {package['version']}: comes from {source}")
        if not licence or not satisfied(licence):
            bad.append(f"{package['name']} {package['version']}: licence {licence!r} is not on the list")
    print("\n".join(bad) if bad else f"{len(metadata['packages'])} crates, all fine")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
