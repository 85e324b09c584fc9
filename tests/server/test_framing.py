"""The shortcuts of streams give the bytes that the long way gives."""

import asyncio
import json
import selectors

import h11
import pytest

from fake_model import fake_llm, spells
from pyroclast import Chunk, SamplingParams
from pyroclast.server.metrics import Metrics, Watched
from pyroclast.server.protocol import Connection
from pyroclast.server.service import Exchange
from pyroclast.server.sse import EventStream, chunk_writer, event
from pyroclast.server.tokens import DetokenizeRequest

REQUEST = b"GET / HTTP/%b\r\nHost: x\r\n\r\n"
BODY = [b"first", b"", b"x" * 70_000]


def replied(
    kind: type[h11.Connection], version: bytes, headers: list[tuple[bytes, bytes]]
) -> bytes:
    """All bytes of a reply."""
    connection = kind(h11.SERVER)
    connection.receive_data(REQUEST % version)
    connection.next_event()
    events = [h11.Response(status_code=200, headers=headers), *(h11.Data(data=d) for d in BODY)]
    return b"".join(connection.send(each) or b"" for each in [*events, h11.EndOfMessage()])


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"70005")]])
def test_chunks_are_framed_as_h11_frames_them(version, headers):
    expected = replied(h11.Connection, version, headers)
    assert replied(Connection, version, headers) == expected
    assert (b"11170\r\n" in expected) == (version == b"1.1" and not headers)


def test_a_second_reply_of_a_connection_has_its_own_framing():
    connection = Connection(h11.SERVER)
    found = []
    for headers in ([], [(b"content-length", b"5")]):
        connection.receive_data(REQUEST % b"1.1")
        while type(connection.next_event()) is not h11.EndOfMessage:
            pass
        connection.send(h11.Response(status_code=200, headers=headers))
        found.append(connection.send(h11.Data(data=b"first")))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()
    assert found == [b"5\r\nfirst\r\n", b"first"]


@pytest.mark.parametrize("more", [{}, {"usage": None}, {"usage": {"total_tokens": 3}}])
def test_a_chunk_is_the_event_of_its_whole_object(more):
    head = {"id": "a", "created": 1}
    for choices in ([], [{"text": 'a"\n', "index": 0}]):
        assert chunk_writer(head)(choices, more) == event(head | {"choices": choices} | more)


def test_no_character_cuts_an_event_for_a_client_that_splits_by_unicodes_rules():
    text = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2100), 0x10FFFF]))
    choices = [{"text": text, "index": 0}]
    written = [event({"choices": choices}, "chunk"), chunk_writer({"id": "a"})(choices, {})]
    for data in written:
        lines = data.decode().splitlines()
        assert (lines.pop(), lines[:-1]) == ("", ["event: chunk"] if data == written[0] else [])
        assert json.loads(lines[-1].removeprefix("data: "))["choices"] == choices


def test_every_token_is_counted():
    metrics = Metrics()
    watched = Watched(metrics, "demo", 1)
    for token_ids in ([1], [2, 3], [4]):
        watched.chunk(Chunk("", token_ids))
    text = metrics.text().decode()
    assert 'vllm:generation_tokens_total{model_name="demo"} 4.0' in text
    assert 'vllm:inter_token_latency_seconds_count{model_name="demo"} 2.0' in text
    assert 'vllm:inter_token_latency_seconds_bucket{le="2.5",model_name="demo"} 2.0' in text


def test_drafts_are_counted_when_a_choice_ends():
    metrics = Metrics()
    llm = fake_llm(spells("aaaaaaaaaaaaaaaaaaaaaaaa", 2), speculation="suffix")
    watched = Watched(metrics, "demo", 1)
    for chunk in llm.stream([1, 2], SamplingParams(temperature=0)):
        watched.chunk(chunk)
    timings = chunk.completion.timings
    assert 0 < timings.n_accepted_tokens <= timings.n_drafted_tokens
    text = metrics.text().decode()
    assert timings.drafts["suffix"].n_drafted == timings.n_drafted_tokens
    for name, n in (
        ("draft", timings.n_drafted_tokens),
        ("accepted_draft", timings.n_accepted_tokens),
    ):
        line = f'pyroclast:{name}_tokens_total{{model_name="demo",source="suffix"}}'
        assert f"{line} {n:.1f}" in text
    for name, n in (("draft", timings.n_drafted_tokens), ("accepted", timings.n_accepted_tokens)):
        assert f'vllm:spec_decode_num_{name}_tokens_total{{model_name="demo"}} {n}.0' in text


