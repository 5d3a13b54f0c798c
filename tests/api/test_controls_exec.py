"""Seeds, and `exec -- CMD`: an emulator for the time of one command."""

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import textwrap
import time

import pytest

from conftest import HERE
from harness import proc
from harness.emulator import run
from harness.wire import check_error
from test_user import someone, users_state  # noqa: F401  (fixtures)

SEED = {
    "accounts": [
        {"account": "alice", "key": "ork_seed_alice", "plan": "pro", "gb_hours_used": 199.5},
        {"account": "alice", "key": "ork_seed_reader", "scopes": ["read"]},
        {"account": "bob", "key": "ork_seed_bob1", "plan": "free", "expires_at": "2020-01-01T00:00:00Z"},
    ],
    "sandboxes": [
        {
            "account": "alice", "template": "tiny", "size": "small", "metadata": {"n": "1"}, "env": {"A": "b"},
            "files": [
                {"path": "/workspace/deep/a.txt", "content": "grüße\n"},
                {"path": "/workspace/run.sh", "content": base64.b64encode(b"#!/bin/sh\necho ran\n").decode(), "encoding": "base64",
                 "mode": "0755"},
            ],
            "run": ["./run.sh > out", {"command": ["/bin/sh", "-c", "echo $A >> out"], "timeout_seconds": 5}],
        },
        {"key": "ork_seed_alice", "template": "tiny", "cpu": 0.5, "memory_mb": 128, "paused": True},
    ],
}  # fmt: skip


@pytest.fixture
def seeded(new_emulator):
    """An emulator of the test's own: seeds change keys."""
    return new_emulator("--auth", "any")


def rows(api) -> list[tuple]:
    return [(r["id"], r["created_at"]) for r in api.get("/v1/sandboxes").json["sandboxes"]]


# --- seed -----------------------------------------------------------------------------------------


def test_a_seed(seeded, freezer):
    api, alice = seeded.api("ork_seed_admin"), seeded.api("ork_seed_alice")
    answer = api.post("/_emulator/seed", SEED)
    assert answer.status == 201, answer
    made = answer.json
    assert [a["account"] for a in made["accounts"]] == ["acc_alice", "acc_alice", "acc_bob"]
    first, second = made["sandboxes"]
    assert (first["status"], second["status"]) == ("running", "paused")
    assert alice.sh(first["id"], "cat deep/a.txt out; ls -l run.sh | cut -c1-10") == "grüße\nran\nb\n-rwxr-xr-x\n"
    row = alice.get(f"/v1/sandboxes/{second['id']}").json
    assert (row["cpu"], row["memory_mb"], row["status"]) == (0.5, 128, "paused")
    limits = alice.get("/v1/limits").json
    assert limits["plan"] == "pro" and limits["usage_gb_hours_used"] >= 199.5
    check_error(seeded.api("ork_seed_reader").post("/v1/sandboxes", {"template": "tiny"}), 403, "insufficient_scope")
    check_error(seeded.api("ork_seed_bob1").get("/v1/limits"), 401, "key_expired")
    # The usage that a seed gives can be used up.
    more = {"accounts": [{"account": "alice", "key": "ork_seed_alice", "plan": "pro", "gb_hours_used": 200}]}
    assert api.post("/_emulator/seed", more).status == 201
    check_error(alice.post("/v1/sandboxes", {"template": "tiny"}), 402, "usage_exhausted")
    assert api.post("/_emulator/reset").status == 200
    assert alice.get("/v1/limits").json["usage_gb_hours_used"] < 1


def test_the_same_seed_makes_the_same_ids_and_times(seeded, freezer):
    api, alice = seeded.api("ork_seed_admin"), seeded.api("ork_seed_alice")
    seen = []
    for number in (42, 42, 43):
        assert api.post("/_emulator/seed", {**SEED, "seed": number}).status == 201
        alice.delete(f"/v1/sandboxes/{alice.create(template='tiny', cpu=0.1, memory_mb=64)['id']}")
        seen.append(rows(alice))
        assert api.post("/_emulator/reset").status == 200
    assert seen[0] == seen[1] and len(set(seen[0])) == 3
    assert [created for _, created in seen[0]] == [f"2026-01-01T00:00:0{i}.000Z" for i in (3, 2, 1)]
    assert not {i for i, _ in seen[0]} & {i for i, _ in seen[2]}


