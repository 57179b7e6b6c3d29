"""The report of a run in a real browser without a network."""

import shutil

import pytest
import torch
from PIL import Image

from jitflow.io.files import write_json
from jitflow.run.report import write_report

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_it_opens_with_every_picture_and_asks_for_nothing(tmp_path):
    history = {"TrainingHistory": {"losses": [2.0 - 0.01 * i for i in range(120)], "seconds": 1.0}}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"global_step": 120, "callbacks": history}, tmp_path / "run" / "checkpoints" / "checkpoint-last.pth")
    write_json(tmp_path / "run" / "environment.json", {"command": "jitflow train"})
    write_json(tmp_path / "run" / "metrics.json", {"fid": 3.2, "note": "<img src=http://localhost/x.png>"})
    Image.new("RGB", (64, 64), "red").save(tmp_path / "run" / "samples.png")
    page_file = write_report(tmp_path / "run", out=tmp_path / "moved.html")
    asked = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(offline=True)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        sizes = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        text = page.inner_text("body")
        browser.close()
    assert len(sizes) == 2 and all(sizes)
    assert "<img src=http://localhost/x.png>" in text and "3.2" in text
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
