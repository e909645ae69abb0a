"""Notifications: what is wrong is said without repeating it, what is strange is kept within bounds, and nothing else happens."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.collectors.alert_labels import OWN_ALERT
from rca.errors import BadInput
from rca.incidents.inbox import AlertGroup
from rca.serve.config import ServeLimits
from rca.serve.payload import EXAMPLE, NotJson, group_of
from tests.serving import notification

LIMITS = ServeLimits()


def read(value: Any) -> AlertGroup:
    return group_of(json.dumps(value).encode(), LIMITS)


def changed(**fields: Any) -> dict[str, Any]:
    return {**notification(), **fields}


def with_alert(**fields: Any) -> dict[str, Any]:
    whole = notification()
    return {**whole, "alerts": [{**whole["alerts"][0], **fields}]}


def test_the_example_of_the_description_is_a_notification() -> None:
    group = read(EXAMPLE)
    assert (group.key, group.receiver, group.truncated) == ('{}:{alertname="HighLatency"}', "rca", 0)
    (alert,) = group.alerts
    assert (alert.status, alert.starts_ns, alert.ends_ns) == ("firing", 1_768_471_800_000_000_000, None)
    assert ("runbook", "https://runbooks.example/latency") in alert.links


def test_newer_fields_and_those_of_grafana_are_fine() -> None:
    whole = with_alert(dashboardURL="https://grafana/d/1", panelURL="https://grafana/d/1?p=2", values={"A": 1}, silenceURL="x")
    group = read({**whole, "version": "1", "orgId": 1, "notification_reason": "new", "routeLabels": {}, "message": "m"})
    assert group.alerts[0].links[0] == ("dashboard", "https://grafana/d/1")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"\xff\xfe{}", "expected JSON"),
        (b'{"a": NaN', "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
    ],
)
def test_what_is_no_json_is_told_apart(body: bytes, message: str) -> None:
    with pytest.raises(NotJson, match=message):
        group_of(body, LIMITS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected a JSON object, found list"),
        ({}, 'version: expected "4", found none'),
        (changed(version="5"), "version: expected \"4\", found '5'"),
        (changed(version=4), 'version: expected "4", found 4'),
        (changed(version="1"), 'version: expected "4"'),
        (changed(version="x" * 10_000), "version: expected"),
        (changed(groupKey=""), "groupKey"),
        (changed(groupKey=7), "groupKey"),
        (changed(alerts=[]), "alerts"),
        (changed(alerts={}), "alerts"),
        (changed(status="suppressed"), "status"),
        (changed(truncatedAlerts=-1), "truncatedAlerts"),
        (with_alert(status="pending"), "alerts.0.status"),
        (with_alert(startsAt="yesterday"), "alerts.0.startsAt: expected an RFC 3339 time"),
        (with_alert(startsAt="2026-01-15T10:00:00"), "with its offset"),
        (with_alert(startsAt="0001-01-01T00:00:00Z"), "between the years 2000 and 2100"),
        (with_alert(startsAt=1768471800), "alerts.0.startsAt"),
        (with_alert(status="resolved", endsAt="never"), "alerts.0.endsAt"),
        (with_alert(labels={"service": 7}), "alerts.0.labels.service"),
        (with_alert(labels=None), "alerts.0.labels"),
    ],
)
def test_what_is_wrong_is_named(value: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(value)
    assert not isinstance(caught.value, NotJson)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


def test_no_label_is_repeated_in_a_refusal() -> None:
    with pytest.raises(BadInput) as caught:
        read({**with_alert(labels={"password": "hunter2", "n": 3}, annotations={"hunter2": None})})
    assert "n" in str(caught.value)
    assert '"hunter2"' not in str(caught.value)
    assert "hunter2," not in str(caught.value)


def test_a_megabyte_in_a_label_is_cut_where_it_can_be_seen() -> None:
    group = read(with_alert(labels={"alertname": "A", "poison": "x" * 2**20}, annotations={"y" * 2**20: "z"}))
    labels = group.alerts[0].labels
    assert labels["alertname"] == "A"
    assert len(labels["poison"]) == LIMITS.text
    assert labels["poison"].endswith("…")
    assert all(len(name) <= 200 for name in group.alerts[0].annotations)


def test_of_very_many_labels_the_ones_that_name_something_are_kept() -> None:
    labels = {f"aaa{i:05}": "x" for i in range(10_000)} | {"service": "cart", "alertname": "Slow"}
    kept = read(with_alert(labels=labels)).alerts[0].labels
    assert (kept["service"], kept["alertname"]) == ("cart", "Slow")
    assert kept["cut"] == "9902 more were left out"


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "https://a b", "http://", "//host", "http://[", "x" * 9]
)
def test_only_addresses_of_the_web_are_links(url: str) -> None:
    group = read({**with_alert(generatorURL=url, annotations={"runbook_url": url, "dashboard": url}), "externalURL": url})
    assert (group.alerts[0].links, group.link) == ((), "")


def test_long_keys_stay_apart() -> None:
    one, other = read(changed(groupKey="k" * 2**20 + "1")), read(changed(groupKey="k" * 2**20 + "2"))
    assert one.key != other.key
    assert len(one.key) == len(other.key) == 512


def test_the_alert_that_we_raise_ourselves_is_passed_over() -> None:
    whole = notification(alerts=2)
    whole["alerts"][0]["labels"] = {"alertname": OWN_ALERT, "service": "cart"}
    assert [alert.fingerprint for alert in read(whole).alerts] == ["latency-1"]


def test_a_fingerprint_that_is_absent_is_made_of_the_labels() -> None:
    one, same = (read(with_alert(fingerprint="", labels=labels)) for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}))
    other = read(with_alert(fingerprint="", labels={"a": "1", "b": "3"}))
    assert one.alerts[0].fingerprint == same.alerts[0].fingerprint != other.alerts[0].fingerprint


def test_nanoseconds_and_offsets_are_read() -> None:
    group = read(with_alert(startsAt="2026-01-15T11:10:00.123456789+01:00"))
    assert group.alerts[0].starts_ns == 1_768_471_800_123_456_000


def test_an_alert_ends_after_it_began() -> None:
    alert = read(with_alert(status="resolved", endsAt="2025-01-01T00:00:00Z")).alerts[0]
    assert alert.ends_ns == alert.starts_ns
    assert read(with_alert(status="resolved", endsAt="0001-01-01T00:00:00Z")).alerts[0].ends_ns is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*notification(), "orgId", "extra"])
ALERT_FIELDS = st.sampled_from([*notification()["alerts"][0], "dashboardURL", "values"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(FIELDS, JSON, max_size=3), st.dictionaries(ALERT_FIELDS, JSON, max_size=3))
def test_whatever_comes_is_read_or_refused(fields: dict[str, Any], alert: dict[str, Any]) -> None:
    with suppress(BadInput):
        check_bounds(read({**with_alert(**alert), **fields}))


def check_bounds(group: AlertGroup) -> None:
    for each in group.alerts:
        assert len(each.labels) <= LIMITS.labels + 1
        assert all(len(text) <= LIMITS.text for text in (*each.labels.values(), *each.annotations.values()))
        assert all(url.startswith(("http://", "https://")) for _, url in each.links)
        assert (each.ends_ns is None) or each.status == "resolved"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(BadInput):
        group_of(body, LIMITS)
