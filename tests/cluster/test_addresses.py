"""Which cluster is meant, and with which token; and what is said where nobody can know."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raygen.cluster import addresses
from raygen.errors import RaygenError

SECRET = "0123456789abcdef"
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def nobody_says_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*addresses.VARIABLES, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the user's list of clusters."""

    def write(text: str) -> Path:
        file = tmp_path / "config" / "raygen" / "clusters.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def refused(address: str | None) -> str:
    with pytest.raises(RaygenError) as caught:
        addresses.find(address)
    assert SECRET not in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://10.0.0.5:8265", "http://10.0.0.5:8265"),
        ("https://ray.example.com/lab/", "https://ray.example.com/lab"),
        ("10.0.0.5:8265", "http://10.0.0.5:8265"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address(address: str, url: str) -> None:
    assert addresses.find(address).url == url


def test_an_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://ray:8265")
    assert addresses.find(None).url == "http://ray:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://server:8265")
    assert addresses.find(None).url == "http://server:8265"
    assert addresses.find("http://option:8265").url == "http://option:8265"


def test_nobody_says_which(write: Write) -> None:
    assert "no cluster is named" in refused(None)
    file = write("lab: {address: lab:8265}\nprod: {address: prod:8265}\n")
    assert f"name one in {file}: it has lab, prod" in refused(None)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "give http://head:8265"),
        ("ftp://head:8265", "is no address of a dashboard"),
        ("http://", "is no address of a dashboard"),
        ("http://head:99999", "is no address"),
        ("auto", "is no address of a dashboard"),
        ("local", "is no address of a dashboard"),
        (f"http://me:{SECRET}@head:8265", "has more in it than an address"),
        (f"http://me:{SECRET}@head:x", "has more in it than an address"),
        (f"ray://me:{SECRET}@head:1", "has more in it than an address"),
        (f"https://head/?token={SECRET}", "has more in it than an address"),
    ],
)
def test_what_is_no_address_of_a_dashboard(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said in refused(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert said in refused(None)


def test_a_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("lab:\n  address: http://10.0.0.5:8265\n")
    lab = addresses.find("lab")
    assert (lab.url, lab.token, str(lab)) == ("http://10.0.0.5:8265", None, "lab (http://10.0.0.5:8265)")


def test_an_unknown_name(write: Write) -> None:
    assert "clusters.yaml has none" in refused("lab")
    write("laboratory: {address: lab:8265}\nprod: {address: prod:8265}\n")
    assert "has no such cluster; did you mean 'laboratory'?" in refused("laboratry")
    assert "it has laboratory, prod" in refused("laboratry")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lab:\n  address: lab:8265\n  adress: x\n", ":3: unknown key lab.adress; did you mean 'address'?"),
        ("lab:\n  address: lab:8265\n  token: " + SECRET + "\n", ":3: unknown key lab.token; did you mean 'token_"),
        ("lab:\n  token_env: X\n", ":2: lab.address is missing"),
        ("lab:\n  address:\n    - a\n", ":3: lab.address is not text"),
        ("lab: http://lab:8265\n", ":1: are no keys of lab"),
        ("- lab\n", ":1: are no names of clusters"),
        ("lab: {address: a:1}\nlab: {address: b:1}\n", ":2: lab is there twice"),
        ("lab: {address: a:1}\n? [x]\n: y\n", ":2: a key is not plain text"),
        ("lab: {address: a:1, token_env: X, token_file: y}\n", ":1: lab has both"),
        ("lab:\n  address: [\n", ":3: is not YAML"),
        ("lab: {address: 'ftp://lab'}\n", "lab: is no address of a dashboard"),
    ],
)
def test_a_broken_list_is_told_of_with_the_line(write: Write, text: str, said: str) -> None:
    file = write(text)
    assert refused("lab").startswith(f"{file}")
    assert said in refused("lab")
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused("lab")


def test_a_list_that_is_empty_is_none(write: Write) -> None:
    write("# nothing yet\n")
    assert "has none" in refused("lab")


def test_the_token_of_a_name_comes_from_a_file_or_a_variable(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(f"lab: {{address: lab:8265, token_file: {tmp_path}/token}}\nprod: {{address: prod:8265, token_env: PROD}}\n")
    assert f"no token can be read from {tmp_path}/token (No such file or directory)" in refused("lab")
    (tmp_path / "token").write_text("\n")
    assert f"there is no token in {tmp_path}/token" in refused("lab")
    (tmp_path / "token").write_text(f"{SECRET}\n")
    for broken in (f"a {SECRET}", f"{SECRET}\r0", f"{SECRET}ü"):  # which no request could have
        (tmp_path / "token").write_text(broken)
        assert "is no token" in refused("lab")
    (tmp_path / "token").write_text(f"\ufeff{SECRET}\r\n")  # as some editors write
    token = addresses.find("lab").token
    assert token is not None
    assert (token.secret, token.source) == (SECRET, f"{tmp_path}/token")
    assert "PROD, which is not set" in refused("prod")
    monkeypatch.setenv("PROD", SECRET)
    prod = addresses.find("prod")
    assert prod.token == addresses.Token(SECRET, "PROD")
    assert SECRET not in repr(prod)
    assert SECRET not in str(prod)


def test_else_the_token_is_that_of_rays_own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = "http://lab:8265"
    file = tmp_path / "home" / ".ray" / "auth_token"
    file.parent.mkdir(parents=True)
    file.write_text("of-the-home")
    assert addresses.find(address).token is None  # it is not sent to whoever is asked, but where it is wanted
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert addresses.find(address).token == addresses.Token("of-the-home", str(file))
    (tmp_path / "other").write_text("of-a-path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert addresses.find(address).token == addresses.Token("of-a-path", str(tmp_path / "other"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    assert addresses.find(address).token == addresses.Token(SECRET, "RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    assert "RAY_AUTH_TOKEN_PATH: no token can be read" in refused(address)
