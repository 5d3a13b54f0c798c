"""Directories as tar archives, up and down; archives that mean harm."""

import gzip
import http.client
import io
import os
import shutil
import subprocess
import tarfile
import threading
import time

import pytest

from harness import proc
from harness.stream import settle
from harness.wire import check_error, check_invalid

TAR = {"Accept": "application/x-tar"}
TAR_TYPE = {"Content-Type": "application/x-tar"}


def entry(name, data=b"", *, kind=tarfile.REGTYPE, mode=0o644, link="", pax=None, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else mode
    info.size = len(data)
    info.linkname = link
    info.pax_headers = pax or {}
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(*entries, form=tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def folder(name, **fields):
    return entry(name, kind=tarfile.DIRTYPE, **fields)


def symlink(name, target):
    return entry(name, kind=tarfile.SYMTYPE, link=target)


def hardlink(name, target):
    return entry(name, kind=tarfile.LNKTYPE, link=target)


def upload(api, sandbox, path, data, method="PUT", **query):
    return api.files(method, sandbox, path, raw=data, headers=TAR_TYPE, query=query)


def download(api, sandbox, path) -> bytes:
    answer = api.files("GET", sandbox, path, headers=TAR)
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/x-tar"
    return answer.body


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        return {member.name: member for member in tar}


def no_leftovers(api, sandbox, path):
    left = api.sh(sandbox, ["find", path, "-name", ".orkestr-*"]) if has_find(api, sandbox) else ""
    listed = api.files("GET", sandbox, path)
    assert listed.status == 200 and ".orkestr-" not in listed.body.decode() + left


def has_find(api, sandbox) -> bool:
    return api.exec(sandbox, ["sh", "-c", "command -v find"])["exit_code"] == 0


# --- up -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_directory_goes_up(api, sandbox, method):
    data = archive(
        folder("d"), entry("d/a.txt", b"hello\n", mtime=1234567890), entry("d/run", b"#!/bin/sh\n", mode=0o4755),
        symlink("d/l", "a.txt"), hardlink("d/h", "d/a.txt"), entry("d/p", kind=tarfile.FIFOTYPE, mode=0o600),
        entry("x/y/z", b"deep", uid=1234, gid=5678, uname="me", gname="us"), entry("e", b""),
    )  # fmt: skip
    answer = upload(api, sandbox, "/workspace/new/folder", data, method)
    assert answer.status == 200, answer
    assert answer.json == {"path": "/workspace/new/folder", "is_dir": True, "entries_written": 8, "size": 20, "devices_skipped": 0}
    assert api.sh(sandbox, "cd new/folder; cat d/l d/h x/y/z; stat -c '%a %u %g %h %Y %F' d/a.txt; stat -c '%a %F' d/run d/p x/y e d; readlink d/l") == (
        "hello\nhello\ndeep" "644 0 0 2 1234567890 regular file\n"
        "4755 regular file\n600 fifo\n755 directory\n644 regular empty file\n755 directory\na.txt\n"
    )  # fmt: skip
    assert api.sh(sandbox, "stat -c '%u %g' new/folder new/folder/x new/folder/x/y/z") == "0 0\n" * 3


def test_compressed_archives_are_recognised(api, sandbox):
    plain = archive(entry("f", b"data" * 10000))
    zstd = shutil.which("zstd")
    kinds = {"gzip": gzip.compress(plain)}
    if zstd:
        kinds["zstd"] = subprocess.run([zstd, "-q", "-c"], input=plain, capture_output=True, check=True).stdout
    for kind, data in kinds.items():
        assert upload(api, sandbox, f"/tmp/{kind}", data).status == 200
        assert api.sh(sandbox, f"wc -c < /tmp/{kind}/f").strip() == "40000"


def test_an_empty_archive_makes_the_directory(api, sandbox):
    answer = upload(api, sandbox, "/tmp/none", archive())
    assert (answer.status, answer.json["entries_written"]) == (200, 0)
    assert api.sh(sandbox, "ls -A /tmp/none") == ""


NAMES = ["with space", "new\nline", "täg-日本", "-dash", "'quote\"", "tab\t", "x" * 255, "\udcff\udcfe", "*?[", ".hidden", ".wh.ghost"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_names_of_every_kind_go_round(api, sandbox, form):
    if form == tarfile.PAX_FORMAT:
        entries = [entry(name, b"x") for name in NAMES if not name.startswith("\udcff")]
    else:
        entries = [entry(name, b"x") for name in NAMES]
    assert upload(api, sandbox, "/tmp/names", archive(*entries, form=form)).json["entries_written"] == len(entries)
    back = members(download(api, sandbox, "/tmp/names"))
    assert set(back) == {info.name for info, _ in entries}


def test_what_is_there_is_replaced_or_kept(api, sandbox):
    """A file, a symlink and an empty folder give way to a file; a folder keeps its mode and what is in it."""
    api.sh(sandbox, "mkdir -p t/kept t/gone; echo old > t/file; echo target > t/target; ln -s target t/link; chmod 711 t/kept; echo in > t/kept/in; ln -s kept t/kl")
    data = archive(
        folder("kept", mode=0o700), entry("kept/new", b"new"), entry("file", b"new"), entry("link", b"new"),
        entry("gone", b"new"), folder("kl"),
    )  # fmt: skip
    answer = upload(api, sandbox, "/workspace/t", data)
    assert answer.status == 200, answer
    assert api.sh(sandbox, "cd t; cat file link gone kept/new target kept/in; stat -c '%a' kept; stat -c %F link kl") == (
        "new" * 4 + "target\nin\n711\nregular file\ndirectory\n"
    )


def test_unpacking_twice_is_the_same_as_once(api, sandbox):
    data = archive(folder("d"), entry("d/a", b"1"), hardlink("d/b", "d/a"), symlink("d/c", "a"), entry("d/p", kind=tarfile.FIFOTYPE))
    for _ in range(2):
        assert upload(api, sandbox, "/tmp/twice", data).json["entries_written"] == 5
    assert api.sh(sandbox, "ls -A /tmp/twice/d; stat -c %h /tmp/twice/d/a") == "a\nb\nc\np\n2\n"


def test_a_template_file_is_replaced_and_a_removed_one_comes_back(api, sandbox):
    """Over a lower layer's file, over a whiteout, and into a folder that was removed and made again."""
    api.sh(sandbox, "rm /etc/group; rm -r /home; mkdir /home; rm /usr/bin/yes")
    data = archive(entry("etc/passwd", b"mine\n"), entry("etc/group", b"back\n"), entry("home/f", b"f"), entry("usr/bin/yes", b"#!/bin/sh\necho y\n", mode=0o755))
    answer = upload(api, sandbox, "/", data)
    assert answer.status == 200, answer
    assert api.sh(sandbox, "cat /etc/passwd /etc/group /home/f; yes; ls -A /home") == "mine\nback\nfy\nf\n"


def test_a_target_that_is_no_directory(api, sandbox):
    api.put_file(sandbox, "/tmp/file", b"x")
    check_error(upload(api, sandbox, "/tmp/file", archive(entry("a", b"x"))), 400, "not_a_directory")
    check_error(upload(api, sandbox, "/tmp/file/below", archive(entry("a", b"x"))), 400, "not_a_directory")
    check_error(upload(api, sandbox, "/proc", archive(entry("a", b"x"))), 400, "path_invalid")
    check_error(upload(api, sandbox, "relative", archive(entry("a", b"x"))), 400, "path_invalid")
    check_error(upload(api, "sbx_none", "/tmp", archive(entry("a", b"x"))), 404, "sandbox_not_found")
    missing = api.request("PUT", f"/v1/sandboxes/{sandbox}/files", raw=archive(), headers=TAR_TYPE)
    check_invalid(missing, "path", "query")


def test_chunked_and_slow(api, sandbox, emulator):
    data = archive(*[entry(f"f{i}", os.urandom(20000)) for i in range(50)])

    def pieces():
        for i in range(0, len(data), 65536):
            time.sleep(0.01)
            yield data[i : i + 65536]

    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=30)
    connection.request(
        "PUT", f"/v1/sandboxes/{sandbox}/files?path=/tmp/slow", body=pieces(),
        headers={"Authorization": f"Bearer {api.key}", "Transfer-Encoding": "chunked", **TAR_TYPE}, encode_chunked=True,
    )  # fmt: skip
    assert connection.getresponse().status == 200
    connection.close()
    assert api.sh(sandbox, "ls /tmp/slow | wc -l").strip() == "50"


# --- archives that mean harm ------------------------------------------------------------------------

HOSTILE = {
    "absolute": ([entry("ok", b"1"), entry("/etc/evil", b"x")], "absolute"),
    "dotdot": ([entry("ok", b"1"), entry("../evil", b"x")], '".."'),
    "dotdot inside": ([entry("ok", b"1"), entry("d/../../evil", b"x")], '".."'),
    "through a symlink": ([entry("ok", b"1"), symlink("l", "/etc"), entry("l/evil", b"x")], "symlink"),
    "through a relative symlink": ([entry("ok", b"1"), symlink("l", ".."), entry("l/evil", b"x")], "symlink"),
    "through a symlink in the middle": ([entry("ok", b"1"), folder("d"), symlink("d/l", "../.."), entry("d/l/a/evil", b"x")], "symlink"),
    "a hardlink out": ([entry("ok", b"1"), hardlink("h", "../outside")], '".."'),
    "an absolute hardlink": ([entry("ok", b"1"), hardlink("h", "/etc/passwd")], "absolute"),
    "a hardlink through a symlink": ([entry("ok", b"1"), symlink("l", "/etc"), hardlink("h", "l/passwd")], "hardlink"),
    "a hardlink to nothing": ([entry("ok", b"1"), hardlink("h", "nothing")], "hardlink"),
    "a file for a full folder": ([entry("ok", b"1"), folder("d"), entry("d/in", b"x"), entry("d", b"x")], "not empty"),
    "a symlink for a full folder": ([entry("ok", b"1"), folder("d"), entry("d/in", b"x"), symlink("d", "/etc")], "not empty"),
    "below a file": ([entry("ok", b"1"), entry("f", b"x"), entry("f/evil", b"x")], "no folder"),
    "a long path": ([entry("ok", b"1"), entry("/".join(["x" * 100] * 60), b"x")], "too long"),
    "a long name": ([entry("ok", b"1"), entry("x" * 300, b"x")], "too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(api, sandbox, case):
    entries, why = HOSTILE[case]
    api.sh(sandbox, "mkdir -p /tmp/a/target; echo outside > /tmp/a/outside; cksum /etc/passwd > /tmp/sum 2>/dev/null; true")
    answer = upload(api, sandbox, "/tmp/a/target", archive(*entries))
    body = check_error(answer, 400, "archive_invalid")
    assert why in body["detail"], body
    assert body["entries_written"] >= 1
    assert api.sh(sandbox, "cat /tmp/a/target/ok /tmp/a/outside; ls -A /tmp/a; ls /etc/evil /evil /tmp/evil 2>/dev/null; true") == "1outside\noutside\ntarget\n"
    no_leftovers(api, sandbox, "/tmp/a/target")


def test_a_symlink_that_is_there_is_no_way_through(api, sandbox):
    api.sh(sandbox, "mkdir t; ln -s /etc t/l")
    check_error(upload(api, sandbox, "/workspace/t", archive(entry("l/evil", b"x"))), 400, "archive_invalid")
    assert api.exec(sandbox, "ls /etc/evil")["exit_code"] != 0


def test_a_symlink_then_a_file_of_its_name(api, sandbox):
    """The second entry replaces the link and does not write through it."""
    api.sh(sandbox, "mkdir /tmp/t; echo safe > /tmp/victim")
    data = archive(symlink("x", "/tmp/victim"), entry("x", b"new"), hardlink("y", "x"), entry("y", b"other"))
    assert upload(api, sandbox, "/tmp/t", data).status == 200
    assert api.sh(sandbox, "cat /tmp/victim /tmp/t/x /tmp/t/y") == "safe\nnewother"


def test_duplicate_entries_the_last_one_counts(api, sandbox):
    data = archive(entry("f", b"one"), entry("f", b"two"), folder("d"), folder("d"), symlink("s", "f"), symlink("s", "d"))
    assert upload(api, sandbox, "/tmp/dup", data).json["entries_written"] == 6
    assert api.sh(sandbox, "cd /tmp/dup; cat f; readlink s") == "twod\n"


def test_devices_are_skipped_and_counted(api, sandbox):
    data = archive(
        entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3), entry("disk", kind=tarfile.BLKTYPE, devmajor=8, devminor=0),
        entry("f", b"x"),
    )  # fmt: skip
    answer = upload(api, sandbox, "/tmp/dev", data)
    assert (answer.status, answer.json["devices_skipped"], answer.json["entries_written"]) == (200, 2, 1)
    assert api.sh(sandbox, "ls -A /tmp/dev") == "f\n"


def test_a_folder_with_no_permissions_can_be_filled(api, sandbox):
    info, data = folder("d")
    info.mode = 0
    assert upload(api, sandbox, "/tmp/m", archive((info, data), entry("d/f", b"x"))).status == 200
    assert api.sh(sandbox, "stat -c %a /tmp/m/d; cat /tmp/m/d/f") == "0\nx"


def test_the_root_entry_changes_nothing(api, sandbox):
    before = api.sh(sandbox, "stat -c '%a %u' /tmp")
    info, data = folder("./")
    info.mode = 0o700
    info.uid = 1000
    assert upload(api, sandbox, "/tmp", archive((info, data), entry("./f", b"x"))).status == 200
    assert api.sh(sandbox, "stat -c '%a %u' /tmp; cat /tmp/f") == before + "x"


def test_a_mount_point_stays(api, sandbox):
    """What is mounted in the sandbox is not entered, replaced or (seen from outside) detached."""
    mounts = api.sh(sandbox, "cat /proc/mounts")
    for data in (archive(entry("dev/null", b"x")), archive(entry("proc", b"x")), archive(symlink("dev", "/tmp")), archive(entry("dev/shm/x", b"x"))):
        check_error(upload(api, sandbox, "/", data), 400, "archive_invalid")
    assert upload(api, sandbox, "/dev/shm", archive(entry("x", b"x"))).status == 200  # as the target, it is fine
    assert api.sh(sandbox, "cat /proc/mounts") == mounts


BROKEN = {
    "nothing": b"", "no tar": b"hello world" * 1000, "half a header": archive(entry("f", b"x"))[:300],
    "half a gzip": gzip.compress(archive(entry("f", os.urandom(100000))))[:5000],
    "a zip": b"PK\x03\x04" + b"\0" * 2000, "json": b'{"path": "/tmp/x"}',
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_archives(api, sandbox, case):
    body = check_error(upload(api, sandbox, "/tmp/b", BROKEN[case]), 400, "archive_invalid")
    assert body["entries_written"] == 0
    assert api.sh(sandbox, "ls -A /tmp/b") == ""


def test_an_archive_cut_in_a_file_leaves_no_part_of_it(api, sandbox):
    data = archive(entry("whole", b"w" * 1000), entry("cut", b"c" * 100000))
    body = check_error(upload(api, sandbox, "/tmp/cut", data[:50000]), 400, "archive_invalid")
    assert body["entries_written"] == 1
    assert api.sh(sandbox, "ls -A /tmp/cut") == "whole\n"


def test_a_name_with_nul_ends_there(api, sandbox):
    """No file system has such names; the pax record's other half is never seen."""
    data = archive(entry("placeholder", b"x", pax={"path": "a\0/../../evil"}))
    answer = upload(api, sandbox, "/tmp/nul", data)
    listed = api.sh(sandbox, "ls -A /tmp/nul /tmp").split()
    assert "evil" not in listed
    assert answer.status in (200, 400)


def test_limits_of_bytes_and_entries(api, sandbox):
    many = archive(*[entry(f"f{i}", b"") for i in range(20)])
    body = check_error(upload(api, sandbox, "/tmp/l1", many, max_entries=10), 413, "archive_too_large")
    assert body["entries_written"] == 10
    bomb = gzip.compress(archive(entry("zeros", bytes(50 << 20))))
    assert len(bomb) < 100_000
    check_error(upload(api, sandbox, "/tmp/l2", bomb, max_bytes=10 << 20), 413, "archive_too_large")
    assert api.sh(sandbox, "ls -A /tmp/l2") == ""
    for query in ({"max_entries": 0}, {"max_entries": 10**9}, {"max_bytes": "x"}):
        check_invalid(upload(api, sandbox, "/tmp/l3", many, **query), next(iter(query)), "query")


def test_a_sparse_giant_is_refused_by_its_size(api, sandbox):
    """1 TB that is all hole: GNU's sparse format in pax."""
    data = archive(entry("giant", b"0\n1\n0\n".ljust(512, b"\0"), pax={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "giant", "GNU.sparse.realsize": str(1 << 40)}))  # fmt: skip
    check_error(upload(api, sandbox, "/tmp/sp", data), 413, "archive_too_large")
    assert api.sh(sandbox, "ls -A /tmp/sp") == ""


def test_a_bomb_costs_the_daemon_no_memory(api, sandbox, emulator):
    before = emulator.daemon_rss_kb()
    bomb = gzip.compress(archive(entry("zeros", bytes(100 << 20))))
    assert upload(api, sandbox, "/tmp/bomb", bomb).status == 200
    assert emulator.daemon_rss_kb() - before < 8 * 1024


def test_a_sandbox_that_ends_ends_its_archives(api, emulator, run_in_background):
    sandbox = api.create()["id"]
    go = threading.Event()

    def endless():
        for i in range(25):
            yield archive(entry(f"f{i}", b"x" * 1000))[:1536]  # a header and two blocks, no end mark
            go.set()
            time.sleep(0.1)

    def send():
        connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=30)
        connection.request(
            "PUT", f"/v1/sandboxes/{sandbox}/files?path=/tmp/x", body=endless(),
            headers={"Authorization": f"Bearer {api.key}", "Transfer-Encoding": "chunked", **TAR_TYPE}, encode_chunked=True,
        )  # fmt: skip
        answer = connection.getresponse()
        return answer.status, answer.read()

    sent = run_in_background(send)
    assert go.wait(10)
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    status, body = sent.result(30)
    assert status == 409, body


def test_the_race_for_a_folder(api, sandbox):
    """A process swaps the folder we unpack into, and one below it, for symlinks and back."""
    api.sh(sandbox, "mkdir -p /tmp/r/d /tmp/r/victim; ln -s /tmp/r/victim /tmp/r/link; mkdir /tmp/r/d/sub")
    api.exec(sandbox, "nohup /bin/sh -c 'cd /tmp/r/d; while :; do mv sub s2; ln -s /tmp/r/victim sub; rm sub; mv s2 sub; done' > /dev/null 2>&1 &")
    data = archive(*[entry(f"sub/f{i}", b"x") for i in range(200)])
    seen = set()
    for _ in range(30):
        answer = upload(api, sandbox, "/tmp/r/d", data)
        seen.add(answer.status)
        assert answer.status in (200, 400, 404), answer
    assert api.sh(sandbox, "ls -A /tmp/r/victim") == ""


# --- down -----------------------------------------------------------------------------------------


def test_a_directory_comes_down(api, sandbox, many_ids):
    api.sh(
        sandbox,
        "mkdir -p /tmp/d/b /tmp/d/a; cd /tmp/d; echo hi > b/f; chmod 4711 b/f; ln -s ../nowhere b/l; ln b/f b/h; mkfifo p; "
        "touch -d @1234567890.123456789 a; : > e; chown 12:34 e; chmod 1777 b",
    )
    data = download(api, sandbox, "/tmp/d")
    assert data == download(api, sandbox, "/tmp/d/"), "the same tree, the same bytes"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        order = tar.getnames()
        assert order == ["a", "b", "b/f", "b/h", "b/l", "e", "p"]
        a, b, f, h, link, e, p = tar.getmembers()
        assert (a.isdir(), a.mode, float(a.mtime)) == (True, 0o755, pytest.approx(1234567890.123456789))
        assert b.mode == 0o1777
        assert (f.isreg(), f.mode, tar.extractfile(f).read()) == (True, 0o4711, b"hi\n")
        assert (h.islnk(), h.linkname) == (True, "b/f")
        assert (link.issym(), link.linkname) == (True, "../nowhere")
        assert (e.size, e.uid, e.gid, e.uname) == (0, 12, 34, "")
        assert p.isfifo()


def test_gnu_tar_reads_it(api, sandbox):
    api.sh(sandbox, "mkdir -p '/tmp/g/日本/d d'; echo 1 > '/tmp/g/日本/d d/f'; head -c 300000 /dev/zero > /tmp/g/z")
    done = subprocess.run(["tar", "-tvf", "-"], input=download(api, sandbox, "/tmp/g"), capture_output=True, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]})
    assert done.returncode == 0 and done.stderr == b"", done
    assert "日本/d d/f" in done.stdout.decode()


def test_a_round_trip_is_the_same_tree(api, sandbox):
    api.sh(sandbox, "mkdir -p /tmp/o/x; cd /tmp/o; for i in 1 2 3; do head -c $((i*100000)) /dev/urandom > x/$i; done; ln x/1 one; ln -s x/2 two; mkfifo q; chmod 640 x/3")
    data = download(api, sandbox, "/tmp/o")
    assert upload(api, sandbox, "/tmp/copy", data).status == 200
    assert download(api, sandbox, "/tmp/copy") == data


def test_an_empty_directory_comes_down(api, sandbox):
    api.sh(sandbox, "mkdir /tmp/e")
    assert members(download(api, sandbox, "/tmp/e")) == {}


def test_the_root_without_what_is_mounted(api, sandbox):
    found = members(download(api, sandbox, "/"))
    assert found["proc"].isdir() and found["dev"].isdir() and "etc/passwd" in found
    assert not [name for name in found if name.startswith(("proc/", "sys/", "dev/"))]


def test_what_is_no_directory(api, sandbox):
    api.put_file(sandbox, "/tmp/f", b"x")
    check_error(api.files("GET", sandbox, "/tmp/f", headers=TAR), 400, "not_a_directory")
    check_error(api.files("GET", sandbox, "/tmp/none", headers=TAR), 404, "file_not_found")
    check_error(api.files("GET", sandbox, "/proc/1", headers=TAR), 400, "path_invalid")


def test_deep_and_wide(api, sandbox):
    api.sh(sandbox, 'i=0; mkdir /tmp/deep; cd /tmp/deep; while [ $i -lt 300 ]; do mkdir dddddddddd; cd dddddddddd; i=$((i+1)); done; echo x > end')
    api.sh(sandbox, "mkdir /tmp/wide; cd /tmp/wide; seq 3000 | while read i; do : > $i; done", timeout_seconds=60)
    deep = members(download(api, sandbox, "/tmp/deep"))
    assert len(deep) == 301 and "/".join(["dddddddddd"] * 300 + ["end"]) in deep
    wide = list(members(download(api, sandbox, "/tmp/wide")))
    assert len(wide) == 3000 and wide == sorted(wide)


def test_a_download_that_nobody_reads_ends_with_its_reader(api, sandbox, emulator):
    """The worker waits for the reader, holds little, and goes when it does."""
    api.sh(sandbox, "mkdir /tmp/big; truncate -s 3G /tmp/big/hole")
    before, family = emulator.daemon_rss_kb(), emulator.family()
    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=30)
    connection.request("GET", f"/v1/sandboxes/{sandbox}/files?path=/tmp/big", headers={"Authorization": f"Bearer {api.key}", **TAR})
    response = connection.getresponse()
    assert response.status == 200
    response.read(1 << 20)
    time.sleep(0.5)
    assert emulator.daemon_rss_kb() - before < 8 * 1024
    assert emulator.family() > family, "a worker"
    response.close()
    connection.close()
    deadline = time.monotonic() + 5
    while emulator.family() > family and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not emulator.family() > family, "the worker is still there"


