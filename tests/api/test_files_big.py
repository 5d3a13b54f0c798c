"""Files at full strength: large, many, deep, at once, on a full disk, over every kind of HTTP, and in a race.

ORKESTR_TEST_HUGE=1 adds 2 GB up and down (some minutes, 4 GB of disk)."""

import base64
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from conftest import cannot_run
from harness.wire import check_error
from test_files_tar import TAR_TYPE, archive, download, entry, members

RAW = {"Accept": "application/octet-stream"}
MB = 1 << 20
BLOCK = os.urandom(MB)
SIZES = [200] + ([2048] if os.environ.get("ORKESTR_TEST_HUGE") == "1" else [])


@pytest.fixture(scope="session")
def helper_binary(compiled) -> bytes:
    return compiled("files_helper.c", "-static").read_bytes()


@pytest.fixture
def helper(api, sandbox, helper_binary):
    """The helper, in the test's sandbox, as /h."""
    api.put_file(sandbox, "/h", helper_binary, mode="0755")


class Client:
    """A connection of our own, for what http.client doesn't do."""

    def __init__(self, emulator, api, sandbox):
        self.sock = socket.create_connection(("127.0.0.1", emulator.port), timeout=120)
        self.key, self.base = api.key, f"/v1/sandboxes/{sandbox}/files"
        self.pending = b""

    def head(self, method, query="", headers=(), version="1.1"):
        lines = [f"{method} {self.base}{query} HTTP/{version}", "Host: x", f"Authorization: Bearer {self.key}", *headers]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())

    def answer(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self.pending:
            piece = self.sock.recv(65536)
            assert piece, f"closed after {self.pending[:200]!r}"
            self.pending += piece
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        status, *lines = head.decode("latin-1").split("\r\n")
        return int(status.split()[1]), {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}

    def pieces(self, length=None):
        """The body: so many bytes, or up to the end of the connection."""
        left = length if length is not None else 1 << 62
        while left > 0:
            piece = self.pending or self.sock.recv(min(left, 1 << 18))
            if not piece:
                assert length is None, f"closed with {left} bytes to come"
                return
            self.pending = piece[left:]
            left -= len(piece[:left])
            yield piece[:left] if left < 0 else piece[: len(piece) - len(self.pending)]

    def body(self, headers) -> bytes:
        return b"".join(self.pieces(int(headers["content-length"])))

    def close(self):
        self.sock.close()


@pytest.fixture
def client(emulator, api, sandbox):
    with contextlib.closing(Client(emulator, api, sandbox)) as client:
        yield client


@contextlib.contextmanager
def bounded(emulator, megabytes=16):
    """The daemon's memory does not grow by more meanwhile, nor does it keep more."""
    before = emulator.daemon_rss_kb()
    yield
    assert emulator.daemon_rss_kb() - before < megabytes * 1024


def leftovers(api, sandbox, path) -> list[str]:
    return [e["name"] for e in api.files("GET", sandbox, path).json["entries"] if e["name"].startswith(".orkestr")]


# --- large ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", SIZES)
def test_raw_up_and_down(api, sandbox, emulator, client, megabytes):
    sent, size = hashlib.sha256(), megabytes * MB
    before = emulator.daemon_rss_kb()
    with bounded(emulator):
        client.head("PUT", "?path=/workspace/large&mode=0600", [f"Content-Length: {size}"])
        for i in range(megabytes):
            block = i.to_bytes(8, "big") + BLOCK[8:]
            sent.update(block)
            client.sock.sendall(block)
            if i % 64 == 0:
                assert emulator.daemon_rss_kb() < before + 16 * 1024
        status, headers = client.answer()
        assert status == 201 and json.loads(client.body(headers))["size"] == size
        client.head("GET", "?path=/workspace/large", ["Accept: application/octet-stream"])
        status, headers = client.answer()
        assert (status, headers["content-length"]) == (200, str(size))
        back = hashlib.sha256()
        for piece in client.pieces(size):
            back.update(piece)
        assert back.hexdigest() == sent.hexdigest()
    assert api.sh(sandbox, ["stat", "-c", "%s %a", "/workspace/large"]) == f"{size} 600\n"
    part = api.files("GET", sandbox, "/workspace/large", headers={**RAW, "Range": f"bytes={size - 5}-"})
    assert (part.status, part.body) == (206, BLOCK[-5:])
    part = api.files("GET", sandbox, "/workspace/large", headers={**RAW, "Range": f"bytes={100 * MB}-{100 * MB + 7}"})
    assert part.body == (100).to_bytes(8, "big")


@pytest.mark.parametrize("order", ["path first", "path last"])
def test_200_megabytes_of_base64_in_json(api, sandbox, emulator, client, order):
    """Decoded as it arrives; with the path last it is kept on disk, not in memory."""
    block = base64.b64encode(BLOCK[: 3 * (MB // 3)])
    first, last = (b'{"path":"/tmp/j","content":"', b'"}') if order == "path first" else (b'{"content":"', b'","path":"/tmp/j"}')
    with bounded(emulator):
        client.head("POST", "", [f"Content-Length: {len(first) + 200 * len(block) + len(last)}"])
        client.sock.sendall(first)
        for _ in range(200):
            client.sock.sendall(block)
        client.sock.sendall(last)
        status, headers = client.answer()
        assert status == 201, client.body(headers)
        assert json.loads(client.body(headers))["size"] == 200 * 3 * (MB // 3)
    want = hashlib.sha256(BLOCK[: 3 * (MB // 3)] * 200).hexdigest()
    assert api.sh(sandbox, "sha256sum < /tmp/j").split()[0] == want


def test_a_large_file_as_json_streams(api, sandbox, emulator):
    api.sh(sandbox, "head -c 100000000 /dev/urandom > /tmp/f")
    with bounded(emulator):
        answer = api.files("GET", sandbox, "/tmp/f")
    assert hashlib.sha256(base64.b64decode(answer.json["content"])).hexdigest() == api.sh(sandbox, "sha256sum /tmp/f").split()[0]


def test_a_directory_of_200_megabytes(api, sandbox, emulator):
    data = archive(*[entry(f"d{i}/f", i.to_bytes(8, "big") + BLOCK[8:]) for i in range(200)])
    with bounded(emulator):
        answer = api.files("PUT", sandbox, "/tmp/t", raw=data, headers=TAR_TYPE)
        assert answer.status == 200, answer
        back = download(api, sandbox, "/tmp/t")
    assert len([name for name in members(back) if name.endswith("/f")]) == 200


def test_a_file_that_shrinks_while_it_is_sent_is_cut(api, sandbox, client):
    api.sh(sandbox, "truncate -s 300M /tmp/shrinks")
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.head("GET", "?path=/tmp/shrinks", ["Accept: application/octet-stream"])
    status, headers = client.answer()
    assert (status, headers["content-length"]) == (200, str(300 * MB))
    api.sh(sandbox, "truncate -s 1M /tmp/shrinks")
    started = time.monotonic()
    with pytest.raises((AssertionError, ConnectionError)):
        for _ in client.pieces(300 * MB):
            pass
    assert time.monotonic() - started < 10, "at once, not by a time-out"


# --- many, deep, at once --------------------------------------------------------------------------


def test_a_hundred_thousand_entries(api, sandbox, emulator, helper):
    api.sh(sandbox, "mkdir /tmp/many && /h many 100000 /tmp/many", timeout_seconds=120)
    seen, after, pages = [], None, 0
    with bounded(emulator):
        while True:
            query = {"limit": 10000, **({"after": after} if after else {})}
            answer = api.files("GET", sandbox, "/tmp/many", query=query)
            assert answer.status == 200, answer
            seen += [e["name"] for e in answer.json["entries"]]
            pages, after = pages + 1, answer.json["next_after"]
            if not after:
                break
    assert pages == 10 and seen == [f"{i:06d}" for i in range(100000)]
    whole = api.files("GET", sandbox, "/tmp/many")
    assert [e["name"] for e in whole.json["entries"]] == seen
    assert len(members(download(api, sandbox, "/tmp/many"))) == 100000
    assert api.files("DELETE", sandbox, "/tmp/many", query={"recursive": "true"}).status == 204
    assert api.files("GET", sandbox, "/tmp/many").status == 404


def test_two_thousand_levels(api, sandbox, helper):
    api.sh(sandbox, "mkdir /tmp/deep && /h deep 2000 /tmp/deep", timeout_seconds=60)
    names = list(members(download(api, sandbox, "/tmp/deep")))
    assert len(names) == 6000 and max(names, key=len).count("/") == 1999
    assert api.files("DELETE", sandbox, "/tmp/deep", query={"recursive": "true"}).status == 204
    assert api.exec(sandbox, "ls -d /tmp/deep")["exit_code"] != 0


def test_a_hundred_uploads_at_once(api, sandbox, emulator, run_in_background):
    def put(i):
        data = i.to_bytes(8, "big") + BLOCK[8:]
        return api.files("PUT", sandbox, f"/tmp/u/{i}", raw=data).status

    with bounded(emulator, 32):
        assert {f.result(120) for f in [run_in_background(put, i) for i in range(100)]} == {201}
    assert api.sh(sandbox, "cat /tmp/u/* | wc -c").strip() == str(100 * MB)
    for i in (0, 42, 99):
        got = api.files("GET", sandbox, f"/tmp/u/{i}", headers={**RAW, "Range": "bytes=0-7"}).body
        assert int.from_bytes(got, "big") == i


def test_a_hundred_uploads_to_one_name(api, sandbox, run_in_background):
    """The last one wins, whole; nothing else is left."""
    futures = [run_in_background(api.files, "PUT", sandbox, "/tmp/one/f", raw=bytes([i]) * 100000) for i in range(100)]
    assert {f.result(60).status for f in futures} <= {200, 201}
    data = api.files("GET", sandbox, "/tmp/one/f", headers=RAW).body
    assert len(data) == 100000 and len(set(data)) == 1
    assert [e["name"] for e in api.files("GET", sandbox, "/tmp/one").json["entries"]] == ["f"]


# --- every kind of HTTP ---------------------------------------------------------------------------


def test_expect_100_continue(client, api, sandbox):
    client.head("PUT", "?path=/tmp/e", ["Content-Length: 5", "Expect: 100-continue"])
    assert client.answer()[0] == 100
    client.sock.sendall(b"hello")
    status, headers = client.answer()
    assert status == 201, client.body(headers)
    assert api.sh(sandbox, "cat /tmp/e") == "hello"


def test_a_refusal_comes_before_the_body_is_sent(client):
    client.head("PUT", "?path=relative", ["Content-Length: 100000000", "Expect: 100-continue"])
    status, headers = client.answer()
    assert status == 400 and json.loads(client.body(headers))["code"] == "path_invalid"


def test_http_1_0(emulator, api, sandbox):
    with contextlib.closing(Client(emulator, api, sandbox)) as up:
        up.head("PUT", "?path=/tmp/old", ["Content-Length: 3"], version="1.0")
        up.sock.sendall(b"old")
        assert up.answer()[0] == 201
    for accept in ("application/octet-stream", "application/json"):
        with contextlib.closing(Client(emulator, api, sandbox)) as down:
            down.head("GET", "?path=/tmp/old", [f"Accept: {accept}"], version="1.0")
            status, headers = down.answer()
            assert status == 200 and headers.get("connection", "close").lower() != "keep-alive"
            data = b"".join(down.pieces())
            assert data == b"old" if accept.endswith("stream") else json.loads(data)["content"] == "b2xk"
    with contextlib.closing(Client(emulator, api, sandbox)) as tar:
        tar.head("GET", "?path=/tmp", ["Accept: application/x-tar"], version="1.0")
        status, headers = tar.answer()
        assert status == 200 and "transfer-encoding" not in headers
        assert set(members(b"".join(tar.pieces()))) == {"old"}


def test_pipelined_requests(client):
    """Sent in one go; answered in order, each with its own body."""
    put = "PUT {base}?path=/tmp/p{i} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 2\r\n\r\n{i:02d}"
    get = "GET {base}?path=/tmp/p{i} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nAccept: application/octet-stream\r\n\r\n"
    text = "".join((put + get).format(base=client.base, key=client.key, i=i) for i in range(20))
    client.sock.sendall(text.encode())
    for i in range(20):
        status, headers = client.answer()
        assert status == 201 and json.loads(client.body(headers))["path"] == f"/tmp/p{i}"
        status, headers = client.answer()
        assert (status, client.body(headers)) == (200, f"{i:02d}".encode())


def test_an_archive_and_the_next_request_on_one_connection(client):
    data = archive(entry("f", b"x" * 300000))
    for method, expected in (("PUT", 200), ("PUT", 200)):
        client.head(method, "?path=/tmp/ka", [f"Content-Length: {len(data)}", "Content-Type: application/x-tar"])
        client.sock.sendall(data)
        status, headers = client.answer()
        assert status == expected and json.loads(client.body(headers))["entries_written"] == 1
    bad = archive(entry("../f", b"x" * 300000))
    client.head("PUT", "?path=/tmp/ka", [f"Content-Length: {len(bad)}", "Content-Type: application/x-tar"])
    client.sock.sendall(bad)
    status, headers = client.answer()
    assert status == 400 and json.loads(client.body(headers))["code"] == "archive_invalid"
    client.head("GET", "?path=/tmp/ka", [])
    assert client.answer()[0] == 200


def test_curl(emulator, api, sandbox, tmp_path):
    """As a user would: -T up, -o down, a tar through a pipe."""
    url = f"http://127.0.0.1:{emulator.port}/v1/sandboxes/{sandbox}/files?path="
    auth = ["-sSf", "-H", f"Authorization: Bearer {api.key}"]
    source = tmp_path / "in file"
    source.write_bytes(BLOCK)
    subprocess.run(["curl", *auth, "-T", source, url + "/tmp/with%20space%0Aline"], check=True, capture_output=True)
    subprocess.run(["curl", *auth, "-H", "Accept: application/octet-stream", "-o", tmp_path / "out", url + "/tmp/with%20space%0Aline"], check=True)
    assert (tmp_path / "out").read_bytes() == BLOCK
    pipe = f"tar -C {tmp_path} -cz . | curl {' '.join(repr(a) for a in auth)} -T - -H 'Content-Type: application/x-tar' '{url}/tmp/piped'"
    answer = json.loads(subprocess.run(["bash", "-o", "pipefail", "-c", pipe], check=True, capture_output=True).stdout)
    assert answer["entries_written"] == 2
    back = f"curl {' '.join(repr(a) for a in auth)} -H 'Accept: application/x-tar' '{url}/tmp/piped' | tar -x -C {tmp_path} --one-top-level=back"
    subprocess.run(["bash", "-o", "pipefail", "-c", back], check=True)
    assert (tmp_path / "back" / "in file").read_bytes() == BLOCK


def test_a_client_that_hangs_up_leaves_nothing(api, sandbox, emulator):
    for headers in ([], ["Content-Type: application/x-tar"]):
        for method in ("PUT", "POST"):
            client = Client(emulator, api, sandbox)
            client.head(method, "?path=/tmp/hang/up", ["Content-Length: 10000000", *headers])
            client.sock.sendall(b'{"path":"/tmp/hang/up","content":"' + b"A" * 3000000)
            client.close()
    time.sleep(0.5)
    for entry_ in api.files("GET", sandbox, "/tmp/hang").json["entries"]:
        assert entry_["name"] == "up" and entry_["is_dir"], "only the archive's folder, made before its first byte"
    assert leftovers(api, sandbox, "/tmp/hang") == []


# --- a full disk ----------------------------------------------------------------------------------


@pytest.fixture
def full_disk(new_emulator, binary, tiny_tar, key):
    """An emulator whose state dir is on a file system of 32 MB."""
    from harness.emulator import run

    top = Path(tempfile.mkdtemp(prefix="orkestr-full-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=755", "none", top], capture_output=True).returncode != 0:
        top.rmdir()
        cannot_run("a size-limited file system takes a mount, and so root")
    try:
        done = run(binary, "template", "import", "--state-dir", str(top / "state"), "tiny", str(tiny_tar))
        assert done.returncode == 0, done
        emulator = new_emulator("--auth", "any", state=top / "state", warm=None)
        api = emulator.api(key)
        answer = api.post("/v1/sandboxes", {"template": "tiny"})
        if answer.status != 201:
            cannot_run(f"no sandbox on a tmpfs here: {answer}")
        yield api, answer.json["id"]
        api.delete(f"/v1/sandboxes/{answer.json['id']}")
        assert emulator.stop() == 0
    finally:
        subprocess.run(["umount", "-l", top], check=True)
        top.rmdir()


def test_disk_full_leaves_the_old_file_whole(full_disk):
    api, sandbox = full_disk
    api.put_file(sandbox, "/tmp/keep", b"old" * 1000)
    big = BLOCK * 40

    def free():
        return int(api.sh(sandbox, "df -k --output=avail / | tail -n 1"))

    before = free()
    check_error(api.files("PUT", sandbox, "/tmp/keep", raw=big), 507, "disk_full")
    answer = api.post(f"/v1/sandboxes/{sandbox}/files", {"path": "/tmp/keep", "content": base64.b64encode(big).decode()})
    check_error(answer, 507, "disk_full")
    body = api.files("PUT", sandbox, "/tmp", raw=archive(entry("first", b"1"), entry("keep", big)), headers=TAR_TYPE)
    assert check_error(body, 507, "disk_full")["entries_written"] == 1
    assert api.sh(sandbox, "cat /tmp/keep | wc -c; ls -A /tmp") == "3000\nfirst\nkeep\n"
    assert free() > before - 1024, "what was written is given back"
    api.sh(sandbox, "head -c 100M /dev/zero > /tmp/fill 2>/dev/null; true")
    check_error(api.files("PUT", sandbox, "/tmp/keep", raw=BLOCK), 507, "disk_full")
    assert api.sh(sandbox, "cat /tmp/keep | wc -c; rm /tmp/fill").strip() == "3000"
    assert api.files("PUT", sandbox, "/tmp/keep", raw=BLOCK).status == 200


# --- races ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["write", "tar", "delete", "read"])
def test_a_folder_and_a_symlink_change_places_all_the_time(api, sandbox, helper, what):
    """renameat2(RENAME_EXCHANGE) in a loop: each call sees one or the other, and never leaves the sandbox."""
    api.sh(sandbox, "mkdir -p /tmp/r/d /tmp/r/in; ln -s /tmp/r/in /tmp/r/l; echo in > /tmp/r/in/f; echo d > /tmp/r/d/f")
    api.exec(sandbox, "nohup /h swap /tmp/r/d /tmp/r/l /tmp/stop > /tmp/swaps 2>&1 &")
    small = archive(*[entry(f"d/g{i}", b"x") for i in range(5)])
    seen, end = set(), time.monotonic() + 3
    while time.monotonic() < end:
        if what == "write":
            answer = api.files("PUT", sandbox, "/tmp/r/d/new", raw=b"x")
        elif what == "tar":
            answer = api.files("PUT", sandbox, "/tmp/r", raw=small, headers=TAR_TYPE)
        elif what == "delete":
            answer = api.files("DELETE", sandbox, "/tmp/r/d/new")
        else:
            answer = api.files("GET", sandbox, "/tmp/r/d/f")
        seen.add(answer.status)
        assert answer.status in (200, 201, 204, 400, 404, 409), answer
    api.sh(sandbox, "touch /tmp/stop; sleep 0.2")
    assert int(api.sh(sandbox, "cat /tmp/swaps")) > 1000
    assert seen & {200, 201, 204, 404}, seen
    if what == "tar":
        assert api.sh(sandbox, "ls -A /tmp/r/in") == "f\n", "nothing went through the symlink"


def test_no_reader_sees_half_an_archives_file(api, sandbox, run_in_background):
    data = [archive(entry("f", bytes([c]) * 200000)) for c in b"ab"]
    assert api.files("PUT", sandbox, "/tmp/at", raw=data[0], headers=TAR_TYPE).status == 200
    script = 'i=0; while [ $i -lt 300 ]; do cat /tmp/at/f | tr -d a | wc -c; i=$((i+1)); done'
    watched = run_in_background(api.sh, sandbox, script, timeout_seconds=60)
    while not watched.done():
        for one in data:
            assert api.files("PUT", sandbox, "/tmp/at", raw=one, headers=TAR_TYPE).status == 200
    assert set(watched.result().split()) <= {"0", "200000"}


# --- what an overlay is made of -------------------------------------------------------------------


def test_over_the_template(api, sandbox, many_ids):
    """A file of the layers below, one that was removed, a folder that was removed and made again, and files
    of other ids, each written by every way there is."""
    api.sh(sandbox, "rm /etc/group /usr/bin/yes; rm -r /var/tmp; mkdir /var/tmp; mkdir -m 700 /home/u; echo x > /home/u/f; chmod 600 /home/u/f; chown -R 1000:1000 /home/u")
    ways = {
        "put": lambda path: api.files("PUT", sandbox, path, raw=b"new").status in (200, 201),
        "post": lambda path: api.put_file(sandbox, path, b"new").status in (200, 201),
        "tar": lambda path: api.files("PUT", sandbox, os.path.dirname(path), raw=archive(entry(os.path.basename(path), b"new", mode=0o600)), headers=TAR_TYPE).status == 200,
    }  # fmt: skip
    for way, write in ways.items():
        for path in ("/etc/passwd", "/etc/group", "/usr/bin/yes", "/var/tmp/f", "/home/u/f", "/usr/share/new/f"):
            assert write(path), (way, path)
            assert api.sh(sandbox, ["cat", path]) == "new", (way, path)
        assert api.sh(sandbox, "ls -A /var/tmp") == "f\n"
        if way != "tar":
            assert api.sh(sandbox, "stat -c '%u %a' /home/u/f") == "1000 600\n", "a file that is replaced keeps its owner"
        assert api.sh(sandbox, "stat -c '%u %a' /home/u") == "1000 700\n"
    assert "etc/passwd" in members(download(api, sandbox, "/"))
    assert [e["name"] for e in api.files("GET", sandbox, "/var/tmp").json["entries"]] == ["f"]


def test_sockets_and_devices_are_left_out_of_archives(api, sandbox, helper):
    api.sh(sandbox, "mkdir /tmp/k; cd /tmp/k; /h socket s; mkfifo p; echo x > f")
    assert list(members(download(api, sandbox, "/tmp/k"))) == ["f", "p"]
    listed = {e["name"]: e for e in api.files("GET", sandbox, "/tmp/k").json["entries"]}
    assert set(listed) == {"s", "p", "f"} and not listed["s"]["is_dir"]
    assert api.files("GET", sandbox, "/tmp/k/s").status == 400
    assert api.files("DELETE", sandbox, "/tmp/k", query={"recursive": "true"}).status == 204


def test_files_the_sandbox_made_unreadable_can_be_read(api, sandbox, many_ids):
    """Modes are the sandbox's own affair: its root may read everything, and so may the API."""
    api.sh(sandbox, "mkdir -m 0 /tmp/z; echo secret > /tmp/z/f; chmod 0 /tmp/z/f; chown 33:33 /tmp/z/f")
    assert api.files("GET", sandbox, "/tmp/z/f", headers=RAW).body == b"secret\n"
    found = members(download(api, sandbox, "/tmp/z"))
    assert (found["f"].mode, found["f"].uid) == (0, 33)
