"""Counted environments answer as the ones they count in, and miss no step."""

from collections import Counter

import pytest
from test_mcts import State, Toy
from worlds import Chancy, Masked, same

from gflowdial.search import ChanceEnvironment, SearchConfig, count_steps, search


@pytest.mark.parametrize("kind", [Toy, Masked, Chancy])
def test_every_step_of_a_search_is_counted_for_its_root(kind: type[Toy]) -> None:
    config = SearchConfig(simulations=20, max_depth=3, rollout_length=2)
    roots: list[State] = [(name,) for name in range(4)]
    plain, world = kind(), kind()
    counted, steps = count_steps(world, lambda state: state[0])
    assert isinstance(counted, ChanceEnvironment) == isinstance(world, ChanceEnvironment)
    assert not steps
    same(search(counted, roots, [1] * 4, config), search(plain, roots, [1] * 4, config))
    assert steps == Counter(state[0] for state, _ in world.stepped)
    assert all(steps[name] > 0 for name in range(4))
