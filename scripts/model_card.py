"""The card of a model: the page `README.md` in its folder, made from what `model.json` says.

    python -m scripts.model_card FOLDER FACTS.toml [RESULTS.json ...]

FACTS.toml has `intended_use` (text), `limits` (a list of texts) and `[[sources]]` (`name`, `path` or `sha256`, and whatever else
is worth saying, such as incidents and seed). RESULTS are summaries as `rca evaluate` writes them. All of it goes into model.json,
and the page is written. `python -m scripts.docs` writes the page of the shipped model anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rca.errors import BadInput
from rca.evaluation.tables import markdown
from rca.models.files import ONNX, WEIGHTS, StoredModel, describe, read_model
from rca.wording import listed, size

_CARD: Final = """\
# {name}

Generated from `model.json` by `python -m scripts.model_card`. docs/model.md says what the network is, how it is trained, and what
the files hold. `rca triage --model {folder}` ranks with it.

{facts}

## Intended use

{use}

## Limits

{limits}

## Data

{data}

## Accuracy

{accuracy}
"""
_UNSAID: Final = "Nothing is written down yet."


def card_page(folder: Path, shown_as: str) -> str:
    """The card of a model. Raises BadCheckpoint."""
    model = read_model(folder)
    card = model.card
    data = [_bullet(source) for source in card.data.get("sources", ())]
    data += [f"- {key.replace('_', ' ')}: {_told(value)}" for key, value in card.data.items() if key != "sources"]
    rows = card.metrics.get("evaluation", ())
    return _CARD.format(
        name=model.id,
        folder=shown_as,
        facts=_facts(model),
        use=card.intended_use or _UNSAID,
        limits="\n".join(f"- {limit}" for limit in card.limits) or _UNSAID,
        data="\n".join(data) or _UNSAID,
        accuracy=markdown(rows).rstrip() if rows else _UNSAID,
    )


def _facts(model: StoredModel) -> str:
    card = model.card
    size = sum((model.folder / file).stat().st_size for file, _ in model.files.values())
    rows = {
        "network": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in card.network.items()),
        "networks averaged": card.members,
        "seed": card.training.get("seed"),
        "share of the correction that counts": card.training.get("strength"),
        "temperature": round(card.temperature, 4),
        **_training(card.metrics.get("members", ())),
        "features": f"{len(card.features)} of a node, {len(card.edge_features)} of a call",
        "size": f"{size / 2**20:.1f} MiB",
        "weights": f"`{model.files[WEIGHTS][0]}`",
        "exported ranking": f"`{model.files[ONNX][0]}`" if ONNX in model.files else "none: needs torch",
    }
    return "\n".join(["| what | value |", "| --- | --- |", *(f"| {what} | {value} |" for what, value in rows.items())])


def _training(members: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What training cost, of models that tell."""
    told = [member for member in members if member.get("device")]
    if not told:
        return {}
    seconds, most = sum(member["seconds"] for member in told), max(member["memory_bytes"] for member in told)
    speed = listed([f"{member['graphs_per_second']:,.0f}" for member in told], len(told))
    devices = listed(sorted({member["device"] for member in told}), len(told))
    return {"training": f"{seconds:,.0f} s on {devices}, {speed} graphs/s, at most {size(most)} of memory"}


def _bullet(source: Mapping[str, Any]) -> str:
    more = [f"{key.replace('_', ' ')} {value}" for key, value in source.items() if key not in ("name", "sha256")]
    return f"- {', '.join([str(source['name']), *more])}; SHA-256 `{source['sha256']}`"


def _told(value: Any) -> str:
    """A value of `data`, a mapping in words."""
    if not isinstance(value, Mapping):
        return f"{value:,}" if isinstance(value, int) else str(value)
    inside = (f"({_told(item)})" if isinstance(item, Mapping) else str(item) for item in value.values())
    return ", ".join(f"{key.replace('_', ' ')} {item}" for key, item in zip(value, inside, strict=True))


def facts_of(path: Path) -> tuple[str, list[str], list[dict[str, Any]]]:
    """Intended use, limits and sources of a facts file; a source's `path` becomes the SHA-256 of that file. Raises BadInput."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), expected="a readable TOML file", found=str(error)) from error
    unknown = sorted(set(body) - {"intended_use", "limits", "sources"})
    if unknown:
        raise BadInput(str(path), expected="intended_use, limits and sources", found=", ".join(unknown))
    sources = []
    for source in body.get("sources", []):
        file = source.pop("path", None)
        if file is not None:
            source["sha256"] = hashlib.sha256((path.parent / file).read_bytes()).hexdigest()
        if not {"name", "sha256"} <= set(source):
            raise BadInput(str(path), expected="name, and path or sha256, of every source", found=", ".join(source))
        sources.append(source)
    return str(body.get("intended_use", "")), list(body.get("limits", [])), sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("facts", type=Path)
    parser.add_argument("results", type=Path, nargs="*")
    options = parser.parse_args()
    rows = [row for path in options.results for row in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    use, limits, sources = facts_of(options.facts)
    describe(options.folder, intended_use=use, limits=limits, sources=sources, evaluation=rows)
    page = options.folder / "README.md"
    page.write_text(card_page(options.folder, options.folder.as_posix()), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
