"""What happened to a salon: the audit, link attempts and changes of status as one story."""

from datetime import datetime
from typing import Annotated, Literal

from django.http import HttpRequest
from ninja import Query, Router
from pydantic import Field

from whatsapp.api.keys import salon_of
from whatsapp.api.problems import responses
from whatsapp.api.representation import (
    Limit,
    Next,
    Representation,
    SalonName,
    moment,
)
from whatsapp.roles import Action
from whatsapp.services import timeline

router = Router(tags=["events"], by_alias=True)


class Event(Representation):
    """Something that happened, for programs (`name`, `reason`) and in words."""

    at: datetime
    source: Literal["audit", "attempt", "status"]
    name: str = Field(
        description="What was done, the stage that an attempt came to, or the new status."
    )
    reason: str | None = Field(
        description="An error code or the number of a disconnect; of the audit null."
    )
    who: str
    what: str
    why: str


class Events(Representation):
    """Some events, the latest first."""

    items: list[Event]
    next: Next


@router.get(
    "/salons/{salon}/events",
    response={200: Events, **responses(404, 422)},
    operation_id="listEvents",
    summary="What happened to a salon",
)
def events_list(
    request: HttpRequest,
    salon: SalonName,
    limit: Limit = 25,
    after: Annotated[str, Query(pattern=r"^(|[0-9]{1,17}-[0-2]-[0-9]{1,19})$")] = "",
) -> Events:
    """Scope `read`. Changes of status are kept for 90 days, the audit for ever."""
    page = timeline.page(salon_of(request, salon, Action.VIEW), after, limit)
    return Events(
        items=[
            Event(
                at=moment(entry.at),
                source=entry.source,
                name=entry.name,
                reason=entry.reason or None,
                who=entry.who,
                what=entry.what,
                why=entry.why,
            )
            for entry in page.entries
        ],
        next=page.older or None,
    )
