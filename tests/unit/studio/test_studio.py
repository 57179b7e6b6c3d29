"""What stands behind the page: requests refused in words, drawings that reproduce, work that ends."""

import importlib.util
import json
import shlex
import threading

import pytest
import torch

from jitflow.cli import main
from jitflow.errors import ConfigError, MissingFileError
from jitflow.model import Model
from jitflow.studio.drawing import Drawing, draw
from jitflow.studio.library import Library
from jitflow.studio.request import Request, available_averages, check, default_request, sample_arguments
from jitflow.studio.sessions import Sessions
from jitflow.studio.worker import MAX_WAITING, StoppedError, WaitingLine, events_of
from jitflow.training.asked import parse_labels


def saved(module, path):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


GOOD = {"subject": "0,3", "count": 2, "ema": 0, "steps": 4}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"subject": "0,9"}, "classes 0 to 4"),
        ({"subject": "cat"}, "0,3,7-9"),
        ({"subject": ""}, "0,3,7-9"),
        ({"count": 0}, "between 1 and 32"),
        ({"count": 17}, "34 images"),
        ({"count": None}, "whole number"),
        ({"seed": -1}, "seed must lie"),
        ({"steps": 501}, "between 1 and 500"),
        ({"steps": 2.5}, "whole number"),
        ({"ema": 2}, "no EMA 2"),
        ({"solver": "rk45"}, "rk45"),
        ({"guidance": float("nan")}, "guidance must be a number"),
        ({"guidance": None}, "guidance must be a number; got nothing"),
        ({"interval": "0.9,0.1"}, "0.9"),
        ({"interval": "x"}, "0.1,1.0"),
        ({"guidance": 1e308}, "between -1000 and 1000"),
        ({"guidance": 10**400}, "guidance must be a number"),
        ({"seed": 10**5000}, "seed must lie .* digits"),
        ({"count": 10**5000}, "count must lie"),
        ({"steps": "9" * 999}, "whole number; got 9+[.]{3}$"),
        ({"ema": [1]}, "whole number"),
        ({"churn": 1e300}, "churn must be"),
        ({"subject": "a\ud800"}, "subject holds half a character"),
        ({"interval": "\udfff"}, "interval holds half"),
        ({"solver": "\udfff"}, "solver holds half"),
        ({"solver": None}, "solver must be text; got nothing"),
        ({"subject": ["0"]}, "subject must be text"),
        ({"subject": "0," * 60_000}, "characters"),
    ],
)
def test_bad_values_are_refused_in_words(images, wrong, said):
    check(Request(**GOOD), Model(images))
    with pytest.raises(ConfigError, match=said):
        check(Request(**{**GOOD, **wrong}), Model(images))


def labels_of(request, module):
    model = Model(module)
    return model.ask(**sample_arguments(request, model)).labels


def test_subjects_are_classes_or_users(images, users, text):
    assert labels_of(Request("0,3", count=2), images) == [0, 0, 3, 3]
    assert labels_of(Request(" all "), images) == [0, 1, 2, 3, 4]
    assert labels_of(Request("1,7"), users) == [0, 2]
    assert labels_of(Request("all"), users) == [0, 1, 2]
    with pytest.raises(ConfigError, match="5"):
        labels_of(Request("5"), users)
    assert [default_request(Model(module)).subject for module in (images, users, text)] == ["0,1,2,3", "1,4,7", ""]
    for module in (images, users, text):
        check(default_request(Model(module)), Model(module))
    assert available_averages(images) == [0]


def test_a_model_that_cannot_be_guided_says_so(images, monkeypatch):
    monkeypatch.setattr(images, "label_drop_prob", 0.0)
    check(Request(**GOOD), Model(images))
    with pytest.raises(ConfigError, match="label_drop_prob"):
        check(Request(**GOOD, guidance=2.0), Model(images))


