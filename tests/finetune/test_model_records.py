import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from finetune.architecture import architecture_of, config_of, require_possible
from finetune.config import load
from finetune.config.load import CONF
from finetune.config.model import ModelConfig
from finetune.errors import ConfigError, DataError

# class, and 1e9 parameters with tied embeddings counted once (reference/architectures.json, params_computed_b)
RECORDS = {
    "codellama_34b": ("LlamaForCausalLM", 33.744),
    "command_r_plus": ("CohereForCausalLM", 103.8107),
    "deepseek_coder_33b": ("LlamaForCausalLM", 33.343),
    "deepseek_coder_v2": ("DeepseekV2ForCausalLM", 235.7414),
    "deepseek_v25": ("DeepseekV2ForCausalLM", 235.7414),
    "falcon_180b": ("FalconForCausalLM", 178.5571),
    "falcon_40b": ("FalconForCausalLM", 41.3033),
    "gemma3_12b": ("Gemma3ForCausalLM", 11.766),
    "gemma3_1b": ("Gemma3ForCausalLM", 0.9999),
    "gemma3_27b": ("Gemma3ForCausalLM", 27.0093),
    "gemma3_4b": ("Gemma3ForCausalLM", 3.8803),
    "llama31_405b": ("LlamaForCausalLM", 405.8534),
    "llama31_70b": ("LlamaForCausalLM", 70.5537),
    "llama31_8b": ("LlamaForCausalLM", 8.0303),
    "llama33_70b": ("LlamaForCausalLM", 70.5537),
    "mistral_7b": ("MistralForCausalLM", 7.248),
    "mistral_large2": ("MistralForCausalLM", 122.6101),
    "mixtral_8x7b": ("MixtralForCausalLM", 46.7028),
    "olmo2_13b": ("Olmo2ForCausalLM", 13.7162),
    "qwen25_0_5b": ("Qwen2ForCausalLM", 0.494),
    "qwen25_14b": ("Qwen2ForCausalLM", 14.77),
    "qwen25_1_5b": ("Qwen2ForCausalLM", 1.5437),
    "qwen25_32b": ("Qwen2ForCausalLM", 32.7639),
    "qwen25_3b": ("Qwen2ForCausalLM", 3.0859),
    "qwen25_72b": ("Qwen2ForCausalLM", 72.7062),
    "qwen25_7b": ("Qwen2ForCausalLM", 7.6156),
    "smollm135m": ("LlamaForCausalLM", 0.1345),
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "rope_theta": 500000.0,
}


def record(name: str) -> ModelConfig:
    return load(["experiment=licences_smollm135m", f"model={name}"]).model


