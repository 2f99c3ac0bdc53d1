"""Grammars: hierarchical structure with exact likelihoods (Part 1, arXiv 2305.13673).

Example:
    >>> world = CFGWorld(CFGConfig(seed=0, grammar="cfg3f"))
    >>> sentence = world.sentences("test", np.arange(1))[0]
    >>> Parser(world.grammar).chart(sentence).is_sentence
    True
"""

from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.corruption import Corruption
from physlm.worlds.cfg.entropy import language_entropy
from physlm.worlds.cfg.files import load as load_grammar
from physlm.worlds.cfg.files import save as save_grammar
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.grammar import Grammar, GrammarError, Layers, Rule, reroot
from physlm.worlds.cfg.implicit import Implicit
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.named import grammar as named_grammar
from physlm.worlds.cfg.named import names as grammar_names
from physlm.worlds.cfg.random_grammars import RandomGrammarConfig, ladder, random_grammar
from physlm.worlds.cfg.world import CFGWorld

__all__ = [
    "CFGConfig",
    "CFGWorld",
    "Corruption",
    "GeneralParser",
    "Grammar",
    "GrammarError",
    "Implicit",
    "Layers",
    "Parser",
    "RandomGrammarConfig",
    "Rule",
    "grammar_names",
    "ladder",
    "language_entropy",
    "load_grammar",
    "named_grammar",
    "random_grammar",
    "reroot",
    "save_grammar",
]
