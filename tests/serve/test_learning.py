from types import SimpleNamespace

from lifelong.serve.learning import Learning


def test_who_is_served_is_known_before_the_first_row_is_learned():
    done = []
    learning = object.__new__(Learning)
    learning.stopping, learning._again = False, 0.0

    def step(limit):
        done.append("step")
        learning.stop()
        return limit

    learning.floor = SimpleNamespace(follow=lambda: None)
    learning.trainer = SimpleNamespace(step=step, save=lambda: done.append("save"))
    learning.releases = SimpleNamespace(consider=lambda: done.append("consider"), champion=None)
    learning.chronicle = SimpleNamespace(look=lambda champion: None)
    learning._tell = lambda: None
    learning.run()
    assert done == ["consider", "step", "consider", "save"]
