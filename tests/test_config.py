"""Settings: which gateway and which key, from arguments, the environment and the config file."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest

from comet_async.auth import ApiKey, KlingToken
from comet_async.config import Config, choose_credentials, choose_gateway, config_path
from comet_async.errors import ConfigError
from comet_async.gateways import Gateway
from comet_async.secret import Secret

COMET = "https://api.cometapi.com/kling/v1"
SINGAPORE = "https://api-singapore.klingai.com/v1"
GATE = "https://gate.example"
PAIR = {"KLING_ACCESS_KEY": "access", "KLING_SECRET_KEY": "secret"}
NOTHING = Config()


def chosen_address(
    given: Gateway | str | None = None,
    env: Mapping[str, str] | None = None,
    config: Config = NOTHING,
) -> str:
    """Return the address and prefix that are chosen."""
    gateway = choose_gateway(given, env or {}, config)
    return f"{str(gateway.root).rstrip('/')}{gateway.prefix}"


def key(
    given: str | Secret | None = None,
    env: Mapping[str, str] | None = None,
    gateway: str = "comet",
    config: Config = NOTHING,
) -> str:
    """Return the keys that are chosen, as one text."""
    credentials = choose_credentials(given, Gateway.parse(gateway), env or {}, config)
    return ":".join(secret.reveal() for secret in credentials.secrets)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, COMET),
        ({"COMETAPI_KEY": "k"}, COMET),
        ({"COMETAPI_API_ROOT": GATE}, f"{GATE}/kling/v1"),
        ({"COMETAPI_API_ROOT": f" {GATE}\n"}, f"{GATE}/kling/v1"),
        ({"COMETAPI_BASE_URL": f"{GATE}/v1"}, f"{GATE}/kling/v1"),
        ({"COMETAPI_BASE_URL": f"{GATE}/v1/"}, f"{GATE}/kling/v1"),
        ({"COMETAPI_BASE_URL": f"{GATE}/team/v1"}, f"{GATE}/team/kling/v1"),
        ({"COMETAPI_BASE_URL": GATE}, f"{GATE}/kling/v1"),
        ({"COMETAPI_API_ROOT": GATE, "COMETAPI_BASE_URL": "https://other/v1"}, f"{GATE}/kling/v1"),
        ({"COMETAPI_API_ROOT": "", "COMETAPI_BASE_URL": f"{GATE}/v1"}, f"{GATE}/kling/v1"),
        ({"COMETAPI_API_ROOT": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080/kling/v1"),
        ({"COMETAPI_API_ROOT": "http://localhost:8080"}, "http://localhost:8080/kling/v1"),
        ({"KLING_API_KEY": "k"}, SINGAPORE),
        (PAIR, SINGAPORE),
        ({"KLING_API_KEY": "k", "COMETAPI_KEY": "k"}, COMET),
        ({"KLING_API_KEY": "k", "COMETAPI_API_ROOT": GATE}, f"{GATE}/kling/v1"),
        ({"KLING_ACCESS_KEY": "half"}, COMET),
        ({"KLING_SECRET_KEY": "half"}, COMET),
    ],
    ids=str,
)
def test_gateway_from_the_environment(env: dict[str, str], expected: str) -> None:
    """The root wins over the base URL, both over the default, and Kling's keys mean Kling."""
    assert chosen_address(env=env) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("kling", SINGAPORE),
        ("https://other.example", "https://other.example/kling/v1"),
        (Gateway.kling("beijing"), "https://api-beijing.klingai.com/v1"),
        ("comet", f"{GATE}/kling/v1"),  # CometAPI, wherever the environment says that it is
    ],
    ids=str,
)
def test_argument_wins_over_the_environment(given: Gateway | str, expected: str) -> None:
    """A gateway that was named is taken, whatever the environment and the file say."""
    env = {"COMETAPI_API_ROOT": GATE}
    assert chosen_address(given, env, Config(gateway="kling")) == expected


def test_comet_is_comet_whatever_the_file_says() -> None:
    """CometAPI that was asked for is not replaced by the config file's gateway."""
    assert chosen_address("comet", {}, Config(gateway="kling")) == COMET


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, SINGAPORE),
        ({"COMETAPI_KEY": "k"}, SINGAPORE),
        ({"COMETAPI_API_ROOT": GATE}, f"{GATE}/kling/v1"),
    ],
    ids=str,
)
def test_file_names_the_gateway_when_nothing_else_does(env: dict[str, str], expected: str) -> None:
    """The config file's gateway comes after the environment's address."""
    assert chosen_address(env=env, config=Config(gateway="kling")) == expected


