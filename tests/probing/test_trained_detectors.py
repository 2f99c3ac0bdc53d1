"""A detector that was trained says what its probe says."""

import numpy as np
import pytest

from physlm.models.config import TransformerConfig
from physlm.models.regret import Detector, retry_upon_regret
from physlm.models.transformer import Transformer
from physlm.probing.detectors import ProbeDetector
from physlm.probing.embedding_update import EmbeddingProbes
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import Inputs
from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.openings import Head, draw_openings
from physlm.worlds.igsm.world import IGSMWorld

KEY = Key.of("detectors", 0)
CONFIG = IGSMConfig(
    seed=0, max_operations=3, max_instances=5, modulus=5, categorizations=1, names_per_category=4, rendering="compact"
)
WORLD = IGSMWorld(CONFIG)
HEAD = Head(WORLD.vocabulary, WORLD.config.rendering)


@pytest.fixture(scope="module")
def model():
    return Transformer(
        TransformerConfig(vocab_size=WORLD.vocab_size, context=128, layers=2, heads=2, width=32), seed=0
    ).eval()


@pytest.fixture(scope="module")
def probes(model):
    openings = draw_openings(WORLD, "train", np.arange(400), KEY)
    probes = EmbeddingProbes(
        model, rank=4, training=ProbeTraining(steps=60, batch_size=32, learning_rate=0.01), key=KEY
    )
    return probes.fit(Inputs.last(openings.samples), {"ready": openings.ready})


def test_it_objects_where_the_probe_says_so_and_to_nothing_without_a_head(probes):
    detector = ProbeDetector(probes, "ready", HEAD.read)
    assert isinstance(detector, Detector)
    openings = draw_openings(WORLD, "test", np.arange(40), KEY)
    documents = [openings.samples.document(number)[0] for number in range(40)]
    begins = np.array([len(document) - len(HEAD) for document in documents])
    stop = WORLD.vocabulary.id(".")
    whole = [np.array([*document, WORLD.vocabulary.letter(0), stop]) for document in documents]
    said = probes.predict(Inputs.last(openings.samples))["ready"][-1]
    assert set(said) == {0, 1}
    assert np.array_equal(detector(np.arange(40), whole, begins), said == 0)
    cut = [np.array([*document[:begin], stop]) for document, begin in zip(documents, begins, strict=True)]
    assert not detector(np.arange(40), cut, begins).any()
    mixed = [whole[row] if row % 2 else cut[row] for row in range(40)]
    assert np.array_equal(detector(np.arange(40), mixed, begins), (said == 0) & (np.arange(40) % 2 == 1))


def test_solutions_can_be_written_with_it(model, probes):
    problems = WORLD.problems("test", np.arange(4))
    written = retry_upon_regret(
        model,
        [WORLD.renderer.prompt(problem) for problem in problems],
        detector=ProbeDetector(probes, "ready", HEAD.read),
        sentence_end=WORLD.vocabulary.id("."),
        stop=WORLD.eos,
        max_new_tokens=30,
        key=KEY,
    )
    assert len(written) == 4


def test_what_its_probe_cannot_say_is_refused(model, probes):
    with pytest.raises(ValueError, match="task must be one of ready, got 'wrong'"):
        ProbeDetector(probes, "wrong", HEAD.read)
    openings = draw_openings(WORLD, "train", np.arange(20), KEY)
    others = EmbeddingProbes(model, rank=1, training=ProbeTraining(steps=1), key=KEY)
    others.fit(Inputs.last(openings.samples), {"ready": 1 + openings.ready})
    with pytest.raises(ValueError, match=r"task must have the label 0, got 'ready' with \[1, 2\]"):
        ProbeDetector(others, "ready", HEAD.read)
