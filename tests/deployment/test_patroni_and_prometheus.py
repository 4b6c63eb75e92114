"""The recipe for Patroni, and the rules for Prometheus."""

from __future__ import annotations

import datetime as dt
import re

from tests.deployment.files import COMPOSE, DEPLOY, read_yaml

from qsotn.app.plan import sample_plan
from qsotn.service.delivery.etsi014_counters import MethodCounters
from qsotn.service.delivery.key_accounts import key_account_metrics
from qsotn.service.delivery.route_metrics import RouteMetrics
from qsotn.service.delivery.sae_metrics import SaeMetrics
from qsotn.service.http.metrics import Metrics as HttpMetrics
from qsotn.service.km_duties import DutyMetrics
from qsotn.service.observability import Metrics
from qsotn.service.supervision_metrics import NetworkMetrics


def test_a_commit_survives_a_failover_by_the_recipe() -> None:
    recipe = read_yaml(DEPLOY / "patroni" / "patroni.yml")["bootstrap"]["dcs"]
    assert (recipe["synchronous_mode"], recipe["synchronous_mode_strict"]) == (True, True)
    parameters = recipe["postgresql"]["parameters"]
    assert (parameters["fsync"], parameters["synchronous_commit"]) == ("on", "on")
    in_compose = {
        word for word in read_yaml(COMPOSE / "compose.yaml")["services"]["database"]["command"] if "=" in word
    }
    for name in ("max_connections", "max_pred_locks_per_transaction", "max_pred_locks_per_page"):
        assert f"{name}={parameters[name]}" in in_compose


def test_the_environment_of_a_node_is_patronis() -> None:
    lines = (DEPLOY / "patroni" / "node.env").read_text().splitlines()
    settings = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"PATRONI_[A-Z0-9_]+=\S+", line) for line in settings)
    # RFC 5737: addresses for documents, so that nobody's machine is meant.
    addresses = re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", "\n".join(settings))
    assert all(address.startswith(("192.0.2.", "127.")) for address in addresses)


def metric_names() -> set[str]:
    """Every metric of a service, as it stands in the exposition."""
    metrics = Metrics()
    HttpMetrics(metrics.registry)
    NetworkMetrics(metrics.registry, lambda: 0)
    SaeMetrics(metrics.registry, MethodCounters())
    RouteMetrics(metrics.registry, dict)
    DutyMetrics(metrics.registry)
    key_account_metrics(metrics.registry)
    many = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
    names = set()
    for family in metrics.registry.collect():
        names |= {family.name + suffix for suffix in many.get(family.type, ("",))}
    return names


def test_every_rule_asks_for_metrics_that_there_are() -> None:
    groups = read_yaml(DEPLOY / "prometheus" / "alerts.yaml")["groups"]
    asked = set()
    for rule in (rule for group in groups for rule in group["rules"]):
        assert (
            {"alert", "expr", "labels", "annotations"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        )
        asked |= set(re.findall(r"\bqsotn_\w+", rule["expr"]))
    assert asked <= metric_names()
    families, of_rules = (
        {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names} for names in (metric_names(), asked)
    )
    assert of_rules == families


def test_the_alert_comes_after_the_renewal_and_before_the_end() -> None:
    text = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    days = re.search(r"qsotn_certificate_expiry_seconds - time\(\) < (\d+) \* 86400", text)
    assert days
    assert dt.timedelta(days=int(days[1])) < sample_plan().lifetime / 3
