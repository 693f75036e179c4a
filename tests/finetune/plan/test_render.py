"""The plan for people: what the terminal and plan.html show of one dict, and the plot of the step."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from finetune.plan import render

GIB = 2**30
ACTIVATIONS = [0, 2, 4, 3, 1]
WORKING = [0, 0, 0, 3, 0]
PHASES = ["forward", "forward", "loss", "backward, last layer", "backward, first layer"]


@pytest.fixture
def plan() -> dict[str, Any]:
    """30 GiB of weights, 6 of activations and working set, 4 beside PyTorch: 40 of 60."""
    return {
        "name": "toy",
        "model": {"name": "toy", "repo": "them/toy-70b", "quantised": True}
        | {"parameters": 70_553_706_496, "trainable": 207_093_760},
        "hardware": {"name": "a100_60gb", "device": "cuda", "memory_gib": 60.0, "gpus": 1},
        "settings": {"micro_batch": 2, "global_batch": 16, "max_tokens": 4096, "longest_row": 3211}
        | {"packing": False, "checkpointing": "full", "checkpoint_every": 4, "offload_activations": True}
        | {"rank": 16, "optimizer": "paged_adamw_8bit", "attention": "flash"},
        "verdict": "fits",
        "peak_allocated_gib": 36.0,
        "peak_phase": "backward, last layer",
        "static_gib": 30.5,
        "loading_gib": 31.25,
        "evaluation_gib": 33.75,
        "device_gib": {"allocated": 36.0, "context": 1.5, "fragmentation": 2.5, "workspace": 0.0}
        | {"paged": 0.0, "total": 40.0, "limit": 60.0},
        "breakdown": {"activations": 3.0, "quantised weights": 30.0, "working set": 3.0, "optimizer": 0.001}
        | {"gradients": 0.0},
        "step_s": 41.0,
        "tokens_per_s": 399.4,
        "bound": "compute",
        "utilisation": 0.52,
        "run_hours": 12.3,
        "steps": 1080,
        "tokens": 17_000_000,
        "energy_kwh": 4.9,
        "cost": {"training": 24.6, "energy": 1.2},
        "serving": {"weights_gib": 131.4, "gpus": 3, "kv_bytes_per_token": 327_680, "context": 4096}
        | {"conversations": 12, "break_even_tokens": 2_500_000_000},
        "licence": [
            {"title": "Llama 3.1 Community License", "applies_to": "base", "commercial": True}
            | {"limit": 700_000_000, "display": "Built with Llama", "name_prefix": "Llama"}
        ],
        "candidates": [],
        "levers": [],
        "overrides": [],
        "warnings": [],
        "notes": ["time: calibrated on published runs"],
    }


@pytest.fixture
def timeline() -> list[dict[str, Any]]:
    """Weights are made, five moments of a step, weights are let go; a release between loss and backward pass."""
    step = [
        {
            "phase": phase,
            "categories": {
                "quantised weights": 30 * GIB,
                "activations": held * GIB,
                "working set": set_ * GIB,
            },
        }
        for phase, held, set_ in zip(PHASES, ACTIVATIONS, WORKING, strict=True)
    ]
    making = {"phase": "weights", "categories": {"quantised weights": 50 * GIB}}
    between = {**step[2], "phase": "forward"}
    return [making, *step[:3], between, *step[3:], making]


def words(text: str) -> str:
    """Text with its white space, and what does not break, made one blank."""
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("\u00a0", " ").split())


def unknown(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan with null wherever the contract allows it."""
    names = "step_s tokens_per_s bound utilisation run_hours steps tokens energy_kwh cost serving peak_phase"
    device = {"allocated": 36.0, "context": None, "fragmentation": None, "workspace": None, "paged": None}
    return (
        plan
        | dict.fromkeys([*names.split(), "loading_gib", "evaluation_gib"])
        | {"device_gib": device | {"total": 36.0, "limit": None}, "notes": []}
    )


