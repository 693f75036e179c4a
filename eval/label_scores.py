"""Closed label sets by log-probability: the prompt's keys and values are computed once, and all labels read them.

Labels stand in one sequence behind the prompt, as a tree: what several begin with stands there once. A mask lets every
token see the prompt and its own beginnings alone, and its position is the one it would have alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from finetune.chat import IGNORE, Message, Renderer
from finetune.errors import ConfigError, DataError
from finetune.generate import Answer, inference, padded, positions_of
from finetune.model import Loaded

MOST_LABELS = 1000
"""Beyond that a set is hardly closed, and generating one answer is cheaper than scoring all."""
TREE_TOKENS = 512
"""Of one forward: each reads all the others' keys, so longer sequences of labels cost more than they save."""
TAKE_MASKS = ("sdpa", "eager")
"""transformers' attentions that take a mask of our own."""
KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Tree:
    """Some labels that share their beginnings; token 0 is the prompt's last one, which is not fed again."""

    labels: tuple[int, ...]
    """Which labels these are, by their place in the set."""
    tokens: tuple[int, ...]
    """What is fed: every beginning of a label that something follows."""
    seen: tuple[tuple[int, ...], ...]
    """Of each fed token: the places of its own beginnings and itself, in the order of the label."""
    edges: tuple[tuple[int, int], ...]
    """(place in the tree counted from 1, 0 for the prompt; the token that follows there), each once."""
    paths: tuple[tuple[int, ...], ...]
    """Of each label: its edges."""


@dataclass(frozen=True)
class LabelSet:
    """Labels in order, and the tokens of each as training learns them, end token included."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest label."""
        return max(map(len, self.ids))

    def trees(self, most_tokens: int) -> list[Tree]:
        """All labels in trees of at most so many tokens; a longer label has a tree of its own."""
        order = sorted(range(len(self.ids)), key=lambda label: self.ids[label])
        groups: list[list[int]] = []
        room: set[tuple[int, ...]] = set()
        for label in order:
            begins = {self.ids[label][:end] for end in range(1, len(self.ids[label]))}
            if not groups or len(room | begins) > most_tokens:
                groups.append([])
                room = set()
            groups[-1].append(label)
            room |= begins
        return [_tree(group, self.ids) for group in groups]


def label_set(texts: Sequence[str], renderer: Renderer, messages: Sequence[Message]) -> LabelSet:
    """The labels as the answer to a prompt, in alphabetical order.

    Raises DataError where there are fewer than two or too many, or where two of them read the same to the model.
    """
    found = sorted(set(texts))
    if not 2 <= len(found) <= MOST_LABELS:  # noqa: PLR2004
        raise DataError(
            f"eval.scoring=labels needs a closed set of 2 to {MOST_LABELS} labels, and the training rows and "
            f"data.labels hold {len(found)}; use eval.scoring=generate"
        )
    rows = [renderer.row(messages, text).labels for text in found]
    ids = tuple(tuple(token for token in row if token != IGNORE) for row in rows)
    if len(set(ids)) < len(ids):
        raise DataError(
            f"{len(ids) - len(set(ids))} labels are the same tokens as another one; they differ by nothing "
            "the model reads, so write each label one way"
        )
    return LabelSet(tuple(found), ids)


def _tree(labels: Sequence[int], ids: Sequence[tuple[int, ...]]) -> Tree:
    places: dict[tuple[int, ...], int] = {(): 0}
    seen: list[tuple[int, ...]] = []
    edges: dict[tuple[int, int], int] = {}
    paths: list[tuple[int, ...]] = []
    for label in labels:
        path: list[int] = []
        for end, token in enumerate(ids[label]):
            begin = ids[label][:end]
            if begin not in places:
                places[begin] = len(places)
                above = places[begin[:-1]]
                seen.append((*(seen[above - 1] if above else ()), places[begin] - 1))
            path.append(edges.setdefault((places[begin], token), len(edges)))
        paths.append(tuple(path))
    tokens = tuple(begin[-1] for begin in places if begin)
    return Tree(tuple(labels), tokens, tuple(seen), tuple(edges), tuple(paths))


