"""How well a policy predicts the strategies of people, and whether it has favourites. Needs the extra ``metrics``."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
except ImportError as error:
    raise ImportError("the strategy metrics need the extra `metrics`: pip install 'gflowdial[metrics]'") from error

_MOST_ITERATIONS = 10_000

__all__ = ["accuracy", "macro_f1", "measures_of_confusions", "preference_bias", "strategy_preferences"]


def accuracy(true: ArrayLike, predicted: ArrayLike) -> float:
    """The share of states whose predicted action is the true one; a ValueError where the two are not equally many."""
    return float(accuracy_score(true, predicted))


def macro_f1(true: ArrayLike, predicted: ArrayLike, num_actions: int) -> float:
    """Mean over all ``num_actions`` actions of the F1 score; an action neither true nor predicted counts 0."""
    _check_actions(true, predicted, num_actions)
    return float(f1_score(true, predicted, labels=list(range(num_actions)), average="macro", zero_division=0.0))


def _check_actions(true: ArrayLike, predicted: ArrayLike, num_actions: int) -> None:
    # scikit-learn leaves out what is no label.
    for name, actions in (("true", np.asarray(true)), ("predicted", np.asarray(predicted))):
        wrong = np.flatnonzero(~((actions >= 0) & (actions < num_actions)))
        if len(wrong):
            raise ValueError(
                f"{name}[{wrong[0]}] is {actions[wrong[0]]}, out of range: actions are 0 to {num_actions - 1}."
            )


def strategy_preferences(true: ArrayLike, predicted: ArrayLike, num_actions: int) -> NDArray[np.float64]:
    """Bradley–Terry preference of a policy for each action, ``[actions]``, with mean 1.

    With ``w[i, j]`` one more than the number of states where j is true and i predicted (the one makes the fixed point
    exist on any test set), the preferences are the fixed point of
    ``p_i = Σ_j (w_ij p_j / (p_i + p_j)) / Σ_j (w_ji / (p_i + p_j))`` over j ≠ i, scaled to mean 1.

    Args:
        true: the true actions, ``[states]``.
        predicted: the predicted actions, ``[states]``.
        num_actions: how many actions there are.

    Raises:
        ValueError: if an action is not from 0 to ``num_actions - 1``.

    Source: Kang et al., arXiv 2402.13211.
    """
    _check_actions(true, predicted, num_actions)
    return _preferences(confusion_matrix(true, predicted, labels=list(range(num_actions))))


def _preferences(confusions: NDArray[Any]) -> NDArray[np.float64]:
    """`strategy_preferences` of confusion matrices with a row per true action, ``[..., actions]``."""
    num_actions = confusions.shape[-1]
    wins = np.swapaxes(confusions, -1, -2) + 1.0
    wins[..., range(num_actions), range(num_actions)] = 0.0
    preference = np.ones(confusions.shape[:-1])
    for _ in range(_MOST_ITERATIONS):
        before = preference.copy()
        # One after another: all at once may swing between two points for ever.
        for i in range(num_actions):
            both = preference[..., i, None] + preference
            won, lost = wins[..., i, :] * preference / both, wins[..., :, i] / both
            preference[..., i] = won.sum(-1) / lost.sum(-1)
        preference /= preference.mean(-1, keepdims=True)
        if np.allclose(preference, before, rtol=1e-12, atol=0.0):
            break
    return preference


def preference_bias(true: ArrayLike, predicted: ArrayLike, num_actions: int) -> float:
    """Standard deviation of `strategy_preferences`; 0 is a policy without favourites."""
    return float(np.std(strategy_preferences(true, predicted, num_actions)))


def measures_of_confusions(confusions: NDArray[Any]) -> NDArray[np.float64]:
    """`accuracy`, `macro_f1` and `preference_bias` of many sets of states at once, as a bootstrap has them.

    Args:
        confusions: ``[..., actions, actions]`` in how many states i is true and j predicted.

    Returns:
        ``[..., 3]``; NaN accuracy of a set without states.
    """
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    taken = confusions.sum(-1) + confusions.sum(-2)
    shares = right.sum(-1) / confusions.sum((-2, -1))
    return np.stack(
        [shares, (2 * right / np.maximum(taken, 1)).mean(-1), _preferences(confusions).std(-1)],
        axis=-1,
    )
