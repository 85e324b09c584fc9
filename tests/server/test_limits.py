"""The limits of connections by themselves: their deadlines, their flags and what these take."""

from __future__ import annotations

import resource

import pytest

from pyroclast.cli.main import main
from pyroclast.server.connections import bounded_protocol
from pyroclast.server.limits import BodyDeadline, Limits


def test_the_deadline_of_a_body_follows_its_pieces() -> None:
    deadline = BodyDeadline(30, 100)
    assert deadline.at_s == 130
    deadline.received(1_000_000, 110)
    assert deadline.at_s == 140  # 30 s after the last piece
    deadline.received(0, 120)
    assert deadline.at_s == 140
    deadline.received(50_000, 300)
    assert deadline.at_s == 235  # 1,050,000 bytes at 10,000 a second, and 30 s


def test_connections_leave_descriptors_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert bounded_protocol(Limits(max_connections=4096), print).limits.max_connections == 896
    assert bounded_protocol(Limits(max_connections=10), print).limits.max_connections == 10


def test_help_lists_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    told = " ".join(shown.split())
    for text in (
        "seconds for the headers, and for the body (default: 30)",
        "seconds that an idle connection stays open (default: 75)",
        "open connections; more get a 503 (default: 4096)",
    ):
        assert text in told


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    "flag",
    [
        "--max-connections",
        "--request-timeout",
        "--keep-alive",
        "--max-queued-requests",
        "--shutdown-timeout",
    ],
)
def test_limits_must_be_above_zero(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "no-such-model.gguf", flag, value])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert flag in shown
    assert "above 0" in shown or "invalid int value" in shown
