"""What GitHub runs for us: it is well-formed, calls what there is, and may no more than it needs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.kit.tools import tool

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = {path.name: path.read_text() for path in WORKFLOWS}


@pytest.mark.kit
def test_actionlint_finds_nothing() -> None:
    assert _found("actionlint", *map(str, WORKFLOWS)) == ""


@pytest.mark.kit
def test_zizmor_finds_nothing() -> None:
    found = _found(
        "zizmor", "--offline", "--quiet", "--no-progress", "--format", "json", str(ROOT / ".github")
    )
    assert json.loads(found) == []


@pytest.mark.kit
def test_actionlint_would_find_something(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(TEXTS["ci.yml"].replace("needs: ", "").replace("matrix.python }}", "matrix.snake }}"))
    assert 'property "snake" is not defined' in _found("actionlint", str(wrong))


def _found(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(tool(program)), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout


@pytest.mark.parametrize("name", TEXTS)
def test_every_action_is_pinned_to_a_commit(name: str) -> None:
    used = re.findall(r"uses: (\S+)(.*)", TEXTS[name])
    assert used
    assert [action for action, comment in used if not _is_pinned(action, comment)] == []


def _is_pinned(action: str, comment: str) -> bool:
    return bool(
        re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) and re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    )


def test_one_action_has_one_commit() -> None:
    used = set(re.findall(r"uses: (\S+)@(\S+)", "".join(TEXTS.values())))
    assert len(used) == len({action for action, _ in used})


@pytest.mark.parametrize("name", TEXTS)
def test_a_job_may_only_what_it_says(name: str) -> None:
    workflow = yaml.safe_load(TEXTS[name])
    assert workflow["permissions"] in ({}, {"contents": "read"})
    writes = {job for job, its in workflow["jobs"].items() if "write" in its.get("permissions", {}).values()}
    assert writes == ({"image", "pypi", "page"} if name == "release.yml" else set())


def test_every_command_is_one_of_the_repository() -> None:
    targets = set(re.findall(r"^([a-z-]+)(?: [a-z-]+)*:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        word for line in re.findall(r"run: make (.*)", "".join(TEXTS.values())) for word in line.split()
    }
    assert called >= {"check", "test", "kit", "dist", "docs"}
    assert called - targets == set()
    for script in set(re.findall(r"\.github/[a-z-]+(?![\w./-])", "".join(TEXTS.values()))):
        assert (ROOT / script).stat().st_mode & 0o100, script


def test_every_python_that_is_promised_is_tried() -> None:
    tried = yaml.safe_load(TEXTS["ci.yml"])["jobs"]["tests"]["strategy"]["matrix"]["python"]
    promised = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert promised is not None
    assert tried[0] == promised[1]
    assert tried == [f"3.{minor}" for minor in range(11, 11 + len(tried))]


class TestReleaseNotes:
    """The tag, the version and the change log have to agree."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / ".github").mkdir()
        (tmp_path / ".github" / "release-notes").write_bytes(
            (ROOT / ".github" / "release-notes").read_bytes()
        )
        (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
        log = "# Changes\n\n## 0.2.0 (2026-12-01)\n\n- **New**: a thing.\n\n## 0.1.0\n\n- Old.\n"
        (tmp_path / "CHANGELOG.md").write_text(log)
        return tmp_path

    def test_section_of_the_version_is_printed(self, folder: Path) -> None:
        assert self._run(folder, "v0.2.0") == (0, "- **New**: a thing.\n", "")

    def test_another_tag_is_refused(self, folder: Path) -> None:
        assert self._run(folder, "v0.3.0") == (1, "", "the tag is v0.3.0, but pyproject.toml says 0.2.0\n")

    def test_version_without_a_section_is_refused(self, folder: Path) -> None:
        (folder / "CHANGELOG.md").write_text("# Changes\n\n## 0.1.0\n\n- Old.\n")
        assert self._run(folder, "v0.2.0") == (1, "", "CHANGELOG.md has no section 0.2.0\n")

    def test_unreleased_version_is_refused(self, folder: Path) -> None:
        (folder / "CHANGELOG.md").write_text("# Changes\n\n## 0.2.0 (unreleased)\n\n- New.\n")
        expected = "CHANGELOG.md calls 0.2.0 unreleased: put the date there\n"
        assert self._run(folder, "v0.2.0") == (1, "", expected)

    def _run(self, folder: Path, tag: str) -> tuple[int, str, str]:
        command = ["python3", str(folder / ".github" / "release-notes"), tag]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr
