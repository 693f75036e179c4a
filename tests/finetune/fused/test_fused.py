"""Fused parts against the libraries' own: the same formula to fp32's last digits, no less exact in bf16."""

from collections.abc import Callable
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from finetune.config.plan import Device
from finetune.fused import fuse_step
from finetune.fused.attention import NAME, attend
from finetune.fused.lora import KEPT_BYTES, FusedLinear4bit, LowRankLinear, fuse_lora, keep_weights
from finetune.fused.norm import RMSNorm, fuse_norms
from finetune.loss import LogProbability
from finetune.model import prepare_libraries
from finetune.nf4 import kept_weight, weight_of

EXACT = {torch.float32: 2e-6, torch.float64: 1e-12}


@pytest.fixture(autouse=True, scope="module")
def libraries() -> None:
    prepare_libraries()


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of a tensor from the true one, as a share of that one's length."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


class Layer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.is_loaded_in_4bit = isinstance(inner, bnb.nn.Linear4bit)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def adapted(inner: nn.Module, dropout: float, dora: bool = False) -> Any:
    """A layer with an adapter that changes it: fp32, as training holds it."""
    config = LoraConfig(r=4, lora_alpha=12, lora_dropout=dropout, target_modules=["inner"], use_dora=dora)
    network = get_peft_model(Layer(inner), config)  # type: ignore[arg-type]
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) / 4
    return network


def quantised() -> nn.Module:
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(64, 48, bias=False, compute_dtype=torch.bfloat16, quant_storage=torch.uint8)
    layer.weight = bnb.nn.Params4bit(torch.randn(48, 64).bfloat16(), requires_grad=False, quant_type="nf4")
    return layer.to("cpu")


def step(network: Any, x: torch.Tensor, autocast: bool) -> list[torch.Tensor]:
    """Output, and gradients of the input and of both factors."""
    network.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = network(x)
    torch.manual_seed(4)
    out.backward(torch.randn(out.shape).to(out.dtype))
    grads = [parameter.grad for parameter in network.parameters() if parameter.requires_grad]
    return [out.detach(), x.grad, *grads]  # type: ignore[list-item]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
def test_lora_is_pefts_in_fp32(dropout: float, bias: bool) -> None:
    torch.manual_seed(0)
    network = adapted(nn.Linear(64, 48, bias=bias), dropout)
    x = torch.randn(3, 5, 64)
    wanted = step(network, x, autocast=False)
    fuse_lora(network)
    for found, true in zip(step(network, x, autocast=False), wanted, strict=True):
        assert distance(found, true) < 2e-6


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_lora_on_four_bits_is_no_farther_from_the_truth_than_pefts(dropout: float) -> None:
    network, x = adapted(quantised(), dropout), torch.randn(3, 50, 64).bfloat16()
    peft = step(network, x, autocast=True)
    layer = network.base_model.model.inner
    plain = nn.Linear(64, 48, bias=False)
    plain.weight.data = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    truth = step(adapted(plain, dropout), x.float(), autocast=False)
    fuse_lora(network)
    assert isinstance(layer, FusedLinear4bit)
    fused = step(network, x, autocast=True)
    for found, other, true in zip(fused, peft, truth, strict=True):
        assert distance(found, true) < min(0.01, 1.1 * distance(other, true))
    assert fused[0].dtype is torch.bfloat16


def test_what_the_fused_layer_does_not_know_stays_pefts() -> None:
    dora, x = adapted(quantised(), 0.0, dora=True), torch.randn(2, 3, 64).bfloat16()
    wanted = step(dora, x, autocast=True)
    fuse_lora(dora)
    assert all(map(torch.equal, step(dora, x, autocast=True), wanted))
    plain = adapted(quantised(), 0.0)
    fuse_lora(plain)
    with plain.disable_adapter(), torch.no_grad():
        assert torch.equal(plain(x), plain.base_model.model.inner.base_layer(x))
    with torch.no_grad():  # fp32 factors outside of autocast: PEFT casts there
        assert plain(x).dtype is torch.bfloat16


def test_a_kept_weight_changes_no_bit_and_a_large_model_keeps_none() -> None:
    network, x = adapted(quantised(), 0.0), torch.randn(3, 5, 64).bfloat16()
    fuse_lora(network)
    wanted, layer = step(network, x, autocast=True), network.base_model.model.inner.base_layer
    keep_weights(network, deeper=KEPT_BYTES / (2 * 64 * 48) + 1)
    assert kept_weight(layer, torch.bfloat16) is None
    keep_weights(network)
    kept = kept_weight(layer, torch.bfloat16)
    assert kept is not None
    assert kept.shape == (48, 64)
    assert all(map(torch.equal, step(network, x, autocast=True), wanted))
    kept.zero_()  # it is what the layer multiplies with
    assert step(network, x, autocast=True)[1].norm() < wanted[1].norm()
    layer.weight.quant_state.dtype = torch.float32  # another precision is dequantised anew
    assert weight_of(layer).dtype is torch.float32
    assert weight_of(layer).any()


def masks(rows: int, tokens: int) -> dict[str, torch.Tensor | None]:
    """True where a position is seen: padded rows, rows laid end to end, and transformers' none at all."""
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    lengths = torch.tensor([tokens, *(tokens - 3 for _ in range(rows - 1))])
    padded = causal & (torch.arange(tokens) < lengths[:, None])[:, None]
    packed = causal & (torch.arange(tokens)[:, None] // 4 == torch.arange(tokens) // 4)
    return {"padded": padded[:, None], "packed": packed[None, None].expand(rows, 1, -1, -1), "causal": None}


class Module:
    is_causal = True
    num_key_value_groups = 3


def attention_step(
    function: Callable[..., Any], mask: torch.Tensor | None, dtype: torch.dtype
) -> list[torch.Tensor]:
    torch.manual_seed(0)
    heads = [torch.randn(2, 11, count, 16).to(dtype).transpose(1, 2).requires_grad_() for count in (6, 2, 2)]
    out, _ = function(Module(), *heads, mask, scaling=0.2, dropout=0.0)
    grads = torch.autograd.grad(out, heads, torch.randn(out.shape).to(dtype))
    return [out.detach(), *grads]


@pytest.mark.parametrize("kind", ["padded", "packed", "causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_is_torchs(kind: str, dtype: torch.dtype) -> None:
    mask = masks(2, 11)[kind]
    wanted = attention_step(sdpa_attention_forward, mask, dtype)
    for found, true in zip(attention_step(attend, mask, dtype), wanted, strict=True):
        assert distance(found, true) < 2e-6  # scores are fp32 whatever they are given


def test_attention_in_bf16_is_as_near_to_the_truth_as_torchs_flash_kernel() -> None:
    mask = masks(2, 11)["padded"]
    truth = attention_step(sdpa_attention_forward, mask, torch.float64)
    flash = attention_step(sdpa_attention_forward, mask, torch.bfloat16)
    for found, other, true in zip(attention_step(attend, mask, torch.bfloat16), flash, truth, strict=True):
        assert distance(found, true) < min(0.01, 1.5 * distance(other, true))


def test_attention_leaves_what_it_is_given_as_it_is() -> None:
    query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    before = [tensor.clone() for tensor in (query, key, value)]
    attend(Module(), query, key, value, None, scaling=0.3)
    assert all(map(torch.equal, (query, key, value), before))


def test_a_row_that_sees_nothing_is_a_number() -> None:
    states = [torch.randn(1, 2, 3, 8) for _ in range(3)]
    out, _ = attend(Module(), *states, torch.zeros(1, 1, 3, 3, dtype=torch.bool))
    assert out.isfinite().all()


def norm_step(norm: Callable[..., Any], dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 7, 32).to(dtype).requires_grad_()
    weight = (torch.rand(32) + 0.5).to(dtype)
    out = norm(x, weight)
    out.backward(torch.randn(out.shape).to(dtype))
    return [out.detach(), x.grad]  # type: ignore[list-item]


def llamas(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    norm = LlamaRMSNorm(32, eps=1e-5)
    norm.weight = nn.Parameter(weight, requires_grad=False)
    return norm(x)  # type: ignore[no-any-return]


def test_the_norm_is_llamas() -> None:
    def ours(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return RMSNorm.apply(x, weight, 1e-5)  # type: ignore[no-untyped-call, no-any-return]

    for found, true in zip(norm_step(ours, torch.float32), norm_step(llamas, torch.float32), strict=True):
        assert distance(found, true) < 1e-6
    truth, theirs = norm_step(llamas, torch.float32), norm_step(llamas, torch.bfloat16)
    found = norm_step(ours, torch.bfloat16)
    assert torch.equal(found[0], theirs[0])
    assert distance(found[1], truth[1]) < 1.1 * distance(theirs[1], truth[1])


def test_only_norms_with_llamas_code_are_fused() -> None:
    kinds = [LlamaRMSNorm, Qwen3RMSNorm, GemmaRMSNorm]
    network = nn.ModuleList(kind(8).requires_grad_(False) for kind in kinds).append(LlamaRMSNorm(8))
    fuse_norms(network)
    assert ["forward" in vars(norm) for norm in network] == [True, True, False, False]  # the last is trained


def test_the_head_is_trls() -> None:
    torch.manual_seed(0)
    weight, targets = torch.randn(501, 16), torch.randint(501, (200,))

    def trls(hidden: torch.Tensor) -> torch.Tensor:
        options = (1.0, 128, None, 0.7, ("log_probs",))
        return ChunkedLogProbFunction.apply(hidden, weight, None, targets, *options)[0]  # type: ignore

    def ours(hidden: torch.Tensor) -> torch.Tensor:
        return LogProbability.apply(hidden, weight, targets, 0.7)  # type: ignore

    found = []
    for head in (ours, trls):
        torch.manual_seed(1)
        hidden = torch.randn(200, 16, requires_grad=True)
        out = head(hidden)
        out.backward(torch.rand(200))
        found.append((out.detach(), hidden.grad))
    assert distance(found[0][0], found[1][0]) < 1e-6
    assert distance(found[0][1], found[1][1]) < 1e-6


def test_a_cpu_fuses_all_of_a_network_and_a_gpu_its_adapters() -> None:
    def network() -> Any:
        config = LlamaConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=50
        )
        return get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules=["q_proj", "down_proj"]))

    found = {}
    for device in (Device.cpu, Device.cuda):
        fuse_step(made := network(), device)
        fused = [type(module).__name__ for module in made.modules()].count("FusedLinear")
        norms = sum("forward" in vars(module) for module in made.modules() if "Norm" in type(module).__name__)
        found[device] = fused, norms, made.config._attn_implementation
    assert found == {Device.cpu: (4, 5, NAME), Device.cuda: (4, 0, "sdpa")}


def test_lora_backward_gives_no_gradient_to_what_needs_none() -> None:
    layer, x = nn.Linear(8, 4, bias=False).requires_grad_(False), torch.randn(3, 8)
    down, up = torch.randn(2, 8, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    LowRankLinear.apply(x, x, down, up, (layer, 2.0)).sum().backward()  # type: ignore
    assert x.grad is None
    assert down.grad is not None
