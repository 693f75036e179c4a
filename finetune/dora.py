"""DoRA whose row lengths are exact and cost no dense matrix; PEFT's formula, settings and files.

PEFT 0.21.2 takes the length of each row of the adapted weight in bf16 under autocast and rounds the first magnitudes to
bf16, which is up to 0.4 % a row: what evaluation computes (in fp32) is not what was trained. It also builds the delta
of a layer by way of an identity matrix [in, in], 3.3 GB for the widest layer of a 70B.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn

from finetune.nf4 import weight_of

ROWS = 1024
"""Of a weight that are in fp32 at once, plain and adapted: twice 117 MB for the widest layer of a 70B."""


class ExactDora(DoraLinearLayer):  # type: ignore[misc]
    """What PEFT adds to a layer's output under DoRA, with the row lengths in fp32 (arXiv 2402.09353, section 4.3)."""

    def forward(self, x: Tensor, **given: Any) -> Tensor:
        """The change of the layer's output, by PEFT's names: lora_A, lora_B, scaling, base_layer, base_result."""
        layer, scaling = given["base_layer"], given["scaling"]
        ratio = self.weight / self._lengths(layer, given["lora_A"].weight, given["lora_B"].weight, scaling)
        product = given["lora_B"](given["lora_A"](x))
        plain = given.get("base_result")
        plain = layer(x) if plain is None else plain
        if layer.bias is not None:
            plain = plain - layer.bias
        # in the precision of the product: fp32 would stay, and make the states between the layers fp32
        return ((ratio - 1) * plain + ratio * scaling * product).to(product.dtype)  # type: ignore[no-any-return]

    def _lengths(self, layer: Any, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        """The length of each row; kept in evaluation mode until a factor is written to: for a single token it would
        cost a whole dequantisation.
        """
        if self.training:
            return row_lengths(layer, down, up, scaling)
        versions = (down._version, up._version, scaling)
        kept = self._cache_get("lengths", None)
        if kept is None or kept[0] is not down or kept[1] is not up or kept[2] != versions:
            kept = (down, up, versions, row_lengths(layer, down, up, scaling))
            self._cache_store("lengths", kept)
        return kept[3]  # type: ignore[no-any-return]


def row_lengths(base_layer: Any, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """fp32 length [out] of each row of W + scaling B A, a constant for the gradient as the paper has it."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(down.device.type, enabled=False):
        lengths = []
        down = down.float()
        parts = torch.split(weight_of(base_layer), ROWS), torch.split(up.float(), ROWS)
        for weight, factor in zip(*parts, strict=True):
            lengths.append(torch.linalg.norm(torch.addmm(weight.float(), factor, down, alpha=scaling), dim=1))
        return torch.cat(lengths)


def use_exact_dora(network: Any) -> None:
    """Make PEFT's DoRA layers of this network exact; a network without any stays as it is."""
    for module in network.modules():
        if type(module) is DoraLinearLayer:
            module.__class__ = ExactDora


def start_at_the_base(network: Any) -> None:
    """Give a new DoRA adapter the row lengths of its base as magnitudes, in fp32: so far it changes nothing."""
    for module in network.modules():
        if isinstance(module, LoraLayer):
            for name, dora in module.lora_magnitude_vector.items():
                factors = module.lora_A[name].weight, module.lora_B[name].weight
                dora.weight.data = row_lengths(module.get_base_layer(), *factors, module.scaling[name])


@contextmanager
def magnitudes_without_content() -> Iterator[None]:
    """Attach DoRA to a model on the meta device, whose weights have no length."""
    measured = DoraLinearLayer.update_layer

    def shaped(self: Any, *, base_layer: Any, **_: Any) -> None:
        self.weight = nn.Parameter(torch.empty(base_layer.out_features, device="meta"))

    DoraLinearLayer.update_layer = shaped
    try:
        yield
    finally:
        DoraLinearLayer.update_layer = measured
