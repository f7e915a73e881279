"""How far a comparison has come, stored between calls."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Progress(BaseModel):
    """Fields that every comparison stores, as JSON with lengths of time in seconds. `ended`: when everything was
    compared last; `compared`: how many things that were, where it is counted."""

    model_config = ConfigDict(ser_json_timedelta="float")

    ended: datetime | None = None
    compared: int | None = None
