"""Drawing problems: each is a pure function of the settings, the split and its number.

- How many operations a problem has is drawn once; the rest is drawn again until it has exactly as many, and its
  solution template is on the right side of the split (§1.4, §3).
- Both templates of a single operation are for training. Where a test problem is to have one operation, this is given
  up after many draws, and another number is drawn: tests have two operations or more, otherwise in proportion.
- The algorithms are in `kernels`; here is what goes around them, for many problems at once.

Source: Physics of Language Models 2.1, App. D.1, Algorithm 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key
from physlm.worlds.igsm import kernels, solution_kernels, template_kernels
from physlm.worlds.igsm.config import DepthBias, IGSMConfig, OperationDistribution
from physlm.worlds.igsm.kernels import LETTERS, TERMS, Drawing, Settings
from physlm.worlds.igsm.names import load_names
from physlm.worlds.igsm.problem import Combination, ConstantOperator, Formula, Instance, Item, Problem
from physlm.worlds.igsm.solution_kernels import Steps
from physlm.worlds.igsm.structure_kernels import LAYERS, PARAMETERS, WIDEST
from physlm.worlds.igsm.templates import RESIDUES, TRAINING_RESIDUES

_PATIENCE = 100
"""Draws of a problem on the wrong side of the split before another number of operations is tried ..."""
_GIVE_UP = 1000
"""... and, where there is no other number to try, before there is taken to be none."""
_NUMBERS = 100
"""Numbers of operations that are tried. A small world may have none with the one that most problems have."""


class NoSuchProblemError(ValueError):
    """No problem with these settings was found in very many attempts."""


class Drawer:
    """Draws the problems of a world.

    Example:
        >>> drawing, steps = Drawer(IGSMConfig(seed=0), Key.of("problems", 0), "test").draw(np.arange(1000))
        >>> int(drawing.operations.max())
        15

    Args:
        config: which world.
        key: governs all draws; one key per split.
        side: on which side of the split solution templates must be, "train" or "test"; `None` for any.
    """

    def __init__(self, config: IGSMConfig, key: Key, side: str | None) -> None:
        self._config = config
        self._key = key
        self._side = side
        self._settings = Settings(
            max_operations=config.max_operations,
            max_instances=config.max_instances,
            modulus=config.modulus,
            categorizations=config.categorizations,
            distribution=get_args(OperationDistribution).index(config.operation_distribution),
            bias=get_args(DepthBias).index(config.depth_bias),
            groups=np.array(load_names(config.categorizations, config.names_per_category).groups),
            letters=config.letters,
            shuffled_letters=config.shuffled_letters,
        )

    def draw(self, indices: NDArray[np.int64]) -> tuple[Drawing, Steps]:
        """The problems with the numbers `indices`, and the steps of their solutions.

        Raises:
            NoSuchProblemError: if none with this many operations, or none on this side of the split, is found.
        """
        config, settings = self._config, self._settings
        drawing, steps = empty_drawing(len(indices), config.max_instances), empty_steps(len(indices))
        drawing.streams[:] = self._key.words(indices, 2)
        drawing.streams[:, 1] |= np.uint64(1)
        residues = np.empty(len(indices), dtype=np.int64)
        target = np.empty(len(indices), dtype=np.int64)
        most_attempts = _GIVE_UP if config.exact_operations is not None else _NUMBERS * _PATIENCE
        rows, attempts = np.arange(len(indices)), 0
        while len(rows):
            if attempts % _PATIENCE == 0:
                kernels.draw_operations(rows, drawing, settings)
                if config.exact_operations is not None:
                    drawing.operations[rows] = config.exact_operations
                target[rows] = drawing.operations[rows]
            attempts += 1
            drawing.operations[rows] = target[rows]
            kernels.draw(rows, drawing, settings)
            if attempts > most_attempts or not drawing.operations[rows].all():
                operations = int(target[rows[drawing.operations[rows].argmin()]])
                raise NoSuchProblemError(
                    f"problems of {operations} operations must exist in split {self._side!r} with "
                    f"max_instances={config.max_instances}, got none in {attempts} attempts: use others"
                )
            if config.reask:
                solution_kernels.ask_again(rows, drawing, settings)
            solution_kernels.solve(rows, drawing, config.modulus, steps)
            template_kernels.hash_templates(rows, drawing, steps, RESIDUES, residues)
            is_right = drawing.operations[rows] > 0
            if self._side is not None:
                is_right &= (residues[rows] < TRAINING_RESIDUES) == (self._side == "train")
            if config.solution == "everything":
                right = rows[is_right]
                solution_kernels.solve_everything(right, drawing, settings)
                solution_kernels.solve(right, drawing, config.modulus, steps)
                is_right &= drawing.operations[rows] > 0
            rows = rows[~is_right]
        return drawing, steps


def empty_drawing(problems: int, edges: int) -> Drawing:
    """Room for `problems` of at most `edges` edges."""

    def room(*shape: int) -> NDArray[np.int64]:
        return np.zeros((problems, *shape), dtype=np.int64)

    return Drawing(
        streams=np.zeros((problems, 2), dtype=np.uint64),
        operations=room(),
        layers=room(),
        widths=room(LAYERS),
        categorization=room(),
        first_category=room(),
        names=room(LAYERS, WIDEST),
        edges=room(),
        edge=room(edges, 3),
        operands=room(edges, TERMS) - 1,
        combination=room(edges),
        operator=room(edges),
        constant=room(edges),
        told=room(edges),
        used=np.zeros(problems, dtype=np.uint64),
        solution=room(PARAMETERS) - 1,
        letters=room(LETTERS),
        template=np.zeros(problems, dtype=np.uint64),
    )


def empty_steps(problems: int) -> Steps:
    """Room for the steps of `problems` solutions."""
    per_step = [np.zeros((problems, LETTERS), dtype=np.int64) for _ in range(4)]
    return Steps(np.zeros(problems, dtype=np.int64), np.zeros((problems, PARAMETERS), dtype=np.int64), *per_step)


def problem_at(drawing: Drawing, row: int, config: IGSMConfig) -> Problem:
    """One drawn problem as an object."""
    layers, edges = int(drawing.layers[row]), int(drawing.edges[row])
    widths = tuple(drawing.widths[row, :layers].tolist())
    combinations, operators = get_args(Combination), get_args(ConstantOperator)
    formulas = zip(
        drawing.operands[row, :edges].tolist(),
        drawing.combination[row, :edges].tolist(),
        drawing.operator[row, :edges].tolist(),
        drawing.constant[row, :edges].tolist(),
        strict=True,
    )
    return Problem(
        modulus=config.modulus,
        widths=widths,
        categorization=int(drawing.categorization[row]),
        first_category=int(drawing.first_category[row]),
        names=tuple(tuple(drawing.names[row, layer, :width].tolist()) for layer, width in enumerate(widths)),
        edges=tuple(
            Instance(Item(layer, parent), Item(layer + 1, child))
            for layer, parent, child in drawing.edge[row, :edges].tolist()
        ),
        formulas=tuple(
            Formula(tuple(p for p in operands if p >= 0), combinations[combination], operators[operator], constant)
            for operands, combination, operator, constant in formulas
        ),
        told=tuple(drawing.told[row, :edges].tolist()),
        solution=tuple(p for p in drawing.solution[row].tolist() if p >= 0),
        letters=tuple(drawing.letters[row, : drawing.operations[row]].tolist()),
        question_first=config.question_first,
    )


def drawing_of(problems: Sequence[Problem]) -> Drawing:
    """Problems as if they had been drawn, but for `streams` and `used`."""
    combinations, operators = get_args(Combination), get_args(ConstantOperator)
    drawing = empty_drawing(len(problems), max((len(problem.edges) for problem in problems), default=0))
    for row, problem in enumerate(problems):
        drawing.operations[row] = len(problem.letters)
        drawing.layers[row] = len(problem.widths)
        drawing.widths[row, : len(problem.widths)] = problem.widths
        drawing.categorization[row] = problem.categorization
        drawing.first_category[row] = problem.first_category
        for layer, names in enumerate(problem.names):
            drawing.names[row, layer, : len(names)] = names
        drawing.edges[row] = len(problem.edges)
        for p, (edge, formula) in enumerate(zip(problem.edges, problem.formulas, strict=True)):
            drawing.edge[row, p] = edge.parent.layer, edge.parent.number, edge.child.number
            drawing.operands[row, p, : len(formula.operands)] = formula.operands
            drawing.combination[row, p] = combinations.index(formula.combination)
            drawing.operator[row, p] = operators.index(formula.operator)
            drawing.constant[row, p] = formula.constant
        drawing.told[row, : len(problem.told)] = problem.told
        drawing.solution[row, : len(problem.solution)] = problem.solution
        drawing.letters[row, : len(problem.letters)] = problem.letters
    return drawing
