"""incidents/README.md: what was recorded from the shop and how, from the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rca.faults import FAULT_KINDS, is_no_fault
from rca.shop import manifest
from rca.wording import size

INCIDENTS: Final = Path(__file__).resolve().parent.parent / "incidents"
_OWN: Final = """\
Your own incidents live in the store, by default `~/.local/share/rca`. Python lives in `rca/incidents/`.
"""
_NOTHING: Final = f"""\
Labelled recorded incidents that ship with the project belong here, as bundles (docs/bundle.md); none is shipped yet, so
`make demo` makes a synthetic one. {_OWN}"""
_PAGE: Final = """\
# Recorded incidents

Real telemetry of real processes: {incidents} incidents of {kinds} fault kinds and {quiet} windows in which nobody is to
blame, {bytes} in all, recorded from the shop (`rca shop`, docs/shop.md) through the product's own collectors: OTLP, Prometheus,
Alertmanager and the Kubernetes API. Each is a bundle (docs/bundle.md) with a baseline of {baseline} s and a window of
{incident} s; its label says what was injected. `manifest.json` holds, for each, the fault, the target, the strength, the part,
the SHA-256, the machine's load and the versions of everything that ran.

    rca triage incidents/{example}
    rca shop up && rca shop record --out incidents     # makes what is missing
    (cd incidents && sha256sum --check test.sha256)    # the test part is as it was when it was first evaluated

Training and test part share no (target, fault kind). The programme (rca/shop/programme.py) draws order and strengths from seed
{seed}; a strength of 0.25 may leave hardly a trace, and such incidents are kept. A recording on a machine whose CPUs or disk were
saturated, or after a baseline in which more than 5 % of the requests failed, was thrown away and made again. The disk was not
watched at first: early recordings whose database took far longer to commit, for no reason of their fault, were made again before
anything was evaluated on them.

{table}

Versions: {versions}.

The shop is one small system on one machine: twelve services, 12 requests a second, faults that begin at once. Windows overlap
no other fault, and the baseline is minutes old, not hours.

{own}"""


def incidents_page() -> str:
    """incidents/README.md."""
    entries: list[dict[str, Any]] = manifest.read(INCIDENTS)["incidents"]
    if not entries:
        return _NOTHING
    blamed = [entry for entry in entries if not is_no_fault(entry["fault_kind"])]
    made = entries[0]["made_with"]
    versions = {key: value for key, value in made.items() if isinstance(value, str)}
    example = next((entry["file"] for entry in blamed if entry["part"] == "test"), entries[0]["file"])
    return _PAGE.format(
        incidents=len(blamed),
        kinds=len({entry["fault_kind"] for entry in blamed}),
        quiet=len(entries) - len(blamed),
        bytes=size(sum(entry["bytes"] for entry in entries)),
        baseline=_seconds(entries, "baseline_s"),
        incident=_seconds(entries, "incident_s"),
        seed=made["seed"],
        example=example,
        table=_table(entries),
        versions=", ".join(f"{name} {value}" for name, value in sorted(versions.items())),
        own=_OWN,
    )


def _table(entries: list[dict[str, Any]]) -> str:
    lines = ["| fault kind | what it is | train | test |", "| --- | --- | --- | --- |"]
    for name, kind in FAULT_KINDS.items():
        ours = [entry for entry in entries if entry["fault_kind"] == name]
        if ours:
            train, test = (_targets(entry["target"] for entry in ours if entry["part"] == part) for part in ("train", "test"))
            lines.append(f"| `{name}` | {kind.title} | {train} | {test} |")
    return "\n".join(lines)


def _seconds(entries: list[dict[str, Any]], key: str) -> str:
    return " or ".join(map(str, sorted({entry["made_with"][key] for entry in entries})))


def _targets(targets: Iterable[str]) -> str:
    counts = Counter(targets)
    return ", ".join(
        (target or "the whole shop") + (f" ({count})" if count > 1 else "") for target, count in sorted(counts.items())
    )
