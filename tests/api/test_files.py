"""Files from outside: written, read, listed, deleted, and never outside the sandbox."""

import base64
import hashlib
import http.client
import os
import re
import time

import pytest

from harness.wire import check_error

ENTRY = {"path", "size", "is_dir", "mode", "modified_at"}
LISTED = {"name", "path", "is_dir", "size", "mode", "modified_at", "is_symlink"}
RAW = {"Accept": "application/octet-stream"}


def write(api, sandbox, **body):
    return api.post(f"/v1/sandboxes/{sandbox}/files", body)


def read(api, sandbox, path) -> bytes:
    answer = api.files("GET", sandbox, path)
    assert answer.status == 200, answer
    assert answer.json["encoding"] == "base64"
    return base64.b64decode(answer.json["content"], validate=True)


# --- write and read -------------------------------------------------------------------------------


def test_write_answers_an_entry(api, sandbox):
    answer = write(api, sandbox, path="/workspace/a.txt", content=base64.b64encode(b"hello\n").decode(), encoding="base64")
    assert answer.status in (200, 201)
    entry = answer.json
    assert entry.keys() == ENTRY
    assert (entry["path"], entry["size"], entry["is_dir"], entry["mode"]) == ("/workspace/a.txt", 6, False, "0644")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["modified_at"])
    assert api.sh(sandbox, "cat a.txt; stat -c '%a %u %g' a.txt") == "hello\n644 0 0\n"


def test_read_answers_base64(api, sandbox):
    api.sh(sandbox, "printf 'a\\000b\\377' > /tmp/b")
    answer = api.files("GET", sandbox, "/tmp/b").json
    assert answer.keys() >= {"path", "is_dir", "size", "encoding", "content"}
    assert (answer["path"], answer["is_dir"], answer["size"], answer["encoding"]) == ("/tmp/b", False, 4, "base64")
    assert base64.b64decode(answer["content"]) == b"a\0b\xff"


SPELLINGS = [
    {"content": "aGk="}, {"content": "aGk=", "encoding": "base64"}, {"content": "aGk"}, {"content": "hi", "encoding": "utf-8"},
    {"content_b64": "aGk="}, {"content_base64": "aGk="}, {"data": "aGk="}, {"content": "aG\nk="},
]  # fmt: skip


@pytest.mark.parametrize("body", SPELLINGS, ids=str)
def test_the_spellings_of_a_write(api, sandbox, body):
    assert write(api, sandbox, path="/tmp/x", **body).status in (200, 201)
    assert read(api, sandbox, "/tmp/x") == b"hi"


@pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)) * 17, "ü✓😀\r\n".encode(), b"x" * 3_000_001], ids=len)
def test_bytes_come_back_as_they_went(api, sandbox, data):
    api.put_file(sandbox, "/tmp/data", data)
    assert read(api, sandbox, "/tmp/data") == data
    digest = api.sh(sandbox, ["sha256sum", "/tmp/data"]).split()[0]
    assert digest == hashlib.sha256(data).hexdigest()


def test_utf8_content_keeps_its_characters(api, sandbox):
    text = "ü ✓ 😀 \0 \u2028 \n"
    assert write(api, sandbox, path="/tmp/u", content=text, encoding="utf-8").status in (200, 201)
    assert read(api, sandbox, "/tmp/u").decode() == text


@pytest.mark.parametrize("mode, seen", [("0755", "755"), ("600", "600"), ("0000", "0"), ("0777", "777"), ("0444", "444")])
def test_modes(api, sandbox, mode, seen):
    answer = write(api, sandbox, path="/tmp/m", content="", mode=mode)
    assert answer.status in (200, 201)
    assert int(answer.json["mode"], 8) == int(mode, 8)
    assert api.sh(sandbox, "stat -c %a /tmp/m").strip() == seen


def test_an_overwrite_keeps_the_mode_and_replaces_the_rest(api, sandbox):
    api.put_file(sandbox, "/tmp/s.sh", b"#!/bin/sh\necho one and some more\n", "0755")
    api.put_file(sandbox, "/tmp/s.sh", b"#!/bin/sh\necho two\n")
    assert api.sh(sandbox, "/tmp/s.sh; stat -c '%a %s' /tmp/s.sh") == "two\n755 19\n"


def test_parents_are_made(api, sandbox):
    api.put_file(sandbox, "/workspace/a/b/c/d.txt", b"deep")
    assert api.sh(sandbox, "cat a/b/c/d.txt; stat -c '%a %u %F' a/b") == "deep755 0 directory\n"


