import asyncio
import threading

import numpy as np
import pytest
import torch
from fakes import array, numbered
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lifelong.serve.batching import Busy, MicroBatcher
from lifelong.serve.snapshot import Holder, Snapshot

BOTH = pytest.mark.parametrize("threaded", [False, True])


class Echo(nn.Module):
    """Give the features back; fail on negative ones; wait for a gate."""

    def __init__(self, gate=None):
        super().__init__()
        self.gate = [gate]  # a list, which the copy shares

    def __deepcopy__(self, memo):
        return Echo(self.gate[0])

    def forward(self, x):
        if self.gate[0] is not None:
            self.gate[0].wait(10)
        if (x < 0).any():
            raise ValueError("negative")
        return x


def echo(gate=None, **settings):
    return MicroBatcher(Holder(Snapshot(1, Echo(gate), probabilities=False)), **settings)


@BOTH
def test_concurrent_requests_share_batches_and_get_their_own_rows(threaded):
    sizes = []

    async def main():
        batcher = echo(threaded=threaded, on_batch=sizes.append)
        futures = [batcher.submit(array(1 + i % 3, i)) for i in range(100)]
        answers = await asyncio.gather(*futures)
        batcher.close()
        assert batcher.waiting == 0
        return answers

    for i, answer in enumerate(asyncio.run(main())):
        assert answer.version == 1
        np.testing.assert_array_equal(answer.output, array(1 + i % 3, i))
    assert sum(sizes) == sum(1 + i % 3 for i in range(100))
    assert max(sizes) <= 64
    assert len(sizes) <= 5


def test_what_arrives_while_a_batch_computes_is_the_next_batch():
    gate, sizes = threading.Event(), []

    async def main():
        batcher = echo(gate, threaded=True, on_batch=sizes.append)
        first = batcher.submit(array(1, 1))
        await asyncio.sleep(0.02)
        rest = [batcher.submit(array(1, i)) for i in range(2, 9)]
        await asyncio.sleep(0.02)
        assert not first.done()
        gate.set()
        await asyncio.gather(first, *rest)
        batcher.close()

    asyncio.run(main())
    assert sizes == [1, 7]


@BOTH
def test_too_many_rows_are_refused_at_once(threaded):
    async def main():
        batcher = echo(capacity=4, threaded=threaded)
        futures = [batcher.submit(array(1, i)) for i in range(4)]
        with pytest.raises(Busy, match="4 rows wait"):
            batcher.submit(array())
        await asyncio.gather(*futures)
        # One that is larger than the capacity is taken where nothing waits.
        assert (await batcher.submit(array(9))).output.shape == (9, 4)
        batcher.close()

    asyncio.run(main())


@BOTH
def test_an_error_reaches_only_the_request_at_fault(threaded):
    async def main():
        batcher = echo(threaded=threaded)
        futures = [batcher.submit(array(1, -1 if i == 5 else i)) for i in range(10)]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        again = await batcher.submit(array(1, 3))
        batcher.close()
        return answers, again

    answers, again = asyncio.run(main())
    assert isinstance(answers.pop(5), ValueError)
    assert [answer.output[0, 0] for answer in answers] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert again.output[0, 0] == 3


@BOTH
@settings(max_examples=20, deadline=None)
@given(gone=st.sets(st.integers(0, 19)), started=st.booleans())
def test_cancelling_harms_nobody(threaded, gone, started):
    async def main():
        batcher = echo(threaded=threaded, rows=7)
        futures = [batcher.submit(array(1, i)) for i in range(20)]
        if started:
            await asyncio.sleep(0)
        for i in gone:
            futures[i].cancel()
        for i, future in enumerate(futures):
            if not future.cancelled():
                assert (await future).output[0, 0] == i
        assert not any(future.cancelled() for i, future in enumerate(futures) if i not in gone)
        assert (await batcher.submit(array(1, 50))).output[0, 0] == 50
        assert batcher.waiting == 0
        batcher.close()

    asyncio.run(main())


@BOTH
def test_no_answer_mixes_versions_while_they_are_swapped(threaded):
    async def main():
        holder = Holder(numbered(1))
        batcher = MicroBatcher(holder, rows=16, threaded=threaded)
        versions = {n: numbered(n) for n in range(1, 20)}
        seen = set()

        async def ask():
            for i in range(60):
                answer = await batcher.submit(array(1 + i % 4))
                assert (answer.output == answer.version).all()
                seen.add(answer.version)
                await asyncio.sleep(0)

        async def swap():
            for version in versions.values():
                holder.current = version
                await asyncio.sleep(0.001)

        await asyncio.gather(swap(), *(ask() for _ in range(10)))
        assert (await batcher.submit(array())).version == 19
        assert len(seen) > 3
        batcher.close()

    asyncio.run(main())


def test_arms_are_answered_by_their_own_snapshot():
    async def main():
        batcher = MicroBatcher(Holder(numbered(1), numbered(2)))
        arms = ["champion", "challenger"] * 5
        answers = await asyncio.gather(*(batcher.submit(array(), arm=arm) for arm in arms))
        assert [answer.version for answer in answers] == [1, 2] * 5

    asyncio.run(main())


def test_tasks_stay_with_their_rows():
    class Tasked(nn.Module):
        def forward(self, x, task):
            return torch.stack([task, x[:, 0].long()], 1)

    async def main():
        batcher = MicroBatcher(Holder(Snapshot(1, Tasked(), probabilities=False)))
        tasks = [None, np.array([3]), np.array([4])]
        futures = [batcher.submit(array(1, i), task) for i, task in enumerate(tasks)]
        return [(await future).output[0].tolist() for future in futures]

    assert asyncio.run(main()) == [[-1, 0], [3, 1], [4, 2]]


def test_closing_cancels_what_waits():
    async def main():
        batcher = echo()
        future = batcher.submit(array())
        batcher.close()
        await asyncio.sleep(0)
        assert future.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("limits", [{"rows": 0}, {"capacity": 0}])
def test_limits_must_be_positive(limits):
    with pytest.raises(ValueError, match="1 or more"):
        echo(**limits)
