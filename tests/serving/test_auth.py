"""Who may ask: tokens are known by their digests, limits are kept, and nothing tells a secret."""

from pathlib import Path

import pytest

from raygen.errors import SpecError
from raygen.serving import auth
from raygen.serving.auth import Doorkeeper, Token
from raygen.serving.book import Book
from raygen.serving.problems import Problem

ANA, BO = auth.make(), auth.make()
TOKENS = [Token(name="ana", sha256=ANA[1]), Token(name="bo", sha256=BO[1], rows=100, concurrent=60, requests=3)]


DAY = 24 * 3600.0


class Clock:
    now = 1200.0  # a slice of ten minutes begins

    def __call__(self) -> float:
        return self.now


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_who_asks_is_known_by_the_token() -> None:
    keeper = Doorkeeper(TOKENS)
    assert keeper.who(bearer(ANA[0])).name == "ana"
    assert keeper.who({"authorization": f"bearer  {BO[0]} "}).name == "bo"


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": f"Basic {ANA[0]}"}]
)
def test_without_a_token(headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as raised:
        Doorkeeper(TOKENS).who(headers)
    assert raised.value.status == 401
    assert "error" not in raised.value.headers["WWW-Authenticate"]


@pytest.mark.parametrize("token", ["x", ANA[1], ANA[0] + "x", ANA[0][:-1], "\udcff"])
def test_with_another_token(token: str) -> None:
    with pytest.raises(Problem) as raised:
        Doorkeeper(TOKENS).who(bearer(token))
    assert raised.value.status == 401
    assert 'error="invalid_token"' in raised.value.headers["WWW-Authenticate"]
    assert token not in raised.value.detail + raised.value.hint or token == "x"


def test_without_tokens_everybody_may_ask() -> None:
    assert Doorkeeper(None).who({}).name == "anybody"
    with pytest.raises(Problem):
        Doorkeeper([]).who({})


@pytest.mark.parametrize(
    ("expires", "good"),
    [
        ("2020-01-01", False), ("2999-01-01", True), ("2020-01-01T10:00:00", False), ("2999-01-01T10:00:00Z", True),
        ("2020-01-01T10:00:00+02:00", False), ("null", True),
    ],
)  # fmt: skip
def test_a_token_for_a_while(tmp_path: Path, expires: str, good: bool) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(f"- {{name: ana, sha256: {ANA[1]}, expires: {expires}}}\n")
    (token,) = auth.read(file)
    keeper = Doorkeeper([Token(**token.model_dump())])  # as replicas are told
    if good:
        assert keeper.who(bearer(ANA[0])).name == "ana"
        return
    with pytest.raises(Problem, match="expired on 2020-01-01") as raised:
        keeper.who(bearer(ANA[0]))
    assert raised.value.status == 401
    assert 'error="invalid_token"' in raised.value.headers["WWW-Authenticate"]


def test_rows_of_a_day() -> None:
    clock = Clock()
    keeper, bo = Doorkeeper(TOKENS, Book(today=clock)), TOKENS[1]
    with keeper.admitted(bo, 60):
        pass
    clock.now += 3600
    with pytest.raises(Problem) as raised, keeper.admitted(bo, 41):
        pass
    assert (raised.value.status, raised.value.headers["Retry-After"]) == (429, str(int(DAY - 3600 + 600)))
    assert raised.value.more == {"limit": "rows"}
    with keeper.admitted(bo, 40):
        pass
    clock.now += DAY - 3600 + 599
    with pytest.raises(Problem), keeper.admitted(bo, 1):
        pass
    clock.now += 1
    with keeper.admitted(bo, 60):
        pass


def test_rows_come_back_when_enough_of_them_are_a_day_old() -> None:
    clock = Clock()
    token = Token(name="bo", sha256=BO[1], rows=100)
    keeper = Doorkeeper([token], Book(today=clock))
    for rows in (10, 50, 40):
        with keeper.admitted(token, rows):
            clock.now += 3600
    for rows, hours in ((10, 0), (11, 1), (60, 1), (61, 2), (100, 2)):
        with pytest.raises(Problem) as raised, keeper.admitted(token, rows):
            pass
        assert raised.value.headers["Retry-After"] == str(int(DAY - 3 * 3600 + hours * 3600 + 600))


def test_what_is_kept_of_a_token_is_bounded() -> None:
    clock = Clock()
    token = Token(name="bo", sha256=BO[1], rows=10**9, requests=10**6)
    keeper = Doorkeeper([token], Book(today=clock))
    for _ in range(5000):
        with keeper.admitted(token, 1):
            clock.now += 60
    assert len(keeper.book.used("rows", "bo")) <= 146
    assert sum(map(len, keeper.book.own().uses.values())) <= 146 + 61


def test_rows_at_once() -> None:
    keeper, bo = Doorkeeper(TOKENS), TOKENS[1]
    with keeper.admitted(bo, 60):
        with pytest.raises(Problem) as raised, keeper.admitted(bo, 1):
            pass
        assert raised.value.status == 429
    with keeper.admitted(bo, 1):
        pass


def test_more_rows_than_ever_at_once() -> None:
    with pytest.raises(Problem) as raised, Doorkeeper(TOKENS).admitted(TOKENS[1], 61):
        pass
    assert (raised.value.status, raised.value.more["most"]) == (422, 60)  # to wait would not help


def test_what_failed_is_under_way_no_more() -> None:
    keeper, bo = Doorkeeper(TOKENS), TOKENS[1]
    with pytest.raises(RuntimeError), keeper.admitted(bo, 40):
        raise RuntimeError
    with keeper.admitted(bo, 60):
        pass


def test_requests_in_a_minute() -> None:
    clock = Clock()
    keeper, bo = Doorkeeper(TOKENS, Book(today=clock)), TOKENS[1]
    for _ in range(3):
        with keeper.admitted(bo, 1):
            clock.now += 10
    with pytest.raises(Problem) as raised, keeper.admitted(bo, 1):
        pass
    assert (raised.value.status, raised.value.headers["Retry-After"]) == (429, "31")
    clock.now += 31
    with keeper.admitted(bo, 1):
        pass


def test_a_file_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(f"- {{name: ana, sha256: {ANA[1]}, rows: 5}}\n")
    assert auth.read(file) == [Token(name="ana", sha256=ANA[1], rows=5)]


@pytest.mark.parametrize(
    "text",
    [
        "a: b", "- {name: ana}", "- {name: ana, sha256: SECRET}", "- [", "- {name: '', sha256: " + "0" * 64 + "}",
        f"- {{name: ana, sha256: {ANA[1]}}}\n- {{name: ana, sha256: {BO[1]}}}",
        f"- {{name: ana, sha256: {ANA[1]}, row: 5}}", f"- {{name: ana, sha256: {ANA[1]}, expires: some day}}",
    ],
)  # fmt: skip
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as raised:
        auth.read(file)
    assert "SECRET" not in str(raised.value)


def test_the_environment() -> None:
    assert [token.name for token in auth.of_environment(f"ana:{ANA[0]}, bo:{BO[0]},")] == ["ana", "bo"]
    assert Doorkeeper(auth.of_environment(f"ana:{ANA[0]}")).who(bearer(ANA[0])).name == "ana"
    for wrong in (ANA[0], "ana:short", f"a b:{ANA[0]}", f"ana:{ANA[0]},ana:{BO[0]}"):
        with pytest.raises(SpecError) as raised:
            auth.of_environment(wrong)
        assert ANA[0] not in str(raised.value)
