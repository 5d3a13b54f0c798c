"""`orkestr-emulator snapshot`, with and without a running emulator: carried elsewhere nothing is lost, and what was
tampered with is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from conftest import cannot_run
from harness.emulator import run, run_json
from harness.wire import check_error
from test_pause import MAKE_ALL_KINDS, listing, pause, resume, snapshots

KEY = "ork_snapshot_test"


def account_of(key: str) -> str:
    return "acc_" + hashlib.sha256(key.encode()).hexdigest()[:16]


@pytest.fixture
def box(new_emulator):
    """An emulator of the test's own, an account's API and a paused sandbox with every kind of file."""
    emulator = new_emulator("--auth", "any")
    api = emulator.api(KEY)
    sandbox = api.create(env={"COLOR": "blue"}, metadata={"a": "b"}, timeout_seconds=900)["id"]
    api.sh(sandbox, MAKE_ALL_KINDS)
    api.sh(sandbox, "sleep 1000 > /dev/null 2>&1 &")
    before = listing(api, sandbox)
    pause(api, sandbox)
    return emulator, api, sandbox, before


@pytest.fixture
def call(binary):
    def call(state, *args, status=0, **more):
        command, *rest = args
        done = run(binary, "snapshot", command, "--state-dir", str(state), *map(str, rest), **more)
        assert done.returncode == status, done
        return done

    return call


def without_template_times(text: str) -> list[str]:
    """What an import of the template made up (/etc/hosts) is as old as that import."""
    return [line.rpartition("|")[0] if line.startswith("etc/") else line for line in text.splitlines()]


def export(call, emulator, sandbox, file: Path) -> Path:
    call(emulator.state_dir, "export", sandbox, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return file


def read_export(file: Path) -> tuple[dict, bytes]:
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["manifest.json", "layer.tar.zst"]
        return json.load(tar.extractfile("manifest.json")), tar.extractfile("layer.tar.zst").read()


# --- list, export, import, rm ---------------------------------------------------------------------


def test_list(box, binary, call):
    emulator, _, sandbox, _ = box
    [one] = run_json(binary, "snapshot", "list", "--json", "--state-dir", str(emulator.state_dir))
    assert (one["sandbox"], one["account"], one["template"]) == (sandbox, account_of(KEY), "tiny")
    assert "row" not in one and "blue" not in json.dumps(one), "env is a secret"
    assert any(p["command"].startswith("sleep 1000") for p in one["processes"])
    table = call(emulator.state_dir, "list").stdout
    assert sandbox in table and account_of(KEY) in table


def test_carried_to_another_state_dir(box, call, new_emulator, scratch):
    emulator, api, sandbox, before = box
    file = export(call, emulator, sandbox, scratch / "carried.tar")
    other = new_emulator("--auth", "any")
    new = call(other.state_dir, "import", file).stdout.strip()
    assert new.startswith("sbx_") and new != sandbox
    there = other.api(KEY)
    row = there.get(f"/v1/sandboxes/{new}").json
    assert (row["status"], row["metadata"], row["timeout_seconds"]) == ("paused", {"a": "b"}, 900)
    assert [r["id"] for r in there.get("/v1/sandboxes").json["sandboxes"]][0] == new
    check_error(other.api("ork_somebody_else").get(f"/v1/sandboxes/{new}"), 404, "sandbox_not_found")
    answer = resume(there, new)
    assert "memory-lost" in answer.divergences
    assert without_template_times(listing(there, new)) == without_template_times(before)
    assert there.sh(new, "echo $COLOR") == "blue\n"
    lost = there.get(f"/_emulator/sandboxes/{new}").json
    assert lost["memory_lost"] and any(p["command"].startswith("sleep 1000") for p in lost["lost"]["processes"])
    # The first one is as it was, and its processes live.
    assert "memory-lost" not in resume(api, sandbox).divergences
    assert "sleep" in api.sh(sandbox, "cat /proc/[0-9]*/comm").split()
    for client, name in ((api, sandbox), (there, new)):
        assert client.delete(f"/v1/sandboxes/{name}").status == 200


def test_imported_before_the_start_and_for_another_account(box, call, new_emulator, new_state, scratch):
    emulator, _, sandbox, _ = box
    file = export(call, emulator, sandbox, scratch / "early.tar")
    state = new_state("tiny")
    mine = call(state, "import", "--key", "ork_another_one", file).stdout.strip()
    by_id = call(state, "import", "--account", account_of("ork_a_third_one"), "-", stdin=open(file, "rb")).stdout.strip()
    other = new_emulator("--auth", "any", state=state)
    for key, name in (("ork_another_one", mine), ("ork_a_third_one", by_id)):
        api = other.api(key)
        assert api.status_of(name) == "paused"
        assert "memory-lost" in resume(api, name).divergences
        assert api.delete(f"/v1/sandboxes/{name}").status == 200
    check_error(other.api(KEY).get(f"/v1/sandboxes/{mine}"), 404, "sandbox_not_found")


def test_an_export_without_env(box, call, scratch):
    emulator, _, sandbox, _ = box
    call(emulator.state_dir, "export", "--without-env", sandbox, scratch / "bare.tar")
    assert read_export(scratch / "bare.tar")[0]["row"]["env"] == {}
    export(call, emulator, sandbox, scratch / "full.tar")
    assert read_export(scratch / "full.tar")[0]["row"]["env"] == {"COLOR": "blue"}


def test_rm_terminates(box, call):
    emulator, api, sandbox, _ = box
    call(emulator.state_dir, "rm", sandbox)
    assert snapshots(emulator) == set()
    row = api.get(f"/v1/sandboxes/{sandbox}").json
    deadline = time.monotonic() + 10
    while row["status"] != "terminated":
        assert row["status"] == "terminating" and time.monotonic() < deadline, row
        row = api.get(f"/v1/sandboxes/{sandbox}").json
    assert row["termination_reason"] == "moved"
    assert "no snapshot" in call(emulator.state_dir, "rm", sandbox, status=1).stderr
    check_error(api.post(f"/v1/sandboxes/{sandbox}/resume"), 409, "sandbox_not_ready")


def test_rm_without_an_emulator(box, call, new_emulator):
    emulator, api, sandbox, _ = box
    emulator.kill_all()
    call(emulator.state_dir, "rm", sandbox)
    again = new_emulator("--auth", "any", state=emulator.state_dir)
    row = again.api(KEY).get(f"/v1/sandboxes/{sandbox}").json
    assert (row["status"], row["termination_reason"]) == ("terminated", "moved")


def test_what_an_export_overtakes_is_whole(box, call, scratch, run_in_background, binary):
    """Exports while the same sandbox is paused and resumed: each is whole, or says that it could not be had."""
    emulator, api, sandbox, _ = box
    files = [scratch / f"racing-{n}.tar" for n in range(12)]

    def cycle():
        for _ in range(8):
            resume(api, sandbox)
            api.sh(sandbox, "head -c 300000 /dev/urandom > /workspace/new")
            pause(api, sandbox)

    cycling = run_in_background(cycle)
    good = 0
    for file in files:
        done = run(binary, "snapshot", "export", "--state-dir", str(emulator.state_dir), sandbox, str(file))
        assert done.returncode == 0 or "no snapshot" in done.stderr or "used up now" in done.stderr, done
        if done.returncode == 0:
            manifest, layer = read_export(file)
            assert len(layer) == manifest["size_bytes"]
            call(emulator.state_dir, "import", "--key", "ork_collector_1", file)
            good += 1
        else:
            assert not file.exists()
    cycling.result(120)
    export(call, emulator, sandbox, scratch / "racing-last.tar")
    collector = emulator.api("ork_collector_1")
    rows = collector.get("/v1/sandboxes").json["sandboxes"]
    assert len(rows) == good
    for row in rows:
        assert collector.delete(f"/v1/sandboxes/{row['id']}").status == 200


def test_the_help_and_bad_usage(binary, call, scratch, new_state):
    assert "Nothing is locked" in run(binary, "snapshot", "--help").stdout
    for args in (["export", "x"], ["import"], ["rm"], ["list", "x"], ["list", "--oci"], ["import", "--key", "a", "x"], ["nonsense"], []):
        assert run(binary, "snapshot", *args).returncode == 2, args
    state = new_state("tiny")
    assert "there is no snapshot" in call(state, "export", "../../etc/passwd", scratch / "x", status=1).stderr
    assert not (scratch / "x").exists()
    assert call(state, "list").stdout == "No snapshots.\n"


# --- what is refused ------------------------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    if not shutil.which("zstd"):
        cannot_run("zstd is not here: apt-get install zstd")
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def layer_of(*entries) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, data in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o755
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = data.decode()
            elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                info.devmajor, info.devminor = 1, 3
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if info.size else None)
    return out.getvalue()


def archive(path: Path, manifest, layer: bytes, *, names=("manifest.json", "layer.tar.zst"), more=()) -> Path:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in zip(names, (text, layer)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info, data in more:
            tar.addfile(info, io.BytesIO(data))
    return path


def with_layer(manifest: dict, tar: bytes, **changes) -> tuple[dict, bytes]:
    """The manifest an attacker would write for this layer: all its numbers are right."""
    layer = zstd(tar)
    return {
        **manifest, "tar_sha256": hashlib.sha256(tar).hexdigest(), "tar_bytes": len(tar), "size_bytes": len(layer),
        "file_bytes": len(tar), "entries": 100, **changes,
    }, layer  # fmt: skip


@pytest.fixture
def refused(box, call, scratch, new_state):
    """refused(text, change) -> imports what change(manifest, layer) makes of a good export; it must fail, saying text,
    and leave nothing."""
    emulator, _, sandbox, _ = box
    good = read_export(export(call, emulator, sandbox, scratch / "good.tar"))
    state = new_state("tiny")
    bad = scratch / "bad.tar"

    def refused(text, change):
        manifest, layer = json.loads(json.dumps(good[0])), good[1]
        made = change(manifest, layer)
        if isinstance(made, tuple):
            archive(bad, *made)
        elif made is not None:
            bad.write_bytes(made)
        done = call(state, "import", bad, status=1)
        assert text in done.stderr, (text, done.stderr)
        assert os.listdir(state / "snapshots") == []
        assert not [n for n in os.listdir(state / "disk" / "l") if n.startswith(".tmp")]
        return done.stderr

    refused.file = bad
    refused.good = scratch / "good.tar"
    yield refused
    assert call(state, "import", scratch / "good.tar").stdout.startswith("sbx_"), "the good one is good"


def test_hostile_layers_are_refused(refused):
    layers = [
        ("an absolute name", [("/etc/passwd", tarfile.REGTYPE, b"x")]),
        ('".."', [("a/../../b", tarfile.REGTYPE, b"x")]),
        ("a device node", [("dev-null", tarfile.CHRTYPE, b"")]),
        ("a device node", [("disk", tarfile.BLKTYPE, b"")]),
        ('".."', [("x", tarfile.LNKTYPE, b"../../../etc/shadow")]),
        ("a hardlink to something", [("x", tarfile.LNKTYPE, b"nothing-here")]),
        ("a hardlink to something", [("d", tarfile.SYMTYPE, b"/etc"), ("x", tarfile.LNKTYPE, b"d/shadow")]),
    ]
    for text, entries in layers:
        refused(text, lambda m, _: with_layer(m, layer_of(*entries)))


def test_damaged_ones_are_refused(refused):
    def flipped(m, layer):
        changed = bytearray(layer)
        changed[len(changed) // 2] ^= 0x55
        return m, bytes(changed)

    refused("", flipped)
    refused("digest is", lambda m, layer: ({**m, "tar_sha256": "0" * 64}, layer))
    refused("another size", lambda m, layer: (m, layer[:-100]))
    refused("more than", lambda m, layer: (m, layer + b"more"))
    data = refused.good.read_bytes()
    for cut in (0, 10, 700, 3000, len(data) // 2, len(data) - 2000):
        refused("", lambda m, layer: data[:cut])
    refused("", lambda m, layer: b"this is no tar" * 100)
    refused("", lambda m, layer: zstd(data))


def test_other_entries_are_refused(refused):
    def more(name, kind=tarfile.REGTYPE, data=b""):
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(data)
        return info, data

    refused("in this order", lambda m, layer: archive(refused.file, m, layer, names=("layer.tar.zst", "manifest.json")) and None)
    refused("in this order", lambda m, layer: archive(refused.file, m, layer, names=("../manifest.json", "layer.tar.zst")) and None)
    refused("in this order", lambda m, layer: archive(refused.file, m, layer, names=("manifest.json", "/etc/passwd")) and None)
    refused("more in it", lambda m, layer: archive(refused.file, m, layer, more=[more("x", data=b"y")]) and None)
    refused("more in it", lambda m, layer: archive(refused.file, m, layer, more=[more("/dev/sda", tarfile.BLKTYPE)]) and None)


def test_bad_manifests_are_refused(refused):
    refused("more than", lambda m, layer: (b"{" + b" " * (5 << 20) + b"}", layer))
    refused("no JSON", lambda m, layer: (b"[" * 100000, layer))
    refused("no JSON", lambda m, layer: (b"[]", layer))
    refused("makes no sense", lambda m, layer: (b"{}", layer))
    refused("another version", lambda m, layer: ({**m, "version": 2}, layer))
    refused("makes no sense", lambda m, layer: ({**m, "sandbox": "../x"}, layer))
    refused("makes no sense", lambda m, layer: ({**m, "tar_sha256": "Z" * 64}, layer))
    refused("makes no sense", lambda m, layer: ({**m, "entries": -1}, layer))
    rows = {
        "account": "acc_../../etc", "size": "huge", "network": "host", "cpu_millis": 10**9, "memory_mb": 0, "timeout_s": -1,
        "env": ["A"], "metadata": {"a": 1}, "expires_ms": 10**15, "region": 7,
    }  # fmt: skip
    for member, value in rows.items():
        refused(member, lambda m, layer: ({**m, "row": {**m["row"], member: value}}, layer))
    refused("row", lambda m, layer: ({k: v for k, v in m.items() if k != "row"}, layer))


def test_bombs_are_refused(refused):
    bomb = layer_of(("zeros", tarfile.REGTYPE, bytes(40 << 20)))
    refused("more than", lambda m, _: with_layer(m, bomb, tar_bytes=1 << 20, file_bytes=1 << 20))
    refused("more than", lambda m, _: with_layer(m, bomb, tar_bytes=1 << 20, file_bytes=1 << 39))
    refused("claims to hold", lambda m, layer: ({**m, "tar_bytes": 1 << 50}, layer))
    refused("claims to hold", lambda m, layer: ({**m, "entries": 1 << 40}, layer))
    many = layer_of(*[(f"f{n}", tarfile.REGTYPE, b"") for n in range(500)])
    refused("more than", lambda m, _: with_layer(m, many, entries=400))
    if shutil.disk_usage(refused.file.parent).free < 60 << 30:
        refused("MB are free", lambda m, layer: ({**m, "tar_bytes": 60 << 30}, layer))


def test_a_missing_template_is_named(refused):
    assert "python-3.12" in refused("not here", lambda m, layer: ({**m, "template": "python-3.12"}, layer))
    assert "sha256:1234" in refused("another", lambda m, layer: ({**m, "template_digest": "sha256:1234"}, layer))


# --- the OCI archive ------------------------------------------------------------------------------


def need(program: str) -> str:
    path = shutil.which(program)
    if not path:
        cannot_run(f"{program} is not here: apt-get install {program}")
    return path


@pytest.fixture
def oci(box, call, scratch):
    emulator, api, sandbox, _ = box
    file = scratch / "image.tar"
    call(emulator.state_dir, "export", "--oci", "--tag", "paused", sandbox, file)
    yield file
    file.unlink()


def quiet(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done
    return done.stdout


def test_an_oci_archive_is_what_the_specification_says(oci):
    """Without any tool: every blob is what its name says, and no more and no less than what is referred to."""
    with tarfile.open(oci) as tar:
        names = tar.getnames()
        blobs = {name.rpartition("/")[2]: tar.extractfile(name).read() for name in names if name.startswith("blobs/sha256/")}
        assert json.load(tar.extractfile("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
        index = json.load(tar.extractfile("index.json"))
    assert names[:2] == ["blobs", "blobs/sha256"], "a reader without root may not make folders as it likes"
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())
    [image] = index["manifests"]
    assert image["annotations"] == {"org.opencontainers.image.ref.name": "paused"}
    used = set()

    def blob(descriptor):
        name = descriptor["digest"].removeprefix("sha256:")
        assert len(blobs[name]) == descriptor["size"]
        used.add(name)
        return blobs[name]

    manifest = json.loads(blob(image))
    config = json.loads(blob(manifest["config"]))
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(blob(layer)).hexdigest() for layer in manifest["layers"]]
    assert config["os"] == "linux" and config["config"]["WorkingDir"] == "/workspace"
    assert "blue" not in json.dumps(config) + json.dumps(manifest)
    assert used == blobs.keys()


def test_skopeo_accepts_it(oci, scratch):
    need("skopeo")
    if os.geteuid() == 0:  # whoever reads it may be an ordinary user
        with tempfile.TemporaryDirectory() as home:
            os.chmod(home, 0o777)
            copy = shutil.copy(oci, home)
            os.chmod(copy, 0o644)
            quiet("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"HOME={home}",
                  "skopeo", "inspect", f"oci-archive:{copy}")  # fmt: skip
    seen = json.loads(quiet("skopeo", "inspect", f"oci-archive:{oci}"))
    assert seen["Os"] == "linux" and len(seen["Layers"]) >= 2
    quiet("skopeo", "copy", f"oci-archive:{oci}:paused", f"oci:{scratch}/copied:paused")
    quiet("skopeo", "copy", f"oci-archive:{oci}", f"docker-archive:{scratch}/docker.tar:orkestr/paused:1")
    assert "manifest.json" in quiet("tar", "tf", scratch / "docker.tar")
    shutil.rmtree(scratch / "copied")
    (scratch / "docker.tar").unlink()


def test_umoci_unpacks_it(oci, scratch):
    need("umoci")
    if os.geteuid() != 0:
        cannot_run("unpacking with owners needs root")
    layout, bundle = scratch / "layout", scratch / "bundle"
    layout.mkdir()
    quiet("tar", "xf", oci, "-C", layout)
    quiet("umoci", "unpack", "--image", f"{layout}:paused", bundle)
    root = bundle / "rootfs"
    assert (root / "workspace/d/plain").read_text() == "text\n"
    assert stat.S_IMODE((root / "workspace/d/plain").stat().st_mode) == 0o4755
    assert (root / "workspace/d/hard").stat().st_ino == (root / "workspace/d/plain").stat().st_ino
    assert (root / "workspace/d/empty").stat().st_mtime_ns == 981173106123456789
    assert ((root / "workspace/d/empty").stat().st_uid, (root / "workspace/d/empty").stat().st_gid) == (1000, 2000)
    assert os.readlink(root / "workspace/d/sym") == "../nowhere"
    assert not (root / "etc/nsswitch.conf").exists() and os.listdir(root / "home") == ["new"], "a deletion was lost"
    assert (root / "usr/bin/sh").exists(), "the template's files"
    shutil.rmtree(layout)
    shutil.rmtree(bundle)


def test_an_oci_export_needs_the_template(box, call, scratch):
    emulator, api, sandbox, _ = box
    template = emulator.state_dir / "templates" / "tiny.json"
    text = template.read_text()
    template.unlink()
    assert "tiny" in call(emulator.state_dir, "export", "--oci", sandbox, scratch / "none.tar", status=1).stderr
    assert not (scratch / "none.tar").exists()
    template.write_text(text)
    os.chown(template, os.stat(template.parent).st_uid, os.stat(template.parent).st_gid)
