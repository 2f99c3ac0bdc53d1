import ast
import json
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import RECIPE, STEPS, WORLD, answer, child, finish, interrupt, make_model, make_stream, outcome, tensors

import physlm
from physlm.models.low_rank import add_low_rank, merge_low_rank
from physlm.models.positions import Learned
from physlm.training.checkpoints import CheckpointError, load_model, save_folder, save_model
from physlm.training.loop import train
from physlm.training.objectives import next_token_loss

DATA = WORLD.fingerprint()


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Ways to damage a file, each with what the error says.


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_header(path):
    content = bytearray(path.read_bytes())
    for place in range(8, 40):
        content[place] ^= 0xFF
    path.write_bytes(content)


def flip_length(path):
    content = bytearray(path.read_bytes())
    content[6] ^= 0xFF
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


DAMAGES = [truncate, flip_header, flip_length, empty, remove]


# ----------------------------------------------------------------------------------------------------------------------
# Models
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"position": Learned()}, {"causal": False, "dropout": 0.1}])
def test_a_model_comes_back_bit_for_bit(tmp_path, changes):
    model = make_model(**changes)
    save_model(model, tmp_path / "model", data_fingerprint=DATA)
    loaded = load_model(tmp_path / "model", config=model.config, data_fingerprint=DATA)
    same(tensors(loaded), tensors(model))
    assert loaded.config == model.config
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    model = make_model()
    save_model(model, tmp_path / "model", data_fingerprint=DATA)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == {name for name, _ in model.named_parameters()}
    loaded = load_model(tmp_path / "model")
    assert loaded.head.weight is loaded.embed.weight


def test_a_finetuned_model_is_merged_before_it_is_saved(tmp_path):
    model = make_model()
    train(model, make_stream(), RECIPE, parameters=add_low_rank(model, rank=2, embedding_rank=2, seed=0))
    with pytest.raises(ValueError, match="fold them in with merge_low_rank"):
        save_model(model, tmp_path / "model", data_fingerprint=DATA)
    assert not list(tmp_path.iterdir())
    merge_low_rank(model)
    save_model(model, tmp_path / "model", data_fingerprint=DATA)
    loaded = load_model(tmp_path / "model")
    same(tensors(loaded), tensors(model))
    assert loaded.head.weight is not loaded.embed.weight
    assert len([*loaded.parameters()]) == len([*model.parameters()])


def test_saving_again_replaces_the_model(tmp_path):
    for seed in (0, 1):
        save_model(make_model(seed), tmp_path / "model", data_fingerprint=DATA)
        same(tensors(load_model(tmp_path / "model")), tensors(make_model(seed)))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_of_another_config_or_world_is_refused(tmp_path):
    model = make_model()
    save_model(model, tmp_path / "model", data_fingerprint=DATA)
    with pytest.raises(CheckpointError, match="another model config: layers is 2, expected 3"):
        load_model(tmp_path / "model", config=replace(model.config, layers=3))
    with pytest.raises(CheckpointError, match=f"another world: '{DATA}', expected 'elsewhere'"):
        load_model(tmp_path / "model", data_fingerprint="elsewhere")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused(tmp_path, file, damage):
    save_model(make_model(), tmp_path / "model", data_fingerprint=DATA)
    damage(tmp_path / "model" / file)
    with pytest.raises(CheckpointError, match=f"{file}.*(delete|move)"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "format_version None"),
        ({"architectures": ["GPT2LMHeadModel"]}, "format_version None, this version of physlm reads 1"),
        ({"format_version": 2}, "format_version 2, this version of physlm reads 1"),
        ({"format_version": 1}, "no entry 'model'"),
        ({"format_version": 1, "model": {}}, "describes no model"),
        ({"format_version": 1, "model": {"layers": 2}}, "describes no model"),
        ({"format_version": 1, "model": None}, "describes no model"),
    ],
)
def test_foreign_json_is_refused(tmp_path, content, message):
    save_model(make_model(), tmp_path / "model", data_fingerprint=DATA)
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "model")


