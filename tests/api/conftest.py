"""Fixtures of the API suite; see harness/ for what they are made of.

Environment
    ORKESTR_EMULATOR         the binary to test (default: build/orkestr-emulator)
    ORKESTR_TEST_TEMPLATES   a state dir that has the real templates (default: build/test-state, built once)
    MUST_RUN=1               what cannot run here is a failure, not a skip
    ORKESTR_TEST_SLOW=N      this machine is N times slower than the time-outs assume (harness/slow.py)
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import orkestr  # noqa: E402
from harness import slow  # noqa: E402
from harness import tiny as tiny_image  # noqa: E402
from harness.emulator import Emulator, run  # noqa: E402

slow.install()

pytest_plugins = ["harness.internet", "harness.netbox"]  # their fixtures

# Names the shared emulator answers to besides "tiny": the cloud's own, where no test runs an interpreter.
TINY_NAMES = ["tiny", "ubuntu-24.04"]
REAL_TEMPLATES = ["python-3.12", "python-3.12-bare", "node-22", "ubuntu-24.04"]

_live: list[Emulator] = []


def cannot_run(reason: str) -> None:
    """A check that this host can't do: seen in the report, and a failure when MUST_RUN=1."""
    if os.environ.get("MUST_RUN") == "1":
        pytest.fail(f"MUST_RUN=1: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    """With several workers (run), a file stays with one of them, and the real templates' state dir has one emulator."""
    items.sort(key=lambda item: item.get_closest_marker("deadline") is not None)
    for item in items:
        real = "real_state" in item.fixturenames
        item.add_marker(pytest.mark.xdist_group("real" if real else item.path.name))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """With a failure comes the end of the log of whoever was asked: an answer of 500 only says that it is there."""
    report = (yield).get_result()
    if report.failed:
        for emulator in _live:
            report.sections.append((f"log of {emulator.state_dir.name}", "\n".join(emulator.log().splitlines()[-15:])))


# --- once a session -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def binary() -> Path:
    path = Path(os.environ.get("ORKESTR_EMULATOR", ROOT / "build" / "orkestr-emulator"))
    if not os.access(path, os.X_OK):
        pytest.exit(f"{path} is not there: run make first", returncode=1)
    return path


@pytest.fixture(scope="session")
def scratch():
    """A folder only we may enter, as temporary folders are; the emulator must work in it all the same. On a disk: where
    /tmp is one of memory (Debian 13), what sandboxes write there is memory of theirs."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], capture_output=True, text=True)
    disk = "/var/tmp" if kind.stdout == "tmpfs\n" and "TMPDIR" not in os.environ else None
    path = Path(tempfile.mkdtemp(prefix="orkestr-test-", dir=disk))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_tar(scratch) -> Path:
    return tiny_image.build(scratch / "tiny.tar")


@pytest.fixture(scope="session")
def new_state(binary, scratch, tiny_tar):
    """Makes a state dir with the tiny template under each of the names; removed at the end by `clean`."""
    made: list[Path] = []

    def make(*names: str) -> Path:
        state = scratch / f"state-{len(made)}"
        made.append(state)
        for name in names or ("tiny",):
            done = run(binary, "template", "import", "--state-dir", str(state), name, str(tiny_tar))
            assert done.returncode == 0, done
        return state

    yield make
    for state in made:
        if state.exists():
            done = run(binary, "clean", "--state-dir", str(state))
            assert done.returncode == 0, done
            assert not state.exists(), f"clean left {state}"


@pytest.fixture(scope="session")
def compiled(scratch):
    """compiled("probe.c", "-static") -> the program made of a source of this folder."""

    def make(source: str, *flags: str) -> Path:
        if not shutil.which("gcc"):
            cannot_run("gcc is not here: apt-get install gcc")
        path = scratch / Path(source).stem
        while path.exists():
            path = path.with_name(path.name + "-again")
        command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", *flags, "-o", path, HERE / source]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return path

    return make


@pytest.fixture(scope="session", autouse=True)
def host_unchanged():
    """The emulator leaves firewall and links as they were."""
    before = _host_network()
    yield
    assert _host_network() == before, "the host's network is not as it was before the tests"


def _host_network() -> dict[str, str]:
    seen = {}
    for name, command in {"nft": ["nft", "list", "ruleset"], "ip": ["ip", "-o", "link"]}.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True)
            seen[name] = done.stdout if done.returncode == 0 else ""
    return seen


def _serve(binary: Path, state: Path, *args: str, **more):
    emulator = Emulator(binary, state, *args, **more)
    _live.append(emulator)
    try:
        with emulator:
            yield emulator
    finally:
        _live.remove(emulator)
        if emulator.process and emulator.process.poll() is None:
            emulator.kill_all()


@pytest.fixture(scope="session")
def emulator(binary, new_state):
    """The emulator most tests share; every key is an account of its own."""
    yield from _serve(binary, new_state(*TINY_NAMES), "--auth", "any")


@pytest.fixture
def freezer(emulator):
    """For a test that pauses: there is nothing to pause with on every host. What is said then: test_degraded.py."""
    groups = emulator.info()["cgroups"]
    if not groups["freeze"]:
        cannot_run(f"nothing here can freeze a sandbox: {groups['why']}")


@pytest.fixture
def fast_host():
    """For what has a budget of some milliseconds, or is about one who keeps a whole CPU busy."""
    if slow.FACTOR >= 5:
        cannot_run(f"this machine is {slow.FACTOR:g} times too slow for it (ORKESTR_TEST_SLOW)")


@pytest.fixture
def many_ids(emulator):
    """For a test that changes owners: a user without subordinate ids has one id inside. See test_degraded.py."""
    if emulator.info()["id_map"] == "single":
        cannot_run("one id alone is mapped here: the user has no subordinate ids")


@pytest.fixture(scope="session")
def real_state(binary, request, scratch) -> Path:
    """A state dir with the cloud's four templates, made once: it takes minutes."""
    given = os.environ.get("ORKESTR_TEST_TEMPLATES")
    state = Path(given) if given else ROOT / "build" / "test-state"
    capture = request.config.pluginmanager.getplugin("capturemanager")
    for name in REAL_TEMPLATES:
        if (state / "templates" / f"{name}.json").exists():
            continue
        if given:
            cannot_run(f"ORKESTR_TEST_TEMPLATES={given} has no template {name}")
        state.parent.mkdir(parents=True, exist_ok=True)
        with capture.global_and_fixture_disabled():
            print(f"\nbuilding template {name} in {state} (once, takes a while)", flush=True)
            done = subprocess.run([str(binary), "template", "build", "--state-dir", str(state), name])
        if done.returncode != 0:
            cannot_run(f"template build {name} failed with {done.returncode} (output above)")
    return _links_to(state, scratch / "real") if given and os.geteuid() == 0 else state


def _links_to(state: Path, own: Path) -> Path:
    """Several suites may be given the same state dir, and it serves one emulator: each takes links to its files."""
    if subprocess.run(["cp", "-al", str(state), str(own)], capture_output=True).returncode != 0:
        return state
    for name in ("lock", "orkestr.db", "orkestr.db-wal"):
        (own / name).unlink(missing_ok=True)
    return own


@pytest.fixture(scope="session")
def real_emulator(binary, real_state):
    """An emulator with the cloud's templates, for what needs an interpreter inside."""
    yield from _serve(binary, real_state, "--auth", "any", warm="python-3.12-bare")


# --- once a test ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def audit():
    """After every test, of whatever kind, nothing of it is left."""
    yield
    for emulator in list(_live):
        emulator.audit()


@pytest.fixture
def new_emulator(binary, new_state):
    """Starts an emulator of the test's own: new_emulator("--auth", "any", state=...). Stopped and checked
    when the test ends, unless the test ended it itself."""
    started: list[Emulator] = []

    def start(*args: str, state: Path | None = None, **more) -> Emulator:
        emulator = Emulator(binary, state or new_state("tiny"), *args, **more)
        started.append(emulator)
        emulator.start()
        return emulator

    yield start
    problems = []
    for emulator in reversed(started):
        if emulator.process is None:
            continue
        if emulator.process.returncode is not None:
            emulator.kill_all()  # orphans, where the test killed it
            continue
        try:
            status = emulator.stop()
            if status != 0:
                problems.append(f"exit status {status} after SIGTERM:\n{emulator.log()[-2000:]}")
            emulator.check_nothing_left()
        except AssertionError as error:
            problems.append(str(error))
        finally:
            emulator.kill_all()
    assert not problems, "\n".join(problems)


@pytest.fixture
def mortal(binary, new_state):
    """mortal(*args) -> an emulator; after its death another one may be started on the same state."""
    started: list[Emulator] = []

    def start(*args: str, state: Path | None = None) -> Emulator:
        emulator = Emulator(binary, state or new_state("tiny"), "--auth", "any", *args, warm=None)
        started.append(emulator)
        return emulator.start()

    yield start
    for emulator in started:
        if emulator.process.poll() is None:
            assert emulator.stop() == 0, emulator.log()
            emulator.check_nothing_left()


@pytest.fixture
def key() -> str:
    """A key of the test's own, and so an account of its own."""
    return f"ork_{secrets.token_hex(16)}"


@pytest.fixture
def api(emulator, key):
    """Raw requests with the test's own key; what it leaves running is terminated."""
    api = emulator.api(key)
    yield api
    terminate_all(api)


@pytest.fixture
def real_api(real_emulator, key):
    api = real_emulator.api(key)
    yield api
    terminate_all(api)


@pytest.fixture
def run_in_background():
    """run_in_background(function, *args) -> Future; all are awaited when the test ends."""
    with ThreadPoolExecutor(64) as pool:
        yield pool.submit


def terminate_all(api) -> None:
    for status in ("running", "paused", "creating", "resuming", "pausing"):
        while rows := api.get("/v1/sandboxes", query={"status": status, "limit": 200}).json["sandboxes"]:
            for row in rows:
                assert api.delete(f"/v1/sandboxes/{row['id']}").status == 200


@pytest.fixture
def sandbox(api) -> str:
    """The id of a running sandbox of the tiny template."""
    return api.create()["id"]


@pytest.fixture
def sdk(api, emulator, monkeypatch):
    """The SDK-shaped client, with the test's own key, against the shared emulator."""
    monkeypatch.setenv("ORKESTR_API_KEY", api.key)
    monkeypatch.setenv("ORKESTR_BASE_URL", f"http://127.0.0.1:{emulator.port}")
    return orkestr


@pytest.fixture
def real_sdk(real_api, real_emulator, monkeypatch):
    monkeypatch.setenv("ORKESTR_API_KEY", real_api.key)
    monkeypatch.setenv("ORKESTR_BASE_URL", f"http://127.0.0.1:{real_emulator.port}")
    return orkestr


# --- the report -----------------------------------------------------------------------------------

_closing_lines: list[str] = []


@pytest.fixture(scope="session")
def closing_lines() -> list[str]:
    """Lines of other runners (node --test) that belong at the end of ours."""
    return _closing_lines


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["closing"] = _closing_lines
        return
    counts = os.environ.get("ORKESTR_TEST_COUNTS")  # for `run`
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if counts and reporter:
        numbers = (len(reporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped"))
        Path(counts).write_text(" ".join(map(str, numbers)) + "\n")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """A worker is through: its lines are the report's."""
    _closing_lines.extend(getattr(node, "workeroutput", {}).get("closing", []))


def pytest_terminal_summary(terminalreporter):
    for line in _closing_lines:
        terminalreporter.write_line(line)