def test_a_drawing_is_what_sampling_draws_and_its_film_ends_there(images):
    request, seen = Request("0,3", count=2, seed=5, ema=0, solver="euler", steps=4), []
    model = Model(images, source="some.ckpt")
    drawing = draw(model, request, on_frame=lambda done, in_all, picture: seen.append((done, in_all)))
    assert "watch_sampling" not in vars(images)
    expected = model.sample([0, 0, 3, 3], 5, guidance=1.0, interval=(0, 1), solver="euler", steps=4, ema=0)
    assert drawing.grid.tobytes() == draw(model, request).grid.tobytes()
    # Rows of two, a gap of 2 pixels, each pixel repeated 48 times, and a caption above each row.
    caption_px = (drawing.grid.height - 2) // 2 - 2 - 384
    third = drawing.grid.crop((2, drawing.grid.height - 2 - 384, 2 + 384, drawing.grid.height - 2))
    assert 10 < caption_px < 40
    assert third.resize((8, 8), 0).tobytes() == expected.images()[2].tobytes()
    assert seen == [(1, 4), (2, 4), (3, 4)]
    assert len(drawing.frames) == 4 and drawing.times == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert drawing.frame_at(0) == (drawing.frames[0], pytest.approx(0.25))
    assert drawing.frame_at(0.6) == (drawing.frames[1], pytest.approx(0.5))
    assert drawing.frame_at(1)[0] is drawing.grid
    assert drawing.subjects == ["class 0", "class 3"]
    assert drawing.record["seeds"] == [5, 6, 7, 8] and drawing.record["checkpoint"] == "some.ckpt"
    json.dumps(drawing.record)
    line = drawing.record["python"].replace("import jitflow; jitflow.load('some.ckpt')", "model")
    assert torch.equal(eval(line, {"model": model}).pixels, expected.pixels)


def test_what_the_listener_raises_ends_the_drawing(images):
    def stop(done, in_all, picture):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(Model(images), Request(**GOOD), on_frame=stop)
    assert "watch_sampling" not in vars(images)


def test_long_films_are_thinned_out(images):
    drawing = draw(Model(images), Request("1", ema=0, solver="euler", steps=100))
    assert 20 <= len(drawing.frames) <= 25 and drawing.times[-1] == 1 and drawing.times == sorted(drawing.times)


@pytest.mark.parametrize("subject", ["0,3", "0,0", "3,0,3"])
def test_the_command_names_the_same_labels_and_seeds(images, subject):
    drawing = draw(Model(images, source="a b.ckpt"), Request(subject, count=2, seed=5, ema=0, solver="euler", steps=1))
    words = shlex.split(drawing.record["command"])
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[:3] == ["jitflow", "sample", "a b.ckpt"]
    assert options["--seed"] == "5"
    repeated = [y for y in parse_labels(options["--labels"], 5) for _ in range(int(options["--count"]))]
    assert repeated == drawing.record["labels"]


def test_users_and_texts(users, text):
    drawing = draw(Model(users), Request("4", count=2, ema=0, solver="euler", steps=3, guidance=2.0))
    assert drawing.subjects == ["user 4"] and drawing.grid.width == 774
    assert "vavae_path" not in drawing.record["python"] + drawing.record["command"]
    request = Request("4", ema=0, solver="euler", steps=1)
    record = draw(Model(users, source="a.ckpt"), request, vavae_path="vavae.pt").record
    assert "load('a.ckpt', vavae_path='vavae.pt').sample(users='4'" in record["python"]
    assert "--users 4" in record["command"] and "--vavae_path vavae.pt" in record["command"]
    drawing = draw(Model(text), Request("if", count=2, ema=0, solver="euler", steps=3))
    assert len(drawing.texts) == 2 and all(said.startswith("if") for said in drawing.texts)
    assert drawing.record["prompt"] == "if" and "prompt='if'" in drawing.record["python"]
    with pytest.raises(ConfigError, match="prompt has"):
        draw(Model(text), Request("a" * 400, ema=0))
    with pytest.raises(ConfigError, match="churn must be"):
        draw(Model(text), Request("", ema=0, churn=None))


def test_library_opens_what_was_given_and_nothing_else(images, tmp_path):
    paths = [saved(images, tmp_path / f"{name}.ckpt") for name in "abc"]
    library = Library(paths, device="cpu")
    assert library.names == [str(path) for path in paths]
    first = library.open(str(paths[0]))
    assert library.open(str(paths[0])) is first
    for path in paths[1:]:
        library.open(str(path))
    assert library.open(str(paths[0])) is not first
    with pytest.raises(ConfigError, match="none of this page"):
        library.open("/etc/passwd")
    with pytest.raises(MissingFileError):
        Library([tmp_path / "d.ckpt"])
    with pytest.raises(ConfigError, match="jitflow studio"):
        Library([])


