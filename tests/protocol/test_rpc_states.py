"""The table of a half: every state and every input, and the table of the document against the table of the code."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pico.errors import LocalProtocolError, RemoteProtocolError
from pico.protocol.rpc import HALF, HalfState, Input
from tests.rpc_side import EngineSide, head_message, message, request_head, response_head, streaming_side
from tests.rpc_slow import HALF_TABLE, Value
from tests.rules import covers

DOCUMENT = Path(__file__).parents[2] / "spec" / "rpc.md"
COLUMNS = {"HEAD, informational": "INFORMATIONAL", "HEAD": "HEAD", "DATA": "DATA", "TRAILERS": "TRAILERS"}


def drawn_table() -> dict[tuple[str, str], str]:
    """The table under ``## State``: (state, input) to the state that follows, or ``violation``."""
    section = DOCUMENT.read_text().partition("\n## State\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    header, _, *body = rows
    return {
        (row[0], COLUMNS[column]): cell
        for row in body
        for column, cell in zip(header, row, strict=True)
        if column in COLUMNS
    }


@covers("RPC-37")
def test_the_table_of_the_document_is_the_table_of_the_code() -> None:
    drawn = drawn_table()
    assert set(drawn) == {(state.name, given.name) for state in HalfState for given in Input}
    for (state, given), follows in drawn.items():
        coded = HALF[HalfState[state]].get(Input[given])
        assert follows == ("violation" if coded is None else coded.name), (state, given)


@covers("RPC-37")
def test_the_table_of_the_document_is_the_table_of_the_slow_model() -> None:
    assert {pair: state for pair, state in drawn_table().items() if state != "violation"} == HALF_TABLE


RESPONSES: dict[str, Value] = {
    "INFORMATIONAL": head_message(1, response_head(103)),
    "HEAD": head_message(1, response_head()),
    "DATA": message("DATA", 1, "RESPONSE", body="x"),
    "TRAILERS": message("TRAILERS", 1, "RESPONSE", "END", block=""),
}
EVENTS = {"INFORMATIONAL": "head", "HEAD": "head", "DATA": "data", "TRAILERS": "trailers"}
WAYS = {"HEAD": [[], ["INFORMATIONAL"]], "BODY": [["HEAD"], ["HEAD", "DATA"]], "ENDED": [["HEAD", "TRAILERS"]]}


def with_end(value: Value) -> Value:
    return {**value, "flags": [*(flag for flag in value["flags"] if flag != "END"), "END"]}


@covers("RPC-30", "RPC-37")
@pytest.mark.parametrize("state, given, end", list(itertools.product(WAYS, RESPONSES, [False, True])))
def test_every_state_and_every_input_received_leads_where_the_table_says(state: str, given: str, end: bool) -> None:
    for way in WAYS[state]:
        side = streaming_side()
        side.open(request_head())
        side.hear(*(RESPONSES[step] for step in way))
        value = with_end(RESPONSES[given]) if end else RESPONSES[given]
        follows = HALF_TABLE.get((state, given))
        if follows is None or (end and given == "INFORMATIONAL"):
            with pytest.raises(RemoteProtocolError):
                side.hear(value)
            continue
        [event] = side.hear(value)
        assert event["event"] == EVENTS[given]
        assert event.get("end", True) == (end or given == "TRAILERS")
        assert side.streams["ours:1"].receiving.name == ("ENDED" if end else follows)


@covers("RPC-37")
@pytest.mark.parametrize("state, given, end", list(itertools.product(WAYS, RESPONSES, [False, True])))
def test_every_state_and_every_input_sent_leads_where_the_table_says(state: str, given: str, end: bool) -> None:
    for way in WAYS[state]:
        side = streaming_side()
        side.hear(head_message(1, request_head()))
        for step in way:
            send(side, step, False)
        follows = HALF_TABLE.get((state, given))
        if follows is None or (end and given == "INFORMATIONAL"):
            with pytest.raises(LocalProtocolError):
                send(side, given, end)
            continue
        send(side, given, end)
        assert side.streams["theirs:1"].sending.name == ("ENDED" if end else follows)
        assert side.take_sent()[-1]["type"] == ("HEAD" if given in ("INFORMATIONAL", "HEAD") else given)


def send(side: EngineSide, given: str, end: bool) -> None:
    if given == "TRAILERS":
        side.trailers("theirs:1", "")
    elif given == "DATA":
        side.data("theirs:1", "x", end)
    else:
        side.head("theirs:1", RESPONSES[given]["head"], "", end)


@covers("RPC-37")
@pytest.mark.parametrize("given", ["DATA", "TRAILERS"])
@pytest.mark.parametrize("ended", [False, True])
def test_the_half_of_the_opener_starts_behind_its_head(given: str, ended: bool) -> None:
    side = streaming_side()
    side.hear(head_message(1, request_head(), "", *(["END"] if ended else [])))
    value = {**RESPONSES[given], "flags": ["END"] if given == "TRAILERS" else []}
    if ended:
        with pytest.raises(RemoteProtocolError):
            side.hear(value)
    else:
        assert [event["event"] for event in side.hear(value)] == [EVENTS[given]]


@covers("RPC-12", "RPC-37")
def test_a_stream_ends_when_both_halves_have_ended_in_either_order() -> None:
    for first, second in (("theirs", "ours"), ("ours", "theirs")):
        side = streaming_side()
        side.hear(head_message(1, request_head()))
        for who in (first, second):
            assert side.engine.open_streams == 1
            if who == "ours":
                side.head("theirs:1", response_head(), "", True)
            else:
                side.hear(message("DATA", 1, "END", body=""))
        assert side.engine.open_streams == 0
        assert side.streams["theirs:1"].ended
