"""The floors on a set where their answers are known."""

from eval.arms import majority, svm

TRAIN = [
    ("permission is hereby granted free of charge", "mit"),
    ("permission granted to deal in the software", "mit"),
    ("free of charge to any person", "mit"),
    ("redistribution in source and binary forms", "bsd"),
    ("neither the name nor contributors may endorse", "bsd"),
]


def rows(pairs: list[tuple[str, str]]) -> list[dict[str, object]]:
    system = {"role": "system", "content": "name the licence"}
    return [
        {"messages": [system, {"role": "user", "content": text}], "target": target} for text, target in pairs
    ]


def test_majority_says_the_most_frequent_training_target() -> None:
    answers = majority(rows(TRAIN), rows([("anything", "bsd"), ("else", "gpl")]))
    assert [answer.text for answer in answers] == ["mit", "mit"]


def test_svm_learns_from_the_users_words() -> None:
    test = rows(
        [("granted free of charge, permission", "mit"), ("binary forms and source redistribution", "bsd")]
    )
    assert [answer.text for answer in svm(rows(TRAIN), test, seed=0)] == ["mit", "bsd"]


def test_svm_with_a_single_label_is_the_majority() -> None:
    assert [answer.text for answer in svm(rows(TRAIN[:3]), rows(TRAIN[3:]), seed=0)] == ["mit", "mit"]
