"""The form in a real browser: what an expert clicks comes out as a table that the reader accepts."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.experts.drawing import Item
from eval.experts.returned import Judgement, judged, read_lines
from eval.experts.sheet import form

CHROMIUM = shutil.which("chromium")
CLICKS = """<pre id="saved"></pre><script>
const pick = (item, choice) => document.querySelector(`.item:nth-of-type(${item}) input[value="${choice}"]`).click();
pick(1, "right"); pick(1, "left"); pick(3, "both bad");
document.querySelector("textarea").value = '=cmd "x"; näher\\nzwei';
const saved = table();
pick(1, "both good"); pick(2, "left"); document.querySelector("textarea").value = "";
restore(saved);
const told = [saved, document.getElementById("count").textContent, table() === saved];
document.getElementById("saved").textContent = JSON.stringify(told);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_what_is_clicked_is_saved_as_the_sheet(tmp_path: Path) -> None:
    texts = ['a;=1 "q"\n\n</script><b>x</b>', "0012", "  = 3\tz "]
    items = [Item(f"r{number}", "g", "base", text, text, "other") for number, text in enumerate(texts)]
    page = tmp_path / "sheet.html"
    page.write_text(form("0a1b2c3d", items).replace("</body>", CLICKS), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="saved">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-500:]
    saved, count, same_once_loaded = json.loads(html.unescape(found[1]))
    assert same_once_loaded
    assert count == "2 of 3 judged"
    back = tmp_path / "review.csv"
    back.write_text(saved, encoding="utf-8")
    key = [item.secret(number) for number, item in enumerate(items, 1)]
    assert judged(read_lines(back), key) == [
        Judgement(1, "left", '=cmd "x"; näher\nzwei'),
        Judgement(2, None, ""),
        Judgement(3, "both bad", ""),
    ]
