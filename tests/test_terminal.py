"""What the commands share on a terminal."""

from __future__ import annotations

import pytest

from rca.cli.terminal import progress


@pytest.mark.parametrize(("total", "shown"), [(None, False), (7, True)])
def test_a_bar_counts_only_where_the_end_is_known(
    total: int | None, shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Looking", total) as step:
        step("for something", completed=0)
    told = capfd.readouterr().err
    assert "Looking" in told
    assert "0/?" not in told
    assert ("0/7" in told) is shown
