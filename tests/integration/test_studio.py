"""The studio in a real browser that can reach nothing but the studio."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from jitflow import cli
from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.module import TextLightningModule
from jitflow.codec.linear import LinearCodec
from jitflow.studio.library import Library

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
DIT = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}
# Between the images of a grid, in pixels.
GAP = 2


def saved(module, path):
    """Write a checkpoint whose weights were shaken, so that images differ, with one average."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    module.ema_params1.update({name: 0.9 * p.detach() for name, p in module.named_parameters()})
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def users():
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    linear = LinearCodec.fit([pixels], num_components=4, patch_size=4)
    module = UserConditionedDiT(num_users=3, model_name="LightningDiT", latent_shape=(4, 4, 4), net_settings=DIT)
    module.user_ids, module.codec_record = (
        [1, 4, 7],
        {"id": linear.id, "checksum": linear.checksum, "img_size": [16] * 2},
    )
    module.latents.attach(linear)
    return module


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    torch.manual_seed(0)
    (folder / "damaged.ckpt").write_bytes(b"no checkpoint")
    net = {"hidden_size": 32, "depth": 1, "num_heads": 2, "bottleneck_dim": 16}
    return [
        saved(JiTLightningModule("JiT-N/4", img_size=16, num_classes=5, num_sampling_steps=6), folder / "images.ckpt"),
        saved(users(), folder / "users.ckpt"),
        saved(TextLightningModule("bytes", img_size=16, net_settings=net, num_sampling_steps=6), folder / "text.ckpt"),
        folder / "damaged.ckpt",
    ]


@pytest.fixture(scope="module")
def asked():
    """Every host that this process looks up or connects to while the studio runs."""
    hosts, found, connect = [], socket.getaddrinfo, socket.socket.connect

    def lookup(host, *args, **kwargs):
        hosts.append(host)
        return found(host, *args, **kwargs)

    def connecting(self, address):
        hosts.append(address[0] if isinstance(address, tuple) else "")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lookup)
        patch.setattr(socket.socket, "connect", connecting)
        yield hosts


@pytest.fixture(scope="module")
def address(checkpoints, asked, tmp_path_factory):
    from jitflow.studio.page import build_page, launch_options

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("drawings")))
        page = build_page(Library(checkpoints, device="cpu"))
        _, address, _ = page.launch(**launch_options(host="127.0.0.1", port=None), prevent_thread_lock=True)
        yield address
        page.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Studio:
    """What a person does with the page."""

    def __init__(self, page):
        self.page = page

    def field(self, name):
        return self.page.locator(f"#{name} textarea, #{name} input").first

    def fill(self, **values):
        for name, value in values.items():
            self.field(name.replace("_", "-")).fill(str(value))

    def choose(self, name, option):
        self.page.click(f"#{name} input")
        self.page.get_by_role("option", name=option, exact=False).first.click()

    def wait_for(self, words):
        self.page.wait_for_function(
            "words => document.querySelector('#said').innerText.includes(words)", arg=words, timeout=60_000
        )
        return self.page.inner_text("#said")

    def generate(self, words="The slider shows"):
        self.page.click("#generate")
        return self.wait_for(words)

    def picture(self, side="a"):
        """What the browser shows, and the name above it."""
        image = self.page.wait_for_selector(f"#image-{side} img")
        self.page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image)
        return self.page.request.get(image.get_attribute("src")).body(), self.page.inner_text(f"#image-{side} label")

    def drag(self, share):
        """Drag the slider from its place to a share of its width."""
        handle = self.page.locator("#time input[type=range]")
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        y, now = box["y"] + box["height"] / 2, float(handle.input_value())
        self.page.mouse.move(box["x"] + box["width"] * min(0.995, max(0.005, now)), y)
        self.page.mouse.down()
        for i in range(1, 11):
            self.page.mouse.move(box["x"] + box["width"] * (now + (share - now) * i / 10), y)
        self.page.mouse.up()

    def label_is(self, words, side="a"):
        self.page.wait_for_function(
            "([id, words]) => document.querySelector(id + ' label').innerText.includes(words)",
            arg=[f"#image-{side}", words],
        )

    def download(self, name, folder):
        with self.page.expect_download() as download:
            self.page.click(f"#{name}")
        path = Path(folder) / download.value.suggested_filename
        download.value.save_as(path)
        return path


@pytest.fixture
def studio(browser, address, asked):
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    foreign, broken = [], []

    def only_the_studio(route):
        if route.request.url.startswith(address):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    page.route("**/*", only_the_studio)
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda said: broken.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(address)
    page.wait_for_selector("#generate")
    yield Studio(page)
    page.close()
    assert not foreign and not broken
    assert set(asked) <= {"127.0.0.1", "localhost", "", None}


def drawn_again(line):
    """Run the Python of a record: statements, and an expression at the end."""
    *statements, expression = line.split("; ")
    names = {}
    exec("; ".join(statements), names)
    return eval(expression, names)


def cells(sheet, columns, rows):
    """Images of 16 pixels a side that were laid out in a grid."""
    side = (sheet.width - GAP) // columns - GAP
    places = [(GAP + x * (side + GAP), GAP + y * (side + GAP)) for y in range(rows) for x in range(columns)]
    cut = [sheet.crop((left, top, left + side, top + side)) for left, top in places]
    return [image.resize((16, 16), Image.Resampling.NEAREST).tobytes() for image in cut]


