"""The verbs besides serve."""

import json
import os
import shlex
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from harness.emulator import run, run_json

VERBS = ["", "serve", "exec", "doctor", "template", "template list", "template build", "template import", "template rm",
         "snapshot", "snapshot list", "snapshot export", "snapshot import", "snapshot rm", "events", "fault", "fault add",
         "reset", "seed", "clock", "key", "key create", "key list", "network", "network check", "clean", "version"]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_on_standard_output(binary, verb):
    verb = verb.split()
    done = run(binary, *verb, "--help")
    assert done.returncode == 0, done
    assert "usage" in done.stdout.lower() and done.stderr == "", done
    if verb:
        assert verb[0] in done.stdout


def test_version(binary, emulator):
    done = run(binary, "version")
    assert done.returncode == 0
    version = emulator.api(None).get("/_emulator/health").headers["x-orkestr-emulator"]
    assert version in done.stdout


@pytest.mark.parametrize("words", [
    ["nosuchverb"], ["--nosuchoption"], ["serve", "--nosuchoption"], ["serve", "stray"], ["template", "nosuch"],
    ["template"], ["template", "import"], ["template", "import", "x"], ["template", "rm"], ["serve", "--listen"],
    ["serve", "--log-level", "loud"], ["serve", "--auth", "none"], ["version", "extra"], ["clean", "extra"],
], ids=" ".join)  # fmt: skip
def test_mistakes_on_the_command_line(binary, words, new_state):
    done = run(binary, *words, timeout=20)
    assert done.returncode in (1, 2, 64), done
    assert done.stderr.strip(), done


COMMON = {  # said by every command that takes its options by a table
    "--nosuch": "there is no option --nosuch", "-x": "there is no option -x", "--state-dir": "--state-dir needs a value",
    "--help=1": "--help takes no value", "--state-dri=secret": "there is no option --state-dri; did you mean --state-dir?",
}  # fmt: skip
STRAY = "'stray' is not expected here"
FAULT = "wanted is: fault add NAME=VALUE..., fault list, or fault clear [ID]"
KEY = "wanted is: key create [KEY], key list, key change ID, or key revoke ID"
TIME = '"1 day" is no time: so many seconds, or 90m, 12h, 31d, at most 100 years'
MISTAKES = [
    *[(f"{verb} {words}", says) for verb in ("events", "fault", "reset", "seed", "clock", "key", "snapshot list")
      for words, says in COMMON.items()],
    ("events stray", STRAY), ("events --follow=1", "--follow takes no value"), ("events --since", "--since needs a value"),
    ("events stray --help", STRAY), ("fault", FAULT), ("fault list stray", FAULT), ("fault add", FAULT),
    ("reset stray", STRAY), ("seed", "which file?"), ("seed file stray", STRAY), ("clock stray --reset", STRAY),
    ("clock --advance 1 --reset", "one of --advance, --set and --reset"), ("clock --advance '1 day'", TIME),
    ("key", KEY), ("key create a b", KEY), ("key revoke", KEY), ("key create --expires-in '1 day'", TIME),
    ("snapshot", "which one: list, export, import or rm?"), ("snapshot stray", "the commands are list, export, import and rm"),
    ("snapshot list stray", "list takes no argument"), ("snapshot rm", "rm needs an ID"),
    ("snapshot list --oci", "an option given is not one of list"), ("snapshot list -j", "there is no option -j"),
    ("snapshot import x --key a --account b", "give either --key or --account"),
    ("clean stray", "'stray' is not expected here; a folder goes with --state-dir"), ("version stray", STRAY),
]  # fmt: skip


