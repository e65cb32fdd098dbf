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
        following = {
            prefix: tuple(dict.fromkeys(path[len(prefix)] for path in paths if path[: len(prefix)] == prefix != path))
            for prefix in dict.fromkeys(path[:end] for path in paths for end in range(len(path) or 1))
        }
        for action, path in enumerate(paths):
            if path in following or path in paths[:action]:
                raise ValueError(
                    f"the name of action {action}, tokens {list(path)}, is empty or begins another name: end every "
                    "name with a marker that none contains, such as a line break"
                )
        options = {prefix: tokens for prefix, tokens in following.items() if len(tokens) > 1 or not prefix}
        steps = [(*prefix, token) for prefix, tokens in options.items() for token in tokens]
        number = {step: index for index, step in enumerate(steps)}
        ways = [[path[:end] for end in range(1, len(path) + 1) if path[:end] in number] for path in paths]
        return NameTrie(
            tuple(options), tuple(options.values()), tuple(tuple(number[step] for step in way) for way in ways)
        )

    def log_probs(self, logits: Sequence[Float[Tensor, "*rows _"]]) -> Float[Tensor, "*rows names"]:
        """log P(name) = Σ over the name's branchings of its option's log-softmax there.

        Args:
            logits: at each branching, those of its options.
        """
        log_options = torch.cat([log_softmax(each, dim=-1) for each in logits], dim=-1)
        if len(logits) == 1:
            return log_options
        return torch.stack([log_options[..., list(way)].sum(dim=-1) for way in self.ways], dim=-1)
