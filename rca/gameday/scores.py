"""The scores of a game day as they are kept: `scores.json` in its folder, and what `rca gameday score --json` prints.

Entities are written `kind:namespace/name`, minutes count from the first alert, or from the injection where none fired. A number
that is not defined, for want of anything to count, is null.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rca.errors import BadInput
from rca.gameday.folder import SCORES_FILE
from rca.models.files import write_atomically
from rca.report import Certainty

VERSION: Final = "1"
RANKS: Final = ("ac1", "ac3", "ac5", "mrr")
"""Measures of where the cause stands."""

Standing = Literal["scored", "nobody", "unlabelled", "not collected"]
"""`scored`: a cause is known and was looked for; `nobody`: nobody is to blame; the others are told, and count no further."""
Role = Literal["in use", "model", "baseline"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Model):
    """A number over `n` injections or windows in `groups` of (system, service, fault kind), with its 95 % interval."""

    n: int
    groups: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class Named(_Model):
    """A candidate and its probability."""

    entity: str
    probability: float


class Said(_Model):
    """What a ranker said at a moment: the first candidates, the level of certainty, and where the best-ranked cause stood.

    `rank` is None where no cause was among the candidates, `right` where there is nobody to name.
    """

    minute: float
    at_ns: int
    first: tuple[Named, ...] = ()
    no_fault: float = 0.0
    level: Certainty = "nothing"
    rank: int | None = None
    right: bool | None = None
    failure: str = ""

    @property
    def confidence(self) -> float:
        """Probability of the first candidate."""
        return self.first[0].probability if self.first else 0.0


class GuessScore(_Model):
    """What a person guessed, when, whether that was right, and whether the model in use was right at that moment."""

    who: str
    minute: float
    at_ns: int
    entity: str
    right: bool | None
    tool_right: bool | None


class InjectionScore(_Model):
    """One injection: the truth, how it was noticed, and what was said about it. `said` is by ranker, in order of time."""

    number: int
    fault_kind: str
    target: str
    source: str
    note: str = ""
    strength: float | None = None
    start_ns: int
    end_ns: int | None
    incident_id: str | None
    standing: Standing
    trouble: str = ""
    causes: tuple[str, ...] = ()
    overlapping: tuple[int, ...] = ()
    counted_from: Literal["alert", "injection"] = "injection"
    from_ns: int
    over_ns: int | None = None
    fixed_ns: int | None = None
    said: dict[str, tuple[Said, ...]] = {}
    known_window: dict[str, Said] = {}
    settled_minute: dict[str, float | None] = {}
    resolve_minutes: float | None = None
    right_by_then: dict[str, bool] = {}
    guesses: tuple[GuessScore, ...] = ()

    def last(self, ranker: str) -> Said | None:
        """What the ranker said in the end; None where it was never asked."""
        said = self.said.get(ranker, ())
        return said[-1] if said else None


class Point(_Model):
    """Shares of the answers that stand at a minute: of right ones, and of those that blame somebody wrongly."""

    minute: float
    share: Figure
    misled: Figure


class Bin(_Model):
    """Answers whose confidence lies in [low, high): how many, how sure on average, and how many of them were right."""

    low: float
    high: float
    n: int
    confidence: float
    right: Figure


class Calibration(_Model):
    """How far the probability of the first candidate can be trusted, on the last answers: ECE, Brier, and bins that hold any."""

    ece: Figure
    brier: Figure
    bins: tuple[Bin, ...]


class RankerScore(_Model):
    """Everything about one ranker, over the injections that have a cause and were collected."""

    label: str
    role: Role
    note: str = ""
    accuracy: dict[str, Figure]
    known_window: dict[str, Figure]
    with_uncollected: Figure
    chance: dict[str, float | None]
    curve: tuple[Point, ...]
    settled: Figure
    calibration: Calibration
    quiet: Figure
    nobody: Figure
    nobody_ever: Figure
    resolve_right: Figure
    resolve_wrong: Figure
    by_fault_kind: dict[str, Figure]
    by_service: dict[str, Figure]
    ahead: Figure | None = None
    failures: int = 0


class Person(_Model):
    """Somebody's guesses beside the model in use, on the injections that this person guessed about.

    `last` is the share of right last guesses, `tool_then` of right answers at those moments, `tool_last` of right last answers;
    `settled` and `tool_settled` are medians of minutes to an answer that stayed right.
    """

    who: str
    guesses: int
    first: Figure
    last: Figure
    tool_then: Figure
    tool_last: Figure
    settled: Figure
    tool_settled: Figure


class QuietTimes(_Model):
    """Quiet times: `windows` were asked about, `seconds` of telemetry in all; `unrecorded` intervals held none to ask about."""

    intervals: int
    unrecorded: int
    windows: int
    seconds: float
    alerts: int


class Settings(_Model):
    """What the answers hang on beside the recordings: settings of `[triage]` in seconds, and the seed of the intervals."""

    lag_s: float
    lookback_s: float
    baseline_s: float
    longest_s: float
    seed: int
    made_with: str


class Scores(_Model):
    """The scores of a game day. `of` is a digest of the game day that they are of."""

    version: Literal["1"] = VERSION
    game_day: str
    of: str
    state: str
    why: str
    settings: Settings
    injections: tuple[InjectionScore, ...]
    rankers: tuple[RankerScore, ...]
    people: tuple[Person, ...]
    quiet: QuietTimes

    @property
    def in_use(self) -> RankerScore:
        """The model that ranks by default, as it stood first."""
        return self.rankers[0]

    def standing(self, *wanted: Standing) -> tuple[InjectionScore, ...]:
        """Injections that count in one of these ways."""
        return tuple(one for one in self.injections if one.standing in wanted)

    def dumps(self) -> str:
        """As JSON; equal scores give equal text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def write_scores(folder: Path, scores: Scores) -> Path:
    """Write the scores into the folder of their game day, over older ones. Raises StorageFull."""
    path = folder / SCORES_FILE
    write_atomically(path, scores.dumps().encode())
    return path


def read_scores(folder: Path) -> Scores:
    """Scores from the folder of a game day. Raises BadInput where there are none, or none of this version."""
    path = folder / SCORES_FILE
    if not path.exists():
        raise BadInput(str(path), expected=f"scores (make them: rca gameday score {folder.name})", found="no file")
    try:
        return Scores.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        expected = f"scores of version {VERSION} (make them anew: rca gameday score {folder.name})"
        raise BadInput(str(path), expected=expected, found=f"{where}: {first['msg']}") from error
