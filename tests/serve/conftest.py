"""What tests of the service share: MLflow's tables take seconds to make, and are made once."""

import os

import pytest

from lifelong.serve.runs import connect


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """An MLflow store with all its tables and nothing in them; copy the file to use it."""
    path = tmp_path_factory.mktemp("tables") / "registry.db"
    connect(path)
    os.chmod(path, 0o444)  # a copy is to be used, never this one
    return path
