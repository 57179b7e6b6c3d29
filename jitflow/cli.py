"""The one entry point, ``jitflow <verb>``.

A verb's module is imported only when the verb is chosen, so that help answers at once. Errors a user can
mend are printed in one line, without a traceback.
"""

from __future__ import annotations

import errno
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jitflow import __version__
from jitflow.applications import list_applications, summaries
from jitflow.errors import ConfigError, JitflowError, broken_package, unknown_name
from jitflow.host import keep_freed_memory, let_threads_wait_briefly
from jitflow.io.plain_values import printable
from jitflow.io.processes import end_with_parent, exit_on_termination


@dataclass(frozen=True)
class Verb:
    """A verb of the command line: the function that runs it, and its line of help.

    Attributes:
        module: Module of its function.
        function: The function, ``main(args: list[str])``.
        summary: One line of help.
        example: An example command line.
        examples: Example of each command of the verb, by command.
    """

    module: str
    function: str
    summary: str
    example: str
    examples: Mapping[str, str] = field(default_factory=dict)

    def example_of(self, words: Sequence[str]) -> str:
        """Return an example of a command line of the verb: that of its command, if it names one.

        Args:
            words: Words after the verb.
        """
        return self.examples.get(words[0], self.example) if words else self.example


_APPLICATIONS = summaries()
_DEMO = "runs/demo/images/checkpoints/last.ckpt"
VERBS = {
    "demo": Verb(
        "jitflow.verbs.demo",
        "demo",
        "train and sample on built-in data, from nothing",
        "jitflow demo images",
        {name: f"jitflow demo {name}" for name in _APPLICATIONS},
    ),
    "train": Verb(
        "jitflow.verbs.train",
        "train",
        "train by a recipe",
        "jitflow train --config images/jit_b16_256 --data.data_path ./data/imagenet",
    ),
    "onestep": Verb(
        "jitflow.verbs.onestep",
        "onestep",
        "post-train a model of images, so that one network call makes an image",
        f"jitflow onestep {_DEMO} --extractors digits --reference digits --judge digits-rotation --updates 500",
    ),
    "sample": Verb(
        "jitflow.verbs.sample",
        "sample",
        "draw from a checkpoint: images of classes, spectrograms of users, texts",
        f"jitflow sample {_DEMO} --labels 0,3,7-9 --count 4 --guidance 2",
    ),
    "invert": Verb(
        "jitflow.verbs.invert",
        "invert",
        "find the noise of images, and make the images again from it",
        f"jitflow invert {_DEMO} ./data/digits --labels 3",
    ),
    "convert": Verb(
        "jitflow.verbs.models",
        "convert",
        "convert a checkpoint: JiT release .pth, Lightning .ckpt, .safetensors",
        "jitflow convert checkpoint-last.pth model.safetensors --ema 1",
    ),
    "evaluate": Verb(
        "jitflow.verbs.evaluate",
        "evaluate",
        "score a checkpoint against real images, with a protocol card",
        f"jitflow evaluate {_DEMO} --reference digits --extractor digits --num_images 1000",
    ),
    "compare": Verb(
        "jitflow.verbs.compare",
        "compare",
        "put checkpoints or reports side by side: scores, differences, samples of the same seeds",
        "jitflow compare outputs/evaluation outputs/other",
    ),
    "stats": Verb(
        "jitflow.verbs.evaluate",
        "stats",
        "make the reference statistics of a folder of images",
        "jitflow stats ./data/imagenet/train --img_size 256 --out fid_stats/jit_in256_stats.npz",
    ),
    "sweep": Verb(
        "jitflow.verbs.evaluate",
        "sweep",
        "find the best guidance, EMA, interval, solver and steps",
        f"jitflow sweep {_DEMO} --guidance 1:3:1 --num_images 1000 --reference digits --extractor digits",
    ),
    "data": Verb(
        "jitflow.verbs.data",
        "data",
        "image folders: prepare shards for fast training, check for bad files",
        "jitflow data prepare ./data/imagenet ./data/imagenet-256 --img_size 256",
        {"check": "jitflow data check ./data/imagenet"},
    ),
    "export": Verb(
        "jitflow.verbs.export",
        "export",
        "give a model away: safetensors with a card, a torch.export program, a diffusers folder",
        f"jitflow export {_DEMO} outputs/digits --license mit",
    ),
    "info": Verb("jitflow.verbs.inspect", "info", "say what a file or a run folder is", f"jitflow info {_DEMO}"),
    "runs": Verb("jitflow.verbs.inspect", "runs", "list runs with state, score and size", "jitflow runs"),
    "report": Verb(
        "jitflow.verbs.inspect",
        "report",
        "write report.html for a run: settings, curves, samples, scores",
        "jitflow report runs/demo/images",
    ),
    "doctor": Verb(
        "jitflow.verbs.inspect",
        "doctor",
        "check installation, device, data, weights, disk",
        "jitflow doctor",
    ),
    "studio": Verb(
        "jitflow.verbs.studio", "studio", "a local web page to sample, watch and compare", f"jitflow studio {_DEMO}"
    ),
    "models": Verb(
        "jitflow.verbs.models", "models", "list networks with their size and cost", "jitflow models 'JiT-B*'"
    ),
    **{
        name: Verb("jitflow.verbs.application", "application", summary, next(iter(examples.values())), examples)
        for name, (summary, examples) in _APPLICATIONS.items()
    },
}


