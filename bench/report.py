#!/usr/bin/env python3
"""Makes tables of what was measured, and says which wanted ratios hold.

Reads target/bench/results/*.json, writes target/bench/results.json (all of it) and prints Markdown. With --docs FILE
the part of FILE between the `bench` markers is replaced by it. With --check it exits 1 when a wanted ratio was measured
and does not hold.
"""

import argparse
import json
import os
import pathlib
import re
import sys

PLANS = ["build", "decode", "delta-build", "delta-apply", "install-full", "install-v2-v3", "install-v1-v2"]

# What is wanted: (sentence, what is measured, against what, largest ratio). A measure is (group, label, quantity); a
# plain number is a limit by itself.
PAIRS = [("v2", "v3"), ("v1", "v2")]
FULL = "Full install, 671 MB"
WANTED = []
for version in ("v1", "v2", "v3"):
    BUILD = f"Building {version}, one image of 671 MB, level 19"
    DECODE = f"Decoding and verifying {version}, 671 MB"
    WANTED += [
        (f"bundle {version}, size to one zstd -19 stream", (BUILD, "flipside", "bytes"), (BUILD, "zstd -19", "bytes"), 1.12),
        (f"memory of building {version}, to 300 MB", (BUILD, "flipside", "peak_kib"), 300e6 / 1024, 1.0),
        (f"time of decoding and verifying {version}, to zstd -dc | sha256sum", (DECODE, "flipside, file", "wall_s"),
         (DECODE, "zstd -dc, sha256sum", "wall_s"), 1.0),
        (f"memory of verifying {version}, to 32 MB", (DECODE, "flipside, pipe", "peak_kib"), 32e6 / 1024, 1.0),
    ]
WANTED += [
    ("time of a full install, to curl | zstd -dc | dd", (FULL, "flipside", "wall_s"),
     (FULL, "curl, zstd -dc, dd direct", "wall_s"), 1.0),
    ("time of a full install with read-back, to curl | zstd -dc | dd", (FULL, "flipside, and read back", "wall_s"),
     (FULL, "curl, zstd -dc, dd direct", "wall_s"), 1.5),
    ("memory of a full install, to 32 MB", (FULL, "flipside, and read back", "peak_kib"), 32e6 / 1024, 1.0),
    ("time of the whole product, to curl | zstd -dc | dd", (FULL, "flipside, the whole product", "wall_s"),
     (FULL, "curl, zstd -dc, dd direct", "wall_s"), 1.5),
    ("memory of the whole product, to 32 MB", (FULL, "flipside, the whole product", "peak_kib"), 32e6 / 1024, 1.0),
]
for old, new in PAIRS:
    make, apply = f"Making a delta, {old} to {new}", f"Applying a delta, {old} to {new}"
    update = f"Update, {old} to {new}"
    WANTED += [
        (f"delta {old} to {new}, to zstd -19 --patch-from", (make, "flipside delta", "bytes"),
         (make, "zstd -19 --patch-from", "bytes"), 0.9),
        (f"delta {old} to {new}, to an ostree static delta", (make, "flipside delta", "bytes"),
         (make, "ostree static delta (files)", "bytes"), 1.0),
        (f"memory of making {old} to {new}, to a gigabyte", (make, "flipside delta", "peak_kib"), 1e9 / 1024, 1.0),
        (f"memory of applying {old} to {new}, to 32 MB", (apply, "flipside delta", "peak_kib"), 32e6 / 1024, 1.0),
        (f"time of a delta install {old} to {new}, to curl and xdelta3 -d", (update, "flipside, delta", "wall_s"),
         (update, "curl, xdelta3 -d, dd direct", "wall_s"), 1.3),
        (f"memory of a delta install {old} to {new}, to 32 MB", (update, "flipside, delta, and read back", "peak_kib"),
         32e6 / 1024, 1.0),
    ]

