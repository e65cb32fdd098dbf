"""Training: a loop for environments, and a trainer of language models on search trees (extra ``lm``)."""

from typing import TYPE_CHECKING

from gflowdial.faces import lazy_face

if TYPE_CHECKING:
    from gflowdial.training.loop import TrainingStep, train
    from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments
    from gflowdial.training.trees import TreeBatch, TreeCollator

__all__ = ["FlowTrainer", "FlowTrainingArguments", "TrainingStep", "TreeBatch", "TreeCollator", "train"]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "loop": ["TrainingStep", "train"],
        "trainer": ["FlowTrainer", "FlowTrainingArguments"],
        "trees": ["TreeBatch", "TreeCollator"],
    },
)
