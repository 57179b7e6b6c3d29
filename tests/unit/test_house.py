"""The counts of the house stay within their limits, and each of them counts what it says."""

import subprocess
import sys
import warnings

import house
import house_counts as counts
import pytest
from house_options import find_options, options_by_command
from house_source import ROOT, House, qualified_functions

from jitflow.cli import VERBS
from jitflow.verbs.sample import sample


@pytest.fixture(scope="module")
def ours():
    return House(ROOT)


@pytest.mark.parametrize("row", house.ROWS, ids=lambda row: row.name)
def test_no_count_exceeds_its_limit(row, ours):
    places = row.find(ours)
    assert len(places) <= row.limit, (
        f"{row.name}: {len(places)}, and the limit is {row.limit}; `python tests/house.py '{row.name}'` lists them:\n"
        + "\n".join(places[:200])
    )
    if row.better(len(places)):
        warnings.warn(f"{row.name}: {house.verdict(row, len(places))} in tests/house.py", stacklevel=1)


def test_a_limit_is_never_below_its_goal():
    assert all(row.goal is None or row.limit >= row.goal for row in house.ROWS)


@pytest.mark.parametrize(
    ("limit", "goal", "count", "said"),
    [
        (5, 0, 6, "WORSE"),
        (5, 0, 5, ""),
        (5, 0, 3, "lower the limit to 3"),
        (5, 0, 0, "lower the limit to 0"),
        (0, 0, 0, "reached"),
        (9, 5, 3, "lower the limit to 5"),
        (5, 5, 3, "reached"),
        (5, None, 5, ""),
        (5, None, 4, "lower the limit to 4"),
    ],
)
def test_verdict(limit, goal, count, said):
    answer = house.verdict(house.Row("row", lambda house: [], limit, goal), count)
    assert said in answer
    assert bool(said) == bool(answer)


def test_the_script_prints_the_table_and_needs_no_package():
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", str(ROOT / "tests" / "house.py")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert all(row.name in done.stdout for row in house.ROWS), done.stderr
    one = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "house.py"), "Trainer"], capture_output=True, text=True, timeout=120
    )
    assert one.stdout.splitlines()[0].startswith("jitflow/run/fit.py:")


# ---------------------------------------------------------------------- each count, on a library that has known faults


