"""Write the verdicts recorded in `results/` into the tables of README.md and docs/claims/.

    python scripts/update_results.py           rewrite the tables
    python scripts/update_results.py --check   only say whether they are up to date (exit code 1 if not)

A table stands between `<!-- results: EXPERIMENT … -->` and `<!-- results: end -->`; `core` behind the names leaves only
the claims that the README tells about.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from physlm.lab.claims import format_threshold, format_value

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/claims/knowledge.md")
CORE = ("BIO-1", "BIO-4", "BIO-5")
TABLE = re.compile(r"(<!-- results: (?P<names>[a-z_ ]+) -->\n).*?(<!-- results: end -->)", re.DOTALL)


def row(claim: dict[str, Any]) -> str:
    """One claim as a row: the verdict, and estimate and interval of each part."""
    parts = []
    for part in claim["parts"]:
        threshold = part["threshold"]
        wanted = format_threshold(
            part["relation"], tuple(threshold) if isinstance(threshold, list) else threshold, part["unit"]
        )
        if part["interval"] is None:
            parts.append(f"{part['name']}: {format_value(part['estimate'], part['unit'])} (claimed {wanted})")
            continue
        low, high = (format_value(end, part["unit"], bare=True) for end in part["interval"])
        estimate = format_value(part["estimate"], part["unit"], bare=True)
        parts.append(f"{part['name']}: **{estimate}** [{low}, {high}] (claimed {wanted})")
    numbers = "<br>".join(parts)
    reason = f"<br>*{claim['reason']}*" if claim["reason"] and claim["verdict"] == "inconclusive" else ""
    return f"| {claim['id']} | {claim['statement']} | {claim['verdict']} | {numbers}{reason} |"


def table(names: list[str]) -> str:
    """The recorded claims of some experiments."""
    core = "core" in names
    lines = ["| claim | statement | verdict | measured |", "| --- | --- | --- | --- |"]
    for name in names:
        path = ROOT / "results" / name / "cpu" / "verdict.json"
        if name == "core" or not path.exists():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        lines += [row(claim) for claim in record["claims"] if not core or claim["id"] in CORE]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Rewrite, or check."""
    check = "--check" in sys.argv[1:]
    stale = []
    for page in PAGES:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after = TABLE.sub(lambda found: f"{found[1]}{table(found['names'].split())}{found[3]}", before)
        if after != before:
            stale.append(page)
            if not check:
                path.write_text(after, encoding="utf-8")
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
