#!/usr/bin/env python3
"""Runs the cases of a plan in turns and writes down what each took.

A plan is a folder of cases, each a folder with bash scripts: `run` (measured), `before` and `after` (not measured),
and the files `group` and `label`. In every round each case runs once, so that a change of the machine's mood hits all
of them. `after` checks the result, and may print facts as `key=number` lines (bytes of a product, peak memory of a
daemon that `run` only talked to). Exits 1 when a case failed; the others are measured all the same.

usage: measure.py PLAN OUT.json [--rounds N]
"""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

# What nginx.conf of this folder logs for a request: bytes sent, connection number.
ACCESS = re.compile(rb"^(\d+) (\d+) ")
FACT = re.compile(r"^(\w+)=(-?[0-9.]+)$", re.M)


class Failed(Exception):
    """A script of a case ended badly. The text is the end of what it said."""


def bash(script: pathlib.Path, *prefix: str) -> str:
    """Runs one script of a case; its standard output."""
    done = subprocess.run([*prefix, "bash", "-euo", "pipefail", str(script)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        raise Failed(f"{script.name}: exit {done.returncode}: {done.stdout[-600:].strip()}")
    return done.stdout


class Wire:
    """What the web server sent since this was made."""

    def __init__(self) -> None:
        self.log = pathlib.Path(os.environ["WORK"], "nginx", "access.log")
        self.start = self.log.stat().st_size if self.log.exists() else 0

    def facts(self) -> dict:
        if not self.log.exists():
            return {}
        with self.log.open("rb") as log:
            log.seek(self.start)
            lines = [match for match in map(ACCESS.match, log) if match]
        if not lines:
            return {}
        return {"wire_bytes": sum(int(m[1]) for m in lines), "requests": len(lines),
                "connections": len({m[2] for m in lines})}


def once(case: pathlib.Path, scratch: pathlib.Path) -> dict:
    """One measured run: seconds, CPU seconds, KiB of the largest process (all but the web server's and the kernel's)."""
    if (case / "before").exists():
        bash(case / "before")
    wire = Wire()
    start = time.monotonic()
    # GNU time, a small process, forks the tools: a fork of this interpreter would count as 12 MB of theirs.
    said = bash(case / "run", "/usr/bin/time", "-q", "-f", "%U %S %M", "-o", str(scratch), "--")
    wall = time.monotonic() - start
    user, system, peak = scratch.read_text().split()[-3:]
    sample = {"wall_s": wall, "cpu_s": float(user) + float(system), "peak_kib": int(peak), **wire.facts()}
    if (case / "after").exists():
        said += "\n" + bash(case / "after")
    sample.update({key: float(value) for key, value in FACT.findall(said)})
    return sample


def median(samples: list) -> dict:
    """The median of each quantity; of memory the largest, for a limit holds always or not at all."""
    keys = {key for sample in samples for key in sample}
    pick = {key: [sample[key] for sample in samples if key in sample] for key in sorted(keys)}
    return {key: max(values) if key == "peak_kib" else statistics.median(values) for key, values in pick.items()}


def machine() -> dict:
    """What the numbers depend on and nobody can compare without."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release().split("-")[0], "load": os.getloadavg()[0],
            "date": time.strftime("%Y-%m-%d")}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("plan", type=pathlib.Path)
    options.add_argument("out", type=pathlib.Path)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()

    cases = sorted(path for path in args.plan.iterdir() if path.is_dir())
    samples = {case: [] for case in cases}
    errors = {}
    at_start = machine()
    for turn in range(args.rounds):
        for case in cases:
            if case in errors:
                continue
            label = (case / "label").read_text()
            try:
                sample = once(case, args.out.with_suffix(".time"))
                samples[case].append(sample)
                said = " ".join(f"{key}={value:.6g}" for key, value in sample.items())
            except Failed as failure:
                errors[case] = said = str(failure)
            print(f"bench: {turn + 1}/{args.rounds} {label}: {said}", file=sys.stderr, flush=True)

    results = [{"group": (case / "group").read_text(), "label": (case / "label").read_text(),
                "rounds": samples[case], "median": median(samples[case]), "error": errors.get(case)} for case in cases]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".time").unlink(missing_ok=True)
    args.out.write_text(json.dumps({"machine": at_start, "cases": results}, indent=1) + "\n")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