@pytest.mark.parametrize("seed, says", [
    ({"acounts": []}, '"acounts" is not known here'),
    ({"accounts": {}}, "accounts: must be an array"),
    ({"accounts": [{"plan": "free"}]}, "accounts[0].key: is missing"),
    ({"accounts": [{"key": "ork_12345678", "plan": "gold"}]}, "accounts[0].plan: must be one of free, pro, team"),
    ({"accounts": [{"key": "ork_12345678", "scopes": ["admin"]}]}, "accounts[0].scopes: must be an array of read and write"),
    ({"accounts": [{"key": "ork_12345678", "expires_at": "soon"}]}, "accounts[0].expires_at: must be a time"),
    ({"sandboxes": [{"template": "tiny"}]}, "sandboxes[0].key: is missing"),
    ({"sandboxes": [{"account": "nobody", "template": "tiny"}]}, "sandboxes[0].account: \"nobody\" is not"),
    ({"sandboxes": [{"key": "ork_12345678"}]}, "sandboxes[0].template: is missing"),
    ({"sandboxes": [{"key": "ork_12345678", "template": "tiny", "timeout_seconds": 5}]}, "sandboxes[0].timeout_seconds: must be"),
    ({"sandboxes": [{"key": "ork_12345678", "template": "tiny", "env": {"1A": "b"}}]}, "sandboxes[0].env: \"1A\" is no name"),
    ({"sandboxes": [{"key": "ork_12345678", "template": "tiny", "files": [{"path": "/a", "content": ""}, {"path": "b", "content": ""}]}]},
     "sandboxes[0].files[1].path: must be absolute"),
    ({"sandboxes": [{"key": "ork_12345678", "template": "tiny", "files": [{"path": "/a", "content": "*", "encoding": "base64"}]}]},
     "sandboxes[0].files[0].content: is not base64"),
    ({"sandboxes": [{"key": "ork_12345678", "template": "tiny", "run": ["true", {"command": []}]}]},
     "sandboxes[0].run[1].command: must have 1 to"),
    ({"sandboxes": [{"key": "ork_12345678", "template": "tiny", "size": "small", "cpu": 1}]}, "sandboxes[0].size: give either"),
    ({"seed": -1}, "seed: must be a whole number"),
], ids=lambda v: v[:40] if isinstance(v, str) else "")  # fmt: skip
def test_a_bad_seed_names_the_place(api, seed, says):
    answer = api.post("/_emulator/seed", seed)
    check_error(answer, 422, "invalid_seed")
    assert answer.json["detail"].startswith(says), answer
    assert api.get("/v1/sandboxes").json["sandboxes"] == []


@pytest.mark.parametrize("step, says, status", [
    ({"run": ["true", "echo oops >&2; exit 3"]}, "sandboxes[0].run[1]: it ended with 3 (exited): oops", 422),
    ({"template": "nosuch"}, "sandboxes[0]: there is no template nosuch", 404),
    ({"files": [{"path": "/proc/nope", "content": ""}]}, "sandboxes[0].files[0]: ", None),
], ids=["command", "template", "file"])  # fmt: skip
def test_a_step_that_fails_names_the_place(api, step, says, status):
    answer = api.post("/_emulator/seed", {"sandboxes": [{"key": api.key, "template": "tiny", **step}]})
    assert answer.status >= 400 and (status is None or answer.status == status), answer
    assert answer.json["detail"].startswith(says), answer


def test_seed_file_of_serve_and_of_the_verb(binary, new_emulator, tmp_path, freezer):
    path = tmp_path / "seed.json"
    path.write_text(json.dumps(SEED))
    emulator = new_emulator("--auth", "any", "--seed-file", str(path), "--seed", "5", warm=None)
    alice = emulator.api("ork_seed_alice")
    assert [r["status"] for r in alice.get("/v1/sandboxes").json["sandboxes"]] == ["paused", "running"]  # when it is ready
    before = rows(alice)
    where = ["--url", f"http://127.0.0.1:{emulator.port}"]
    assert run(binary, "reset", *where).returncode == 0
    done = run(binary, "seed", str(path), "--seed", "5", *where)
    assert done.returncode == 0 and len(json.loads(done.stdout)["sandboxes"]) == 2, done
    assert rows(alice) == before
    assert run(binary, "reset", *where).returncode == 0


def test_serve_does_not_start_with_a_bad_seed_file(binary, new_state, tmp_path):
    state = new_state("tiny")
    for text, says in (("{\n\n oops", "line 3"), ('{"accounts": [{}]}', "accounts[0].key"),
                       (json.dumps({"sandboxes": [{"key": "ork_12345678", "template": "nosuch"}]}), "sandboxes[0]")):  # fmt: skip
        path = tmp_path / "seed.json"
        path.write_text(text)
        done = run(binary, "serve", "--state-dir", str(state), "--listen", "127.0.0.1:0", "--auth", "any", "--seed-file", str(path))
        assert done.returncode == 1 and says in done.stderr and str(path) in done.stderr, done


