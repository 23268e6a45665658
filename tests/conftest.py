"""Fixtures that several files of tests use."""

import pytest

from rebasin_fast.cli import main


@pytest.fixture
def call(capsys, monkeypatch):
    """Run the command line in this process; return exit code, stdout, stderr."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # main sets it where it is not set: leave no trace of that
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code or 0, *capsys.readouterr()

    return run
