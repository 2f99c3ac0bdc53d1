"""The package as a whole: what importing it costs and changes, what it offers, and which way its arrows point."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import physlm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "physlm"
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "physlm."))
HEAVY = ("torch", "numpy", "scipy", "transformers", "faker", "matplotlib", "tokenizers")

LEARNING = (
    "physlm.data",
    "physlm.worlds",
    "physlm.models",
    "physlm.training",
    "physlm.evaluation",
    "physlm.probing",
    "physlm.lab",
)

# Importers and what they must not import: arrows point one way.
FORBIDDEN = {
    "physlm.randomness": ("physlm",),
    "physlm.compiling": ("physlm",),
    "physlm.short_convolution": LEARNING,
    "physlm.tanh_gelu": LEARNING,
    "physlm.data": (
        "physlm.worlds",
        "physlm.models",
        "physlm.training",
        "physlm.evaluation",
        "physlm.probing",
        "physlm.lab",
    ),
    "physlm.worlds": ("physlm.models", "physlm.training", "physlm.evaluation", "physlm.probing", "physlm.lab"),
    "physlm.models": ("physlm.worlds", "physlm.training", "physlm.evaluation", "physlm.probing", "physlm.lab"),
    "physlm.training": ("physlm.worlds", "physlm.evaluation", "physlm.probing", "physlm.lab"),
    "physlm.evaluation": ("physlm.worlds", "physlm.training", "physlm.probing", "physlm.lab"),
    "physlm.probing": ("physlm.worlds", "physlm.evaluation"),
    "physlm.lab": ("physlm.worlds", "physlm.models", "physlm.training", "physlm.evaluation", "physlm.probing"),
    "physlm": ("experiments", "benchmarks", "tests"),
}

NO_NETWORK = """
import socket

def refuse(*arguments, **options):
    raise AssertionError("the network was used")

for name in ("connect", "connect_ex", "bind", "sendto"):
    setattr(socket.socket, name, refuse)
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


def in_fresh_process(code):
    """What `code` prints as JSON, in an interpreter of its own."""
    command = [sys.executable, "-W", "error", "-c", NO_NETWORK + code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_package_loads_nothing_heavy():
    loaded = in_fresh_process("import json, sys, physlm; print(json.dumps(sorted(sys.modules)))")
    assert not set(HEAVY) & set(loaded)
    assert [name for name in loaded if name.split(".")[0] == "physlm"] == ["physlm"]


def test_optional_packages_are_loaded_only_when_used():
    code = f"""
import importlib, json, sys
for name in {MODULES}:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""
    assert not {"transformers", "faker", "IPython", "nbformat"} & set(in_fresh_process(code))


def test_importing_changes_no_global_random_state():
    code = f"""
import importlib, json, random
import numpy as np
import rich.style  # draws from `random` when it is imported, which is not ours to mend
import torch

random.seed(1)
np.random.seed(2)
torch.manual_seed(3)

def state():
    kind, words, *rest = np.random.get_state()
    return [repr(random.getstate()), kind, words.tolist(), repr(rest), torch.get_rng_state().tolist()]

moved, before = [], state()
for name in {["physlm", *MODULES]}:
    importlib.import_module(name)
    moved += [name] if state() != before else []
    before = state()
print(json.dumps(moved))
"""
    assert in_fresh_process(code) == []


@pytest.mark.parametrize("name", physlm.__all__)
def test_every_public_name_is_there(name):
    assert getattr(physlm, name) is not None
    assert name in dir(physlm)


def test_type_checkers_and_interpreter_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {node.module: tuple(alias.name for alias in node.names) for node in checked.body}
    assert seen == physlm._HOMES
    assert sorted(physlm.__all__) == sorted(["__version__", *(name for names in seen.values() for name in names)])


def test_subpackages_are_attributes():
    assert in_fresh_process("import json, physlm; print(json.dumps(physlm.worlds.__name__))") == "physlm.worlds"


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(AttributeError, match=r"physlm has no 'Transfomer'; it has .*\bTransformer\b"):
        _ = physlm.Transfomer
    assert not hasattr(physlm, "__wrapped__")


def test_version_agrees_with_the_project_file():
    assert f'version = "{physlm.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def imports_of(path, module):
    """Full names of everything that a file imports, wherever in the file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*relative, *([node.module] if node.module else [])])
            for alias in node.names:
                yield (
                    physlm._HOME[alias.name]
                    if (origin, alias.name in physlm._HOME) == ("physlm", True)
                    else (f"{origin}.{alias.name}")
                )


def within(module, package):
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_one_way(module):
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    wrong = [
        f"{module} imports {imported}"
        for layer, forbidden in FORBIDDEN.items()
        if within(module, layer)
        for imported in imports_of(path, module)
        if any(within(imported, other) for other in forbidden)
    ]
    assert not wrong


def test_imports_are_found_however_they_are_written(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(
        "def f():\n    from physlm import train\nfrom .lab import Claim\nfrom . import data\nimport torch.nn\n"
    )
    found = set(imports_of(path, "physlm.models"))
    assert found == {"physlm.training.loop", "physlm.lab.Claim", "physlm.data", "torch.nn"}


def test_every_layer_is_known():
    layers = {module for module in MODULES if module.count(".") == 1}
    assert layers <= set(FORBIDDEN), "give the new layer a row in FORBIDDEN"
    for layer in FORBIDDEN:
        importlib.import_module(layer)


def test_shapes_are_checked_in_tests():
    import torch

    model = physlm.Transformer(physlm.TransformerConfig(vocab_size=9, context=4, layers=1, heads=1, width=8), seed=0)
    with pytest.raises(TypeError, match="tokens"):
        model(torch.zeros(4, dtype=torch.long))
