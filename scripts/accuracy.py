"""Every accuracy figure of the documentation: the commands that make it, run one after the other.

    rca import nezha PATH; rca import petshop PATH; rca import tvdiag PATH
    python -m scripts.accuracy [SYSTEM ...] [--list]

Results and predictions go to docs/results; `python -m scripts.docs` makes docs/accuracy.md of them. What has finished is skipped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

OUT: Final = Path(__file__).resolve().parent.parent / "docs" / "results"

RULES: Final = (
    "floor",
    "random",
    "most-frequent",
    "max-z",
    "nsigma",
    "baro",
    "most-alerts",
    "simple-rca",
    "prism-additive",
    "prism-conjunctive",
    "microrca",
    "pagerank-z",
    "hypothesis-test",
)
LEARNED: Final = ("names-only", "logistic", "lambdamart", "mlp", "gnn-shuffled", "gnn")
BEST: Final = ("floor", "max-z", "baro", "simple-rca", "prism-additive", "pagerank-z")
NEZHA: Final = ("onlineboutique", "trainticket")
SPOILT: Final = (
    "onset-60",
    "onset+60",
    "onset+120",
    "onset-estimated",
    "no-traces",
    "no-metrics",
    "no-logs",
    "traces-5%",
    "quiet",
)


def runs() -> list[tuple[str, list[str]]]:
    """(system, arguments of `rca evaluate`) in the order in which they are run."""
    planned: list[tuple[str, list[str]]] = []
    for system in (*NEZHA, "petshop", "sockshop"):
        only = ["--system", system]
        planned.append((system, [*only, "--split", "folds", *_rankers(RULES + LEARNED)]))
        if system != "petshop":  # its two kinds, latency and availability, say what was noticed rather than what was done
            planned.append((system, [*only, "--split", "leave-fault-out", *_rankers((*BEST, "lambdamart", "gnn"))]))
    for system in NEZHA:
        for name in ("leave-service-out", "forward"):
            planned.append((system, ["--system", system, "--split", name, *_rankers((*BEST, "lambdamart", "gnn"))]))
        others = [word for name in NEZHA for word in ("--system", name)]
        planned.append(
            (system, [*others, "--test", system, "--split", "leave-system-out", *_rankers((*BEST, "lambdamart", "gnn"))])
        )
    others = [word for name in (*NEZHA, "petshop") for word in ("--system", name)]
    planned.append(
        ("petshop", [*others, "--test", "petshop", "--split", "leave-system-out", *_rankers((*BEST, "lambdamart", "gnn"))])
    )
    for system in (*NEZHA, "petshop"):
        for name in SPOILT if system != "petshop" else ("quiet",):
            planned.append((system, ["--system", system, "--split", "zero-shot", "--transform", name, *_rankers(BEST)]))
    return planned


def _rankers(names: tuple[str, ...]) -> list[str]:
    return [word for name in names for word in ("--ranker", name)]


def main() -> None:
    """Run everything, or what concerns the named systems; stop at the first failure."""
    wanted = {word for word in sys.argv[1:] if not word.startswith("-")}
    for system, arguments in runs():
        if wanted and system not in wanted:
            continue
        command = [sys.executable, "-m", "rca", "evaluate", "--out", str(OUT), *arguments]
        print("rca", *command[3:], flush=True)
        if "--list" not in sys.argv:
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
