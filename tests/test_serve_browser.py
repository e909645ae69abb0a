"""People on the pages of a running `rca serve`: a real browser is let in, and a click becomes a label."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from rca.incidents.store import IncidentStore
from tests.servers.browser import confirmed, opened
from tests.serving import notification, recent, rfc3339, serving, until

SECRET, READER = "a-secret-of-some-length", "another-secret-as-long"


@pytest.fixture
def access(tmp_path: Path) -> Path:
    path = tmp_path / "access"
    path.write_text(f"send,label anna {SECRET}\nread bo {READER}\n", encoding="utf-8")
    return path


def test_a_click_becomes_a_label(tmp_path: Path, access: Path) -> None:
    onset, sources = recent()
    home = tmp_path / "home"
    with serving(home, sources=sources, access_file=access) as server:
        alert = notification(began=rfc3339(onset))
        sent = requests.post(
            f"{server.url}/v1/alertmanager", json=alert, headers={"Authorization": f"Bearer {SECRET}"}, timeout=20
        )
        incident = sent.json()["incident"]
        url = f"{server.url}/incidents/{incident}"
        until(lambda: "Yes, it was" in requests.get(url, auth=("anna", SECRET), timeout=60).text, 60)
        with opened(url, "bo", READER) as page:
            assert page.get_by_role("heading", name="payment").count() > 0
            assert page.get_by_role("button").count() == 0, "who may read alone judges nothing"
        with opened(url, "anna", "a-wrong-secret-of-length") as page:
            assert "Who are you?" in page.title()
        with opened(url, "anna", SECRET) as page:
            assert confirmed(page) == "payment"
    with IncidentStore(home) as store:
        (label,) = store.incident(incident).labels
    assert (label.name(), label.provenance, label.author) == ("payment", "confirmed", "anna")
