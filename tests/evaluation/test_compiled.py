"""Whether an evaluation compiles its victim: settings, queries to come, earlier attempts; and what its files say."""

import json
import shutil
from functools import partial

import pytest
import yaml
from harness import centred_network, labelled

import rfdlight as rfd
from rfdlight.core.registry import component
from rfdlight.engine.compilation import CompiledVictim
from rfdlight.errors import ResumeError, UserError
from rfdlight.evaluation import evaluate, evaluation
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.standard import standard

QUICK = {"attack": "square", "eps": 0.05, "budget": 10, "sanity_checks": False, "batch_size": 4}


class Compiler:
    """Stands in for the compiler, and counts."""

    def __init__(self):
        self.made = self.calls = 0

    def __call__(self, function):
        self.made += 1

        def compiled(batch):
            self.calls += 1
            return function(batch)

        return compiled


@pytest.fixture
def compiler(monkeypatch):
    made = Compiler()
    monkeypatch.setattr(evaluate, "CompiledVictim", partial(CompiledVictim, compiler=made))
    return made


@pytest.fixture
def model():
    return centred_network()


@pytest.fixture
def pair(model):
    return labelled(model, count=6, seed=0)


def test_true_compiles_and_every_file_says_so(model, pair, compiler, tmp_path):
    run = rfd.evaluate(model, pair, **QUICK, compile=True, out=tmp_path)
    assert run.facts.compiled
    assert compiler.calls > 2
    assert json.loads((tmp_path / "summary.json").read_text())["run"]["compiled"] is True
    assert json.loads((tmp_path / "fingerprint.json").read_text())["compiled"] is True
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["evaluate"]["compiled"] is True
    assert rfd.evaluate(model, pair, **QUICK, compile=False).records == run.records
    assert run.facts.totals.total == run.facts.forwarded


@pytest.mark.parametrize("options", [{"attack": "pgd"}, {"precision": "bfloat16"}])
def test_gradients_and_other_precisions_stay_eager(model, pair, compiler, options):
    assert not rfd.evaluate(model, pair, **{**QUICK, **options}, compile=True).facts.compiled
    assert compiler.calls == 0


def test_auto_compiles_what_is_worth_it(model, pair, compiler, monkeypatch):
    assert not rfd.evaluate(model, pair, **QUICK).facts.compiled
    asked = []
    monkeypatch.setattr(evaluation, "is_worthwhile", lambda *given, **more: asked.append((given, more)) or True)
    assert rfd.evaluate(model, pair, **QUICK).facts.compiled
    [((queries, seconds, takes), more)] = asked
    assert (queries, more) == (60, {"deterministic": True})
    assert 0 < seconds < takes


def test_a_resumed_run_takes_the_mode_of_its_first_attempt(model, pair, compiler, tmp_path):
    for mode in (True, False):
        folder = tmp_path / str(mode)
        rfd.evaluate(model, pair, **QUICK, compile=mode, out=folder)
        assert rfd.evaluate(model, pair, **QUICK, out=folder, resume=True).facts.compiled is mode
    with pytest.raises(ResumeError, match="compiled"):
        rfd.evaluate(model, pair, **QUICK, compile=False, out=tmp_path / "True", resume=True)


def test_a_run_that_began_eagerly_stays_so_where_its_victim_compiles_by_now(model, pair, compiler, tmp_path):
    run = rfd.evaluate(model, pair, **QUICK, compile=False, out=tmp_path)
    again = rfd.evaluate(model, pair, **QUICK, compile=True, out=tmp_path, resume=True)
    assert (again.facts.compiled, again.records) == (False, run.records)


def test_the_stages_of_a_standard_evaluation_share_the_compiled_victim(model, pair, compiler, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(evaluation, "is_worthwhile", lambda queries, *_, **__: asked.append(queries) or queries > 0)
    settings = {"eps": 0.001, "budget": 4, "batch_size": 4, "access": "decision", "out": tmp_path}
    run = standard(model, pair, **settings)
    assert [stage.facts.compiled for stage in run.stages] == [True, True]
    assert (compiler.made, set(asked)) == (1, {2 * 6 * 4}), "the sanity checks compile nothing for themselves"
    assert standard(model, pair, **settings, resume=True).images == run.images


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
def test_a_deterministic_victim_has_the_same_verdicts_compiled_and_eager():
    data = component("data", "digits")(num_images=24)
    with evaluate.prepared("resnet8-digits", data, (), None, None) as subject:
        for name in ("square", "rays", "nes", "signhunt"):
            attack = component("attack", name)()
            configs = [EvaluationConfig(budget=60, compile=mode, sanity_checks=False) for mode in (True, False)]
            compiled, eager = (subject.attack(attack, config) for config in configs)
            assert (compiled.facts.compiled, eager.facts.compiled) == (True, False)
            outcomes = [[(one.id, one.verdict, one.queries) for one in run.records] for run in (compiled, eager)]
            assert outcomes[0] == outcomes[1]


def test_another_setting_is_refused():
    with pytest.raises(UserError, match=r"model\.compile"):
        EvaluationConfig(compile="perhaps")
