"""Recorded verdicts as tables in Markdown, for notebooks and documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from physlm.lab.claims import format_threshold, format_value
from physlm.lab.report import numerics_note

IN_WORDS = {"supported": "supported", "refuted": "not reproduced", "inconclusive": "inconclusive"}
"""Verdicts as they are told to somebody who does not look at the numbers."""


def verdict_table(path: Path | str) -> str:
    """The table of a `verdict.json`, or that there is none; a claim that was not reproduced is "refuted" in it.

    Example:
        >>> verdict_table("results/nothing/cpu/verdict.json")
        'Nothing is recorded here yet.'

    Raises:
        ValueError: if the file is no JSON.
        KeyError: if it is something else than a record of verdicts.
    """
    path = Path(path)
    if not path.exists():
        return "Nothing is recorded here yet."
    record = json.loads(path.read_text(encoding="utf-8"))
    return "\n".join(verdict_rows({record["experiment"]: record}))


def verdict_rows(records: Mapping[str, Mapping[str, Any]], *, summary: bool = False) -> Iterator[str]:
    """One row for each recorded claim, and what is to be known of records that precede the present numerics.

    Args:
        records: contents of `verdict.json` by name of the experiment.
        summary: tell the headline of each claim alone.
    """
    yield "| claim | statement | verdict | measured |"
    yield "| --- | --- | --- | --- |"
    claims = [(claim, record["seeds"]) for record in records.values() for claim in record["claims"]]
    for claim, seeds in sorted(claims, key=lambda row: claim_order(row[0]["id"])):
        verdict = IN_WORDS[claim["verdict"]] if summary else claim["verdict"]
        if claim["seeds"] != seeds:
            verdict = f"{verdict} ({len(claim['seeds'])} seeds)"
        yield f"| {claim['id']} | {claim['statement']} | {verdict} | {_measured(claim, summary=summary)} |"
    notes: dict[str, list[str]] = {}
    for name, record in records.items():
        notes.setdefault(numerics_note(record.get("numerics", 0)), []).append(f"`{name}`")
    for note, concerned in notes.items():
        if note:
            yield ""
            yield f"*{', '.join(concerned)}: {note}*"


def _measured(claim: Mapping[str, Any], *, summary: bool) -> str:
    """Estimate and interval of each part, or of the headline alone, and what made a verdict inconclusive."""
    cells = [f"{part['name']}: {_numbers(part)}" for part in claim["parts"]]
    undecided = claim["verdict"] == "inconclusive"
    if not summary:
        reason = claim["reason"] if undecided else ""
    elif unmet := [requirement["name"] for requirement in claim["requirements"] if not requirement["met"]]:
        cells, reason = cells[:1], f"not valid here, as a requirement is not met: {', '.join(unmet)}"
    else:
        # What the headline does not show: why nothing is decided, or that another part decided.
        told = undecided or claim["parts"][0]["verdict"] != claim["verdict"]
        cells, reason = cells[:1], claim["reason"] if told else ""
    return "<br>".join([*cells, *([f"*{reason}*"] if reason else [])])


def _numbers(part: Mapping[str, Any]) -> str:
    """Estimate, interval and threshold of a part."""
    threshold = tuple(part["threshold"]) if isinstance(part["threshold"], list) else part["threshold"]
    wanted = format_threshold(part["relation"], threshold, part["unit"])
    if part["interval"] is None:
        return f"{format_value(part['estimate'], part['unit'])} (claimed {wanted})"
    low, high = (format_value(end, part["unit"], bare=True) for end in part["interval"])
    return f"**{format_value(part['estimate'], part['unit'], bare=True)}** [{low}, {high}] (claimed {wanted})"


def claim_order(identity: str) -> tuple[str, int, str]:
    """Where a claim stands among others: family, number, and what follows the number."""
    found = re.fullmatch(r"(.*?)-(\d+)(.*)", identity)
    return (found[1], int(found[2]), found[3]) if found else (identity, 0, "")