def test_tokens_and_waiting_of_a_choice_are_counted_when_it_ends():
    metrics = Metrics()
    watched = Watched(metrics, "demo", 1)
    for chunk in fake_llm().stream([1, 2, 3], SamplingParams(max_tokens=5, ignore_eos=True)):
        watched.chunk(chunk)
    metrics.tokens("demo").n_preemptions = 4
    text = metrics.text().decode()
    queue_s = chunk.completion.timings.queue_s
    for line in (
        'vllm:request_prompt_tokens_bucket{le="2.0",model_name="demo"} 0.0',
        'vllm:request_prompt_tokens_bucket{le="5.0",model_name="demo"} 1.0',
        'vllm:request_prompt_tokens_sum{model_name="demo"} 3.0',
        'vllm:request_generation_tokens_sum{model_name="demo"} 5.0',
        f'vllm:request_queue_time_seconds_sum{{model_name="demo"}} {queue_s!r}',
        'vllm:num_preemptions_total{model_name="demo"} 4.0',
    ):
        assert line in text, line


def test_each_of_several_choices_is_counted(monkeypatch):
    """The time between two tokens is that of their choice; the last end ends the request."""
    monkeypatch.setattr("pyroclast.server.metrics.perf_counter", iter(range(0, 100, 10)).__next__)
    metrics = Metrics()
    watched = Watched(metrics, "demo", 2)
    for index, reason in ((0, None), (1, None), (0, "stop"), (1, "length")):
        watched.chunk(Chunk("", [1], index, reason))
    watched.end()
    cut_off = Watched(metrics, "demo", 2)
    cut_off.chunk(Chunk("", [1], 0, "stop"))
    cut_off.end()
    text = metrics.text().decode()
    assert 'vllm:inter_token_latency_seconds_count{model_name="demo"} 2.0' in text
    assert 'vllm:inter_token_latency_seconds_sum{model_name="demo"} 40.0' in text
    assert 'vllm:e2e_request_latency_seconds_count{model_name="demo"} 1.0' in text
    assert 'pyroclast:requests_cancelled_total{model_name="demo"} 1.0' in text


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to what is due next: nothing is ever late."""

    def __init__(self):
        self.now_s = 0.0
        super().__init__(JumpingSelector(self))

    def time(self):
        return self.now_s


class JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        found = super().select(0)
        if not found:
            self.loop.now_s += timeout or 0.0
        return found


def test_pings_come_first_soon_then_seldom_and_not_beside_tokens(monkeypatch):
    monkeypatch.setattr("pyroclast.server.sse.FIRST_PING_S", 0.05)
    monkeypatch.setattr("pyroclast.server.sse.PING_S", 0.3)
    sent = []

    async def events():
        await asyncio.sleep(0.15)
        for i in range(20):
            yield b"%d" % i
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.4)

    async def send(message):
        sent.append(message.get("body"))

    async def nothing(*_):
        return None

    async def receive():
        await asyncio.sleep(60)

    stream = EventStream(events(), headers={}, on_error=lambda _: b"", on_end=nothing)
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(stream({}, receive, send))
    assert sent[0] is None
    assert sent[1] == b": ping\n\n"
    assert sent[2:22] == [b"%d" % i for i in range(20)]
    assert sent[22:] == [b": ping\n\n", b""]


async def one_event():
    yield b"event"


@pytest.mark.parametrize("fails_at", ["http.response.start", "http.response.body"])
def test_the_work_ends_when_nothing_can_be_sent(fails_at):
    """An error of h11, as of a header that it refuses, leaves no request in the engine."""
    ended = []

    async def send(message):
        if message["type"] == fails_at:
            raise h11.LocalProtocolError("Illegal header value")

    async def receive():
        await asyncio.sleep(60)

    async def end():
        ended.append(True)

    async def run():
        events = one_event()
        stream = EventStream(events, headers={}, on_error=lambda _: b"", on_end=end)
        with pytest.raises(h11.LocalProtocolError):
            await stream({}, receive, send)
        assert await anext(events, None) is None  # closed, or asked for its last

    asyncio.run(run())
    assert ended == [True]


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        ([" a", "b "], "a,b"),
        ([" "], ""),
        (["a\r\nx: y", "b\0", "\x7f", "ü", "c"], "c"),
        (["a" * 999 + " b"], "a" * 999),
    ],
)
def test_names_of_ignored_fields_make_a_header_that_h11_takes(names, listed):
    exchange = Exchange(
        json.dumps({"tokens": []} | dict.fromkeys(names)).encode(), {}, None, None, None
    )
    asyncio.run(exchange.read())
    exchange.body(DetokenizeRequest)
    headers = exchange.json({})._headers
    assert headers["x-ignored-fields"] == listed
    h11.Response(status_code=200, headers=list(headers.items()))
