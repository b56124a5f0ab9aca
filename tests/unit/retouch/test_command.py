"""The command `retouch`: its output and its exit status."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retouch.__main__ import app
from tests.support.fake_api import KEY, RESULT, ContractService


@pytest.fixture
def service() -> Iterator[ContractService]:
    with ContractService() as running:
        yield running


class Command:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: str, status: int = 0) -> Result:
        result = CliRunner(env=self.environment).invoke(app, list(arguments))
        assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        return result


@pytest.fixture
def retouch(service: ContractService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command({"RETOUCH_URL": service.url, "RETOUCH_API_KEY": KEY, "RETOUCH_DEBUG": ""})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "mug.png"
    path.write_bytes(b"\x89PNG a picture")
    return path


def test_help_does_not_import_the_servers() -> None:
    code = (
        "import sys, retouch.__main__ as m\n"
        "try: m.app(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'celery', 'boto3', 'PIL', 'infra', 'jobs', 'api', 'workers', 'fastapi', 'redis'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    for command in (
        "up",
        "demo",
        "api",
        "worker",
        "flower",
        "submit",
        "watch",
        "show",
        "list",
        "cancel",
        "retry",
        "keys",
    ):
        assert f" {command} " in process.stdout


def test_the_version_is_shown(retouch: Command) -> None:
    assert retouch("--version").stdout.startswith("retouch ")


def test_one_image_is_submitted(service: ContractService, retouch: Command, picture: Path) -> None:
    arguments = ("--prompt", "on marble", "--seed", "7", "--custom-id", "SKU-1", "--metadata", "a=b=c", "--json")
    result = retouch("submit", str(picture), *arguments)
    (job,) = json.loads(result.stdout)["data"]
    sent = service.jobs[job["id"]]["sent"]
    assert sent == {"prompt": "on marble", "seed": 7, "custom_id": "SKU-1", "metadata": {"a": "b=c"}}


def test_several_images_are_submitted_in_order(service: ContractService, retouch: Command, picture: Path) -> None:
    images = [str(picture), *(f"https://example.com/{number}.png" for number in range(9))]
    data = json.loads(retouch("submit", *images, "-p", "x", "--json").stdout)["data"]
    assert len({job["id"] for job in data}) == 10
    assert len(service.jobs) == 10


def test_a_submit_that_waits_writes_the_results(service: ContractService, retouch: Command, tmp_path: Path) -> None:
    service.add()
    (tmp_path / "a").mkdir()
    images = [tmp_path / "one.png", tmp_path / "a" / "one.png"]
    for image in images:
        image.write_bytes(b"\x89PNG")
    service.faults.clear()
    add = service.add

    def add_succeeding(state: str = "queued", **fields: object) -> dict[str, object]:
        job = add(state, **fields)
        service.advance_on_reads(job, "running", "succeeded")
        return job

    service.add = add_succeeding  # type: ignore[method-assign]
    result = retouch("submit", *map(str, images), "-p", "x", "--wait", "-o", "out", "--json")
    assert [job["state"] for job in json.loads(result.stdout)["data"]] == ["succeeded", "succeeded"]
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2
    assert {path.read_bytes() for path in files} == {RESULT}
    assert "running" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "mug.png"], "prompt"),
        (["submit", "absent.png", "-p", "x"], "absent.png: no such file"),
        (["submit", ".", "-p", "x"], "is a directory"),
        (["submit", "mug.png", "-p", "x", "-o", "out.png"], "--wait"),
        (["submit", "mug.png", "mug.png", "-p", "x", "--custom-id", "a"], "--custom-id"),
        (["submit", "mug.png", "mug.png", "-p", "x", "--wait", "-o", "mug.png"], "is a file"),
        (["submit", "mug.png", "-p", "x", "--metadata", "a"], "NAME=VALUE"),
        (["submit", "mug.png", "-p", "x", "--priority", "urgent"], "urgent"),
        (["submit", "mug.png", "-p", "x", "--seed", "many"], "--seed"),
        (["submit", "mug.png", "-p", ""], "prompt: required"),
        (["list", "--state", "lost"], "lost"),
        (["show", "job_unknown"], "no such job"),
        (["cancel", "job_unknown"], "no such job"),
        (["worker", "--concurrency", "0"], "concurrency"),
        (["keys", "create"], "TENANT"),
        (["frobnicate"], "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_2_with_a_message(
    retouch: Command, picture: Path, arguments: list[str], message: str
) -> None:
    assert message in retouch(*arguments, status=2).stderr


def test_a_refusal_of_one_image_does_not_stop_the_others(service: ContractService, retouch: Command) -> None:
    problem = {"title": "Invalid input", "status": 422, "detail": "a.png is not an image", "errors": []}
    service.faults.append((422, {}, problem))
    result = retouch("submit", *(f"https://example.com/{name}.png" for name in "abc"), "-p", "x", "--json", status=1)
    assert len(json.loads(result.stdout)["data"]) == 2
    assert result.stderr.count("is not an image") == 1


def test_the_exit_status_of_watch_depends_on_the_states(service: ContractService, retouch: Command) -> None:
    good, bad = service.add(), service.add()
    service.advance_on_reads(good, "running", "succeeded")
    assert "succeeded" in retouch("watch", good["id"]).stdout
    service.advance_on_reads(bad, "failed")
    result = retouch("watch", good["id"], bad["id"], "--json", status=1)
    assert [job["state"] for job in json.loads(result.stdout)["data"]] == ["succeeded", "failed"]


def test_show_and_list_print_json_or_lines(service: ContractService, retouch: Command) -> None:
    job = service.add("failed", custom_id="SKU-\x1b[31m1", metadata={"a": "b"})
    shown = retouch("show", job["id"])
    assert "stopped by the filter" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert json.loads(retouch("show", job["id"], "--json").stdout)["metadata"] == {"a": "b"}
    listed = retouch("list", "--state", "failed").stdout.splitlines()
    assert [line.split("\t")[:2] for line in listed] == [[job["id"], "failed"]]
    assert [listed_job["id"] for listed_job in json.loads(retouch("list", "--json").stdout)["data"]] == [job["id"]]


def test_a_refusal_of_one_id_does_not_stop_the_others(service: ContractService, retouch: Command) -> None:
    ended, live = service.add("succeeded"), service.add()
    result = retouch("cancel", ended["id"], live["id"], status=1)
    assert f"{ended['id']} is succeeded" in result.stderr
    assert service.jobs[live["id"]]["state"] == "canceled"
    assert "queued" in retouch("retry", live["id"]).stdout


@pytest.mark.parametrize("command", [["list"], ["show", "j"], ["submit", "https://a/b.png", "-p", "x"]])
def test_no_service_exits_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    unconfigured = Command({"RETOUCH_URL": "", "RETOUCH_API_KEY": "", "RETOUCH_DEBUG": ""})
    assert "RETOUCH_URL" in unconfigured(*command, status=3).stderr
    with ContractService() as stopped:
        url = stopped.url
    unreachable = Command({"RETOUCH_URL": url, "RETOUCH_API_KEY": KEY, "RETOUCH_DEBUG": ""})
    assert "connection refused" in unreachable(*command, status=3).stderr


def test_a_wrong_key_exits_3(service: ContractService) -> None:
    wrong = Command({"RETOUCH_URL": service.url, "RETOUCH_API_KEY": "wrong", "RETOUCH_DEBUG": ""})
    assert "no API key" in wrong("list", status=3).stderr


def test_the_local_stack_is_found(service: ContractService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".retouch").mkdir()
    (tmp_path / ".retouch" / "local.env").write_text(f"RETOUCH_URL={service.url}\nRETOUCH_API_KEY={KEY}\n")
    monkeypatch.chdir(tmp_path)
    job = service.add()
    assert job["id"] in Command({"RETOUCH_URL": "", "RETOUCH_API_KEY": ""})("list").stdout


def test_keys_need_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "RETOUCH_REDIS_URL" in Command({"RETOUCH_REDIS_URL": ""})("keys", "create", "acme", status=3).stderr
    unreachable = Command({"RETOUCH_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert "Redis" in unreachable("keys", "create", "acme", status=3).stderr


def test_flower_does_not_start_without_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "FLOWER_BASIC_AUTH" in Command({"FLOWER_BASIC_AUTH": "user:"})("flower", status=2).stderr


def test_an_unknown_queue_is_refused(retouch: Command) -> None:
    assert "no queue 'bread'" in retouch("worker", "--queues", "bread", status=2).stderr


def _spawn(service: ContractService, *arguments: str, **options: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "RETOUCH_URL": service.url, "RETOUCH_API_KEY": KEY, "COLUMNS": "120"}
    # A shell ignores SIGINT in background processes, and their children inherit this.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "retouch", *arguments]
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        command, env=environment, text=True, **options
    )


def test_ctrl_c_exits_130_without_a_message(service: ContractService) -> None:
    job = service.add("running")
    process = _spawn(service, "watch", job["id"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert "running" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_a_terminal_gets_a_progress_bar(service: ContractService) -> None:
    good, bad = service.add(), service.add()
    service.advance_on_reads(good, "running", "running", "succeeded")
    service.advance_on_reads(bad, "running", "filtered")
    leader, follower = pty.openpty()
    process = _spawn(service, "watch", good["id"], bad["id"], stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    output = b""
    try:
        while chunk := os.read(leader, 4096):
            output += chunk
    except OSError:
        pass  # the terminal closes with its last process
    os.close(leader)
    assert process.wait(120) == 1
    assert b"2/2" in output
    assert b"/s" in output
    assert b"1 without result" in output
    assert b"filtered" in output


def test_a_closed_stdout_is_not_an_error(service: ContractService) -> None:
    for _ in range(60):
        service.add(custom_id="x" * 200)
    process = _spawn(service, "list", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "{\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(120) == 0
