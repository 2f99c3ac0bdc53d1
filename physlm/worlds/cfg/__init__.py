"""Grammars: hierarchical structure with exact likelihoods (Part 1, arXiv 2305.13673).

Example:
    >>> named_grammar("cfg3f").layers.sizes
    (1, 3, 3, 3, 3, 3, 3)
    >>> random_grammar(ladder("b", seed=0, levels=4)).vocab_size
    6
"""

from physlm.worlds.cfg.grammar import Grammar, GrammarError, Layers, Rule, reroot
from physlm.worlds.cfg.named import grammar as named_grammar
from physlm.worlds.cfg.named import names as grammar_names
from physlm.worlds.cfg.random_grammars import RandomGrammarConfig, ladder, random_grammar

__all__ = [
    "Grammar",
    "GrammarError",
    "Layers",
    "RandomGrammarConfig",
    "Rule",
    "grammar_names",
    "ladder",
    "named_grammar",
    "random_grammar",
    "reroot",
]
