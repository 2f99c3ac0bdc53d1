"""Going on with the beginnings of sentences, some of them spoilt by noise, as trained models and exact readers do.

A reader is shown nothing, the first tokens of a test sentence, or these under noise. It is right if the first tokens
*without* noise and what it wrote are a sentence of the grammar.

Source: Physics of Language Models 1, section 5 (robustness).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments._grammar_measures import in_language
from experiments._grammar_texts import TextWithMistakes
from experiments._grammars import complete, test_sentences
from physlm.data.contract import IntArray
from physlm.lab import pack_items
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.cfg.corruption import perturb
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld

NO_PREFIX, CLEAN_PREFIX, NOISY_PREFIX = "no_prefix", "clean_prefix", "noisy_prefix"
"""The paper's cut 0, cut 50 and corrupted cut 50."""
TEMPERATURES = COLD, COOL, WARM = (0.1, 0.2, 1.0)


class Task(NamedTuple):
    """Beginnings of sentences.

    Attributes:
        given: what the reader is shown, without BOS.
        meant: what its answer is judged after.
    """

    given: Sequence[IntArray]
    meant: Sequence[IntArray]


def tasks(world: CFGWorld, seed: int, count: int, cut: int) -> dict[str, Task]:
    """The three tasks on the first `count` test sentences; the same for every reader.

    Noise turns every token into a random terminal with the paper's chance. A short prefix often stays as it was, or
    becomes the beginning of another sentence; those are no test, so that only prefixes that begin no sentence count.
    """
    clean = [sentence[:cut] for sentence in test_sentences(world, count)]
    noisy = perturb(Key.of("noise", seed), np.arange(count), np.array(clean), terminals=len(world.grammar.terminals))
    parser = Parser(world.grammar)
    wrong = [i for i, prefix in enumerate(noisy) if parser.chart(prefix).read < cut]
    if not wrong:
        raise ValueError(f"noise must spoil one prefix at least, got none of {count}: take more sentences")
    nothing = [np.zeros(0, dtype=np.int64)] * count
    return {
        NO_PREFIX: Task(nothing, nothing),
        CLEAN_PREFIX: Task(clean, clean),
        NOISY_PREFIX: Task([noisy[i] for i in wrong], [clean[i] for i in wrong]),
    }


Write = Callable[[Sequence[IntArray], Key, float], Sequence[IntArray | None]]
"""How a reader goes on with prefixes: (prefixes, key, temperature) → new tokens, `None` without an end."""


def writer(model: Transformer, world: CFGWorld) -> Write:
    """How a model does."""
    return lambda prefixes, key, temperature: [
        end for end, _ in complete(model, world, prefixes, key, temperature=temperature)
    ]


def ideal_writer(text: TextWithMistakes, most: int) -> Write:
    """How the exact reader of a text does, within `most` tokens."""
    return lambda prefixes, key, temperature: text.completions(
        prefixes, key.uniforms(np.arange(len(prefixes)), most), temperature=temperature
    )


def right(world: CFGWorld, task: Task, write: Write, key: Key, temperature: float) -> NDArray[np.bool_]:
    """Whether each answer makes a sentence of the grammar of what was meant."""
    return in_language(world, task.meant, write(task.given, key, temperature))


def accuracies(world: CFGWorld, asked: Mapping[str, Task], write: Write, seed: int) -> dict[str, Any]:
    """Accuracy of every task at every temperature, with the outcome of every sentence."""
    found: dict[str, Any] = {}
    for name, task in asked.items():
        found[name] = {}
        for temperature in TEMPERATURES:
            items = right(world, task, write, Key.of("completions", seed, name), temperature)
            found[name][f"{temperature:g}"] = {"mean": float(items.mean()), "items": pack_items(items)}
    return found
