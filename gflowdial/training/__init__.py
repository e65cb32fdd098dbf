"""Training: a loop for environments, and a trainer of language models on search trees (extra ``lm``)."""

from typing import TYPE_CHECKING

from gflowdial.faces import lazy_face

if TYPE_CHECKING:
    from gflowdial.training.loop import TrainingStep, train
    from gflowdial.training.methods import Method, method
    from gflowdial.training.readings import read_trees
    from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments
    from gflowdial.training.trees import TreeBatch, TreeCollator

__all__ = ["FlowTrainer", "FlowTrainingArguments", "Method", "TrainingStep", "TreeBatch", "TreeCollator", "method"]
__all__ += ["read_trees", "train"]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "loop": ["TrainingStep", "train"],
        "methods": ["Method", "method"],
        "readings": ["read_trees"],
        "trainer": ["FlowTrainer", "FlowTrainingArguments"],
        "trees": ["TreeBatch", "TreeCollator"],
    },
    moved={
        "environment_objectives": "gflowdial.losses, whose names and functions gflowdial.training.train takes",
        "objectives": "gflowdial.training.methods",
    },
)
