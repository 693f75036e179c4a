"""What LoRA's factors make of a weight, rows of it at a time, in fp32."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

import torch
from torch import Tensor

from finetune.errors import DataError


class Kind(Enum):
    """How the product of the factors lies in the weight."""

    linear = "linear"
    """[out, in]; where the adapter says fan_in_fan_out (Conv1D), [in, out]."""
    embedding = "embedding"
    """[tokens, width]: A is [rank, tokens], B [width, rank]."""
    parameter = "parameter"
    """A parameter of its own, mostly one that stacks experts: [experts, out, in] or [experts, in, out]."""


@dataclass(frozen=True)
class Factors:
    """One layer's adapter: A [rank, in], B [out, rank], the factor of their product; with DoRA magnitudes [out].

    Of stacked experts A is [experts x rank, in] and B [out, rank x experts], as PEFT lays them (0.21.2, lora/layer.py,
    ParamWrapper).
    """

    down: Tensor
    up: Tensor
    scaling: float
    magnitude: Tensor | None = None
    kind: Kind = Kind.linear
    fan_in_fan_out: bool = False
    rank: int | None = None
    """Of stacked experts; else the shapes say it."""

    def merged(self, weight: Tensor) -> Tensor:
        """The adapted weight in fp32, on the weight's device."""
        product = self.fitted("the weight", weight.shape)
        total = weight.float().reshape(-1, weight.shape[-1]).clone()
        for begin in range(0, len(total), product.block):
            product.add_to(total[begin : begin + product.block], begin)
        return total.reshape(weight.shape)

    def fitted(self, name: str, shape: Sequence[int]) -> "Product":
        """The product as it lies in a tensor of this shape. Raises DataError where it does not fit."""
        rank = self.rank or self.down.shape[0]
        experts = self.down.shape[0] // rank
        down = self.down.reshape(experts, rank, -1)
        up = self.up.reshape(self.up.shape[0], rank, experts).permute(2, 0, 1)
        ways = {False: (up, down), True: (down.transpose(1, 2), up.transpose(1, 2))}
        fits = [turned for turned, pair in ways.items() if list(shape) in _shapes(experts, *pair)]
        if not fits or (fits == [True] and not self._may_turn()):
            found = [*([experts] if len(shape) > 2 else []), self.up.shape[0], self.down.shape[1]]  # noqa: PLR2004
            raise DataError(f"{name} is {list(shape)} but the adapter's delta {found}: another base?")
        if self.kind is Kind.parameter and len(fits) > 1 and experts > 1:
            raise DataError(
                f"{name} is {list(shape)}: nothing says which of its widths goes in, so this merge does not know it"
            )
        turned = fits == [True] or (len(fits) > 1 and self._turns())
        left, right = ways[turned]
        return Product(left, right, self.scaling, self.magnitude, turned)

    def _turns(self) -> bool:
        """Whether a square weight is [in, out]."""
        return self.kind is Kind.embedding or self.fan_in_fan_out

    def _may_turn(self) -> bool:
        return self.kind is not Kind.linear or self.fan_in_fan_out


def _shapes(experts: int, left: Tensor, right: Tensor) -> list[list[int]]:
    """Shapes of a weight that the product of [experts, rows, rank] and [experts, rank, columns] fits."""
    found = [[experts, left.shape[1], right.shape[2]]]
    return [*found, found[0][1:]] if experts == 1 else found


@dataclass(frozen=True)
class Product:
    """left [experts, rows, rank] times right [experts, rank, columns], times the scaling: what is added to a weight."""

    left: Tensor
    right: Tensor
    scaling: float
    magnitude: Tensor | None
    turned: bool

    @property
    def rows(self) -> int:
        """Rows of one expert, or of the whole where there are none."""
        return self.left.shape[1]

    @property
    def block(self) -> int:
        """Rows that `add_to` may be given at most: those of one expert."""
        return self.rows

    @property
    def whole(self) -> bool:
        """Whether `add_to` needs all rows at once: DoRA's lengths run over the inputs, which are rows here."""
        return self.magnitude is not None and self.turned

    def add_to(self, total: Tensor, begin: int) -> None:
        """Adapt fp32 rows [n, columns] in place, which are those of the weight from `begin` on.

        B A times the scaling is added (LoRA, arXiv 2106.09685, section 4.1). DoRA gives each output of the sum the
        length of its magnitude (arXiv 2402.09353, equation 5; peft 0.21.2, lora/dora.py: the norm is over the inputs).
        """
        expert, row = divmod(begin, self.rows)
        left = self.left[expert, row : row + len(total)].to(total)
        total.addmm_(left, self.right[expert].to(total), alpha=self.scaling)
        if self.magnitude is None:
            return
        over = 0 if self.turned else 1
        length = torch.linalg.norm(total, dim=over)
        wanted = self.magnitude if self.turned else self.magnitude[row : row + len(total)]
        total.mul_((wanted.to(total) / length).unsqueeze(over))


def flat(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the matrix that a tensor of this shape is worked on as."""
    columns = shape[-1] if len(shape) > 1 else prod(shape)
    return (prod(shape) // columns if columns else 0), columns
