"""`webhooks`: where events are told, what came of it, and telling it again."""

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
from retouch.commands.console import SOME_FAILED, err, out, plain, print_error, print_json, wrong_usage
from retouch.commands.reading import AsJson
from retouch.errors import ProblemError
from retouch.webhooks import Delivery, Endpoint, Try, Webhooks

STATES = ("waiting", "sending", "succeeded", "exhausted")
STYLES = {"waiting": "yellow", "sending": "blue", "succeeded": "green", "exhausted": "red"}
_TEST_S = 20.0
_POLL_S = 0.3
_TAIL_S = 1.0
_NEWEST = 200
_WALKED = 300
"""Deliveries of any age that `tail` looks at each time, beside the newest."""

app = typer.Typer(help="Manage where events are told.", no_args_is_help=True)

EndpointId = Annotated[str, typer.Argument(metavar="ID", help="Id of an endpoint (ep_…).")]
Events = Annotated[list[str] | None, typer.Option(metavar="TYPE", help="A type, 'job.*' or '*'; may be repeated.")]
Headers = Annotated[list[str] | None, typer.Option("--header", metavar="NAME: VALUE", help="May be repeated.")]
RateLimit = Annotated[float | None, typer.Option(help="Most deliveries a second.")]
Description = Annotated[str | None, typer.Option(help="For people.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339, or an age such as 90s, 30m, 12h, 3d.")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where to tell.")],
    *,
    events: Events = None,
    description: Description = None,
    header: Headers = None,
    rate_limit: RateLimit = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Tell nothing for now.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an endpoint and print its secret: this once."""
    fields = _given(events=events, description=description, rate_limit=rate_limit, headers=_headers(header))
    with Client() as client:
        endpoint = client.webhooks.create(url, **fields, enabled=not disabled)
    _print_secret(endpoint, as_json=as_json)


@app.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List endpoints, newest first."""
    with Client() as client:
        found = client.webhooks.list()
    if as_json:
        print_json({"data": [one.model_dump(mode="json", exclude={"secret"}) for one in found]})
        return
    _print_rows(("endpoint", "state", "events", "waiting", "url"), [_row(one) for one in found])


@app.command()
def show(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Show all about an endpoint."""
    with Client() as client:
        _print_endpoint(client.webhooks.get(endpoint_id), as_json=as_json)


@app.command()
def update(
    endpoint_id: EndpointId,
    *,
    url: Annotated[str | None, typer.Option(help="Where to tell.")] = None,
    events: Events = None,
    description: Description = None,
    header: Headers = None,
    remove_header: Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be repeated.")] = None,
    rate_limit: Annotated[float | None, typer.Option(help="Most deliveries a second; 0 = no limit.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it is told anything.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given; the rest stays."""
    headers: dict[str, str | None] = {**dict.fromkeys(remove_header or []), **(_headers(header) or {})}
    fields = _given(url=url, events=events, description=description, headers=headers or None, enabled=enabled)
    if rate_limit is not None:
        fields["rate_limit"] = rate_limit or None
    if not fields:
        wrong_usage("nothing to change: give at least one option")
    with Client() as client:
        _print_endpoint(client.webhooks.update(endpoint_id, **fields), as_json=as_json)


@app.command()
def delete(endpoint_id: EndpointId) -> None:
    """Delete an endpoint; what waits for it is told no more."""
    with Client() as client:
        client.webhooks.delete(endpoint_id)
    err().print(f"{plain(endpoint_id)} is deleted", markup=False)


@app.command("test")
def ping(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Send a ping and say what came of it; exit status 1 if it did not arrive."""
    with Client() as client:
        delivery_id = client.webhooks.test(endpoint_id)
        delivery = _tried(client, delivery_id)
    if delivery is None:
        print_error(f"{delivery_id} was not tried within {_TEST_S:g} s: does a webhook worker run?")
        raise typer.Exit(SOME_FAILED)
    _print_deliveries([delivery], as_json=as_json)
    if delivery.state != "succeeded":
        raise typer.Exit(SOME_FAILED)


@app.command("rotate-secret")
def rotate_secret(endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Replace the secret and print the new one: this once. The old one signs beside it for 24 hours."""
    with Client() as client:
        _print_secret(client.webhooks.rotate_secret(endpoint_id), as_json=as_json)


@app.command()
def secret(
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one; the old one signs for 24 hours.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what signs the events sent to a job's or a batch's webhook_url."""
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
    state: Annotated[str | None, typer.Option(help=f"Only those {', '.join(STATES)}.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="Only events of this type.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only events about this job, batch, …")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, those of the newest events first."""
    if state is not None and state not in STATES:
        wrong_usage(f"--state is one of {', '.join(STATES)}, not {state!r}")
    query = _given(state=state, event_type=event_type, subject=subject, since=_moment(since) if since else None)
    with Client() as client:
        found = list(client.webhooks.deliveries(endpoint_id, limit=limit, **query))
    _print_deliveries(found, as_json=as_json)


@app.command()
def redeliver(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of deliveries (dlv_…).")], as_json: AsJson = False
) -> None:
    """Tell deliveries again, now."""
    done, refused = [], False
    with Client() as client:
        for delivery_id in dict.fromkeys(ids):
            try:
                done.append(client.webhooks.redeliver(delivery_id))
            except ProblemError as problem:
                if problem.status not in {404, 409}:
                    raise
                print_error(f"{delivery_id}: {problem}")
                refused = True
    _print_deliveries(done, as_json=as_json)
    if refused:
        raise typer.Exit(SOME_FAILED)


@app.command()
def recover(
    endpoint_id: EndpointId,
    since: Annotated[str, typer.Option(metavar="TIME", help="RFC 3339, or an age such as 90s, 30m, 12h, 3d.")],
    state: Annotated[list[str] | None, typer.Option(help="By default exhausted and waiting; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell again all that has not arrived since a time."""
    with Client() as client:
        count = client.webhooks.recover(endpoint_id, _moment(since), state)
    if as_json:
        print_json({"count": count})
        return
    out().print(f"{count} deliveries are told again")


@app.command()
def tail(
    endpoint_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this endpoint's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON each, for programs.")] = False,
) -> None:
    """Show each try as it is made, until interrupted."""
    begun = datetime.now(UTC) - timedelta(seconds=1)
    with Client() as client:
        for fresh in _new_tries(client.webhooks, endpoint_id, begun):
            for delivery, tried in fresh:
                _show_try(delivery, tried, as_json=as_json)
            time.sleep(_TAIL_S)


def _new_tries(webhooks: Webhooks, endpoint_id: str | None, begun: datetime) -> Iterator[list[tuple[Delivery, Try]]]:
    """Without end: the tries made since a moment that were not there the time before, in their order.

    Lists are sorted by the events' age, and what is retried, or told again, may be of any age. So beside the newest
    deliveries all there are get their turn again and again, a few pages at a time: where they are many, an old one's
    try is shown a while after it was made.
    """
    # A delivery's log drops its oldest tries: how many there are, or their place in it, says nothing.
    seen: set[tuple[str, datetime, str | None]] = set()
    walk = webhooks.deliveries(endpoint_id)
    while True:
        walked = list(islice(walk, _WALKED))
        if len(walked) < _WALKED:
            walk = webhooks.deliveries(endpoint_id)
        fresh = []
        for delivery in (*webhooks.deliveries(endpoint_id, since=begun, limit=_NEWEST), *walked):
            for tried in delivery.attempts:
                # A try that was given up as lost may still end: it is then there twice, of the same moment.
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
    good = tried.error is None and tried.status is not None and 200 <= tried.status < 300
    said = tried.error or str(tried.status)
    text = Text.assemble(
        f"{tried.at.astimezone():%H:%M:%S} {delivery.event_type} {plain(delivery.subject)} try {tried.number}: ",
        (plain(said), "green" if good else "red"),
        f" in {tried.took_ms} ms" if tried.took_ms is not None else "",
        f" {plain(delivery.url)}",
    )
    out().print(text)


def _tried(client: Client, delivery_id: str) -> Delivery | None:
    """The delivery once it was tried; None where that takes too long."""
    ends = time.monotonic() + _TEST_S
    while time.monotonic() < ends:
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


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _headers(lines: list[str] | None) -> dict[str, str] | None:
    if lines is None:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            wrong_usage(f"--header is written 'NAME: VALUE', not {line!r}")
        headers[name.strip()] = value.strip()
    return headers


def _moment(text: str) -> datetime:
    """A moment, from RFC 3339 or from its age."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if text[-1:] in units and text[:-1].isdecimal():
        return datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * units[text[-1]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        wrong_usage(f"{text!r} is no time: 2026-11-22T08:00:00Z, or an age such as 90s, 30m, 12h, 3d")
    return at if at.tzinfo else at.astimezone()


def _print_secret(endpoint: Endpoint, *, as_json: bool) -> None:
    if as_json:
        print_json(endpoint.model_dump(mode="json"))
        return
    out().print(f"{endpoint.id}\n{endpoint.secret}", markup=False)
    err().print("Keep the secret now: it is shown only this once.")


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
        shown = value
        if isinstance(value, datetime):
            shown = value.astimezone().isoformat(" ", "seconds")
        elif isinstance(value, list | dict):
            shown = ", ".join(value)
        grid.add_row(name.replace("_", " "), Text(plain(shown)))
    console = out()
    console.print(grid, soft_wrap=False, width=None if console.is_terminal else 10_000)


def _row(endpoint: Endpoint) -> list[str]:
    state = "enabled" if endpoint.enabled else f"disabled: {endpoint.disabled_reason}"
    if endpoint.enabled and endpoint.failing_since:
        state = f"failing since {endpoint.failing_since.astimezone():%Y-%m-%d %H:%M}"
    return [endpoint.id, state, ",".join(endpoint.events), str(endpoint.waiting), plain(endpoint.url)]


def _print_deliveries(found: Iterable[Delivery], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [one.model_dump(mode="json") for one in found]})
        return
    rows = []
    for one in found:
        last = one.attempts[-1] if one.attempts else None
        said = (last.error or str(last.status)) if last else ""
        at = one.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        rows.append([one.id, one.state, at, one.event_type, plain(one.subject), str(len(one.attempts)), plain(said)])
    _print_rows(("delivery", "state", "event at", "type", "about", "tries", "last"), rows)


def _print_rows(headings: tuple[str, ...], rows: list[list[str]]) -> None:
    """A table on a terminal, lines of tab-separated columns elsewhere."""
    console = out()
    if not console.is_terminal:
        for row in rows:
            # rich would turn the tabs into spaces.
            typer.echo("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console.print(table)
