"""Signals are noticed once, obeyed at the step, and given back."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from jitflow.callbacks.signals import SIGNALS, StopRequest, resumable_exit, stop_exception


@pytest.fixture
def before():
    found = {number: signal.getsignal(number) for number in SIGNALS}
    # A job in the background of a shell is started with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in found.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_remembered_and_the_second_does_what_it_always_did(before, number):
    request = StopRequest()
    request.listen()
    assert request.received() == 0
    os.kill(os.getpid(), number)
    assert request.received() == number
    assert {n: signal.getsignal(n) for n in SIGNALS} == before
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_release_gives_all_back_and_can_be_repeated(before):
    request = StopRequest()
    request.listen()
    assert all(signal.getsignal(n).__self__ is request for n in SIGNALS)
    request.release()
    request.release()
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_a_new_training_forgets_the_last_signal(before):
    request = StopRequest()
    request.listen()
    os.kill(os.getpid(), signal.SIGUSR1)
    request.listen()
    assert request.received() == 0
    request.listen()
    request.release()
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_exit_statuses():
    assert isinstance(stop_exception(signal.SIGINT), KeyboardInterrupt)
    assert stop_exception(signal.SIGTERM).code == 143
    assert stop_exception(signal.SIGUSR1).code == 128 + signal.SIGUSR1


@pytest.mark.parametrize(
    ("raised", "interrupted", "expected", "code"),
    [
        (SystemExit(1), True, KeyboardInterrupt, None),
        (SystemExit(143), True, SystemExit, 143),
        (SystemExit(0), True, SystemExit, 0),
        (SystemExit(1), False, SystemExit, 1),
        (ValueError(), False, ValueError, None),
    ],
)
def test_how_a_fit_ends(raised, interrupted, expected, code):
    with pytest.raises(expected) as caught, resumable_exit(SimpleNamespace(interrupted=interrupted), "go on"):
        raise raised
    assert getattr(caught.value, "code", None) == code
