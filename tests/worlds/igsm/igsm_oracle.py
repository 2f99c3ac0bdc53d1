"""A slow judge on English text, written from the specification (§4.1) alone: it shares no code with the library.

It reads the problem, the question and the solution as text, and knows besides only what a reader knows: which items
there are and of which category they are. Values are polynomials: a parameter is right if the polynomial that its
sentence computes is the one that defines it, exactly, where the judge of the library tries random numbers.
"""

import re
from collections import Counter


class Polynomial:
    """A function of named unknowns over the integers modulo a prime: {powers of the unknowns: coefficient}."""

    def __init__(self, terms, modulus):
        self.modulus = modulus
        self.terms = {powers: c % modulus for powers, c in terms.items() if c % modulus}

    @classmethod
    def constant(cls, number, modulus):
        return cls({(): number}, modulus)

    @classmethod
    def unknown(cls, name, modulus):
        return cls({((name, 1),): 1}, modulus)

    def __eq__(self, other):
        return self.terms == other.terms

    def combine(self, other, sign):
        terms = Counter()
        if sign in "+-":
            for powers, c in self.terms.items():
                terms[powers] += c
            for powers, c in other.terms.items():
                terms[powers] += c if sign == "+" else -c
        else:
            for left, c in self.terms.items():
                for right, d in other.terms.items():
                    powers = Counter(dict(left))
                    for name, power in right:
                        powers[name] += power
                    # x^p = x for every x, so as functions x^(p + k) = x^(1 + k)
                    small = {name: (power - 1) % (self.modulus - 1) + 1 for name, power in powers.items()}
                    terms[tuple(sorted(small.items()))] += c * d
        return Polynomial(terms, self.modulus)

    def value(self, values):
        total = 0
        for powers, c in self.terms.items():
            for name, power in powers:
                c *= values[name] ** power
            total += c
        return total % self.modulus


def by_first_word(names):
    """Names as lists of words, by the first of them, the longest first."""
    found = {}
    for name in sorted(names, key=lambda name: -len(name.split())):
        found.setdefault(name.split()[0], []).append(name.split())
    return found


def words_of(text, names):
    """Words, numbers and marks; a name is one word. `names` are those there are, as `by_first_word` gives them."""
    plain = re.findall(r"'s|<\w+>|\w+|[^\w\s]", text)
    found, at = [], 0
    while at < len(plain):
        for name in names.get(plain[at], ()):  # the longest first
            if plain[at : at + len(name)] == name:
                found.append(" ".join(name))
                at += len(name)
                break
        else:
            found.append(plain[at])
            at += 1
    return found


def split(words, mark):
    parts = [[]]
    for word in words:
        if word == mark:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


class Wrong(Exception):  # noqa: N818
    def __init__(self, reason):
        self.reason = reason


