"""Custom templates: built by shell steps in a real sandbox, used like any other, and gone without a trace."""

from __future__ import annotations

import json
import os
import time

import pytest

from conftest import cannot_run
from harness.emulator import run
from harness.wire import check_error, check_invalid

BUILD_SECONDS = 60.0


def build(api, *steps, base="tiny", status=202, network="off", **fields):
    answer = api.post("/v1/templates", {"name": "mine", "base": base, "network": network, "steps": list(steps), **fields})
    assert answer.status == status, answer
    return answer.json if status == 202 else answer


def settled(api, template):
    """The template once it is ready or failed."""
    deadline = time.monotonic() + BUILD_SECONDS
    while (row := api.get(f"/v1/templates/{template['id']}").json)["status"] == "building":
        assert time.monotonic() < deadline, row
        time.sleep(0.02)
    return row


def ready(api, *steps, **fields):
    row = settled(api, build(api, *steps, **fields))
    assert row["status"] == "ready", row
    return row


def failed(api, *steps, **fields):
    row = settled(api, build(api, *steps, **fields))
    assert row["status"] == "failed", row
    return row


def log(api, template):
    answer = api.get(f"/v1/templates/{template['id']}/logs")
    assert answer.status == 200, answer
    return answer.json["lines"]


def until(condition, what="it"):
    deadline = time.monotonic() + BUILD_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def own_layers(emulator):
    """Layers that custom templates made, by their description."""
    folder = emulator.state_dir / "disk" / "l"
    described = {}
    for path in folder.glob("*.json"):
        try:
            described[path.name[:-5]] = json.loads(path.read_text())
        except FileNotFoundError:  # it goes while we look
            continue
    return {name for name, info in described.items() if info.get("recipe") == "custom"}


# --- the good way ---------------------------------------------------------------------------------


def test_steps_run_as_root_and_what_they_make_is_in_every_sandbox(api):
    template = build(api, "id -u; echo $HOME; pwd; echo kept > /opt/kept", "mkdir /srv; cp /opt/kept /srv/copy; rm /etc/group")
    assert template["id"].startswith("tmpl_") and template["status"] == "building" and template["base"] == "tiny"
    row = settled(api, template)
    assert row["status"] == "ready" and row["ready_at"] and row["digest"].startswith("sha256:"), row
    assert row["error"] is None and row["failed_step"] is None and row["distribution"].startswith("Tiny 1")
    output = "".join(line["data"] for line in log(api, row) if line["type"] == "output")
    assert output == "0\n/root\n/\n"
    for _ in range(2):
        answer = api.post("/v1/sandboxes", {"template": row["id"]})
        assert answer.status == 201 and answer.json["template"] == row["id"], answer
        assert api.sh(answer.json["id"], "cat /opt/kept /srv/copy; test -e /etc/group || echo gone") == "kept\nkept\ngone\n"
        api.sh(answer.json["id"], "echo changed > /opt/kept")


def test_the_build_itself_is_no_sandbox_of_the_account(api):
    template = build(api, "sleep 1")
    until(lambda: api.get(f"/v1/templates/{template['id']}").json["current_step"] == 1)
    assert api.get("/v1/sandboxes").json["sandboxes"] == []
    assert settled(api, template)["status"] == "ready"
    assert api.get("/v1/sandboxes").json["sandboxes"] == []


def test_nothing_is_copied(api, emulator):
    """The files of the layer are the very ones the steps wrote."""
    row = ready(api, "echo x > /opt/file; stat -c %i /opt/file")
    inode = next(int(line["data"]) for line in log(api, row) if line["type"] == "output")
    layers = json.loads((emulator.state_dir / "templates" / f"{row['id']}.json").read_text())["layers"]
    assert os.stat(emulator.state_dir / "disk" / "l" / layers[0] / "opt" / "file").st_ino == inode


