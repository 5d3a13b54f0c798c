#!/usr/bin/python3
"""Puts the figures of a `make bench` run into the README, between its two markers.

    figures.py [build/bench.json]
"""
import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BEGIN, END = "<!-- figures: tests/bench/figures.py -->", "<!-- end of figures -->"
ROWS = [
    ("create_exec", "create + first exec of `/bin/true`"),
    ("cold_create_exec", "the same with `--warm 0`"),
    ("create", "create"),
    ("create_restricted", "create with `network: restricted`"),
    ("warm_exec", "exec of `/bin/true` in a running sandbox"),
    ("terminate", "terminate"),
    ("ready", "`serve`: start to ready"),
    ("net_setup_relayed", "connect and first byte, from a `restricted` sandbox"),
    ("net_setup_direct", "the same on the host"),
    ("net_256mib_relayed", "256 MiB in one stream, into a `restricted` sandbox"),
    ("net_256mib_direct", "the same on the host"),
    ("net_dns_cached", "DNS answer from the cache"),
    ("net_denial", "a connection that is refused"),
    ("spawn", "fork + exec of `/bin/true` on the host"),
    ("floor", "clone3 + overlay + pivot_root + exec, nothing else"),
    ("bwrap", "`bwrap --unshare-all` of `/bin/true`"),
    ("runc", "`runc run` of `/bin/true`"),
]


def section(run):
    yield f"{run['cores']} cores, Linux {run['kernel'].split('-')[0]}, {run['rounds']} interleaved rounds, template `{run['template']}`:"
    yield ""
    yield "| | p50, ms | p95, ms |"
    yield "|---|---|---|"
    for key, name in ROWS:
        row = run["series"][key]
        if "p50_us" in row:
            yield f"| {name} | {row['p50_us'] / 1000:.2f} | {row['p95_us'] / 1000:.2f} |"
        else:
            yield f"| {name} | not run here: {row['not_run']} | |"
    memory = run["memory"]
    yield ""
    yield (f"With {memory['sandboxes']} sandboxes alive or half made: daemon {memory['daemon_rss_kib'] / 1024:.1f} MB RSS, "
           f"keeper {memory['keeper_rss_kib'] / 1024:.1f} MB, each init {memory['init_pss_mean_kib']:.0f} KiB PSS.")
    yield ""
    yield "| figure | value | target | |"
    yield "|---|---|---|---|"
    for f in run["figures"]:
        value = "-" if f["value"] is None else f"{f['value']:.2f} {f['unit']}"
        limit = "" if f["limit"] is None else f"{'>=' if f['at_least'] else '<='} {f['limit']:g} {f['unit']}"
        name = f["name"].replace("|", "\\|")
        yield f"| {name} | {value} | {limit} | {f['verdict']} |"


def main():
    with open(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "bench.json"), encoding="utf-8") as f:
        text = "\n".join(section(json.load(f)))
    path = os.path.join(ROOT, "README.md")
    with open(path, encoding="utf-8") as f:
        readme = f.read()
    new, found = re.subn(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: f"{BEGIN}\n{text}\n{END}", readme, flags=re.S)
    if found != 1:
        sys.exit("figures: the README has no place for them")
    with open(path, "w", encoding="utf-8") as f:
        f.write(new)


if __name__ == "__main__":
    main()
