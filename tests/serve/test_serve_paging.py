import pytest

from lifelong.serve.paging import MOST, Page, page_of
from lifelong.serve.schema import Malformed


def test_what_is_not_given_has_its_default():
    assert page_of(b"") == Page(after=0, limit=100, before=None)
    assert page_of(b"before=9&limit=1") == Page(0, 1, 9)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (b"limit=0", "from 1 to"),
        (b"limit=%d" % (MOST + 1), "from 1 to"),
        (b"after=-1", "from 0 to"),
        (b"after=1.5", "from 0 to"),
        (b"after=", "from 0 to"),
        (b"after=%d" % 2**63, "from 0 to"),
        (b"after=" + b"9" * 5000, "from 0 to"),
        ("after=³".encode(), "from 0 to"),
        (b"after=%C2%B3", "from 0 to"),
        (b"before=0", "from 1 to"),
        (b"page=2", "is unknown"),
        (b"limit=1&limit=2", "comes twice"),
        (b"&".join([b"a=1"] * 50), "more than ten parts"),
    ],
)
def test_other_queries_are_refused(query, told):
    with pytest.raises(Malformed, match=told):
        page_of(query)
