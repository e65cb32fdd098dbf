"""The arguments of training on trees. Needs the extra ``lm``."""

from dataclasses import dataclass, field

try:
    from transformers import TrainingArguments
except ImportError as error:
    raise ImportError("the trainer needs the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["FlowTrainingArguments"]


@dataclass
class FlowTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with what training on trees adds.

    Attributes:
        head_learning_rate: learning rate of the policy and value heads; the adapter's where not given.
        tokens_per_pass: how many tokens the language model reads at once. A batch of more takes several passes, which
            bounds the memory and leaves the gradient as it is; a larger tree has a pass of its own.
    """

    head_learning_rate: float | None = field(default=None)
    tokens_per_pass: int = field(default=4096)
