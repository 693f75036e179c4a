"""What PEFT saved of an adapter, and what it makes of a weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from finetune.adapter_config import by_pattern, scaling_of
from finetune.errors import DataError
from finetune.lora_factors import Factors, Kind, Product, flat


@dataclass(frozen=True)
class Stacked:
    """Factors of a parameter of this module; PEFT's files do not say of which, so the shapes have to."""

    module: str
    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Change:
    """What an adapter makes of one tensor: another in its place, rows of it, a product on top, a vector on top."""

    replaced: Tensor | None = None
    tokens: tuple[Sequence[int], Tensor] | None = None
    product: Product | None = None
    added: Tensor | None = None

    @property
    def block(self) -> int | None:
        """Rows that `apply` may be given at most; None: all."""
        return self.product.block if self.product else None

    @property
    def whole(self) -> bool:
        """Whether `apply` needs all rows at once."""
        return self.product is not None and self.product.whole

    def apply(self, total: Tensor, begin: int) -> None:
        """Change fp32 rows [n, columns] in place, which are those of the tensor's matrix from `begin` on."""
        if self.replaced is not None:
            total.copy_(self.replaced.reshape(-1, total.shape[1])[begin : begin + len(total)])
        if self.tokens is not None:
            for index, row in zip(*self.tokens, strict=True):
                if begin <= index < begin + len(total):
                    total[index - begin].copy_(row)
        if self.product is not None:
            self.product.add_to(total, begin)
        if self.added is not None:
            total.add_(self.added.to(total))


@dataclass(frozen=True)
class AdapterWeights:
    """What an adapter changes, by the base's names: factors by module or parameter, all else by tensor."""

    factors: Mapping[str, Factors]
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    """Whole tensors: modules_to_save, biases, embeddings with more rows."""
    added: Mapping[str, Tensor] = field(default_factory=dict)
    """What is added to biases."""
    tokens: Mapping[str, tuple[Sequence[int], Tensor]] = field(default_factory=dict)
    """Single rows of embeddings."""
    stacked: Sequence[Stacked] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    """PEFT's adapter_config.json."""

    def names(self) -> set[str]:
        """Every tensor that is changed. Where factors are of a module its name stands without `.weight`."""
        return set(self.factors) | set(self.replaced) | set(self.added) | set(self.tokens)

    def change(self, name: str, shape: Sequence[int]) -> Change | None:
        """What becomes of the tensor of this name and (in the end) shape; None where it stays as it is.

        Raises DataError where it does not fit.
        """
        module = name.removesuffix(".weight")
        if not {name, module} & self.names():
            return None
        factors = self.factors.get(module)
        change = Change(
            self.replaced.get(name),
            self.tokens.get(name),
            factors.fitted(name, shape) if factors else None,
            self.added.get(name),
        )
        rows, columns = flat(shape)
        for part in (change.replaced, change.added):
            if part is not None and part.numel() != rows * columns:
                raise DataError(
                    f"{name} is {list(shape)} but the adapter's {list(part.shape)}: another base?"
                )
        if change.tokens is not None and (
            max(change.tokens[0], default=0) >= rows or change.tokens[1].shape[1] != columns
        ):
            raise DataError(
                f"{name} is {list(shape)} and has no place for the adapter's tokens: another base?"
            )
        return change

    def merged(self, module: str, weight: Tensor) -> Tensor:
        """What the adapter makes of that module's weight, in fp32.

        Raises DataError where the factors do not fit the weight or the result is not finite.
        """
        change = self.change(f"{module}.weight", weight.shape)
        total = weight.float().reshape(flat(weight.shape)).clone()
        if change is not None:
            step = len(total) if change.whole else change.block or len(total)
            for begin in range(0, len(total), step):
                change.apply(total[begin : begin + step], begin)
        require_finite(f"{module}.weight", total)
        return total.reshape(weight.shape)

    def bound(self, shapes: Mapping[str, Sequence[int]]) -> "AdapterWeights":
        """The same with every stacked parameter found among tensors of these names and shapes.

        Raises DataError where none of them or more than one fits.
        """
        factors = dict(self.factors)
        for item in self.stacked:
            fits = [
                (name.removesuffix(".weight"), found)
                for name in self._targets(item.module, shapes)
                if name.removesuffix(".weight") not in factors
                and (found := self._factors(name, item, shapes[name]))
            ]
            if len(fits) != 1:
                raise DataError(
                    f"{item.module}: {len(fits)} of the parameters that the adapter targets have the shape of its "
                    "factors, which must be one: another base?"
                )
            factors[fits[0][0]] = fits[0][1]
        return replace(self, factors=factors, stacked=())

    def _targets(self, module: str, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        targets = self.config["target_parameters"]
        return [
            name
            for name in shapes
            if name.rpartition(".")[0] == module
            and any(name == target or name.endswith(f".{target}") for target in targets)
        ]

    def _factors(self, name: str, item: Stacked, shape: Sequence[int]) -> Factors | None:
        rank = int(by_pattern(self.config.get("rank_pattern"), name, self.config["r"]))
        experts = shape[0] if len(shape) > 2 else 1  # noqa: PLR2004
        if item.down.shape[0] != rank * experts or item.up.shape[1] != rank * experts:
            return None
        widths = sorted([item.up.shape[0], item.down.shape[1]])
        if sorted(shape[-2:]) != widths:
            return None
        scaling = scaling_of(self.config, name, rank)
        return Factors(item.down, item.up, scaling, kind=Kind.parameter, rank=rank)


def require_finite(name: str, total: Tensor) -> None:
    """Raise DataError where a merged tensor holds NaN or infinity."""
    if total.numel() and not all(torch.isfinite(bound) for bound in torch.aminmax(total)):
        raise DataError(f"{name} is not finite after the merge; the adapter or the base is damaged")