def test_a_class_is_drawn_watched_refused_and_kept(studio, tmp_path):
    studio.fill(subject="1,3", count=2, seed=5, steps_a=6)
    assert "4 images, row by row class 1, class 3; seeds 5 to 8" in studio.generate()
    end = studio.picture()[0]
    studio.drag(0.0)
    studio.label_is("t = 0.17")
    assert studio.picture()[0] != end
    studio.drag(1.0)
    studio.label_is("t = 1.00")
    assert studio.picture()[0] == end

    (record,) = json.loads(studio.download("json", tmp_path).read_text())
    sheet = Image.open(studio.download("png", tmp_path)).convert("L")
    again = drawn_again(record["python"]).images()
    assert len(again) == 4 and again[0].tobytes() != again[1].tobytes()
    assert cells(sheet, 2, 2) == [image.convert("L").tobytes() for image in again]
    command = shlex.split(studio.field("command").input_value())
    assert command == shlex.split(record["command"])
    assert cli.main([*command[1:], "--out", str(tmp_path / "out")]) == 0
    files = sorted((tmp_path / "out").glob("0*.png"))
    assert [Image.open(file).tobytes() for file in files] == [image.tobytes() for image in again]

    for wrong, said in (
        ({"subject": "9"}, "classes 0 to 4"),
        ({"subject": "1", "steps_a": 2.5}, "steps must be"),
    ):
        studio.fill(**wrong)
        assert said in studio.generate(said)
        assert studio.page.locator("#said [role=alert]").count() == 1
    assert studio.picture()[0] == end


@pytest.mark.slow
def test_two_settings_side_by_side(studio, tmp_path):
    studio.page.check("#compare input")
    studio.fill(subject="0,2", count=1, steps_a=8, steps_b=3, guidance_b=3)
    studio.choose("solver-b", "heun")
    studio.choose("ema-b", "no average")
    studio.generate()
    a, b = (studio.picture(side)[0] for side in "ab")
    assert a != b
    studio.drag(0.3)
    studio.label_is("A, t = 0.25")
    studio.label_is("B, t = 0.33", "b")
    first, second = json.loads(studio.download("json", tmp_path).read_text())
    assert first["seeds"] == second["seeds"] and (first["steps"], second["steps"]) == (8, 3)
    assert (second["solver"], second["ema"], second["guidance"]) == ("heun", 0, 3)
    sheet = Image.open(studio.download("png", tmp_path)).convert("L")
    again = drawn_again(second["python"]).images()
    half = sheet.crop((sheet.width // 2 + 4, 0, sheet.width, sheet.height))
    assert cells(half, 2, 1) == [image.convert("L").tobytes() for image in again]
    studio.page.uncheck("#compare input")
    studio.generate()
    studio.page.wait_for_selector("#image-b", state="hidden")


@pytest.mark.slow
def test_users(studio, tmp_path):
    studio.choose("checkpoint", "users.ckpt")
    studio.wait_for("users.ckpt is loaded")
    assert studio.field("subject").input_value() == "1,4,7"
    studio.fill(subject="5", count=1, steps_a=4)
    assert "5" in studio.generate("user")
    studio.fill(subject="4,7", guidance_a=2)
    assert "row by row user 4, user 7" in studio.generate()
    (record,) = json.loads(studio.download("json", tmp_path).read_text())
    sheet = Image.open(studio.download("png", tmp_path))
    assert cells(sheet, 2, 1) == [image.tobytes() for image in drawn_again(record["python"]).images()]


@pytest.mark.slow
def test_text_is_shown_beside_its_image(studio, tmp_path):
    studio.choose("checkpoint", "text.ckpt")
    studio.wait_for("text.ckpt is loaded")
    assert not studio.page.is_visible("#guidance-a") and studio.page.is_visible("#churn-a")
    studio.fill(subject="a" * 400)
    studio.generate("the prompt has 400 tokens")
    studio.fill(subject="if <b>", count=2, steps_a=4)
    assert "2 texts" in studio.generate()
    (record,) = json.loads(studio.download("json", tmp_path).read_text())
    shown = studio.page.input_value("#text-a textarea")
    assert shown.startswith("--- seed 0\nif <b>") and "--- seed 1\nif <b>" in shown
    again = drawn_again(record["python"])
    assert again.texts == record["texts"] and all(text in shown for text in again.texts)
    sheet = Image.open(studio.download("png", tmp_path))
    assert cells(sheet, 2, 1) == [image.tobytes() for image in again.images()]
    studio.choose("checkpoint", "images.ckpt")
    studio.wait_for("images.ckpt is loaded")
    studio.generate()
    assert not studio.page.is_visible("#text-a")


@pytest.mark.slow
def test_stop_and_a_damaged_checkpoint(studio):
    studio.fill(subject="all", count=6, steps_a=500)
    studio.generate("of 500")
    studio.page.click("#stop")
    studio.wait_for("Stopped")
    studio.fill(count=1, steps_a=2)
    assert "5 images" in studio.generate()
    studio.choose("checkpoint", "damaged.ckpt")
    studio.wait_for("damaged.ckpt")
    assert "was refused" in studio.page.inner_text("#said [role=alert]")


@pytest.mark.slow
def test_no_other_file_is_served(studio, address, checkpoints):
    for path in (checkpoints[0], "/etc/hostname"):
        assert studio.page.request.get(f"{address}gradio_api/file={path}").status in (403, 404)
    policy = studio.page.request.get(address).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "connect-src 'self'" in policy


@pytest.mark.slow
def test_the_command_serves_and_leaves_nothing_behind(browser, checkpoints, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "jitflow", "studio", *map(str, checkpoints), "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert f"studio at http://127.0.0.1:{port}/" in process.stderr.readline()
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#generate")
            page.close()
            assert list(tmp_path.glob("jitflow-studio-*"))
        finally:
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            process.kill()
    assert not list(tmp_path.glob("jitflow-studio-*"))