def test_work_ends_when_nobody_listens():
    tick, ended = threading.Event(), threading.Event()

    def long_work(on_frame, check):
        try:
            while True:
                on_frame(1, 2, None)
                tick.wait(0.01)
        finally:
            ended.set()

    events = events_of(long_work, threading.Event())
    assert next(events) == (1, 2, None)
    events.close()
    done = object.__new__(Drawing)

    assert ended.is_set()
    assert list(events_of(lambda on_frame, check: done, threading.Event())) == [done]

    stopped = threading.Event()
    with pytest.raises(StoppedError):
        for _ in events_of(long_work, stopped):
            stopped.set()

    def broken(on_frame, check):
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        list(events_of(broken, threading.Event()))


def test_the_network_is_not_called_again_once_the_work_is_stopped(images):
    calls, stopped = [], threading.Event()

    def work(on_frame, check):
        def called():
            calls.append(stopped.is_set())
            if len(calls) == 3:
                stopped.set()
            check()

        return draw(Model(images), Request(**{**GOOD, "steps": 400}), on_frame=on_frame, before_call=called)

    # In the middle of a step of Heun's method, long before the next frame.
    with pytest.raises(StoppedError):
        list(events_of(work, stopped))
    assert calls == [False] * 3 and not images.net._forward_pre_hooks


class StoppedBetween(threading.Event):
    """Event that another thread sets right after it was looked at."""

    def is_set(self):
        before = super().is_set()
        self.set()
        return before


def test_requests_wait_in_line_and_know_their_place():
    line, requests = WaitingLine(), [threading.Event() for _ in range(4)]
    for request in requests:
        line.join(request)
    assert list(line.places(requests[0])) == []
    places = line.places(requests[3])
    assert next(places) == 3
    # One that was stopped counts no longer; the one that is served does until it has left: it is still computing.
    requests[1].set()
    assert next(places) == 2
    requests[0].set()
    for stopped in (requests[1], StoppedBetween()):
        line.join(stopped)
        with pytest.raises(StoppedError):
            list(line.places(stopped))
        line.leave(stopped)
    ended = threading.Event()
    threading.Timer(0.3, lambda: (ended.set(), line.leave(requests[0]))).start()
    assert next(places) == 1 and ended.is_set()
    line.leave(requests[2])
    assert list(places) == []
    for _ in range(MAX_WAITING):
        line.join(threading.Event())
    with pytest.raises(ConfigError, match="try again later"):
        line.join(threading.Event())


def test_a_session_ends_when_its_stream_is_closed_for_good():
    sessions = Sessions()
    stopped = sessions.start("a")
    sessions.open_stream("a")
    sessions.close_stream("a")
    # The next stream of the same browser.
    sessions.open_stream("a")
    # A page that was left, and comes back to sample anew before its old sampling ends.
    sessions.open_stream("back")
    left = sessions.start("back")
    sessions.close_stream("back")
    anew = sessions.start("back")
    assert not stopped.wait(0.8) and left.is_set() and not anew.is_set()
    sessions.close_stream("a")
    assert stopped.wait(3)
    other, again = sessions.start("b"), sessions.start("b")
    assert other.is_set() and not again.is_set()
    sessions.stop("b")
    sessions.stop("nobody")
    assert again.is_set()
    sessions.finish("b", again)


def test_a_checkpoint_that_changed_is_loaded_again_and_said(images, tmp_path):
    path = saved(images, tmp_path / "a.ckpt")
    library = Library([path], device="cpu")
    first = library.open(str(path))
    assert library.changed(str(path)) == "" and library.open(str(path)) is first
    with torch.no_grad():
        next(images.parameters()).add_(1)
    saved(images, tmp_path / "new.ckpt").replace(path)
    assert "has changed" in library.changed(str(path))
    again = library.open(str(path))
    assert again is not first and library.changed(str(path)) == ""
    assert torch.equal(next(again.module.parameters()), next(images.parameters()))
    path.unlink()
    with pytest.raises(MissingFileError):
        library.open(str(path))
    for name in (["a"], None, {}):
        assert library.changed(name) == ""
        with pytest.raises(ConfigError, match="none of this page"):
            library.open(name)


def test_the_command_without_gradio_or_checkpoints_says_what_to_do(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    with monkeypatch.context() as context:
        context.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else found(name, *a))
        assert main(["studio", "a.ckpt"]) == 1
    assert capsys.readouterr().err == (
        'error: the studio needs gradio, which is not installed; pip install "jitflow[studio]"\n'
    )
    pytest.importorskip("gradio")
    for words in (["studio"], ["studio", "--port", "7000"]):
        assert main(words) == 1
        assert "name at least one checkpoint" in capsys.readouterr().err