# Columns: heading, quantity, how it is shown.
COLUMNS = [
    ("MB", "bytes", lambda v: f"{v / 1e6:.2f}"),
    ("MB on the wire", "wire_bytes", lambda v: f"{v / 1e6:.2f}"),
    ("requests", "requests", lambda v: f"{v:.0f}"),
    ("connections", "connections", lambda v: f"{v:.0f}"),
    ("wall s", "wall_s", lambda v: f"{v:.2f}"),
    ("cpu s", "cpu_s", lambda v: f"{v:.2f}"),
    ("peak MB", "peak_kib", lambda v: f"{v * 1024 / 1e6:.0f}"),
]


def table(head: list, rows: list) -> str:
    """A Markdown table; all columns but the first to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(text: str) -> str:
    """A pipe of a shell is none of the table."""
    return text.replace("|", "\\|")


def groups(results: dict) -> dict:
    """Cases by group, in the order in which they were measured."""
    out = {}
    for plan in PLANS:
        for case in results.get(plan, {}).get("cases", []):
            out.setdefault(case["group"], []).append(case)
    return out


def group_table(cases: list) -> str:
    """One group: a row for each candidate, the columns that any of them has."""
    columns = [column for column in COLUMNS if any(column[1] in case["median"] for case in cases)]
    rows = []
    for case in cases:
        if case["error"]:
            rows.append([case["label"], *["failed"] * len(columns)])
            continue
        rows.append([case["label"], *[show(case["median"][key]) if key in case["median"] else "-"
                                      for _, key, show in columns]])
    return table(["", *[heading for heading, _, _ in columns]], rows)


def measured(by_group: dict, what) -> float | None:
    """A measure of WANTED, or None when it is missing."""
    if not isinstance(what, tuple):
        return what
    group, label, key = what
    for case in by_group.get(group, []):
        if case["label"] == label and not case["error"]:
            return case["median"].get(key)
    return None


def wanted_table(by_group: dict, complete: bool) -> tuple[str, bool]:
    """The wanted ratios, and whether all hold that were measured, or, in a complete run, all."""
    rows, fine = [], True
    for sentence, what, against, limit in WANTED:
        ours, theirs = measured(by_group, what), measured(by_group, against)
        if ours is None or not theirs:
            rows.append([cell(sentence), "not measured", f"{limit:.2f}", "**no**" if complete else ""])
            fine &= not complete
            continue
        holds = ours / theirs <= limit
        fine &= holds
        rows.append([cell(sentence), f"{ours / theirs:.3f}", f"{limit:.2f}", "yes" if holds else "**no**"])
    return table(["ratio", "measured", "wanted at most", "holds"], rows), fine


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--docs", type=pathlib.Path)
    options.add_argument("--check", action="store_true", help="fail when a wanted ratio does not hold")
    options.add_argument("--complete", action="store_true", help="one that was not measured does not hold")
    args = options.parse_args()
    work = pathlib.Path(os.environ["WORK"])
    files = {plan: work / "results" / f"{plan}.json" for plan in PLANS}
    results = {plan: json.loads(file.read_text()) for plan, file in files.items() if file.exists()}
    (work / "results.json").write_text(json.dumps(results, indent=1) + "\n")

    by_group = groups(results)
    machines = {json.dumps([plan["machine"][key] for key in ("cpu", "cores", "kernel", "date")])
                for plan in results.values()}
    wanted, fine = wanted_table(by_group, args.complete)
    parts = ["; ".join(f"{cpu}, {cores} cores, Linux {kernel}, {date}"
                       for cpu, cores, kernel, date in map(json.loads, sorted(machines))) + ".", wanted]
    for group, cases in by_group.items():
        rounds = max(len(case["rounds"]) for case in cases)
        how = f"median of {rounds}" if rounds > 1 else "measured once"
        parts.append(f"### {group}\n\n{how.capitalize()}; memory is the largest process.\n\n{group_table(cases)}")
    text = "\n\n".join(parts)
    print(text)
    if args.docs:
        page = args.docs.read_text()
        marked = re.compile(r"(?<=<!-- bench:begin -->\n).*(?=<!-- bench:end -->)", re.S)
        args.docs.write_text(marked.sub(lambda _: text + "\n", page))
    return 1 if args.check and not fine else 0


if __name__ == "__main__":
    sys.exit(main())
