"""Bad create and exec bodies: each gets FastAPI's 422 that names the field, and nothing is made."""

import pytest

from harness.wire import check_error, check_invalid

OK = {"template": "tiny"}
NOT_A_STRING = [5, True, ["tiny"], {"name": "tiny"}]

CREATE = [
    # template
    ("template missing", {"template": ...}, "template"),
    ("template null", {"template": None}, "template"),
    ("template empty", {"template": ""}, "template"),
    *[(f"template {value!r}", {"template": value}, "template") for value in NOT_A_STRING],
    # size
    ("size unknown", {"size": "huge"}, "size"),
    ("size empty", {"size": ""}, "size"),
    ("size upper case", {"size": "SMALL"}, "size"),
    ("size number", {"size": 1}, "size"),
    ("size and cpu", {"size": "small", "cpu": 0.5}, None),
    ("size and memory", {"size": "small", "memory_mb": 512}, None),
    # cpu
    ("cpu zero", {"cpu": 0}, "cpu"),
    ("cpu negative", {"cpu": -1}, "cpu"),
    ("cpu text", {"cpu": "one"}, "cpu"),
    ("cpu true", {"cpu": True}, "cpu"),
    ("cpu list", {"cpu": [1]}, "cpu"),
    ("cpu too small to enforce", {"cpu": 0.0001}, "cpu"),
    # memory_mb
    ("memory zero", {"memory_mb": 0}, "memory_mb"),
    ("memory negative", {"memory_mb": -512}, "memory_mb"),
    ("memory fraction", {"memory_mb": 512.5}, "memory_mb"),
    ("memory text", {"memory_mb": "lots"}, "memory_mb"),
    ("memory true", {"memory_mb": True}, "memory_mb"),
    ("memory object", {"memory_mb": {}}, "memory_mb"),
    # network
    ("network unknown", {"network": "on"}, "network"),
    ("network empty", {"network": ""}, "network"),
    ("network number", {"network": 0}, "network"),
    ("network bool", {"network": False}, "network"),
    # timeout_seconds
    ("timeout below", {"timeout_seconds": 9}, "timeout_seconds"),
    ("timeout above", {"timeout_seconds": 3601}, "timeout_seconds"),
    ("timeout zero", {"timeout_seconds": 0}, "timeout_seconds"),
    ("timeout negative", {"timeout_seconds": -60}, "timeout_seconds"),
    ("timeout fraction", {"timeout_seconds": 60.5}, "timeout_seconds"),
    ("timeout text", {"timeout_seconds": "soon"}, "timeout_seconds"),
    ("timeout true", {"timeout_seconds": True}, "timeout_seconds"),
    ("timeout beyond 64 bits", {"timeout_seconds": 10**30}, "timeout_seconds"),
    # env
    ("env list", {"env": ["A=1"]}, "env"),
    ("env text", {"env": "A=1"}, "env"),
    ("env number value", {"env": {"A": 1}}, "env"),
    ("env null value", {"env": {"A": None}}, "env"),
    ("env nested", {"env": {"A": {"B": "c"}}}, "env"),
    ("env name digit", {"env": {"1A": "x"}}, "env"),
    ("env name space", {"env": {"A B": "x"}}, "env"),
    ("env name equals", {"env": {"A=B": "x"}}, "env"),
    ("env name empty", {"env": {"": "x"}}, "env"),
    ("env name dash", {"env": {"A-B": "x"}}, "env"),
    ("env name not ASCII", {"env": {"Ä": "x"}}, "env"),
    ("env name newline", {"env": {"A\n": "x"}}, "env"),
    ("env value NUL", {"env": {"A": "x\0y"}}, "env"),
    ("env too large", {"env": {"A": "x" * 70000}}, None),
    # metadata
    ("metadata list", {"metadata": []}, "metadata"),
    ("metadata text", {"metadata": "x"}, "metadata"),
    ("metadata number value", {"metadata": {"a": 1}}, "metadata"),
    ("metadata nested", {"metadata": {"a": {"b": "c"}}}, "metadata"),
    ("metadata too large", {"metadata": {"a": "x" * 70000}}, None),
    ("env and metadata too large together", {"env": {"A": "x" * 40000}, "metadata": {"a": "x" * 40000}}, None),
    # region
    ("region unknown", {"region": "us-east-1"}, "region"),
    ("region empty", {"region": ""}, "region"),
    ("region number", {"region": 5}, "region"),
]  # fmt: skip


@pytest.mark.parametrize("change, field", [case[1:] for case in CREATE], ids=[case[0] for case in CREATE])
def test_create_refuses(api, change, field):
    body = {name: value for name, value in {**OK, **change}.items() if value is not ...}
    check_invalid(api.post("/v1/sandboxes", body), field)
    assert api.get("/v1/sandboxes").json["sandboxes"] == []


def test_several_mistakes_name_at_least_one_and_make_nothing(api):
    check_invalid(api.post("/v1/sandboxes", {"cpu": "x", "timeout_seconds": 1, "env": 7}), None)
    assert api.get("/v1/sandboxes").json["sandboxes"] == []


