"""Try to fool the judge of the iGSM world, and write down what came of it.

    python scripts/fuzz_igsm_judge.py                        write results/igsm_judge.json, in about ten minutes
    python scripts/fuzz_igsm_judge.py --mutations 1000 --reorderings 1000 --no-record

- Spoilt solutions: one to three random mutations of right ones. Every verdict, its reason, parameter and sentence are
  compared with those of a slow judge written from the specification, which reads text and shares no code. What is
  well formed is judged in compact text as well, and must be judged alike.
- Valid reorderings: problems with their solution in a random order, some with parameters that are not needed, operands
  of sums and products exchanged, in both dialects. None may be refused.

The exit code is 1 if there was any difference; the first ones are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "igsm_judge.json"
sys.path.insert(0, str(ROOT / "tests" / "worlds" / "igsm"))

from igsm_fuzz import CONFIGS, Arena  # noqa: E402

from physlm.lab.provenance import versions  # noqa: E402

PROBLEMS = 200
"""Of each world at a time; then others are drawn."""
BATCH = 5000
_SHOWN = 5


def main() -> int:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1_050_000, metavar="N", help="spoilt solutions")
    parser.add_argument("--reorderings", type=int, default=210_000, metavar="N", help="valid solutions")
    parser.add_argument("--seed", type=int, default=1, help="of problems and mutations")
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    start = time.process_time()
    spoilt, valid = Spoilt(), Valid()
    for test, wanted in ((valid, options.reorderings), (spoilt, options.mutations)):
        round_number = 0
        while test.tried < wanted:
            for name in CONFIGS:
                arena = Arena(name, options.seed * 1_000_003 + round_number, PROBLEMS, draw)
                test.run(arena, name, min(BATCH, wanted - test.tried))
            round_number += 1
            print(f"{time.process_time() - start:8.0f} s  {test}", flush=True)
    record = {
        "seed": options.seed,
        "worlds": CONFIGS,
        "spoilt": spoilt.record(),
        "reorderings": valid.record(),
        "cpu_seconds": round(time.process_time() - start),
        "versions": versions(),
    }
    print(json.dumps(record, indent=1))
    if not options.no_record:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(spoilt.differences + spoilt.compact_differences + valid.refused > 0)


class Spoilt:
    """Spoilt solutions and how they were judged."""

    def __init__(self) -> None:
        self.tried = self.unchanged = self.differences = 0
        self.wrong_accepted = self.right_refused = self.other_reason = 0
        self.reasons: Counter[str] = Counter()
        self.lenient_only = self.compact = self.compact_differences = 0
        self.mutations: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.worlds: Counter[str] = Counter()

    def run(self, arena: Arena, name: str, count: int) -> None:
        """Spoil `count` solutions of an arena and compare the verdicts."""
        numbers, spoilt, done = [], [], []
        while len(spoilt) < count:
            number, other = (arena.draw.randrange(PROBLEMS) for _ in range(2))
            tokens, names = arena.mutator.spoil(arena.solutions[number], arena.solutions[other])
            if tokens == arena.solutions[number]:
                self.unchanged += 1
                continue
            numbers.append(number)
            spoilt.append(tokens)
            done.append(names)
        problems = [arena.problems[number] for number in numbers]
        judge = arena.judges["english"]
        of_strict, lenient = (judge.check_many(problems, spoilt, strict=strict) for strict in (True, False))
        for i, (verdict, other) in enumerate(zip(of_strict, lenient, strict=True)):
            self._compare(arena, numbers[i], spoilt[i], verdict, done[i], strict=True)
            # Mostly both say the same, and then so does the oracle.
            if other != verdict:
                self._compare(arena, numbers[i], spoilt[i], other, done[i], strict=False)
        self.lenient_only += int((lenient.correct & ~of_strict.correct).sum())
        short = {i: tokens for i, tokens in enumerate(map(arena.compact, spoilt)) if tokens is not None}
        of_short = arena.judges["compact"].check_many([problems[i] for i in short], list(short.values()))
        for i, verdict in zip(short, of_short, strict=True):
            self.compact += 1
            said, wanted = ((v.reason, v.parameter, v.sentence) for v in (verdict, of_strict[i]))
            if said != wanted:
                self.compact_differences += 1
                print("compact", said, wanted, arena.vocabulary.decode(short[i]), sep="\n", flush=True)
        for verdict, names in zip(of_strict, done, strict=True):
            self.reasons[verdict.reason or "right"] += 1
            self.mutations.update(names)
            if verdict.correct:
                self.accepted["+".join(sorted(set(names)))] += 1
        self.tried += count
        self.worlds[name] += count

    def _compare(self, arena: Arena, number: int, tokens: Any, verdict: Any, done: Any, *, strict: bool) -> None:
        # Every tenth as text.
        is_tenth = (self.tried + number) % 10 == 0
        difference = arena.difference(number, tokens, verdict, strict=strict, as_text=is_tenth)
        if not difference:
            return
        self.differences += 1
        is_right = arena.oracle(number).judge(arena.vocabulary.decode(tokens), strict=strict)[0] is None
        self.wrong_accepted += bool(verdict.correct and not is_right)
        self.right_refused += bool(is_right and not verdict.correct)
        self.other_reason += bool(is_right == verdict.correct)
        if self.differences <= _SHOWN:
            print(done, "strict" if strict else "lenient", difference, sep="\n", flush=True)

    def __str__(self) -> str:
        return f"{self.tried} spoilt, {self.differences} differences"

    def record(self) -> dict[str, Any]:
        """Everything as a JSON object."""
        return {
            "solutions": self.tried,
            "by_world": dict(self.worlds),
            "wrong_accepted": self.wrong_accepted,
            "right_refused": self.right_refused,
            "other_reason_parameter_or_sentence": self.other_reason,
            "verdicts": dict(self.reasons.most_common()),
            "also_judged_in_compact_text": self.compact,
            "judged_otherwise_in_compact_text": self.compact_differences,
            "right_for_lenient_only": self.lenient_only,
            "mutations": dict(self.mutations.most_common()),
            "still_right_after": dict(self.accepted.most_common(20)),
        }


class Valid:
    """Valid solutions in random orders."""

    def __init__(self) -> None:
        self.tried = self.refused = self.with_extra = self.changed = 0
        self.worlds: Counter[str] = Counter()

    def run(self, arena: Arena, name: str, count: int) -> None:
        """Reorder `count` solutions of an arena and judge them, both in one dialect and the other."""
        numbers = [arena.draw.randrange(PROBLEMS) for _ in range(count)]
        rewritten = [arena.reordered(number) for number in numbers]
        problems = [arena.problems[number] for number in numbers]
        english = [arena.exchanged(tokens.tolist()) for tokens in arena.written(rewritten, "english")]
        compact = arena.written(rewritten, "compact")
        for dialect, solutions in (("english", english), ("compact", compact)):
            verdicts = arena.judges[dialect].check_many(problems, solutions)
            self.refused += int((~verdicts.correct).sum())
            for problem, tokens, verdict in zip(rewritten, solutions, verdicts, strict=True):
                if verdict.defined != problem.solution:
                    self.refused += verdict.correct
                    print(arena.vocabulary.decode(tokens), verdict, sep="\n", flush=True)
        self.changed += sum(new.solution != old.solution for new, old in zip(rewritten, problems, strict=True))
        self.with_extra += sum(
            len(new.solution) > len(old.solution) for new, old in zip(rewritten, problems, strict=True)
        )
        self.tried += count
        self.worlds[name] += count

    def __str__(self) -> str:
        return f"{self.tried} reordered, {self.refused} refused"

    def record(self) -> dict[str, Any]:
        """Everything as a JSON object."""
        return {
            "solutions": self.tried,
            "dialects_each": 2,
            "by_world": dict(self.worlds),
            "in_another_order": self.changed,
            "with_unnecessary_parameters": self.with_extra,
            "refused": self.refused,
        }


if __name__ == "__main__":
    raise SystemExit(main())
