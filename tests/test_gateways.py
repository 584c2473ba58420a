"""Gateways: where each call goes, and which roots are refused."""

from __future__ import annotations

import attrs
import pytest
from yarl import URL

from comet_async.errors import ConfigError, InputError
from comet_async.gateways import Gateway, LookupForm
from comet_async.requests import EXPAND
from comet_async.session import CometSession

COMET = "https://api.cometapi.com/kling/v1/images/editing/expand"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("comet", COMET),
        ("cometapi", COMET),
        (" comet\n", COMET),
        ("kling", "https://api-singapore.klingai.com/v1/images/editing/expand"),
        ("kling-singapore", "https://api-singapore.klingai.com/v1/images/editing/expand"),
        ("kling-beijing", "https://api-beijing.klingai.com/v1/images/editing/expand"),
        ("https://api.cometapi.com", COMET),
        ("https://api.cometapi.com/", COMET),
        ("https://gate.example/kling", "https://gate.example/kling/v1/images/editing/expand"),
        ("https://gate.example/kling/v1/", "https://gate.example/kling/v1/images/editing/expand"),
        ("https://gate.example/v1", "https://gate.example/v1/images/editing/expand"),
        (
            "https://gate.example/klingai/v1",
            "https://gate.example/klingai/v1/images/editing/expand",
        ),
        ("https://gate.example/klingai", "https://gate.example/klingai/v1/images/editing/expand"),
        (
            "https://api-beijing.klingai.com",
            "https://api-beijing.klingai.com/v1/images/editing/expand",
        ),
        ("http://localhost:8080", "http://localhost:8080/kling/v1/images/editing/expand"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1/images/editing/expand"),
    ],
)
def test_text_names_a_gateway(text: str, address: str) -> None:
    """A word or an address leads to the one route where that gateway keeps the API."""
    assert str(Gateway.parse(text).collection(EXPAND)) == address


@pytest.mark.parametrize(
    "root",
    [
        "https://gate.example",
        "https://gate.example/v1",
        "https://gate.example/v1/",
        "https://gate.example/kling",
        "https://gate.example/kling/v1",
        URL("https://gate.example/"),
    ],
    ids=str,
)
def test_comet_root_may_end_anywhere_on_the_way(root: str | URL) -> None:
    """The API stands below /kling/v1, however much of that the root repeats."""
    address = Gateway.comet(root).collection(EXPAND)
    assert str(address) == "https://gate.example/kling/v1/images/editing/expand"


def test_comet_root_may_have_a_path() -> None:
    """A gateway below a path of its own keeps it."""
    address = Gateway.comet("https://gate.example/team/v1").collection(EXPAND)
    assert address.path == "/team/kling/v1/images/editing/expand"


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("ftp://gate.example", "not a web address"),
        ("gate.example", "not a web address"),
        ("", "not a web address"),
        ("https://", "not a web address"),
        ("https://[::1", "not a web address"),
        ("https://gate.example:99999", "not a web address"),
        ("http://gate.example", "unencrypted"),
        ("http://10.0.0.5:8080", "unencrypted"),
        ("http://localhost.gate.example", "unencrypted"),
        ("https://user@gate.example", "user name"),
        ("https://gate.example/?region=1", "query"),
    ],
)
def test_root_that_is_refused(root: str, words: str) -> None:
    """A root that is no web address, or would show the key, is refused before anything."""
    with pytest.raises(ConfigError, match=words) as caught:
        Gateway(name="mine", root=root)
    assert caught.value.hint
    assert caught.value.sent is False


@pytest.mark.parametrize(
    "root",
    [
        "https://sk-canary0123456789@gate.example",
        "https://user:sk-canary0123456789@gate.example",
        "https://gate.example?key=sk-canary0123456789",
        "ftp://user:canary0123456789@gate.example",
        "ftp://gate.example?key=canary0123456789",
        "sk-canary0123456789",
    ],
)
def test_refusal_shows_no_key(root: str) -> None:
    """A key that stands where the root belongs is not repeated in the error."""
    for make in (Gateway.comet, Gateway.parse):
        with pytest.raises(ConfigError) as caught:
            make(root)
        assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.args}"


def test_fragment_of_a_root_is_dropped() -> None:
    """What stands behind # in a root is never sent."""
    assert str(Gateway(name="mine", root="https://gate.example/#part").root) == (
        "https://gate.example"
    )


@pytest.mark.parametrize("text", ["klingai", "kling-paris", "sandbox", ""])
def test_unknown_word(text: str) -> None:
    """A word that names no gateway is refused, with the words that do."""
    with pytest.raises(ConfigError, match="use comet, kling"):
        Gateway.parse(text)