@pytest.mark.parametrize("name", ["COMETAPI_API_ROOT", "COMETAPI_BASE_URL"])
@pytest.mark.parametrize("root", ["http://gate.example", "nonsense", " "])
def test_wrong_root_in_the_environment(name: str, root: str) -> None:
    """An address that can't be used is an error, not a reason to use another one."""
    with pytest.raises(ConfigError):
        chosen_address(env={name: root})


@pytest.mark.parametrize(("name", "expected"), [(None, "down"), ("bottom", "bottom")])
def test_name_of_the_lower_margin(name: str | None, expected: str) -> None:
    """The config file may say how a gateway calls the lower margin."""
    assert choose_gateway("comet", {}, Config(down_field=name)).down_field == expected


def test_unknown_name_of_the_lower_margin() -> None:
    """Another word for the lower margin is refused: the margin would be lost, and paid."""
    with pytest.raises(ConfigError, match="down, bottom or both"):
        chosen_address(config=Config(down_field="lower"))


@pytest.mark.parametrize(
    ("gateway", "env", "expected"),
    [
        ("comet", {"COMETAPI_KEY": "comet"}, "comet"),
        ("comet", {"COMETAPI_KEY": " \ufeffcomet "}, "comet"),
        ("comet", {"COMETAPI_KEY": "comet", "KLING_API_KEY": "kling", **PAIR}, "comet"),
        ("kling", {"COMETAPI_KEY": "comet", "KLING_API_KEY": "kling", **PAIR}, "kling"),
        ("kling", {"COMETAPI_KEY": "comet", **PAIR}, "access:secret"),
        ("kling-beijing", {"KLING_API_KEY": "kling"}, "kling"),
        (
            "https://api-beijing.klingai.com",
            {"COMETAPI_KEY": "comet", "KLING_API_KEY": "kling"},
            "kling",
        ),
        ("https://gate.example/v1", {"COMETAPI_KEY": "comet", "KLING_API_KEY": "kling"}, "comet"),
        ("https://gate.example/v1", {"KLING_API_KEY": "kling"}, "kling"),
        ("https://gate.example/v1", PAIR, "access:secret"),
    ],
    ids=str,
)
def test_key_from_the_environment(gateway: str, env: dict[str, str], expected: str) -> None:
    """Each gateway has a key of its own, and Kling's new kind of key wins over the pair."""
    assert key(env=env, gateway=gateway) == expected


def test_pair_of_keys_is_signed() -> None:
    """Kling's access key and secret key are never sent: they sign a token."""
    assert isinstance(choose_credentials(None, Gateway.kling(), PAIR, NOTHING), KlingToken)


@pytest.mark.parametrize("given", ["mine", Secret("mine")], ids=["text", "secret"])
def test_key_that_is_given_wins(given: str | Secret) -> None:
    """A key that was passed in is taken, whatever the environment holds."""
    assert key(given, {"COMETAPI_KEY": "comet"}) == "mine"


def test_credentials_that_are_given_are_taken_as_they_are() -> None:
    """An object that signs requests is used itself."""
    mine = ApiKey(Secret("mine"))
    assert choose_credentials(mine, Gateway.comet(), {"COMETAPI_KEY": "k"}, NOTHING) is mine


def test_key_from_the_file_comes_last() -> None:
    """The config file's key is for when the environment has none."""
    config = Config(api_key="filed")
    assert key(config=config) == "filed"
    assert key(env={"COMETAPI_KEY": "comet"}, config=config) == "comet"


