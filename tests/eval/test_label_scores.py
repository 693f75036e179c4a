"""Labels behind one prompt, all at once, against one plain forward for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Letters, loaded_model
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from eval.label_scores import LabelSet, as_answer, label_set, score_batch, taking_masks
from finetune.chat import Renderer
from finetune.errors import ConfigError, DataError
from finetune.model import Loaded

LABELS = ["gpl", "gpl or mit", "gpl-2.0", "mit", "a", "artistic licence of many words"]
TEXTS = ["x", "a longer question", "mid size", "the longest question of all of them"]
SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> Any:
    """In fp32, where order of sums is all that differs."""
    loaded = loaded_model(tiny_model_folder, quantised=False)
    loaded.model.float()
    return loaded


@pytest.fixture(scope="module")
def prompts(model: Any) -> list[list[int]]:
    return [model.renderer.prompt_ids(messages(text)) for text in TEXTS]


@pytest.fixture(scope="module")
def labels(model: Any) -> LabelSet:
    return label_set(LABELS, model.renderer, messages("x"))


def one_by_one(network: Any, prompts: Sequence[list[int]], labels: LabelSet) -> list[list[float]]:
    """A forward for each prompt and label."""
    return [[alone(network, prompt, ids) for ids in labels.ids] for prompt in prompts]


def alone(network: Any, prompt: list[int], ids: Sequence[int]) -> float:
    row = torch.tensor([prompt + list(ids)])
    with torch.no_grad():
        logits = network(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]
    places = range(len(ids))
    return float(logits.float().log_softmax(-1)[places, list(ids)].double().sum())


def close(found: list[list[float]], expected: list[list[float]]) -> bool:
    return torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=1e-5)


def test_scores_are_those_of_one_forward_for_each_row_and_label(
    model: Any, prompts: list[list[int]], labels: LabelSet
) -> None:
    expected = one_by_one(model.model, prompts, labels)
    assert close(score_batch(model, prompts, labels), expected)
    assert max(map(max, expected)) - min(map(min, expected)) > 10  # labels of 2 and of 31 tokens


@pytest.mark.parametrize("most_tokens", [1, 4, 8, 20])
def test_chunks_and_padding_change_nothing(
    model: Any, prompts: list[list[int]], labels: LabelSet, most_tokens: int
) -> None:
    whole = score_batch(model, prompts, labels)
    assert len(labels.trees(most_tokens)) > 1
    assert close(score_batch(model, prompts, labels, most_tokens), whole)
    assert close([score_batch(model, [prompt], labels)[0] for prompt in prompts], whole)


def test_what_labels_begin_with_stands_in_the_tree_once(labels: LabelSet) -> None:
    [tree] = labels.trees(1000)
    begins = {ids[:end] for ids in labels.ids for end in range(1, len(ids))}
    assert len(tree.tokens) == len(begins)
    assert len(begins) < sum(len(ids) - 1 for ids in labels.ids)
    assert sorted(label for part in labels.trees(8) for label in part.labels) == list(range(6))
    assert all(len(part.tokens) <= 8 or len(part.labels) == 1 for part in labels.trees(8))


def test_labels_are_the_tokens_that_training_learns_with_their_end() -> None:
    found = label_set(["mit", "gpl"], Renderer(Letters(), None), messages("x"))
    assert found.texts == ("gpl", "mit")
    assert found.ids[1] == tuple(map(ord, "mit$"))


def test_labels_of_one_token_need_no_forward_of_their_own(model: Any, prompts: list[list[int]]) -> None:
    single = LabelSet(("a", "b"), ((7,), (9,)))
    assert close(score_batch(model, prompts, single), one_by_one(model.model, prompts, single))


def test_the_answer_is_the_likeliest_label_and_its_share() -> None:
    answer = as_answer([-2.0, -1.0, -2.0], LabelSet(("a", "b", "c"), ((1,), (2,), (3,))))
    assert (answer.text, answer.ids) == ("b", (2,))
    assert answer.confidence == pytest.approx(1 / (1 + 2 / 2.718281828))
    assert answer.label_scores == {"a": -2.0, "b": -1.0, "c": -2.0}
    assert not answer.cut


def network(kind: str, attention: str = "sdpa", **more: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **more})
    made = AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
    made.generation_config = GenerationConfig(eos_token_id=[1], pad_token_id=0)
    return Loaded(made, None, Renderer(Letters(), None))


SOME = LabelSet(("a", "b", "c", "d"), ((5, 6, 1), (5, 6, 7, 1), (5, 1), (8, 9, 10, 11, 1)))
ROWS = [[20, 21, 22], list(range(30, 42)), [50, 51, 52, 53, 54, 55]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("mistral", {"sliding_window": 64}),
        ("gemma3_text", {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2}),
        ("olmo2", {}),
        ("cohere", {}),
        ("falcon", {"new_decoder_architecture": True}),
        ("mixtral", {}),
    ],
)
def test_other_architectures_score_the_same(kind: str, more: dict[str, Any], attention: str) -> None:
    if kind == "gemma3_text":
        more = {**more, "num_hidden_layers": 4, "head_dim": 8}
    loaded = network(kind, attention, **more)
    expected = one_by_one(loaded.model, ROWS, SOME)
    assert close(score_batch(loaded, ROWS, SOME), expected)
    assert close(score_batch(loaded, ROWS, SOME, 3), expected)


def test_a_base_without_torchs_attention_takes_the_plain_one() -> None:
    loaded = network("gemma2", "eager", sliding_window=64, num_hidden_layers=2)
    expected = one_by_one(loaded.model, ROWS, SOME)
    loaded.model.set_attn_implementation("flex_attention")
    assert close(score_batch(loaded, ROWS, SOME), expected)


def test_with_an_adapter_on_and_off() -> None:
    from peft import LoraConfig, get_peft_model

    loaded = network("llama")
    settings = LoraConfig(target_modules="all-linear", init_lora_weights=False, use_dora=True)
    loaded.model = get_peft_model(loaded.model, settings).eval()
    loaded.model.base_model.generation_config = GenerationConfig(eos_token_id=[1], pad_token_id=0)
    with_adapter = score_batch(loaded, ROWS, SOME)
    assert close(with_adapter, one_by_one(loaded.model, ROWS, SOME))
    with loaded.model.disable_adapter():
        without = score_batch(loaded, ROWS, SOME)
        assert close(without, one_by_one(loaded.model, ROWS, SOME))
    assert not close(with_adapter, without)


def test_a_window_that_hides_part_of_a_row_is_refused() -> None:
    loaded = network("mistral", sliding_window=16)  # the longest row has 12 tokens, the longest label 5
    with pytest.raises(ConfigError, match="up to 17 tokens, and layers of this base see only the last 16"):
        score_batch(loaded, ROWS, SOME)
    expected = one_by_one(loaded.model, [ROWS[0], ROWS[2]], SOME)
    assert close(score_batch(loaded, [ROWS[0], ROWS[2]], SOME), expected)


def test_attention_that_takes_no_mask_gives_way_to_torchs_own() -> None:
    loaded = network("llama")
    expected = one_by_one(loaded.model, ROWS, SOME)
    loaded.model.set_attn_implementation("flex_attention")
    with taking_masks(loaded):
        assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.model.config._attn_implementation == "flex_attention"
    assert close(score_batch(loaded, ROWS, SOME), expected)


def test_a_set_that_is_not_closed_or_not_told_apart_is_refused(model: Any) -> None:
    for texts, told in (
        (["one"], "hold 1;"),
        ([f"label {place}" for place in range(1001)], "a closed set of 2 to 1000 labels"),
    ):
        with pytest.raises(DataError, match=told):
            label_set(texts, model.renderer, messages("x"))
    letters = Letters()
    letters.encode = lambda text, **_: [1] * len(text)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="1 labels are the same tokens as another one"):
        label_set(["ab", "cd", "efg"], Renderer(letters, None), messages("x"))