def test_terminal_says_the_verdict_first(plan: dict[str, Any]) -> None:
    lines = render.table(plan).splitlines()
    assert lines[:2] == [
        "fits: A step is predicted to hold 40.0 of the 60.0 GiB of a100_60gb: 20.0 GiB stay free.",
        "Predicted: 399 tokens/s, 12.3 hours for the run, 24.60 at your price of a GPU hour.",
    ]
    assert max(map(len, lines)) <= 100


def test_terminal_shows_the_numbers_aligned(plan: dict[str, Any]) -> None:
    text = render.table(plan)
    assert "  quantised weights       30.00   83.3 %\n  activations              3.00    8.3 %\n" in text
    assert "  optimizer              < 0.01    0.0 %\n  allocated by PyTorch    36.00\n" in text
    assert "gradients" not in text
    shown = [
        r"CUDA context +1\.50",
        r"limit of a100_60gb +60\.00\n  free +20\.00",
        r"highest while loading +31\.25",
        r"optimizer step +41\.0 s, limited by compute, 52 % of the peak FLOP/s",
        r"run +12\.3 hours, 1,080 steps, 17\.0 million tokens",
        r"cost of the energy +1\.20",
        r"one conversation +1\.25 GiB at 4,096 tokens",
        r"cheaper than the API above +2\.5 billion tokens a month",
        r"70\.6 billion parameters, 207\.1 million trained",
        r"checkpointing +full, every 4 layers, offloaded",
        r"Licence \(not legal advice\)\n  Llama 3\.1 .* up to 700,000,000 monthly users",
        r"Where the numbers come from\n  time: calibrated",
    ]
    assert [pattern for pattern in shown if not re.search(pattern, text)] == []


def test_long_lines_are_wrapped(plan: dict[str, Any]) -> None:
    plan["notes"] = ["word " * 60]
    lines = render.table(plan).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.count("word") for line in lines) == 60


