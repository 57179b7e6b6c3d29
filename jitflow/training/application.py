"""Definition of an application: the one object through which the rest of the library uses its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jitflow.errors import ConfigError
from jitflow.training.module import FlowModule


@dataclass(frozen=True)
class Documented:
    """Documented training options of an application, and the settings they translate to.

    Attributes:
        recipe: Recipe with the documented defaults, such as ``"text/jit_b4"``.
        words: Dotted settings that each documented option sets, such as ``{"lr": "model.learning_rate"}``.
        options: Options of ``jitflow <application> train``, with a line of help where the setting's own help is not
            enough; every other setting is a dotted option.
        least: Smallest value of an option.
        derive: Derives further settings, ``"module:function"``: ``(given, resumed) -> settings by dotted name``, where
            ``given`` holds the values by option and by dotted name, and ``resumed`` is whether a run is resumed; empty
            for nothing.
        default_dir: Default folder of the run.
    """

    recipe: str
    words: Mapping[str, str | tuple[str, ...]]
    options: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    derive: str = ""
    default_dir: str = "./output"

    def settings(self, given: Mapping[str, object]) -> dict[str, object]:
        """Translate documented options to settings; options that are None or set nothing are left out.

        Args:
            given: Values by documented option.

        Returns:
            Values by dotted name.

        Raises:
            ConfigError: If a value is too small; names the option.
        """
        found: dict[str, object] = {}
        for option, value in given.items():
            self.check(option, value)
            if value is not None:
                found.update(dict.fromkeys(self.targets(option), value))
        return found

    def targets(self, option: str) -> tuple[str, ...]:
        """Return the dotted settings that an option sets; none for one that only :attr:`derive` reads."""
        names = self.words.get(option, ())
        return (names,) if isinstance(names, str) else names

    def check(self, option: str, value: object) -> None:
        """Raise ConfigError if an option's value is a number that is too small."""
        least = self.least.get(option)
        if least is not None and isinstance(value, int | float) and value < least:
            raise ConfigError(f"{option} must be at least {least:g}; got {value}")
        if option == "max_steps" and isinstance(value, int) and (value == 0 or value < -1):
            raise ConfigError(f"max_steps must be at least 1, or -1 for no limit; got {value}")


@dataclass(frozen=True)
class Description:
    """Description of a file or folder for ``jitflow info``.

    Attributes:
        kind: Kind of the file, in a few words.
        facts: Facts about its content, by name.
        commands: Commands that use the file, or create what is missing.
    """

    kind: str
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Subject:
    """Form field for the condition of samples: classes, users or a prompt.

    Attributes:
        word: Argument of :attr:`Application.condition` that the field's text is passed as.
        title: Title of the field.
        example: Example of a valid entry.
        count_title: Title of the field for the number of samples of each.
        first: Function of a module that returns the initial text, ``"module:function"``.
    """

    word: str = "labels"
    title: str = "Classes"
    example: str = "Such as 0,3,7-9, names such as cat,dog, or all"
    count_title: str = "Images of each"
    first: str = "jitflow.training.asked:first_classes"


@dataclass(frozen=True)
class Application:
    """An application of the library: one folder with one object of this class.

    Attributes:
        name: Name that checkpoints, recipes and ``run.json`` store in place of a class path.
        module: Class of its modules.
        condition: Function that builds a request for samples, ``"module:function"``: ``(module, *, labels=None,
            num=None, **asked) -> Asked``, which raises ConfigError for unknown arguments. By default by classes.
        present: Function that turns final states into samples, ``"module:function"``: ``(module, x, asked, seeds) ->
            Samples``, called for each batch. By default the codec decodes pixels.
        subject: Form field for the condition of samples.
        headline: Names of scores that summarise a run, by preference.
        documented: Documented training options; None if there are none.
        judge: Evaluation by ``jitflow evaluate``, ``"module:class"`` as :class:`jitflow.evaluation.request.Judge`,
            whose fields are further options; empty for the general evaluation of images.
        scorer: Score of ``jitflow sweep``, ``"module:class"`` as
            :class:`jitflow.evaluation.scorer.FrechetScorer`, which is the default if empty.
        describe: Module with ``describe_model(settings, extra) -> facts`` and ``describe_file(path, content) ->
            Description | None``, for ``jitflow info``; empty for the general description only.
        pictures: Captions of a run's pictures for its report, by file pattern in the run's folder.
        texts: Text files of a run for its report; the first existing one is shown.
        exports: Formats that ``jitflow export`` can write.
        commands: Additional commands by name, ``jitflow <application> <command>``, each ``"module:function"``, besides
            the general ``train``, ``sample`` and ``evaluate``.
        data_commands: Commands of ``jitflow data`` by name, each ``"module:function"``.
        look_at_data: Check of a data folder for ``jitflow doctor``, ``"module:function"``: ``(folder) -> (state, text,
            advice)``, with the state ``ok``, ``note`` or ``error``; empty for no check.
        demo: Demo of ``jitflow demo``, ``"module:object"``, a :class:`jitflow.training.demo.Demo`; empty for none.
        further_demos: Further demos, ``jitflow demo <name>``, each ``"module:object"`` of the same class.
    """

    name: str
    module: type[FlowModule]
    condition: str = "jitflow.training.asked_conditions:ask_for_classes"
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
    further_demos: Mapping[str, str] = field(default_factory=dict)
