"""A fingerprint follows the data and nothing else."""

from types import SimpleNamespace

from jitflow.callbacks.data_record import DATA_NAME, DataRecord, describe_data

from jitflow.data.digits import DigitsDataModule
from jitflow.io.files import read_json

INFO = {"num_samples": 3, "num_classes": 2, "classes": ["cat", "dog"], "img_size": 8}
SAMPLES = [("/a/train/cat/0.png", 0), ("/a/train/cat/1.png", 0), ("/a/train/dog/0.png", 1)]


def test_it_does_not_depend_on_where_the_data_lie():
    moved = [(path.replace("/a/", "/somewhere/else/"), label) for path, label in SAMPLES]
    record = describe_data(INFO, SAMPLES)
    assert record == describe_data(dict(reversed(INFO.items())), moved)
    assert len(record["fingerprint"]) == 64 and record["num_samples"] == 3 and "classes" not in record


def test_it_changes_with_names_labels_order_and_sizes():
    renamed = [("/a/train/cat/9.png", 0), *SAMPLES[1:]]
    relabelled = [(SAMPLES[0][0], 1), *SAMPLES[1:]]
    others = [
        (INFO, renamed),
        (INFO, relabelled),
        (INFO, SAMPLES[::-1]),
        ({**INFO, "img_size": 16}, SAMPLES),
        (INFO, []),
    ]
    assert len({describe_data(*data)["fingerprint"] for data in [(INFO, SAMPLES), *others]}) == 6


def test_data_with_a_fingerprint_of_their_own_keep_it():
    assert describe_data({**INFO, "fingerprint": "abc"}, SAMPLES)["fingerprint"] == "abc"


def test_the_callback_writes_it_into_the_run(tmp_path):
    data = DigitsDataModule()
    data.setup("fit")
    trainer = SimpleNamespace(datamodule=data, is_global_zero=True)
    DataRecord(tmp_path).on_train_start(trainer, None)
    written = read_json(tmp_path / DATA_NAME)
    assert written == describe_data(data.get_dataset_info())
    assert written["num_classes"] == 10
    DataRecord(tmp_path / "none").on_train_start(SimpleNamespace(is_global_zero=True), None)
    assert not (tmp_path / "none").exists()
