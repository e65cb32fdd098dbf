"""Names of actions as token sequences: where they part, and their probabilities from what is read there."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import log_softmax

from gflowdial.shapes import Float, Tensor

__all__ = ["NameTrie"]


@dataclass(frozen=True)
class NameTrie:
    """The branchings of names in their trie.

    Names whose first tokens differ have one branching, before their first token, with one option per name in order.

    Attributes:
        shared: the tokens before each branching; ``()``, the first, is before every name.
        options: the tokens that may follow at each branching.
        ways: for each name the options that it takes, numbered through all branchings; where only one token can
            follow there is nothing to choose.
    """

    shared: tuple[tuple[int, ...], ...]
    options: tuple[tuple[int, ...], ...]
    ways: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(names: Sequence[Sequence[int]]) -> "NameTrie":
        """The trie of ``names``, each the tokens of an action's name.

        Raises:
            ValueError: a name has no tokens, or it is the beginning of another or equal to it.
        """
        paths = [tuple(name) for name in names]
        following: dict[tuple[int, ...], list[int]] = {(): []}
        for path in paths:
            for at, token in enumerate(path):
                found = following.setdefault(path[:at], [])
                if token not in found:
                    found.append(token)
        for action, path in enumerate(paths):
            if path in following or path in paths[:action]:
                raise ValueError(
                    f"the name of action {action}, tokens {list(path)}, is empty or begins another name: end every "
                    "name with a marker that none contains, such as a line break"
                )
        options = {prefix: tokens for prefix, tokens in following.items() if len(tokens) > 1 or not prefix}
        steps = [(*prefix, token) for prefix, tokens in options.items() for token in tokens]
        number = {step: index for index, step in enumerate(steps)}
        return NameTrie(
            shared=tuple(options),
            options=tuple(map(tuple, options.values())),
            ways=tuple(
                tuple(number[path[:end]] for end in range(1, len(path) + 1) if path[:end] in number) for path in paths
            ),
        )

    def log_probs(self, logits: Sequence[Float[Tensor, "*rows _"]]) -> Float[Tensor, "*rows names"]:
        """log P(name) = Σ over the name's branchings of its option's log-softmax there.

        Args:
            logits: at each branching, those of its options.
        """
        log_options = [log_softmax(each, dim=-1) for each in logits]
        if len(log_options) == 1:
            return log_options[0]
        # A name with fewer branchings than others takes a last option of log-probability 0 instead.
        log_options.append(torch.zeros_like(log_options[0][..., :1]))
        longest, none = max(map(len, self.ways)), sum(map(len, self.options))
        ways = [[*way, *[none] * (longest - len(way))] for way in self.ways]
        return torch.cat(log_options, dim=-1)[..., torch.tensor(ways, device=logits[0].device)].sum(dim=-1)