def test_what_a_build_leaves_behind_is_scrubbed(api):
    row = ready(
        api,
        "mkdir -p /var/log/app /var/cache/apt/archives /var/lib/apt/lists/partial /root/.cache/pip/x /root/.cache/browsers",
        "for f in /var/log/app/a.log /var/cache/apt/archives/a.deb /var/lib/apt/lists/mirror /root/.cache/pip/x/y"
        " /root/.cache/browsers/b /etc/machine-id /root/.bash_history /tmp/t /var/tmp/t /etc/kept; do echo $f > $f; done",
    )
    sandbox = api.create(template=row["id"])["id"]
    left = api.sh(sandbox, "for f in $(echo /var/log/*/* /var/cache/apt/*/* /var/lib/apt/lists/* /root/.cache/*/*"
                           " /root/.cache/*/*/* /etc/machine-id /root/.bash_history /tmp/* /var/tmp/* /etc/kept);"
                           " do test -f $f && echo $f; done; true")  # fmt: skip
    assert left.split() == ["/root/.cache/browsers/b", "/etc/kept"]
    assert api.sh(sandbox, "test -d /var/log/app && test -d /var/lib/apt/lists/partial && echo folders") == "folders\n"
    assert api.sh(sandbox, "stat -c %a /tmp") == "1777\n"


def test_a_template_on_a_template(api, emulator):
    before = own_layers(emulator)
    first = ready(api, "echo 1 > /opt/one")
    second = ready(api, "cat /opt/one > /opt/two; echo 2 >> /opt/two", base=first["id"])
    assert len(own_layers(emulator) - before) == 2
    assert api.delete(f"/v1/templates/{first['id']}").status == 204
    sandbox = api.create(template=second["id"])["id"]
    assert api.sh(sandbox, "cat /opt/two") == "1\n2\n", "the base's layer stays while it is needed"
    check_error(api.post("/v1/sandboxes", {"template": first["id"]}), 404, "template_not_found")
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert api.delete(f"/v1/templates/{second['id']}").status == 204
    until(lambda: own_layers(emulator) == before, "the layers are gone with the last template that had them")


def test_equal_results_share_a_layer(api, emulator):
    before = own_layers(emulator)
    first, second = ready(api, "echo same > /opt/same"), ready(api, "printf 'same\\n' > /opt/same")
    assert first["digest"] == second["digest"] and first["id"] != second["id"]
    assert api.delete(f"/v1/templates/{first['id']}").status == 204
    assert api.sh(api.create(template=second["id"])["id"], "cat /opt/same") == "same\n"
    assert len(own_layers(emulator) - before) == 1


def test_list_and_filter(api):
    good, bad = ready(api, "true"), failed(api, "false")
    listed = api.get("/v1/templates").json
    assert [row["id"] for row in listed["templates"]] == [bad["id"], good["id"]] and listed["items"] == listed["templates"]
    assert listed["next_cursor"] is None and listed["has_more"] is False
    assert [row["id"] for row in api.get("/v1/templates", query={"status": "ready"}).json["templates"]] == [good["id"]]
    check_invalid(api.get("/v1/templates", query={"status": "nonsense"}), "status", "query")
    sandbox = api.create(template=good["id"])
    assert api.get(f"/v1/sandboxes/{sandbox['id']}").json["template"] == good["id"]


# --- failing --------------------------------------------------------------------------------------


def test_a_step_that_fails_ends_the_build(api):
    row = failed(api, "echo one", "echo out; echo err >&2; exit 7", "echo never")
    assert row["error"]["code"] == "step_failed" and "step 2" in row["error"]["message"] and "7" in row["error"]["message"]
    step = row["failed_step"]
    assert (step["number"], step["command"], step["exit_code"]) == (2, "echo out; echo err >&2; exit 7", 7)
    assert sorted(step["output"].splitlines()) == ["err", "out"] and step["output_truncated"] is False
    lines = log(api, row)
    assert [line["step"] for line in lines if line["type"] == "step"] == [1, 2]
    assert lines[-1] == {**lines[-1], "type": "end", "status": "failed", "code": "step_failed", "is_final": True}
    check_error(api.post("/v1/sandboxes", {"template": row["id"]}), 409, "template_not_ready")
    check_error(build(api, "true", base=row["id"], status=409), 409, "template_not_ready")
    assert api.delete(f"/v1/templates/{row['id']}").status == 204
    check_error(api.get(f"/v1/templates/{row['id']}"), 404, "template_not_found")


def test_a_step_ended_by_a_signal(api):
    row = failed(api, "kill -9 $$")
    assert row["failed_step"]["signal"] == 9 and row["failed_step"]["exit_code"] == 137, row


def test_much_and_strange_output_is_bounded(api):
    row = failed(api, "head -c 20000000 /dev/zero | tr '\\0' 'x'; printf '\\377\\000end'; exit 1")
    step = row["failed_step"]
    assert step["output_truncated"] is True and len(step["output"]) <= 40000 and step["output"].endswith("\ufffd\0end")
    lines = log(api, row)
    kept = sum(len(line["data"]) for line in lines if line["type"] == "output")
    missed = next(line["missed_bytes"] for line in lines if line["type"] == "step_end")
    assert kept <= 4 << 20 and kept + missed == 20_000_005