def test_a_write_is_atomic(api, sandbox):
    """A reader sees the old file or the new one, whole; an open reader keeps the old."""
    api.put_file(sandbox, "/tmp/f", b"a" * 200000)
    api.exec(
        sandbox,
        "while [ ! -e /tmp/stop ]; do c=$(wc -c < /tmp/f) && d=$(tr -d ab < /tmp/f | wc -c);"
        " case $c in 200000|100000) ;; *) echo torn $c >> /tmp/torn;; esac; [ $d = 0 ] || echo bad >> /tmp/torn;"
        " done > /dev/null 2>&1 & true",
    )
    for n in range(40):
        api.put_file(sandbox, "/tmp/f", [b"b" * 100000, b"a" * 200000][n % 2])
    api.sh(sandbox, "touch /tmp/stop")
    assert api.files("GET", sandbox, "/tmp/torn").status == 404, read(api, sandbox, "/tmp/torn")
    names = [entry["name"] for entry in api.files("GET", sandbox, "/tmp").json["entries"]]
    assert sorted(names) == ["f", "stop"], "a temporary file was left"


NAMES = [
    "with space", "new\nline", "tab\tq'\"`$(id)", "ünï✓😀", "-rf", "...", "a" * 255, "back\\slash", "%2e%2e", "*?[x]",
    "a&path=b", "plus+percent%20", "\x01\x7f", "semi;colon#hash",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names(api, sandbox, name):
    path = f"/tmp/names/{name}"
    api.put_file(sandbox, path, b"x")
    assert read(api, sandbox, path) == b"x"
    entries = api.files("GET", sandbox, "/tmp/names").json["entries"]
    assert [(entry["name"], entry["path"]) for entry in entries] == [(name, path)]
    assert api.sh(sandbox, ["cat", path]) == "x"
    assert api.files("DELETE", sandbox, path).status == 204
    assert api.files("GET", sandbox, "/tmp/names").json["entries"] == []


def test_a_name_that_is_not_utf8_can_be_listed(api, sandbox):
    api.sh(sandbox, r"cd /tmp && touch $(printf 'b\377d')")
    (entry,) = api.files("GET", sandbox, "/tmp").json["entries"]
    assert entry["name"] == "b�d"


# --- paths ----------------------------------------------------------------------------------------

BAD_PATHS = ["", "relative", "relative/x", "./x", "/nul\0byte", "/" + "x/" * 3000, "/tmp/" + "n" * 256]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: repr(path[:20]))
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_bad_paths_are_refused(api, sandbox, method, path):
    if method == "POST":
        answer = write(api, sandbox, path=path, content="")
    else:
        answer = api.files(method, sandbox, path)
    assert answer.status in (400, 422), answer
    assert answer.code in ("path_invalid", "validation_error")


def test_a_path_is_asked_for(api, sandbox):
    answer = api.get(f"/v1/sandboxes/{sandbox}/files")
    assert answer.status in (400, 422), answer


