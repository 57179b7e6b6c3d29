"""Which settings of a resumed run may differ from the recorded ones."""

import pytest

from jitflow.run.settings import changed_settings, fixed_settings


@pytest.mark.parametrize("recorded", [False, True, "blocks", "network"])
def test_a_run_of_before_compilation_was_automatic_is_the_same_run(recorded):
    assert changed_settings({"model.compile": recorded}, {"model.compile": "auto"}) == {}
    assert fixed_settings({"model.compile": (recorded, "auto")}) == {}
    assert changed_settings({"model.t_eps": 0.05}, {"model.t_eps": 0.1}) == {"model.t_eps": (0.05, 0.1)}