def test_tensors_of_another_model_are_refused(tmp_path):
    save_model(make_model(), tmp_path / "model", data_fingerprint=DATA)
    for changes, message in (
        ({"width": 32}, "has shape"),
        ({"layers": 3}, "which has no"),
        ({"layers": 1}, "it lacks"),
    ):
        save_model(make_model(**changes), tmp_path / "other", data_fingerprint=DATA)
        shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "model")
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / "model")


def test_physlm_unpickles_nothing():
    for path in Path(physlm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}", *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            else:
                continue
            assert not {"pickle", "dill", "joblib", "torch.load", "np.load", "numpy.load"} & set(names), path


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints of runs
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed():
    return finish(None)


@pytest.fixture
def run(tmp_path):
    """A run that was interrupted after its checkpoint of step 8."""
    interrupt(tmp_path / "run", after=12)
    return tmp_path / "run"


def another_loss(model, batch):
    return next_token_loss(model, batch)


@pytest.mark.parametrize(
    ("model", "stream", "options", "message"),
    [
        ({"dropout": 0.1}, {}, {}, "another model: dropout is 0.0, expected 0.1"),
        ({"seed": 1}, {}, {}, "another initial weights"),
        ({}, {"key": 1}, {}, "another data"),
        ({}, {"split": "questions_train"}, {}, "another data"),
        ({}, {"batch_size": 5}, {}, "another batches: size is 4, expected 5"),
        ({}, {}, {"recipe": replace(RECIPE, clip=2.0)}, "another recipe: clip is 1.0, expected 2.0"),
        ({}, {}, {"objective": another_loss}, "another objective: name is 'next_token_loss', expected 'another_loss'"),
        ({}, {}, {"log_every": 5}, "another log: every is 4, expected 5"),
        ({}, {}, {"evaluate": None}, "another log: evaluates is True, expected False"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(run, model, stream, options, message):
    before = contents(run)
    options = {"recipe": RECIPE, "log_every": 4, "evaluate": dict, **options}
    with pytest.raises(CheckpointError, match=f"step-000000008 was made from {message}.*Use another folder"):
        train(make_model(**model), make_stream(**stream), folder=run, **options)
    assert contents(run) == before


def test_a_checkpoint_that_trained_other_parameters_is_refused(run):
    model = make_model()
    with pytest.raises(CheckpointError, match=r"another parameters: only there \[.*more\], only here \[\]"):
        finish(run, model, parameters=[model.embed.weight])
    elsewhere = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="model's own parameters, got 1 of 1 that are not"):
        finish(run, parameters=[elsewhere])


def test_a_folder_of_something_else_is_refused(run):
    (run / "step-000000008" / "trainer.json").write_text('{"format_version": 1, "trainer": "another library"}')
    with pytest.raises(CheckpointError, match="no entry 'model': it is no checkpoint of this kind"):
        finish(run)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "trainer.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_way_on_works(run, file, damage, undisturbed):
    damage(run / "step-000000008" / file)
    before = contents(run)
    message = f"step-000000008/{file}.*delete .*step-000000008 to go on without it; training will then start afresh"
    with pytest.raises(CheckpointError, match=message):
        finish(run)
    assert contents(run) == before
    shutil.rmtree(run / "step-000000008")
    same(finish(run), undisturbed)


def test_a_state_that_cannot_be_is_refused(run):
    path = run / "step-000000008" / "trainer.json"
    trainer = json.loads(path.read_text())
    for changes in ({"stream": {**trainer["stream"], "cursors": [10**6]}}, {"stream": None}):
        path.write_text(json.dumps({**trainer, **changes}))
        with pytest.raises(CheckpointError, match=r"trainer\.json is no state of this run"):
            finish(run)


def test_moments_of_another_run_are_refused(tmp_path, run):
    finish(tmp_path / "wide", make_model(width=32))
    finish(tmp_path / "deep", make_model(layers=3))
    for other, message in (("wide", "does not fit the parameter embed.weight"), ("deep", "which does not train")):
        newest = tmp_path / other / f"step-{STEPS:09d}"
        shutil.copy(newest / "optimizer.safetensors", run / "step-000000008")
        with pytest.raises(CheckpointError, match=message):
            finish(run)


def test_of_two_checkpoints_the_newer_counts(run, undisturbed):
    """As after a kill between writing a checkpoint and deleting the one before."""
    shutil.copytree(run / "step-000000008", run / "step-000000004")
    (run / "step-000000004" / "model.safetensors").unlink()
    (run / "step-notes").mkdir()
    same(finish(run), undisturbed)
    assert sorted(path.name for path in run.glob("step-*")) == [f"step-{STEPS:09d}", "step-notes"]


def test_a_damaged_newer_checkpoint_leaves_the_older_one_to_go_on_from(tmp_path, run, undisturbed):
    interrupt(tmp_path / "longer", after=20)
    shutil.copytree(tmp_path / "longer" / "step-000000016", run / "step-000000016")
    truncate(run / "step-000000016" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"step-000000016.*training will then go on from step-000000008"):
        finish(run)
    shutil.rmtree(run / "step-000000016")
    same(finish(run), undisturbed)


def test_what_interrupted_writes_left_is_skipped_and_cleared(run, undisturbed):
    for name in (".partial-step-000000012", ".partial-replaced-step-000000012", ".partial-step-000000024"):
        (run / name).mkdir()
        (run / name / "model.safetensors").write_bytes(b"half")
    (run / ".partial-metrics.jsonl").write_text('{"step": 1')
    same(finish(run), undisturbed)
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl", f"step-{STEPS:09d}"]


def test_the_optimiser_state_is_exact(run):
    stored = load_file(run / "step-000000008" / "optimizer.safetensors")
    steps = [tensor for name, tensor in stored.items() if name.endswith(".step")]
    assert len(steps) == len([*make_model().parameters()])
    assert all(step.dtype == torch.float32 and step.item() == 8 for step in steps)
    assert {name.rpartition(".")[2] for name in stored} == {"step", "exp_avg", "exp_avg_sq"}


def test_a_parameter_that_never_had_a_gradient_resumes(tmp_path):
    def without_blocks(model, batch):
        return model.head(model.embed(torch.from_numpy(batch.window))).square().mean()

    expected = finish(None, objective=without_blocks)
    interrupt(tmp_path, after=12, objective=without_blocks)
    same(finish(tmp_path, objective=without_blocks), expected)


# ----------------------------------------------------------------------------------------------------------------------
# Full disks and kills
# ----------------------------------------------------------------------------------------------------------------------


def assert_survived(report, errors):
    number, words = errors
    assert report["errno"] == number
    assert words in report["message"]
    assert "earlier" in report["message"] or "the file before it is untouched" in report["message"]
    assert report["left"] == ["metrics.jsonl", "step-000000008"]
    model = make_model()
    assert report["outcome"] == outcome(model, train(model, make_stream(), RECIPE, log_every=4, evaluate=dict))


def test_a_write_that_fails_is_one_clear_error_and_costs_nothing(tmp_path):
    assert_survived(answer(child("full_disk_run.py", tmp_path / "run", "limit")), (27, "File too large"))


def test_a_full_disk_is_one_clear_error_and_costs_nothing(tmp_path):
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*namespace, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk of its own for this test: {error}")
    process = child("full_disk_run.py", tmp_path / "run", "ballast", inside=[*namespace, f'{mount} && exec "$@"', "sh"])
    assert_survived(answer(process), (28, "No space left on device"))


def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save_folder(tmp_path / "model", {"config.json": {"seed": 0}})
    before = contents(tmp_path)
    with pytest.raises(OSError, match=r"could not write .*model"):
        save_folder(tmp_path / "model", {"config.json": {"seed": 1}, "missing/config.json": {}})
    assert contents(tmp_path) == before


def test_a_model_is_whole_whenever_its_writer_is_killed(tmp_path):
    process = child("endless_saves.py", tmp_path)
    for _ in range(20):
        process.stdout.readline()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    names = [path.name for path in tmp_path.iterdir()]
    name = "model" if "model" in names else ".partial-replaced-model"
    loaded = tensors(load_model(tmp_path / name))
    assert any(all(torch.equal(loaded[k], v) for k, v in tensors(make_model(seed)).items()) for seed in (0, 1))
