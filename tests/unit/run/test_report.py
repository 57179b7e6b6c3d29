"""A page about a run: whole, safe, and without a word to the network."""

import base64
import io
import json
import logging
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from jitflow.errors import ConfigError
from jitflow.run.report import write_final_report, write_report
from jitflow.verbs.inspect import report


class Page(HTMLParser):
    """Collects tags, the addresses they name, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.titles = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        if self.lasttag == "h2":
            self.titles.append(data)
        self.text += data


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a run <b>"
    (folder / "checkpoints").mkdir(parents=True)
    history = {"TrainingHistory": {"losses": [2.0 - 0.01 * i for i in range(120)], "seconds": 1.0}}
    torch.save({"global_step": 120, "epoch": 4, "callbacks": history}, folder / "checkpoints/checkpoint-last.pth")
    module = "jitflow.apps.images.module.JiTLightningModule"
    model = f"model:\n  class_path: {module}\n  init_args:\n    model_name: JiT-N/4\n"
    (folder / "config.yaml").write_text(model + "trainer:\n  max_epochs: 5\n")
    (folder / "environment.json").write_text(json.dumps({"command": "jitflow train", "torch": "2.15"}))
    metrics = {"class_agreement": 0.9961, "note": "<script>alert(1)</script>", "settings": {"steps": 30}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in ("samples.png", "trajectory.png", "evaluation/confusion.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("L", (64, 64), 100).save(folder / name)
    for epoch in range(1, 21):
        (folder / "samples").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (epoch, 0, 0)).save(folder / "samples" / f"samples_epoch{epoch:04d}.png")
    (folder / "samples.txt").write_text("--- seed 0\nif a < b: & so on\n")
    return folder


def test_page_holds_everything_and_asks_for_nothing(folder):
    path = write_report(folder)
    text = path.read_text()
    page = Page(text)
    assert path == folder / "report.html"
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert "url(" not in text and "@import" not in text
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", text)
    known = ["Scores", "Curves", "Samples over the training", "Pictures", "Settings", "Environment", "Files"]
    assert [title for title in page.titles if title in known] == known
    for said in ("0.9961", "<script>alert(1)</script>", "model.init_args.model_name", "a run <b>"):
        assert said in page.text, said
    assert f"jitflow train --resume '{folder}'" in page.text
    assert "settings.steps" not in page.text.split("Curves")[0]


def test_texts_of_a_run_of_text_are_shown(folder):
    config = folder / "config.yaml"
    module = "jitflow.apps.text.module.TextLightningModule"
    config.write_text(config.read_text().replace("jitflow.apps.images.module.JiTLightningModule", module))
    page = Page(write_report(folder).read_text())
    assert "Texts" in page.titles and "if a < b: & so on" in page.text


def test_pictures_are_whole_and_samples_spread_over_the_training(folder):
    page = Page(write_report(folder).read_text())
    images = [Image.open(io.BytesIO(base64.b64decode(a.partition(",")[2]))) for a in page.addresses]
    for image in images:
        image.load()
    during = [image.getpixel((0, 0))[0] for image in images if image.size == (20, 20)]
    assert during == list(range(1, 21))
    assert "after 1 epochs" in page.text and "after 20 epochs" in page.text
    assert "Training loss, 120 points, last 0.81" in page.text
    assert sum(image.size == (64, 64) for image in images) == 3


def test_of_many_pictures_over_the_training_some_are_shown(folder):
    for epoch in range(21, 101):
        Image.new("RGB", (20, 20), (epoch, 0, 0)).save(folder / "samples" / f"samples_epoch{epoch:04d}.png")
    page = Page(write_report(folder).read_text())
    assert page.tags.count("input") == 24 and "after 1 epochs" in page.text and "after 100 epochs" in page.text


def test_other_curves_than_loss_rate_and_score_are_folded_away(folder):
    (folder / "csv").mkdir()
    names = ["train/loss", "train/lr", "val/loss", "eval/fid", "perf/images_per_sec", "train/grad_norm"]
    rows = [",".join([str(step), *["0.5"] * len(names)]) for step in (1, 2)]
    (folder / "csv" / "metrics.csv").write_text("\n".join([",".join(["step", *names]), *rows]) + "\n")
    shown, _, folded = write_report(folder).read_text().partition("<summary>2 more curves</summary>")
    for said in ("Training loss, 2", "Learning rate", "Loss on held-out data", "FID"):
        assert said in shown, said
    assert "Norm of the gradient" not in shown and "Norm of the gradient" in folded and "Images per second" in folded


def test_large_pictures_are_made_small(folder):
    noise = torch.randint(0, 256, (1500, 2400, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(folder / "samples.png")
    page = Page(write_report(folder).read_text())
    jpeg = [a for a in page.addresses if a.startswith("data:image/jpeg")]
    assert len(jpeg) == 1
    assert Image.open(io.BytesIO(base64.b64decode(jpeg[0].partition(",")[2]))).size == (1200, 750)


def test_a_bare_or_damaged_run_still_has_a_page(tmp_path, capsys):
    folder = tmp_path / "bare"
    folder.mkdir()
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(folder)
    (folder / "environment.json").write_text("{}")
    (folder / "metrics.json").write_text("no json")
    (folder / "samples.png").write_bytes(b"no picture")
    report([str(folder), "--out", str(tmp_path / "page.html")])
    assert "page.html" in capsys.readouterr().out
    text = Page((tmp_path / "page.html").read_text()).text
    assert "no checkpoint yet" in text and "cannot be read" in text and "not valid JSON" in text
    assert not (folder / "report.html").exists()


def test_losses_by_time_share_a_figure_and_the_data_are_named(folder):
    (folder / "csv").mkdir()
    names = ["loss_at/t0.0-0.5", "loss_at/t0.5-1.0", "train/grad_norm"]
    rows = [f"{step},{2 / step},{1 / step},0.5" for step in range(1, 9)]
    (folder / "csv" / "metrics.csv").write_text("\n".join([",".join(["step", *names]), *rows]) + "\n")
    before = len(Page(write_report(folder).read_text()).addresses)
    (folder / "csv" / "metrics.csv").write_text("\n".join([f"step,{names[2]}", *[row[:1] + ",0.5" for row in rows]]))
    assert before - len(Page(write_report(folder).read_text()).addresses) == 1
    (folder / "data.json").write_text(json.dumps({"num_samples": 12, "fingerprint": "abc" * 20}))
    assert "abcabc" in Page(write_report(folder).read_text()).text


def test_a_report_that_cannot_be_written_does_not_fail_the_training(folder, caplog):
    with caplog.at_level(logging.INFO, logger="jitflow"):
        write_final_report(folder)
        write_final_report(folder / "checkpoints" / "nowhere")
    said, warned = [record for record in caplog.records if "report" in record.message]
    assert said.message == f"report: {folder / 'report.html'}" and (folder / "report.html").is_file()
    assert warned.levelname == "WARNING" and "there is no folder" in warned.message


def test_numbers_of_numbers_are_folded_away(folder):
    accuracy = {str(t): t for t in (0.1, 0.5)}
    (folder / "metrics.json").write_text(json.dumps({"class_agreement": 0.9, "token_accuracy": accuracy}))
    text = write_report(folder).read_text()
    shown, _, folded = text.partition("<summary>2 more numbers</summary>")
    assert "class_agreement" in shown and "token_accuracy" not in shown and "token_accuracy.0.5" in folded
