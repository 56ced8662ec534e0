"""Invariants 8 and 11, of lists: pages that were asked for in a run, and all of them after it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.history.lists import Lists, Name, Row, name_of, rows_in
from tests.history.queries import answered
from tests.history.recorded import Call, History, Pages
from tests.history.timeline import Timeline, say_message
from tests.history.violation import Violation

LARGE_PAGE_BYTES = 1 << 20
"""With which a page may end before it has as many rows as were asked for."""


class _Token(NamedTuple):
    """A page token, and the list that it is of: whose, and what it selects."""

    tenant_id: str
    selection: bytes
    token: str


def lists_are_true(history: History, timeline: Timeline) -> Iterator[Violation]:
    """8 and 11: every page shows what the log says at its position."""
    calls = [
        (call, answer)
        for call, answer in answered(history, timeline)
        if call.request.DESCRIPTOR.name.startswith("List")
    ]
    last_names = _last_names(calls)
    lists = Lists(timeline)
    tenants = sorted({key.tenant_id for key in timeline.moments})
    for call, answer in sorted(calls, key=lambda each: each[1].position):
        lists.move_to(answer.position)
        yield from _judge(call, answer, lists, last_names, tenants)


def _last_names(calls: list[tuple[Call, Any]]) -> Mapping[_Token, Name]:
    """After which row every page goes on that a token was given out for."""
    return {
        _token(call, answer.next_page_token): name_of(rows[-1])
        for call, answer in calls
        if answer.next_page_token and (rows := rows_in(answer))
    }


def _token(call: Call, token: str) -> _Token:
    selection: Any = type(call.request)()
    selection.CopyFrom(call.request)
    for field in ("page_size", "page_token", "min_position"):
        selection.ClearField(field)
    name = call.request.DESCRIPTOR.name.encode()
    content = selection.SerializeToString(deterministic=True)
    return _Token(call.tenant_id, name + content, token)


def _judge(
    call: Call, answer: Any, lists: Lists, last_names: Mapping[_Token, Name], tenants: Sequence[str]
) -> Iterator[Violation]:
    request: Any = call.request
    after = last_names.get(_token(call, request.page_token))
    if request.page_token and after is None:
        wrong = "nobody was given that page token"
    elif not lists.has(call.tenant_id, request):
        wrong = "there is no such list"
    else:
        wrong = _wrong(answer, lists.rows(call.tenant_id, request, after), request.page_size)
    if wrong:
        number = 11 if _is_of_another_tenant(call, answer, lists, tenants) else 8
        sentence = f"{say_message(request)} of {call.tenant_id}, as of {answer.position}: {wrong}"
        yield Violation(number, sentence, (answer.position,))


def _wrong(answer: Any, expected: Iterator[Row], page_size: int) -> str:
    """What is wrong with a page; empty: nothing."""
    shown = rows_in(answer)
    if difference := _difference(shown, expected):
        return difference
    if page_size and len(shown) > page_size:
        return f"it has {len(shown)} rows"
    following = next(expected, None)
    if following is None:
        return "it promises more, and there is nothing" if answer.next_page_token else ""
    is_full = shown and (len(shown) >= page_size or answer.ByteSize() >= LARGE_PAGE_BYTES)
    if not is_full or not answer.next_page_token:
        return f"it ends before {say_message(following)}"
    return ""


def _difference(shown: Sequence[Row], expected: Iterator[Row]) -> str:
    """The first row that is not the expected one; the expected ones are taken up to there."""
    for number, row in enumerate(shown):
        wanted = next(expected, None)
        if row != wanted:
            instead = say_message(wanted) if wanted is not None else "nothing"
            return f"row {number} is {say_message(row)} instead of {instead}"
    return ""


def _is_of_another_tenant(call: Call, answer: Any, lists: Lists, tenants: Iterable[str]) -> bool:
    own = list(lists.rows(call.tenant_id, call.request))
    strange = [row for row in rows_in(answer) if row not in own]
    return any(
        row in strange
        for tenant_id in tenants
        if tenant_id != call.tenant_id
        for row in lists.rows(tenant_id, call.request)
    )


def views_equal_the_fold(history: History, timeline: Timeline) -> Iterator[Violation]:
    """8: the lists of every projection are what the log says, and a rebuild changes nothing."""
    lists = Lists(timeline)
    lists.move_to(timeline.head)
    for views in history.views:
        for name, some in (("kept", views.followed), ("rebuilt", views.rebuilt)):
            for pages in some:
                if wrong := _wrong_with_all(pages, lists.rows(pages.tenant_id, pages.request)):
                    sentence = f"{say_message(pages.request)} of {pages.tenant_id} as {name} by"
                    sentence = f"{sentence} {views.server}: {wrong}"
                    yield Violation(8, sentence, (timeline.head,))
        if len(views.rebuilt) != len(views.followed):
            yield Violation(8, f"{views.server} was not asked the same after its rebuild")


def _wrong_with_all(pages: Pages, expected: Iterator[Row]) -> str:
    shown = [row for response in pages.responses for row in rows_in(response)]
    if difference := _difference(shown, expected):
        return difference
    following = next(expected, None)
    return f"it ends before {say_message(following)}" if following is not None else ""