@pytest.mark.deadline
def test_a_build_has_a_time_limit(api):
    row = failed(api, "echo begun; sleep 100", timeout_seconds=10)
    assert row["error"]["code"] == "build_timeout" and row["failed_step"]["number"] == 1, row
    assert row["failed_step"]["output"] == "begun\n"


def test_no_network_unless_asked_for(api):
    row = failed(api, "read x < /proc/net/route && grep -q eth /proc/net/dev")
    assert row["network"] == "off" and row["failed_step"]["exit_code"] != 0


def test_the_network_is_that_of_package_managers_unless_another_is_asked_for(api, emulator):
    answer = api.post("/v1/templates", {"name": "n", "base": "tiny", "steps": ["cat /proc/net/dev"]})
    if answer.status == 503:
        cannot_run(answer.json["detail"])
    row = settled(api, answer.json)
    assert row["status"] == "ready" and row["network"] == "restricted", row
    devices = [line.split(":")[0].strip() for line in "".join(x.get("data", "") for x in log(api, row)).splitlines()[2:]]
    assert len(devices) == 2 and "lo" in devices
    assert api.create(template=row["id"])["network"] == "off", "what is made of it has its own"


def test_folders_too_deep_for_a_layer_fail_the_build(api, emulator):
    row = failed(api, "cd /opt; i=0; while [ $i -lt 250 ]; do mkdir d; cd d; i=$((i+1)); done")
    assert row["error"]["code"] == "template_too_large", row
    until(lambda: not os.listdir(emulator.state_dir / "disk" / "b"))
    assert row["failed_step"] is None


def test_a_hostile_tree(api):
    """Symlinks where the scrub looks, files nobody may read, names of any bytes: none of it leads anywhere."""
    row = ready(
        api,
        "rm -rf /var/log /tmp/..; ln -s /etc /var/log; mkdir -p /var/cache; ln -s /opt /var/cache/apt; echo k > /opt/k",
        "echo secret > /opt/secret; chmod 0 /opt/secret; mkdir -m 0 /opt/closed; printf x > \"$(printf '/opt/\\377\\n')\"",
        "ln -s /etc/passwd /etc/machine-id; mkfifo /opt/pipe; ln -sfn /etc /run/x",
    )
    sandbox = api.create(template=row["id"])["id"]
    assert api.sh(sandbox, "cat /opt/k /opt/secret; test -p /opt/pipe; head -n 1 /etc/passwd") == (
        "k\nsecret\nroot:x:0:0:root:/root:/bin/sh\n"
    )
    assert api.sh(sandbox, "stat -c %a /opt/secret /opt/closed; test -L /etc/machine-id || echo gone") == "0\n0\ngone\n"


# --- asking wrongly -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, field",
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 7}, "name"),
        ({"base": None}, "base"),
        ({"steps": None}, "steps"),
        ({"steps": []}, "steps"),
        ({"steps": "echo"}, "steps"),
        ({"steps": ["  \n"]}, "steps"),
        ({"steps": ["true", 7]}, "steps"),
        ({"steps": ["a\0b"]}, "steps"),
        ({"steps": ["x" * 70000]}, "steps"),
        ({"steps": ["true"] * 65}, "steps"),
        ({"network": "some"}, "network"),
        ({"timeout_seconds": 5}, "timeout_seconds"),
        ({"timeout_seconds": 3601}, "timeout_seconds"),
    ],
)
def test_what_is_wrong_is_named(api, change, field):
    body = {"name": "mine", "base": "tiny", "steps": ["true"], **change}
    check_invalid(api.post("/v1/templates", {k: v for k, v in body.items() if v is not None}), field)
    assert api.get("/v1/templates").json["templates"] == []