TASKS = {
    "begin": ("demo", "doctor"),
    "train": ("train", "onestep", *_APPLICATIONS, "data"),
    "draw": ("sample", "invert", "studio"),
    "judge": ("evaluate", "compare", "sweep", "stats"),
    "look": ("runs", "report", "info", "models"),
    "give away": ("export", "convert"),
}
"""Verbs by what somebody wants to do; each is in one of them."""


def usage() -> str:
    """Return the help text of the command line: the verbs by task, with summary and example."""
    width = max(map(len, VERBS))
    lines = ["usage: jitflow <verb> [options]", "", "Flow-matching image Transformers."]
    for task, names in TASKS.items():
        lines += ["", f"{task}:"]
        for name in names:
            lines += [f"  {name:<{width}}  {VERBS[name].summary}", f"  {'':<{width}}    {VERBS[name].example}"]
    lines += ["", "`jitflow <verb> --help` lists a verb's options; `jitflow --version` the version."]
    return "\n".join(lines)


# Extra that installs a package, by the name it is imported by.
EXTRAS = {
    "sklearn": "demo",
    "tokenizers": "text",
    "torchao": "float8",
    "diffusers": "diffusers",
    "huggingface_hub": "hub",
    "gradio": "studio",
    "torch_fidelity": "eval",
    "timm": "eval",
    "scipy": "eval",
    "h5py": "radar",
    "pyarrow": "radar",
}


def missing_package(name: str) -> ConfigError:
    """Return the error for a package that is not installed; it names the extra of jitflow that installs it.

    Args:
        name: Name of the imported package.
    """
    extra = EXTRAS.get(name)
    way = f"pip install 'jitflow[{extra}]'" if extra else "pip install -e ."
    where = "" if extra else " in the checkout"
    return ConfigError(f"the package {name!r} is not installed; run `{way}`{where}")


def _system_error(error: OSError) -> str | None:
    """Return the line for a disk, a path or permissions that a user can mend; None for any other error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        place = f" {error.filename}" if error.filename else ""
        return f"cannot write{place} ({error.strerror}); free some space, or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR) and error.filename:
        return f"cannot open {error.filename} ({error.strerror}); correct the path, or its permissions"
    return None


_OUT_OF_MEMORY = "the memory is not enough; choose a smaller batch size, image size or network, or fewer samples"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, or torch's, whose kind is known only once it is imported."""
    text = str(error)
    signs = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def _print_in_any_encoding() -> None:
    """Print a question mark for characters that the terminal's encoding lacks, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        # A caller may have replaced the streams by some without an encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class StderrHandler(logging.Handler):
    """Log handler that writes to the ``sys.stderr`` of the moment.

    A progress bar replaces ``sys.stderr`` to print above itself; a handler of the stream before it would write into the
    bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as a line."""
        try:
            sys.stderr.write(printable(self.format(record)) + "\n")
        except (OSError, ValueError):
            self.handleError(record)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line: parse the verb and its options.

    Args:
        args: Words after ``jitflow``; those of the process by default.

    Returns:
        Exit status: 0, 1 for an error a user can correct, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    end_with_parent()
    _print_in_any_encoding()
    let_threads_wait_briefly()
    keep_freed_memory()
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"jitflow {__version__}\n")
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[StderrHandler()])
    logging.getLogger("jitflow").setLevel(logging.INFO)
    # Lightning also prints through its own handlers, and its hints would drown the commands' output.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False
    # A deprecation inside Lightning, and its surprise at data without a held-out part: nobody can act on them.
    warnings.filterwarnings("ignore", message=".*LeafSpec")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    try:
        verb = VERBS.get(words[0])
        if verb is None and words[0] in list_applications():
            # One of another package.
            verb = Verb("jitflow.verbs.application", "application", "", f"jitflow {words[0]}")
        if verb is None:
            raise unknown_name("verb", words[0], VERBS, hint="`jitflow --help` lists all.")
        if {"-h", "--help"} & set(words[1:]):
            sys.stdout.write(f"example: {verb.example_of(words[1:])}\n\n")
        run = getattr(importlib.import_module(verb.module), verb.function)
        with exit_on_termination():
            run(*([words[0]] if words[0] in list_applications() else []), words[1:])
    except JitflowError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "jitflow":
            raise
        missing = missing_package(error.name.split(".")[0])
        sys.stderr.write(f"error: {missing}\n")
        return 1
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        sys.stderr.write(f"error: {broken_package(package, error)}\n")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        sys.stderr.write(f"error: {_OUT_OF_MEMORY}\n")
        return 1
    except OSError as error:
        line = _system_error(error)
        if line is None:
            raise
        sys.stderr.write(f"error: {line}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
