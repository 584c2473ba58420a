"""The tables of error codes: complete, in agreement with their sources, and safe with money."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, strategies as st

from comet_async._wire import error_codes as codes
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConcurrencyLimitError,
    DecodeError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitError,
    RejectedError,
    RouteUnavailableError,
    ServerError,
)

# https://kling.ai/document-api/api/get-started/error-codes: HTTP status, code; and what a
# read and a paid request make of it.
KLING: list[tuple[int, int, type[CometError], type[CometError]]] = [
    (401, 1000, AuthenticationError, AuthenticationError),
    (401, 1001, AuthenticationError, AuthenticationError),
    (401, 1002, AuthenticationError, AuthenticationError),
    (401, 1003, AuthenticationError, AuthenticationError),
    (401, 1004, AuthenticationError, AuthenticationError),
    (429, 1100, AccountError, AccountError),
    (429, 1101, AccountError, AccountError),
    (429, 1102, AccountError, AccountError),
    (403, 1103, AccountError, AccountError),
    (400, 1200, RejectedError, RejectedError),
    (400, 1201, RejectedError, RejectedError),
    (404, 1202, RejectedError, RejectedError),
    (404, 1203, NotFoundError, RejectedError),
    (400, 1300, RejectedError, RejectedError),
    (400, 1301, RejectedError, RejectedError),
    (429, 1302, RateLimitError, RateLimitError),
    (429, 1303, ConcurrencyLimitError, ConcurrencyLimitError),
    (429, 1304, AccountError, AccountError),
    (500, 5000, ServerError, OutcomeUnknownError),
    (503, 5001, ServerError, ServerError),
    (504, 5002, ServerError, OutcomeUnknownError),
]
VERDICTS = [
    *codes.KLING.values(),
    *codes.WORDS.values(),
    *codes.STATUSES.values(),
    *codes.BARE.values(),
    *(phrase.verdict for phrase in codes.PHRASES),
    codes.UNREADABLE,
    codes.REDIRECTED,
    codes.UNKNOWN,
]


def judge(
    status: int,
    code: int | str | None = None,
    message: str = "",
    *,
    envelope: bool = True,
    paid: bool = False,
) -> codes.Verdict:
    """Return what an answer means, with the usual left out."""
    return codes.judge(status=status, code=code, message=message, envelope=envelope, paid=paid)


def test_table_holds_klings_page() -> None:
    """Every code of Kling's page is in the table, and no other."""
    assert [code for _, code, _, _ in KLING] == list(codes.KLING)


@pytest.mark.parametrize(("status", "code", "read", "paid"), KLING)
def test_code(status: int, code: int, read: type[CometError], paid: type[CometError]) -> None:
    """A code means the same under its own status and under a gateway's 200."""
    assert judge(status, code).error is judge(200, code).error is read
    assert judge(status, code, paid=True).error is judge(200, code, paid=True).error is paid


def test_account_wide_codes() -> None:
    """Exactly the codes about the key and the account stop everything else."""
    wide = {code for code, verdict in codes.KLING.items() if verdict.error.account_wide}
    assert wide == {1000, 1001, 1002, 1003, 1004, 1100, 1101, 1102, 1103, 1304}


def test_codes_worth_another_try() -> None:
    """A read is repeated for load, limits, and tokens to be signed anew."""
    again = {code for code, verdict in codes.KLING.items() if verdict.again}
    assert again == {1003, 1004, 1302, 1303, 5000, 5001, 5002}


def test_codes_worth_another_payment() -> None:
    """A paid request is sent again only where the code says that it was not accepted."""
    again = {code for code in codes.KLING if judge(200, code, paid=True).again}
    assert again == {1003, 1004, 1302, 1303, 5001}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_words(verdict: codes.Verdict) -> None:
    """Each row says what happened and what to do, on one short line each."""
    for text in (verdict.words, verdict.hint or ""):
        assert 0 < len(text) <= 200
        assert text.isprintable()
        assert not text.endswith(".")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_paid_meaning_is_safe(verdict: codes.Verdict) -> None:
    """After a paid request nothing stays that a caller would take for an open outcome."""
    after = verdict.paid or verdict
    assert not issubclass(after.error, DecodeError | NotFoundError)
    assert after.paid is None


def test_words_are_found_in_any_case() -> None:
    """Gateways differ in how they write their words."""
    assert codes.find("Task_Not_Exist") is codes.NOT_FOUND
    assert codes.find("never_heard_of") is None
    assert codes.find(None) is None


@pytest.mark.parametrize(
    ("code", "known"),
    [(1303, True), (1399, True), (5099, True), (0, False), (404, False), (1400, False),
     ("invalid_request", True), ("odd", False), (None, False)],
)  # fmt: skip
def test_known_codes(code: int | str | None, known: bool) -> None:
    """A number that Kling added later is still seen to be an error."""
    assert codes.is_known(code) is known


def test_phrase_does_not_outvote_a_code() -> None:
    """Text that a known code comes with may be the user's own, quoted."""
    for quoted, alone in (
        ("prompt value 'insufficient balance' is invalid", AccountError),
        ("prompt value 'parallel task over resource pack limit' is bad", ConcurrencyLimitError),
    ):
        assert judge(400, 1201, quoted).error is RejectedError
        assert judge(400, None, quoted).error is alone


def test_retired_endpoint_outvotes_its_code() -> None:
    """A retired endpoint is a missing route, whatever code it gives."""
    for code in (1200, 1201, 1203, 5000, None):
        assert judge(400, code, "This API is no longer available").error is RouteUnavailableError


def test_a_code_beats_the_404_text() -> None:
    """The text "404" alone is the missing route; with a known code it is only text."""
    assert judge(200, None, "404").error is RouteUnavailableError
    assert judge(200, 1201, "404").error is RejectedError


@given(
    st.integers(0, 599),
    st.none() | st.integers(900, 5200) | st.sampled_from([*codes.WORDS, "odd"]),
    st.sampled_from(["", "404", "external_task_id exists", "quota is not enough", "x" * 99]),
    st.booleans(),
)
def test_paid_requests_are_repeated_only_on_proof(
    status: int,
    code: int | str | None,
    message: str,
    envelope: bool,
) -> None:
    """Another request needs a parsed refusal; what is lost track of is open."""
    verdict = judge(status, code, message, envelope=envelope, paid=True)
    if verdict.again:
        assert code in {1003, 1004, 1302, 1303, 5001} or (status == 429 and envelope)
        assert issubclass(verdict.error, AuthenticationError) or status < 504
    if verdict.error is OutcomeUnknownError:
        assert "do not submit it again: look it up" in (verdict.hint or "")


@pytest.mark.parametrize("table", [codes.KLING, codes.WORDS, codes.STATUSES, codes.BARE])
def test_tables_are_read_only(table: dict[object, object]) -> None:
    """Nobody changes what an error means while the program runs."""
    with pytest.raises(TypeError):
        table[1] = codes.UNKNOWN
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        codes.UNKNOWN.words = "changed"  # type: ignore[misc]  # the point of the test
