"""The tiny template: a shell, coreutils and little else, taken from this host's own files.

Importing it takes a fraction of a second, so a test can have an emulator and a state dir of its own.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

# Needed: the tests use these. A program that is missing on this host is an error.
PROGRAMS = """
    sh cat ls echo mkdir rmdir rm cp mv ln chmod chown touch sleep head tail wc tr cut seq yes dd stat
    id env printf true false test tee readlink realpath mknod mkfifo truncate nproc uname date df od
    md5sum sha256sum base64 sync timeout nohup basename dirname mktemp pwd tty whoami
    grep sed mount umount unshare setsid kill hostname
""".split()

LOADERS = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]

FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/os-release": 'ID=tiny\nNAME="Tiny"\nVERSION_ID="1"\nPRETTY_NAME="Tiny 1 (test image)"\n',
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

FOLDERS = {
    "usr": 0o755, "usr/bin": 0o755, "usr/lib": 0o755, "usr/lib64": 0o755, "etc": 0o755, "root": 0o700,
    "workspace": 0o755, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "run": 0o755, "home": 0o755,
    "proc": 0o755, "sys": 0o755, "dev": 0o755, "mnt": 0o755, "opt": 0o755,
}

# Where a distribution with a merged /usr keeps them; libraries are put back under their own paths.
SYMLINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}


def build(path: Path) -> Path:
    """Writes the template's archive to path (plain tar)."""
    libraries: dict[str, str] = {}
    programs: dict[str, str] = {}
    for name in PROGRAMS:
        real = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if not real:
            raise RuntimeError(f"the tiny template needs {name}, which this host does not have")
        programs[f"usr/bin/{name}"] = os.path.realpath(real)
        libraries.update(_libraries_of(os.path.realpath(real)))
    for loader in LOADERS:
        if os.path.exists(loader):
            libraries[_in_merged_usr(loader)] = os.path.realpath(loader)

    with tarfile.open(path, "w") as tar:
        for name, mode in FOLDERS.items():
            tar.addfile(_info(name, tarfile.DIRTYPE, mode))
        for name, target in SYMLINKS.items():
            info = _info(name, tarfile.SYMTYPE, 0o777)
            info.linkname = target
            tar.addfile(info)
        for folder in sorted({os.path.dirname(name) for name in libraries} - FOLDERS.keys()):
            tar.addfile(_info(folder, tarfile.DIRTYPE, 0o755))
        for name, source in sorted({**programs, **libraries}.items()):
            _add(tar, name, Path(source).read_bytes(), 0o755)
        for name, text in FILES.items():
            _add(tar, name, text.encode(), 0o644)
    return path


def _libraries_of(program: str) -> dict[str, str]:
    out = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", out, re.MULTILINE)
    return {_in_merged_usr(lib): os.path.realpath(lib) for lib in found}


def _in_merged_usr(path: str) -> str:
    path = path.lstrip("/")
    return path if path.startswith("usr/") else f"usr/{path}"


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    return info


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = _info(name, tarfile.REGTYPE, mode)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