def workers(emulator) -> set[int]:
    """The daemon's own children. The keeper's come and go by themselves: its warm pool fills up again."""
    return {pid for pid, (parent, _) in proc.table().items() if parent == emulator.daemon_pid}


def test_an_upload_that_breaks_off_leaves_whole_files_only(api, sandbox, emulator):
    import socket

    data = archive(entry("whole", b"w" * 1000), entry("part", b"p" * 1000000))
    family = workers(emulator)
    with socket.create_connection(("127.0.0.1", emulator.port)) as sock:
        sock.sendall(
            f"PUT /v1/sandboxes/{sandbox}/files?path=/tmp/off HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            f"Content-Type: application/x-tar\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:300000]
        )
        settle(lambda: "whole" in api.sh(sandbox, "ls -A /tmp/off 2>/dev/null; true"))
    settle(lambda: not workers(emulator) > family)
    assert api.sh(sandbox, "ls -A /tmp/off") == "whole\n"


def test_scopes(emulator, new_emulator):
    reader, writer = "ork_reader_only_key_1", "ork_writer_only_key_1"
    own = new_emulator("--api-key", f"{reader}:team:read", "--api-key", f"{writer}:team:read,write", warm=None)
    sandbox = own.api(writer).create()["id"]
    assert own.api(writer).files("PUT", sandbox, "/tmp/x", raw=archive(entry("f", b"x")), headers=TAR_TYPE).status == 200
    check_error(own.api(reader).files("PUT", sandbox, "/tmp/x", raw=archive(), headers=TAR_TYPE), 403, "insufficient_scope")


def test_many_at_once(api, sandbox, run_in_background):
    data = archive(*[entry(f"f{i}", os.urandom(1000)) for i in range(20)])
    answers = [run_in_background(upload, api, sandbox, f"/tmp/m{n}", data) for n in range(40)]
    assert {answer.result(60).status for answer in answers} == {200}
    assert api.sh(sandbox, "cat /tmp/m*/f19 | wc -c").strip() == "40000"