@pytest.mark.parametrize(
    ("gateway", "env", "words"),
    [
        ("comet", {}, "set COMETAPI_KEY"),
        ("kling", {}, "set KLING_API_KEY"),
        ("https://api-beijing.klingai.com", {}, "set KLING_API_KEY"),
        ("kling", {"KLING_ACCESS_KEY": "half"}, "KLING_SECRET_KEY"),
        ("kling", {"COMETAPI_KEY": "comet"}, "set KLING_API_KEY"),
        ("comet", {"KLING_API_KEY": "kling"}, "set COMETAPI_KEY"),
        ("http://127.0.0.1:1", {}, "sandbox"),
    ],
    ids=str,
)
def test_no_key(gateway: str, env: dict[str, str], words: str) -> None:
    """Without a key for this very gateway, the error says which variable to set."""
    with pytest.raises(ConfigError, match=words):
        key(env=env, gateway=gateway)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, "is empty") for text in ("", " ", "\ufeff")),
        *((text, "has a line break in it") for text in ("sk-canary\n", "sk-\r\nX-Evil: 1")),
        *((text, "has a space in it") for text in ("two canary words", "sk-\tcanary")),
        *(
            (text, "is in quotes")
            for text in ('"sk-canary"', "'sk-canary'", "\u201csk-canary\u201d")
        ),
        *((text, "not printable ASCII") for text in ("sk-\ufeffx", "ké")),
    ],
)
def test_key_that_can_not_be_a_header(text: str, words: str) -> None:
    """A broken key is refused before anything is sent, wherever it comes from, and not shown."""
    for given, env, config in (
        (text, {}, NOTHING),
        (None, {"COMETAPI_KEY": text}, NOTHING),
        (None, {}, Config(api_key=text)),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            key(given, env, config=config)
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/home/me"}, "/x/comet-async/config.toml"),
        ({"HOME": "/home/me"}, "/home/me/.config/comet-async/config.toml"),
        ({"XDG_CONFIG_HOME": "", "HOME": "/home/me"}, "/home/me/.config/comet-async/config.toml"),
    ],
    ids=str,
)
def test_place_of_the_file(env: dict[str, str], path: str) -> None:
    """The config file is where the XDG base directories put it."""
    assert config_path(env) == Path(path)


def test_place_of_the_file_without_home(empty_home: Path) -> None:
    """Without HOME in the environment given, the user's home folder is asked for."""
    assert config_path({}) == empty_home / ".config" / "comet-async" / "config.toml"


def test_place_of_the_file_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder for settings is used there, but a file in the place of other systems stays valid.

    The folder itself is chosen by a library, for the system that the test runs on.
    """
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    env = {"HOME": str(tmp_path)}
    settings = tmp_path / "settings" / "comet-async" / "config.toml"
    assert config_path(env, windows=True) == settings
    earlier = config_path(env, windows=False)
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    assert config_path(env, windows=True) == earlier


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a path for a config file that others can't read."""
    path = tmp_path / "config.toml"
    path.touch(mode=0o600)
    return path


def test_file_is_read(file: Path) -> None:
    """All settings are read, also behind a byte-order mark."""
    file.write_text(
        'gateway = "kling"\napi_key = "filed"\ndown_field = "both"\naccount = "studio"\n',
        "utf-8-sig",
    )
    read = Config.read(file)
    assert read == Config(gateway="kling", api_key="filed", down_field="both", account="studio")


def test_file_is_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that opens a session for each customer reads the file once, until it changes."""
    file.write_text('gateway = "kling"')
    read, real = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda *args: read.append(args) or real(*args))
    assert {Config.read(file).gateway for _ in range(3)} == {"kling"}
    file.write_text('gateway = "comet"')
    assert Config.read(file).gateway == "comet"
    file.chmod(0o644)
    assert Config.read(file).gateway == "comet"
    assert len(read) == 3


def test_absent_file_says_nothing(tmp_path: Path) -> None:
    """No config file is no error."""
    assert Config.read(tmp_path / "config.toml") == NOTHING


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o777], ids=oct)
def test_file_with_a_key_that_others_can_read(file: Path, mode: int) -> None:
    """A key in a file that others may read or write is refused, with the remedy."""
    file.write_text('api_key = "canary"')
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        Config.read(file)
    assert "canary" not in str(caught.value)


def test_file_without_a_key_may_be_read_by_others(file: Path) -> None:
    """A file that holds no key needs no protection."""
    file.write_text('gateway = "kling"')
    file.chmod(0o644)
    assert Config.read(file).gateway == "kling"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"gateway = kling", "can't be read"),
        (b'api_key = "\xff"', "can't be read"),
        (b"api_key = 12345", "api_key is not text"),
        (b"gateway = 1\ndown_field = true", "gateway is not text"),
        (b'gatway = "kling"', "unknown key 'gatway' .did you mean gateway"),
        (b'[api_key]\nx = "canary"', "api_key is not text"),
        (b'nonsense = "canary"', "it may have gateway, account, api_key, down_field"),
    ],
    ids=["no-toml", "no-utf8", "number", "two-wrong", "misspelt", "table", "unknown"],
)
def test_broken_file(file: Path, content: bytes, words: str) -> None:
    """A file that can't be understood is an error that says why."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        Config.read(file)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][1:]
    assert not any("canary" in repr(frame.f_locals) for frame in frames)


def test_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    """What is there and can't be opened is an error, not an absent file."""
    with pytest.raises(ConfigError, match="can't be read"):
        Config.read(tmp_path)


def test_config_does_not_show_the_key() -> None:
    """The key is not in the object's text."""
    assert "canary" not in repr(Config(api_key="canary"))
