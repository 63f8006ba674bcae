"""Victims behind an address: what is sent, what is tried again, what is counted, and what is refused."""

import copy
import random

import numpy as np
import pytest
import torch

import rfdlight as rfd
from rfdlight.errors import UserError
from rfdlight.victims import http
from rfdlight.victims.resolve import load

from .faulty_server import CLASSES, SHAPE, FaultyServer, as_bytes, linear

pytest.importorskip("urllib3")

QUICK = {"attack": "square", "eps": 0.02, "batch_size": 10, "sanity_checks": False}


@pytest.fixture
def server():
    made = FaultyServer()
    yield made
    made.stop()


@pytest.fixture
def pixels():
    return np.random.default_rng(1).random((3, *SHAPE), dtype=np.float32)


class Clock:
    """Time that passes in `sleep` alone."""

    def __init__(self):
        self.now, self.slept = 100.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(http, "time", made)
    return made


def labelled(count):
    """Images, and the labels that the server gives them."""
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))
    return x, torch.from_numpy(linear(x.numpy()).argmax(1))


def patient(server, **options):
    """A victim that survives every fault of a server that comes back."""
    return rfd.HTTPVictim(server.url, backoff=0.002, retries=20, **options)


def one_in_ten(number_of_restart):
    """Drops one request in ten, before or after its answer is counted, and starts the server anew once."""
    draws = random.Random(5)

    def fault(number):
        if number == number_of_restart:
            return "restart"
        return draws.choice(["before", "after"]) if draws.random() < 0.1 else None

    return fault


