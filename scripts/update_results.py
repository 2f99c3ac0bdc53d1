"""Write experiments and recorded verdicts into the tables of README.md and docs/claims/.

    python scripts/update_results.py           rewrite the tables
    python scripts/update_results.py --check   only say whether they are up to date (exit code 1 if not)

A table stands between `<!-- results: KIND -->` and `<!-- results: end -->`, where KIND is

- `experiments`: every experiment with its command, question, claims and a count of its verdicts,
- `summary`: every recorded claim with its verdict and headline,
- names of experiments: all that is recorded of their claims.

Nothing is listed by hand: an experiment is a module in `experiments/` with an `EXPERIMENT`, its question is the first
line of the module, and its verdicts are those in `results/`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import experiments
from physlm.lab import Experiment
from physlm.lab.plan import folder_of
from physlm.lab.tables import IN_WORDS, claim_order, verdict_rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
TABLE = re.compile(r"(<!-- results: (?P<kind>[a-z_ ]+) -->\n).*?(<!-- results: end -->)", re.DOTALL)


def pages() -> list[Path]:
    """The documents that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs" / "claims").glob("*.md"))]


@cache
def all_experiments() -> dict[str, tuple[Experiment[Any], str]]:
    """Every experiment with its question, by name."""
    modules = [
        importlib.import_module(f"experiments.{found.name}")
        for found in pkgutil.iter_modules(experiments.__path__)
        if not found.name.startswith("_")
    ]
    return {
        module.EXPERIMENT.name: (module.EXPERIMENT, (module.__doc__ or module.EXPERIMENT.title).splitlines()[0])
        for module in modules
        if isinstance(getattr(module, "EXPERIMENT", None), Experiment)
    }


def claims_of(experiment: Experiment[Any]) -> list[str]:
    """The claims that an experiment decides at its default scale."""
    scale = experiment.default_scale
    return [claim.id for claim in experiment.claims(scale, experiment.preset(scale))]


def recorded(name: str) -> dict[str, Any] | None:
    """The verdicts of the committed seeds at `cpu` scale, or of the decisive ones of a claim that has such."""
    folder = RESULTS / name / "cpu"
    if not (folder / "verdict.json").exists():
        return None
    record = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    decisive = all_experiments()[name][0].decisive_seeds
    for place, claim in enumerate(record["claims"]):
        further = folder / folder_of(tuple(decisive.get(claim["id"], ()))) / "verdict.json"
        if claim["id"] in decisive and further.exists():
            found = json.loads(further.read_text(encoding="utf-8"))["claims"]
            record["claims"][place] = next(one for one in found if one["id"] == claim["id"])
    return record


def records_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What is recorded of some experiments."""
    return {name: record for name in names if (record := recorded(name))}


def abbreviated(identities: Iterable[str]) -> str:
    """Claims in a few characters, in order.

    Example:
        >>> abbreviated(["CFG-3", "BIO-5-ladder", "BIO-15", "BIO-5"])
        'BIO-5, 5-ladder, 15, CFG-3'
    """
    words: list[str] = []
    before = ""
    for family, number, rest in sorted(map(claim_order, identities)):
        word = f"{number}{rest}" if number else ""
        words.append(word if family == before else f"{family}-{word}".rstrip("-"))
        before = family
    return ", ".join(words)


def experiment_rows() -> Iterator[str]:
    """One row for each experiment."""
    yield "| command | question | claims | recorded |"
    yield "| --- | --- | --- | --- |"
    claims = {name: claims_of(experiment) for name, (experiment, _) in all_experiments().items()}
    for name in sorted(claims, key=lambda name: min(map(claim_order, claims[name]), default=("", 0, ""))):
        _, question = all_experiments()[name]
        record = recorded(name)
        counts = Counter(claim["verdict"] for claim in record["claims"]) if record else Counter()
        verdicts = ", ".join(f"{counts[verdict]} {told}" for verdict, told in IN_WORDS.items() if counts[verdict])
        cells = (f"`python -m experiments.{name}`", question, abbreviated(claims[name]), verdicts or "nothing yet")
        yield f"| {' | '.join(cells)} |"


def table(kind: str) -> str:
    """The table of a kind."""
    if kind == "experiments":
        rows = experiment_rows()
    elif kind == "summary":
        rows = verdict_rows(records_of(all_experiments()), summary=True)
    else:
        rows = verdict_rows(records_of(kind.split()))
    return "\n".join(rows) + "\n"


def options() -> argparse.Namespace:
    """What was asked for; an unknown option is refused before anything is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is out of date")
    return parser.parse_args()


def main() -> int:
    """Rewrite, or check."""
    check = options().check
    stale = []
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = TABLE.sub(lambda found: f"{found[1]}{table(found['kind'])}{found[3]}", before)
        if after != before:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(after, encoding="utf-8")
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
