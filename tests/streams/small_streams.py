"""Small data sets whose rows tell which row and class they are."""

import torch

from lifelong.streams import Labelled, Rows, Stream, Task


def labelled(classes: int = 6, train: int = 20, test: int = 5) -> Labelled:
    """Make `train` and `test` rows a class, shuffled; x holds (row, class), named after letters."""

    def part(rows: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        source = torch.Generator().manual_seed(first)
        y = torch.arange(classes).repeat(rows)[torch.randperm(classes * rows, generator=source)]
        return torch.stack((torch.arange(first, first + len(y)), y), 1).float(), y

    names = "abcdefghijklmnopqrstuvwxyz"[:classes]
    return Labelled("letters", *part(train, 0), *part(test, classes * train), tuple(names))


def stream(sizes: tuple[int, ...] = (7, 3, 10), **options: object) -> Stream:
    """Make a task of each size; x holds the row's key."""
    tasks, first = [], 0
    for number, size in enumerate(sizes):
        y = torch.zeros(size, dtype=torch.int64)
        x = torch.arange(first, first + size).float()[:, None]
        rows = Rows.of(x, y, task=number, first_key=first)
        test = Rows.of(x[:1], y[:1], task=number, first_key=1000 + number)
        tasks.append(Task(number, (0,), f"task {number}", rows, test))
        first += size
    return Stream(tasks, **options)  # type: ignore[arg-type]


def delivered(stream: Stream) -> list[tuple[int, list[int]]]:
    """Run the loop: the position of each task, and the keys of each of its batches."""
    return [(task.id, batch.key.tolist()) for task in stream for batch in task]
