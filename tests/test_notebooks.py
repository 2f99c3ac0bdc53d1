"""Notebooks that run: each is executed in a fresh kernel, small enough for a test (`PHYSLM_QUICK`).

Committed cells and outputs must be fit for publication: no error, no path of the machine they were made on.
"""

import os
import re
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTS = {"01_knowledge_extraction": 2, "02_grammars": 4, "03_igsm": 5, "04_mistakes": 2, "05_probing": 6}
MACHINE_PATH = re.compile(r"(?<![\w./])/(?:home|root|Users|tmp|var|mnt|opt|srv|work)/")
PNG_SIGNATURE = "iVBORw0KGgo"  # in base 64


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def outputs_of(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def images_in(notebook):
    return [output.data["image/png"] for output in outputs_of(notebook) if "image/png" in output.get("data", {})]


def everything_written_in(notebook):
    """Sources and text outputs; images are left out."""
    for cell in notebook.cells:
        yield cell.source
    for output in outputs_of(notebook):
        yield str(output.get("text", ""))
        yield str(output.get("traceback", ""))
        yield from (str(text) for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def executed(path, tmp_path_factory):
    """The notebook after a run in an empty folder, which must be empty afterwards too."""
    folder = tmp_path_factory.mktemp(path.stem)
    # The kernel inherits the environment: its own temporary folder, and this copy of the project.
    temporary = tmp_path_factory.mktemp("temporary")
    variables = {"PHYSLM_QUICK": "1", "TMPDIR": str(temporary), "IPYTHONDIR": str(temporary / "ipython")}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, **variables})
    assert not list(folder.iterdir()), "a notebook keeps its files to itself"
    return notebook


def test_there_is_a_notebook():
    assert {path.stem for path in NOTEBOOKS} >= PLOTS.keys()


def test_it_runs_without_complaints(executed):
    for output in outputs_of(executed):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
    last = [cell for cell in executed.cells if cell.cell_type == "code"][-1]
    assert last.outputs


def test_its_plots_are_there(executed, path):
    images = images_in(executed)
    assert len(images) == PLOTS[path.stem]
    for image in images:
        assert image.startswith(PNG_SIGNATURE)
        assert len(image) > 10_000


def test_what_is_committed_is_clean(path):
    notebook = read(path)
    here = {str(ROOT), str(Path.home()), tempfile.gettempdir()} - {"/"}
    for text in everything_written_in(notebook):
        assert not MACHINE_PATH.search(text)
        assert not any(folder in text for folder in here)
    assert all(output.output_type != "error" for output in outputs_of(notebook))
    assert all(cell.metadata.keys() <= {"tags"} for cell in notebook.cells), "cell metadata tell when and where"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


def test_committed_outputs_are_all_there_or_none(path):
    """Either cleared, or from one run of all cells in order."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts in ([None] * len(cells), list(range(1, len(cells) + 1)))
    if counts[0] is None:
        assert not any(cell.outputs for cell in cells)


@pytest.mark.parametrize(
    ("text", "found"),
    [("/home/me/data", True), ("in '/tmp/x'", True), ("results/tmp/x", False), ("https://x.org/opt/y", False)],
)
def test_paths_are_recognised(text, found):
    assert bool(MACHINE_PATH.search(text)) is found