@pytest.mark.parametrize("path", ["/no/such", "/tmp/no-such", "/etc/passwd/x", "/no/such/"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_missing_files(api, sandbox, method, path):
    answer = api.files(method, sandbox, path)
    if "passwd" in path and answer.status == 400:
        check_error(answer, 400, "not_a_directory")
    else:
        check_error(answer, 404, "file_not_found")


def test_a_directory_is_no_file_to_write(api, sandbox):
    for path in ("/tmp", "/", "/workspace/", "/tmp/.", "/tmp/.."):
        answer = write(api, sandbox, path=path, content="")
        assert answer.status == 400, (path, answer)
        assert answer.code in ("is_a_directory", "path_invalid"), (path, answer)


def test_a_file_is_no_parent(api, sandbox):
    answer = write(api, sandbox, path="/etc/passwd/x", content="")
    check_error(answer, 400, "not_a_directory")


# --- list and delete ------------------------------------------------------------------------------


def test_list(api, sandbox):
    api.sh(sandbox, "mkdir -p d/sub; printf 12345 > d/file; chmod 640 d/file; ln -s file d/link; ln -s nowhere d/dangling")
    answer = api.files("GET", sandbox, "/workspace/d").json
    assert (answer["path"], answer["is_dir"]) == ("/workspace/d", True)
    entries = {entry["name"]: entry for entry in answer["entries"]}
    assert list(entries) == sorted(entries) == ["dangling", "file", "link", "sub"]
    assert all(entry.keys() == LISTED for entry in entries.values())
    assert (entries["file"]["size"], entries["file"]["mode"], entries["file"]["is_dir"]) == (5, "0640", False)
    assert (entries["sub"]["is_dir"], entries["sub"]["is_symlink"]) == (True, False)
    assert entries["link"]["is_symlink"] and entries["dangling"]["is_symlink"]
    assert not entries["file"]["is_symlink"]
    assert entries["sub"]["path"] == "/workspace/d/sub"


def test_list_root_and_many_entries(api, sandbox):
    names = [entry["name"] for entry in api.files("GET", sandbox, "/").json["entries"]]
    assert {"bin", "etc", "proc", "tmp", "usr", "workspace"} <= set(names)
    api.sh(sandbox, "mkdir many && cd many && seq 3000 | while read n; do : > f$n; done")
    entries = api.files("GET", sandbox, "/workspace/many").json["entries"]
    assert [entry["name"] for entry in entries] == sorted(f"f{n}" for n in range(1, 3001))


def test_delete(api, sandbox):
    api.sh(sandbox, "mkdir -p d/e/f; touch d/x; ln -s /etc/passwd d/link; mkdir empty")
    assert api.files("DELETE", sandbox, "/workspace/d/link").status == 204
    assert api.sh(sandbox, "wc -l < /etc/passwd").strip() != "0", "the symlink's target is not deleted"
    answer = api.files("DELETE", sandbox, "/workspace/d")
    assert answer.status in (400, 409), answer
    assert answer.code in ("directory_not_empty", "is_a_directory")
    assert api.sh(sandbox, "ls d") == "e\nx\n"
    assert api.files("DELETE", sandbox, "/workspace/d", query={"recursive": "true"}).status == 204
    check_error(api.files("GET", sandbox, "/workspace/d"), 404, "file_not_found")
    check_error(api.files("DELETE", sandbox, "/workspace/d"), 404, "file_not_found")


def test_recursive_delete_has_no_depth_limit(api, sandbox):
    api.sh(sandbox, "i=0; while [ $i -lt 600 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; touch bottom")
    assert api.files("DELETE", sandbox, "/workspace/d", query={"recursive": "true"}, timeout=120).status == 204
    assert api.sh(sandbox, "ls /workspace") == ""


def test_recursive_delete_does_not_follow_symlinks(api, sandbox):
    api.sh(sandbox, "mkdir d keep; touch keep/me; ln -s ../keep d/link; ln -s / d/root")
    assert api.files("DELETE", sandbox, "/workspace/d", query={"recursive": "true"}).status == 204
    assert api.sh(sandbox, "ls keep /etc/passwd") == "/etc/passwd\n\nkeep:\nme\n"


@pytest.mark.parametrize("path", ["/", "//", "/..", "/tmp/../.."])
def test_the_root_is_not_deleted(api, sandbox, path):
    answer = api.files("DELETE", sandbox, path, query={"recursive": "true"})
    assert 400 <= answer.status < 500, answer
    assert api.sh(sandbox, "cat /etc/hostname > /dev/null; echo here") == "here\n"


# --- never outside --------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    """A file on the host that nothing in a sandbox may read, change or remove."""
    tmp_path.chmod(0o777)
    secret = tmp_path / "secret"
    secret.write_text("host secret")
    secret.chmod(0o666)
    for folder in list(tmp_path.parents)[:3]:
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    yield secret
    assert secret.read_text() == "host secret"
    assert os.listdir(tmp_path) == ["secret"]


DOTS = ["/..{}", "/../../../../../..{}", "/tmp/../..{}", "/proc/self/root{}", "/proc/1/root{}", "/proc/1/cwd{}", "//..//..{}", "/dev/fd/../../../..{}"]


@pytest.mark.parametrize("form", DOTS)
def test_dots_and_magic_links_stay_inside(api, sandbox, outside, form):
    path = form.format(outside)
    answer = api.files("GET", sandbox, path)
    assert answer.status in (400, 403, 404), answer
    assert b"host secret" not in answer.body
    assert api.files("DELETE", sandbox, path).status in (400, 403, 404)
    # A write may well succeed: below the sandbox's own root. The fixture checks the host.
    write(api, sandbox, path=path, content=base64.b64encode(b"written").decode())


LINKS = ["ln -s {} link", "ln -s ../../../../../../../..{} link", "ln -s {dir} dir && ln -s dir/secret link", "ln -s /proc/self/root{} link", "ln -s /proc/1/root{} link"]


@pytest.mark.parametrize("form", LINKS)
def test_symlinks_stay_inside(api, sandbox, outside, form):
    api.sh(sandbox, form.format(outside, dir=outside.parent))
    answer = api.files("GET", sandbox, "/workspace/link")
    assert answer.status in (400, 403, 404), answer
    assert b"host secret" not in answer.body
    write(api, sandbox, path="/workspace/link", content=base64.b64encode(b"written").decode())
    api.files("DELETE", sandbox, "/workspace/link")
    api.files("DELETE", sandbox, "/workspace/dir", query={"recursive": "true"})


def test_a_parent_that_is_a_symlink_stays_inside(api, sandbox, outside):
    api.sh(sandbox, f"ln -s {outside.parent} out; ln -s / root; ln -s ../../../.. up")
    for parent in ("out", f"root{outside.parent}", f"up{outside.parent}"):
        write(api, sandbox, path=f"/workspace/{parent}/new", content=base64.b64encode(b"new").decode())
        api.files("DELETE", sandbox, f"/workspace/{parent}/secret")
        answer = api.files("GET", sandbox, f"/workspace/{parent}")
        if answer.status == 200:
            assert "secret" not in [entry["name"] for entry in answer.json["entries"]]


def test_symlinks_inside_are_followed(api, sandbox):
    api.sh(sandbox, "echo target > /tmp/t; ln -s /tmp/t abs; ln -s ../tmp/t rel; ln -s /tmp dir; ln -s loop loop")
    for path in ("abs", "rel", "dir/t"):
        assert read(api, sandbox, f"/workspace/{path}") == b"target\n"
    assert api.files("GET", sandbox, "/workspace/loop").status in (400, 404)


def test_a_symlink_swapped_in_while_we_write_stays_inside(api, sandbox, outside):
    api.exec(
        sandbox,
        f"mkdir a b; ln -s {outside.parent} b/d; mkdir a/d;"
        " (while [ ! -e stop ]; do mv a/d a/x; mv b/d a/d; mv a/d b/d; mv a/x a/d; done) > /dev/null 2>&1 & true",
    )
    end = time.monotonic() + 2
    while time.monotonic() < end:
        write(api, sandbox, path="/workspace/a/d/new", content="eA==")
        answer = api.files("GET", sandbox, "/workspace/a/d/secret")
        assert b"host secret" not in answer.body and answer.status != 200
        api.files("DELETE", sandbox, "/workspace/a/d/secret")
    api.sh(sandbox, "touch stop")


SPECIAL = [
    ("mkfifo p", "/workspace/p"), ("true", "/dev/zero"), ("true", "/dev/tty"), ("true", "/dev/null"),
    ("true", "/proc/kmsg"), ("true", "/proc/self/mem"), ("true", "/proc/sysrq-trigger"),
]  # fmt: skip


@pytest.mark.parametrize("make, path", SPECIAL, ids=[case[1] for case in SPECIAL])
def test_what_is_no_regular_file_is_answered_at_once(api, sandbox, make, path):
    api.sh(sandbox, make)
    started = time.monotonic()
    answer = api.files("GET", sandbox, path, timeout=10)
    assert 400 <= answer.status < 500, answer
    answer = api.files("GET", sandbox, path, headers=RAW, timeout=10)
    assert 400 <= answer.status < 500, answer
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/1/oom_score_adj", "/sys/kernel/mm/x", "/dev/null", "/proc/x"])
def test_writes_into_the_kernels_files_are_refused(api, sandbox, path):
    before = open("/proc/sys/kernel/core_pattern").read()
    answer = write(api, sandbox, path=path, content=base64.b64encode(b"|/bin/evil").decode())
    assert 400 <= answer.status < 500, answer
    assert open("/proc/sys/kernel/core_pattern").read() == before
    assert api.sh(sandbox, "echo x > /dev/null; test -c /dev/null && echo ok") == "ok\n"


def test_proc_through_the_files_api_shows_no_other_process(api, sandbox, emulator):
    """The daemon opens the sandbox's root from outside; /proc there must not be the daemon's."""
    for path in ("/proc/self/status", "/proc/self/environ", "/proc/self/cmdline", "/proc/thread-self/status"):
        answer = api.files("GET", sandbox, path)
        assert answer.status in (400, 403, 404) or b"orkestr" not in base64.b64decode(answer.json["content"]), path


# --- large and raw --------------------------------------------------------------------------------

LARGE = 50 << 20


def test_fifty_megabytes_raw_up_and_down(api, sandbox, emulator):
    data = os.urandom(1 << 20) * 50
    before = emulator.daemon_rss_kb()
    up = api.files("PUT", sandbox, "/tmp/large", raw=data, headers={"Content-Type": "application/octet-stream"})
    assert up.status in (200, 201), up
    assert up.json["size"] == LARGE
    assert api.sh(sandbox, ["sha256sum", "/tmp/large"]).split()[0] == hashlib.sha256(data).hexdigest()
    down = api.files("GET", sandbox, "/tmp/large", headers=RAW)
    assert down.status == 200 and down.headers["content-length"] == str(LARGE)
    assert down.headers["content-type"] == "application/octet-stream"
    assert down.body == data
    assert emulator.daemon_rss_kb() - before < 32 * 1024


RANGES = [
    ("bytes=0-0", 206, slice(0, 1)), ("bytes=5-9", 206, slice(5, 10)), ("bytes=250-", 206, slice(250, 256)),
    ("bytes=-6", 206, slice(250, 256)), ("bytes=-999", 206, slice(0, 256)), ("bytes=200-999", 206, slice(200, 256)),
    ("bytes=256-", 416, None), ("bytes=900-901", 416, None), ("bytes=9-5", 200, slice(0, 256)),
    ("bytes=x-y", 200, slice(0, 256)), ("lines=1-2", 200, slice(0, 256)), ("bytes=", 200, slice(0, 256)),
    ("bytes=-0", 416, None), ("bytes=99999999999999999999-", 416, None),
]  # fmt: skip


@pytest.mark.parametrize("header, status, part", RANGES, ids=[case[0] for case in RANGES])
def test_ranges(api, sandbox, header, status, part):
    data = bytes(range(256))
    api.put_file(sandbox, "/tmp/r", data)
    answer = api.files("GET", sandbox, "/tmp/r", headers={**RAW, "Range": header})
    if header == "bytes=99999999999999999999-":
        assert answer.status in (200, 416)  # beyond 64 bits: malformed or beyond the end, both are right
        return
    assert answer.status == status, answer
    if status == 206:
        start, stop, _ = part.indices(256)
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/256"
    if status == 416:
        assert answer.headers["content-range"] == "bytes */256"
    else:
        assert answer.body == data[part]


def test_an_empty_file_raw(api, sandbox):
    up = api.files("PUT", sandbox, "/tmp/empty", raw=b"")
    assert up.status in (200, 201), up
    down = api.files("GET", sandbox, "/tmp/empty", headers=RAW)
    assert (down.status, down.body) == (200, b"")


def test_chunked_put(api, sandbox, emulator):
    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=30)
    connection.request(
        "PUT", f"/v1/sandboxes/{sandbox}/files?path=/tmp/chunked", body=iter([b"one,", b"two,", b"x" * 100000]),
        headers={"Authorization": f"Bearer {api.key}", "Transfer-Encoding": "chunked"}, encode_chunked=True,
    )  # fmt: skip
    response = connection.getresponse()
    status, body = response.status, response.read()
    connection.close()
    assert status in (200, 201), body
    assert read(api, sandbox, "/tmp/chunked") == b"one,two," + b"x" * 100000


def test_an_upload_that_breaks_off_leaves_the_old_file(api, sandbox, emulator):
    import socket

    api.put_file(sandbox, "/tmp/keep", b"old")
    with socket.create_connection(("127.0.0.1", emulator.port)) as sock:
        sock.sendall(
            f"PUT /v1/sandboxes/{sandbox}/files?path=/tmp/keep HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            f"Content-Length: 1000000\r\n\r\n".encode() + b"n" * 300000
        )
        time.sleep(0.2)
    time.sleep(0.2)
    assert read(api, sandbox, "/tmp/keep") == b"old"
    assert [entry["name"] for entry in api.files("GET", sandbox, "/tmp").json["entries"]] == ["keep"]


def test_reading_into_json_a_large_file_is_bounded(api, sandbox, emulator):
    """A sparse giant can't be made to fill the daemon's memory."""
    api.sh(sandbox, "truncate -s 3G /tmp/giant")
    before = emulator.daemon_rss_kb()
    answer = api.files("GET", sandbox, "/tmp/giant", timeout=60) if not streams_json(api, sandbox) else None
    if answer is not None:
        check_error(answer, 413, "payload_too_large")
    assert emulator.daemon_rss_kb() - before < 64 * 1024


def streams_json(api, sandbox) -> bool:
    """Whether a file of 200 MB is still answered as JSON (then a larger one would be, too)."""
    api.sh(sandbox, "truncate -s 200M /tmp/big")
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    connection.request("GET", f"/v1/sandboxes/{sandbox}/files?path=/tmp/big", headers={"Authorization": f"Bearer {api.key}"})
    response = connection.getresponse()
    while response.read(1 << 20):  # it would fill our own memory as well
        pass
    connection.close()
    return response.status == 200
