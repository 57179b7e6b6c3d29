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
        least: Smallest value that a word can have.
    """

    recipe: str
    words: Mapping[str, str | tuple[str, ...]]
    least: Mapping[str, float] = field(default_factory=dict)

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
            least = self.least.get(word)
            if least is not None and isinstance(value, int | float) and value < least:
                raise ConfigError(f"{word} must be at least {least:g}; got {value}")
            if word == "max_steps" and isinstance(value, int) and (value == 0 or value < -1):
                raise ConfigError(f"max_steps must be at least 1, or -1 for no limit; got {value}")
            names = self.words.get(word, ())
            if value is not None:
                found.update(dict.fromkeys((names,) if isinstance(names, str) else names, value))
        return found


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
        judge: What ``jitflow evaluate`` means here, ``"module:function"``, whose signature makes the options; empty for
            the general evaluation, which compares drawn images with real ones.
        scorer: What ``jitflow sweep`` compares settings by, ``"module:class"`` as
            :class:`jitflow.evaluation.scorer.FrechetScorer`, which stands for an empty one.
        describe: Module with ``describe_model(settings, extra) -> facts`` and ``describe_file(path, content) ->
            Description | None``, for ``jitflow info``; empty where there is nothing of its own to be said.
        pictures: Pictures of a run for its report, each with a caption, by pattern in the run's folder.
        texts: Text files of a run for its report; the first that is there is shown.
        exports: Formats that ``jitflow export`` can write.
        commands: Commands of its own by name, ``jitflow <application> <command>``, each ``"module:function"``.
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
    demo: str = ""
