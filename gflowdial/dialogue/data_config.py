"""The settings of a run's data, and what all sections of the settings have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Settings whose every key is known and every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which conversations, and how they are split.

    Attributes:
        source: ``"bundled"`` for the scenes that come with the task, ``"generated"`` for scenes of its generator, else
            the path of a file of recorded dialogues.
        test: the path of a second file of recorded dialogues, which is held out; the first is for training then.
        scenes: how many scenes are generated.
        licence: under what licence the data are; it stands in the model card of every policy.
        held_out: the share of scenes, or groups of generated scenes, kept for evaluation.
        validation: the share kept for choosing settings and the length of training; it is taken off the training part.
        split_seed: seed of the split, the same for all seeds of a run.
        limit: at most so many scenes in all; None takes them all.
        max_turns: recorded dialogues are cut after so many of the agent's turns; None keeps them whole.
    """

    source: str = "bundled"
    test: str | None = None
    scenes: Annotated[int, Field(ge=2)] | None = None
    licence: str | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    split_seed: int = 0
    limit: Annotated[int, Field(ge=2)] | None = None
    max_turns: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.held_out + self.validation >= 1:
            raise ValueError(
                f"held_out and validation are {self.held_out:g} and {self.validation:g}: leave a share for training"
            )
        if (self.source == "generated") != (self.scenes is not None):
            raise ValueError(
                "scenes is the number of generated scenes: give it with source 'generated', and only there"
            )
        if self.test is not None and self.source in ("bundled", "generated"):
            raise ValueError(f"test is {self.test!r}, but the scenes are {self.source}: give a file as source too")
        return self
