#!/usr/bin/python3
"""Writes a first corpus of well-formed inputs for each fuzz target: seed.py DIR (made: DIR/<target>/seed-*).

What is committed under tests/fuzz/corpus began here; libFuzzer's finds and every input that once broke something
were added by hand. Run it again for a new target, or a new format of an old one.
"""
import base64
import hashlib
import io
import json
import os
import struct
import sys
import tarfile
import zlib


def save(target, *inputs):
    folder = os.path.join(sys.argv[1], target)
    os.makedirs(folder, exist_ok=True)
    for number, data in enumerate(inputs):
        with open(os.path.join(folder, f"seed-{number:02}"), "wb") as f:
            f.write(data)


def tar(*members, fmt=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as t:
        for name, kind, extra in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            data = None
            if kind == tarfile.REGTYPE:
                info.size, data = len(extra), io.BytesIO(extra)
            elif kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = extra
            elif isinstance(extra, dict):
                info.pax_headers = extra
            t.addfile(info, data)
    return out.getvalue()


F, D, S, L = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def tars():
    plain = tar(("a", D, None), ("a/f", F, b"hello"), ("s", S, "a/f"), ("h", L, "a/f"))
    hostile = [
        tar(("../victim", F, b"x")), tar(("out", F, b"x")), tar(("up/victim", F, b"x")), tar(("/etc/x", F, b"x")),
        tar(("l", S, ".."), ("l/victim", F, b"x")), tar(("h", L, "../victim"), ("h", F, b"x")),
        tar((".wh.there", F, b"")), tar(("there/.wh..wh..opq", F, b"")), tar(("dev", tarfile.CHRTYPE, None)),
        tar(("fifo", tarfile.FIFOTYPE, None)), tar(("p", D, {"SCHILY.xattr.user.a": "b", "mtime": "1.5"})),
        tar(("n" * 150, F, b"long"), fmt=tarfile.GNU_FORMAT), tar(("package/x", F, b"x")),
    ]
    gz = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = gz.compress(plain) + gz.flush()
    for how in (0, 1, 8, 16, 32):
        yield bytes([how, 255]) + plain
    yield bytes([0, 3]) + packed
    yield from (bytes([1 if b".wh." in t else 32 if n % 2 else 0, 255]) + t for n, t in enumerate(hostile))


def dns(name, qtype=1, answers=()):
    def wire(n):
        return b"".join(bytes([len(p)]) + p.encode() for p in n.split(".")) + b"\0"
    head = struct.pack(">HHHHHH", 7, 0x8180 if answers else 0x0100, 1, len(answers), 0, 0)
    body = wire(name) + struct.pack(">HH", qtype, 1)
    for kind, data in answers:
        body += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
    return head + body


def hello(name):
    sni = struct.pack(">HBH", len(name) + 3, 0, len(name)) + name
    ext = struct.pack(">HH", 0, len(sni)) + sni
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack(">H", len(ext)) + ext
    hand = b"\1" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\3\1" + struct.pack(">H", len(hand)) + hand


def packet(proto, payload, v6=False):
    if v6:
        return struct.pack(">IHBB", 6 << 28, len(payload), proto, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + payload
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, proto, 0) + b"\x64\x40\0\2\1\2\3\4" + payload


def request(line, *headers, body=b""):
    return ("\r\n".join([line, "Host: x", *headers]) + "\r\n\r\n").encode() + body


def snapshots():
    """What `snapshot export` writes, with a layer that is not compressed."""
    for layer in (tar(("a", D, None), ("a/f", F, b"hello")), tar((".wh.x", F, b""), ("s", S, "a"))):
        manifest = {
            "version": 1, "sandbox": "sbx_01HXYZ00000000000000000000", "paused_at": "2026-05-01T00:00:00.000Z", "paused_ms": 1,
            "template": "tiny", "template_digest": "sha256:0", "tar_sha256": hashlib.sha256(layer).hexdigest(),
            "tar_bytes": len(layer), "size_bytes": len(layer), "file_bytes": 5, "entries": 2, "processes": [], "listening": [],
        }
        for change in ({}, {"entries": 1}, {"tar_sha256": "0" * 64}, {"tar_bytes": 1 << 62}, {"version": 9}):
            text = json.dumps({**manifest, **change}).encode()
            yield tar(("manifest.json", F, text), ("layer.tar.zst", F, layer))
        yield tar(("layer.tar.zst", F, layer), ("manifest.json", F, json.dumps(manifest).encode()))


def main():
    save("snapshot", *snapshots())
    body = {"template": "python-3.12", "network": "off", "timeout_seconds": 60, "cpu": 0.5, "stream": True,
            "env": {"A": "b"}, "metadata": {"k": "v"}, "memory_mb": 512, "command": ["a"]}
    objects = [json.dumps(o).encode() for o in (
        {}, body, {**body, "size": "small", "cpu": 1e400}, {"template": None}, {"env": {"1": "x"}}, {"a": "\ud83d\ude00"},
        {"template": 1, "timeout_seconds": 9.5, "stream": "x", "metadata": [], "env": {"A": 1}})]
    save("json", *objects, b"[]", b"null", b'{"a":"\\u0000"}', b"{'a':1}", b'{"a":1}x', b"[" * 40, b'{"template":"\xff"}')
    write = b'{"path":"/tmp/a","content":"aGVsbG8gd29ybGQ=","mode":"0644","x":[1,{"y":null}]}'
    save("json_stream", b"\3" + write, b"\0" + write, b'\1{"content":"\\u00e4\\ud83d\\ude00\\n"}', b'\2{"content":""}',
         b'\5{"content":1}', b'\1{"data":"a","content":"b"}', b'\1{"a":1.5e3,"a":true}', b'\1{"content":"\xc3\xa4"} ')
    save("target", b"\0/v1/sandboxes?limit=5&cursor=a", b"\1/v1/sandboxes/sbx_1/exec", b"\0/v1/sandboxes/limits",
         b"\0/v1/sandboxes/%73bx/files?path=%2Ftmp%2Fa+b", b"\4/v1/sandboxes", b"\0//v1", b"\0/v1/%00", b"\0/a?%zz",
         b"\0/v1/sandboxes/a/exec/b/stream?after=1&after=2")
    save("text", b"\4" + base64.b64encode(b"hello, world"), b"\1aGVs bG8\n-_==", b"\2\xf0\x9f\x98\x80\xff\xc3",
         b"\0002026-05-01T12:34:56.789Z", b"\0002026-05-01T12:34:56+00:00", b"\000123")
    save("policy", b"example.org", b"*.example.org:443", b"1.2.3.4:80", b"[2001:db8::1]:53", b"b\xc3\xbccher.example",
         b"a.test:80=127.0.0.1:8080", b"z.test=::1", b"EXAMPLE.org.", b"*.", b"::1", b"xn--bcher-kva.example")
    save("ledger", bytes(range(64)), b"\0\1\2a.testexample" * 9, b"\x41\1\2" + b"a" * 60, b"\x10\1\0" + b"a" * 40)
    udp = struct.pack(">HHHH", 9, 53, 40, 0) + dns("evil.example.org")
    save("nflog", *(b"\1" + packet(*p) for p in ((6, struct.pack(">HH", 1, 443) + bytes(16)), (17, udp), (1, bytes(8)),
                                                   (17, udp, True), (6, b"\0"))), b"\0" + bytes(32))
    save("dns", dns("example.org"), dns("a.b.c", 28), dns("example.org", 1, [(1, b"\1\2\3\4")]),
         dns("example.org", 28, [(28, bytes(16))]), dns("example.org", 1, [(5, b"\1a\xc0\x0c"), (1, b"\1\2\3\4")]))
    save("sniff", hello(b"example.org"), hello(b"EXAMPLE.org."), b"GET / HTTP/1.1\r\nHost: example.org:80\r\n\r\n",
         b"POST /x HTTP/1.0\r\nA: b\r\nhost: a.b\r\n\r\n", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n")
    ready = b"\x08" + bytes(8)
    end = b"\x03" + bytes(8) + struct.pack("<QiiQii", 1, 0, 0, 5, 0, 0)
    save("init", b"\x08", ready, ready + end, ready + b"\x02" + bytes(8) + struct.pack("<Qii", 1, 77, 0) + bytes(16) + end,
         b"\1" + bytes(8) + struct.pack("<i", 5) + b"mount".ljust(120, b"\0"), b"\x08\x08", b"\x24\x10", b"\x18" + bytes(8),
         ready * 2, ready + end * 20, ready + b"\x23" + bytes(40) + b"\x02")
    save("keeper_client", b"\4\0\5\4\1\5\3\2\0\3\3\0", b"\1\0\5", b"\x0c\0\5", b"\2\0\0\2\0\0", b"\x10\0\5" + bytes(60))
    save("keeper", *(bytes([kind, 1, 2, 1] * 3) for kind in range(1, 8)), b"\1\0\0\0\2\0\0\0\4\0\1\2", b"\x11" + bytes(99))
    inline = b"sh\0-c\0true\0A=b\0/"
    save("pid1", b"\6" + bytes([len(inline) + 1, 3, 1]) + inline + b"\0", b"\1\1\x09", b"\1\1\xff",
         b"\0" + bytes([len(inline)]) + inline + b"\2\1", b"\x80" + bytes([len(inline) + 1]) + inline + b"\0\2\1")
    rule = b"\x21\1\2\1"
    save("egress", rule + b"\x22\1\0\0\0" + b"\x22\1\0\0\1" + b"\x23\1\0\0\0", b"\x2c\0\0\0\3\x24\0\0\0\3",
         b"\x25\0\0\0\4\x25\0\0\0\5", rule + b"\2\1\0\0" + b"*.example.org:443".ljust(64, b"\0"))
    save("unpack", *tars())
    digest = "0" * 64
    save("state", json.dumps({"version": 1, "sandbox": "sbx_01HXYZ00000000000000000000", "paused_ms": 1, "template": "a",
                              "template_digest": "sha256:0", "tar_sha256": digest, "tar_bytes": 1, "size_bytes": 1,
                              "file_bytes": 1, "entries": 1, "processes": [], "listening": []}).encode(),
         json.dumps({"format": 1, "id": "0123456789abcdef01234567", "digest": digest, "size_bytes": 1, "created_ms": 1,
                     "recipe": "x", "distribution": "Debian"}).encode(),
         json.dumps({"format": 1, "name": "fuzz", "layers": ["0123456789abcdef01234567"], "digest": "sha256:0",
                     "created_ms": 1, "size_bytes": 1}).encode(),
         b'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID=\'12\'\nID=debian\n',
         b"#define NODE_MAJOR_VERSION 22\n#define NODE_MINOR_VERSION 1\n#define NODE_PATCH_VERSION 0\n")
    save("files", b"\1/d/new\n\0/d/new\n\3/d/new", b"\0/up/secret\n\0/abs\n\0/rel\n\1/abs\n\1/rel", b"\2/up\n\2/\n\2/d/far",
         b"\1/a/b/../c\n\3/../secret\n\3/up/secret\n\x43/up", b"\0/fifo\n\1/fifo\n\3/loop\n\1/loop", b"\0relative\n\0/a\0b")
    js = json.dumps(body).encode()
    save("http", *(bytes([cut]) + r for cut in (0, 0x81) for r in (
        request("GET /p/a%20b?x=1 HTTP/1.1"), request("GET /s HTTP/1.1", "Accept: text/event-stream"),
        request("POST /j HTTP/1.1", f"Content-Length: {len(js)}", body=js) + request("GET /p/1 HTTP/1.1"),
        request("POST /j HTTP/1.1", "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
        request("PUT /u HTTP/1.1", "Content-Length: 600", body=b"x" * 600),
        request("PUT /u HTTP/1.1", "Expect: 100-continue", "Content-Length: 5", body=b"12345"),
        request("POST /auth HTTP/1.1", "Authorization: Bearer ork_x", "Content-Length: 2", body=b"{}"),
        request("DELETE /j HTTP/1.1"), b"GET /p/1 HTTP/1.0\r\n\r\n")))


main()