def test_every_record_is_counted_here() -> None:
    assert set(RECORDS) == {path.stem for path in CONF.glob("model/*.yaml")}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_builds_the_model_it_names(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = record(name)
    facts = architecture_of(model, None)
    assert facts == model.architecture
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config_of(facts))
    parameters = sum(parameter.numel() for parameter in built.parameters())
    assert (type(built).__name__, round(parameters / 1e9, 4)) == RECORDS[name]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_states_maker_country_and_a_lawful_name(name: str) -> None:
    model = record(name)
    maker, country = model.origin
    assert maker
    assert len(country) == 2
    assert country.isupper()
    assert model.name == name
    assert model.export_name.startswith("Llama") == model.licence.startswith("LicenseRef-Llama-3")


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"num_hiden_layers": 2},
            "model.architecture.num_hiden_layers is not a setting of model_type=llama; did you mean "
            "model.architecture.num_hidden_layers?",
        ),
        (
            {"model_type": "lama"},
            "model.architecture.model_type=lama is not known to transformers; did you mean ",
        ),
        ({"num_hidden_layers": None}, "model.architecture.num_hidden_layers is missing"),
        (
            {"hidden_size": 66},
            "model.architecture.hidden_size=66 is not a multiple of model.architecture.num_att",
        ),
        (
            {"num_key_value_heads": 3},
            "model.architecture.num_attention_heads=4 is not a multiple of model.arch",
        ),
        ({"vocab_size": 0}, "model.architecture.vocab_size=0 must be a whole number from 1 to 10000000"),
        ({"hidden_size": -64}, "model.architecture.hidden_size=-64 must be"),
        ({"intermediate_size": 10_000_001}, "model.architecture.intermediate_size=10000001 must be"),
        ({"num_attention_heads": 4.0}, "model.architecture.num_attention_heads=4.0 must be"),
        ({"rope_theta": "big"}, "model.architecture.rope_theta=big must be a number above 0"),
    ],
)
def test_an_impossible_record_is_refused_in_one_line(facts: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        require_possible({**LLAMA, **facts})
    (problem,) = error.value.problems
    assert problem.startswith(line)


def test_a_head_width_of_its_own_frees_the_hidden_size() -> None:
    require_possible({**LLAMA, "hidden_size": 66, "head_dim": 16})


def test_all_wrong_facts_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        require_possible({**LLAMA, "hidden_size": -1, "vocab_size": "many", "heads": 4})
    assert len(error.value.problems) == 3


def test_what_only_the_library_refuses_is_one_line_too() -> None:
    with pytest.raises(ConfigError, match="cannot be built as model_type=llama: .*tie_word_embeddings"):
        config_of({**LLAMA, "tie_word_embeddings": "perhaps"})


def base(folder: Path, **facts: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"], "_name_or_path": "x", **facts}))
    return folder


def model(**facts: Any) -> ModelConfig:
    return ModelConfig(name="m", architecture=facts)


def test_without_a_record_the_fetched_base_says_what_it_is(tiny_model_folder: Path) -> None:
    facts = architecture_of(model(), tiny_model_folder)
    assert (facts["model_type"], facts["hidden_size"], facts["num_hidden_layers"]) == ("llama", 64, 2)
    assert config_of(facts).vocab_size == len(tiny.SPECIALS) + 256


def test_without_record_and_base_there_is_nothing_to_plan() -> None:
    with pytest.raises(
        ConfigError, match="model.architecture is empty and the base of model=m is not fetched"
    ):
        architecture_of(model(), None)


@pytest.mark.parametrize(
    "found",
    [
        LLAMA,  # as published for transformers 4
        {**LLAMA, "rope_theta": None, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
        {"model_type": "wide", "text_config": LLAMA},
        {**LLAMA, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "pretraining_tp": 1},
    ],
    ids=["version 4", "version 5", "text part", "more keys"],
)
def test_a_base_that_agrees_is_planned_as_recorded(tmp_path: Path, found: dict[str, Any]) -> None:
    kept = {key: value for key, value in found.items() if value is not None}
    assert architecture_of(model(**LLAMA), base(tmp_path, **kept)) == LLAMA


def test_a_base_leaves_defaults_out_and_still_agrees(tmp_path: Path) -> None:
    record = {**LLAMA, "tie_word_embeddings": False, "max_position_embeddings": 2048}
    assert architecture_of(model(**record), base(tmp_path, **LLAMA)) == record


def test_another_base_is_refused_key_by_key(tmp_path: Path) -> None:
    folder = base(tmp_path, **{**LLAMA, "vocab_size": 400, "rope_theta": 10000.0})
    with pytest.raises(ConfigError) as error:
        architecture_of(model(**LLAMA), folder)
    vocabulary, theta = error.value.problems
    assert vocabulary.startswith(
        f"model.architecture.vocab_size=300, but {folder / 'config.json'} says 400; use "
    )
    assert theta.startswith("model.architecture.rope_theta=500000.0, but ")


def test_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_type=llama, but .*config.json says mistral"):
        architecture_of(model(**LLAMA), base(tmp_path, **{**LLAMA, "model_type": "mistral"}))


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "is not JSON"), ("[]", "names no model_type"), (None, "does not exist")]
)
def test_a_base_without_a_readable_config_is_bad_data(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=f"config.json {reason}"):
        architecture_of(model(**LLAMA), tmp_path)


def test_the_published_config_of_gemma_agrees_although_it_leaves_most_out(tmp_path: Path) -> None:
    text = {  # google/gemma-3-27b-it
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "model_type": "gemma3_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    gemma = record("gemma3_27b")
    folder = base(tmp_path, model_type="gemma3", text_config=text, vision_config={"hidden_size": 1152})
    assert architecture_of(gemma, folder) == gemma.architecture