@pytest.mark.parametrize("words, says", MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_named(binary, words, says):
    verb, done = words.split()[0], run(binary, *shlex.split(words), timeout=20)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr == f"orkestr-emulator {verb}: {says}\nTry 'orkestr-emulator {verb} --help'.\n"


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor_tells_what_works(binary, new_state):
    state = new_state("tiny")
    done = run(binary, "doctor", "--state-dir", str(state))
    assert done.returncode == 0, done
    for word in ("user namespaces", "overlay", "cgroup", "nftables", "templates"):
        assert word in done.stdout.lower(), done.stdout
    found = run_json(binary, "doctor", "--json", "--state-dir", str(state))
    assert found["can_run"] is True and found["verdict"]
    checks = {check["id"]: check for check in found["checks"]}
    assert checks["userns"]["status"] == "ok" and checks["overlay"]["status"] == "ok", found
    for check in checks.values():
        assert check["title"] and check["found"], check
        assert check["status"] in ("ok", "skip") or check["means"] or check["fix"], check


def test_doctor_leaves_nothing(binary, new_state):
    before = open("/proc/self/mountinfo").read()
    run(binary, "doctor", "--state-dir", str(new_state("tiny")))
    assert open("/proc/self/mountinfo").read() == before


# --- templates ------------------------------------------------------------------------------------


def layers(state) -> list[str]:
    return sorted(os.listdir(state / "disk" / "l"))


def test_template_list(binary, new_state, tiny_tar):
    state = new_state("tiny")
    alone = layers(state)
    assert run(binary, "template", "import", "--state-dir", str(state), "ubuntu-24.04", str(tiny_tar)).returncode == 0
    assert layers(state) == alone, "layers are shared, not copied"
    listed = run_json(binary, "template", "list", "--json", "--state-dir", str(state))
    rows = {row["name"]: row for row in (listed["templates"] if isinstance(listed, dict) else listed)}
    assert {"tiny", "ubuntu-24.04"} <= rows.keys()
    tiny = rows["tiny"]
    assert "Tiny 1" in tiny["distribution"]
    assert tiny["digest"].startswith("sha256:") and tiny["digest"] == rows["ubuntu-24.04"]["digest"]
    assert tiny["source"]
    text = run(binary, "template", "list", "--state-dir", str(state))
    assert text.returncode == 0 and "tiny" in text.stdout and "Tiny 1" in text.stdout


def test_template_rm(binary, new_state):
    state = new_state("tiny", "other")
    both = layers(state)
    assert run(binary, "template", "rm", "--state-dir", str(state), "other").returncode == 0
    assert layers(state) == both, "the other one still has them"
    assert run(binary, "template", "rm", "--state-dir", str(state), "tiny").returncode == 0
    assert layers(state) == []
    gone = run(binary, "template", "rm", "--state-dir", str(state), "tiny")
    assert gone.returncode != 0 and "tiny" in gone.stderr


def test_a_template_in_use_stays_usable(new_emulator, binary):
    """rm of a template under a running sandbox is refused, or leaves the sandbox whole."""
    emulator = new_emulator("--auth", "any")
    api = emulator.api("ork_key_rm")
    sandbox = api.create()["id"]
    run(binary, "template", "rm", "--state-dir", str(emulator.state_dir), "tiny")
    assert api.sh(sandbox, "seq 2; ls /usr/bin/cat").split() == ["1", "2", "/usr/bin/cat"]
    api.delete(f"/v1/sandboxes/{sandbox}")


@pytest.mark.parametrize("packed", [None, "gzip", "zstd"])
def test_import_formats(binary, new_state, scratch, tiny_tar, packed, new_emulator):
    source = tiny_tar
    if packed:
        tool = {"gzip": "gzip", "zstd": "zstd"}[packed]
        source = scratch / f"tiny.tar.{packed}"
        try:
            with open(source, "wb") as out:
                subprocess.run([tool, "-c", "-1", str(tiny_tar)], stdout=out, check=True)
        except FileNotFoundError:
            from conftest import cannot_run

            cannot_run(f"{tool} is not here")
    state = scratch / f"import-{packed}"
    try:
        assert run(binary, "template", "import", "--state-dir", str(state), "packed", str(source)).returncode == 0
        emulator = new_emulator("--auth", "any", state=state, warm="packed")
        api = emulator.api("ork_packed")
        sandbox = api.create(template="packed")["id"]
        assert api.sh(sandbox, "echo hi; stat -c %a /tmp").split() == ["hi", "1777"]
        api.delete(f"/v1/sandboxes/{sandbox}")
        assert emulator.stop() == 0
    finally:
        run(binary, "clean", "--state-dir", str(state))


@pytest.mark.parametrize("what", ["garbage", "empty", "truncated", "missing", "a folder"])
def test_import_refuses_what_is_no_archive(binary, new_state, scratch, tiny_tar, what):
    state, path = new_state("tiny"), scratch / f"bad-{what.replace(' ', '-')}.tar"
    before = layers(state)
    if what == "garbage":
        path.write_bytes(os.urandom(50000))
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "truncated":
        path.write_bytes(tiny_tar.read_bytes()[:2_000_000])
    elif what == "a folder":
        path.mkdir(exist_ok=True)
    done = run(binary, "template", "import", "--state-dir", str(state), "bad", str(path))
    assert done.returncode != 0 and done.stderr.strip(), done
    assert not (state / "templates" / "bad.json").exists()
    assert layers(state) == before, "a half import was left"


@pytest.mark.parametrize("name", ["../x", "/x", "", "X", ".", "a/b", "a" * 100, "-x"])
def test_import_refuses_names(binary, new_state, tiny_tar, name):
    done = run(binary, "template", "import", "--state-dir", str(new_state("tiny")), "--", name, str(tiny_tar))
    assert done.returncode != 0, done


def hostile(tar: tarfile.TarFile, tiny: tarfile.TarFile, target: str):
    """A good template with entries that try to leave it."""
    import io

    for member in tiny:
        tar.addfile(member, tiny.extractfile(member) if member.isreg() else None)

    def add(name, kind=tarfile.REGTYPE, link="", data=b"evil"):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, link, 0o666
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)

    add(f"{target}/absolute")
    add(f"../../../../../../../..{target}/dots")
    add("out", tarfile.SYMTYPE, target)
    add("out/through")
    add("hard", tarfile.LNKTYPE, f"{target}/victim")
    add("up", tarfile.SYMTYPE, "../../../../../../../../" + target)
    add("up/through-dots")


