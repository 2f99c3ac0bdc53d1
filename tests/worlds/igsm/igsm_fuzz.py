"""Problems of many worlds, each with the slow judge that reads it as text, and random rewritings of their solutions."""

from dataclasses import replace

import numpy as np
from igsm_mutations import Mutator
from igsm_oracle import Oracle, by_first_word

from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.judge import Judge
from physlm.worlds.igsm.problem import Abstract
from physlm.worlds.igsm.rendering import Renderer
from physlm.worlds.igsm.world import IGSMWorld

CONFIGS = {
    "med": {"max_operations": 15, "max_instances": 20},
    "hard": {"max_operations": 21, "max_instances": 28, "question_first": True},
    "long": {"exact_operations": 32, "max_instances": 28},
    "reask": {"exact_operations": 20, "reask": True},
    "everything": {"max_operations": 10, "solution": "everything"},
    # Few numbers and names, so that much is right by luck.
    "small": {"max_operations": 10, "max_instances": 12, "modulus": 5, "names_per_category": 4, "categorizations": 1},
    "tiny": {"max_operations": 8, "max_instances": 12, "modulus": 2, "names_per_category": 4, "categorizations": 1},
}


class Arena:
    """Problems of one world, and everything to judge and spoil their solutions with.

    Args:
        name: of the config.
        seed: of the world.
        count: how many problems.
        draw: a `random.Random`.
    """

    def __init__(self, name, seed, count, draw):
        self.world = IGSMWorld(IGSMConfig(seed=seed, **CONFIGS[name]))
        self.vocabulary, self.draw = self.world.vocabulary, draw
        self.renderers = {dialect: Renderer(self.vocabulary, dialect) for dialect in ("english", "compact")}
        self.judges = {dialect: Judge(self.vocabulary, dialect) for dialect in ("english", "compact")}
        self.mutator = Mutator(self.vocabulary, draw)
        self.problems = self.world.problems("train", np.arange(count))
        self.solutions = [solution.tolist() for solution in self.written(self.problems, "english")]
        names = self.vocabulary.names
        items = [name for chain in names.items for category in chain for name in category]
        self.all_names = by_first_word([*items, *(name for chain in names.categories for name in chain)])
        self.oracles = {}

    def written(self, problems, dialect):
        """What comes after <sol>, for each problem."""
        samples = self.renderers[dialect].documents(problems)
        documents = [samples.document(i)[0] for i in range(len(samples))]
        return [tokens[tokens.tolist().index(self.vocabulary.sol) + 1 :] for tokens in documents]

    def oracle(self, number):
        """The slow judge of a problem; it reads English."""
        if number not in self.oracles:
            problem, names = self.problems[number], self.vocabulary.names
            first, chain, renderer = problem.first_category, problem.categorization, self.renderers["english"]
            self.oracles[number] = Oracle(
                self.vocabulary.decode(renderer.problem(problem)),
                self.vocabulary.decode(renderer.question(problem)),
                [[names.items[chain][first + i][name] for name in layer] for i, layer in enumerate(problem.names)],
                names.categories[chain][first : first + len(problem.widths)],
                self.all_names,
                problem.modulus,
            )
        return self.oracles[number]

    def name(self, problem, number):
        """What a parameter is called."""
        if number is None:
            return None
        outer, inner = self.vocabulary.name(problem, problem.parameters[number])
        return self.vocabulary.tokens[outer], self.vocabulary.tokens[inner]

    def difference(self, number, tokens, verdict, *, strict, as_text=True):
        """How the verdict on an English solution differs from the oracle's; empty if it does not.

        To be quick, the oracle is given words and not the text, in which it would have to find the names.
        """
        problem, oracle = self.problems[number], self.oracle(number)
        words = [self.vocabulary.tokens[token] for token in tokens]
        expected = oracle.judge(self.vocabulary.decode(tokens) if as_text else words, strict=strict)
        found = (verdict.reason, self.name(problem, verdict.parameter), verdict.sentence)
        if verdict.correct and found == expected:
            expected = (oracle.unnecessary, oracle.retries, tuple(oracle.computed))
            defined = tuple(self.name(problem, parameter) for parameter in verdict.defined)
            found = (verdict.unnecessary_parameters, verdict.retries, defined)
        return "" if found == expected else f"judge: {found}\noracle: {expected}\n{words}"

    def reordered(self, number):
        """The problem with a random valid solution: any order, and sometimes more than the query needs."""
        problem, oracle = self.problems[number], self.oracle(number)
        numbers = {self.name(problem, i): i for i in range(len(problem.parameters))}
        wanted = set(oracle.needed)
        for name in self.draw.sample(sorted(oracle.definition), self.draw.choice((0, 0, 2))):
            found, waiting = set(), [name]
            while waiting:
                other = waiting.pop()
                if other not in found:
                    found.add(other)
                    waiting += oracle.predecessors[other]
            if oracle.query not in found and self._operations(problem, {numbers[n] for n in wanted | found}) <= 52:
                wanted |= found
        order = []
        while len(order) < len(wanted) - 1:
            ready = [n for n in wanted - {*order, oracle.query} if oracle.predecessors[n] <= set(order)]
            order.append(self.draw.choice(sorted(ready)))
        solution = tuple(numbers[name] for name in (*order, oracle.query))
        letters = tuple(self.draw.sample(range(52), self._operations(problem, solution)))
        return replace(problem, solution=solution, letters=letters)

    @staticmethod
    def _operations(problem, parameters):
        """Number of operations: one less than predecessors, a constant counted among them, but at least one."""
        total = 0
        for parameter in parameters:
            what = problem.parameters[parameter]
            if isinstance(what, Abstract):
                children = sum(edge.parent == what.item for edge in problem.edges)
                predecessors = children * (1 if what.category == what.item.layer + 1 else 2)
            else:
                formula = problem.formulas[parameter]
                predecessors = len(formula.operands) + (formula.operator != "none")
            total += max(1, predecessors - 1)
        return total

    def exchanged(self, tokens):
        """An English solution with the operands of sums and products in any order, numbers worked out anew."""
        sentences = self.mutator.read(tokens)
        minus = self.vocabulary.id("-")
        for sentence in sentences:
            for step in sentence.steps:
                if minus not in step.signs and self.draw.random() < 0.5:
                    step.operands.reverse()
        return self.mutator.write(sentences)

    def compact(self, tokens):
        """A well-formed English solution in the compact dialect; `None` if it has no counterpart that means the same.

        A step that takes the letter of its sentence is the closing one in compact text only.
        """
        mutator = self.mutator
        sentences = mutator.read(tokens)
        if sentences is None or any(step.letter == s.letter for s in sentences for step in s.steps[:-1]):
            return None
        english_only = {mutator.define, mutator.of, mutator.as_, mutator.so}
        if english_only.intersection(tokens[tokens.index(self.vocabulary.ans) :]):
            return None
        return [token for token in tokens if token not in english_only]
