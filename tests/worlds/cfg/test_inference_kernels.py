"""Compiled code: loaded only when needed, and without a folder to keep it in."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from physlm.worlds.cfg.automaton import EMPTY, build
from physlm.worlds.cfg.grammar import Grammar


def test_importing_inference_does_not_load_numba():
    code = "import sys, physlm.worlds.cfg.inference, physlm.worlds.cfg.entropy; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_automaton_shares_what_rules_have_in_common():
    # Both symbols of the middle level have rules that begin with a b.
    rules = {"S": [["A", "B"]], "A": [["a", "b", "a"], ["a", "b", "b"]], "B": [["a", "b", "a", "b"], ["b"]]}
    automaton = build(Grammar.of("shared", "S", rules).layers)
    # States: a b, then the prefixes ab and aba, A B, and S.
    assert automaton.states == 7
    assert automaton.first_symbol.tolist() == [6, 4, 0]
    assert automaton.first_state.tolist() == [6, 2, 0]
    children = np.repeat(np.arange(7), np.diff(automaton.first_step))
    steps = zip(automaton.step_source, children, automaton.step_target, automaton.step_weight, strict=True)
    assert {tuple(map(float, step)) for step in steps} == {
        (0, 1, 2, 1),  # a b
        (2, 0, 3, 1),  # ab a
        (2, 0, 4, 0.5),  # ab a is an A
        (2, 1, 4, 0.5),
        (3, 1, 5, 0.5),  # aba b is a B
        (EMPTY, 1, 5, 0.5),
        (4, 5, 6, 1),
    }
