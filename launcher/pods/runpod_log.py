"""A pod's log as RunPod streams it: Server-Sent Events, each a JSON object of `source`, `line` and `ts`."""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from launcher.pods.runpod_models import LogEvent


def log_events(content: bytes) -> Sequence[LogEvent]:
    """Return the events of a stream that may have been cut off anywhere.

    An event whose data is no such object becomes a line as it came: a log is for reading, and nothing of it
    gets lost. Only a last one that was cut off is left out; asking on from the one before brings it again.
    """
    return [event for event in map(_event, _blocks(content)) if event is not None]


def _blocks(content: bytes) -> Iterator[tuple[str, str, bool]]:
    """Yield id, data and whether an empty line closed it, of each event that has data."""
    text = content.decode("utf-8", errors="replace").removeprefix("\ufeff")
    # Not splitlines(): of all that Unicode calls a line's end only these three end one here.
    last_id, data = "", list[str]()
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if data:
                yield last_id, "\n".join(data), True
            data = []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value
    if data:
        yield last_id, "\n".join(data), False


def _event(block: tuple[str, str, bool]) -> LogEvent | None:
    event_id, data, closed = block
    try:
        event = LogEvent.model_validate_json(data)
    except ValidationError:
        return LogEvent(line=data, event_id=event_id) if closed else None
    return event.model_copy(update={"event_id": event_id})
