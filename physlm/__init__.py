"""Physics of Language Models as runnable, checkable, extensible experiments.

- A *world* knows every fact it tells (`physlm.worlds`), a *model* is small enough to read (`physlm.models`),
  and a *claim* has a control, several seeds and a threshold fixed before the run (`physlm.lab`).
- The names most often used are here too: `from physlm import BiographyWorld`. Importing `physlm` loads none of
  them; each is loaded with its module when it is first asked for.

Example:
    >>> import physlm
    >>> world = physlm.BiographyWorld(physlm.BiographyConfig(seed=0, people=100))
    >>> world["questions_train", 0].truth.person.pronoun in ("He", "She", "They")
    True
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from physlm.data.contract import Judgement, Sample, Samples, World, leakage
    from physlm.data.streams import Batch, PackedStream, Source
    from physlm.data.tokenizers import (
        BytePairTokenizer,
        HuggingFaceTokenizer,
        Tokenizer,
        WordTokenizer,
        load_tokenizer,
    )
    from physlm.evaluation import answer_matches, first_token_matches
    from physlm.lab import (
        Claim,
        Condition,
        Experiment,
        Measurement,
        Requirement,
        Verdict,
        Workspace,
        run_experiment,
    )
    from physlm.models.generation import generate
    from physlm.models.positions import (
        T5,
        Alibi,
        Deberta,
        Fire,
        HardAlibi,
        Kerple,
        Learned,
        NoPosition,
        PositionOnly,
        Rotary,
        Sinusoidal,
        TransformerXL,
        Uniform,
    )
    from physlm.models.transformer import Capture, Transformer, TransformerConfig, parameter_count
    from physlm.randomness import Key
    from physlm.training.checkpoints import load_model, save_model
    from physlm.training.loop import train
    from physlm.training.recipe import Recipe
    from physlm.worlds.bios import BiographyConfig, BiographyWorld

__all__ = [
    "T5",
    "Alibi",
    "Batch",
    "BiographyConfig",
    "BiographyWorld",
    "BytePairTokenizer",
    "Capture",
    "Claim",
    "Condition",
    "Deberta",
    "Experiment",
    "Fire",
    "HardAlibi",
    "HuggingFaceTokenizer",
    "Judgement",
    "Kerple",
    "Key",
    "Learned",
    "Measurement",
    "NoPosition",
    "PackedStream",
    "PositionOnly",
    "Recipe",
    "Requirement",
    "Rotary",
    "Sample",
    "Samples",
    "Sinusoidal",
    "Source",
    "Tokenizer",
    "Transformer",
    "TransformerConfig",
    "TransformerXL",
    "Uniform",
    "Verdict",
    "WordTokenizer",
    "Workspace",
    "World",
    "__version__",
    "answer_matches",
    "first_token_matches",
    "generate",
    "leakage",
    "load_model",
    "load_tokenizer",
    "parameter_count",
    "run_experiment",
    "save_model",
    "train",
]

# Where each name lives. Type checkers read the imports above instead; a test keeps the lists alike.
_HOMES = {
    "physlm.data.contract": ("Judgement", "Sample", "Samples", "World", "leakage"),
    "physlm.data.streams": ("Batch", "PackedStream", "Source"),
    "physlm.data.tokenizers": (
        "BytePairTokenizer",
        "HuggingFaceTokenizer",
        "Tokenizer",
        "WordTokenizer",
        "load_tokenizer",
    ),
    "physlm.evaluation": (
        "answer_matches",
        "first_token_matches",
    ),
    "physlm.lab": (
        "Claim",
        "Condition",
        "Experiment",
        "Measurement",
        "Requirement",
        "Verdict",
        "Workspace",
        "run_experiment",
    ),
    "physlm.models.positions": (
        "T5",
        "Alibi",
        "Deberta",
        "Fire",
        "HardAlibi",
        "Kerple",
        "Learned",
        "NoPosition",
        "PositionOnly",
        "Rotary",
        "Sinusoidal",
        "TransformerXL",
        "Uniform",
    ),
    "physlm.models.generation": ("generate",),
    "physlm.models.transformer": ("Capture", "Transformer", "TransformerConfig", "parameter_count"),
    "physlm.randomness": ("Key",),
    "physlm.training.checkpoints": ("load_model", "save_model"),
    "physlm.training.loop": ("train",),
    "physlm.training.recipe": ("Recipe",),
    "physlm.worlds.bios": ("BiographyConfig", "BiographyWorld"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_SUBPACKAGES = ("data", "evaluation", "lab", "models", "randomness", "training", "worlds")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _SUBPACKAGES:
        value = importlib.import_module(f"physlm.{name}")
    else:
        raise AttributeError(f"physlm has no {name!r}; it has {', '.join((*_SUBPACKAGES, *sorted(_HOME)))}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