def test_bases_that_are_not_there(api, emulator):
    check_error(build(api, "true", base="nothing-here", status=404), 404, "template_not_found")
    check_error(build(api, "true", base="python-3.12", status=503), 503, "template_unavailable")
    check_error(build(api, "true", base="tmpl_../../etc", status=404), 404, "template_not_found")
    other = emulator.api("ork_somebody_else_00000000000000")
    theirs = ready(other, "true")
    check_error(build(api, "true", base=theirs["id"], status=404), 404, "template_not_found")
    for answer in (
        api.get(f"/v1/templates/{theirs['id']}"),
        api.delete(f"/v1/templates/{theirs['id']}"),
        api.get(f"/v1/templates/{theirs['id']}/logs"),
        api.post("/v1/sandboxes", {"template": theirs["id"]}),
    ):
        check_error(answer, 404, "template_not_found")
    assert api.get("/v1/templates").json["templates"] == []
    building = build(api, "sleep 2")
    check_error(build(api, "true", base=building["id"], status=409), 409, "template_not_ready")
    check_error(api.post("/v1/sandboxes", {"template": building["id"]}), 409, "template_not_ready")
    assert api.delete(f"/v1/templates/{building['id']}").status == 204


def test_plans_and_scopes(new_emulator):
    emulator = new_emulator(
        "--api-key", "ork_free_0000000000000000:free", "--api-key", "ork_read_0000000000000000:team:read"
    )  # fmt: skip
    reader, free = emulator.api("ork_read_0000000000000000"), emulator.api("ork_free_0000000000000000")
    body = {"name": "n", "base": "tiny", "steps": ["true"], "network": "off"}
    check_error(reader.post("/v1/templates", body), 403, "insufficient_scope")
    check_error(reader.delete("/v1/templates/tmpl_01M81S2M166ME1AWBYGY0EJ8DS"), 403, "insufficient_scope")
    assert reader.get("/v1/templates").status == 200
    check_error(emulator.api(None).get("/v1/templates"), 401, "unauthorized")
    check_error(free.post("/v1/templates", {**body, "network": "open"}), 402, "network_not_allowed")
    sandbox = free.create()["id"]  # all that the plan allows at a time, and a build is none of them
    slow = build(free, "sleep 3")
    check_error(free.post("/v1/templates", body), 402, "concurrent_limit")
    assert free.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert settled(free, slow)["status"] == "ready"
    ready(free, "true")
    check_error(free.post("/v1/templates", body), 402, "template_cap_reached")
    assert free.delete(f"/v1/templates/{slow['id']}").status == 204
    ready(free, "true")


# --- the log --------------------------------------------------------------------------------------


def stream(api, template, accept, **headers):
    answer = api.get(f"/v1/templates/{template['id']}/logs", headers={"Accept": accept, **headers}, timeout=60)
    assert answer.status == 200 and answer.headers["content-type"].startswith(accept), answer
    return answer.body.decode()


