#!/usr/bin/python3
"""What the compiler does not check: which way includes point, banned functions, lengths, house rules.

Reads every C file git knows (or, without git, every one in the source folders). The folder arrows of the
design are restated in MAY_INCLUDE. With --structure only what a change must never break: includes, library
owners, banned functions, what the README must explain; that is part of `make test`.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ("emulator", "rootfs", "netpolicy", "api", "tests")

# api -> emulator -> {rootfs, netpolicy} -> emulator/base; emulator/cmd wires, and only tests include it.
MAY_INCLUDE = {
    "emulator/base": {"emulator/base"},
    "rootfs": {"rootfs", "emulator/base"},
    "netpolicy": {"netpolicy", "emulator/base"},
    "emulator": {"emulator", "rootfs", "netpolicy", "emulator/base"},
    "api": {"api", "emulator", "rootfs", "netpolicy", "emulator/base"},
    "emulator/cmd": {"emulator/cmd", "api", "emulator", "rootfs", "netpolicy", "emulator/base"},
    "tests": {"tests", "emulator/cmd", "api", "emulator", "rootfs", "netpolicy", "emulator/base"},
}

# A library is one module's business: header -> who may include it (a folder, or the start of a path).
OWNED_HEADERS = {
    "microhttpd.h": ("emulator/cmd/cmd_version", "api/", "tests/"),
    "sqlite3.h": ("emulator/cmd/cmd_version", "emulator/store", "tests/"),
    "archive.h": ("emulator/cmd/cmd_version", "rootfs/", "tests/"),
    "archive_entry.h": ("rootfs/", "tests/"),
    "seccomp.h": ("emulator/", "netpolicy/dialer", "netpolicy/egress_filter", "tests/"),
    "systemd/sd-bus.h": ("emulator/cgroup", "emulator/delegate", "tests/"),
    "pthread.h": (),
    "threads.h": (),
}

# Unbounded, locale-bound, or a shell or thread in disguise (libuv's pool is threads).
BANNED = set(
    """strcpy strcat strncat stpcpy sprintf vsprintf gets strtok atoi atol atoll atof alloca system popen
    tmpnam mktemp tempnam rand srand pthread_create thrd_create uv_queue_work uv_getaddrinfo
    uv_getnameinfo uv_thread_create""".split()
)

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 70
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def source_files():
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *FOLDERS],
            cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = [os.path.relpath(os.path.join(d, f), ROOT)
                  for top in FOLDERS for d, _, fs in os.walk(os.path.join(ROOT, top)) for f in fs]
    return sorted(f for f in listed if f.endswith((".c", ".h")) and os.path.isfile(os.path.join(ROOT, f)))


def folder_of(path):
    for folder in ("emulator/base", "emulator/cmd"):
        if path.startswith(folder + "/"):
            return folder
    return path.split("/", 1)[0]


def blank(match):
    """Comments and literals become spaces; lines stay where they are."""
    return re.sub(r"[^\n]", " ", match.group())


def check_includes(path, text):
    mine = folder_of(path)
    for number, line in enumerate(text.split("\n"), 1):
        m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not m:
            continue
        kind, name = m.groups()
        owners = OWNED_HEADERS.get(name)
        if owners is not None and not path.startswith(tuple(owners)):
            yield number, f"<{name}> belongs to {' '.join(owners) or 'nobody'}"
        if kind == "<":
            continue
        if not os.path.exists(os.path.join(ROOT, name)):
            yield number, f'"{name}": include paths start at the root of the tree'
            continue
        theirs = folder_of(name)
        if theirs not in MAY_INCLUDE[mine]:
            yield number, f'{mine} may not include {theirs} ("{name}")'


def check_banned(code):
    for number, line in enumerate(code.split("\n"), 1):
        for m in re.finditer(r"\b([A-Za-z_]\w*)\s*\(", line):
            if m.group(1) in BANNED:
                yield number, f"{m.group(1)}() is banned"


# What a client may meet and a reader will look up: the slugs of X-Orkestr-Divergence, and the codes of errors.
README_HAS = {
    "divergence": re.compile(r'\b(?:req|add)_divergence\(\w+(?:->\w+)*,\s*"([a-z-]+)"'),
    "error code": re.compile(r'(?:^\t\{ "([a-z_]+)", \d{3} \},$|\berr_set\(\w+, ERR_\w+, E\w+,\s*"([a-z_]+)")', re.M),
}
NO_CODES = {"string_type",  # the type of one error in a validation_error
            "idmap", "map_invalid", "not_a_state_dir", "socket_in_use", "state_dir_locked", "state_dir_owner",
            "store_damaged", "store_foreign", "snapshot_dir_owner"}  # of the command line


def check_documented(path, text, readme, what):
    if path.startswith(("tests/", "emulator/cmd/")):
        return
    for m in README_HAS[what].finditer(text):
        word = m.group(m.lastindex)
        if word not in NO_CODES and not re.search(rf"[`, ]{word}[`,]", readme):
            yield text.count("\n", 0, m.start()) + 1, f"README.md does not explain the {what} {word}"


def check_style(code):
    for number, line in enumerate(code.split("\n"), 1):
        if re.match(r"\s*typedef\s+(struct|union)\b", line):
            yield number, "no struct typedefs"
        if len(line.replace("\t", " " * 8)) > 140:
            yield number, "line far beyond 120 columns"


def check_lengths(path, code):
    lines = code.split("\n")
    if len(lines) > MAX_FILE_LINES:
        yield len(lines), f"{len(lines)} lines; over {MAX_FILE_LINES}, a file has two subjects"
    start = None
    for number, line in enumerate(lines, 1):
        if line.rstrip() == "{":
            start = number
        elif line.startswith("}") and start is not None:
            if number - start - 1 > MAX_FUNCTION_LINES and not path.startswith("tests/unit/"):
                yield start, f"function of {number - start - 1} lines (at most {MAX_FUNCTION_LINES})"
            start = None


def check(path, structure_only, readme):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    code = TOKEN.sub(blank, text)
    yield from check_includes(path, text)
    yield from check_banned(code)
    yield from check_documented(path, text, readme, "divergence")
    if structure_only:
        return
    yield from check_documented(path, text, readme, "error code")
    yield from check_style(code)
    yield from check_lengths(path, code)
    if path.endswith(".h") and "#pragma once" not in text:
        yield 1, "header without #pragma once"
    for number, line in enumerate(text.split("\n"), 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield number, "a promise left in the code"


def main():
    files = source_files()
    structure_only = sys.argv[1:] == ["--structure"]
    bad = set()
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        readme = f.read()
    for path in files:
        for number, message in check(path, structure_only, readme):
            print(f"{path}:{number}: {message}")
            bad.add(path)
    print(f"source: {len(files) - len(bad)} passed, {len(bad)} failed, 0 skipped")
    return 1 if bad or not files else 0


if __name__ == "__main__":
    sys.exit(main())