class Oracle:
    """Judges solutions of one problem.

    Args:
        problem: its sentences, in English.
        question: in English.
        items: names of the items of every layer, outermost first.
        categories: names of the categories of the layers.
        names: all names of items and categories that the world has, as `by_first_word` gives them.
        modulus: of all arithmetic.
    """

    def __init__(self, problem, question, items, categories, names, modulus):
        self.modulus, self.items, self.categories = modulus, items, categories
        self.by_first_word = names
        self.definition, self.children = {}, {item: [] for layer in items for item in layer}
        for sentence in split(words_of(problem, self.by_first_word), ".")[:-1]:
            assert sentence[:4] == ["The", "number", "of", "each"]
            outer, of, inner, equals, *definiens = sentence[4:]
            assert (of, equals) == ("'s", "equals")
            self.children[outer].append(inner)
            self.definition[outer, inner] = self._definiens(definiens)
        for layer, below in enumerate(items):
            for item in below:
                for category in categories[layer + 1 :]:
                    self.definition[item, category] = self._abstract(item, layer, category)
        how, many, inner, does, outer, have, mark = words_of(question, self.by_first_word)
        assert (how, many, does, have, mark) == ("How", "many", "does", "have", "?")
        self.query = (outer, inner)
        self.predecessors = {
            name: {x for powers in p.terms for x, _ in powers} | extra for name, (p, extra) in self.definition.items()
        }
        self.truth = {}
        while len(self.truth) < len(self.definition):
            for name, (polynomial, _) in self.definition.items():
                if name not in self.truth and self.predecessors[name] <= set(self.truth):
                    self.truth[name] = polynomial.value(self.truth)
        self.needed, waiting = set(), [self.query]
        while waiting:
            name = waiting.pop()
            if name not in self.needed:
                self.needed.add(name)
                waiting += self.predecessors[name]

    def _definiens(self, words):
        """The polynomial, and what it depends on even if that has dropped out of the polynomial."""
        constant, operator = None, None
        if words[0].isdigit():
            constant, words = int(words[0]), words[1:]
            if words[:2] == ["more", "than"]:
                operator, words = "+", words[2:]
            elif words[:4] == ["times", "as", "much", "as"]:
                operator, words = "*", words[4:]
            else:
                assert not words
                return Polynomial.constant(constant, self.modulus), set()
        sign = "+"
        if words[0] == "the":
            assert words[2] == "of"
            assert words[1] in ("sum", "difference")
            sign = "+" if words[1] == "sum" else "-"
            words = words[3:]
        operands = [
            (words[i + 1], words[i + 3]) for i, word in enumerate(words) if word == "each" and words[i + 2] == "'s"
        ]
        assert len(operands) == words.count("each")
        total = Polynomial.unknown(operands[0], self.modulus)
        for operand in operands[1:]:
            total = total.combine(Polynomial.unknown(operand, self.modulus), sign)
        if operator:
            total = Polynomial.constant(constant, self.modulus).combine(total, operator)
        return total, set(operands)

    def _abstract(self, item, layer, category):
        total, extra = Polynomial.constant(0, self.modulus), set()
        for child in self.children[item]:
            term = Polynomial.unknown((item, child), self.modulus)
            extra.add((item, child))
            if category != self.categories[layer + 1]:
                term = term.combine(Polynomial.unknown((child, category), self.modulus), "*")
                extra.add((child, category))
            total = total.combine(term, "+")
        return total, extra

    def judge(self, solution, *, strict=True):
        """Reason, the first wrong parameter and the number of its sentence; all `None` if the solution is right.

        The solution is a text, or its words, of which a name is one.
        """
        words = words_of(solution, self.by_first_word) if isinstance(solution, str) else solution
        if "<eos>" in words:
            words = words[: words.index("<eos>")]
        answer = None
        if "<ans>" in words:
            words, answer = words[: words.index("<ans>")], words[words.index("<ans>") + 1 :]
        *sentences, rest = split(words, ".")
        self.letters = {}  # letter: what it stands for, its value, its polynomial
        self.computed, self.retries = [], 0
        for number, sentence in enumerate([*sentences, rest] if rest else sentences):
            is_whole = number < len(sentences)
            if "<back>" in sentence:
                if not is_whole:
                    return "format", None, number
                self.retries += 1
                continue
            name = self._name(sentence)
            known = name if name in self.definition else None
            try:
                if self.computed and self.computed[-1] == self.query:
                    raise Wrong("wrong_query")
                self._sentence(sentence, name, number, is_whole, strict)
            except Wrong as wrong:
                return wrong.reason, known, number
            self.computed.append(name)
        if answer is None:
            return "format", None, None
        if not self.computed or self.computed[-1] != self.query:
            return "wrong_query", None, None
        if not answer or not answer[0].isdigit():
            return "format", None, None
        if int(answer[0]) != self.truth[self.query]:
            return "answer", self.query, None
        return "format" if len(answer) > 1 else None, None, None

    @property
    def unnecessary(self):
        return sum(name not in self.needed for name in self.computed)

    def _name(self, sentence):
        is_name = (
            len(sentence) >= 4
            and (sentence[0], sentence[2]) == ("Define", "'s")
            and self._is_known(sentence[1])
            and self._is_known(sentence[3])
        )
        return (sentence[1], sentence[3]) if is_name else None

    def _is_known(self, name):
        return name.split() in self.by_first_word.get(name.split()[0], ())

    def _sentence(self, sentence, name, number, is_whole, strict):
        if name is None:
            raise Wrong("format")
        if name not in self.definition:
            raise Wrong("unknown")
        if name in self.computed:
            raise Wrong("redefined")
        if not self.predecessors[name] <= set(self.computed):
            raise Wrong("not_ready")
        head, *parts = split(sentence, ";")
        if len(head) != 6 or head[4] != "as" or not self._is_letter(head[5]) or head[5] in self.letters:
            raise Wrong("format")
        symbol = head[5]
        self.letters[symbol] = None  # taken, but not defined
        if not parts:
            raise Wrong("format")
        for i, part in enumerate(parts):
            is_closing = part[:1] == ["so"]
            step = part[1:] if is_closing else part
            if is_closing and step[:1] != [symbol]:
                raise Wrong("format")
            size = self._step(step, name, number, is_closing)
            if size != len(step) or is_closing != (i == len(parts) - 1):
                raise Wrong("format")
        if not is_whole:
            raise Wrong("format")
        (_, uses), value, polynomial = self.letters[symbol]
        if uses != self.predecessors[name]:
            raise Wrong("wrong_deps")
        if value != self.truth[name] and (strict or name == self.query):
            raise Wrong("value")
        if strict and polynomial != self.definition[name][0]:
            raise Wrong("formula")
        self.letters[symbol] = name, value, Polynomial.unknown(name, self.modulus)

    def _step(self, words, name, number, is_closing):
        """Judge a step that the words begin with; returns how many words it has."""

        def is_operand(word):
            return self._is_letter(word) or word.isdigit()

        if len(words) < 3 or not self._is_letter(words[0]) or words[1] != "=" or not is_operand(words[2]):
            raise Wrong("format")
        if len(words) > 3 and words[3] in ("+", "-", "*"):
            is_step = (
                len(words) >= 11
                and is_operand(words[4])
                and (words[5], words[9]) == ("=", "=")
                and words[7] in ("+", "-", "*")
                and all(words[i].isdigit() for i in (6, 8, 10))
            )
            operands, size = words[2:5:2], 11
        elif self._is_letter(words[2]):
            is_step = len(words) >= 5 and words[3] == "=" and words[4].isdigit()
            operands, size = [words[2]], 5
        else:
            is_step, operands, size = True, [], 3
        if not is_step or (not is_closing and words[0] in self.letters):
            raise Wrong("format")
        uses, values, polynomials = set(), [], []
        for operand in operands:
            if operand.isdigit():
                values.append(int(operand))
                polynomials.append(Polynomial.constant(int(operand), self.modulus))
                continue
            if self.letters.get(operand) is None:
                raise Wrong("format")
            owner, value, polynomial = self.letters[operand]
            if owner in self.definition:
                if owner not in self.predecessors[name]:
                    raise Wrong("wrong_deps")
                uses.add(owner)
            else:
                of_sentence, used = owner
                if of_sentence != number:
                    raise Wrong("wrong_deps")
                uses |= used
            values.append(value)
            polynomials.append(polynomial)
        if size == 11:
            if [words[6], words[7], words[8]] != [str(values[0]), words[3], str(values[1])]:
                raise Wrong("reference")
            result = eval(f"({words[6]} {words[7]} {words[8]}) % {self.modulus}")  # noqa: S307
            if int(words[10]) != result:
                raise Wrong("calc")
            polynomial = polynomials[0].combine(polynomials[1], words[3])
        elif size == 5:
            if int(words[4]) != values[0]:
                raise Wrong("reference")
            result, polynomial = values[0], polynomials[0]
        else:
            result, polynomial = int(words[2]), Polynomial.constant(int(words[2]), self.modulus)
        self.letters[words[0]] = (number, frozenset(uses)), result, polynomial
        return size

    @staticmethod
    def _is_letter(word):
        return len(word) == 1 and word.isascii() and word.isalpha()