# --- exec -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state(new_state):
    return new_state("tiny")


@pytest.fixture
def ours(state, tmp_path):
    """Nothing of a run is left: processes, mounts, control groups, folders."""
    tag = f"exec-{os.getpid()}-{time.monotonic_ns()}"
    environment = {**os.environ, proc.TAG: tag, "PYTHONPATH": str(HERE), "TMPDIR": str(tmp_path)}
    before = (proc.contents(state / "disk" / "l"), proc.contents(state / "disk" / "s"), proc.contents(state / "templates"))
    yield environment
    deadline = time.monotonic() + 10
    while found := left(state, tag, tmp_path):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert before == (proc.contents(state / "disk" / "l"), proc.contents(state / "disk" / "s"), proc.contents(state / "templates"))


def left(state, tag, tmp_path) -> list[str]:
    found = [proc.describe(pid) for pid in proc.family(-1, tag)]
    found += [m for m in proc.mounts("self") or [] if str(state) in m]
    found += [str(p) for p in tmp_path.glob("orkestr-exec-*")] + [str(p) for p in [state / "runs"] if p.exists()]
    return found


def script(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def exec_(binary, state, ours, *options, command, **more):
    return run(binary, "exec", "--state-dir", str(state), *options, "--", *command, env=ours, **more)


QUICK_START = """
    import os, sys
    from orkestr import Sandbox
    with Sandbox.create("tiny") as sbx:
        sbx.files.write("/workspace/x", "42\\n")
        sys.stdout.write(sbx.exec("cat /workspace/x").stdout)
"""


def test_exec_runs_a_command_against_an_emulator_of_its_own(binary, state, ours):
    done = exec_(binary, state, ours, command=script(QUICK_START))
    assert done.returncode == 0 and done.stdout == "42\n", done
    assert "1 sandboxes" in done.stderr and "CPU-seconds" in done.stderr and "GB-seconds" in done.stderr
    assert "POST /v1/sandboxes -> 201" in done.stderr and "left" not in done.stderr


def test_exec_sets_the_environment(binary, state, ours):
    done = exec_(binary, state, {**ours, "NO_PROXY": "example.org"}, "--quiet", command=script("""
        import os, urllib.request
        names = ["BASE_URL", "API_URL", "API_BASE", "API_BASE_URL", "URL", "ENDPOINT", "EMULATOR_URL"]
        (url,) = {os.environ["ORKESTR_" + name] for name in names}
        assert urllib.request.urlopen(url + "/_emulator/health").status == 200
        assert os.environ["ORKESTR_API_KEY"].startswith("ork_") and os.environ["NO_PROXY"] == "example.org,127.0.0.1"
    """))  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done


def test_exec_passes_stdin_arguments_and_the_exit_status(binary, state, ours):
    process = subprocess.run(
        [str(binary), "exec", "--state-dir", str(state), "--quiet", "--", "sh", "-c", 'cat; echo "$0 $1"; exit 7', "--strict", "b c"],
        input="typed\n", capture_output=True, text=True, env=ours, timeout=60,
    )  # fmt: skip
    assert (process.returncode, process.stdout, process.stderr) == (7, "typed\n--strict b c\n", ""), process


LEAK = """
    from orkestr import Sandbox
    print(Sandbox.create("tiny").id, flush=True)
"""


def test_exec_tells_of_leaks(binary, state, ours):
    done = exec_(binary, state, ours, "--quiet", command=script(LEAK))
    assert done.returncode == 0 and f"left running: {done.stdout.strip()} (tiny" in done.stderr, done
    done = exec_(binary, state, ours, "--strict", command=script(LEAK))
    assert done.returncode == 1 and "left running" in done.stderr, done
    done = exec_(binary, state, ours, "--strict", command=script(LEAK + "    raise SystemExit(9)"))
    assert done.returncode == 9, "the command's own failure comes first"


def test_exec_of_a_command_that_kills_itself(binary, state, ours):
    done = exec_(binary, state, ours, command=script(LEAK + "    import os; os.kill(os.getpid(), 9)"))
    assert done.returncode == 128 + 9 and "left running" in done.stderr, done


WAITS = """
    import os, signal, sys, time
    from orkestr import Sandbox
    with Sandbox.create("tiny") as sbx:
        def stop(number, frame):
            os.write(1, f"signal {number}\\n".encode())  # print may be at work already, and is not reentrant
            raise SystemExit(30 + number)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        print("ready", flush=True)
        time.sleep(60)
"""


def start_waiting(binary, state, ours, stdin=subprocess.DEVNULL, **more):
    process = subprocess.Popen(
        [str(binary), "exec", "--state-dir", str(state), "--", *script(WAITS)], stdin=stdin,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ours, **more,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def test_exec_and_control_c(binary, state, ours):
    """A terminal's goes to all of the foreground; it is not sent on to the command a second time."""
    keyboard, terminal = os.openpty()
    try:
        process = start_waiting(
            binary, state, ours, stdin=terminal, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.write(keyboard, b"\x03")
        out, err = process.communicate(timeout=30)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert process.returncode == 32 and out.count("signal 2") == 1, (out, err)
    assert "1 sandboxes" in err and "left" not in err, (out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_exec_forwards_what_is_sent_to_it_alone(binary, state, ours, number):
    process = start_waiting(binary, state, ours)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 30 + number and out.count("signal") == 1 and "left" not in err, (out, err)


def test_exec_that_is_killed_leaves_nothing(binary, state, ours):
    process = start_waiting(binary, state, ours)
    process.kill()
    process.communicate(timeout=30)
    assert process.returncode == -9  # the rest is the fixture's


def test_exec_whose_emulator_is_killed(binary, state, ours):
    process = start_waiting(binary, state, ours)
    serve = [pid for pid in proc.family(-1, ours[proc.TAG]) if "\0serve\0" in proc_cmdline(pid)]
    assert serve
    os.kill(min(serve), signal.SIGKILL)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "did not end well" in err, (out, err)


def proc_cmdline(pid) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def test_exec_passes_options_on(binary, state, ours, tmp_path):
    seed, summary, log = tmp_path / "seed.json", tmp_path / "summary.json", tmp_path / "log"
    seed.write_text(json.dumps({"sandboxes": [{"key": "ork_exec_given", "template": "tiny"}]}))
    command = script("""
        from orkestr import Sandbox
        (sbx,) = Sandbox.list()
        print(sbx.status)
        sbx.terminate()
    """)  # fmt: skip
    done = exec_(binary, state, ours, "--seed-file", str(seed), "--api-key=ork_exec_given:pro", f"--summary={summary}",
                 "--log", str(log), "--log-level", "debug", command=command)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "running\n"), done
    told = json.loads(summary.read_text())
    assert told["sandboxes"]["created"] == 1 and told["sandboxes"]["live"] == [] and told["slowest"][0]["duration_ms"] > 0
    assert "DELETE /v1/sandboxes" in log.read_text()


def test_exec_mistakes(binary, state, ours, tmp_path):
    for words, says in ((["true"], "behind --"), (["--"], "which command"), ([], "which command"), (["--nosuch", "--", "true"], "nosuch"),
                        (["--profile", "slow", "--", "true"], "fast or cloud"), (["--listen", ":1", "--", "true"], "own business")):  # fmt: skip
        done = run(binary, "exec", *words, env=ours)
        assert done.returncode == 2 and says in done.stderr, done
    done = run(binary, "exec", "--state-dir", str(tmp_path / "none"), "--", "true", env=ours)
    assert done.returncode == 1 and "template build" in done.stderr, done
    done = exec_(binary, state, ours, "--seed-file", "/nonexistent", command=["true"])
    assert done.returncode == 1 and "/nonexistent" in done.stderr, done
    assert exec_(binary, state, ours, "--quiet", command=["/nonexistent/program"]).returncode == 127


def test_exec_beside_a_running_emulator_and_another_exec(binary, state, ours, new_emulator):
    emulator = new_emulator("--auth", "any", state=state)
    api = emulator.api("ork_exec_beside")
    sbx = api.create()["id"]
    runs = [
        subprocess.Popen([str(binary), "exec", "--state-dir", str(state), "--quiet", "--strict", "--", *script(QUICK_START)],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ours)
        for _ in range(2)
    ]  # fmt: skip
    for process in runs:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "42\n", "")
    assert api.sh(sbx, "echo alive") == "alive\n"
    api.delete(f"/v1/sandboxes/{sbx}")


def test_exec_as_an_ordinary_user(someone, users_state):  # noqa: F811
    _, program, _, popen = someone
    command = """
        curl -sS -H "Authorization: Bearer $ORKESTR_API_KEY" "$ORKESTR_BASE_URL/v1/sandboxes" -d '{"template": "tiny"}' | grep -c running
    """
    done = run(program, "exec", "--state-dir", str(users_state), "--", "sh", "-c", command, **popen)
    assert (done.returncode, done.stdout) == (0, "1\n") and "left running: sbx_" in done.stderr, done
    assert not (users_state / "runs").exists()
