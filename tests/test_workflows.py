"""What GitHub reads: pinned actions that may do no more than they need, forms, and a release."""

import re
from pathlib import Path

import pytest
import yaml

import moa_jax
from tests import release

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = [ROOT / f".github/ISSUE_TEMPLATE/{name}.yml" for name in ("bug", "feature")]
FORM_KEYS = ("name", "description", "body", "title", "labels", "assignees", "type", "projects")


def jobs(path):
    return yaml.safe_load(path.read_text())["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_commit_and_names_its_version(path):
    used = [step["uses"] for job in jobs(path).values() for step in job["steps"] if "uses" in step]
    written = re.findall(r"uses: (\S+@[0-9a-f]{40}) # v\d+\.\d+\.\d+$", path.read_text(), re.M)
    assert used and used == written


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_only_publishing_may_do_more_than_read(path):
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    allowed = {name: job["permissions"] for name, job in jobs(path).items() if "permissions" in job}
    assert allowed == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})
    for job in jobs(path).values():
        for step in job["steps"]:
            if "actions/checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            # A branch or tag may be named so as to run code where it stands in a script.
            assert "${{" not in step.get("run", "")


def test_what_is_published_is_what_was_checked():
    build, publish = jobs(ROOT / ".github/workflows/release.yml").values()
    (command,) = [step["run"] for step in build["steps"] if "run" in step]
    assert command.startswith('make release-check TAG="$GITHUB_REF_NAME"')
    assert publish["needs"] == "build" and publish["environment"]["name"] == "pypi"
    assert not any("run" in step for step in publish["steps"])
    (checks,) = jobs(ROOT / ".github/workflows/ci.yml").values()
    assert [step["run"] for step in checks["steps"] if "run" in step] == [".ci/run"]


def test_the_forms_are_as_github_reads_them():
    """The keys of GitHub's syntax for issue forms, and fields that are told apart."""
    for path in FORMS:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys() <= {*FORM_KEYS}
        asked = [each for each in form["body"] if each["type"] != "markdown"]
        assert len({each["id"] for each in asked}) == len(asked) > 0
        assert all(each["attributes"]["label"] for each in asked)
        assert {each["type"] for each in asked} <= {"textarea", "input", "dropdown", "checkboxes"}
        assert any(each.get("validations", {}).get("required") for each in asked)


def test_a_tag_is_the_version_and_its_changes_have_a_date():
    version = moa_jax.__version__
    release.check_tag(f"v{version}", f"## {version} (2026-01-31)\n")
    for tag, changes, message in (
        (version, f"## {version} (2026-01-31)", "the tag is"),
        (f"v{version}.1", f"## {version} (2026-01-31)", "the tag is"),
        (f"v{version}", f"## {version} (not released)", "has no line"),
    ):
        with pytest.raises(release.Unfit, match=message):
            release.check_tag(tag, changes)


def test_a_file_that_is_missing_or_too_many_is_named():
    git = {"moa_jax/a.py", "tests/test_a.py"}
    packed = {"moa_jax/a.py", "moa_jax-0.dist-info/METADATA"}
    release.check_files(git, git | {"PKG-INFO"}, packed)
    for sdist, wheel, named in (
        ({"moa_jax/a.py"}, packed, "tests/test_a.py"),
        (git, {"moa_jax-0.dist-info/METADATA"}, "moa_jax/a.py"),
        (git, packed | {"tests/test_a.py"}, "tests/test_a.py"),
    ):
        with pytest.raises(release.Unfit, match=named):
            release.check_files(git, sdist, wheel)
