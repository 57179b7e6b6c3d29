"""Runs whose files are odd: listings show the others, reports and model cards escape, pictures have limits."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from limits import limits
from PIL import Image

from jitflow import cli, pictures
from jitflow.apps.images.fast_decoder import load_crop_fast
from jitflow.apps.images.image_check import inspect_image
from jitflow.apps.text.plots import plot_accuracy
from jitflow.data.crop import center_crop_arr
from jitflow.data.image_file import decoder_of, open_image
from jitflow.errors import DataError
from jitflow.export.model_card import model_card
from jitflow.io.csv_file import iter_csv_rows
from jitflow.run.curves import read_curves
from jitflow.run.report import write_final_report, write_report


def run_folder(path, **files):
    path.mkdir(parents=True)
    for name, content in {"environment.json": "{}", **files}.items():
        (path / name).write_text(content) if isinstance(content, str) else (path / name).write_bytes(content)
    return path


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *more):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *more, chunk(b"IDAT", b""), chunk(b"IEND", b"")])


JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01\xff\xd9"
PICTURES = {
    "width.png": png(31_623, 31_623),
    "profile.png": png(8, 8, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000), 1))),
    "width.jpg": JPEG,
    "width.ppm": b"P6\n99999999999 1\n255\n",
    "area.ppm": b"P6\n9000 9000\n255\n",
    "width.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
    "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\n",
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_one_error_within_limits_for_every_reader(tmp_path, capsys, name):
    path = tmp_path / name
    path.write_bytes(PICTURES[name])
    with limits():
        for read in (lambda: open_image(str(path), channels=3), lambda: load_crop_fast(str(path), img_size=(8, 8))):
            with pytest.raises(DataError, match="cannot read the image") as caught:
                read()
            assert "\n" not in str(caught.value)
        assert inspect_image(path).findings[0][0] in ("bomb", "corrupt", "truncated")
        assert cli.main(["info", str(path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_large_photograph_is_read_and_a_flat_one_of_its_size_is_not(tmp_path):
    flat = Image.new("L", (8000, 8000))
    flat.save(tmp_path / "flat.png")
    noise = np.random.default_rng(0).integers(0, 256, (2000, 8000), np.uint8)
    Image.fromarray(np.tile(noise, (4, 1))).save(tmp_path / "photo.jpg", quality=10)
    with decoder_of(tmp_path / "photo.jpg") as image:
        assert image.size == (8000, 8000)
    with pytest.raises(Image.DecompressionBombError), decoder_of(tmp_path / "flat.png"):
        pass


def test_of_a_narrow_picture_only_the_middle_is_scaled():
    column = np.repeat(np.arange(100_000) % 251, 3).astype(np.uint8).reshape(100_000, 1, 3)
    with limits():
        crop = np.asarray(center_crop_arr(Image.fromarray(column), 64))
    # The middle pixel of the source fills the crop, up to the edges where its neighbours begin.
    assert crop.shape == (64, 64, 3) and (crop[32] == 50_000 % 251).all()


def test_odd_files_hide_no_other_run_and_every_report_is_written(tmp_path, capsys):
    odd = {
        "field": {"metrics.csv": "step,train/loss\n1,2\n2," + "9" * 200_000},
        "math": {"metrics.csv": "step,$\\frac{$,loss_at/$x\n1,2,2\n2,3,3\n"},
        "steps": {"metrics.csv": "step,train/loss\n1,1e300\n2,-1e308\n3,nan\n1e300,5\n"},
        "columns": {"metrics.csv": "step" + ",a" * 100_000 + "\n" + "1,2\n" * 1000},
        "surrogate": {"environment.json": '{"command": "\\ud800 [red]", "seed": "\\udfff"}'},
        "itself": {"config.yaml": "a: &a [*a]\n"},
        "score": {"metrics.json": json.dumps({"fid": 10**400, "kid": "x"})},
        "record": {"run.json": '{"application": [1], "recipe": 3, "state": {}}'},
        "data": {"data.json": '{"fingerprint": "[/b][red]"}'},
        **{f"picture {name}": {"samples.png": content} for name, content in PICTURES.items()},
        **{name: {"environment.json": json.dumps({"command": name})} for name in ("a [red] b", "a [&] <i>")},
    }
    for name, files in odd.items():
        run_folder(tmp_path / name, **files)
    run_folder(tmp_path / "good")
    torch.save({"x": [[0]] * 3}, tmp_path / "good" / "last.ckpt")
    with limits():
        assert cli.main(["runs", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    for name in ["good", *odd]:
        assert f"/{name} " in listed or f"/{name}\n" in listed, name
    for name in odd:
        with limits(seconds=10):
            page = write_report(tmp_path / name).read_text()
        assert "<script" not in page and "<i>" not in page and "onerror" not in page


def test_a_run_that_cannot_be_described_is_left_out(tmp_path, capsys, caplog):
    run_folder(tmp_path / "good")
    bad = run_folder(tmp_path / "bad")
    torch.save({"global_step": "x", "loops": 3}, bad / "last.ckpt")
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert "/good " in capsys.readouterr().out
    assert "bad" in caplog.text


def test_control_characters_of_files_do_not_reach_the_terminal(tmp_path, capsys):
    run_folder(tmp_path / "a", **{"environment.json": json.dumps({"command": "x\x1b[2J", "commit": "\x1b]0;x\x07"})})
    assert cli.main(["info", str(tmp_path / "a")]) == 0
    (tmp_path / "b.json").write_text('{"a": 1, "a\\u001b[2J": [}')
    assert cli.main(["info", str(tmp_path / "b.json")]) == 1
    (tmp_path / "c.json").write_text(json.dumps({"x\x1b[2J": "\x1b[2J"}))
    assert cli.main(["info", str(tmp_path / "c.json")]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\\x1b[2J" in shown.out


def test_a_report_that_fails_is_a_warning_after_a_training(tmp_path, caplog, monkeypatch):
    run_folder(tmp_path / "run", **{"metrics.csv": "step,train/loss\n1,2\n2,3\n"})
    monkeypatch.setattr(pictures, "plot_curve", lambda *args, **options: 1 // 0)
    write_final_report(tmp_path / "run")
    assert "no report was written" in caplog.text
    assert not (tmp_path / "run" / "report.html").exists()


def test_names_in_plots_begin_no_formula(tmp_path):
    options = {"xlabel": "$\\frac{$", "ylabel": "$\\frac{$", "title": "$\\frac{$"}
    pictures.plot_curve(tmp_path / "a.png", [1, 2], [1.0, 2.0], marks={"$\\frac{$": 1.5}, **options)
    names = ["$\\frac{$"]
    pictures.heat_map(tmp_path / "b.png", [[1.0]], columns=names, rows=names, xlabel="$\\frac{$", title="$\\frac{$")
    plot_accuracy(tmp_path / "c.png", {"$\\frac{$": {0.5: 1.0}}, title="$\\frac{$")
    assert all((tmp_path / f"{name}.png").is_file() for name in "abc")


def test_a_log_of_many_columns_or_rows_ends_within_limits(tmp_path):
    (tmp_path / "metrics.csv").write_text("step" + ",a" * 500_000 + "\n" + "1\n" * 100_000)
    with limits():
        assert read_curves(tmp_path) == {}
    (tmp_path / "metrics.csv").write_text("step,a,b\n1,2\n\n3,4,5,6\n")
    assert list(iter_csv_rows(tmp_path / "metrics.csv")) == [
        {"step": "1", "a": "2"},
        {"step": "3", "a": "4", "b": "5"},
    ]


def test_a_model_card_holds_no_markup_of_files():
    evil = "<img src=x onerror=alert(1)>"
    card = model_card(
        title=f"{evil}\n# heading",
        settings={"a": "```\n<script>alert(1)</script>\n```\n", "b": evil},
        sampling={},
        weights="EMA 1",
        data={"class_names": [evil, "a|b"]},
        reports=[{"metrics": {evil: 1.0, "a|b\nc": 2.0, "huge": 10**400}, "protocol": {evil: "````"}}],
        trained_on=[evil],
        license="mit",
        usage="",
        library="jitflow",
    )
    outside, fence = [], ""
    for line in card.splitlines():
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if not fence and len(ticks) >= 3:
            fence = ticks
        elif fence and line.strip() == line and len(ticks) >= len(fence) and line == ticks:
            fence = ""
        elif not fence:
            outside.append(line)
    assert not fence
    text = "\n".join(outside)
    assert "<img" not in text and "<script" not in text and "\n# heading" not in text
    assert "| a\\|b c | 2 |" in text and "huge" not in text