def test_unknown_region() -> None:
    """Kling's regions are two, and the error names them."""
    with pytest.raises(ConfigError, match="singapore or beijing"):
        Gateway.kling("paris")


@pytest.mark.parametrize(
    ("form", "address"),
    [
        ("path", f"{COMET}/ce1-x"),
        ("query", f"{COMET}?external_task_id=ce1-x"),
        ("flag", f"{COMET}/ce1-x?external_task_id=true"),
    ],
)
def test_lookup_forms(form: LookupForm, address: str) -> None:
    """Each way of asking by our own id has its own address."""
    assert str(Gateway.comet().lookup(EXPAND, "ce1-x", form)) == address


def test_task_and_page() -> None:
    """A task stands below the collection, and a page is asked for in Kling's words."""
    comet = Gateway.comet()
    assert str(comet.task(EXPAND, "8781")) == f"{COMET}/8781"
    assert str(comet.page(EXPAND, 3, 500)) == f"{COMET}?pageNum=3&pageSize=500"


@pytest.mark.parametrize("own_id", ["a/b", "../generations", "a?b", "a#b", "a%2Fb", "a b", "é+&"])
@pytest.mark.parametrize("form", ["path", "query", "flag"])
def test_own_id_stays_one_id(own_id: str, form: LookupForm) -> None:
    """An id of the user's own never leads to another route, whatever is in it."""
    address = Gateway.comet().lookup(EXPAND, own_id, form)
    if form == "query":
        assert address.query["external_task_id"] == own_id
    else:
        assert address.raw_parts[:-1] == URL(COMET).raw_parts
        assert address.name == own_id


@pytest.mark.parametrize(
    ("down_field", "names"),
    [
        ("down", {"down_expansion_ratio"}),
        ("bottom", {"bottom_expansion_ratio"}),
        ("both", {"down_expansion_ratio", "bottom_expansion_ratio"}),
    ],
)
def test_name_of_the_lower_margin(down_field: str, names: set[str]) -> None:
    """The lower margin is sent under the name that the gateway reads, or under both."""
    gateway = attrs.evolve(Gateway.comet(), down_field=down_field)  # type: ignore[arg-type]  # checked
    fields = gateway.adapt({"down_expansion_ratio": 0.25, "n": 1})
    assert fields == {"n": 1, **dict.fromkeys(names, 0.25)}


def test_other_kinds_have_no_lower_margin() -> None:
    """Fields without a lower margin are sent as they are."""
    gateway = attrs.evolve(Gateway.comet(), down_field="bottom")
    assert gateway.adapt({"prompt": "a dog"}) == {"prompt": "a dog"}


@pytest.mark.parametrize(
    ("text", "loopback"), [("http://127.0.0.1:1", True), ("comet", False), ("kling", False)]
)
def test_loopback(text: str, loopback: bool) -> None:
    """Only a gateway on this machine counts as a sandbox."""
    assert Gateway.parse(text).loopback is loopback


def test_fingerprint_tells_gateways_apart() -> None:
    """Another root or another prefix is another gateway; a name is not."""
    gateways = [
        Gateway.comet(),
        Gateway.kling(),
        Gateway.comet("https://gate.example"),
        Gateway.parse("https://gate.example/v1"),
    ]
    assert len({gateway.fingerprint for gateway in gateways}) == len(gateways)
    assert attrs.evolve(gateways[0], name="other").fingerprint == gateways[0].fingerprint


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Authorization": "Bearer hidden-value"}, "Authorization is set by the library"),
        ({"content-length": "17"}, "content-length is set by the library"),
        ({"X Tenant": "hidden-value"}, "is not the name of a header"),
        ({"X-Tenant": "hidden-value\r\nHost: other"}, "the value of X-Tenant can't be sent"),
        ({"X-Tenant": 17}, "the value of X-Tenant can't be sent"),
    ],
)
def test_headers_that_cannot_be_sent(headers: dict[str, str], said: str) -> None:
    """A header that would change the request is refused, and its value is not shown."""
    with pytest.raises(InputError, match=said) as caught:
        Gateway(name="mine", root="https://gate.example", headers=headers)
    assert "hidden-value" not in f"{caught.value!r}{caught.value.as_dict()}"


def test_headers_reach_the_session_and_no_repr() -> None:
    """They are the gateway's, so that every session on it sends them; and may be secret."""
    gateway = Gateway(name="mine", root="https://gate.example", headers={"X-Token": "hidden"})
    assert "hidden" not in repr(gateway)
    assert CometSession("key", gateway=gateway)._api.transport.headers == {"X-Token": "hidden"}
