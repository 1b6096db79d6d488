"""The history of a registry: one makes the next entry, none is changed, and rollbacks find their way through it."""

from pathlib import Path

import pytest

from raygen.datasets.storage import Folder
from raygen.errors import OutputError
from raygen.jobs.promotions import Promotion, Promotions, standing


def promotion(number: int, digest: str, rollback: bool = False) -> Promotion:
    return Promotion(number, digest, None, "rollback" if rollback else "promote", "", "", False, {"verdict": "passed"})


def test_the_next_number_is_taken_once(tmp_path: Path) -> None:
    promotions = Promotions(Folder(tmp_path / "promotions"))
    assert (promotions.all(), promotions.last()) == ([], None)
    first, second = promotion(1, "a"), promotion(2, "b")
    assert promotions.add(first) is None
    assert promotions.add(second) is None
    assert promotions.add(promotion(2, "c")) == second
    assert promotions.add(promotion(1, "c")) == second
    assert promotions.all() == [first, second]
    assert promotions.last() == second


def test_what_is_not_whole_yet_is_not_there(tmp_path: Path) -> None:
    promotions = Promotions(Folder(tmp_path))
    promotions.add(promotion(1, "a"))
    promotions.folder.write(".000002.json.1234.tmp", b"{")
    assert promotions.last() == promotion(1, "a")


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null"])
def test_what_is_no_promotion(tmp_path: Path, content: bytes) -> None:
    promotions = Promotions(Folder(tmp_path))
    promotions.folder.write("000001.json", content)
    with pytest.raises(OutputError, match=r"000001\.json: is not a promotion"):
        promotions.last()


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
    ],
)
def test_what_rollbacks_would_go_through(moves: str, left: str) -> None:
    """Capitals are rollbacks."""
    promotions = [promotion(number, move.lower(), move.isupper()) for number, move in enumerate(moves, 1)]
    assert standing(promotions) == list(left)
