"""What an application is: the one object that everything outside its folder knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jitflow.errors import ConfigError
from jitflow.training.module import FlowModule


@dataclass(frozen=True)
class Documented:
    """The words of an application's documents for settings of a training.

    Attributes:
        recipe: Recipe with the documented defaults, such as ``"text/jit_b4"``.
        words: Dotted settings that each word sets, such as ``{"lr": "model.learning_rate"}``.
        options: Words that are options of ``jitflow <application> train``, with a line of help for those whose setting
            does not say enough; every other setting is a dotted option.
        least: Smallest value that a word can have.
        derive: Derives further settings, ``"module:function"``: ``(given, resumed) -> settings by dotted name``, where
            ``given`` are the values by word and by dotted name, and ``resumed`` is whether a run goes on; empty for
            nothing.
        default_dir: Folder of the run where nothing names one.
    """

    recipe: str
    words: Mapping[str, str | tuple[str, ...]]
    options: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    derive: str = ""
    default_dir: str = "./output"

    def settings(self, given: Mapping[str, object]) -> dict[str, object]:
        """Translate documented words; those that are None, or that are no settings, are left out.

        Args:
            given: Values by documented word.

        Returns:
            Values by dotted name.

        Raises:
            ConfigError: If a value is too small; names the word.
        """
        found: dict[str, object] = {}
        for word, value in given.items():
            self.check(word, value)
            if value is not None:
                found.update(dict.fromkeys(self.targets(word), value))
        return found

    def targets(self, word: str) -> tuple[str, ...]:
        """Return the dotted settings that a word sets; none for one that only :attr:`derive` knows."""
        names = self.words.get(word, ())
        return (names,) if isinstance(names, str) else names

    def check(self, word: str, value: object) -> None:
        """Raise ConfigError if a word's value is a number that is too small."""
        least = self.least.get(word)
        if least is not None and isinstance(value, int | float) and value < least:
            raise ConfigError(f"{word} must be at least {least:g}; got {value}")
        if word == "max_steps" and isinstance(value, int) and (value == 0 or value < -1):
            raise ConfigError(f"max_steps must be at least 1, or -1 for no limit; got {value}")


@dataclass(frozen=True)
class Description:
    """What a file or folder is.

    Attributes:
        kind: What it is, in a few words.
        facts: What it holds, by name.
        commands: Commands that use it, or make what is missing.
    """

    kind: str
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Subject:
    """What people name when they ask for samples, for pages and forms.

    Attributes:
        word: The word of :attr:`Application.condition` that it is given as.
        title: Name of the field.
        example: What to fill in.
        count_title: Name of the field for how many of each.
        first: ``"module:function"`` of a module, giving the text to begin with.
    """

    word: str = "labels"
    title: str = "Classes"
    example: str = "Such as 0,3,7-9, or all"
    count_title: str = "Images of each"
    first: str = "jitflow.training.asked:first_classes"


@dataclass(frozen=True)
class Application:
    """An application of the library: one folder with one object of this class.

    Attributes:
        name: What checkpoints, recipes and ``run.json`` store; never a class path.
        module: Class of its modules.
        condition: How its models are asked for samples, ``"module:function"``: ``(module, *, labels=None, num=None,
            **asked) -> Asked``, which raises ConfigError for words that it does not know. By default by classes.
        present: What becomes of the states that sampling ends in, ``"module:function"``: ``(module, x, asked, seeds) ->
            Samples``, called for each batch. By default the codec's pixels.
        subject: What people name when they ask for samples.
        headline: Names of scores that may stand for a run, by preference.
        documented: The words of its documents for a training; None where no document says any.
        judge: What ``jitflow evaluate`` means here, ``"module:class"`` as :class:`jitflow.evaluation.request.Judge`,
            whose fields are further options; empty for the general evaluation, which compares drawn images with real
            ones.
        scorer: What ``jitflow sweep`` compares settings by, ``"module:class"`` as
            :class:`jitflow.evaluation.scorer.FrechetScorer`, which stands for an empty one.
        describe: Module with ``describe_model(settings, extra) -> facts`` and ``describe_file(path, content) ->
            Description | None``, for ``jitflow info``; empty where there is nothing of its own to be said.
        pictures: Pictures of a run for its report, each with a caption, by pattern in the run's folder.
        texts: Text files of a run for its report; the first that is there is shown.
        exports: Formats that ``jitflow export`` can write.
        commands: Commands of its own by name, ``jitflow <application> <command>``, each ``"module:function"``, besides
            ``train``, ``sample`` and ``evaluate``, which are the general ones.
        data_commands: Commands of ``jitflow data`` by name, each ``"module:function"``.
        look_at_data: What ``jitflow doctor`` says of a folder of data, ``"module:function"``: ``(folder) -> (state,
            text, way out)``, with the state ``ok``, ``note`` or ``error``; empty for nothing.
        demo: What ``jitflow demo`` runs, ``"module:object"``, a :class:`jitflow.training.demo.Demo`; empty for none.
    """

    name: str
    module: type[FlowModule]
    condition: str = "jitflow.training.asked:ask_for_classes"
    present: str = "jitflow.training.samples:present_pixels"
    subject: Subject = Subject()
    headline: tuple[str, ...] = ()
    documented: Documented | None = None
    judge: str = ""
    scorer: str = ""
    describe: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict)
    texts: Sequence[str] = ()
    exports: Sequence[str] = ("safetensors", "torch_export", "diffusers")
    commands: Mapping[str, str] = field(default_factory=dict)
    data_commands: Mapping[str, str] = field(default_factory=dict)
    look_at_data: str = ""
    demo: str = ""
