"""A fingerprint follows the data and nothing else."""

from jitflow.run.data_record import describe_data

INFO = {"num_samples": 3, "num_classes": 2, "classes": ["cat", "dog"], "img_size": 8}
SAMPLES = [("/a/train/cat/0.png", 0), ("/a/train/cat/1.png", 0), ("/a/train/dog/0.png", 1)]


def test_it_does_not_depend_on_where_the_data_lie():
    moved = [(path.replace("/a/", "/somewhere/else/"), label) for path, label in SAMPLES]
    record = describe_data(INFO, SAMPLES)
    assert record == describe_data(dict(reversed(INFO.items())), moved)
    assert len(record["fingerprint"]) == 64 and record["num_samples"] == 3
    assert record["classes"] == ["cat", "dog"] and "classes" not in describe_data({**INFO, "classes": ["text"]})


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