@pytest.fixture
def build(tmp_path):
    """Write files of a little checkout, by path; return it."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return House(tmp_path)

    return write


def test_trainings_are_trainers_of_files_that_fit(build):
    little = build(
        {
            "jitflow/run": "import pl\npl.Trainer().fit(model)\n",
            "jitflow/again": "from pl import Trainer\ntrainer = Trainer()\ntrainer.fit(model)\n",
            "jitflow/counters": "import pl\nfit = pl.Trainer().fit_loop\n",
            "jitflow/scaler": "scaler.fit(rows)\n",
        }
    )
    assert counts.find_trainings(little) == ["jitflow/again.py:2", "jitflow/run.py:2"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("isinstance(module, JiTLightningModule)", "JiTLightningModule"),
        ("x = modules.UserConditionedDiT", "UserConditionedDiT"),
        ("from jitflow.apps.text.judge import judge", "jitflow.apps.text.judge"),
        ("from jitflow.apps import text", "jitflow.apps.text"),
        ("where = 'jitflow.apps.images.data'", "jitflow.apps.images.data"),
        ("name == 'text'", "text"),
        ("name in ('images', other)", "images"),
        ("name = given or 'microdoppler'", "microdoppler"),
        ("name = given if given else 'images'", "images"),
        ("unit = 'images'", None),
        ("'TextLightningModule is named in prose only.'", None),
        ("fields = {'images', 'labels'}", None),
    ],
)
def test_questions_which_application_this_is(line, named, build):
    little = build(
        {"jitflow/verbs": f"{line}\n", "jitflow/applications": f"{line}\n", "jitflow/apps/images": f"{line}\n"}
    )
    assert counts.find_questions(little) == ([f"jitflow/verbs.py:1 {named}"] if named else [])


def test_long_files_and_functions(build):
    long, short = "\n" * 401, "\n" * 400
    function = "def {name}(self):\n    '''Doc.'''\n" + "    x = 1\n" * 98
    little = build(
        {
            "jitflow/a": long,
            "jitflow/b": short,
            "tests/a": long,
            "jitflow/c": function.format(name="short"),
            "jitflow/d": f"class A:\n    {function.format(name='long').replace(chr(10), chr(10) + '    ')}    x = 1\n",
        }
    )
    assert counts.find_long_files(little) == ["jitflow/a.py 401"]
    assert counts.find_long_test_files(little) == ["tests/a.py 401"]
    assert counts.find_long_functions(little) == ["jitflow/d.py:2 A.long 101"]


def test_many_arguments(build):
    names = ", ".join(f"a{i}" for i in range(14))
    little = build(
        {
            "jitflow/a": f"def f({names}): ...\nclass A:\n    def g(self, {names}): ...\ndef h({names}, *, b=0): ...\n",
            "jitflow/nets/jit": f"class JiT:\n    def __init__(self, {names}, b): ...\n",
        }
    )
    assert counts.find_many_arguments(little) == ["jitflow/a.py:4 h 15"]


@pytest.mark.parametrize("excepted", counts.MANY_ARGUMENTS)
def test_what_may_have_many_arguments_has_them(excepted, ours):
    module, _, name = excepted.partition(":")
    function = dict(qualified_functions(ours.tree(ours.path(module))))[name]
    assert counts.count_arguments(function) > counts.MOST_ARGUMENTS


def test_forwardings(build):
    little = build({"jitflow/a": "f(a, b=b, c=d, e=e)\ng(\n    h=h.h,\n    i=i,\n)\n"})
    assert counts.find_forwardings(little) == ["jitflow/a.py:1 b", "jitflow/a.py:1 e", "jitflow/a.py:4 i"]


def test_circles_are_those_of_importing(build):
    little = build(
        {
            "jitflow/__init__": "",
            "jitflow/a": "from jitflow import b\n",
            "jitflow/b": "if True:\n    from jitflow.c.d import e\n",
            "jitflow/c/__init__": "from jitflow.c.d import e\n",
            "jitflow/c/d": "import jitflow.a\ne = 1\n",
            "jitflow/later": "def f():\n    from jitflow.types import g\n",
            "jitflow/types": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from jitflow.later import f\ng = 1\n",
            "jitflow/other": "from jitflow.later import f\n",
        }
    )
    assert counts.find_circles(little) == ["jitflow.a <-> jitflow.b <-> jitflow.c.d"]


def test_imports_upwards_are_found_inside_functions_too(build):
    little = build(
        {
            "jitflow/core/a": "from jitflow.errors import E\nfrom jitflow.core.b import c\n",
            "jitflow/core/b": "def f():\n    import jitflow.nets.jit\n",
            "jitflow/codec": "from jitflow import data\n",
        }
    )
    assert counts.find_imports_upwards(little) == ["jitflow/codec.py data", "jitflow/core/b.py nets"]


@pytest.mark.parametrize(
    ("line", "verb_first", "expected"),
    [
        ("Stop training when a loss or gradient is not finite.", True, True),
        ("Numbers that go wrong.", False, False),
        ("Losses of a run.", False, True),
        ("Sample what is asked for.", True, False),
        ("Sample from a checkpoint.", True, True),
        ("Whose walk is it?", False, True),
        ("Draw what ``checkpoint`` and :func:`sample_images` want.", True, False),
        ("Run ``jitflow sample``.", True, True),
        ("Read the rows, one at a time.", True, False),
    ],
)
def test_nouns_of_the_field(line, verb_first, expected):
    assert counts.has_noun(line, verb_first=verb_first) == expected


def test_docstrings_of_public_functions_and_classes_are_read(build):
    little = build(
        {
            "jitflow/a": 'def f():\n    """Do it."""\ndef _g():\n    """Do it."""\nclass A:\n    """Checkpoint."""\n\n'
            '    def h(self):\n        """Do it."""\n'
            'class B:\n    """Thing.\n\n    A checkpoint."""\n'
        }
    )
    assert counts.find_vague_docstrings(little) == ["jitflow/a.py:1 f: Do it.", "jitflow/a.py:10 B: Thing."]


def test_private_names_in_tests(build):
    little = build(
        {
            "jitflow/a": "_TABLE = 1\ndef _f(): ...\nclass A:\n    def _forward_sample(self):\n        self._net = 1\n"
            "        self._own = 1\n",
            "tests/test_a": "from jitflow.a import _f, g\n"
            "a._net.x\n"
            "a._TABLE = 2\n"
            "monkeypatch.setattr(a, '_net', 0)\n"
            "monkeypatch.setattr('jitflow.a._f', 0)\n"
            "a._forward_sample()\n"
            "os._exit(0)\n"
            "a.__dict__\n"
            "class Mine:\n    def f(self):\n        self._own = 2\n        return self._own + self._net\n",
        }
    )
    assert counts.find_private_names(little) == [
        "tests/test_a.py:1 _f",
        "tests/test_a.py:2 _net",
        "tests/test_a.py:3 _TABLE",
        "tests/test_a.py:4 _net",
        "tests/test_a.py:5 _f",
        "tests/test_a.py:12 _net",
    ]


def test_long_matches(build):
    edge, over = "x" * 40, "x" * 41
    little = build(
        {
            "tests/test_a": f"raises(E, match='{edge}')\nraises(E, match='{over}')\n"
            f"raises(E, match=escape(f'{{a}}{over}'))\n"
        }
    )
    assert counts.find_long_matches(little) == [f"tests/test_a.py:{line} {over}" for line in (2, 3)]


def test_options_of_verbs_and_applications(build):
    little = build(
        {
            "jitflow/cli": "VERBS = {'draw': Verb('jitflow.verbs.draw', 'draw', '', ''),\n"
            "         'train': Verb('jitflow.train', 'main'), 'data': Verb('jitflow.verbs.draw', 'data'),\n"
            "         'open': Verb('jitflow.verbs.draw', 'open'), **{n: n for n in x}}\n",
            "jitflow/verbs/draw": "def draw(args):\n    run_command('draw', choose(args) or _draw, args)\n"
            "def choose(args, x=1): ...\n"
            "def _draw(checkpoint, steps=1, how: HowOptions = HowOptions(), *, seed=0, further): ...\n"
            "def data(args):\n    run_group('data', {'make': _make, 'see': _see}, args, positional=('see',))\n"
            "def _make(folder, out='x'): ...\ndef _see(folder, out='x'): ...\n"
            "def open(args):\n    def command(port=1): ...\n"
            "    run_command(f'open', command, args, positional=False)\n",
            "jitflow/verbs/evaluate": "GENERAL_JUDGE = 'jitflow.judge:General'\n",
            "jitflow/verbs/documented": "_OF_THE_RUN = {'restart': ''}\n",
            "jitflow/train": "def main(args):\n    from jitflow.parser import parser\n",
            "jitflow/parser": "parser.add_argument('-c', '--config')\nparser.add_argument('--logging.csv')\n",
            "jitflow/applications": "BUILT_IN = {'toy': 'jitflow.toy:TOY', 'bare': 'jitflow.toy:BARE'}\n",
            "jitflow/toy": "WORDS = Documented(options={'lr': ''})\n"
            "TOY = Application(name='toy', judge='jitflow.judge:Own', documented=WORDS,\n"
            "    commands={n: f'jitflow.judge:{n}' for n in ('fit',)})\n"
            "BARE = Application(judge='jitflow.judge:General')\n",
            "jitflow/judge": "from jitflow.base import Base\nclass General:\n    c: int = 0\n"
            "class Own(Base):\n    a: int = 0\ndef fit(folder, b=0): ...\n",
            "jitflow/base": "class Base:\n    real: str = ''\n",
        }
    )
    assert options_by_command(little) == {
        "jitflow draw": ["steps", "seed"],
        "jitflow train": ["config"],
        "jitflow data make": ["folder", "out"],
        "jitflow data see": ["out"],
        "jitflow open": ["port"],
        "jitflow evaluate, of images": ["c"],
        "jitflow toy train": ["lr", "restart"],
        "jitflow toy fit": ["folder", "b"],
        "jitflow evaluate, of toy": ["real", "a"],
        "jitflow evaluate, of bare": ["c"],
    }
    assert find_options(little)[:2] == ["jitflow draw --steps", "jitflow draw --seed"]


def test_options_of_every_verb_are_counted(ours, capsys):
    found = options_by_command(ours)
    assert {command.split()[1].rstrip(",") for command in found} == set(VERBS)
    with pytest.raises(SystemExit):
        sample(["--help"])
    shown = capsys.readouterr().out
    assert all(f"--{name} " in shown for name in found["jitflow sample"])


def test_the_list_of_options_is_frozen(ours):
    """An option added on purpose is listed by ``python tests/house.py "options on" > tests/data/options.txt``."""
    assert find_options(ours) == (ROOT / "tests" / "data" / "options.txt").read_text().splitlines()
