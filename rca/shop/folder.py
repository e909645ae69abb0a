"""The run folder of a shop: where its files stand, and `shop.json`, which says what runs and where it answers.

What another user has to reach cannot stand there where the folder is root's. It stands in a private folder outside, which
`shop.json` names.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rca.errors import BadInput, Rejected, Unavailable
from rca.shop import plan
from rca.wording import clock

STATE_FILE: Final = "shop.json"
OWN_FOLDERS: Final = ("logs", "pods", "prometheus", "alertmanager", "warm", *plan.BACKING, "providers")
_TEMPORARY: Final = (Path("/var/tmp"), Path("/tmp"))  # folders in them are made by mkdtemp
_PRIVATE: Final = "rca-shop-"
SUPERVISOR_LOCK: Final = "lock"
RECORDER_LOCK: Final = "record.lock"  # of whoever may inject and clear faults
SUPERVISOR_LOG: Final = "supervisor.log"
DISK_PROBE: Final = ".written"
IN_USE: Final = (SUPERVISOR_LOCK, RECORDER_LOCK, SUPERVISOR_LOG)
"""What stays when a shop starts where another was."""
OWN_FILES: Final = (STATE_FILE, "rca.toml", "kubeconfig", "load.json", "shop.new", "load.new", DISK_PROBE, *IN_USE)
"""What a shop leaves in its folder."""


@dataclass(frozen=True)
class Process:
    """A process that belongs to a shop. `started` is its start in clock ticks since boot, which no later owner of the id has."""

    name: str
    pid: int
    started: int


@dataclass(frozen=True)
class State:
    """What `shop.json` says.

    `phase` is `starting`, `ready` or `failed`, with the reason in `message`. `addresses` are URLs by name: control, prometheus,
    alertmanager, kubernetes, otlp, exporters, and `gateway`, where customers reach the shop. `outside` are private folders.
    """

    version: str
    supervisor: Process
    phase: str
    message: str
    token: str
    addresses: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFolder:
    """One shop's folder. Two shops have two."""

    path: Path

    @property
    def state_file(self) -> Path:
        return self.path / STATE_FILE

    @property
    def config_file(self) -> Path:
        """Settings for `rca triage --config`, `rca doctor --config` and `rca collect --config`."""
        return self.path / "rca.toml"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def store(self) -> Path:
        """The home that `rca collect` keeps telemetry in."""
        return self.path / "warm"

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    def pod(self, name: str) -> Path:
        """The folder that a pod sees."""
        return self.path / "pods" / name

    def undisturbed(self) -> AbstractContextManager[int]:
        """This process alone injects and clears faults: a second one would spoil what the first records. As `alone`."""
        return self.alone(RECORDER_LOCK, "`rca shop record`, `rca shop inject --for` or a game day is at work")

    def alone(self, lock: str, otherwise: str) -> AbstractContextManager[int]:
        """This process alone does something here; as `alone` below."""
        return alone(self.path, lock, otherwise)

    def check(self) -> None:
        """Raises BadInput where a shop must not be put: a file, or a folder with others' files."""
        if not self.path.exists():
            return
        expected = "an empty folder, or one of an earlier shop"
        if not self.path.is_dir():
            raise BadInput(str(self.path), expected=expected, found="a file")
        strange = sorted(path.name for path in self.path.iterdir() if path.name not in (*OWN_FOLDERS, *OWN_FILES))
        if strange:
            raise BadInput(str(self.path), expected=expected, found=f"other files: {', '.join(strange[:4])}")

    def state(self) -> State | None:
        """What `shop.json` says; None where there is none. Raises BadInput if it is damaged, or the folder is a file."""
        try:
            body = json.loads(self.state_file.read_text(encoding="utf-8"))
            processes = tuple(Process(**one) for one in body.pop("processes"))
            outside = tuple(body.pop("outside", ()))
            supervisor = Process(**body.pop("supervisor"))
            return State(**body, supervisor=supervisor, processes=processes, outside=outside)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise BadInput(str(self.path), expected="the folder of a shop", found="a file") from None
        except PermissionError:
            raise BadInput(str(self.state_file), expected="a file that you may read", found="somebody else's") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise BadInput(str(self.state_file), expected="what a running shop writes", found=found) from None

    def write_state(self, state: State) -> None:
        """Replace `shop.json` in one step. Others than its owner cannot read it: it holds the control API's token."""
        body: dict[str, Any] = asdict(state)
        temporary = self.state_file.with_suffix(".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(body, file, indent=1)
        temporary.replace(self.state_file)


@contextmanager
def alone(folder: Path, lock: str, otherwise: str) -> Iterator[int]:
    """This process alone does something in a folder, until it leaves the context or dies, however it dies.

    A child process that is given the file descriptor goes on keeping others out. Raises Rejected, `otherwise` with the process
    that already does, where one does, and OSError where files cannot be locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / lock).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            raise Rejected(f"{folder}: {otherwise}{who and f', {who}'}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} since {clock(time.time_ns(), date=True)} UTC")
        file.flush()
        yield file.fileno()


def private_folder(user: str) -> Path:
    """A new folder that is a user's own, where everybody finds the way. Raises Unavailable."""
    import pwd

    owner = pwd.getpwnam(user)
    place = next((place for place in _TEMPORARY if place.is_dir()), _TEMPORARY[-1])
    try:
        made = Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=place))
        try:
            os.chown(made, owner.pw_uid, owner.pw_gid)
        except OSError:
            made.rmdir()
            raise
    except OSError as error:
        raise Unavailable(f"{place}: a folder for user {user} could not be made: {error.strerror}") from error
    return made


def remove_private(paths: Iterable[str], patience_s: float = 5.0) -> None:
    """Delete folders of `private_folder`; one that is gone is fine, and one of any other sort is not touched.

    Servers that were killed may still be writing for a moment. Raises Unavailable for what cannot be deleted.
    """
    deadline = time.monotonic() + patience_s
    for path in map(Path, paths):
        if path.parent not in _TEMPORARY or not path.name.startswith(_PRIVATE):
            continue
        while path.exists():
            try:
                shutil.rmtree(path)
            except FileNotFoundError:  # somebody else deletes in there too
                continue
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{path}: could not be deleted: {error.strerror}") from error
                time.sleep(0.05)


def run_folder(given: Path | None = None) -> RunFolder:
    """The given folder, or `shop` below $RCA_HOME."""
    from rca.incidents.home import default_home

    return RunFolder((given or default_home() / "shop").expanduser().resolve())
