"""Measure how far apart our logits and those of `transformers` are, in every family, precision and direction.

    python scripts/check_parity.py           write results/parity.json and the tables of docs/parity.md
    python scripts/check_parity.py --check   only say whether the page shows what the file records (1 if not)

On one core of a CPU, in about a minute. Weights are random, biases and norms away from their trivial start, and of a
size that keeps hidden states near one, so that every part counts. Rounding alone is measured beside: how far our own
logits are from our own in float32.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from physlm.models.conversion import from_transformers, to_transformers
from physlm.models.counterparts import NoCounterpartError
from physlm.models.presets import preset, preset_names
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count
from physlm.randomness import Key

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "results" / "parity.json", ROOT / "docs" / "parity.md"
TABLE = re.compile(r"(<!-- parity: (?P<name>\w+) -->\n).*?(<!-- parity: end -->)", re.DOTALL)

VOCABULARY, CONTEXT = 1000, 512
WINDOWS = ((4, 64), (1, CONTEXT))
"""Rows and tokens in each, of what is read; a long one because far positions are where angles and tables may differ."""
SMALL = {"layers": 4, "heads": 2, "width": 128}
MODELS: dict[str, dict[str, Any]] = {
    "GPT": SMALL,
    "GPT2-4-2": {},
    "GPT2_1/4-4-2": {},
    "GPT2-rotary small": SMALL,
    "LLaMA-4-2": {},
    "LLaMA-4-3": {"tied": True, "biases": True},
    "Mistral-4-6": {},
    "GPT2-12-12": {},
}
"""Presets, and what is changed in them: fixed sizes are made small, and some options are tried."""
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def options() -> argparse.Namespace:
    """What was asked for; an unknown option is refused before anything is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is out of date")
    return parser.parse_args()


def main() -> int:
    """Measure and write, or check."""
    check = options().check
    if not check:
        RECORD.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before, json.loads(RECORD.read_text(encoding="utf-8")))
    if not check:
        PAGE.write_text(after, encoding="utf-8")
    print(f"{'out of date' if check else 'rewritten'}: {PAGE.relative_to(ROOT) if after != before else 'nothing'}")
    return int(check and after != before)


def record() -> dict[str, Any]:
    """Everything that is known, as a JSON object."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "device": "CPU",
        "windows": [{"rows": rows, "tokens": tokens} for rows, tokens in WINDOWS],
        "vocab_size": VOCABULARY,
        "rows": [row for name in MODELS for row in measured(name)],
        "no_counterpart": dict(unmatched()),
    }


def config_of(name: str) -> TransformerConfig:
    """A preset with initial weights that keep hidden states near one."""
    config = replace(preset(name, vocab_size=VOCABULARY, context=CONTEXT), **MODELS[name])
    return replace(config, initial_std=config.width**-0.5)


def measured(name: str) -> Iterator[dict[str, Any]]:
    """Errors in both directions, in all precisions, in short windows and long ones."""
    key = Key.of("parity", name)
    generator = torch.Generator().manual_seed(key.low)
    config = config_of(name)
    ours = disturbed(Transformer(config, seed=0), generator).eval()
    theirs = to_transformers(ours)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.low)
        fresh = disturbed(type(theirs)(theirs.config), generator).eval()
    windows = [torch.randint(VOCABULARY, window, generator=generator) for window in WINDOWS]
    for direction, source in (("to_transformers", ours), ("from_transformers", fresh)):
        exact: dict[int, torch.Tensor] = {}
        for precision in PRECISIONS:
            converted = in_precision(source, precision)
            our, their = (
                (converted, to_transformers(converted)) if source is ours else (from_transformers(converted), converted)
            )
            for tokens in windows:
                length = tokens.shape[1]
                with torch.inference_mode():
                    logits, their_logits = our(tokens).float(), their(tokens).logits.float()
                if precision == torch.float32:
                    exact[length] = logits
                error = (logits - their_logits).abs()
                yield {
                    "preset": name,
                    "changes": {field: value for field, value in MODELS[name].items() if MODELS[name] is not SMALL},
                    "shape": f"{config.layers}L{config.width}D",
                    "parameters": parameter_count(config),
                    "family": their.config.model_type,
                    "direction": direction,
                    "precision": str(precision).removeprefix("torch."),
                    "window": length,
                    "max_error": error.max().item(),
                    "mean_error": error.mean().item(),
                    "own_max_error": (logits - exact[length]).abs().max().item(),
                    "largest_logit": exact[length].abs().max().item(),
                }


def in_precision(model: Any, precision: torch.dtype) -> Any:
    """A copy with weights in that precision; tables of frequencies stay in float32."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(precision)
    return model


def disturbed(model: Any, generator: torch.Generator) -> Any:
    """The model, in place, with biases and norms away from zero and one."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def unmatched() -> Iterator[tuple[str, list[str]]]:
    """Presets without a counterpart, and the parts that are to blame."""
    for name in preset_names():
        config = preset(name.replace("-ℓ-h", "-1-4").replace("ℓLdD", "1L256D"), vocab_size=8, context=8)
        model = Transformer(replace(config, layers=1, heads=4, width=64), seed=0)
        try:
            to_transformers(model)
        except NoCounterpartError as error:
            yield name, list(error.parts)


def filled(page: str, found: dict[str, Any]) -> str:
    """The page with its tables as recorded."""
    tables = {"errors": errors_table(found), "none": none_table(found)}
    return TABLE.sub(lambda table: f"{table[1]}{tables[table['name']]}{table[3]}", page)


def errors_table(found: dict[str, Any]) -> str:
    """One line for each preset, precision and window: the larger of both directions."""
    columns = ["preset", "shape", "family", "precision", "window"]
    columns += ["largest error", "mean error", "rounding alone", "largest logit"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault((row["preset"], row["precision"], row["window"]), []).append(row)
    for (name, precision, window), rows in groups.items():
        first = rows[0]
        changes = "".join(f", {field}={value}" for field, value in first["changes"].items())
        numbers = [
            max(row[column] for row in rows) for column in ("max_error", "mean_error", "own_max_error", "largest_logit")
        ]
        largest, mean, own, logit = numbers
        alone = f"{own:.1e}" if own else "–"
        lines.append(
            f"| {name}{changes} | {first['shape']} | {first['family']} | {precision} | {window} "
            f"| {largest:.1e} | {mean:.1e} | {alone} | {logit:.1f} |"
        )
    read = " and ".join(f"{window['rows']} × {window['tokens']}" for window in found["windows"])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += ["", f"Logits of {read} tokens, {versions}, on a {found['device']}.", ""]
    return "\n".join(lines)


def none_table(found: dict[str, Any]) -> str:
    """One line for each preset without a counterpart."""
    lines = ["| preset | part without a counterpart |", "| --- | --- |"]
    lines += [
        f"| {name} | {', '.join(f'`{part}`' for part in parts)} |" for name, parts in found["no_counterpart"].items()
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    raise SystemExit(main())
