"""The page with every section, and in Debian's Chromium: it sorts, fetches nothing, complains of nothing and fits."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, browser
from full_report import CANARY, LABELS, Full, full_report, priced

from eval.predictions import Prediction
from eval.report import summary
from eval.tasks import make_tasks
from finetune.config.eval import CostsConfig, TaskConfig, TaskKind
from finetune.config.plan import Device

in_browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium is installed (Debian: apt install chromium); the page was not opened",
)
CELLS = (
    "[...document.querySelector('{table}').tBodies[0].rows]"
    ".map(row => row.cells[{column}].firstChild.textContent.trim())"
)
CLICK = "document.querySelectorAll('{table} thead button')[{column}].click()"


@pytest.fixture(scope="module")
def full() -> Full:
    return full_report()


@pytest.fixture(scope="module")
def page(full: Full, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Path]]:
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(full.html(), encoding="utf-8")
    with browser(folder / "profile") as tab:
        yield tab, path


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.split("<body>")[1].split("<script>")[0]).split())


def test_every_section_is_there(full: Full) -> None:
    html = full.html()
    text = words(html)
    for said in (
        "Better than Base + examples yes inconclusive, accepted clause macro-F1 +16.0",
        "The worst slice is Uncapped Liability (label): exact match \N{MINUS SIGN}13.0 points against Base,",
        "The 12 of 16 labels that its mistakes are most about.",
        "Right, surest 80 % ",
        "Own instructions 96 items, accuracy",
        "By label, 11 slices of few rows, 204 in all, are not shown.",
        "BBH 120 items, accuracy \N{MINUS SIGN}0.8",
        "inconclusive, no margin set",
        "Not asked: MMLU (mmlu_570.jsonl is not there).",
        "Training, once 14.88 EUR 6.2 hours on a100_80gb",
        "1,000 items, own machine 0.20 EUR 5 minutes on a100_80gb, always busy",
        "Own server is cheaper never at these prices",
    ):
        assert said in text
    assert CANARY not in html
    assert html.count('class="limit"') == 3  # the margin of each suite that was asked
    assert "not computed" not in text
    assert set(re.findall(r'href="#([a-z]+)"', html)) <= set(re.findall(r'<h2 id="([a-z]+)"', html))


def test_what_was_not_computed_is_said_once_and_draws_nothing(full: Full) -> None:
    sections = (
        "gate",
        "calibration",
        "slices",
        "worst_slice",
        "drift",
        "forgetting",
        "cost",
        "confusion",
        "lengths",
    )
    bare = {key: value for key, value in full.report.items() if key not in sections}
    for report in (bare, {**bare, **dict.fromkeys(sections)}):
        text = words(replace(full, report=report).html())
        assert re.findall(r"(Calibration|Forgetting|Cost): not computed", text) == [
            "Calibration",
            "Forgetting",
            "Cost",
        ]
        assert "What the gate asks for" not in text
        assert "Where it gains" not in text
    small = {**bare, "slices": [], "slices_too_small": full.report["slices_too_small"]}
    assert "By label, 11 slices of few rows, 204 in all, are not shown." in words(
        replace(full, report=small).html()
    )


def test_several_tasks_have_an_overview_and_sections_of_their_own(full: Full) -> None:
    config = replace(full.config, tasks={**full.config.tasks, "other": TaskConfig(TaskKind.classification)})
    doubled = {
        arm: [*rows, *(Prediction(**{**item, "task": "other"}) for item in rows)]  # type: ignore[typeddict-item]
        for arm, rows in full.predictions.items()
    }
    report = summary.summarise(make_tasks(config), doubled, frozenset(LABELS), config)
    html = replace(full, report=report, predictions=doubled, config=config).html()
    assert "Gain on each task clause macro-F1, decides the verdict" in words(html)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {"arms", "arms2", "gains", "gains2"} <= set(ids)


def test_labels_stay_off_the_page_where_targets_are_free(full: Full) -> None:
    html = full.html(labels=False)
    assert not [label for label in LABELS if label in html]
    assert "By length of the question" in html
    assert "Which labels are taken for which" not in html


def test_examples_come_with_a_banner_and_escaped(full: Full) -> None:
    html = full.html(examples=2)
    assert html.index("Private: contains row text") < html.index("Hallmark evaluation") + 300
    assert len(re.findall(rf"{CANARY} clause \d+, &lt;b&gt;bold", html)) == 6
    assert "Private" not in full.html()


def test_figures_of_a_cpu_and_missing_prices_are_told(full: Full) -> None:
    cost = priced(CostsConfig(None, None, None), Device.cpu)
    text = words(replace(full, report={**full.report, "cost": cost}).html())
    assert "These times and costs say nothing about a GPU" in text
    assert "Not given, so n/a: eval.costs.price_per_hour (or plan.price_per_gpu_hour);" in text
    assert "Training, once n/a 6.2 hours on a100_80gb" in text
    assert "Own server is cheaper" not in text


@in_browser
def test_a_click_on_a_header_sorts_and_says_so(page: tuple[Page, Path]) -> None:
    tab, path = page
    tab.open(path)
    click = CLICK.format(table="table.arms", column=1)
    arms = CELLS.format(table="table.arms", column=0)
    assert tab.value(arms) == ["Base", "Base + examples", "Adapter", "Majority", "TF-IDF + SVM"]
    tab.value(click)
    assert tab.value(arms) == ["Adapter", "TF-IDF + SVM", "Base + examples", "Base", "Majority"]
    sorted_by = (
        "[...document.querySelectorAll('table.arms th[aria-sort]')].map(th => th.textContent + th.ariaSort)"
    )
    assert tab.value(sorted_by) == ["Exact matchdescending"]
    tab.value(click)
    assert tab.value(arms)[0] == "Majority"
    assert tab.value(sorted_by) == ["Exact matchascending"]
    tab.value(CLICK.format(table="table.arms", column=0))
    assert tab.value(arms) == ["Adapter", "Base", "Base + examples", "Majority", "TF-IDF + SVM"]
    assert tab.value(sorted_by) == ["Armascending"]


@in_browser
def test_a_header_is_sorted_by_keyboard(page: tuple[Page, Path]) -> None:
    tab, path = page
    tab.open(path)
    tab.value("document.querySelector('table.slices thead button').focus()")
    assert tab.value("document.activeElement.tagName") == "BUTTON"
    for kind in ("keyDown", "keyUp"):
        tab.call(
            "Input.dispatchKeyEvent",
            type=kind,
            key="Enter",
            code="Enter",
            windowsVirtualKeyCode=13,
            text="\r",
        )
    names = tab.value(CELLS.format(table="table.slices", column=0))
    assert names == [
        f"{start} characters" for start in ("40 to 212", "213 to 388", "389 to 641", "642 to 2990")
    ]


@in_browser
@pytest.mark.parametrize("width", [400, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_fetches_nothing_and_complains_of_nothing(
    page: tuple[Page, Path], width: int, scheme: str
) -> None:
    tab, path = page
    tab.requests.clear()
    tab.open(path, width, scheme)
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    assert tab.value("innerWidth") == width
    assert tab.requests == [path.absolute().as_uri()]
    assert tab.complaints == []
    assert tab.screenshot().startswith(b"\x89PNG")


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_is_written_on(page: tuple[Page, Path], scheme: str) -> None:
    """WCAG 2.2 AA asks for a contrast of 4.5 of text; each colour of text on the ground of page and panels."""
    tab, path = page
    tab.open(path, 1280, scheme)
    found = tab.value(CONTRASTS)
    assert len(found) >= 12
    assert {name: round(value, 2) for name, value in found.items() if value < 4.5} == {}


CONTRASTS = """(() => {
  const style = getComputedStyle(document.documentElement), canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const luminance = (name) => {
    context.fillStyle = style.getPropertyValue(name).trim();
    context.fillRect(0, 0, 1, 1);
    const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const found = {};
  const pairs = ["ink", "muted", "accent", "good", "bad", "unsure"].flatMap((text) =>
    ["page", "panel"].map((ground) => [text, ground]));
  pairs.push(["good", "good-soft"], ["bad", "bad-soft"], ["unsure", "unsure-soft"]);
  for (const [text, ground] of pairs) {
    const [a, b] = [luminance("--" + text), luminance("--" + ground)];
    found[text + " on " + ground] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
})()"""


def test_the_browser_sees_what_must_not_be(tmp_path: Path) -> None:
    """A page that overflows, calls out and throws is found out by the same means."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><body><div style='width: 900px'>x</div><img src='http://127.0.0.1:9/x.png'>"
        "<script>throw new Error('no')</script></body>"
    )
    with browser(tmp_path / "profile") as tab:
        tab.open(path, 400)
        assert not tab.value("document.documentElement.scrollWidth <= 400")
        assert "http://127.0.0.1:9/x.png" in tab.requests
        assert tab.complaints
