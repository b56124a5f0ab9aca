"""`webhooks`: manage endpoints, list deliveries and send them again."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from retouch.client import Client
from retouch.commands.output import (
    DONE,
    SOME_FAILED,
    err,
    out,
    plain,
    print_error,
    print_json,
    report_refusal,
    wrong_usage,
)
from retouch.commands.show_list import AsJson
from retouch.errors import ProblemError
from retouch.webhooks import Delivery, Endpoint, Try, Webhooks

STATES = ("waiting", "sending", "succeeded", "exhausted")
STYLES = {"waiting": "yellow", "sending": "blue", "succeeded": "green", "exhausted": "red"}
_TEST_TIMEOUT_S = 20.0
_POLL_S = 0.3
_TAIL_S = 1.0
_NEWEST = 200
"""Deliveries of the newest events that `tail` reads each time."""
_WALKED = 300
"""Deliveries of any age that `tail` reads each time, in addition to the newest."""

app = typer.Typer(help="Manage webhook endpoints and deliveries.", no_args_is_help=True)

EndpointId = Annotated[str, typer.Argument(metavar="ID", help="Id of an endpoint (ep_…).")]
Events = Annotated[list[str] | None, typer.Option(metavar="TYPE", help="An event type, 'job.*' or '*'. Repeatable.")]
Headers = Annotated[
    list[str] | None, typer.Option("--header", metavar="NAME: VALUE", help="A header of each request. Repeatable.")
]
RateLimit = Annotated[float | None, typer.Option(help="Maximum deliveries per second.")]
Description = Annotated[str | None, typer.Option(help="A description of the endpoint.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339, or an age such as 90s, 30m, 12h, 3d.")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="The URL that receives events.")],
    *,
    events: Events = None,
    description: Description = None,
    header: Headers = None,
    rate_limit: RateLimit = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Create the endpoint disabled.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create an endpoint and print its secret once."""
    fields = _without_none(events=events, description=description, rate_limit=rate_limit, headers=_headers(header))
    with Client() as client:
        endpoint = client.webhooks.create(url, **fields, enabled=not disabled)
    _print_secret(endpoint, as_json=as_json)


@app.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List endpoints, newest first."""
    with Client() as client:
        endpoints = client.webhooks.list()
    if as_json:
        print_json({"data": [endpoint.model_dump(mode="json", exclude={"secret"}) for endpoint in endpoints]})
        return
    _print_rows(("endpoint", "state", "events", "waiting", "url"), [_row(endpoint) for endpoint in endpoints])


@app.command()
def show(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Show all fields of an endpoint except its secret."""
    with Client() as client:
        _print_endpoint(client.webhooks.get(endpoint_id), as_json=as_json)


@app.command()
def update(
    endpoint_id: EndpointId,
    *,
    url: Annotated[str | None, typer.Option(help="The URL that receives events.")] = None,
    events: Events = None,
    description: Description = None,
    header: Headers = None,
    remove_header: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A header to remove. Repeatable.")
    ] = None,
    rate_limit: Annotated[
        float | None, typer.Option(help="Maximum deliveries per second; 0 removes the limit.")
    ] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Enable or disable the endpoint.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change an endpoint; the other fields stay unchanged."""
    headers: dict[str, str | None] = {**dict.fromkeys(remove_header or []), **(_headers(header) or {})}
    fields = _without_none(url=url, events=events, description=description, headers=headers or None, enabled=enabled)
    if rate_limit is not None:
        fields["rate_limit"] = rate_limit or None
    if not fields:
        wrong_usage("nothing to change: add at least one option")
    with Client() as client:
        _print_endpoint(client.webhooks.update(endpoint_id, **fields), as_json=as_json)


@app.command()
def delete(endpoint_id: EndpointId) -> None:
    """Delete an endpoint. Its waiting deliveries are not sent."""
    with Client() as client:
        client.webhooks.delete(endpoint_id)
    err().print(f"{plain(endpoint_id)} is deleted", markup=False)


@app.command("test")
def ping(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Send a ping and show its delivery; exit status 1 if it did not arrive."""
    with Client() as client:
        delivery_id = client.webhooks.test(endpoint_id)
        delivery = _wait_for_try(client, delivery_id)
    if delivery is None:
        print_error(f"{delivery_id} was not tried within {_TEST_TIMEOUT_S:g} s: is a webhook worker running?")
        raise typer.Exit(SOME_FAILED)
    _print_deliveries([delivery], as_json=as_json)
    if delivery.state != "succeeded":
        raise typer.Exit(SOME_FAILED)


