"""Where a tensor of the base's files stands in the network that was trained: most under its own name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError
from finetune.lora_factors import flat

if TYPE_CHECKING:
    from finetune.adapter_weights import AdapterWeights
    from finetune.merge_base import Base


@dataclass(frozen=True)
class Place:
    """The network's tensor that a tensor of a file is, or is some rows of, and the first of these (`flat`)."""

    name: str
    shape: tuple[int, ...]
    first_row: int = 0


@dataclass(frozen=True)
class Names:
    """The network's names and shapes, where they differ from the files'."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    pieces: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of a tensor that the network stacks with others: its expert, and how many tensors of that expert come first."""
    stacked: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of what is stacked, by the network's name."""

    def known(self, name: str) -> str:
        """The network's name for a tensor of a file."""
        return self.renamed.get(name, name)

    def shapes(self, files: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Shapes by the network's names."""
        return {**{self.known(name): tuple(shape) for name, shape in files.items()}, **self.stacked}

    def places(self, files: Mapping[str, Sequence[int]]) -> dict[str, Place]:
        """Where each tensor of the files stands."""
        return dict(self._places(files))

    def _places(self, files: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Place]]:
        for name, shape in files.items():
            known = self.known(name)
            if name in self.pieces:
                expert, before = self.pieces[name]
                whole = self.stacked[known]
                yield name, Place(known, whole, expert * whole[1] + before * flat(shape)[0])
            else:
                yield name, Place(known, tuple(shape))


def places_of(base: "Base", adapter: "AdapterWeights", files: Sequence[str]) -> Names:
    """The network's names of the tensors of the base's files.

    The network is built, without content, only where the files' own names do not hold all that was trained: families
    whose layers transformers 5 names or stacks otherwise than their files do.
    """
    modules = {name.rpartition(".")[0] for name in files} | set(files)
    wanted = adapter.names() | base.quantised | {item.module for item in adapter.stacked}
    if all(
        name in modules or name.removesuffix(".weight") in modules or name.endswith("lm_head")
        for name in wanted
    ):
        return Names()
    return _network_names(base, files)


def _network_names(base: "Base", files: Sequence[str]) -> Names:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, initialization
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    with torch.device("meta"), initialization.no_init_weights():
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.folder))
    state = network.state_dict()
    conversions = get_model_conversion_mapping(network)
    renamings = [item for item in conversions if isinstance(item, WeightRenaming)]
    converters = [item for item in conversions if isinstance(item, WeightConverter)]
    renamed, pieces, stacked = {}, {}, {}
    for name in files:
        known, pattern = rename_source_key(name, renamings, converters, network.base_model_prefix, state)
        if known not in state:
            continue
        renamed[name] = known
        if pattern is not None:
            pieces[name] = _piece(name, pattern, converters)
            stacked[known] = tuple(state[known].shape)
    return Names(renamed, pieces, stacked)


def _piece(name: str, pattern: str, converters: Sequence[Any]) -> tuple[int, int]:
    """Expert, and place among its tensors. Raises DataError where the network does anything else with it."""
    import re

    converter = next(item for item in converters if pattern in item.source_patterns)
    steps = [(type(step).__name__, getattr(step, "dim", 0)) for step in converter.operations]
    numbers = re.findall(r"\.(\d+)\.", name)
    if steps not in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)]) or not numbers:
        raise DataError(f"{name}: the network lays this tensor out in a way that this merge does not know")
    return int(numbers[-1]), list(converter.source_patterns).index(pattern)
