"""What is read off the accuracy matrix.

R[i][j] is the accuracy on task j after learning task i, from 0 to 1; T tasks give T rows of T.
A model that learned all tasks at once (the joint bound) has one row of T. What needs a history
(forgetting, transfer, learning accuracy) is None there and for a single task, not a made-up zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from numbers import Real

Matrix = Sequence[Sequence[float]]


def check_matrix(matrix: Matrix) -> int:
    """Return the number of tasks of a well-formed matrix; raise ValueError for any other.

    >>> check_matrix([[0.9, 0.1], [0.2, 0.8]])
    2
    >>> check_matrix([[0.9, 0.1], [0.2]])
    Traceback (most recent call last):
        ...
    ValueError: the accuracy matrix is ragged: row 0 has 2 values, row 1 has 1
    """
    if len(matrix) == 0 or len(matrix[0]) == 0:
        raise ValueError("the accuracy matrix is empty; it needs a row for each task learned")
    tasks = len(matrix[0])
    for i, row in enumerate(matrix):
        if len(row) != tasks:
            raise ValueError(
                f"the accuracy matrix is ragged: row 0 has {tasks} values, row {i} has {len(row)}"
            )
        check_accuracies(row, f"accuracy[{i}]")
    if len(matrix) not in (1, tasks):
        raise ValueError(
            f"the accuracy matrix has {len(matrix)} rows for {tasks} tasks; it needs {tasks} "
            "(one after each task), or 1 if all tasks were learned at once"
        )
    return tasks


def check_accuracies(values: Sequence[object], name: str) -> None:
    """Raise ValueError, naming the place, unless every value is a number from 0 to 1.

    >>> check_accuracies([0.5, 97.0], "initial")
    Traceback (most recent call last):
        ...
    ValueError: initial[1] is 97.0; accuracies go from 0 to 1
    """
    for j, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"{name}[{j}] is {value!r}; accuracies are numbers from 0 to 1")
        if not 0.0 <= float(value) <= 1.0:  # NaN fails both comparisons
            raise ValueError(f"{name}[{j}] is {value}; accuracies go from 0 to 1")


def average_accuracy(matrix: Matrix) -> float:
    """Mean accuracy over all tasks at the end.

    ACC = 1/T sum_j R[T-1][j]
    Lopez-Paz & Ranzato 2017, arXiv:1706.08840.

    >>> average_accuracy([[1.0, 0.0], [0.5, 1.0]])
    0.75
    """
    tasks = check_matrix(matrix)
    return fsum(matrix[-1]) / tasks


def forgetting(matrix: Matrix) -> float | None:
    """How far the old tasks have fallen from the best they ever were.

    F = 1/(T-1) sum_{j<T-1} (max_{i<T-1} R[i][j] - R[T-1][j])
    Chaudhry, Dokania, Ajanthan & Torr 2018, arXiv:1801.10112.

    From -1 to 1, and negative where old tasks end better than they ever were. Never below minus
    the backward transfer, and equal to it where each task was at its best when just learned.

    >>> forgetting([[1.0, 0.0], [0.25, 1.0]])
    0.75
    """
    tasks = check_matrix(matrix)
    if len(matrix) < 2:
        return None
    drops = [max(row[j] for row in matrix[:-1]) - matrix[-1][j] for j in range(tasks - 1)]
    return fsum(drops) / (tasks - 1)


def backward_transfer(matrix: Matrix) -> float | None:
    """What learning later tasks did to earlier ones: negative where it harmed them.

    BWT = 1/(T-1) sum_{j<T-1} (R[T-1][j] - R[j][j])
    Lopez-Paz & Ranzato 2017, arXiv:1706.08840.

    >>> backward_transfer([[1.0, 0.0], [0.25, 1.0]])
    -0.75
    """
    tasks = check_matrix(matrix)
    if len(matrix) < 2:
        return None
    return fsum(matrix[-1][j] - matrix[j][j] for j in range(tasks - 1)) / (tasks - 1)


def forward_transfer(matrix: Matrix, initial: Sequence[float]) -> float | None:
    """What earlier tasks gave a task before it was learned, over the untrained model.

    FWT = 1/(T-1) sum_{j>0} (R[j-1][j] - b[j]), b[j] the untrained model's accuracy on task j
    Lopez-Paz & Ranzato 2017, arXiv:1706.08840.

    >>> forward_transfer([[1.0, 0.75], [0.25, 1.0]], initial=[0.5, 0.5])
    0.25
    """
    tasks = check_matrix(matrix)
    if len(initial) != tasks:
        raise ValueError(
            f"initial has {len(initial)} accuracies for {tasks} tasks; give the untrained "
            "model's accuracy on each"
        )
    check_accuracies(initial, "initial")
    if len(matrix) < 2:
        return None
    return fsum(matrix[j - 1][j] - initial[j] for j in range(1, tasks)) / (tasks - 1)


def plasticity(matrix: Matrix) -> float | None:
    """Learning accuracy: how well each task is known when it has just been learned.

    LA = 1/T sum_j R[j][j]
    Riemer et al. 2019, arXiv:1810.11910.

    >>> plasticity([[1.0, 0.0], [0.25, 0.5]])
    0.75
    """
    tasks = check_matrix(matrix)
    if len(matrix) != tasks:
        return None
    return fsum(matrix[j][j] for j in range(tasks)) / tasks


def anytime_accuracy(matrix: Matrix) -> list[float] | None:
    """The mean accuracy over the tasks seen so far, after each task.

    A[i] = 1/(i+1) sum_{j<=i} R[i][j]

    >>> anytime_accuracy([[1.0, 0.0], [0.25, 0.75]])
    [1.0, 0.5]
    """
    tasks = check_matrix(matrix)
    if len(matrix) != tasks:
        return None
    return [fsum(row[: i + 1]) / (i + 1) for i, row in enumerate(matrix)]


def average_anytime_accuracy(matrix: Matrix) -> float | None:
    """The mean of `anytime_accuracy`: how good the model was along the way.

    AAA = 1/T sum_i A[i]
    Caccia et al. 2022, arXiv:2104.05025; "average incremental accuracy" in
    Rebuffi et al. 2017, arXiv:1611.07725.

    >>> average_anytime_accuracy([[1.0, 0.0], [0.25, 0.75]])
    0.75
    """
    along = anytime_accuracy(matrix)
    return None if along is None else fsum(along) / len(along)
