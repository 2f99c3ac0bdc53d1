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
    from physlm.data.tokenizers import BytePairTokenizer, HuggingFaceTokenizer, Tokenizer, WordTokenizer, load_tokenizer
    from physlm.evaluation import answer_matches, first_token_matches, score
    from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, Verdict, Workspace, run_experiment
    from physlm.models.beam_search import beam_search
    from physlm.models.canon import Canon
    from physlm.models.capture import Capture, tap_names
    from physlm.models.config import TransformerConfig, parameter_count
    from physlm.models.conversion import from_transformers, load_transformers, save_transformers, to_transformers
    from physlm.models.decoding import Continuation
    from physlm.models.experts import Experts
    from physlm.models.generation import generate
    from physlm.models.low_rank import add_low_rank, merge_low_rank
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
    from physlm.models.presets import preset, preset_names
    from physlm.models.quantization import quantize
    from physlm.models.regret import retry_upon_regret
    from physlm.models.transformer import Transformer
    from physlm.randomness import Key
    from physlm.training.checkpoints import load_model, save_model
    from physlm.training.execution import Execution
    from physlm.training.loop import train
    from physlm.training.recipe import MuonRecipe, Recipe
    from physlm.training.stacked import train_stacked
    from physlm.worlds.bios import BiographyConfig, BiographyWorld
    from physlm.worlds.cfg import (
        CFGConfig,
        CFGWorld,
        Corruption,
        GeneralParser,
        Grammar,
        GrammarError,
        Implicit,
        Parser,
        RandomGrammarConfig,
        language_entropy,
        load_grammar,
        named_grammar,
        random_grammar,
        reroot,
    )
    from physlm.worlds.cfg.dense import DenseParser
    from physlm.worlds.igsm import IGSMConfig, IGSMWorld
    from physlm.worlds.mistakes import RetryConfig, retry_world

__all__ = [
    "T5",
    "Alibi",
    "Batch",
    "BiographyConfig",
    "BiographyWorld",
    "BytePairTokenizer",
    "CFGConfig",
    "CFGWorld",
    "Canon",
    "Capture",
    "Claim",
    "Condition",
    "Continuation",
    "Corruption",
    "Deberta",
    "DenseParser",
    "Execution",
    "Experiment",
    "Experts",
    "Fire",
    "GeneralParser",
    "Grammar",
    "GrammarError",
    "HardAlibi",
    "HuggingFaceTokenizer",
    "IGSMConfig",
    "IGSMWorld",
    "Implicit",
    "Judgement",
    "Kerple",
    "Key",
    "Learned",
    "Measurement",
    "MuonRecipe",
    "NoPosition",
    "PackedStream",
    "Parser",
    "PositionOnly",
    "RandomGrammarConfig",
    "Recipe",
    "Requirement",
    "RetryConfig",
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
    "add_low_rank",
    "answer_matches",
    "beam_search",
    "first_token_matches",
    "from_transformers",
    "generate",
    "language_entropy",
    "leakage",
    "load_grammar",
    "load_model",
    "load_tokenizer",
    "load_transformers",
    "merge_low_rank",
    "named_grammar",
    "parameter_count",
    "preset",
    "preset_names",
    "quantize",
    "random_grammar",
    "reroot",
    "retry_upon_regret",
    "retry_world",
    "run_experiment",
    "save_model",
    "save_transformers",
    "score",
    "tap_names",
    "to_transformers",
    "train",
    "train_stacked",
]

# Where each name lives. Type checkers read the imports above instead; a test keeps the lists alike.
_HOMES = {
    "physlm.data.contract": (
        "Judgement",
        "Sample",
        "Samples",
        "World",
        "leakage",
    ),
    "physlm.data.streams": (
        "Batch",
        "PackedStream",
        "Source",
    ),
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
        "score",
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
    "physlm.models.beam_search": ("beam_search",),
    "physlm.models.canon": ("Canon",),
    "physlm.models.capture": (
        "Capture",
        "tap_names",
    ),
    "physlm.models.config": (
        "TransformerConfig",
        "parameter_count",
    ),
    "physlm.models.conversion": (
        "from_transformers",
        "load_transformers",
        "save_transformers",
        "to_transformers",
    ),
    "physlm.models.decoding": ("Continuation",),
    "physlm.models.experts": ("Experts",),
    "physlm.models.generation": ("generate",),
    "physlm.models.low_rank": (
        "add_low_rank",
        "merge_low_rank",
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
    "physlm.models.presets": (
        "preset",
        "preset_names",
    ),
    "physlm.models.quantization": ("quantize",),
    "physlm.models.regret": ("retry_upon_regret",),
    "physlm.models.transformer": ("Transformer",),
    "physlm.randomness": ("Key",),
    "physlm.training.checkpoints": (
        "load_model",
        "save_model",
    ),
    "physlm.training.execution": ("Execution",),
    "physlm.training.loop": ("train",),
    "physlm.training.stacked": ("train_stacked",),
    "physlm.training.recipe": (
        "MuonRecipe",
        "Recipe",
    ),
    "physlm.worlds.bios": (
        "BiographyConfig",
        "BiographyWorld",
    ),
    "physlm.worlds.cfg": (
        "CFGConfig",
        "CFGWorld",
        "Corruption",
        "GeneralParser",
        "Grammar",
        "GrammarError",
        "Implicit",
        "Parser",
        "RandomGrammarConfig",
        "language_entropy",
        "load_grammar",
        "named_grammar",
        "random_grammar",
        "reroot",
    ),
    "physlm.worlds.cfg.dense": ("DenseParser",),
    "physlm.worlds.igsm": ("IGSMConfig", "IGSMWorld"),
    "physlm.worlds.mistakes": ("RetryConfig", "retry_world"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_SUBPACKAGES = ("data", "evaluation", "lab", "models", "probing", "randomness", "training", "worlds")


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
