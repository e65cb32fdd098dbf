"""Ways to read a policy at every node of a search tree, and to learn from all of them in one step.

A step reads the policy and the reference policy at every node, and takes the gradient of one sum over nodes, which is
the same in every scheme. Where a scheme reads a node more than once, each reading counts for its share.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.measure import device
from gflowdial.dialogue.local import load_language_model
from gflowdial.estimators.language_model import LanguageModelPolicy, PolicyOutput
from gflowdial.estimators.packing import Attention, pack_prefixes

BRANCH = (198, 3000)
"""Stands for the words after which a state is read."""
ACTIONS = tuple(range(1000, 1008))
PADDED_TO = 512
"""To what length the code released with AFlow pads."""
SORTED_BATCH = 10
SEED = 25

Readings = Tensor
"""``[nodes, columns]``: log P_F, log V(s, a), log V(s) and log P_ref."""


@dataclass(frozen=True)
class Tree:
    """Nodes with their parents and the tokens that each adds."""

    parent: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]

    @staticmethod
    def random(nodes: int) -> "Tree":
        """A root of 100 tokens, below it turns of about 30, deeper nodes going on more often, to a depth of 7.

        Of all seeds, `SEED` is the first that gives 40 nodes 24 leaves.
        """
        stream = np.random.default_rng(SEED)
        parent, depth = [-1], [0]
        for node in range(1, nodes):
            weight = np.array([(d + 1.0) * (d < 7) for d in depth])
            parent.append(int(stream.choice(node, p=weight / weight.sum())))
            depth.append(depth[parent[-1]] + 1)
        sizes = [100, *stream.integers(20, 41, nodes - 1).tolist()]
        return Tree(tuple(parent), tuple(tuple(stream.integers(100, 49_000, size).tolist()) for size in sizes))

    @property
    def leaves(self) -> list[int]:
        return sorted(set(range(len(self.parent))) - set(self.parent))

    def path(self, node: int) -> list[int]:
        """The nodes from the root to ``node``."""
        above = self.parent[node]
        return [*(self.path(above) if above >= 0 else []), node]

    def prefix(self, node: int) -> list[int]:
        """The tokens at whose end the policy is read."""
        return [token for each in self.path(node) for token in self.tokens[each]] + list(BRANCH)


def smollm2(attention: Attention = "sdpa") -> LanguageModelPolicy:
    """SmolLM2-135M-Instruct with an adapter of rank 32 and heads that are not 0, in float32."""
    return _policy(load_language_model("smollm2")[0], attention)


SHAPES = {
    "SmolLM2-135M": ("llama", (576, 1536, 30, 9, 3, 49_152)),
    "SmolLM2-360M": ("llama", (960, 2560, 32, 15, 5, 49_152)),
    "Qwen2.5-0.5B": ("qwen2", (896, 4864, 24, 14, 2, 151_936)),
    "Qwen2.5-7B": ("qwen2", (3584, 18944, 28, 28, 4, 152_064)),
}
"""Family, and hidden and inner width, layers, heads, key/value heads, words of known models."""


def of_shape(shape: str, attention: Attention = "sdpa", dtype: torch.dtype = torch.float32) -> LanguageModelPolicy:
    """A policy on a model of that shape with random weights."""
    family, (hidden, inner, layers, heads, groups, words) = SHAPES[shape]
    config = AutoConfig.for_model(
        family,
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=hidden < 2048,
    )
    with device():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        return _policy(model, attention)


def _policy(model: PreTrainedModel, attention: Attention) -> LanguageModelPolicy:
    torch.manual_seed(0)
    policy = LanguageModelPolicy.with_lora(model, ACTIONS, attention=attention)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name or "value_head" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return policy.to(device())


def objective(readings: Readings) -> Tensor:
    """For each node, everything that is read of it, with weights that differ, and the KL to the reference."""
    policy, reference = readings[:, : len(ACTIONS)], readings[:, -len(ACTIONS) :]
    learned = readings[:, : -len(ACTIONS)]
    weight = torch.linspace(-1, 1, learned.shape[1], device=learned.device).cos()
    return (learned * weight).sum(1) + 0.1 * (policy.exp() * (policy - reference)).sum(1)


class Packed:
    """The whole tree, or several, in one pass; the reference is read with the adapter off, or remembered."""

    def __init__(self, policy: LanguageModelPolicy, trees: Sequence[Tree], *, remembers: bool = False) -> None:
        start = np.cumsum([0, *(len(tree.parent) for tree in trees)]).tolist()
        parent = [p if p < 0 else p + first for tree, first in zip(trees, start, strict=False) for p in tree.parent]
        tokens = [segment for tree in trees for segment in tree.tokens]
        self.policy = policy
        self.packed = pack_prefixes(parent, tokens, [True] * len(parent), BRANCH).to(device())
        self.tokens = self.packed.num_tokens
        self.reference = policy.log_reference(self.packed) if remembers else None

    def step(self) -> Readings:
        """The gradient of the objective is left in the parameters."""
        reference = self.policy.log_reference(self.packed) if self.reference is None else self.reference
        readings = _columns(self.policy(self.packed), reference)
        objective(readings).sum().backward()  # type: ignore[no-untyped-call]
        return readings.detach()


class OneByOne:
    """Every prefix is a sequence of its own, padded at its end, in batches; a second whole model is the reference."""

    def __init__(self, policy: LanguageModelPolicy, tree: Tree, batches: list[list[int]], length: int | None) -> None:
        self.policy, self.tree, self.batches, self.length = policy, tree, batches, length
        # peft wraps models in a way that type checkers do not see through.
        adapted: Any = policy.language_model
        self.model = adapted.get_base_model()
        self.model.set_attn_implementation("sdpa")
        self.second = deepcopy(adapted)
        self.second.get_base_model().set_attn_implementation("sdpa")
        self.second.requires_grad_(False)
        times = np.bincount([node for batch in batches for node in batch], minlength=len(tree.parent))
        self.share = torch.from_numpy(1 / np.maximum(times, 1)).float().to(device())
        self.tokens = sum(ids.numel() for _, ids, _ in self._padded())

    @staticmethod
    def unique(policy: LanguageModelPolicy, tree: Tree, batches: int | None = None) -> "OneByOne":
        """Every prefix once, those of like length together; of the longest ``batches`` only."""
        order = sorted(range(len(tree.parent)), key=lambda node: len(tree.prefix(node)), reverse=True)
        sorted_batches = [order[i : i + SORTED_BATCH] for i in range(0, len(order), SORTED_BATCH)]
        return OneByOne(policy, tree, sorted_batches[:batches], None)

    @staticmethod
    def released(
        policy: LanguageModelPolicy, tree: Tree, length: int | None = None, paths: int | None = None
    ) -> "OneByOne":
        """Every prefix of every path, a path at a time, as in the released code; of the longest ``paths`` only."""
        longest = sorted((tree.path(leaf) for leaf in tree.leaves), key=len, reverse=True)
        return OneByOne(policy, tree, longest[:paths], length)

    def _padded(self) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        for batch in self.batches:
            prefixes = [self.tree.prefix(node) for node in batch]
            length = self.length or max(map(len, prefixes))
            ids = torch.zeros(len(batch), length, dtype=torch.int64)
            for row, prefix in zip(ids, prefixes, strict=True):
                row[: len(prefix)] = torch.tensor(prefix)
            yield batch, ids.to(device()), torch.tensor([len(prefix) for prefix in prefixes], device=device())

    def _states(self, model: Any, ids: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        hidden: Tensor = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(ids), device=ids.device), lengths - 1].float()

    def step(self) -> Readings:
        """As `Packed.step`."""
        found = torch.zeros(len(self.tree.parent), 3 * len(ACTIONS) + 1, device=device())
        policy, share = self.policy, self.share
        for nodes, ids, lengths in self._padded():
            with torch.no_grad(), self.second.disable_adapter():
                state = self._states(self.second.get_base_model(), ids, lengths)
                reference = log_softmax(linear(state, policy.reference_head), -1)
            state = self._states(self.model, ids, lengths)
            value = policy.value_head(state)
            output = PolicyOutput(log_softmax(policy.policy_head(state), -1), value[:, :-1], value[:, -1])
            readings = _columns(output, reference)
            (share[nodes] * objective(readings)).sum().backward()  # type: ignore[no-untyped-call]
            found[nodes] = readings.detach()
        return found


def _columns(output: PolicyOutput, log_reference: Tensor) -> Readings:
    return torch.cat([output.log_policy, output.log_value, output.log_state_value[:, None], log_reference], 1)


def gradient(policy: LanguageModelPolicy) -> Tensor:
    """What a step left in the parameters, as one vector; it is taken away."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    found = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
    policy.zero_grad()
    return found
