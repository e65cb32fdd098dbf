"""The command line: ``gflowdial COMMAND --task module:object``."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gflowdial.dialogue.chat import chat
from gflowdial.dialogue.config import ConfigError, RunConfig, load_config
from gflowdial.dialogue.corpus import CorpusError
from gflowdial.dialogue.evaluation import evaluate_all
from gflowdial.dialogue.language_models import device_of
from gflowdial.dialogue.learning import method_of
from gflowdial.dialogue.local.smollm2 import MissingModelError
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.progress import stage
from gflowdial.dialogue.runs import Run, RunError
from gflowdial.dialogue.scenes import SceneError
from gflowdial.dialogue.searching import SeedJob, read_run_trees, search_all
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.speakers import speaker_of
from gflowdial.dialogue.studies import STUDIES
from gflowdial.dialogue.studies.report import write_study
from gflowdial.dialogue.studies.running import begin_study, run_study
from gflowdial.dialogue.task import TaskError
from gflowdial.dialogue.training import base_job, train_all
from gflowdial.dialogue.values import Scene
from gflowdial.dialogue.wishes import Wish
from gflowdial.search import TreeFileError

_INPUT_ERRORS = (ConfigError, CorpusError, MissingModelError, RunError, SceneError, TaskError, TreeFileError)


def main(arguments: Sequence[str] | None = None, *, task: str | None = None, prog: str = "gflowdial") -> int:
    """Run one command; 0 when it is done, 2 when its input cannot be used.

    Args:
        arguments: of the command line.
        task: the task as ``module:object``, where ``--task`` does not say it.
        prog: how the help calls the program.
    """
    options = _parser(task, prog).parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except _INPUT_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and --resume goes on from there", file=sys.stderr)
        return 130
    return 0


def _search(options: argparse.Namespace) -> None:
    _do_search(*_begin(options))


def _train(options: argparse.Namespace) -> None:
    if not options.config and (options.task or options.set or options.resume or options.strict or options.trees):
        raise ConfigError(
            "--task, --set, --resume, --strict and --trees go with --config; without it train goes on in --output"
        )
    run, _ = _begin(options) if options.config else _continue(options)
    if options.trees:
        run.copy_trees(Run.open(options.trees))
    _do_train(run)


def _evaluate(options: argparse.Namespace) -> None:
    if not options.name or Path(options.name).name != options.name:
        raise ConfigError(f"--name: {options.name!r} is no name of a file: give one without folders")
    run, setting = _continue(options)
    _do_evaluate(run, setting, options.name)


def _run(options: argparse.Namespace) -> None:
    run, setting = _begin(options)
    if run.config.experiment == "conversation":
        _do_search(run, setting, base_job(run))
    _do_train(run)
    _do_evaluate(run, Setting.of(run), "results")


def _study(options: argparse.Namespace) -> None:
    study, (config, setting) = STUDIES[options.name], _configured(options)
    if config.experiment == "labels":
        raise ConfigError("experiment: a study compares policies in conversations: set it to conversation")
    begin_study(options.output, options.name, config, resume=options.resume)
    found = run_study(study, setting.config, options.output)
    print(write_study(options.name, study, config, found, options.output))
    print(f"Written to {options.output / 'results.json'}")


def _chat(options: argparse.Namespace) -> None:
    run, setting = _continue(options)
    seed = run.config.seeds[0] if options.seed is None else options.seed
    method = options.method or run.config.training.methods[-1]
    # First who speaks: a policy on the same language model then shares its weights.
    speaker = speaker_of(setting)
    chat(
        setting.task,
        at_wish(setting.learned(run, seed, method), options),
        speaker,
        lambda text: _chat_scene(setting, options.scene, text),
        ranks_by_value=method_of(setting, method).ranks_by_value,
        top_k=options.top_k,
        locale=options.locale,
    )


def at_wish(policy: LearnedPolicy, options: argparse.Namespace) -> LearnedPolicy:
    """The policy at the temperature and the weights that a command line names.

    Raises:
        ConfigError: it was not trained for them.
    """
    if options.temperature is None and options.weights is None:
        return policy
    if policy.wishes is None or policy.wish is None:
        raise ConfigError(
            "--temperature, --weights: the policy was trained for one target alone; train it with the section `wishes`"
        )
    try:
        weights = None if options.weights is None else policy.wishes.read_weights(options.weights)
        temperature = policy.wish.temperature if options.temperature is None else options.temperature
        return policy.at(Wish(temperature, weights))
    except ValueError as error:
        raise ConfigError(f"--temperature, --weights: {error}") from None


def _chat_scene(setting: Setting, name: str | None, text: str) -> Scene:
    """The scene of a chat that begins with ``text``."""
    if name is None and setting.task.chat_scene is not None:
        return setting.task.chat_scene(text)
    parts = setting.scenes
    scenes = {scene.id: scene for part in parts for scene in part}
    if name is not None and name not in scenes:
        raise ConfigError(f"--scene: there is no scene {name!r}; there are {', '.join(scenes)}")
    return replace(scenes[name] if name else parts.held_out[0], opening=text)


def _do_search(run: Run, setting: Setting, beside: SeedJob | None = None) -> None:
    with stage("search") as report:
        search_all(run, setting, report, beside)


def _do_train(run: Run) -> None:
    with stage("train") as report:
        train_all(run, report)


def _do_evaluate(run: Run, setting: Setting, name: str) -> None:
    with stage("evaluate") as report:
        table, path = evaluate_all(run, setting, report, name)
    print(table)
    print(f"Written to {path}")


def _begin(options: argparse.Namespace) -> tuple[Run, Setting]:
    config, setting = _configured(options)
    return Run.begin(options.output, config, resume=options.resume), replace(setting, folder=options.output)


def _configured(options: argparse.Namespace) -> tuple[RunConfig, Setting]:
    """Everything that can be wrong with the input is looked at before the folder is made."""
    if options.config is None:
        raise ConfigError(f"{options.command} begins a run: give --config")
    config = load_config(options.config, options.set)
    config = config.model_copy(update={"task": options.task or config.task or options.own_task})
    if options.command == "search" and config.experiment == "labels":
        raise ConfigError(
            "experiment: this run learns from recorded dialogues and has nothing to search; go on with train"
        )
    # An inventory by default and the same by name are one setting.
    config = config.model_copy(update={"inventory": Setting(config).inventory.name})
    setting = Setting(config, strict=options.strict)
    _check(setting)
    if trees := getattr(options, "trees", None):
        Run.open(trees).check_searched_with(config)
        for seed in config.seeds:
            read_run_trees(Run.open(trees), setting, seed)
    return config, setting


def _continue(options: argparse.Namespace) -> tuple[Run, Setting]:
    run = Run.open(options.output)
    changes = getattr(options, "set", []) if options.command == "evaluate" else []
    for change in changes:
        if change.split(".")[0] not in ("evaluation", "compute"):
            raise ConfigError(f"override {change!r}: an evaluation of a run changes evaluation.… and compute.… alone")
    return run, replace(Setting.of(run), config=load_config(run.config_file, changes))


def _check(setting: Setting) -> None:
    for corpus in filter(None, (setting.corpus, setting.test_corpus)):
        for problem in corpus.problems:
            print(f"skipped: {problem}", file=sys.stderr)
        print(
            f"{len(corpus.dialogues)} dialogues, {corpus.utterances} utterances; {len(corpus.problems)} problems "
            "(an unknown label is taken off its utterance, a malformed dialogue is left out)",
            file=sys.stderr,
        )
    config = setting.config
    device_of(config.compute)
    _ = setting.wishes
    _ = setting.dialogues if config.experiment == "labels" else setting.scenes
    if config.model.kind == "pretrained" or setting.task.tokenizer is not None:
        _ = setting.encoder.names
        if config.experiment == "labels":
            _ = setting.decisions
    # A model that is trained from scratch learns its language from the roles.
    if config.experiment == "conversation" or config.model.kind == "tiny":
        _ = setting.environment
    if config.experiment == "conversation":
        setting.check_size()


def _parser(task: str | None, prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Learn dialogue policies as GFlowNets.")
    parser.set_defaults(own_task=task)
    commands = parser.add_subparsers(dest="command", required=True)
    begins = argparse.ArgumentParser(add_help=False)
    begins.add_argument("--config", type=Path, help="the run's YAML file; train may go on without")
    begins.add_argument("--task", metavar="MODULE:OBJECT", help="the dialogue task, if the config does not name it")
    begins.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, as section.key=value"
    )
    begins.add_argument("--resume", action="store_true", help="go on in a folder that holds this run already")
    begins.add_argument("--strict", action="store_true", help="stop at the first fault in the data")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", type=Path, required=True, help="the run's folder")
    for name, parents, text in (
        ("search", [begins, output], "search trees from the training scenes"),
        ("train", [begins, output], "train the policies, on trees or on recorded dialogues"),
        ("evaluate", [output], "evaluate the policies on held-out scenes"),
        ("run", [begins, output], "search, train and evaluate"),
        ("study", [begins, output], "answer a question with many runs, cell by cell"),
        ("chat", [output], "talk with a trained policy in the terminal"),
    ):
        command = commands.add_parser(name, parents=parents, help=text, description=text)
        if name == "train":
            command.add_argument("--trees", type=Path, metavar="RUN", help="take the search trees of this run")
        if name == "study":
            questions = "; ".join(f"{key}: {study.question}" for key, study in STUDIES.items())
            command.add_argument("name", choices=list(STUDIES), metavar="NAME", help=questions)
        if name == "evaluate":
            command.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="override of evaluation.… or compute.…"
            )
            command.add_argument("--name", default="results", help="of the results, which are kept beside others")
        if name == "chat":
            command.add_argument("--method", help="which policy; the last of the run's methods by default")
            command.add_argument("--seed", type=int, help="which seed's policy; the first by default")
            command.add_argument("--top-k", type=_count, default=3, metavar="K", help="how many moves to choose from")
            command.add_argument("--temperature", type=float, metavar="T", help="of the target, for a policy of wishes")
            command.add_argument(
                "--weights", metavar="NAME=W,...", help="of the criteria, for a policy of wishes; 0 where not named"
            )
            command.add_argument("--scene", help="where the conversation takes place, by the scene's id")
            command.add_argument("--locale", default="international", help="whose resources the guard names")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"give a number from 1, not {text!r}")
    return int(text)


_COMMANDS = {"search": _search, "train": _train, "evaluate": _evaluate, "run": _run, "study": _study, "chat": _chat}
