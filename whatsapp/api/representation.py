"""What all that the API takes and gives has in common: names as in JSON, nothing unknown."""

from datetime import UTC, datetime
from typing import Annotated

from ninja import Path, Query, Schema
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

BIGGEST = 2**63 - 1
"""What fits into a column of the database."""

SalonName = Annotated[
    str, Path(description="The marketplace's salon id, or `company_<salon id>`.")
]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]


class Representation(Schema):
    """Something as the API gives it: names in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Wish(Schema):
    """The body of a request: a name that is not known is a mistake, and said to be."""

    model_config = ConfigDict(extra="forbid", strict=True)


Next = Annotated[
    str | None,
    Field(description="Send it as `after` for what follows. null: that was all."),
]


def moment(at: datetime) -> datetime:
    """Return a time in UTC, in whole seconds."""
    return at.astimezone(UTC).replace(microsecond=0)
