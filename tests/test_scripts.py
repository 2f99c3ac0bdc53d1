"""Scripts that write records refuse what they do not understand before they write."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["check_parity", "update_results", "check_igsm_statistics"])
def test_an_unknown_option_writes_nothing(name):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--chekc"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 2
    assert "unrecognized arguments: --chekc" in finished.stderr
    assert finished.stdout == ""
