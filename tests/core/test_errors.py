import inspect

import pytest

from lifelong.core import errors
from lifelong.core.errors import InvalidBatch, LabelOutsideHead, LifelongError, UnknownName


def test_all_errors_of_the_domain_have_one_base():
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    found = [kind for kind in classes if kind.__module__ == errors.__name__]
    assert len(found) > 10
    assert all(issubclass(kind, LifelongError) for kind in found)
    assert issubclass(LabelOutsideHead, InvalidBatch)
    assert issubclass(InvalidBatch, ValueError)


def test_an_unknown_name_is_answered_with_the_nearest():
    error = UnknownName("strategy", "replai", ["ewc", "replay"])
    assert str(error) == ("unknown strategy 'replai'; did you mean 'replay'? known: ewc, replay")
    assert str(UnknownName("suite", "zzz", ["b", "a"])) == "unknown suite 'zzz'; known: a, b"


def test_a_missing_extra_names_the_command():
    with pytest.raises(ImportError, match=r"pip install 'lifelong\[bench\]'"):
        raise errors.MissingExtra("rich", "bench")


def test_an_extra_that_cannot_be_imported_says_why():
    absent = ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets")
    inner = ModuleNotFoundError("No module named 'scipy'", name="scipy")
    broken = ImportError("libfoo.so: cannot open shared object file")
    assert str(errors.MissingExtra("scikit-learn", "bench", absent)).startswith(
        "scikit-learn is not installed; pip install"
    )
    for error in (inner, broken):
        told = str(errors.MissingExtra("scikit-learn", "bench", error))
        assert told.startswith(f"scikit-learn cannot be imported ({error}); pip install")
