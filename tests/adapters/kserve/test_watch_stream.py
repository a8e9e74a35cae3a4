"""Lines, events, refusals and pauses: the reading of list and watch without any I/O."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.informers import watch_stream
from server.adapters.kserve.informers.watch_stream import (
    LONGEST_PAUSE,
    LONGEST_RETRY_AFTER,
    MOST_GUESSED_BYTES,
    Backoff,
    Expired,
    Lines,
    ListReader,
    Refused,
    admit_answer,
    read_event,
    read_page,
)
from server.adapters.kserve.objects import Object


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_come_whole_however_the_stream_is_cut(
    lines: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"begun"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = Lines()

    read = [
        line
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for line in reader.feed(stream[start:end])
    ]

    assert read == [line for line in lines if line.strip()]


OF_A_KIND = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
TYPES = [{}, OF_A_KIND, {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}]
# Texts and lists that look like the end of an object, and the beginning of the next one.
LOOK_ALIKES = st.sampled_from(
    [
        {},
        {"text": '},{"metadata":{'},
        {"list": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]},
        {"list": [{**OF_A_KIND, "metadata": {"name": "a"}}] * 20},
        {"items": [{"metadata": {}}, {"metadata": {}}]},
    ]
)


def compact(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


@given(
    st.lists(LOOK_ALIKES, max_size=6),
    st.sampled_from(TYPES),
    st.sampled_from([json.dumps, lambda content: compact(content).decode()]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_a_list_is_read_whole_however_it_is_cut_and_whatever_is_in_its_objects(
    specs: list[dict[str, object]],
    of_a_kind: dict[str, str],
    dumps: Callable[[object], str],
    metadata_first: bool,
    spec_first: bool,
    data: st.DataObject,
) -> None:
    objects: list[dict[str, object]] = [
        {"spec": s, **of_a_kind, "metadata": {"uid": str(n)}}
        if spec_first
        else {**of_a_kind, "metadata": {"uid": str(n)}, "spec": s}
        for n, s in enumerate(specs)
    ]
    metadata = {"metadata": {"resourceVersion": "7", "continue": "next"}}
    content = {**metadata, "items": objects} if metadata_first else {"items": objects, **metadata}
    text = dumps(content).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    reader = ListReader(json_object)
    read = [
        found
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)
        for found, _ in reader.feed(text[start:end])
    ]
    page = reader.end()
    assert [*read, *(json.loads(bytes(item)) for item in page.items or ())] == objects
    assert (page.metadata.resource_version, page.metadata.next_page) == ("7", "next")


@pytest.mark.parametrize("of_a_kind", TYPES, ids=["a pod", "a custom resource", "metadata alone"])
def test_an_object_is_read_before_its_list_has_ended(of_a_kind: dict[str, str]) -> None:
    objects = [{**of_a_kind, "metadata": {"uid": str(n)}} for n in range(3)]
    text = compact({"kind": "List", "metadata": {"resourceVersion": "7"}, "items": objects})
    reader = ListReader(json_object)
    assert [found for found, _ in reader.feed(text[:-3])] == objects[:2]
    assert list(reader.feed(text[-3:])) == []
    assert len(reader.end().items or ()) == 1


@pytest.mark.parametrize("look_alikes", [1000, 50_000])
def test_an_object_of_many_look_alikes_is_parsed_once(look_alikes: int) -> None:
    parsed = []

    def read(text: memoryview) -> Object:
        parsed.append(len(text))
        return json_object(text)

    of_many = {"metadata": {}, "list": [{"metadata": {}}] * look_alikes}
    objects = [of_many, {"metadata": {}}, {"metadata": {}}]
    reader = ListReader(read)
    found = list(reader.feed(compact({"metadata": {"resourceVersion": "7"}, "items": objects})))
    assert sum(parsed) <= len(compact(objects))
    assert all(examined < MOST_GUESSED_BYTES + len(compact(of_many)) for _, examined in found)
    assert [each for each, _ in found] + [
        json.loads(bytes(item)) for item in reader.end().items or ()
    ] == objects


def json_object(text: memoryview) -> Object:
    found: Object = json.loads(bytes(text))
    return found


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_stream, "LONGEST_LINE", 1000)
    reader = Lines()
    assert reader.feed(b"x" * 600 + b"\n" + b"y" * 600) == [b"x" * 600]
    with pytest.raises(Refused):
        reader.feed(b"y" * 600)


def test_an_event_too_deep_to_read_is_refused() -> None:
    with pytest.raises(Refused):
        read_event(b'{"type":"ADDED","object":' + b"[" * 100_000)


def test_an_event_tells_where_to_go_on_from() -> None:
    event = read_event(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"7"}}}')
    assert (event.type, event.resource_version) == ("ADDED", "7")


@pytest.mark.parametrize("status", [{"code": 410}, {"reason": "Expired"}, {"reason": "Gone"}])
def test_an_error_that_says_gone_asks_for_a_new_list(status: dict[str, object]) -> None:
    with pytest.raises(Expired):
        read_event(json.dumps({"type": "ERROR", "object": status}).encode())


def test_another_error_in_the_stream_is_a_refusal_with_its_delay() -> None:
    status = {"code": 429, "details": {"retryAfterSeconds": 4}}
    with pytest.raises(Refused) as refused:
        read_event(json.dumps({"type": "ERROR", "object": status}).encode())
    assert (refused.value.status, refused.value.retry_after) == (429, 4)


@pytest.mark.parametrize(
    "line",
    [b"<html>", b"[]", b'"text"', b'{"type":"ADDED"}', b'{"type":"ADDED","object":{}}', b"\xff"],
)
def test_what_is_no_event_is_a_refusal(line: bytes) -> None:
    with pytest.raises(Refused):
        read_event(line)


@pytest.mark.parametrize("body", [{}, {"message": "<html>"}, {"items": [], "metadata": {}}])
def test_what_is_no_list_is_a_refusal(body: dict[str, object]) -> None:
    with pytest.raises(Refused):
        read_page(json.dumps(body).encode())


def test_a_list_of_nothing_may_come_as_null() -> None:
    page = read_page(b'{"items":null,"metadata":{"resourceVersion":"1"}}')
    assert (page.items, page.metadata.resource_version) == (None, "1")


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("", 0.0), ("Wed, 21 Oct 2026", 0.0)])
def test_retry_after_is_read_in_seconds(text: str, seconds: float) -> None:
    with pytest.raises(Refused) as refused:
        admit_answer(429, {"Retry-After": text})
    assert refused.value.retry_after == seconds


def test_an_api_server_that_has_just_started_is_asked_again_soon() -> None:
    with pytest.raises(Refused) as refused:
        admit_answer(503, {"Retry-After": "5"})
    assert refused.value.retry_after == 0


@given(st.lists(st.tuples(st.floats(0, 600), st.floats(0, 1e6)), min_size=1))
def test_a_pause_is_never_too_long_and_never_shorter_than_asked(
    ends: list[tuple[float, float]],
) -> None:
    backoff = Backoff()
    for lived, retry_after in ends:
        pause = backoff.pause(lived, retry_after)
        assert 0.05 <= pause <= max(LONGEST_PAUSE, LONGEST_RETRY_AFTER)
        assert pause >= min(retry_after, LONGEST_RETRY_AFTER)
        assert retry_after or pause <= LONGEST_PAUSE


def test_brief_connections_pause_longer_and_longer_until_one_was_steady() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(0) for _ in range(8)]
    assert all(pause >= LONGEST_PAUSE / 2 for pause in pauses[4:])
    assert backoff.pause(300) <= 0.1
