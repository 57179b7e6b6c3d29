"""Two commands in one folder: the second is refused by name and changes nothing."""

import shutil
import time

import pytest
from interruption import At
from PIL import Image
from test_used_folders import REFERENCE, SMALL, tree
from tiny import TEXT, train_text

from jitflow import cli
from jitflow.errors import ConfigError
from jitflow.io.folder_lock import LOCK_NAME, live_holder, locked

RUN = SMALL / "images_recipe"
WRITING = {
    "train": ("train", "--resume", "{run}", "--trainer.max_epochs", "3"),
    "evaluate": ("evaluate", RUN, *REFERENCE, "--steps", "1", "--device", "cpu", "--out", "{run}"),
    "sweep": ("sweep", RUN, "--guidance", "1", *REFERENCE, "--steps", "1", "--device", "cpu", "--out", "{run}"),
    "simulate": ("microdoppler", "simulate", "--num_users", "1", "--images_per_user", "2", "--output_dir", "{run}"),
    "extract": (
        "microdoppler",
        "extract",
        "--data_dir",
        "{pictures}",
        "--val_fraction",
        "0.4",
        "--device",
        "cpu",
        "--output_path",
        "{run}",
    ),
}


def run_command(name, folder, capsys):
    pictures = folder.with_name("pictures")
    words = [str(word).replace("{run}", str(folder)).replace("{pictures}", str(pictures)) for word in WRITING[name]]
    status = cli.main(words)
    return status, capsys.readouterr().err.strip().splitlines()


@pytest.mark.parametrize("name", WRITING)
def test_a_folder_in_use_is_refused_by_name(name, tmp_path, capsys):
    folder = tmp_path / "run"
    if name == "train":
        shutil.copytree(RUN, folder)
    if name == "extract":
        (tmp_path / "pictures").mkdir()
        for user in ("01", "02"):
            for sample in range(3):
                Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / f"user_{user}_sample_{sample:03d}.png")
    with locked(folder):
        before = tree(folder)
        status, lines = run_command(name, folder, capsys)
        assert status == 1 and f"{folder} is in use by process" in lines[-1]
        assert {path: text for path, text in tree(folder).items() if path != "protocol.json"} == before


def test_runs_names_the_run_that_is_in_use(tmp_path, capsys):
    shutil.copytree(RUN, tmp_path / "busy")
    shutil.copytree(RUN, tmp_path / "idle")
    with locked(tmp_path / "busy"):
        assert cli.main(["runs", str(tmp_path)]) == 0
    table, _, commands = capsys.readouterr().out.partition("next:")
    rows = {name: next(row for row in table.splitlines() if name in row) for name in ("busy", "idle")}
    assert "in use by process" in rows["busy"] and "in use" not in rows["idle"]
    assert "busy" not in commands and "idle" in commands


def test_a_training_holds_its_folder_and_ends_when_it_loses_it(tmp_path, text, monkeypatch):
    monkeypatch.setattr("jitflow.io.folder_lock.HEARTBEAT_SEC", 0.01)
    folder, seen = tmp_path / "run", []
    train_text(text, folder, **TEXT, epochs=4, max_steps=2, callbacks=[At(1, lambda: seen.append(live_holder(folder)))])
    assert seen[0] is not None and live_holder(folder) is None
    records = []

    def lose():
        path = folder / LOCK_NAME
        path.write_text(path.read_text().replace('"token": "', '"token": "of another '))
        records.append((folder / "run.json").read_text())
        # Some heartbeats.
        time.sleep(0.2)

    with pytest.raises(ConfigError, match="was taken over by process"):
        train_text(text, folder, resume=folder, **TEXT, epochs=8, max_steps=6, callbacks=[At(3, lose)])
    # Nothing is written into the folder of another, not even the failure.
    assert (folder / "run.json").read_text() == records[0]
    assert '"running"' in records[0]
