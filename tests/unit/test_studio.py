"""What stands behind the page: requests refused in words, drawings that reproduce, the page's outputs."""

import json

import pytest
import torch

from jitflow.codec.linear import LinearCodec
from jitflow.errors import ConfigError, MissingFileError
from jitflow.pipelines.sample import Model
from jitflow.studio.drawing import draw
from jitflow.studio.library import Library
from jitflow.studio.request import Request, available_averages, check, default_request, labels_of
from jitflow.training.jit_module import JiTLightningModule
from jitflow.training.text_module import TextLightningModule
from jitflow.training.user_dit import UserConditionedDiT

NET = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}


def saved(module, path):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    module = JiTLightningModule(model_name="JiT-N/4", img_size=8, num_classes=5, num_sampling_steps=4).eval()
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return module


@pytest.fixture(scope="module")
def users():
    pictures = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    linear = LinearCodec.fit([pictures], num_components=4, patch_size=4)
    module = UserConditionedDiT(num_users=3, model_name="LightningDiT", latent_shape=(4, 2, 2), net_settings=NET)
    module.user_ids, module.codec_record = [1, 4, 7], {"id": linear.id, "checksum": linear.checksum, "img_size": [8, 8]}
    module.latents.attach(linear)
    return module.eval()


@pytest.fixture(scope="module")
def text():
    net = {"hidden_size": 32, "depth": 1, "num_heads": 2, "bottleneck_dim": 16}
    return TextLightningModule("bytes", img_size=16, net_settings=net).eval()


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
        ({"interval": "0.9,0.1"}, "0.9"),
        ({"interval": "x"}, "0.1,1.0"),
    ],
)
def test_bad_values_are_refused_in_words(images, wrong, said):
    check(Request(**GOOD), images)
    with pytest.raises((ConfigError, TypeError), match=said):
        check(Request(**{**GOOD, **wrong}), images)


def test_subjects_are_classes_or_users(images, users):
    assert labels_of(Request("0,3", count=2), images) == [0, 0, 3, 3]
    assert labels_of(Request("all"), images) == [0, 1, 2, 3, 4]
    assert labels_of(Request("1,7"), users) == [0, 2]
    assert labels_of(Request("all"), users) == [0, 1, 2]
    with pytest.raises(ConfigError, match="5"):
        labels_of(Request("5"), users)
    for module in (images, users):
        check(default_request(module), module)
    assert available_averages(images) == [0]


def test_a_drawing_is_what_sampling_draws_and_its_film_ends_there(images):
    request, seen = Request("0,3", count=2, seed=5, ema=0, solver="euler", steps=4), []
    model = Model(images, source="some.ckpt")
    drawing = draw(model, request, on_step=lambda done, in_all, picture: seen.append((done, in_all)))
    assert "watch_sampling" not in vars(images)
    expected = model.sample([0, 0, 3, 3], 5, guidance=1.0, interval=(0, 1), solver="euler", steps=4, ema=0)
    again = draw(model, request)
    assert drawing.grid.tobytes() == again.grid.tobytes()
    assert drawing.images[2].resize((8, 8), 0).tobytes() == expected.images()[2].tobytes()
    assert seen == [(1, 4), (2, 4), (3, 4)]
    assert len(drawing.frames) == 4 and drawing.times == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert drawing.captions == ["class 0, seed 5", "class 0, seed 6", "class 3, seed 7", "class 3, seed 8"]
    assert drawing.record["seeds"] == [5, 6, 7, 8] and drawing.record["checkpoint"] == "some.ckpt"
    json.dumps(drawing.record)
    line = drawing.record["python"].replace("import jitflow; jitflow.load('some.ckpt')", "model")
    assert torch.equal(eval(line, {"model": model}).pixels, expected.pixels)


def test_long_films_are_thinned_out(images):
    drawing = draw(Model(images), Request("1", ema=0, solver="euler", steps=100))
    assert 20 <= len(drawing.frames) <= 25 and drawing.times[-1] == 1 and drawing.times == sorted(drawing.times)


def test_users_and_texts(users, text):
    drawing = draw(Model(users), Request("4", count=2, ema=0, solver="euler", steps=3, guidance=2.0))
    assert drawing.captions == ["user 4, seed 0", "user 4, seed 1"] and drawing.images[0].size == (128, 128)
    drawing = draw(Model(text), Request("if", count=2, ema=0, solver="euler", steps=3))
    assert len(drawing.texts) == 2 and all(said.startswith("if") for said in drawing.texts)
    assert drawing.record["prompt"] == "if" and "write_texts" in drawing.record["python"]
    with pytest.raises(ConfigError, match="prompt has"):
        draw(Model(text), Request("a" * 400, ema=0))


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


def test_page_answers_compares_and_explains(images, tmp_path):
    page = pytest.importorskip("gradio") and __import__("jitflow.studio.page", fromlist=["answer"])
    library = Library([saved(images, tmp_path / "a.ckpt")], device="cpu")
    page.build_page(library)
    side_a, side_b = (0, "euler", 4, 1.0, "0,1", 0.0), (0, "heun", 3, 2.0, "0,1", 0.0)
    *parts, last = page.answer(library, library.names[0], "0,1", 1, 7, True, *side_a, *side_b)
    assert parts[0][0] == "Drawing A: step 1 of 4" and parts[-1][0].startswith("Drawing B")
    drawings = last[-1]
    assert [d.record["solver"] for d in drawings] == ["euler", "heun"]
    assert drawings[0].record["seeds"] == drawings[1].record["seeds"] == [7, 8]
    assert page.frame_at(drawings, 0) == [drawings[0].frames[0], drawings[1].frames[0]]
    assert page.frame_at(drawings, 99)[1] is drawings[1].grid
    png, record = page.save_drawings(drawings)
    assert png.stat().st_size and [r["steps"] for r in json.loads(record.read_text())] == [4, 3]
    (refused,) = page.answer(library, library.names[0], "77", 1, 7, False, *side_a, *side_b)
    assert "cannot be drawn" in refused[0] and "classes 0 to 4" in refused[0]
    options = page.launch_options(host="127.0.0.1", port=None)
    assert options["share"] is False and "http" not in json.dumps(options["theme"]._stylesheets)
