"""The forgetting suites: checks by hand, files as they come, verdicts with known numbers, a tiny model for the rest."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import TEMPLATE, loaded_model

from eval import forgetting, stats
from eval.answers import Answering
from eval.forgetting.instructions import ARGUMENTS, CHECKS, follows, sentences, words
from eval.forgetting.scoring import choose, is_answer, is_number, prompts
from eval.forgetting.suites import OWN, SOURCES, Item, open_suite, sample
from eval.forgetting.verdicts import FIELDS, Scored, record, together
from finetune.chat import Renderer
from finetune.config.eval import EvalConfig, ForgettingConfig, Suite
from finetune.config.schema import PathsConfig
from finetune.errors import ConfigError, DataError

GENERAL = Path(__file__).resolve().parents[3] / "shared/data/general"
needs_files = pytest.mark.skipif(
    not GENERAL.is_dir(), reason="needs ../shared/data/general, which is not there"
)
OURS = [Suite.own_instructions, Suite.own_knowledge]


def config(*asked: Suite, **settings: Any) -> EvalConfig:
    return EvalConfig(
        primary="x", batch_rows=8, resamples=500, forgetting=ForgettingConfig([*asked], **settings)
    )


@pytest.mark.parametrize(
    ("name", "given", "kept", "broken"),
    [
        ("keywords:existence", {"keywords": ["Rose", "c++"]}, "a rose, in C++", "a rose"),
        (
            "keywords:frequency",
            {"keyword": "cow", "relation": "at least", "frequency": 2},
            "Cow and cow",
            "cow",
        ),
        ("keywords:frequency", {"keyword": "cow", "relation": "less than", "frequency": 1}, "a cat", "a cow"),
        ("keywords:forbidden_words", {"forbidden_words": ["hot"]}, "a shot", "so Hot."),
        (
            "keywords:letter_frequency",
            {"letter": "z", "let_relation": "at least", "let_frequency": 2},
            "Zz",
            "z",
        ),
        (
            "length_constraints:number_words",
            {"relation": "less than", "num_words": 3},
            "it's",
            "one two three",
        ),
        (
            "length_constraints:number_sentences",
            {"relation": "at least", "num_sentences": 2},
            "A b. C d?",
            "A b.",
        ),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n*** b", "a *** *** b"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"first_word": "dear", "nth_paragraph": 2, "num_paragraphs": 2},
            "a\n\n'Dear, b",
            "a\n\nb\n\ndear",
        ),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a b"),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "x\np. s. y", "PS y"),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "x\nP.P.S y", "P.S. y"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n  - b\n**c**", "* a\n- b\n- c"),
        ("detectable_format:constrained_response", {}, "So: My answer is no.", "No."),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* **b**", "*a* ** **"),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "Day", "num_sections": 2},
            "Day 1 Day2",
            "Day 1",
        ),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a}"),
        ("detectable_format:title", {}, "<<a title>>", "<< >>"),
        ("startend:quotation", {}, ' "a" ', '"a" b'),
        ("startend:end_checker", {"end_phrase": "The end."}, 'So. THE END."', "The end. Really."),
        ("combination:two_responses", {}, "a ****** b", "a ****** a"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "What is it?"}, "what is it? A cat.", "A cat."),
        ("change_case:english_capital", {}, "A CAT.", "A Cat."),
        ("change_case:english_lowercase", {}, "a cat.", "A cat."),
        (
            "change_case:capital_word_frequency",
            {"capital_relation": "at least", "capital_frequency": 2},
            "MIND the DOG'S",
            "Mind THE dog",
        ),
        ("punctuation:no_comma", {}, "a; b", "a, b"),
    ],
)
def test_every_instruction_tells_kept_from_broken(
    name: str, given: dict[str, Any], kept: str, broken: str
) -> None:
    assert follows(name, kept, given)
    assert not follows(name, broken, given)
    assert not follows(name, " \n", given)


def test_words_and_sentences_are_counted() -> None:
    assert words("It's 3.5 km, no_more.") == 6
    assert sentences('He said "no." Then 3.5 km! Why?\n\nA heading\n\nThe end') == 5


def test_numbers_and_answers_are_read() -> None:
    assert is_number("6 x 7 = 42\n#### 1,042.0", "1042")
    assert is_number("so the total is $42.", "42")
    assert not is_number("42 or 43", "42")
    assert not is_number("none", "42")
    assert is_answer("The answer is (B).", "(B)")
    assert is_answer("B) a blue one", "(B)")
    assert not is_answer("Because (B)", "(B)")
    assert not is_answer("Bread", "(B)")
    assert is_answer(" **Yes.** ", "yes")
    assert not is_answer("yes or no", "yes")


def test_our_own_suites_are_sound() -> None:
    """Of four choices the right one stands at each place equally often; every check that needs no other text occurs."""
    knowledge = open_suite(Suite.own_knowledge, OWN / "own_knowledge.yaml", None, 0).items
    assert len(knowledge) == 108
    assert Counter(item.gold for item in knowledge) == dict.fromkeys(range(4), 27)
    listed = yaml.safe_load((OWN / "own_knowledge.yaml").read_text())
    for entry, item in zip(listed, knowledge, strict=True):
        assert f"\n{'ABCD'[int(str(item.gold))]}. {entry['right']}\n" in item.prompt
    instructions = open_suite(Suite.own_instructions, OWN / "own_instructions.yaml", None, 0).items
    assert len(instructions) == 84
    assert {item.subject for item in instructions} == CHECKS.keys() - {
        "length_constraints:nth_paragraph_first_word"
    }
    for found in (knowledge, instructions):
        assert len({item.prompt for item in found}) == len(found)
    assert ARGUMENTS.keys() <= CHECKS.keys()


@needs_files
def test_the_public_files_are_read_whole() -> None:
    expected = {Suite.ifeval: 509, Suite.mmlu: 570, Suite.bbh: 270, Suite.gsm8k: 200}
    for suite, count in expected.items():
        opened = open_suite(suite, GENERAL / SOURCES[suite].file, None, 0)
        assert len(opened.items) == count
        left_out = {"needs a language detector": 31} if suite is Suite.ifeval else {}
        assert opened.left_out == left_out
    few = open_suite(Suite.mmlu, GENERAL / SOURCES[Suite.mmlu].file, 114, 0).items
    assert set(Counter(item.subject for item in few).values()) == {2}
    gsm8k = open_suite(Suite.gsm8k, GENERAL / SOURCES[Suite.gsm8k].file, None, 0).items
    rows = (GENERAL / SOURCES[Suite.gsm8k].file).read_text().splitlines()
    for line, item in zip(rows, gsm8k, strict=True):
        assert is_number(json.loads(line)["answer"], str(item.gold))


def test_a_sample_is_even_over_subjects_and_the_same_for_a_seed() -> None:
    items = [Item(str(index), "abcc"[index % 4], "", "") for index in range(40)]
    few = sample(items, 9, 1)
    assert Counter(item.subject for item in few) == {"a": 3, "b": 3, "c": 3}
    assert few == sample(items, 9, 1) != sample(items, 9, 2)
    assert [int(item.id) for item in few] == sorted(int(item.id) for item in few)
    assert Counter(item.subject for item in sample(items, 38, 1)) == {"a": 10, "b": 10, "c": 18}
    assert sample(items, None, 1) == sample(items, 99, 1) == items


@pytest.mark.parametrize(
    ("suite", "line", "told"),
    [
        (Suite.mmlu, "{", ":1: not JSON"),
        (Suite.mmlu, "[1]", ":1: list instead of an object"),
        (
            Suite.mmlu,
            '{"subject": "s", "question": "secret", "choices": ["a", "b"], "answer": 2}',
            ":1: field 'answer' is none of the 2 choices",
        ),
        (
            Suite.bbh,
            '{"task": "t", "input": "", "target": "x"}',
            ":1: field 'input' is str; it must be a filled str",
        ),
        (
            Suite.gsm8k,
            '{"question": "secret", "answer": "#### many"}',
            "does not end with a number behind ####",
        ),
        (
            Suite.ifeval,
            '{"key": 1, "prompt": "secret", "instruction_id_list": ["keywords:existence"], "kwargs": [{}]}',
            ":1: field 'keywords' is NoneType; it must be a filled list",
        ),
        (
            Suite.ifeval,
            '{"key": 1, "prompt": "secret", "instruction_id_list": ["new:one"], "kwargs": [{}]}',
            ":1: 'new:one' is no instruction that can be checked",
        ),
        (
            Suite.ifeval,
            '{"key": 1, "prompt": "x", "instruction_id_list": ["language:response_language"], "kwargs": [{}]}',
            "has no usable items",
        ),
    ],
)
def test_a_broken_file_is_refused_by_its_place(tmp_path: Path, suite: Suite, line: str, told: str) -> None:
    path = tmp_path / SOURCES[suite].file
    path.write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        open_suite(suite, path, None, 0)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_tangos_interval() -> None:
    """By hand where nothing differs: z^2 / (n + z^2); his own example of 44 rows and one broken: -0.118 to 0.059."""

    def interval(rows: int, fixed: int, broke: int) -> tuple[float, float]:
        a, b = np.zeros(rows), np.zeros(rows)
        b[:fixed], a[fixed : fixed + broke] = 1, 1
        return stats.score_interval(stats.PairedScores(a, b), 0.95)

    square = 1.959963984540054**2
    assert interval(64, 0, 0) == pytest.approx((-square / (64 + square), square / (64 + square)), abs=1e-9)
    assert interval(44, 0, 1) == pytest.approx((-0.118, 0.059), abs=5e-4)
    assert interval(50, 7, 2) == pytest.approx(tuple(-end for end in interval(50, 2, 7)[::-1]), abs=1e-9)
    assert interval(10, 10, 0) == pytest.approx(((10 - square) / (10 + square), 1), abs=1e-9)


def asked(base: int, adapter: int, rows: int, chance: float = 0.25) -> Scored:
    """The adapter is right on the first `adapter` items, the base on the first `base`."""
    sides = [[[float(index < count)] for index in range(rows)] for count in (base, adapter)]
    return Scored("mmlu", "choice", sides[0], sides[1], chance, {})


@pytest.mark.parametrize(
    ("base", "adapter", "rows", "not_inferior", "verdict"),
    [
        (60, 60, 80, True, "inconclusive"),  # nothing moved: 4.6 points could have been missed
        (45, 45, 60, False, "inconclusive"),  # of 60 items 6.0 could
        (60, 59, 80, False, "inconclusive"),
        (300, 296, 400, True, "inconclusive"),
        (60, 40, 80, False, "worse"),
        (20, 20, 80, False, "inconclusive"),  # a base that guesses can lose nothing
        (20, 40, 80, True, "better"),
    ],
)
def test_what_was_kept_and_what_was_lost(
    base: int, adapter: int, rows: int, not_inferior: bool, verdict: str
) -> None:
    settings = config(margins={"mmlu": 0.05})
    (found,) = together([record(asked(base, adapter, rows), settings)], settings)
    assert list(found) == FIELDS
    assert (found["not_inferior"], found["verdict"]) == (not_inferior, verdict)
    assert (found["value_base"], found["value_adapter"]) == (base / rows, adapter / rows)
    assert found["delta"] == pytest.approx((adapter - base) / rows)
    assert (found["n"], found["n_groups"], found["p_adjusted"]) == (rows, rows, found["p"])


def test_without_a_margin_a_suite_is_reported_only() -> None:
    found = record(asked(60, 60, 80), config())
    assert (found["margin"], found["not_inferior"]) == (None, None)
    assert found["ci_low"] == pytest.approx(-0.0458, abs=5e-5)


def test_instructions_of_one_prompt_count_together() -> None:
    """40 prompts of two instructions: the same losses weigh less than in 80 prompts of one."""
    sides = [[[1.0, 1.0]] * 40, [[1.0, 1.0]] * 34 + [[0.0, 0.0]] * 6]
    found = record(Scored("ifeval", "instructions", sides[0], sides[1], 0.0, {"x": 3}), config())
    assert (found["n"], found["n_groups"], found["metric"]) == (80, 40, "instruction_accuracy")
    assert found["left_out"] == {"x": 3}
    single = record(asked(80, 68, 80), config())
    assert found["delta"] == single["delta"] == pytest.approx(-0.15)
    assert found["ci_low"] < single["ci_low"]
    same = record(Scored("ifeval", "instructions", sides[0], sides[0], 0.0, {}), config())
    square = 1.959963984540054**2
    assert same["ci_low"] == pytest.approx(-square / (40 + square))


def test_one_loss_among_several_suites_must_hold_for_all() -> None:
    lost = record(asked(60, 53, 80), config())
    assert lost["verdict"] == "worse"
    assert lost["p"] == pytest.approx(0.5**7)
    others = [record(asked(60, 60, 80), config()) for _ in range(6)]
    first = together([lost, *others], config())[0]
    assert first["p_adjusted"] == pytest.approx(7 * 0.5**7)
    assert first["verdict"] == "inconclusive"


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> Any:
    """The tiny model with an adapter that answers every prompt another way."""
    import torch
    from peft import LoraConfig, get_peft_model

    found = loaded_model(tiny_model_folder, quantised=False)
    found.model.float()
    torch.manual_seed(0)
    adapter = LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False
    )
    return type(found)(get_peft_model(found.model, adapter), found.tokenizer, found.renderer)


def paths(folder: Path) -> PathsConfig:
    return PathsConfig(str(folder), str(folder), str(folder / "artifacts"))


def test_a_choice_is_the_letter_that_a_plain_forward_finds_likeliest(loaded: Any) -> None:
    import torch

    items = open_suite(Suite.own_knowledge, OWN / "own_knowledge.yaml", 12, 0).items
    found = choose(loaded, items, config(), "test")
    letters = [loaded.renderer.encode(letter)[0] for letter in "ABCD"]
    with torch.no_grad():
        plain = [loaded.model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in prompts(loaded, items)]
    assert found == [int(logits[letters].argmax()) for logits in plain]
    assert len(set(found)) > 1


def test_base_and_adapter_are_asked_and_absent_files_are_said(
    loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "general").mkdir()
    (tmp_path / "general/bbh_270.jsonl").write_text(
        "".join(f'{{"task": "t{index % 3}", "input": "q{index}", "target": "x"}}\n' for index in range(30))
    )
    every = config(*Suite, rows=12, max_new_tokens=4, folder="general")
    found = forgetting.measure(loaded, Answering(every).generate, every, paths(tmp_path))
    assert found is not None
    by_name = {item["name"]: item for item in found["suites"]}
    assert list(by_name) == [suite.name for suite in Suite]
    assert {name for name, item in by_name.items() if item["skipped"]} == {"ifeval", "mmlu", "gsm8k"}
    assert by_name["mmlu"] == dict.fromkeys(FIELDS) | {
        "name": "mmlu",
        "kind": "choice",
        "skipped": "mmlu_570.jsonl is not in eval.forgetting.folder",
    }
    assert "suite mmlu is skipped: mmlu_570.jsonl is not in" in capsys.readouterr().out
    assert {name: item["n"] for name, item in by_name.items() if not item["skipped"]} == {
        "own_instructions": 12,
        "own_knowledge": 12,
        "bbh": 12,
    }
    assert by_name["own_instructions"]["cut_base"] > 0  # four tokens end no answer
    assert by_name["own_knowledge"]["value_base"] != by_name["own_knowledge"]["value_adapter"]
    # the base is the model without its adapter
    alone = type(loaded)(loaded.model.get_base_model(), loaded.tokenizer, loaded.renderer)
    items = open_suite(Suite.own_knowledge, OWN / "own_knowledge.yaml", 12, 0).items
    with loaded.model.disable_adapter():
        chosen = choose(alone, items, config(), "test")
    assert chosen is not None
    right = [index == item.gold for index, item in zip(chosen, items, strict=True)]
    assert by_name["own_knowledge"]["value_base"] == sum(right) / 12


def test_nothing_is_asked_where_no_suite_is_named(loaded: Any, tmp_path: Path) -> None:
    assert forgetting.measure(loaded, Answering(config()).generate, config(), paths(tmp_path)) is None
    assert forgetting.records(config(), paths(tmp_path)) == {}


def test_a_suite_that_must_not_fall_and_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    settings = config(Suite.mmlu, margins={"mmlu": 0.02}, folder="general")
    with pytest.raises(
        ConfigError, match="names mmlu, and mmlu_570.jsonl is not in eval.forgetting.folder; put"
    ):
        forgetting.records(settings, paths(tmp_path))
    (tmp_path / "general").mkdir()
    (tmp_path / "general/mmlu_570.jsonl").write_text("{}\n")
    assert list(forgetting.records(settings, paths(tmp_path))) == ["suite mmlu"]


def test_a_suites_file_is_an_input_of_the_report(tmp_path: Path) -> None:
    settings = config(*OURS, Suite.bbh, folder=str(tmp_path))
    assert list(forgetting.records(settings, paths(tmp_path))) == [
        "suite own_instructions",
        "suite own_knowledge",
    ]
    file = tmp_path / "bbh_270.jsonl"
    file.write_text("{}\n")
    before = forgetting.records(settings, paths(tmp_path))["suite bbh"]
    file.write_text("{ }\n")
    assert forgetting.records(settings, paths(tmp_path))["suite bbh"] != before


def test_letters_that_a_tokenizer_does_not_know_are_no_choice(loaded: Any) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<|unknown|>": 0, "<|end|>": 1}, unk_token="<|unknown|>"))
    words_only = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    words_only.chat_template = TEMPLATE
    blind = type(loaded)(loaded.model, words_only, Renderer(words_only, None))
    items = open_suite(Suite.own_knowledge, OWN / "own_knowledge.yaml", 8, 0).items
    assert choose(blind, items, config(), "test") is None