@app.command("rotate-secret")
def rotate_secret(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Replace the secret and print the new one once. For 24 hours both secrets sign each delivery."""
    with Client() as client:
        _print_secret(client.webhooks.rotate_secret(endpoint_id), as_json=as_json)


@app.command()
def secret(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Create a new secret; the old one also signs for 24 hours.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the secret that signs events to the webhook_url of jobs and batches."""
    with Client() as client:
        text = client.webhooks.secret(rotate=rotate)
    if as_json:
        print_json({"secret": text})
        return
    out().print(text, markup=False)


@app.command()
def deliveries(
    endpoint_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this endpoint's.")] = None,
    *,
    state: Annotated[str | None, typer.Option(help=f"Only deliveries in this state: {', '.join(STATES)}.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="Only events of this type.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only events about this job, batch, …")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest events first."""
    if state is not None and state not in STATES:
        wrong_usage(f"--state must be one of {', '.join(STATES)}, not {state!r}")
    query = _without_none(
        state=state, event_type=event_type, subject=subject, since=_parse_time(since) if since else None
    )
    with Client() as client:
        listed = list(client.webhooks.deliveries(endpoint_id, limit=limit, **query))
    _print_deliveries(listed, as_json=as_json)


@app.command()
def redeliver(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of deliveries (dlv_…).")], as_json: AsJson = False
) -> None:
    """Send deliveries again, now."""
    redelivered: list[Delivery] = []
    status = DONE
    with Client() as client:
        for delivery_id in dict.fromkeys(ids):
            try:
                redelivered.append(client.webhooks.redeliver(delivery_id))
            except ProblemError as problem:
                status = report_refusal(delivery_id, problem)
    _print_deliveries(redelivered, as_json=as_json)
    raise typer.Exit(status)


@app.command()
def recover(
    endpoint_id: EndpointId,
    since: Annotated[str, typer.Option(metavar="TIME", help="RFC 3339, or an age such as 90s, 30m, 12h, 3d.")],
    state: Annotated[list[str] | None, typer.Option(help="Default: exhausted and waiting. Repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send all events again that have not arrived since a time."""
    with Client() as client:
        count = client.webhooks.recover(endpoint_id, _parse_time(since), state)
    if as_json:
        print_json({"count": count})
        return
    out().print(f"{count} deliveries will be sent again")


@app.command()
def tail(
    endpoint_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this endpoint's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON each, for programs.")] = False,
) -> None:
    """Show each try as it is made, until interrupted.

    `listening` on stderr says that the service was asked once: every try from then on is shown.
    """
    begun = datetime.now(UTC) - timedelta(seconds=1)
    with Client() as client:
        looks = _new_tries(client.webhooks, endpoint_id, begun)
        fresh = next(looks)
        err().print("listening")
        while True:
            for delivery, tried in fresh:
                _show_try(delivery, tried, as_json=as_json)
            time.sleep(_TAIL_S)
            fresh = next(looks)


def _new_tries(webhooks: Webhooks, endpoint_id: str | None, begun: datetime) -> Iterator[list[tuple[Delivery, Try]]]:
    """Yield, at each step, the new tries since `begun`, in chronological order. Does not end.

    The service sorts deliveries by the age of their events, but a retry or a redelivery can be of an old event. So each
    step reads the newest deliveries and, in addition, the next few pages of all deliveries. If there are thousands, the
    try of an old one is shown with a delay.
    """
    # A delivery's log drops its oldest tries, so neither the length of the log nor an index identifies a try.
    seen: set[tuple[str, datetime, str | None]] = set()
    walk = webhooks.deliveries(endpoint_id)
    while True:
        walked = list(islice(walk, _WALKED))
        if len(walked) < _WALKED:
            walk = webhooks.deliveries(endpoint_id)
        fresh = []
        for delivery in (*webhooks.deliveries(endpoint_id, since=begun, limit=_NEWEST), *walked):
            for tried in delivery.attempts:
                # A try that was recorded as lost can still end. The log then has two entries with the same time.
                mark = (delivery.id, tried.at, tried.error)
                if tried.at >= begun and mark not in seen:
                    seen.add(mark)
                    fresh.append((delivery, tried))
        yield sorted(fresh, key=lambda pair: pair[1].at)


def _show_try(delivery: Delivery, tried: Try, *, as_json: bool) -> None:
    if as_json:
        line = {**delivery.model_dump(mode="json", exclude={"attempts"}), "attempt": tried.model_dump(mode="json")}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        return
    succeeded = tried.error is None and tried.status is not None and 200 <= tried.status < 300
    outcome = tried.error or str(tried.status)
    text = Text.assemble(
        f"{tried.at.astimezone():%H:%M:%S} {delivery.event_type} {plain(delivery.subject)} try {tried.number}: ",
        (plain(outcome), "green" if succeeded else "red"),
        f" in {tried.took_ms} ms" if tried.took_ms is not None else "",
        f" {plain(delivery.url)}",
    )
    out().print(text)


def _wait_for_try(client: Client, delivery_id: str) -> Delivery | None:
    """Wait for a delivery's first try; returns None after a timeout."""
    deadline = time.monotonic() + _TEST_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            delivery = client.webhooks.delivery(delivery_id)
        except ProblemError as problem:
            if problem.status != 404:
                raise
        else:
            if delivery.attempts:
                return delivery
        time.sleep(_POLL_S)
    return None


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _headers(lines: list[str] | None) -> dict[str, str] | None:
    if lines is None:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            wrong_usage(f"--header takes 'NAME: VALUE', not {line!r}")
        headers[name.strip()] = value.strip()
    return headers


def _parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time or an age."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if text[-1:] in units and text[:-1].isdecimal():
        return datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * units[text[-1]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        wrong_usage(f"invalid time {text!r}: use 2026-11-22T08:00:00Z, or an age such as 90s, 30m, 12h, 3d")
    return at if at.tzinfo else at.astimezone()


def _print_secret(endpoint: Endpoint, *, as_json: bool) -> None:
    if as_json:
        print_json(endpoint.model_dump(mode="json"))
        return
    out().print(f"{endpoint.id}\n{endpoint.secret}", markup=False)
    err().print("Store the secret now: it cannot be shown again.")


def _print_endpoint(endpoint: Endpoint, *, as_json: bool) -> None:
    if as_json:
        print_json(endpoint.model_dump(mode="json", exclude={"secret"}))
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in endpoint.model_dump(exclude={"secret"}).items():
        if value in (None, "", {}, []):
            continue
        text = value
        if isinstance(value, datetime):
            text = value.astimezone().isoformat(" ", "seconds")
        elif isinstance(value, list | dict):
            text = ", ".join(value)
        grid.add_row(name.replace("_", " "), Text(plain(text)))
    console = out()
    console.print(grid, soft_wrap=False, width=None if console.is_terminal else 10_000)


def _row(endpoint: Endpoint) -> list[str]:
    state = "enabled" if endpoint.enabled else f"disabled: {endpoint.disabled_reason}"
    if endpoint.enabled and endpoint.failing_since:
        state = f"failing since {endpoint.failing_since.astimezone():%Y-%m-%d %H:%M}"
    return [endpoint.id, state, ",".join(endpoint.events), str(endpoint.waiting), plain(endpoint.url)]


def _print_deliveries(listed: Iterable[Delivery], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [delivery.model_dump(mode="json") for delivery in listed]})
        return
    rows = []
    for delivery in listed:
        last = delivery.attempts[-1] if delivery.attempts else None
        outcome = (last.error or str(last.status)) if last else ""
        at = delivery.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        about, tries = plain(delivery.subject), str(len(delivery.attempts))
        rows.append([delivery.id, delivery.state, at, delivery.event_type, about, tries, plain(outcome)])
    _print_rows(("delivery", "state", "event at", "type", "subject", "tries", "last result"), rows)


def _print_rows(headings: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print a table on a terminal, otherwise tab-separated lines."""
    console = out()
    if not console.is_terminal:
        for row in rows:
            # rich would replace the tabs with spaces.
            typer.echo("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console.print(table)
