"""The OpenAPI document: every route of the program, and nothing that the program does not answer to."""

import json
import re

import pytest

from conftest import ROOT

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document(emulator):
    answer = emulator.api(None).get("/openapi.json")
    assert answer.status == 200 and answer.headers["content-type"] == "application/json", answer
    return answer.json


def in_source() -> set[tuple[str, str]]:
    """The routes as the tables have them, in either way of writing one down."""
    found = set()
    for path in (ROOT / "api").glob("*.c"):
        text = path.read_text()
        macros = dict(re.findall(r"(?m)^#define (\w+) (.+)$", text))

        def value(expression):
            """Strings and macros next to each other are one string."""
            parts = re.findall(r'"([^"]*)"|(\w+)', expression)
            return "".join(literal or value(macros[name]) for literal, name in parts)

        for table in re.findall(r"(?s)static const struct route \w+\[\] = \{(.*?)\n\};", text):
            rows = re.findall(r'\{\s*"([A-Z]+)",\s*([^,]+),', table)
            rows += re.findall(r'\.method = "([A-Z]+)",\s*\.pattern = ([^,]+),', table)
            found |= {(method, value(pattern)) for method, pattern in rows}
    return found


def operations(document):
    return {(m.upper(), p): o for p, item in document["paths"].items() for m, o in item.items() if m in METHODS}


def test_every_route_is_in_it(document):
    routes = in_source()
    assert len(routes) > 40 and ("POST", "/v1/sandboxes") in routes and ("PUT", "/v1/sandboxes/{id}/files") in routes
    assert set(operations(document)) == routes


def test_each_operation_is_whole(document):
    assert document["openapi"].startswith("3.1") and document["info"]["version"]
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(ids)) == len(ids) and all(re.fullmatch("[a-z0-9_]+", name) for name in ids), ids
    for (method, path), operation in operations(document).items():
        named = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", path), (method, path)
        assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
        assert operation["summary"] and "default" in operation["responses"]
        assert operation["security"] in ([], [{"bearer": []}])
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        at = document
        for part in reference.split("/"):
            at = at[part]


def test_scopes_and_bodies(document):
    found = operations(document)
    assert found["POST", "/v1/sandboxes"]["x-scope"] == "sandboxes:write"
    assert found["GET", "/v1/sandboxes"]["x-scope"] == "sandboxes:read"
    assert found["GET", "/_emulator/health"]["security"] == []
    body = found["POST", "/v1/sandboxes"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["template"] and body["properties"]["size"]["enum"] == ["small", "medium", "large"]
    assert found["POST", "/v1/templates"]["requestBody"]["content"]["application/json"]["schema"]["required"] == [
        "name", "base", "steps",
    ]  # fmt: skip


def test_what_it_says_needs_a_token_does(document, emulator):
    """Asked without one, each operation answers 401, and those that need none anything else."""
    api = emulator.api(None)
    for (method, path), operation in operations(document).items():
        answer = api.request(method, path.replace("{", "x").replace("}", ""))
        assert (answer.status == 401) == bool(operation["security"]), (method, path, answer)
