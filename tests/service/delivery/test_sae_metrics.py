"""What Prometheus reads at a key manager of the SAEs it serves."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from qsotn.service.delivery.etsi014_counters import MethodCounters
from qsotn.service.delivery.priorities import ClassCount
from qsotn.service.delivery.sae_metrics import SaeMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def counters(registry: CollectorRegistry) -> MethodCounters:
    counters = MethodCounters()
    SaeMetrics(registry, counters)
    return counters


def scraped(registry: CollectorRegistry) -> set[str]:
    return {line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")}


def test_what_saes_asked_is_told_by_method_and_status(registry: CollectorRegistry, counters: MethodCounters) -> None:
    counters.observed("enc_keys", 200, 0.25, False)
    counters.observed("enc_keys", 200, 0.125, False)
    counters.observed("enc_keys", 503, 0.5, True)
    counters.observed("-", 404, 0.0, False)
    assert scraped(registry) == {
        'qsotn_sae_requests_total{method="-",status="404"} 1.0',
        'qsotn_sae_requests_total{method="enc_keys",status="200"} 2.0',
        'qsotn_sae_requests_total{method="enc_keys",status="503"} 1.0',
        'qsotn_sae_failures_total{method="-"} 1.0',
        'qsotn_sae_failures_total{method="enc_keys"} 1.0',
        'qsotn_sae_repeats_total{method="-"} 0.0',
        'qsotn_sae_repeats_total{method="enc_keys"} 1.0',
        'qsotn_sae_seconds_count{method="-"} 1.0',
        'qsotn_sae_seconds_sum{method="-"} 0.0',
        'qsotn_sae_seconds_count{method="enc_keys"} 3.0',
        'qsotn_sae_seconds_sum{method="enc_keys"} 0.875',
        'qsotn_sae_least_seconds{method="-"} 0.0',
        'qsotn_sae_least_seconds{method="enc_keys"} 0.125',
        'qsotn_sae_longest_seconds{method="-"} 0.0',
        'qsotn_sae_longest_seconds{method="enc_keys"} 0.5',
    }


def test_what_classes_were_given_and_refused_is_told(registry: CollectorRegistry) -> None:
    counts = {"gold": ClassCount(given=7), "bronze": ClassCount()}
    SaeMetrics(registry, MethodCounters(), counts)
    counts["bronze"].refused += 2
    assert scraped(registry) == {
        'qsotn_sae_class_keys_total{class="gold"} 7.0',
        'qsotn_sae_class_keys_total{class="bronze"} 0.0',
        'qsotn_sae_class_refusals_total{class="gold"} 0.0',
        'qsotn_sae_class_refusals_total{class="bronze"} 2.0',
    }


def test_before_anybody_asked_there_are_no_samples(registry: CollectorRegistry, counters: MethodCounters) -> None:
    assert scraped(registry) == set()
    counters.observed("status", 200, 0.1, False)
    assert len(scraped(registry)) == 7
