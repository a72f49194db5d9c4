"""`python -m moa_jax.evaluation` leads to each of its commands, and loads no other."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from moa_jax.evaluation import __main__ as script


@pytest.mark.parametrize("name", script.COMMANDS)
def test_a_command_gets_what_stands_after_its_name(name, monkeypatch):
    given = []
    own = SimpleNamespace(main=lambda arguments: given.append(arguments) or 7)
    monkeypatch.setitem(sys.modules, script.COMMANDS[name][0], own)
    assert script.main([name, "--help", "a.b=c", "--out", "here"]) == 7
    assert given == [["--help", "a.b=c", "--out", "here"]]


def test_an_unknown_command_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit) as refused:
        script.main(["toys"])
    assert refused.value.code == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in script.COMMANDS)


def test_help_costs_no_library():
    code = (
        "import sys; from moa_jax.evaluation.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