def test_what_is_not_known_is_left_out(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    found = unknown(plan)
    for text in (render.table(found), words(render.page(found, timeline))):
        assert "Speed and cost are not predicted for a100_60gb." in text
        assert "A step is predicted to hold 36.0 GiB; how much a100_60gb has is not known." in text
        assert not re.search(r"\b(?:None|nan|null|tokens/s|kWh|price)\b", text)


def test_a_missing_price_is_said(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    plan["cost"] = None
    assert "  cost of the GPU   no price set\n" in render.table(plan)
    assert "Cost of the GPU no price set" in words(render.page(plan, timeline))


def test_page_shows_verdict_facts_and_tables(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    html = render.page(plan, timeline)
    assert '<section class="banner better">' in html
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html)
    assert facts == [
        ("Peak on the device", "40.0 GiB"),
        ("Its limit", "60.0 GiB"),
        ("Speed", "399 tokens/s"),
        ("Run", "12.3 hours"),
        ("Cost of the GPU", "24.60"),
        ("Energy", "4.9 kWh"),
    ]
    text = words(html)
    assert "quantised weights 30.00 83.3 % activations 3.00 8.3 % working set 3.00 8.3 %" in text
    assert "on the device 40.00 limit of a100_60gb 60.00 free 20.00" in text
    assert "Not legal advice." in text


def test_what_does_not_fit_names_the_levers(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    plan["verdict"], plan["device_gib"]["limit"] = "does not fit", 39.0
    plan["levers"] = [
        {"change": "train.micro_batch=1", "saves_gib": 4.1, "verdict": "fits", "tokens_per_s": 350.0}
    ]
    assert render.table(plan).startswith(
        "does not fit: A step is predicted to hold 40.0 GiB; a100_60gb has 39.0, 1.00 GiB too few.\n"
        "Predicted, had it room: 399 tokens/s"
    )
    assert "  train.micro_batch=1        4.10        350   fits\n" in render.table(plan)
    html = render.page(plan, timeline)
    assert '<section class="banner worse">' in html
    assert "train.micro_batch=1 4.10 350 fits" in words(html)


def test_search_shows_its_best_and_the_command(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    one = {"accumulation": 16, "checkpointing": "none", "checkpoint_every": 1, "offload_activations": False}
    one |= {"packing": True, "peak_allocated_gib": 36.0, "device_gib": 40.0, "verdict": "fits"}
    plan["candidates"] = [
        one
        | {"micro_batch": number, "tokens_per_s": 500.0 - number}
        | {"chosen": number == 1, "configured": number == 30}
        for number in range(1, 31)
    ]
    plan["overrides"] = ["train.micro_batch=1", "train.packing=true"]
    text = render.table(plan)
    assert text.splitlines()[2:5] == [
        "Searched 30 settings that take the same optimizer steps: best is micro-batch 1, checkpointing none,",
        "    packed, with 40.0 GiB, 499 tokens/s.",
        '  make train CONF=toy ARGS="train.micro_batch=1 train.packing=true"',
    ]
    assert "What the search tried (predicted, the first 12 of 30)" in text
    assert re.search(r"1 × 16 +none +yes +40\.00 +499 +fits, chosen\n", text)
    assert "12 × 16" in text
    assert "13 × 16" not in text
    assert re.search(r"30 × 16 +none +yes +40\.00 +470 +fits, configured\n", text)  # beyond the twelve
    html = render.page(plan, timeline)
    assert 'make train CONF=toy ARGS="train.micro_batch=1 train.packing=true"' in html.replace("&#34;", '"')


def test_a_warning_stands_beside_the_verdict(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    plan["warnings"] = ["`make eval` would take 99 GiB of 60"]
    assert render.table(plan).splitlines()[2] == "warning: `make eval` would take 99 GiB of 60"
    banner = re.search(r'<section class="banner.*?</section>', render.page(plan, timeline), re.S)
    assert banner is not None
    assert "Beware: `make eval` would take 99 GiB of 60." in words(banner.group())


def test_a_search_without_anything_better_says_so(plan: dict[str, Any]) -> None:
    one = {"accumulation": 16, "checkpointing": "none", "checkpoint_every": 1, "offload_activations": False}
    one |= {"packing": False, "device_gib": 40.0, "micro_batch": 1, "tokens_per_s": None}
    plan["candidates"] = [one | {"verdict": "fits", "chosen": True, "configured": True}]
    assert "1 settings that take the same optimizer steps: the configured ones are the fastest" in words(
        render.table(plan)
    )
    assert "verdict" in render.table(plan)
    assert "packed   device GiB   verdict\n" in render.table(
        plan
    )  # no column of speeds where none is predicted
    plan["candidates"] = [one | {"verdict": "does not fit", "chosen": False, "configured": True}]
    assert "none of them fits with room to spare" in words(render.table(plan))
    assert "make train" not in render.table(plan)


def test_a_cpu_has_no_cuda_context(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    plan["hardware"] |= {"name": "cpu", "device": "cpu"}
    for text in (render.table(plan), words(render.page(plan, timeline))):
        assert "CUDA" not in text
        assert re.search(r"process with its libraries +1\.50", text)


def test_experts_in_bf16_are_drawn_as_what_they_are(
    plan: dict[str, Any], timeline: list[dict[str, Any]]
) -> None:
    for sample in timeline:
        sample["categories"] |= {"experts (bf16)": 7 * GIB}
    _, found = bands(render.page(plan, timeline))
    assert "experts (bf16)" in found
    assert "smaller ones" not in found


def test_page_escapes_all_text(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    hostile = "<script>alert('x')</script>"
    plan |= {"name": hostile, "notes": [hostile], "overrides": [hostile]}
    plan["breakdown"] |= {hostile: 1.0}
    plan["hardware"]["name"] = plan["model"]["repo"] = plan["licence"][0]["title"] = hostile
    timeline[1] = {"phase": hostile, "categories": {hostile: 5 * GIB}}
    html = render.page(plan, timeline)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 8


def test_page_stands_alone(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    html = render.page(plan, timeline)
    assert not re.search(r"(?:https?:|url\(|@import|\ssrc=|\shref=|<script)", html)
    assert "@media (prefers-color-scheme: dark)" in html


def heights(outline: str) -> tuple[list[float], list[float]]:
    """Upper and lower edge of an area at every moment, in GiB, from the SVG path."""
    moves = re.findall(r"([MHV])([\d.]+)(?: ([\d.]+))?", outline)
    x, y = 0, 60 * (1 - float(moves[0][2]) / 1000)
    there: dict[int, float] = {}
    back: dict[int, float] = {}
    for kind, value, _ in moves[1:]:
        if kind == "V":
            y = 60 * (1 - float(value) / 1000)
            continue
        to = int(value)
        there |= dict.fromkeys(range(x, to), y)
        back |= dict.fromkeys(range(to, x), y)
        x = to
    back |= {moment: y for moment in range(x) if moment not in back}
    return [there[moment] for moment in sorted(there)], [back[moment] for moment in sorted(back)]


def bands(html: str) -> tuple[ElementTree.Element, dict[str, tuple[list[float], list[float]]]]:
    """The plot, and the edges of its areas by name."""
    found = re.search(r'<div class="areas">(.*?)</div>', html)
    assert found
    svg = ElementTree.fromstring(found.group(1))  # noqa: S314  (our own page)
    return svg, {path.findtext("title", ""): heights(path.attrib["d"]) for path in svg.iter("path")}


def test_areas_stand_on_each_other_and_sum_to_the_total(
    plan: dict[str, Any], timeline: list[dict[str, Any]]
) -> None:
    svg, found = bands(render.page(plan, timeline))
    assert list(found) == ["beside PyTorch", "quantised weights", "activations", "working set"]
    floor = [0.0] * 6
    for upper, lower in found.values():
        assert lower == pytest.approx(floor, abs=0.01)
        floor = upper
    assert floor == pytest.approx([34, 36, 38, 38, 40, 35], abs=0.01)
    upper, lower = found["activations"]
    thickness = [high - low for high, low in zip(upper, lower, strict=True)]
    assert thickness == pytest.approx([0, 2, 4, 4, 3, 1], abs=0.01)
    assert [item.text for item in svg.iter("text")][-1] == "peak 40.0 GiB"


def test_phases_are_marked_where_they_begin(plan: dict[str, Any], timeline: list[dict[str, Any]]) -> None:
    svg, _ = bands(render.page(plan, timeline))
    names = [item.text for item in svg.iter("text") if item.attrib["y"] == "100%"]
    assert names == ["forward", "loss", "backward"]
    cuts = [item.attrib["x1"] for item in svg.iter("line") if item.attrib["class"] == "cut"]
    assert cuts == ["33.33%", "66.67%"]  # 2 of forward, loss and the release after it, 2 of backward


@pytest.mark.parametrize(("limit", "line", "named"), [(60.0, ["0.00%"], False), (141.0, [], True)])
def test_a_limit_near_the_peak_is_drawn_and_a_far_one_named(
    plan: dict[str, Any], timeline: list[dict[str, Any]], limit: float, line: list[str], named: bool
) -> None:
    plan["device_gib"]["limit"] = limit
    html = render.page(plan, timeline)
    svg, _ = bands(html)
    assert [item.attrib["y1"] for item in svg.iter("line") if item.attrib["class"] == "limit"] == line
    assert ("The limit, 141.00 GiB, lies far above this plot." in html) is named


def test_small_and_unheard_of_categories_are_one_area(
    plan: dict[str, Any], timeline: list[dict[str, Any]]
) -> None:
    for sample in timeline:
        sample["categories"] |= {"optimizer": GIB // 8, "unheard of": 7 * GIB // 8}
    _, found = bands(render.page(plan, timeline))
    upper, lower = found["smaller ones"]
    assert [high - low for high, low in zip(upper, lower, strict=True)] == pytest.approx([1] * 6, abs=0.01)
    assert "optimizer" not in found


def test_without_a_step_there_is_no_plot(plan: dict[str, Any]) -> None:
    html = render.page(plan, [])
    assert "Memory over one step" not in html
    assert "on the device 40.00" in words(html)
