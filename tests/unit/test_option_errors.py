"""A wrong option of `jitflow train` is named, with the nearest right one and what its class takes."""

import pytest

from jitflow.cli import main


@pytest.mark.parametrize(
    ("option", "nearest", "takes"),
    [
        ("--data.batchsize=3", "--data.batch_size", "DigitsDataModule takes"),
        ("--data.data_path=photos", "", "DigitsDataModule takes img_size"),
        ("--model.learnin_rate=3", "--model.learning_rate", "JiTLightningModule takes"),
        ("--trainer.max_epoch=3", "--trainer.max_epochs", "jitflow train --help"),
        ("--datas.batch_size=3", "", "jitflow train --help"),
        ("--chekpoint.save_last_freq=3", "--checkpoint.save_last_freq", "jitflow train --help"),
    ],
)
def test_a_wrong_option_names_itself_and_the_right_one(capsys, option, nearest, takes):
    assert main(["train", "--config", "images/digits", option, "--dry_run"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert option.partition("=")[0] in line and nearest in line and takes in line