@pytest.mark.parametrize("fields", [
    {"timeout_seconds": 10}, {"timeout_seconds": 3600}, {"cpu": 4, "memory_mb": 8192}, {"cpu": 1}, {"cpu": 0.5},
    {"timeout_seconds": 60.0}, {"env": {"_": "x", "A1_b": ""}}, {"env": {}, "metadata": {}},
    {"metadata": {"": "empty name", "x y": "ü\n"}}, {"env": {"A": "x" * 60000}}, {"region": "fsn1"},
], ids=lambda fields: str(fields)[:40])  # fmt: skip
def test_create_accepts_the_edges(api, fields):
    api.create(**fields)


BODIES = [
    ("empty array", b"[]"), ("text", b'"tiny"'), ("number", b"5"), ("null", b"null"), ("true", b"true"),
    ("half an object", b'{"template": "tiny"'), ("not JSON", b"template=tiny"), ("one brace", b"{"),
    ("trailing text", b'{"template": "tiny"} x'), ("single quotes", b"{'template': 'tiny'}"),
    ("invalid UTF-8", b'{"template": "\xff\xfe"}'),
    ("NUL byte", b'{"template": "ti\0ny"}'), ("deep nesting", b'{"template":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ("NaN", b'{"template": "tiny", "cpu": NaN}'), ("huge number", b'{"template": "tiny", "cpu": 1e999}'),
    ("byte order mark", b'\xef\xbb\xbf{"template": 5}'), ("only spaces", b"    "), ("binary", bytes(range(256))),
]  # fmt: skip


@pytest.mark.parametrize("body", [case[1] for case in BODIES], ids=[case[0] for case in BODIES])
def test_bodies_that_are_no_object_are_refused(api, body):
    answer = api.request("POST", "/v1/sandboxes", raw=body, headers={"Content-Type": "application/json"})
    assert answer.status in (400, 422), answer
    assert "detail" in answer.json
    assert api.get("/v1/sandboxes").json["sandboxes"] == []


def test_no_body_at_all_names_the_template(api):
    check_invalid(api.request("POST", "/v1/sandboxes"), "template")


@pytest.mark.parametrize("name", ["../../etc", "tiny/../tiny", "/etc/passwd", "tiny\n", "TINY", ".", "..", "x" * 5000, "-rf"])
def test_template_names_are_not_paths(api, name):
    answer = api.post("/v1/sandboxes", {"template": name})
    if answer.status == 404:
        check_error(answer, 404, "template_not_found")
    else:
        check_invalid(answer, "template")


EXEC = [
    ("command missing", {"command": ...}, "command"),
    ("command null", {"command": None}, "command"),
    ("command number", {"command": 5}, "command"),
    ("command object", {"command": {}}, "command"),
    ("command empty array", {"command": []}, "command"),
    ("command array with number", {"command": ["echo", 1]}, "command"),
    ("command NUL", {"command": "echo \0"}, "command"),
    ("command array NUL", {"command": ["echo", "\0"]}, "command"),
    ("timeout zero", {"timeout_seconds": 0}, "timeout_seconds"),
    ("timeout above", {"timeout_seconds": 3601}, "timeout_seconds"),
    ("timeout text", {"timeout_seconds": "x"}, "timeout_seconds"),
    ("timeout negative", {"timeout_seconds": -1}, "timeout_seconds"),
    ("env list", {"env": []}, "env"),
    ("env bad name", {"env": {"A=B": "c"}}, "env"),
    ("env number value", {"env": {"A": 1}}, "env"),
    ("cwd number", {"cwd": 1}, "cwd"),
    ("cwd NUL", {"cwd": "/\0"}, "cwd"),
    ("cwd relative", {"cwd": "tmp"}, "cwd"),
    ("stdin number", {"stdin": 1}, "stdin"),
    ("stdin array", {"stdin": ["x"]}, "stdin"),
    ("stream text", {"stream": "yes"}, "stream"),
]


@pytest.mark.parametrize("change, field", [case[1:] for case in EXEC], ids=[case[0] for case in EXEC])
def test_exec_refuses(api, sandbox, change, field):
    body = {name: value for name, value in {"command": "true", **change}.items() if value is not ...}
    answer = api.post(f"/v1/sandboxes/{sandbox}/exec", body)
    if field == "cwd" and answer.status == 400:
        check_error(answer, 400, "path_invalid")
    else:
        check_invalid(answer, field)


FILES = [
    ("path missing", {"path": ...}, "path"),
    ("path null", {"path": None}, "path"),
    ("path number", {"path": 5}, "path"),
    ("content missing", {"content": ...}, "content"),
    ("content number", {"content": 5}, "content"),
    ("content null", {"content": None}, "content"),
    ("content not base64", {"content": "&&&&"}, "content"),
    ("content half base64", {"content": "A"}, "content"),
    ("encoding unknown", {"encoding": "rot13"}, "encoding"),
    ("encoding number", {"encoding": 64}, "encoding"),
    ("mode text", {"mode": "rwx"}, "mode"),
    ("mode not octal", {"mode": "0999"}, "mode"),
    ("mode too large", {"mode": "77777"}, "mode"),
    ("mode negative", {"mode": "-644"}, "mode"),
]


@pytest.mark.parametrize("change, field", [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_write_refuses(api, sandbox, change, field):
    body = {"path": "/tmp/x", "content": "eA==", "encoding": "base64", **change}
    body = {name: value for name, value in body.items() if value is not ...}
    answer = api.post(f"/v1/sandboxes/{sandbox}/files", body)
    if answer.status == 400:
        check_error(answer, 400, None)
    else:
        check_invalid(answer, field)
    assert api.files("GET", sandbox, "/tmp/x").status == 404
