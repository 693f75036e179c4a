"""A killed evaluation goes on where it was, and nothing else is ever taken from another one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from house import House
from peft import LoraConfig, get_peft_model

import eval.answers
from eval import evaluate
from eval.answer_cache import AnswerCache, key_of, weights_of
from eval.answers import Answering
from finetune.config.eval import EvalConfig
from finetune.generate import Answer
from finetune.stage import stage

ROOT = Path(__file__).resolve().parents[2]
EVALUATE = (
    "import sys; from eval import evaluate; from finetune.stage import stage; "
    "sys.exit(stage('eval', evaluate.run, sys.argv[1:]))"
)
ARMS = ["eval.arms=[base,adapter]", "eval.reference=base", "eval.forgetting.suites=[]"]
SETTINGS = ["train.max_steps=2", "eval.batch_rows=2", "eval.scoring=labels", *ARMS]
ANSWERS = [
    Answer("mit", 0.1 + 0.2, (5, 1), label_scores={"mit": -1.25, "gpl": -2.0}),
    Answer("ä", None, cut=True),
]


def killed_after(batches: int, house: House) -> None:
    """`make eval` in a process of its own, killed once so many batches are kept."""
    process = subprocess.Popen(
        [sys.executable, "-c", EVALUATE, *house.argv(*SETTINGS)],
        cwd=ROOT,
        env=os.environ | tiny.environment(house.folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(kept(house)) < batches and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def evaluated(house: House) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in tiny.environment(house.folder).items():
            patch.setenv(key, value)
        assert stage("eval", evaluate.run, house.argv(*SETTINGS)) == 0


def predictions(house: House) -> dict[str, bytes]:
    reports = house.folder / "artifacts/reports/tiny"
    folder = reports / (reports / "current").read_text().strip()
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def kept(house: House) -> dict[str, int]:
    """Finished batches, and when each was written."""
    folder = house.folder / "artifacts/answers/tiny"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def test_a_killed_evaluation_computes_the_missing_batches_and_ends_the_same(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house = House.built(tmp_path, tiny_model_folder)
    assert house.train("train.max_steps=2") == 0
    evaluated(house)
    undisturbed, all_batches = predictions(house), kept(house)
    assert len(all_batches) == 12  # 12 rows, two a batch, base and adapter
    scored = json.loads(undisturbed["predictions_adapter.jsonl"].splitlines()[0])
    assert set(scored["label_scores"]) == {"notice", "payment"}
    assert scored["prediction"] == max(scored["label_scores"], key=scored["label_scores"].get)

    for name in ("reports", "answers"):
        (house.folder / "artifacts" / name).rename(house.folder / name)
    killed_after(4, house)
    before = kept(house)
    assert 4 <= len(before) < 12

    damaged = house.folder / "artifacts/answers/tiny" / min(before)
    damaged.write_text(damaged.read_text().replace("-", "", 1))
    capsys.readouterr()
    evaluated(house)
    assert f"note: {damaged} is damaged; its 2 answers are computed again" in capsys.readouterr().out
    after = kept(house)
    assert {name for name in before if after[name] != before[name]} == {damaged.name}
    assert after.keys() == all_batches.keys()
    assert predictions(house) == undisturbed
    assert damaged.stat().st_mode & 0o777 == 0o600
    assert damaged.parent.stat().st_mode & 0o777 == 0o700


def test_answers_come_back_to_the_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = AnswerCache(tmp_path / "answers")
    assert cache.read("k", 2) is None
    cache.write("k", ANSWERS)
    assert cache.read("k", 2) == ANSWERS
    assert capsys.readouterr().out == ""
    for spoil in (lambda text: text[:-9], lambda text: text.replace('"mit"', '"gpl"', 1), lambda _: "[]"):
        (tmp_path / "answers/k.json").write_text(spoil((tmp_path / "answers/k.json").read_text()))
        assert cache.read("k", 2) is None
        assert capsys.readouterr().out.count("is damaged; its 2 answers are computed again") == 1
        cache.write("k", ANSWERS)
    (tmp_path / "answers/k.json").rename(tmp_path / "answers/other.json")
    assert cache.read("other", 2) is None  # another batch's file under this name


@pytest.fixture
def loaded(tiny_model_folder: Path) -> Any:
    """An adapter on a base whose content is known."""
    made = tiny.loaded_model(tiny_model_folder, quantised=False)
    torch.manual_seed(0)
    settings = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return replace(made, model=get_peft_model(made.model, settings).eval(), base="content")


def test_other_weights_prompts_or_settings_are_other_answers(loaded: Any) -> None:
    found = [weights_of(loaded)]
    assert weights_of(loaded) == found[0]
    with loaded.model.disable_adapter():
        found.append(weights_of(loaded))
    found.append(weights_of(replace(loaded, base="other")))
    next(weight for name, weight in loaded.model.named_parameters() if "lora_B" in name).data[0, 0] += 1e-3
    found.append(weights_of(loaded))
    assert weights_of(replace(loaded, base=None)) is None
    keys = [key_of(str(weights), {"behind": 8}, [[1, 2], [3]]) for weights in found]
    keys.append(key_of(str(found[0]), {"behind": 9}, [[1, 2], [3]]))
    keys.append(key_of(str(found[0]), {"behind": 8}, [[1], [2, 3]]))
    keys.append(key_of(str(found[0]), {"behind": 8}, [[3], [1, 2]]))
    assert len(set(keys)) == len(keys) == 7


def test_a_second_time_nothing_is_computed(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [loaded.renderer.prompt_ids([{"role": "user", "content": "x" * size}]) for size in (9, 2, 5)]
    config = EvalConfig(primary="a", max_new_tokens=4, batch_rows=2)
    answering = Answering(config, AnswerCache(tmp_path), None)
    first = answering.answer(loaded, prompts, "adapter")
    computed = list[int]()

    def counted(loaded: Any, prompts: Sequence[list[int]], most: int) -> list[Answer]:
        computed.append(len(prompts))
        return first[: len(prompts)]

    monkeypatch.setattr(eval.answers, "greedy_batch", counted)
    assert answering.answer(loaded, prompts, "adapter") == first
    assert computed == []
    assert f"adapter: 3 of 3 answers were there, in {tmp_path}" in capsys.readouterr().out
    with loaded.model.disable_adapter():
        answering.answer(loaded, prompts, "base")
    assert computed == [2, 1]


def test_a_batch_keeps_the_bound_of_positions(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[tuple[int, int]]()

    def measured(loaded: Any, prompts: Sequence[list[int]], most: int) -> list[Answer]:
        sizes.append((len(prompts), max(map(len, prompts)) + most))
        return [Answer("", None)] * len(prompts)

    monkeypatch.setattr(eval.answers, "greedy_batch", measured)
    config = EvalConfig(primary="a", max_new_tokens=4, batch_rows=8, batch_tokens=50)
    prompts = [[1] * size for size in (3, 60, 9, 12, 30, 4, 4, 7)]
    Answering(config, AnswerCache(tmp_path), None).answer(loaded, prompts, "base")
    assert sizes == [(1, 64), (1, 34), (3, 16), (3, 8)]
