#!/usr/bin/env python3
"""Gives a state dir with templates to another user: ids.py STATE FROM TO, as root.

A template's files are owned by the ids its emulator gives to sandboxes (emulator/idmap.h): root has a range of its
own, a user the one in /etc/subuid, and without that there is one id for all. What other than templates is in the
state dir is removed.
"""

import os
import pwd
import shutil
import stat
import sys

ROOT_RANGE = 0x71000000


def ids(user: str) -> tuple[int, int | None]:
    """The host's id of the emulator itself, and of its sandboxes' id 0 (None: the same)."""
    if user == "root":
        return ROOT_RANGE, ROOT_RANGE + 1
    with open("/etc/subuid", encoding="ascii") as lines:
        for line in lines:
            name, first, count = line.strip().split(":")
            if name == user and int(count) >= 65536:
                return pwd.getpwnam(user).pw_uid, int(first)
    return pwd.getpwnam(user).pw_uid, None


def main(state: str, before: str, after: str) -> None:
    own, first = ids(before)
    new_own, new_first = ids(after)

    def mapped(number: int) -> int:
        if number in (0, own) or new_first is None:  # 0: a folder that tar made
            return new_own
        assert first is not None and first <= number < first + 65536, number
        return number - first + new_first

    given = set()  # a file of many names once only

    def give(path: str) -> None:
        was = os.lstat(path)
        if was.st_ino in given:
            return
        given.add(was.st_ino)
        os.lchown(path, mapped(was.st_uid), mapped(was.st_gid))
        if was.st_mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(was.st_mode):
            os.chmod(path, stat.S_IMODE(was.st_mode))  # chown takes these away

    for folder, keep in ((state, {"orkestr-state", "templates", "disk"}), (os.path.join(state, "disk"), {"l"})):
        for name in set(os.listdir(folder)) - keep:
            path = os.path.join(folder, name)
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    give(state)
    for folder, folders, files in os.walk(state):
        for name in (*folders, *files):
            give(os.path.join(folder, name))


main(*sys.argv[1:])