@pytest.mark.parametrize("queries", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_ledger_is_the_count_of_a_server_that_drops_requests_and_restarts(server, queries):
    x, y = labelled(20)
    server.fault = one_in_ten(queries // 20)
    run = rfd.evaluate(patient(server), (x, y), budget=queries // 10, **QUICK)
    assert server.starts == 2
    assert server.requests > 1.05 * len(server.answers)
    assert server.rows == run.facts.forwarded == run.facts.totals.total
    assert run.facts.totals.attacker >= queries
    assert not run.facts.failed
    direct = rfd.evaluate(rfd.wrap(linear, CLASSES), (x, y), budget=queries // 10, **QUICK)
    assert run.records == direct.records


def test_sanity_checks_are_in_the_ledger(server):
    x, y = labelled(3)
    run = rfd.evaluate(patient(server), (x, y), attack="square", eps=0.1, budget=6)
    assert server.rows == run.facts.forwarded == run.facts.totals.total


def test_all_tries_of_a_request_have_one_key_and_no_other_request_has_it(server, pixels):
    server.fault = {2: "after", 3: "before"}.get
    victim = patient(server)
    answers = [victim(torch.from_numpy(pixels)) for _ in range(3)]
    assert (server.requests, len(server.answers), server.rows) == (5, 3, 9)
    for answer in answers:
        assert np.array_equal(answer.numpy(), linear(pixels))


def test_an_answer_to_another_request_is_refused(server, pixels):
    server.echo = lambda key: "0" * 32
    with pytest.raises(UserError, match="answered another request") as caught:
        patient(server).answer(pixels)
    assert server.requests == 1
    assert "\n" not in str(caught.value)


def test_a_server_need_not_echo_the_key(server, pixels):
    server.echo = None
    assert np.array_equal(patient(server).answer(pixels), linear(pixels))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_gets_the_request_again_after_growing_pauses(server, pixels, clock, status):
    states = [status, status, 200]
    answer = server.answer
    server.answer = lambda x: (states.pop(0), answer(x)[1])
    server.fault = lambda number: server.answers.clear()  # a busy server keeps no answer
    victim = rfd.HTTPVictim(server.url, retries=2, backoff=1.0)
    assert np.array_equal(victim.answer(pixels), linear(pixels))
    first, second = clock.slept
    assert 0.5 <= first <= 1 <= second <= 2


def test_pauses_grow_to_a_bound_and_heed_the_server():
    victim = rfd.HTTPVictim("http://127.0.0.1:9/", backoff=1.0)
    assert all(2**n / 2 <= victim._pause(n, None) <= 2**n for n in range(5))
    assert victim._pause(400, None) <= 30
    assert (victim._pause(0, "7"), victim._pause(0, "86400")) == (7, 30)
    assert victim._pause(0, "Mon, 30 Nov 2026 10:00:00 GMT") <= 1


def test_a_limit_of_rows_per_second_counts_every_try(server, pixels, clock):
    server.fault = {2: "after"}.get
    victim = rfd.HTTPVictim(server.url, rate=6.0, backoff=1e-9)
    start = clock.now
    for _ in range(4):
        victim.answer(pixels)
    assert server.requests == 5
    assert clock.now - start == pytest.approx(4 * 3 / 6, abs=1e-6)  # the fifth batch waits for the four before it


REFUSALS = {
    "no array": (lambda x: (200, b"<html>sorry</html>"), "expected logits as the bytes of a .npy file, got 18 bytes"),
    "lying header": (
        lambda x: (200, as_bytes(linear(x)).replace(b"(3, 3), }   ", b"(9999, 9), }")),
        "expected logits as the bytes of a .npy file",
    ),
    "pickle": (lambda x: (200, as_bytes(np.array([{}]))), "expected logits as the bytes of a .npy file"),
    "rows": (
        lambda x: (200, as_bytes(linear(x)[1:])),
        r"\(3, classes\), floats, for 3 images, got float32 of shape \(2",
    ),
    "labels": (lambda x: (200, as_bytes(linear(x).argmax(1))), r"got int64 of shape \(3,\)"),
    "status": (
        lambda x: (400, b"expected pixels\nin [0, 1]"),
        r"answered with status 400: expected pixels in \[0, 1\]",
    ),
    "elsewhere": (lambda x: (301, b""), "answered with status 301: no reason"),
}


@pytest.mark.parametrize(("answer", "message"), REFUSALS.values(), ids=REFUSALS)
def test_an_answer_that_cannot_be_used_is_one_line_after_one_request(server, pixels, answer, message):
    server.answer = answer
    with pytest.raises(UserError, match=message) as caught:
        patient(server)(torch.from_numpy(pixels))
    assert server.requests == 1
    assert "\n" not in str(caught.value)


def test_wrong_classes_are_refused_before_the_run(server):
    server.answer = lambda x: (200, as_bytes(np.zeros((len(x), 3))))
    data = rfd.data.Digits(num_images=2)
    with pytest.raises(UserError, match=r"must return logits of shape \(2, 10\)"):
        rfd.evaluate(server.url, data, budget=5)


def test_a_server_that_lies_about_its_batch_in_the_middle_ends_the_run(server):
    x, y = labelled(4)
    honest = server.answer
    server.answer = lambda x: honest(x if server.requests < 12 else x[1:])
    with pytest.raises(UserError, match=r"got float32 of shape \(\d, 3\)"):
        rfd.evaluate(patient(server), (x, y), budget=50, **QUICK)


def test_nan_ends_the_run_in_one_line(server):
    server.answer = lambda x: (200, as_bytes(linear(x) * np.nan))
    with pytest.raises(UserError, match="NaN"):
        rfd.evaluate(patient(server), labelled(4), budget=5, **QUICK)


def test_a_server_that_is_down_is_one_line(clock):
    url = "http://127.0.0.1:9/predict"
    with pytest.raises(UserError, match="gave no answer in 3 tries: no connection; is the server running") as caught:
        rfd.evaluate(rfd.HTTPVictim(url, retries=2), labelled(2), budget=5, **QUICK)
    assert "\n" not in str(caught.value)
    assert len(clock.slept) == 2


def test_a_silent_server_is_a_time_out(server, pixels):
    server.fault = lambda number: "silent"
    with pytest.raises(UserError, match=r"gave no answer in 1 tries: no answer within 0.05 s"):
        rfd.HTTPVictim(server.url, timeout=0.05, retries=0).answer(pixels)


def test_a_server_that_dies_costs_the_tries_of_two_requests_and_the_run_goes_on_later(server, clock, tmp_path):
    x, y = labelled(20)
    settings = {**QUICK, "budget": 30, "out": tmp_path / "run"}
    server.fault = lambda number: "before" if number > 40 else None
    victim = rfd.HTTPVictim(server.url, retries=4)
    with pytest.raises(UserError, match="gave no answer in 5 tries"):
        rfd.evaluate(victim, (x, y), **settings)
    assert server.requests == 40 + 2 * 5
    assert len(clock.slept) == 2 * 4
    server.fault = lambda number: None
    run = rfd.evaluate(victim, (x, y), resume=True, **settings)
    assert not run.facts.failed
    direct = rfd.evaluate(rfd.wrap(linear, CLASSES), (x, y), **(settings | {"out": None}))
    assert run.records == direct.records


def test_images_of_a_request_without_an_answer_have_failed_and_the_others_go_on(server):
    x, y = labelled(20)
    server.fault = {40: "before"}.get
    run = rfd.evaluate(rfd.HTTPVictim(server.url, retries=0), (x, y), budget=30, **QUICK)
    assert 0 < len(run.facts.failed) <= 10
    assert all("gave no answer in 1 tries" in reason for reason in run.facts.failed.values())
    assert len(run.records) == 20 - len(run.facts.failed)
    assert server.rows == run.facts.forwarded == run.facts.totals.total


def test_the_run_says_that_the_weights_are_unknown(server):
    loaded = load(server.url)
    assert loaded.description == f"{server.url}, weights unknown, clean accuracy unknown"
    run = rfd.evaluate(server.url, labelled(2), budget=2, **QUICK)
    assert run.facts.victim == loaded.description


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://host/", {}, "url: expected an address such as"),
        ("http:predict", {}, "url: expected an address such as"),
        ("http://host:port/", {}, "url: expected an address such as"),
        ("http://me:secret@host/", {}, "url: expected an address without user name and password"),
        ("http://host/", {"timeout": 0}, "timeout: expected a positive number, got 0"),
        ("http://host/", {"rate": -1.0}, "rate: expected a positive number"),
        ("http://host/", {"retries": -1}, "retries: expected a whole number"),
        ("http://host/", {"outputs": "labels"}, "outputs: expected 'logits' or 'probabilities'"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_line(url, options, message):
    with pytest.raises(UserError, match=message) as caught:
        rfd.HTTPVictim(url, **options)
    assert "secret" not in str(caught.value)


def test_a_victim_that_was_not_used_can_be_copied_and_headers_are_sent(server, pixels):
    victim = copy.deepcopy(rfd.HTTPVictim(server.url, headers={"Authorization": "Bearer 7"}))
    seen = []
    answer = victim._post
    victim._post = lambda *given: seen.append(victim._headers) or answer(*given)
    victim.answer(pixels)
    assert seen == [{"Authorization": "Bearer 7", "Content-Type": "application/octet-stream"}]


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "urllib3", None)
    with pytest.raises(UserError, match=r"expected the package urllib3, got none; pip install 'rfdlight\[http\]'"):
        load("http://127.0.0.1:9/")
