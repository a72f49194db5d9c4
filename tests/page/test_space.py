"""The Space: put together, it serves the page from its own folder alone."""

import re
import subprocess
import sys
import urllib.request
from importlib.metadata import version

import pytest
import yaml

from tests.page.server import ROOT, serving


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    command = [sys.executable, "spaces/build.py", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def test_its_front_matter_names_the_app_and_a_gradio_that_was_tested(space):
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert (space / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60  # the hub refuses longer ones
    assert front["sdk_version"].split(".")[0] == version("gradio").split(".")[0]


def test_its_requirements_are_the_projects_and_gradio(space):
    def names(path):
        return re.findall(r"(?m)^[\w-]+", path.read_text())

    assert names(space / "requirements.txt") == [*names(ROOT / "requirements.txt"), "gradio"]


def test_a_folder_with_something_in_it_is_left_alone(space):
    command = [sys.executable, "spaces/build.py", str(space)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not empty" in done.stderr


@pytest.mark.slow
def test_it_serves_the_page_of_its_own_package(space, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = "import runpy, sys, moa_jax; assert 'space' in moa_jax.__file__, moa_jax.__file__; "
    code += "sys.path.insert(0, '.'); runpy.run_path('app.py', run_name='__main__')"
    place = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "PORT", "PYTHONPATH": ""}
    with serving(scratch, ["-c", code], cwd=space, **place) as server:
        with urllib.request.urlopen(server.url) as response:
            assert "Put people into pictures" in response.read().decode()
        server.stop()
