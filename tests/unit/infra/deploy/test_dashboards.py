"""The queries of the dashboard, the rules and the scaling use only exported metrics and their labels."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from jobs.foundation.metric_catalogue import METRICS
from tests.support.deployment import INFRA, OPERATIONS, of_kind

PROMETHEUS = INFRA / "prometheus"
DASHBOARD = INFRA / "grafana" / "dashboards" / "retouch.json"
COMMON_LABELS = {"le", "instance", "job"}
"""Labels that Prometheus itself adds."""
LABELS = {series: set(metric.labels) for metric in METRICS for series in metric.series}
FOREIGN = {"up": set[str](), "ALERTS": {"alertname", "alertstate"}}

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_KEYWORDS = {
    *("and", "or", "unless", "on", "by", "without", "ignoring", "group_left", "group_right", "bool", "offset"),
    *("sum", "max", "min", "avg", "count", "rate", "increase", "histogram_quantile", "scalar", "vector", "absent"),
}


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("recording.yml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield f"dashboard: {panel['title']} {target['refId']}", target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield (
                f"dashboard: variable {variable['name']}",
                re.sub(r"label_values\((.*), \w+\)", r"\1", variable["definition"]),
            )
    for annotation in board["annotations"]["list"]:
        yield f"dashboard: {annotation['name']}", annotation["expr"]


def expressions() -> Iterator[tuple[str, str]]:
    """All queries to Prometheus, each with its location."""
    yield from dashboard_expressions()
    yield from RECORDED.items()
    yield from ((name, rule["expr"]) for name, rule in ALERTS.items())
    for name, scaled in of_kind("ScaledObject").items():
        for trigger in scaled["spec"]["triggers"]:
            yield f"scaling of {name}: {trigger['name']}", trigger["metadata"]["query"]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, with the labels in its selector."""
    plain = re.sub(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    plain = re.sub(r"\[[^\]]*\]", " ", plain)
    for match in re.finditer(rf"(?<![\w:.$])({_NAME})\s*(\{{[^}}]*\}}|\()?", plain):
        name, selector = match[1], match[2] or ""
        if selector != "(" and name not in _KEYWORDS:
            yield name, set(re.findall(rf"({_NAME})\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', selector)))


def faults(expression: str) -> list[str]:
    """Describe the unknown metrics and labels of an expression."""
    problems, known = [], set(COMMON_LABELS)
    for name, labels in selectors(expression):
        if name in RECORDED:
            known |= labels_of(RECORDED[name])
            continue
        if name not in LABELS | FOREIGN:
            problems.append(f"no metric {name}")
            continue
        own = (LABELS | FOREIGN)[name] | COMMON_LABELS
        known |= own
        problems += [f"{name} has no label {label}" for label in sorted(labels - own)]
    for grouped in re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", expression):
        names = {name.strip() for name in grouped.split(",") if name.strip()}
        problems += [f"nothing has the label {label}" for label in sorted(names - known)]
    return problems


def labels_of(expression: str) -> set[str]:
    return {label for name, _ in selectors(expression) for label in LABELS.get(name, set())} | (
        {label for name, _ in selectors(expression) if name in RECORDED for label in labels_of(RECORDED[name])}
    )


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=[where for where, _ in expressions()])
def test_queries_use_only_exported_metrics_and_labels(where: str, expression: str):
    assert faults(expression) == []
    assert list(selectors(expression)) or "vector(" in expression


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(rate(retouch_jobs_finished_total[5m]))", "no metric retouch_jobs_finished_total"),
        ('max(retouch_jobs{tenant="a"})', "retouch_jobs has no label tenant"),
        ("sum by (queue) (max by (model, state) (retouch_jobs))", "nothing has the label queue"),
        ("rate(retouch_queue_seconds[5m])", "no metric retouch_queue_seconds"),
        ("retouch:nothing:recorded > 0", "no metric retouch:nothing:recorded"),
    ],
)
def test_an_unknown_metric_or_label_is_reported(expression: str, fault: str):
    assert faults(expression) == [fault]


def test_fleet_metrics_are_not_summed_over_api_processes():
    shared = {metric.name for metric in METRICS if metric.place == "fleet"}
    for where, expression in expressions():
        for name in shared & {name for name, _ in selectors(expression)}:
            before = re.split(rf"(?<![\w:]){name}(?![\w:])", expression)[:-1]
            for text in before:
                nearest = re.findall(r"\b(sum|max|min|avg|absent|label_values)\b", text)
                assert not nearest or nearest[-1] != "sum", f"{where}: {name} is summed over instances"
    summed = [name for name, _ in selectors("sum(retouch_jobs)")]
    assert summed == ["retouch_jobs"]


def test_the_dashboard_shows_every_metric_except_those_of_tenants():
    shown = {name for _, expression in dashboard_expressions() for name, _ in selectors(expression)}
    shown |= {name for record in shown & RECORDED.keys() for name, _ in selectors(RECORDED[record])}
    missing = [metric.name for metric in METRICS if not shown & set(metric.series)]
    assert missing == ["retouch_tenant_jobs"]


def test_panels_have_unique_ids_and_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        position = panel["gridPos"]
        cells = {(position["x"] + x, position["y"] + y) for x in range(position["w"]) for y in range(position["h"])}
        assert not cells & occupied, panel["title"]
        assert max(x for x, _ in cells) < 24
        occupied |= cells


def test_the_operations_guide_explains_exactly_the_existing_alerts():
    explained = re.findall(r"^### (Retouch\w+)$", OPERATIONS.read_text(), flags=re.MULTILINE)
    assert sorted(explained) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_and_a_description(name: str):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert alert["annotations"].keys() == {"summary", "description"}
    used = set(re.findall(r"\$labels\.(\w+)", json.dumps(alert["annotations"])))
    assert used <= labels_of(alert["expr"]) | COMMON_LABELS


def test_every_alert_has_a_test_in_which_it_fires():
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    fired = {check["alertname"] for case in cases for check in case.get("alert_rule_test", []) if check["exp_alerts"]}
    assert fired == ALERTS.keys()


def test_alerts_cover_each_kind_of_problem():
    queries = " ".join(rule["expr"] for rule in ALERTS.values())
    for metric in (
        "retouch_oldest_queued_seconds",
        "retouch:failures:share15m",
        "retouch_model_parked",
        "retouch_workers",
        "retouch_deliveries_ended_total",
        "retouch_redis_memory_used_bytes",
        "retouch:spend:usd_per_hour",
    ):
        assert metric in queries