def events(text):
    """(id, event) of a stream of Server-Sent Events."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((fields["id"], json.loads(fields["data"])))
    return found


def test_the_log_streams_to_the_builds_end(api, run_in_background):
    template = build(api, "echo one", "sleep 1", "echo two")
    both = [run_in_background(stream, api, template, kind) for kind in ("text/event-stream", "application/x-ndjson")]
    sse, ndjson = events(both[0].result()), [json.loads(line) for line in both[1].result().splitlines()]
    assert [event for _, event in sse] == ndjson == log(api, template)
    assert [line["type"] for line in ndjson if line["type"].startswith("step")] == ["step", "step_end"] * 3
    assert ndjson[-1]["status"] == "ready" and [line for line in ndjson if line.get("is_final")] == ndjson[-1:]
    # Again behind the third event: nothing twice, nothing left out.
    rest = events(stream(api, template, "text/event-stream", **{"Last-Event-ID": sse[2][0]}))
    assert rest == sse[3:]
    whole = api.get(f"/v1/templates/{template['id']}/logs").json
    assert whole["status"] == "ready" and str(whole["next"]) == sse[-1][0]
    assert api.get(f"/v1/templates/{template['id']}/logs", query={"after": whole["next"]}).json["lines"] == []
    for wrong in ("1", "99999999", "x", "-1"):
        check_invalid(api.get(f"/v1/templates/{template['id']}/logs", query={"after": wrong}), "after", "query")


def test_other_requests_go_on_while_a_build_writes_much(api):
    template = build(api, "i=0; while [ $i -lt 200 ]; do head -c 50000 /dev/zero | tr '\\0' x; i=$((i+1)); done")
    sandbox = api.create()["id"]
    assert api.sh(sandbox, "echo quick") == "quick\n"
    assert settled(api, template)["status"] == "ready"


# --- deleting -------------------------------------------------------------------------------------


def test_one_in_use_stays(api, freezer):
    row = ready(api, "echo x > /opt/x")
    running, paused = api.create(template=row["id"])["id"], api.create(template=row["id"])["id"]
    assert api.post(f"/v1/sandboxes/{paused}/pause", timeout=60).status == 200
    body = check_error(api.delete(f"/v1/templates/{row['id']}"), 409, "template_in_use")
    assert sorted(body["used_by"]) == sorted([running, paused])
    assert api.delete(f"/v1/sandboxes/{running}").status == 200
    body = check_error(api.delete(f"/v1/templates/{row['id']}"), 409, "template_in_use")
    assert body["used_by"] == [paused] and paused in body["detail"]
    assert api.post(f"/v1/sandboxes/{paused}/resume", timeout=60).status == 200
    assert api.sh(paused, "cat /opt/x") == "x\n"
    assert api.delete(f"/v1/sandboxes/{paused}").status == 200
    on_it = build(api, "sleep 2", base=row["id"])
    assert check_error(api.delete(f"/v1/templates/{row['id']}"), 409, "template_in_use")["used_by"] == [on_it["id"]]
    assert api.delete(f"/v1/templates/{on_it['id']}").status == 204
    assert api.delete(f"/v1/templates/{row['id']}").status == 204
    check_error(api.delete(f"/v1/templates/{row['id']}"), 404, "template_not_found")


@pytest.mark.parametrize("delay", [0, 0.01, 0.03, 0.1, 0.6])
def test_delete_at_any_moment_of_a_build(api, emulator, delay, run_in_background):
    before = own_layers(emulator)
    template = build(api, f"echo {delay} > /opt/x; head -c 3000000 /dev/urandom > /opt/y", "sleep 0.2")
    reader = run_in_background(stream, api, template, "application/x-ndjson")
    time.sleep(delay)
    answer = api.delete(f"/v1/templates/{template['id']}")
    assert answer.status == 204, answer
    check_error(api.get(f"/v1/templates/{template['id']}"), 404, "template_not_found")
    check_error(api.get(f"/v1/templates/{template['id']}/logs"), 404, "template_not_found")
    assert api.get("/v1/templates").json["templates"] == []
    try:
        last = json.loads(reader.result().splitlines()[-1])
        assert last["is_final"] is True and last["status"] in ("deleted", "ready"), last
    except AssertionError as error:
        assert "template_not_found" in str(error), error  # it was deleted before the reader came
    until(lambda: own_layers(emulator) == before and not os.listdir(emulator.state_dir / "disk" / "b"))
    until(lambda: not [n for n in os.listdir(emulator.state_dir / "templates") if n.startswith(template["id"])])


def test_the_command_line_knows_them(api, emulator, binary):
    row = ready(api, "echo x > /opt/x")
    state = ("--state-dir", str(emulator.state_dir))
    listed = json.loads(run(binary, "template", "list", "--json", *state).stdout)
    found = next(t for t in listed if t["name"] == row["id"])
    assert found["digest"] == row["digest"] and "custom step" in found["source"]
    assert row["id"] in run(binary, "template", "list", *state).stdout
    refused = run(binary, "template", "import", "tmpl_mine", "/dev/null", *state)
    assert refused.returncode == 1 and "tmpl_" in refused.stderr
    assert run(binary, "template", "rm", row["id"], *state).returncode == 0
    check_error(api.get(f"/v1/templates/{row['id']}"), 404, "template_not_found")
    check_error(api.post("/v1/sandboxes", {"template": row["id"]}), 404, "template_not_found")
    assert api.get("/v1/templates").json["templates"] == []


# --- the emulator's own end -----------------------------------------------------------------------


def left_of_builds(emulator):
    names = os.listdir(emulator.state_dir / "templates")
    return [n for n in names if n.startswith("tmpl_") and n.endswith(".json")] + os.listdir(emulator.state_dir / "disk" / "b")


def check_interrupted(api, emulator, template):
    row = api.get(f"/v1/templates/{template['id']}").json
    assert row["status"] == "failed" and row["error"]["code"] == "interrupted", row
    assert log(api, row)[-1]["code"] == "interrupted"
    assert left_of_builds(emulator) == [] and own_layers(emulator) == set()
    assert ready(api, "true")["status"] == "ready"
    assert api.delete(f"/v1/templates/{template['id']}").status == 204


def test_a_clean_stop_ends_builds(mortal, key):
    first = mortal()
    template = build(first.api(key), "echo x > /opt/x; sleep 100")
    until(lambda: first.api(key).get(f"/v1/templates/{template['id']}").json["current_step"])
    assert first.stop() == 0, first.log()
    first.check_nothing_left()
    second = mortal(state=first.state_dir)
    check_interrupted(second.api(key), second, template)


@pytest.mark.parametrize("step", ["sleep 100", "head -c 80000000 /dev/urandom > /opt/much"])
def test_after_a_kill_the_build_has_failed_and_nothing_is_left(mortal, key, step):
    first = mortal()
    api = first.api(key)
    kept = ready(api, "echo kept > /opt/kept")
    template = build(api, step)
    if step.startswith("sleep"):
        until(lambda: api.get(f"/v1/templates/{template['id']}").json["current_step"])
    else:
        until(lambda: [line for line in log(api, template) if line["type"] in ("note", "end")], "the layer is made")
    first.kill_all()
    second = mortal(state=first.state_dir)
    api = second.api(key)
    sandbox = api.create(template=kept["id"])["id"]
    assert api.sh(sandbox, "cat /opt/kept") == "kept\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert api.delete(f"/v1/templates/{kept['id']}").status == 204
    until(lambda: second.trash() == set() and os.listdir(second.state_dir / "disk" / "b") == [])
    if api.get(f"/v1/templates/{template['id']}").json["status"] == "ready":  # just before it was killed
        assert not step.startswith("sleep") and len(own_layers(second)) == 1
        assert api.sh(api.create(template=template["id"])["id"], "wc -c < /opt/much") == "80000000\n"
    else:
        until(lambda: own_layers(second) == set())
        check_interrupted(api, second, template)


@pytest.mark.parametrize("how", ["kill -9", "--keep"])
def test_a_build_is_not_taken_over(new_emulator, key, how):
    """The next start goes on with sandboxes that the last one left, but not with what was in the middle of a build."""
    emulator = new_emulator("--auth", "any", *(["--keep"] if how == "--keep" else []))
    api = emulator.api(key)
    kept = ready(api, "echo kept > /opt/kept")
    sandbox = api.create(template=kept["id"])["id"]
    template = build(api, "sleep 1000")
    until(lambda: api.get(f"/v1/templates/{template['id']}").json["current_step"])
    if how == "--keep":
        assert emulator.stop() == 0, emulator.log()
    else:
        emulator.kill_daemon()
    emulator.again("--auth", "any")
    api = emulator.api(key)
    assert api.sh(sandbox, "cat /opt/kept") == "kept\n"
    emulator.check_accounted(1)
    row = api.get(f"/v1/templates/{template['id']}").json
    assert row["status"] == "failed" and row["error"]["code"] == "interrupted", row
    assert check_error(api.delete(f"/v1/templates/{kept['id']}"), 409, "template_in_use")["used_by"] == [sandbox]
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert api.delete(f"/v1/templates/{kept['id']}").status == 204
    until(lambda: own_layers(emulator) == set())


def test_a_reset_ends_a_build_and_keeps_templates(new_emulator, key):
    emulator = new_emulator("--auth", "any")
    api = emulator.api(key)
    kept, template = ready(api, "true"), build(api, "sleep 1000")
    until(lambda: api.get(f"/v1/templates/{template['id']}").json["current_step"])
    assert api.post("/_emulator/reset", {"all": True}).status == 200
    row = settled(api, template)
    assert row["status"] == "failed" and row["error"]["code"] == "sandbox_lost", row
    assert api.get(f"/v1/templates/{kept['id']}").json["status"] == "ready"


def test_a_cold_resume_finds_its_template(mortal, key, freezer):
    first = mortal()
    api = first.api(key)
    row = ready(api, "echo base > /opt/base")
    sandbox = api.create(template=row["id"])["id"]
    api.sh(sandbox, "echo mine > /opt/mine")
    assert api.post(f"/v1/sandboxes/{sandbox}/pause", timeout=60).status == 200
    first.kill_all()
    second = mortal(state=first.state_dir)
    api = second.api(key)
    check_error(api.delete(f"/v1/templates/{row['id']}"), 409, "template_in_use")
    answer = api.post(f"/v1/sandboxes/{sandbox}/resume", timeout=60)
    assert answer.status == 200 and "memory-lost" in answer.divergences, answer
    assert api.sh(sandbox, "cat /opt/base /opt/mine") == "base\nmine\n"
    assert api.delete(f"/v1/sandboxes/{sandbox}").status == 200
    assert api.delete(f"/v1/templates/{row['id']}").status == 204
