"""The settings of a grammar world; they are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass

from physlm.worlds.cfg.choices import LARGEST_SPLIT
from physlm.worlds.cfg.corruption import Corruption
from physlm.worlds.cfg.grammar import Grammar, reroot
from physlm.worlds.cfg.implicit import Implicit
from physlm.worlds.cfg.named import grammar as named_grammar


@dataclass(frozen=True, kw_only=True)
class CFGConfig:
    """A world of sentences from one grammar.

    Example:
        >>> CFGConfig(seed=0, grammar="cfg3b", root="16").used_grammar().root
        '16'

    Attributes:
        seed: any integer; decides sentences, mistakes and bags.
        grammar: a grammar, or the name of a published one.
        root: nonterminal to start from instead of the grammar's own root; a world with the same rules and less depth.
        sentences: number of sentences to train on. Any of them is made at the same cost; nothing is stored but,
            when they are asked for, the lengths of all (4 bytes each).
        test_sentences: number of sentences to test with; they never have mistakes.
        corruption: mistakes in the sentences to train on.
        implicit: show terminals as observable tokens.
        bos: whether every document opens with BOS, as the paper's do.
    """

    seed: int
    grammar: str | Grammar
    root: str | None = None
    sentences: int = 1_000_000
    test_sentences: int = 20_000
    corruption: Corruption | None = None
    implicit: Implicit | None = None
    bos: bool = True

    def __post_init__(self) -> None:
        for name in ("seed", "sentences", "test_sentences"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if name != "seed" and not 1 <= value <= LARGEST_SPLIT:
                raise ValueError(f"{name} must be in 1..{LARGEST_SPLIT}, got {value}")
        for name, kind in (("corruption", Corruption), ("implicit", Implicit)):
            if not isinstance(getattr(self, name), kind | None):
                raise TypeError(f"{name} must be {kind.__name__} or None, got {getattr(self, name)!r}")
        if not isinstance(self.grammar, str | Grammar):
            raise TypeError(f"grammar must be a name or a Grammar, got {self.grammar!r}")
        self.used_grammar()

    def used_grammar(self) -> Grammar:
        """The grammar that sentences are drawn from."""
        grammar = named_grammar(self.grammar) if isinstance(self.grammar, str) else self.grammar
        return grammar if self.root is None else reroot(grammar, self.root)
