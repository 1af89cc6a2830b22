import pytest

from lifelong.serve.tail import Tail


@pytest.fixture
def tail(tmp_path):
    made = Tail(tmp_path / "tail")
    yield made
    made.close()


def test_it_keeps_the_highest_offset(tail):
    assert tail.read() == 0
    for offset in (3, 9, 4):
        tail.write(offset)
    assert tail.read() == Tail(tail.path).read() == 9
    assert tail.path.stat().st_size == 16


@pytest.mark.parametrize("place", range(16))
def test_one_that_is_not_whole_says_nothing(tail, place):
    tail.write(1000)
    content = bytearray(tail.path.read_bytes())
    tail.path.write_bytes(content[:place])
    assert tail.read() == 0
    content[place] ^= 1
    tail.path.write_bytes(content)
    assert tail.read() == 0


def test_a_disk_that_fails_leaves_the_one_before(tail):
    tail.write(5)
    tail.close()
    tail.path.rename(tail.path.with_name("before"))
    tail.path.mkdir()
    tail.write(6)
    tail.path.rmdir()
    tail.path.with_name("before").rename(tail.path)
    assert tail.read() == 5
    tail.write(6)
    assert tail.read() == 6
