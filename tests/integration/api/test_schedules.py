"""Schedules over HTTP, with the client library, and with the command."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from jobs.wiring import Domain
from retouch.__main__ import app
from retouch.client import Client
from retouch.errors import ProblemError
from tests.support.api_server import Api, api_of, fields_of, problem

BODY: dict[str, Any] = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "manifest": "s3://retouch/incoming/",
    "defaults": {"prompt": "Put it on a white background"},
}


@pytest.fixture
def api(domain: Domain) -> Iterator[Api]:
    with api_of(domain) as opened:
        BODY["manifest"] = f"s3://{domain.bucket.name}/incoming/"
        yield opened


def made(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.http.post("/v1/schedules", json={**BODY, **fields})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/schedules/{body['id']}"
    return body


def test_a_schedule_is_created_read_changed_paused_resumed_and_deleted(api: Api) -> None:
    schedule = made(api, overlap="queue", catch_up_s=7200)
    path = f"/v1/schedules/{schedule['id']}"
    assert schedule["state"] == "active"
    assert len(schedule["next_runs"]) == 3
    assert "tenant" not in schedule
    assert api.http.get(path).json() == schedule
    changed = api.http.patch(path, json={"cron": "@hourly", "budget_usd": 5}).json()
    assert (changed["cron"], changed["budget_usd"], changed["overlap"]) == ("0 * * * *", 5, "queue")
    assert api.http.post(f"{path}/pause").json()["next_run_at"] is None
    problem(api.http.post(f"{path}/pause"), 409)
    assert api.http.post(f"{path}/resume").json()["state"] == "active"
    assert [item["id"] for item in api.http.get("/v1/schedules").json()["data"]] == [schedule["id"]]
    assert api.http.delete(path).status_code == 204
    problem(api.http.get(path), 404)


def test_a_manual_run_is_listed(api: Api) -> None:
    path = f"/v1/schedules/{made(api)['id']}"
    answer = api.http.post(f"{path}/run")
    assert answer.status_code == 202
    run = answer.json()
    assert (run["state"], run["trigger"]) == ("due", "manual")
    assert api.http.get(answer.headers["location"]).json() == run
    assert [item["id"] for item in api.http.get(f"{path}/runs").json()["data"]] == [run["id"]]
    problem(api.http.get(f"{path}/runs/run_nonsense"), 404)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "every day"}, "cron"),
        ({"timezone": "Berlin/Europe"}, "timezone"),
        ({"manifest": None}, ""),
        ({"items": [{"image": "s3://retouch/a.png"}]}, ""),
        ({"catch_up_s": -1}, "catch_up_s"),
        ({"ends_at": "tomorrow"}, "ends_at"),
        ({"defaults": {"prompt": "x", "seed": -1}}, "defaults.seed"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_invalid_schedule_is_a_problem_that_names_its_field(api: Api, change: dict[str, Any], field: str) -> None:
    body = {name: value for name, value in {**BODY, **change}.items() if value is not None}
    answer = api.http.post("/v1/schedules", json=body)
    assert fields_of(problem(answer, 422)) == {field}
    assert api.http.get("/v1/schedules").json()["data"] == []


def test_another_media_type_and_another_tenant_are_refused(api: Api, domain: Domain) -> None:
    problem(api.http.post("/v1/schedules", content=b"name: x", headers={"content-type": "text/yaml"}), 415)
    schedule = made(api)
    with api_of(domain) as other:
        for method, action in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/run"), ("GET", "/runs")):
            body: Any = {} if method == "PATCH" else None
            problem(other.http.request(method, f"/v1/schedules/{schedule['id']}{action}", json=body), 404)
    problem(httpx.get(api.http.base_url.join("/v1/schedules")), 401)


def test_openapi_describes_every_route_and_the_body(api: Api) -> None:
    document = api.http.get("/openapi.json").json()
    paths = {path for path in document["paths"] if "schedules" in path or "rollback" in path}
    assert paths == {
        "/v1/schedules",
        "/v1/schedules/{schedule_id}",
        "/v1/schedules/{schedule_id}/run",
        "/v1/schedules/{schedule_id}/pause",
        "/v1/schedules/{schedule_id}/resume",
        "/v1/schedules/{schedule_id}/runs",
        "/v1/schedules/{schedule_id}/runs/{run_id}",
        "/v1/batches/{batch_id}/rollback",
    }
    body = document["paths"]["/v1/schedules"]["post"]["requestBody"]["content"]["application/json"]
    assert {"name", "cron", "timezone", "manifest", "items", "overlap"} <= set(body["schema"]["properties"])
    assert "tenant" not in document["components"]["schemas"]["Schedule"]["properties"]


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    key = api.http.headers["authorization"].removeprefix("Bearer ")
    with Client(str(api.http.base_url).rstrip("/"), key) as opened:
        yield opened


def test_the_client_supports_every_schedule_operation(client: Client) -> None:
    schedule = client.schedules.create(
        "weekly", "0 3 * * 1", items=[{"image": BODY["manifest"] + "a.png"}], defaults={"prompt": "brighter"}
    )
    assert (schedule.items_count, schedule.manifest) == (1, None)
    assert client.schedules.update(schedule.id, overlap="queue").overlap == "queue"
    run = client.schedules.run(schedule.id)
    assert not run.ended
    assert [item.id for item in client.schedules.runs(schedule.id)] == [run.id]
    assert [item.id for item in client.schedules.list(limit=1)] == [schedule.id]
    client.schedules.delete(schedule.id)
    with pytest.raises(ProblemError):
        client.schedules.get(schedule.id)


class Command:
    def __init__(self, api: Api) -> None:
        self._environment = {
            "RETOUCH_URL": str(api.http.base_url).rstrip("/"),
            "RETOUCH_API_KEY": api.http.headers["authorization"].removeprefix("Bearer "),
            "RETOUCH_DEBUG": "",
        }

    def __call__(self, *words: str, status: int = 0) -> Result:
        result = CliRunner(env=self._environment).invoke(app, ["schedules", *words])
        assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
        return result

    def json(self, *words: str) -> Any:
        lines = self(*words, "--json").stdout.splitlines()
        # The API runs in this process, so its log lines are in the output, too.
        return json.loads("\n".join(lines[lines.index("{") : len(lines) - lines[::-1].index("}")]))


def test_the_command_supports_every_schedule_operation(api: Api) -> None:
    command = Command(api)
    words = ["create", "nightly", BODY["manifest"], "--cron", "30 2 * * *", "--timezone", "Europe/Berlin"]
    schedule = command.json(*map(str, words), "--prompt", "brighter", "--default", "steps=8", "--catch-up", "2h")
    assert schedule["defaults"] == {"prompt": "brighter", "steps": 8}
    assert schedule["catch_up_s"] == 7200
    assert schedule["id"] in command("list").stdout
    assert "Europe/Berlin" in command("show", schedule["id"]).stdout
    assert command.json("pause", schedule["id"])["data"][0]["state"] == "paused"
    command("pause", schedule["id"], status=1)
    assert command.json("resume", schedule["id"])["data"][0]["state"] == "active"
    assert "manual" in json.dumps(command.json("run", schedule["id"]))
    assert "due" in command("runs", schedule["id"]).stdout
    command("delete", schedule["id"])
    command("show", schedule["id"], status=2)
    command("create", "bad", "no-such-file.csv", "--cron", "@daily", "--prompt", "x", status=2)
    command("create", "bad", str(BODY["manifest"]), "--cron", "nonsense", "--prompt", "x", status=2)