def test_import_of_a_hostile_archive_writes_nothing_outside(binary, new_state, scratch, tiny_tar, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("safe")
    tmp_path.chmod(0o777)
    path = scratch / "hostile.tar"
    with tarfile.open(path, "w") as tar, tarfile.open(tiny_tar) as tiny:
        hostile(tar, tiny, str(tmp_path))
    run(binary, "template", "import", "--state-dir", str(new_state("tiny")), "hostile", str(path))
    assert os.listdir(tmp_path) == ["victim"] and victim.read_text() == "safe"
    assert victim.stat().st_nlink == 1


def test_device_nodes_of_an_archive_do_not_open(binary, new_state, scratch, tiny_tar, new_emulator):
    path = scratch / "devices.tar"
    with tarfile.open(path, "w") as tar, tarfile.open(tiny_tar) as tiny:
        for member in tiny:
            tar.addfile(member, tiny.extractfile(member) if member.isreg() else None)
        node = tarfile.TarInfo("opt/mem")
        node.type, node.devmajor, node.devminor, node.mode = tarfile.CHRTYPE, 1, 1, 0o666
        tar.addfile(node)
    state = new_state("tiny")
    if run(binary, "template", "import", "--state-dir", str(state), "devices", str(path)).returncode != 0:
        return  # refused as a whole: fine too
    emulator = new_emulator("--auth", "any", state=state)
    api = emulator.api("ork_key_dev")
    sandbox = api.create(template="devices")["id"]
    assert api.exec(sandbox, "head -c 1 /opt/mem > /dev/null")["exit_code"] != 0
    assert api.files("GET", sandbox, "/opt/mem").status >= 400
    api.delete(f"/v1/sandboxes/{sandbox}")


# --- clean ----------------------------------------------------------------------------------------


def test_clean_removes_everything(binary, new_state, new_emulator):
    state = new_state("tiny")
    emulator = new_emulator("--auth", "any", state=state)
    api = emulator.api("ork_clean")
    sandbox = api.create()["id"]
    api.sh(sandbox, "mkdir -m 0 /tmp/closed; touch /tmp/x; chown 1234:5678 /tmp/x || true")  # with one id it is nobody else's
    refused = run(binary, "clean", "--state-dir", str(state))
    assert refused.returncode != 0 and refused.stderr, "not under a running emulator"
    assert api.sh(sandbox, "echo whole") == "whole\n"
    for pid in emulator.family():
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    emulator.process.wait(10)
    done = run(binary, "clean", "--state-dir", str(state))
    assert done.returncode == 0, done
    assert not state.exists()
    whole = [str(folder) for folder in emulator.cgroups if folder.exists() and "orkestr" in str(folder)]
    assert whole == [], "clean also sweeps control groups"


def test_clean_of_nothing(binary, scratch):
    done = run(binary, "clean", "--state-dir", str(scratch / "never-made"))
    assert done.returncode in (0, 1), done


def test_clean_refuses_what_is_no_state_dir(binary, scratch):
    """A mistyped --state-dir must not cost anyone a home directory."""
    precious = scratch / "precious"
    (precious / "photos").mkdir(parents=True)
    (precious / "photos" / "cat.jpg").write_text("meow")
    done = run(binary, "clean", "--state-dir", str(precious))
    assert done.returncode != 0, done
    assert (precious / "photos" / "cat.jpg").read_text() == "meow"


def test_json_is_json_and_nothing_else(binary, new_state):
    state = str(new_state("tiny"))
    for words in (["doctor", "--json"], ["template", "list", "--json"]):
        json.loads(run(binary, *words, "--state-dir", state).stdout)


# --- an answer from something else ----------------------------------------------------------------


def test_learn_of_an_answer_that_makes_no_sense(binary):
    """What is no text among the rules is left out; it is somebody else's answer, or a proxy's."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"rules": [null, "b.test:443", 7, {}, "a.test:80", null, "b.test:443"]}')

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        environment = {**os.environ, "ORKESTR_BASE_URL": f"http://127.0.0.1:{server.server_port}", "ORKESTR_API_KEY": "x"}
        done = run(binary, "network", "learn", "sbx_0", "sbx_1", env=environment)
        server.shutdown()
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == ["a.test:80", "b.test:443"], done
