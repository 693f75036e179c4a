"""Instructions that a program can check, by IFEval's names (Zhou et al. 2023, arXiv 2311.07911).

Where the original needs a download it is done without: sentences end at `.`, `?` or `!` before a space, words in
capitals are runs of letters, and texts that must be English in one case are checked for the case alone.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

FENCES = ("```json", "```Json", "```JSON", "```")
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(name: str, answer: str, arguments: Arguments) -> bool:
    """Whether an answer keeps to the instruction; an empty one keeps to none."""
    return bool(answer.strip()) and CHECKS[name](answer, arguments)


def _related(count: int, relation: str, wanted: int) -> bool:
    """The relations that IFEval knows: `less than` and `at least`."""
    return count < wanted if relation == "less than" else count >= wanted


def _found(pattern: str, answer: str) -> int:
    return len(re.findall(pattern, answer, re.IGNORECASE))


def words(answer: str) -> int:
    """Runs of letters, digits and underscores."""
    return len(re.findall(r"\w+", answer))


def sentences(answer: str) -> int:
    """Parts with a word in them that end at a mark before a space, or at the end of the text."""
    parts = re.split(r"(?<=[.!?])[\"')\]]*\s+|\n{2,}", answer.strip())
    return sum(bool(re.search(r"\w", part)) for part in parts)


def _keywords(answer: str, given: Arguments) -> bool:
    return all(_found(re.escape(word), answer) for word in given["keywords"])


def _frequency(answer: str, given: Arguments) -> bool:
    return _related(_found(re.escape(given["keyword"]), answer), given["relation"], given["frequency"])


def _forbidden(answer: str, given: Arguments) -> bool:
    return not any(_found(rf"\b{re.escape(word)}\b", answer) for word in given["forbidden_words"])


def _letters(answer: str, given: Arguments) -> bool:
    return _related(
        answer.lower().count(given["letter"].lower()), given["let_relation"], given["let_frequency"]
    )


def _words(answer: str, given: Arguments) -> bool:
    return _related(words(answer), given["relation"], given["num_words"])


def _sentences(answer: str, given: Arguments) -> bool:
    return _related(sentences(answer), given["relation"], given["num_sentences"])


def _parts(answer: str, mark: str) -> list[str] | None:
    """The texts between marks, without empty ones at the two ends; None where one between them is empty."""
    parts = [part.strip() for part in answer.split(mark)]
    inner = parts[1 if not parts[0] else 0 : len(parts) - (not parts[-1])]
    return inner if all(inner) else None


def _paragraphs(answer: str, given: Arguments) -> bool:
    found = _parts(answer, "***")
    return found is not None and bool(len(found) == given["num_paragraphs"])


def _first_word(answer: str, given: Arguments) -> bool:
    """The n-th of so many paragraphs, parted by an empty line, begins with the word."""
    found = [part.strip() for part in answer.split("\n\n")]
    place = given["nth_paragraph"] - 1
    if sum(map(bool, found)) != given["num_paragraphs"] or place >= len(found) or not found[place]:
        return False
    first = re.split(r"[.,?!'\"]", found[place].split()[0].lstrip("'\""))[0]
    return bool(first.lower() == given["first_word"].lower())


def _placeholders(answer: str, given: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= int(given["num_placeholders"])


def _postscript(answer: str, given: Arguments) -> bool:
    marker = given["postscript_marker"]
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(_found(known.get(marker, re.escape(marker)), answer))


def _bullets(answer: str, given: Arguments) -> bool:
    return bool(len(re.findall(r"^\s*(?:\*[^*\n]|-)", answer, re.MULTILINE)) == given["num_bullets"])


def _constrained(answer: str, given: Arguments) -> bool:
    return any(option in answer for option in CONSTRAINED)


def _highlights(answer: str, given: Arguments) -> bool:
    single = [text for text in re.findall(r"\*([^\n*]*)\*", answer) if text.strip()]
    double = [text for text in re.findall(r"\*\*([^\n*]*)\*\*", answer) if text.strip()]
    return bool(len(single) + len(double) >= given["num_highlights"])


def _sections(answer: str, given: Arguments) -> bool:
    found = re.findall(rf"{re.escape(given['section_spliter'])}\s?\d+", answer)
    return bool(len(found) >= given["num_sections"])


def _json(answer: str, given: Arguments) -> bool:
    text = answer.strip()
    text = text.removeprefix(next((fence for fence in FENCES if text.startswith(fence)), ""))
    try:
        json.loads(text.removesuffix("```"))
    except (ValueError, RecursionError):
        return False
    return True


def _title(answer: str, given: Arguments) -> bool:
    return any(text.strip("<> ") for text in re.findall(r"<<[^\n]+>>", answer))


def _quoted(answer: str, given: Arguments) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _ends(answer: str, given: Arguments) -> bool:
    return answer.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


def _two(answer: str, given: Arguments) -> bool:
    found = _parts(answer, "******")
    return found is not None and len(found) == 2 and found[0] != found[1]


def _repeats(answer: str, given: Arguments) -> bool:
    return answer.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


def _capitals(answer: str, given: Arguments) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", answer))
    return _related(count, given["capital_relation"], given["capital_frequency"])


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_words": _words,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "startend:quotation": _quoted,
    "startend:end_checker": _ends,
    "combination:two_responses": _two,
    "combination:repeat_prompt": _repeats,
    "change_case:english_capital": lambda answer, given: answer.isupper(),
    "change_case:english_lowercase": lambda answer, given: answer.islower(),
    "change_case:capital_word_frequency": _capitals,
    "punctuation:no_comma": lambda answer, given: "," not in answer,
}
"""Without `language:response_language`, which needs a language detector's model."""

ARGUMENTS: Mapping[str, Mapping[str, type]] = {
    "keywords:existence": {"keywords": list},
    "keywords:frequency": {"keyword": str, "relation": str, "frequency": int},
    "keywords:forbidden_words": {"forbidden_words": list},
    "keywords:letter_frequency": {"letter": str, "let_relation": str, "let_frequency": int},
    "length_constraints:number_words": {"relation": str, "num_words": int},
    "length_constraints:number_sentences": {"relation": str, "num_sentences": int},
    "length_constraints:number_paragraphs": {"num_paragraphs": int},
    "length_constraints:nth_paragraph_first_word": {
        "first_word": str,
        "nth_paragraph": int,
        "num_paragraphs": int,
    },
    "detectable_content:number_placeholders": {"num_placeholders": int},
    "detectable_content:postscript": {"postscript_marker": str},
    "detectable_format:number_bullet_lists": {"num_bullets": int},
    "detectable_format:number_highlighted_sections": {"num_highlights": int},
    "detectable_format:multiple_sections": {"section_spliter": str, "num_sections": int},
    "startend:end_checker": {"end_phrase": str},
    "combination:repeat_prompt": {"prompt_to_repeat": str},
    "change_case:capital_word_frequency": {"capital_relation": str, "capital_frequency": int},
}
"""What a check needs and of which type; those not named need nothing."""
