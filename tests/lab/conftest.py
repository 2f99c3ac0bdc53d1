import sys
from pathlib import Path

import pytest

_HERE = str(Path(__file__).parent)
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Counts what the toy experiment's workers did."""
    folder = tmp_path / "trace"
    folder.mkdir()
    monkeypatch.setenv("TOY_TRACE", str(folder))
    return lambda word: len(list(folder.glob(f"{word}-*")))


@pytest.fixture
def places(tmp_path):
    """Where a test's results and stages go."""
    return {"out": tmp_path / "results", "cache": tmp_path / "cache"}
