"""What a source says about itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rca.collectors.findings import Checkable, Finding, checked
from rca.errors import BadInput, RcaError, Rejected, Unavailable


class _Source:
    name = "somewhere"

    def __init__(self, answer: Sequence[Finding] | RcaError) -> None:
        self._answer = answer

    def check(self) -> Sequence[Finding]:
        if isinstance(self._answer, RcaError):
            raise self._answer
        return self._answer


def test_findings_are_handed_on() -> None:
    found = [Finding("somewhere", "ok", "answers"), Finding("somewhere", "warning", "is empty", "set match")]
    assert isinstance(_Source(found), Checkable)
    assert checked(_Source(found)) == tuple(found)


@pytest.mark.parametrize("error", [Unavailable("no answer"), Rejected("HTTP 401"), BadInput("x", expected="y", found="z")])
def test_an_error_is_a_failure(error: RcaError) -> None:
    (finding,) = checked(_Source(error))
    assert (finding.source, finding.level, finding.text) == ("somewhere", "failure", str(error))
    assert "rca.toml" in finding.advice


def test_a_bug_is_not_a_finding() -> None:
    class _Broken(_Source):
        def check(self) -> Sequence[Finding]:
            raise KeyError("bug")

    with pytest.raises(KeyError):
        checked(_Broken([]))
