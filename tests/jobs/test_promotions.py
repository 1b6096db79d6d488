"""The history of a registry: one makes the next entry, none is changed, and rollbacks find their way through it."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import pytest

from raygen.datasets.storage import Folder
from raygen.errors import OutputError
from raygen.jobs.promotions import Promotion, Promotions, standing


def promotion(number: int, digest: str, rollback: bool = False, percent: int = 100) -> Promotion:
    action: Literal["promote", "rollback"] = "rollback" if rollback else "promote"
    return Promotion(number, digest, None, action, "", "", False, {"verdict": "passed"}, percent)


def test_the_next_number_is_taken_once(tmp_path: Path) -> None:
    promotions = Promotions(Folder(tmp_path / "promotions"))
    assert (promotions.all(), promotions.holding()) == ([], (None, None, None))
    first, second = promotion(1, "a"), promotion(2, "b")
    assert promotions.add(first) is None
    assert promotions.add(second) is None
    assert promotions.add(promotion(2, "c")) == second
    assert promotions.add(promotion(1, "c")) == second
    assert promotions.all() == [first, second]
    assert promotions.holding() == (second, None, second)


def test_what_is_not_whole_yet_is_not_there(tmp_path: Path) -> None:
    promotions = Promotions(Folder(tmp_path))
    promotions.add(promotion(1, "a"))
    promotions.folder.write(".000002.json.1234.tmp", b"{")
    assert promotions.holding().last == promotion(1, "a")


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null"])
def test_what_is_no_promotion(tmp_path: Path, content: bytes) -> None:
    promotions = Promotions(Folder(tmp_path))
    promotions.folder.write("000001.json", content)
    with pytest.raises(OutputError, match=r"000001\.json: is not a promotion"):
        promotions.holding()


@pytest.mark.parametrize(
    ("moves", "left"),
    [
        ("", ""),
        ("a", "a"),
        ("abc", "abc"),
        ("abcB", "ab"),
        ("abcBA", "a"),
        ("abcAd", "ad"),
        ("abaB", "ab"),
        ("abacA", "aba"),
        ("bA", "a"),  # of a history whose beginning was removed
        ("ab+cB", "ab"),  # the rollback takes the canary away
        ("ab+cBA", "a"),
        ("ab+cA", "a"),
        ("ab+c+dB", "ab"),
        ("ab+cc", "abc"),
        ("ab+cb", "ab"),  # promoted again, which takes the canary away
        ("ab+ad", "abd"),
    ],
)
def test_what_rollbacks_would_go_through(moves: str, left: str) -> None:
    """Capitals are rollbacks, and + is before a canary."""
    promotions = []
    for number, (canary, move) in enumerate(re.findall(r"(\+?)(\w)", moves), 1):
        promotions.append(promotion(number, move.lower(), move.isupper(), 10 if canary else 100))
    assert standing(promotions) == list(left)


def test_a_canary_holds_beside_the_current_one_until_the_next_of_all(tmp_path: Path) -> None:
    promotions = Promotions(Folder(tmp_path))
    moves = [promotion(1, "a"), promotion(2, "b", percent=10), promotion(3, "b", percent=50), promotion(4, "c", percent=20)]
    for move in moves:
        promotions.add(move)
    assert promotions.holding() == (moves[0], moves[3], moves[3])
    promotions.add(promotion(5, "c"))
    assert promotions.holding() == (promotion(5, "c"), None, promotion(5, "c"))


def test_a_promotion_of_before_there_were_canaries(tmp_path: Path) -> None:
    promotions = Promotions(Folder(tmp_path))
    document = asdict(promotion(1, "a"))
    del document["percent"]
    promotions.folder.write("000001.json", json.dumps(document).encode())
    assert promotions.holding().current == promotion(1, "a")
