"""Ways to spoil a solution, and ways to rewrite it that leave it right; on tokens of English text.

Careless mutations change tokens, steps or sentences as they are. Careful ones change what is computed and then work out
every number anew, so that nothing but the idea is wrong.
"""

import re
from dataclasses import dataclass, field


@dataclass
class Step:
    letter: int
    operands: list  # tokens: letters and numbers
    signs: list  # one less than operands


@dataclass
class Sentence:
    outer: int
    inner: int
    letter: int
    steps: list = field(default_factory=list)


class Mutator:
    """Spoils solutions.

    Args:
        vocabulary: of the solutions.
        draw: a `random.Random`.
    """

    def __init__(self, vocabulary, draw):
        self.vocabulary, self.draw = vocabulary, draw
        self.numbers = [vocabulary.number(n) for n in range(vocabulary.modulus)]
        self.letters = [vocabulary.letter(n) for n in range(52)]
        self.signs = [vocabulary.id(sign) for sign in "+-*"]
        self.names = range(vocabulary.first_category, len(vocabulary))
        self.is_number, self.is_letter, self.is_sign = set(self.numbers), set(self.letters), set(self.signs)
        self.value_of = {token: number for number, token in enumerate(self.numbers)}
        self.stop, self.semicolon, self.equals = (vocabulary.id(mark) for mark in ".;=")
        kinds = ((self.numbers, "N"), (self.letters, "L"), (self.signs, "S"), ([self.equals], "="))
        self.kind_of = {token: kind for tokens, kind in kinds for token in tokens}
        self.define, self.of, self.as_, self.so = (vocabulary.id(word) for word in ("Define", "'s", "as", "so"))
        self.careless = (
            self.replace_number, self.replace_sign, self.replace_letter, self.replace_name, self.replace_any,
            self.drop_token, self.repeat_token, self.insert_token, self.exchange_tokens, self.truncate, self.drop_span,
            self.drop_sentence, self.repeat_sentence, self.exchange_sentences, self.drop_step, self.repeat_step,
            self.exchange_steps, self.foreign_sentence, self.foreign_step, self.change_answer, self.take_back,
        )  # fmt: skip
        self.careful = (
            self.other_sign, self.other_constant, self.other_operand, self.exchange_operands, self.drop_operand,
            self.add_operand, self.other_name, self.other_letter, self.move_sentence, self.leave_out, self.add_step,
            self.value_as_constant,
        )  # fmt: skip

    def spoil(self, tokens, foreign):
        """One to three mutations; `foreign` is a right solution of another problem. Returns tokens and their names."""
        tokens, done = list(tokens), []
        for _ in range(self.draw.choice((1, 1, 1, 2, 3))):
            if self.draw.random() < 0.4 and (sentences := self.read(tokens)):
                mutation = self.draw.choice(self.careful)
                mutation(sentences)
                tokens = self.write(sentences)
            else:
                mutation = self.draw.choice(self.careless)
                tokens = mutation(tokens, foreign) or tokens
            done.append(mutation.__name__)
        return tokens, done

    def spoil_carefully(self, tokens):
        """One or two careful mutations of a right solution."""
        sentences = self.read(tokens)
        for _ in range(self.draw.choice((1, 1, 2))):
            self.draw.choice(self.careful)(sentences)
        return self.write(sentences)

    # ------------------------------------------------------------------------------------------------------------------
    # Careless
    # ------------------------------------------------------------------------------------------------------------------

    def _replace(self, tokens, kind, others):
        places = [i for i, token in enumerate(tokens) if token in kind]
        if places:
            tokens[self.draw.choice(places)] = self.draw.choice(others)
        return tokens

    def replace_number(self, tokens, _):
        return self._replace(tokens, self.is_number, self.numbers)

    def replace_sign(self, tokens, _):
        return self._replace(tokens, self.is_sign, self.signs)

    def replace_letter(self, tokens, _):
        used = [token for token in tokens if token in self.is_letter]
        return self._replace(tokens, self.is_letter, used if used and self.draw.random() < 0.7 else self.letters)

    def replace_name(self, tokens, foreign):
        used = [token for token in tokens if token in self.names]
        pool = self.draw.choice((used, used, [token for token in foreign if token in self.names], self.names))
        return self._replace(tokens, self.names, pool) if pool else tokens

    def replace_any(self, tokens, _):
        tokens[self.draw.randrange(len(tokens))] = self.draw.randrange(len(self.vocabulary))
        return tokens

    def drop_token(self, tokens, _):
        del tokens[self.draw.randrange(len(tokens))]
        return tokens or [self.stop]

    def repeat_token(self, tokens, _):
        i = self.draw.randrange(len(tokens))
        return [*tokens[:i], tokens[i], *tokens[i:]]

    def insert_token(self, tokens, _):
        i = self.draw.randrange(len(tokens) + 1)
        return [*tokens[:i], self.draw.choice((*tokens, self.draw.randrange(len(self.vocabulary)))), *tokens[i:]]

    def exchange_tokens(self, tokens, _):
        i, j = self.draw.randrange(len(tokens)), self.draw.randrange(len(tokens))
        tokens[i], tokens[j] = tokens[j], tokens[i]
        return tokens

    def truncate(self, tokens, _):
        return tokens[: self.draw.randint(1, len(tokens))]

    def drop_span(self, tokens, _):
        i = self.draw.randrange(len(tokens))
        return [*tokens[:i], *tokens[i + self.draw.randint(1, 30) :]] or [self.stop]

    def _pieces(self, tokens, mark):
        pieces, start = [], 0
        for _ in range(tokens.count(mark)):
            stop = tokens.index(mark, start) + 1
            pieces.append(tokens[start:stop])
            start = stop
        return [*pieces, tokens[start:]]

    def _sentences(self, tokens, change):
        *sentences, answer = self._pieces(tokens, self.stop)
        change(sentences)
        return [token for piece in (*sentences, answer) for token in piece] or [self.stop]

    def drop_sentence(self, tokens, _):
        return self._sentences(tokens, lambda pieces: pieces and pieces.pop(self.draw.randrange(len(pieces))))

    def repeat_sentence(self, tokens, _):
        def change(pieces):
            if pieces:
                pieces.insert(self.draw.randint(0, len(pieces)), self.draw.choice(pieces))

        return self._sentences(tokens, change)

    def exchange_sentences(self, tokens, _):
        def change(pieces):
            if pieces:
                i, j = self.draw.randrange(len(pieces)), self.draw.randrange(len(pieces))
                pieces[i], pieces[j] = pieces[j], pieces[i]

        return self._sentences(tokens, change)

    def foreign_sentence(self, tokens, foreign):
        other = self.draw.choice(self._pieces(foreign, self.stop)[:-1])
        return self._sentences(tokens, lambda pieces: pieces.insert(self.draw.randint(0, len(pieces)), other))

    def take_back(self, tokens, _):
        back = [self.define, self.draw.choice(self.names), self.vocabulary.back, self.stop]
        return self._sentences(tokens, lambda pieces: pieces.insert(self.draw.randint(0, len(pieces)), back))

    def _steps(self, tokens, change):
        pieces = self._pieces(tokens, self.semicolon)
        change(pieces)
        return [token for piece in pieces for token in piece] or [self.stop]

    def drop_step(self, tokens, _):
        return self._steps(tokens, lambda pieces: pieces.pop(self.draw.randrange(len(pieces))))

    def repeat_step(self, tokens, _):
        return self._steps(tokens, lambda p: p.insert(self.draw.randint(0, len(p)), self.draw.choice(p)))

    def exchange_steps(self, tokens, _):
        def change(pieces):
            i, j = self.draw.randrange(len(pieces)), self.draw.randrange(len(pieces))
            pieces[i], pieces[j] = pieces[j], pieces[i]

        return self._steps(tokens, change)

    def foreign_step(self, tokens, foreign):
        other = self.draw.choice(self._pieces(foreign, self.semicolon))
        return self._steps(tokens, lambda pieces: pieces.insert(self.draw.randint(0, len(pieces)), other))

    def change_answer(self, tokens, _):
        if tokens[-1] in self.is_number:
            tokens[-1] = self.draw.choice(self.numbers)
        return tokens

    # ------------------------------------------------------------------------------------------------------------------
    # Careful
    # ------------------------------------------------------------------------------------------------------------------

    def read(self, tokens):
        """The sentences of a text that is well formed, else `None`."""
        if self.vocabulary.ans not in tokens:
            return None
        sentences = []
        *pieces, rest = self._pieces(tokens[: tokens.index(self.vocabulary.ans)], self.stop)
        if rest:
            return None
        for piece in pieces:
            if len(piece) < 12 or piece[1] not in self.names or piece[3] not in self.names:
                return None
            if piece[0:7:2] != [self.define, self.of, self.as_, self.semicolon] or piece[5] not in self.is_letter:
                return None
            sentence = Sentence(piece[1], piece[3], piece[5])
            *steps, closing = self._pieces(piece[7:], self.semicolon)
            if closing[0] != self.so or closing[1:2] != [sentence.letter]:
                return None
            for words in (*steps, closing[1:]):
                kinds = "".join([self.kind_of.get(word, "?") for word in words[:-1]])
                if not re.fullmatch("L=N|L=L=N|L=[LN]S[LN]=NSN=N", kinds):
                    return None
                expression = words[2:5] if len(kinds) == 11 else words[2:3]
                sentence.steps.append(Step(words[0], expression[::2], expression[1::2]))
            sentences.append(sentence)
        return sentences or None

    def write(self, sentences):
        """The text, with every number worked out; what is undefined has a random value."""
        value = dict(self.value_of)
        modulus, number = self.vocabulary.modulus, 0
        tokens = []
        for sentence in sentences:
            tokens += [self.define, sentence.outer, self.of, sentence.inner, self.as_, sentence.letter, self.semicolon]
            for step in sentence.steps:
                if step is sentence.steps[-1]:
                    tokens.append(self.so)
                values = [value.get(operand, self.draw.randrange(modulus)) for operand in step.operands]
                number = values[0]
                for sign, right in zip(step.signs, values[1:], strict=True):
                    kind = self.signs.index(sign)
                    number = (number + right, number - right, number * right)[kind] % modulus
                tokens += [step.letter, self.equals]
                if step.signs:
                    tokens += [token for pair in zip(step.operands, [*step.signs, None], strict=True) for token in pair]
                    tokens[-1] = self.equals
                    echo = [self.numbers[n] for n in values]
                    tokens += [token for pair in zip(echo, [*step.signs, None], strict=True) for token in pair]
                    tokens[-1] = self.equals
                elif step.operands[0] in self.is_letter:
                    tokens += [step.operands[0], self.equals]
                tokens += [self.numbers[number], self.semicolon]
                value[step.letter] = number
            tokens[-1] = self.stop
        return [*tokens, self.vocabulary.ans, self.numbers[number]]

    def _step(self, sentences, wanted=lambda _: True):
        steps = [step for sentence in sentences for step in sentence.steps if wanted(step)]
        return self.draw.choice(steps) if steps else None

    def other_sign(self, sentences):
        if step := self._step(sentences, lambda step: step.signs):
            step.signs = [self.draw.choice(self.signs)]

    def other_constant(self, sentences):
        if step := self._step(sentences, lambda step: not self.is_number.isdisjoint(step.operands)):
            step.operands = [self.draw.choice(self.numbers) if o in self.is_number else o for o in step.operands]

    def other_operand(self, sentences):
        if step := self._step(sentences):
            used = [s.letter for sentence in sentences for s in sentence.steps]
            step.operands[self.draw.randrange(len(step.operands))] = self.draw.choice(used)

    def exchange_operands(self, sentences):
        if step := self._step(sentences, lambda step: step.signs):
            step.operands.reverse()

    def drop_operand(self, sentences):
        if step := self._step(sentences, lambda step: step.signs):
            step.operands.pop(self.draw.randrange(2))
            step.signs = []

    def add_operand(self, sentences):
        if step := self._step(sentences, lambda step: not step.signs):
            used = [s.letter for sentence in sentences for s in sentence.steps]
            step.operands.append(self.draw.choice((*used, self.draw.choice(self.numbers))))
            step.signs = [self.draw.choice(self.signs)]

    def other_name(self, sentences):
        sentence, other = self.draw.choice(sentences), self.draw.choice(sentences)
        if self.draw.random() < 0.5:
            sentence.outer = other.outer
        else:
            sentence.inner = other.inner

    def other_letter(self, sentences):
        """Rename a letter everywhere; right as long as the new one is not in use."""
        old = self.draw.choice([step.letter for sentence in sentences for step in sentence.steps])
        new = self.draw.choice(self.letters)
        for sentence in sentences:
            sentence.letter = new if sentence.letter == old else sentence.letter
            for step in sentence.steps:
                step.letter = new if step.letter == old else step.letter
                step.operands = [new if operand == old else operand for operand in step.operands]

    def move_sentence(self, sentences):
        sentence = sentences.pop(self.draw.randrange(len(sentences)))
        sentences.insert(self.draw.randint(0, len(sentences)), sentence)

    def leave_out(self, sentences):
        if len(sentences) > 1:
            sentences.pop(self.draw.randrange(len(sentences)))

    def add_step(self, sentences):
        """A step that is right in itself, but that nothing comes from."""
        sentence = self.draw.choice(sentences)
        operands = [operand for step in sentence.steps for operand in step.operands]
        step = Step(self.draw.choice(self.letters), self.draw.choices(operands, k=2), [self.draw.choice(self.signs)])
        sentence.steps.insert(0, step)

    def value_as_constant(self, sentences):
        """The right number, from nowhere."""
        tokens = self.write(sentences)
        sentence = self.draw.choice(sentences)
        start = tokens.index(sentence.letter) if sentence.letter in tokens else 0
        stop = tokens.index(self.stop, start)
        if tokens[stop - 1] in self.is_number:
            sentence.steps[-1].operands, sentence.steps[-1].signs = [tokens[stop - 1]], []