def score_batch(
    loaded: Loaded, prompts: list[list[int]], labels: LabelSet, most_tokens: int = TREE_TOKENS
) -> list[list[float]]:
    """Log-probability in nats of every label after each prompt, [prompts][labels], in the order of the set.

    Raises ConfigError where the network cannot attend so.
    """
    import torch
    from transformers import DynamicCache

    _require_full_view(loaded, max(map(len, prompts)) + labels.longest)
    ids, mask = padded(prompts, loaded)
    scores = torch.zeros(len(prompts), len(labels.ids), dtype=torch.float64)
    cache = DynamicCache()  # without the config: it would drop the keys that sliding layers no longer see
    with inference(), taking_masks(loaded):
        asked: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        first = loaded.model(
            input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), logits_to_keep=1, **asked
        ).logits
        for tree in labels.trees(most_tokens):
            # labels of one token each follow the prompt's last position, and nothing is fed
            found = _follow(loaded, tree, mask, asked) if tree.tokens else first[:, :0]
            for row, logits in enumerate(found):
                values = _edges(torch.cat([first[row], logits]), tree)
                for label, path in zip(tree.labels, tree.paths, strict=True):
                    scores[row, label] = values[list(path)].sum()
            for layer in cache.layers:
                layer.crop(-len(tree.tokens))
    return [[float(score) for score in row] for row in scores]


def _follow(loaded: Loaded, tree: Tree, mask: Any, asked: Mapping[str, Any]) -> Any:
    """Logits [prompts, tokens of the tree, vocabulary], behind the prompts in the cache."""
    import torch

    rows, device = len(mask), mask.device
    own = torch.zeros(len(tree.tokens), len(tree.tokens), dtype=torch.bool)
    for place, seen in enumerate(tree.seen):
        own[place, list(seen)] = True
    own = own.to(device).expand(rows, 1, -1, -1)
    prompt = mask.bool()[:, None, None, :].expand(-1, 1, len(tree.tokens), -1)
    depths = torch.tensor([len(seen) for seen in tree.seen], device=device)
    return loaded.model(
        input_ids=torch.tensor([tree.tokens], device=device).expand(rows, -1),
        attention_mask=_as_taken(loaded, torch.cat([prompt, own], -1)),
        position_ids=mask.sum(-1, keepdim=True) - 1 + depths,
        **asked,
    ).logits


def _edges(logits: Any, tree: Tree) -> Any:
    """Log-probability of every edge, in float64; logits [1 + tokens of the tree, vocabulary], the prompt's first."""
    import torch

    logits = logits.float()
    total = logits.logsumexp(-1)
    places, tokens = torch.tensor(tree.edges, device=logits.device).T
    return (logits[places, tokens] - total[places]).double().cpu()


def _as_taken(loaded: Loaded, visible: Any) -> Any:
    """Eager attention adds its mask to the scores."""
    import torch

    if loaded.model.config._attn_implementation == "sdpa":
        return visible
    lowest = torch.finfo(loaded.model.dtype).min
    return torch.zeros(visible.shape, dtype=loaded.model.dtype, device=visible.device).masked_fill(
        ~visible, lowest
    )


@contextmanager
def taking_masks(loaded: Loaded) -> Iterator[None]:
    """Torch's attention inside, or the plain one, where the network's own, such as flash_attention_2, takes no mask."""
    network = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
    before = network.config._attn_implementation
    if before not in TAKE_MASKS:
        try:
            network.set_attn_implementation("sdpa")
        except ValueError:  # Gemma 2 caps its scores, which torch's attention does not
            network.set_attn_implementation("eager")
    try:
        yield
    finally:
        if before not in TAKE_MASKS:
            network.set_attn_implementation(before)


def _require_full_view(loaded: Loaded, tokens: int) -> None:
    """Refuse a network whose layers do not all see the whole row: a mask of ours would show them more."""
    config = loaded.model.config.get_text_config(decoder=True)
    others = set(getattr(config, "layer_types", None) or []) - KNOWN_LAYERS
    if others:
        raise ConfigError(
            f"eval.scoring=labels is not known to be right for layers of {', '.join(sorted(others))}; "
            "use eval.scoring=generate"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and tokens > window:
        raise ConfigError(
            f"eval.scoring=labels: prompt and label have up to {tokens} tokens, and layers of this base see only the "
            f"last {window}; use eval.scoring=generate"
        )


def as_answer(scores: Sequence[float], labels: LabelSet) -> Answer:
    """The likeliest label, its probability among the labels, and all their log-probabilities."""
    import torch

    values = torch.tensor(scores, dtype=torch.float64)
    best = int(values.argmax())
    confidence = float(values.softmax(-1)[best])
    return Answer(
        labels.texts[best],
        confidence,
        labels.ids[best],
        label_scores=dict(zip(labels.texts, scores, strict=True)),
    )
