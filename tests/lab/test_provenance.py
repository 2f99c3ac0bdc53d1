import subprocess

from physlm.lab.provenance import commit


def git(folder, *arguments):
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_code(tmp_path):
    assert commit(tmp_path) is None  # installed, not checked out
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) is None
    module = tmp_path / "physlm" / "module.py"
    module.parent.mkdir()
    module.touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "code")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").touch()
    assert commit(tmp_path) == head  # what a sweep writes is no change of the code
    module.write_text("changed = True\n")
    assert commit(tmp_path) == f"{head}-dirty"


def test_a_folder_inside_somebody_elses_checkout_has_no_commit(tmp_path):
    git(tmp_path, "init", "--quiet")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    assert commit(installed) is None
