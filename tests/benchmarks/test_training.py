"""All ways to read a search tree give the same readings and the same gradient."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks import training_schemes as schemes
from benchmarks.training_schemes import OneByOne, Packed, Tree, gradient
from gflowdial.estimators.language_model import LanguageModelPolicy

Build = Callable[[int], LlamaForCausalLM]


def small_tree(nodes: int) -> Tree:
    """Words that the small model has."""
    tree = Tree.random(nodes)
    return replace(tree, tokens=tuple(tuple(word % 50 for word in turn[:3]) for turn in tree.tokens))


@pytest.fixture
def policy(tiny_llama: Build, monkeypatch: pytest.MonkeyPatch) -> Callable[[], LanguageModelPolicy]:
    monkeypatch.setattr(schemes, "BRANCH", (5, 9))
    monkeypatch.setattr(schemes, "ACTIONS", tuple(range(10, 18)))
    return lambda: schemes._policy(tiny_llama(0), "sdpa")


@pytest.mark.parametrize(
    "scheme",
    [
        lambda policy, tree: Packed(policy, [tree], remembers=True),
        OneByOne.unique,
        OneByOne.released,
        lambda policy, tree: OneByOne.released(policy, tree, length=64),
    ],
)
def test_schemes_agree(policy: Callable[[], LanguageModelPolicy], scheme: Callable[..., Packed | OneByOne]) -> None:
    tree = small_tree(12)
    ours, other = policy(), policy()
    expected, found = Packed(ours, [tree]).step(), scheme(other, tree).step()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient(other), gradient(ours), atol=1e-4, rtol=1e-3)
    assert found.std(0).min() > 0


def test_the_tree_of_the_comparison() -> None:
    tree = Tree.random(40)
    assert len(tree.leaves) == 24
    assert tree.prefix(39)[:100] == list(tree.tokens[0])
    assert sum(map(len, tree.tokens)) == 1242
